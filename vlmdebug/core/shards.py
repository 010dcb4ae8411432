"""One call that is split over ranks along its tokens: what the split does wrong."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class Split(Enum):
    """What is wrong with a split, or not known of it."""

    LOST = auto()  # tokens that are on no rank
    TWICE = auto()  # tokens that are on two ranks
    RANKS = auto()  # a call with fewer ranks than the slicer says
    COLUMNS = auto()  # a key with other columns than input_ids
    PARTLY = auto()  # a key that some ranks lack
    NO_POSITIONS = auto()
    POSITIONS = auto()
    INSIDE = auto()  # labels that were shifted after the split
    LABELS = auto()  # labels of other tokens
    LEARNED = auto()  # padding with labels
    SHOWN = auto()  # padding that the mask shows
    MASK = auto()  # a mask of other tokens
    OWN_MASK = auto()  # a mask without the tokens in the cache
    ROWS = auto()  # media that do not fit the placeholder tokens of a rank
    SHAPE = auto()  # media of another shape
    OTHER_ROWS = auto()  # an image that is not the same on two ranks
    IMAGES = auto()  # images of other placeholder tokens
    # Not known:
    UNKNOWN = auto()  # the order of the tokens
    EMBEDDED = auto()  # whether tokens are embedded before the split
    NO_MEDIA = auto()  # embedded before the split, and no rank has media
    UNITS = auto()  # which media belong to which placeholder tokens
    UNREAD = auto()  # positions or labels that are no numbers of the tokens
    WHOLE_MASK = auto()  # the mask of all tokens on each rank
    MASK_DIMS = auto()  # a mask of tokens and tokens
    DIFFER = auto()  # a key that is not along the tokens differs between ranks
    BETWEEN = auto()  # labels that a loss on each rank does not learn
    BELOW_ZERO = auto()  # padding at -1, from which the next sample goes on
    PLACES = auto()  # positions that follow from what is not seen
    PACKED = auto()  # positions that start again, as in a packed row
    LAST = auto()  # the label of the next token, which may have been lost
    REST = auto()  # tokens that are in no call
    ALONE = auto()  # the tokens of other ranks
    GONE = auto()  # media that are no longer there
    WHOLE = auto()  # calls that may be whole, or wrong shares
    TORN = auto()  # calls that were not seen, and may belong to those that were
    BEHIND = auto()  # tokens that the model computes otherwise behind a cache


DOUBTS = frozenset([*Split][[*Split].index(Split.UNKNOWN) :])
"""What is no fault for sure."""
APART = frozenset({Split.LOST, Split.TWICE, Split.UNKNOWN})
"""Why the ranks cannot be joined."""


class ShardFault(NamedTuple):
    """One thing that is wrong with a split, or not known of it.

    Attributes:
        why: What it is.
        key: The key that it is about.
        rank: The rank where it is seen first.
        sample: The sample, where it is about one.
        column: The token on that rank.
        given: What the key has there: values, or a number of rows, columns or tokens.
        due: What belongs there.
        media: Of tokens that are lost or come twice, how many are placeholders.
        noun: What has the tokens: a rank, or a window of a prefill.
    """

    why: Split
    key: str = "input_ids"
    rank: int = 0
    sample: int | None = None
    column: int = 0
    given: tuple[int, ...] = ()
    due: tuple[int, ...] = ()
    media: int = 0
    noun: str = "rank"

    @property
    def where(self) -> str:
        """`rank 1`."""
        return f"{self.noun} {self.rank}"
