"""What was not compared, as data; `text_doubts` says why, and what would settle it."""

from __future__ import annotations

from typing import Literal, NamedTuple

from vlmdebug.checking.shards import NotSplit
from vlmdebug.core.change import Change
from vlmdebug.core.observed import MadeReason, Seams


class Unmatched(NamedTuple):
    """Rows that could not be matched to the batch; `unread`: why, where values cannot be read."""

    key: str
    chunk: int
    rows: int
    unread: str | None


class MayDiffer(NamedTuple):
    """A change that some models take as if there were none; `columns`: of tokens."""

    key: str
    chunk: int
    columns: int | None
    change: Change


class NotRecomputed(NamedTuple):
    """A key that the slicer made, and that no rule recomputes."""

    key: str
    chunk: int
    why: MadeReason


class Embedded(NamedTuple):
    """`inputs_embeds` in place of `input_ids`."""

    chunk: int


class MoreColumns(NamedTuple):
    """A key with more columns of tokens than `input_ids`."""

    key: str
    columns: int
    of_ids: int


class FeaturesUnknown(NamedTuple):
    """Media with an unknown number of placeholder tokens or features.

    `side`: the number that is unknown.
    """

    modality: str
    side: str


class WholePixels(NamedTuple):
    """Media in whole numbers or truth values."""

    key: str
    dtype: str


Needs = Literal["positions", "loss", "tiles", "weights"]


class OtherDtype(NamedTuple):
    """A key with numbers of a kind that makes the model raise; `why`: what needs another."""

    key: str
    dtype: str
    why: Needs


class Hidden(NamedTuple):
    """Tokens of a sample that `attention_mask` hides though they are no padding."""

    sample: int
    tokens: int


class Unmasked(NamedTuple):
    """Padding of a sample that no mask hides.

    `masked`: there is a mask; `causal`: only padding in front of the text is meant.
    """

    sample: int
    tokens: int
    masked: bool
    causal: bool = True


class BehindPrompt(NamedTuple):
    """Tokens of a sample that are typed as its prompt though they follow the end of it."""

    sample: int
    tokens: int


class BeforePromptEnds(NamedTuple):
    """Tokens of a sample that are typed as its completion though its prompt ends later."""

    sample: int
    tokens: int


class LeftOut(NamedTuple):
    """Real tokens that a chunk lacks, as pairs of a sample and their number."""

    chunk: int
    tokens: tuple[tuple[int, int], ...]


class PaddingShown(NamedTuple):
    """Another number of padding tokens, which others attend to as the batch has no such mask."""

    chunk: int
    mask: str


class NotFinite(NamedTuple):
    """Media that hold NaN or infinity."""

    key: str


class OddMask(NamedTuple):
    """A mask that holds other values than 0 and 1."""

    key: str


class SidesUnseen(NamedTuple):
    """Images that have as much padding with height and width swapped."""

    key: str
    images: tuple[int, ...]


class LostMask(NamedTuple):
    """A mask of pixels that the batch lacks; `times`: seconds between frames of videos."""

    key: str
    times: bool = False


class NotApart(NamedTuple):
    """Samples of packed rows that the model may not keep apart."""

    samples: int
    why: Seams


class PlacesUnknown(NamedTuple):
    """`position_ids` of the batch, or its `rope_deltas`, that no rule recomputes."""

    key: str
    why: MadeReason


class Written(NamedTuple):
    """Media that were written to between two chunks of a watched program."""

    key: str


class NotAlone(NamedTuple):
    """A row that the collator does not take alone; `error`: what came instead."""

    row: int
    error: str


class NotNextTo(NamedTuple):
    """A key of media that could not be matched to the rows alone."""

    key: str


class NotTheSame(NamedTuple):
    """A collator that gives other values of these keys for the same rows."""

    keys: tuple[str, ...]


Doubt = (
    Unmatched
    | MayDiffer
    | NotRecomputed
    | Embedded
    | MoreColumns
    | FeaturesUnknown
    | WholePixels
    | OtherDtype
    | OddMask
    | Hidden
    | BehindPrompt
    | BeforePromptEnds
    | Unmasked
    | LeftOut
    | PaddingShown
    | NotFinite
    | SidesUnseen
    | LostMask
    | NotApart
    | PlacesUnknown
    | Written
    | NotAlone
    | NotNextTo
    | NotTheSame
    | NotSplit
)
"""What was not compared."""
