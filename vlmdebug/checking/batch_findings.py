"""Differences of a whole batch, whoever cuts it: data, as in `vlmdebug.checking.findings`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdebug.checking.causes import Fault
from vlmdebug.checking.findings import Because, Cause, Difference, KeyDifference
from vlmdebug.outcomes.reasons import Outcome, Raises, Runs


@dataclass(frozen=True, kw_only=True)
class Contradicted(Difference):
    """What cannot all be right in a batch, in the words of the reading of the batch."""

    code: ClassVar[str] = "VLM010"
    said: str


@dataclass(frozen=True, kw_only=True)
class RunsDiffer(Difference):
    """Runs of placeholder tokens of a sample that are not what its media become.

    Attributes:
        noun: `image`, `video` or `audio`.
        unit: What is counted: the noun, or `tile`.
        runs: Lengths of its runs.
        features: What its media become; None where that is not certain.
        faults: What is wrong with each run.
        before: Units of the samples before it; None where that is not known.
    """

    code: ClassVar[str] = "VLM010"
    key: str = "input_ids"
    noun: str
    unit: str
    runs: tuple[int, ...]
    features: int | None
    faults: tuple[Fault, ...]
    before: int | None


@dataclass(frozen=True, kw_only=True)
class TotalsDiffer(Difference):
    """Placeholder tokens and features of a batch, where no sample is certainly wrong.

    Attributes:
        noun: `image`, `video` or `audio`.
        unit: What is counted: the noun, or `tile`.
        runs: Lengths of the runs of each sample.
        features: Features of each unit.
        unnamed: Units that no text names.
        owned: Whether it is known which units each sample owns.
        outside: Placeholder tokens of packed rows that belong to no sample.
    """

    code: ClassVar[str] = "VLM010"
    key: str = "input_ids"
    noun: str
    unit: str
    runs: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    unnamed: tuple[int, ...]
    owned: bool
    outside: int = 0
    cause: Cause | None = Cause(Because.TOTALS)


@dataclass(frozen=True, kw_only=True)
class OneRun(Difference):
    """One run of placeholder tokens, `tokens` long, for several images of the batch."""

    code: ClassVar[str] = "VLM010"
    key: str = "input_ids"
    tokens: int
    images: tuple[int, ...]
    cause: Cause | None = Cause(Because.ONE_RUN)


@dataclass(frozen=True, kw_only=True)
class NoFeatures(Difference):
    """Placeholder tokens of a sample in a batch without media."""

    code: ClassVar[str] = "VLM010"
    key: str = "input_ids"
    placeholders: int
    outcome: Outcome = Outcome(Runs.NO_IMAGE)


@dataclass(frozen=True, kw_only=True)
class NothingShown(KeyDifference):
    """A sample that is padding as a whole, in a call that lays out its tokens."""

    code: ClassVar[str] = "VLM010"
    key: str = "attention_mask"


@dataclass(frozen=True, kw_only=True)
class MarkedOtherwise(KeyDifference):
    """A key of token types that marks more or fewer placeholder tokens than `input_ids` has."""

    code: ClassVar[str] = "VLM010"
    placeholders: int
    marked: int
    noun: str = "image"


@dataclass(frozen=True, kw_only=True)
class ShortColumns(KeyDifference):
    """A key with fewer columns of tokens than `input_ids`."""

    code: ClassVar[str] = "VLM011"
    columns: int
    of_ids: int
    cause: Cause | None = Cause(Because.COLUMNS)


@dataclass(frozen=True, kw_only=True)
class Stray(Difference):
    """Placeholder tokens of a modality that the batch has no media of."""

    code: ClassVar[str] = "VLM010"
    key: str = "input_ids"
    modality: str
    placeholders: int


@dataclass(frozen=True, kw_only=True)
class Promised(Difference):
    """Counts of media that the batch does not have."""

    code: ClassVar[str] = "VLM010"
    key: None = None
    modality: str
    total: int
    outcome: Outcome = Outcome(Runs.SEES_NONE)


@dataclass(frozen=True, kw_only=True)
class Lacking(KeyDifference):
    """A key that the whole batch lacks."""

    code: ClassVar[str] = "VLM003"


@dataclass(frozen=True, kw_only=True)
class OtherRows(KeyDifference):
    """Images in rows of other samples than the ones that name them."""

    code: ClassVar[str] = "VLM010"
    placeholders: int
    images: int
    outcome: Outcome = Outcome(Runs.OTHER_IMAGES)
    cause: Cause | None = Cause(Because.OTHER_ROWS)


@dataclass(frozen=True, kw_only=True)
class OutsideSizes(KeyDifference):
    """An image with other pixels than padding outside its size.

    Attributes:
        image: Its number in the batch.
        sides: Height and width of its row of sizes.
        whole: Height and width with padding.
        swapped: Whether width and height would fit.
    """

    code: ClassVar[str] = "VLM010"
    image: int
    sides: tuple[int, int]
    whole: tuple[int, int]
    swapped: bool
    cause: Cause | None = Cause(Because.SIZES)


@dataclass(frozen=True, kw_only=True)
class MaskDiffers(KeyDifference):
    """A mask that hides so many pixels of a sample's images, and shows so many of padding.

    `of`: what a value of the mask is of, a pixel or a tile.
    """

    code: ClassVar[str] = "VLM010"
    hidden: int
    shown: int
    of: str = "pixel"
    cause: Cause | None = Cause(Because.MASK)


@dataclass(frozen=True, kw_only=True)
class AttendsOtherwise(KeyDifference):
    """A mask of images that is not the one that follows from the tokens of a sample.

    Attributes:
        tokens: How many of its tokens see other images.
        first: The column of the first of them.
        by: Columns by which the mask stands to the right of the tokens, 0 where no shift fits.
    """

    code: ClassVar[str] = "VLM010"
    tokens: int
    first: int
    by: int
    cause: Cause | None = Cause(Because.COLUMNS)


@dataclass(frozen=True, kw_only=True)
class PlacedOtherwise(KeyDifference):
    """A mask that puts an image elsewhere than on its placeholder tokens.

    `due` and `given`: the columns of the tokens, and those where the mask puts the image.
    """

    code: ClassVar[str] = "VLM010"
    due: tuple[int, ...]
    given: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TilesDiffer(KeyDifference):
    """An aspect ratio of other tiles than an image has.

    Attributes:
        image: Its number in the sample.
        ratio: The id of its aspect ratio.
        sides: Tiles down and across of that ratio; None where no ratio has that id.
        shown: Tiles that the mask shows.
        among: Tiles up to the last that it shows.
        held: Tiles up to the last that is not padding.
    """

    code: ClassVar[str] = "VLM010"
    image: int
    ratio: int
    sides: tuple[int, int] | None
    shown: int
    among: int
    held: int
    cause: Cause | None = Cause(Because.TILES)


@dataclass(frozen=True, kw_only=True)
class LabelsLength(Difference):
    """Labels with more or fewer columns than `input_ids`."""

    code: ClassVar[str] = "VLM013"
    key: str = "labels"
    columns: int
    of_ids: int
    outcome: Outcome = Outcome(Raises.LOSS)
    cause: Cause | None = Cause(Because.LABELS_LENGTH)


@dataclass(frozen=True, kw_only=True)
class LabelsDiffer(Difference):
    """Labels that are not the tokens in their columns; `by`: columns to the right, 0 for none."""

    code: ClassVar[str] = "VLM013"
    key: str = "labels"
    wrong: int
    learned: int
    by: int
    outcome: Outcome = Outcome(Runs.OTHER_LABELS)


@dataclass(frozen=True, kw_only=True)
class LabelsOnMedia(Difference):
    """Placeholder tokens among the labels."""

    code: ClassVar[str] = "VLM013"
    key: str = "labels"
    placeholders: int
    outcome: Outcome = Outcome(Runs.LEARNS_MEDIA)
    cause: Cause | None = Cause(Because.LABELS_MEDIA)


@dataclass(frozen=True, kw_only=True)
class LabelsOnPadding(Difference):
    """Tokens that the mask hides among the labels."""

    code: ClassVar[str] = "VLM013"
    key: str = "labels"
    tokens: int
    outcome: Outcome = Outcome(Runs.LEARNS_PADDING)
    cause: Cause | None = Cause(Because.LABELS_PADDING)


@dataclass(frozen=True, kw_only=True)
class LabelsOnPrompt(Difference):
    """Tokens of a prompt, which sees all of itself, among the labels."""

    code: ClassVar[str] = "VLM013"
    key: str = "labels"
    tokens: int
    outcome: Outcome = Outcome(Runs.LEARNS_PROMPT)
    cause: Cause | None = Cause(Because.LABELS_PROMPT)
