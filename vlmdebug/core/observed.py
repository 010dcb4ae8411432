"""What the calls of a model were given: the rows of every key, as they were recognised."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple

from vlmdebug.core.change import Change
from vlmdebug.core.packed_row import PackedRow
from vlmdebug.core.part import Spans
from vlmdebug.core.rows import Rows
from vlmdebug.core.shards import APART, ShardFault, Split


class ObservedKey(NamedTuple):
    """The rows that one key of one chunk got.

    Attributes:
        rows: Rows of the batch's tensor, in order; -1 for a row that is none of them; None
            if they are unknown.
        length: Of the tensor on the axis.
        source: The batch key that these rows belong to, if it is another one.
        inner: Length of the padded dimension that follows the axis, if the layout has one.
        change: How it differs from these rows; None where it does not, but for rounding.
        columns: Its number of columns of tokens, if it has one per token.
        dims: How many dimensions it has.
        unread: Why its values cannot be read, where they cannot.
    """

    rows: Rows | None
    length: int
    source: str | None = None
    inner: int | None = None
    change: Change | None = None
    columns: int | None = None
    dims: int = 0
    unread: str | None = None

    @property
    def fits(self) -> bool:
        """Whether its other dimensions are as long as the batch's."""
        return self.change is None or not self.change.reshapes


class MadeBy(Enum):
    """What the values of a key should follow from, or why they could not be checked."""

    NO_RULE = auto()
    NO_TOKENS = auto()
    NO_NUMBERS = auto()
    MASK_PLACES = auto()
    NO_MASK = auto()
    NO_PLACEHOLDER = auto()
    MARKS_NONE = auto()
    MARKS_TEXT = auto()
    MEANING = auto()
    CACHE = auto()
    LABELS = auto()
    NO_MODEL = auto()
    HOLES = auto()
    OPEN_TOKENS = auto()
    OPEN_MROPE = auto()
    FIRST_PLANE = auto()
    NO_MEDIA_TO_COMPARE = auto()
    SHAPE = auto()  # its shape, which is not that of input_ids
    SHAPES = auto()  # that of input_ids, and its own
    MARKS = auto()
    ORDER = auto()
    MROPE = auto()
    TURNED = auto()
    DELTAS = auto()  # the sample, what it has, and what follows from its positions
    DELTAS_SHAPE = auto()
    DELTAS_PACKED = auto()
    NO_MEDIA = auto()
    COMPLETION = auto()
    PADDING_UNKNOWN = auto()
    HIDES_TEXT = auto()
    SHOWS_PADDING = auto()
    UNREAD = auto()
    MARKS_UNKNOWN = auto()
    OTHER_SHAPE = auto()
    NOT_MARKED = auto()


class Seams(Enum):
    """Why the samples of packed rows are not apart for the model, or may not be."""

    MODEL = auto()
    NO_MODEL = auto()  # the same, where nothing says which model it is
    MASK = auto()
    BLOCKS = auto()  # a mask of more than two dimensions over rows of one sample
    CACHE = auto()
    UNREAD = auto()
    OPEN = auto()
    STRANGE = auto()  # tokens of no sample
    FLASH = auto()  # apart in flash-attention alone
    JUMPS = auto()  # the same, because the text's own places do not go on by one
    UNLIKE = auto()  # positions start at numbers that differ, which flash-attention does not see
    UNMASKED = auto()  # positions keep padding apart, but not in flash-attention
    SEVERAL = auto()  # rows, in which flash-attention reads no positions, if the model has it
    ROWS = auto()  # the same of a model that has it
    NO_POSITIONS = auto()
    ORDER = auto()
    PLANES = auto()
    MROPE = auto()
    PADDING = auto()
    ENDS = auto()
    LONGEST = auto()
    SEEN = auto()  # a mask of four dimensions shows other tokens than those of the sample
    LABELS = auto()


class Seam(NamedTuple):
    """One place of packed rows where samples are not apart, or are not known to be.

    Attributes:
        why: What is wrong, or not known.
        key: The key that is about.
        sample: The sample that begins there, or has other positions there; None where all
            of the call are concerned.
        row: Of the call.
        column: Of the call.
        given: What the key has there.
        due: What belongs there.
    """

    why: Seams
    key: str = "position_ids"
    sample: int | None = None
    row: int = 0
    column: int = 0
    given: tuple[int, ...] = ()
    due: tuple[int, ...] = ()


class MadeReason(NamedTuple):
    """Why a key that was made is wrong or was not checked, with the shapes that show it.

    Of positions, `shapes` are row and column of the first wrong token, what it has there, and what
    belongs there.
    """

    rule: MadeBy
    shapes: tuple[tuple[int, ...], ...] = ()


class Made(NamedTuple):
    """A key that the batch does not have and that follows from others.

    `right`: whether its values are those that follow; None where no rule says. `why` says what
    follows, or why it could not be checked; None where it is right.
    """

    right: bool | None
    why: MadeReason | None = None

    @classmethod
    def wrong(cls, rule: MadeBy, *shapes: tuple[int, ...]) -> Made:
        return cls(False, MadeReason(rule, shapes))

    @classmethod
    def unchecked(cls, rule: MadeBy, *shapes: tuple[int, ...]) -> Made:
        return cls(None, MadeReason(rule, shapes))


@dataclass(frozen=True)
class ObservedCall:
    """All keys of one chunk that hold something.

    Attributes:
        keys: What each key holds.
        placeholders: Placeholder tokens of each modality, as its `input_ids` has them; those that
            cannot be counted are left out.
        made: Keys that the slicer made, and what is known of each.
        needs_mask: Whether its columns of `input_ids` need the batch's `attention_mask`; None where
            they are the batch's own, or cannot be identified.
        left_out: Real tokens of each sample that its columns of `input_ids` do not hold.
        spans: The tokens of each of its samples, if some row holds several; None otherwise.
        seams: Where samples of one row are not apart, or are not known to be.
        apart_by: Keys of packed rows that keep samples apart; `seams` say what is wrong with them.
        cut: How many tokens a sample of a packed row has there, and how many it owns, if not all.
        rows: Its packed rows, to be drawn.
        split: What is wrong with the split of the call over ranks, or not known of it.
    """

    keys: Mapping[str, ObservedKey]
    placeholders: Mapping[str, int] = field(default_factory=dict)
    made: Mapping[str, Made] = field(default_factory=dict)
    needs_mask: bool | None = None
    left_out: Mapping[int, int] = field(default_factory=dict)
    spans: Spans | None = None
    seams: tuple[Seam, ...] = ()
    apart_by: tuple[str, ...] = ()
    cut: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    rows: tuple[PackedRow, ...] = ()
    split: tuple[ShardFault, ...] = ()

    @property
    def scattered(self) -> bool:
        """Whether its ranks could not be joined, so that no other key was compared."""
        return bool(self.split) and any(one.why in APART for one in self.split)

    @property
    def has_misplaced(self) -> bool:
        """Whether tokens are known to be on no rank, or on two."""
        return any(one.why in (Split.LOST, Split.TWICE) for one in self.split)

    @property
    def embedded(self) -> bool:
        """Whether it holds embeddings in place of token ids."""
        return "input_ids" not in self.keys and "inputs_embeds" in self.keys

    @property
    def identified(self) -> bool:
        """Whether its samples are known, so that its keys were compared."""
        return not (self.embedded or self.scattered)


@dataclass(frozen=True)
class SlicerRun:
    """What a slicer did: its chunks, the exception that ended it, the missing keys it looked up.

    `partial`: these are some of the batch's chunks, so samples may be missing, or come again as
    for several answers to one question. `expand_size`: how often each sample comes; None where it
    may be often, but each alike. `refuses_whole`: it raises the same exception where
    the batch is one chunk. `shards`: over how many ranks each chunk is split along its tokens.
    """

    chunks: Sequence[ObservedCall]
    chunk_size: int
    slicer: str | None = None
    error: BaseException | None = None
    error_place: str | None = None
    missing_lookups: Collection[str] = field(default_factory=tuple)
    any_order: bool = False
    partial: bool = False
    expand_size: int | None = 1
    refuses_whole: bool = False
    shards: int | None = None
