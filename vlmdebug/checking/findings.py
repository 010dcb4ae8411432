"""Differences between what calls should get and did get: data, without a sentence.

Each class is one kind of difference. `vlmdebug.checking.text` makes its words from these fields and
the outcome. A difference holds numbers, names and rows, never a tensor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, ClassVar, NamedTuple

from vlmdebug.checking.causes import Fault, RunCause
from vlmdebug.core.change import Change
from vlmdebug.core.layout import Axis
from vlmdebug.core.observed import MadeBy, MadeReason
from vlmdebug.core.rows import Rows
from vlmdebug.outcomes.reasons import DEPENDS, LOUD, Outcome, Runs, Unknown


class Because(Enum):
    """What a slicer or collator seems to have done."""

    CUT_PER = auto()  # the unit
    WITHOUT_ZEROS = auto()  # offsets computed without the samples that own nothing
    LOOKS_FOR = auto()  # the name
    CHANGED = auto()  # kind and dtype
    COLUMNS = auto()
    PADDING = auto()  # what is padded
    MAKES = auto()  # the key
    TOTALS = auto()
    RUNS = auto()  # the `RunCause`
    NO_MEDIA = auto()  # the unit
    COLLATOR = auto()  # the key
    OTHER_ROWS = auto()
    LABELS_LENGTH = auto()
    LABELS_SHIFTED = auto()
    LABELS_OTHER = auto()
    LABELS_MEDIA = auto()
    LABELS_PADDING = auto()
    LABELS_PROMPT = auto()
    ONE_RUN = auto()
    SIZES = auto()
    MASK = auto()
    TILES = auto()


class Cause(NamedTuple):
    """The likely cause of a difference; differences with equal causes are one finding.

    Attributes:
        because: What was likely done.
        what: To what: a unit, a key, a dtype.
    """

    because: Because
    what: str = ""


def run_cause(faults: Sequence[Fault]) -> Cause | None:
    """The cause that all faults share."""
    causes: set[RunCause] = {fault.cause for fault in faults}
    return Cause(Because.RUNS, causes.pop()) if len(causes) == 1 else None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Expected and actual differ.

    Attributes:
        code: Stable code, a key of `vlmdebug.core.mismatch.CODES`.
        key: The key, where it is about one.
        chunk: Number of the chunk, from 0, where it is about one.
        samples: Samples of that chunk, or the samples concerned.
        expected: Rows of `key` that belong there.
        actual: Rows of `key` that were passed; -1 is a row that is not in the batch.
        outcome: What the model would do.
        cause: What was likely done, where the rows show it.
        packed: Whether a row of `input_ids` there holds several samples.
    """

    code: ClassVar[str]
    key: str | None
    chunk: int | None = None
    samples: tuple[int, ...] = ()
    expected: Rows | None = None
    actual: Rows | None = None
    outcome: Outcome = DEPENDS
    cause: Cause | None = None
    packed: bool = False

    @property
    def sample(self) -> int:
        """The one sample that it is about."""
        return self.samples[0]


@dataclass(frozen=True, kw_only=True)
class KeyDifference(Difference):
    """A difference in one key."""

    key: str


# --- one key of one chunk --------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class WrongRows(KeyDifference):
    """As many rows as belong there, but others.

    `length`: of the tensor. `source`: the key of the batch that the rows are of, where it is
    another one. `cut_by`: units by which the rows may have been cut.
    """

    code: ClassVar[str] = "VLM002"
    length: int
    source: str | None = None
    cut_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OtherLength(WrongRows):
    """More or fewer rows than belong there."""

    code: ClassVar[str] = "VLM001"


@dataclass(frozen=True, kw_only=True)
class ForeignRows(WrongRows):
    """Rows that are not in the batch, or rows of another key."""

    code: ClassVar[str] = "VLM011"


@dataclass(frozen=True, kw_only=True)
class Dropped(KeyDifference):
    """A key that the chunk lacks."""

    code: ClassVar[str] = "VLM003"


@dataclass(frozen=True, kw_only=True)
class MustBeAbsent(KeyDifference):
    """A key that the chunk must not have; `length`: of the tensor."""

    code: ClassVar[str] = "VLM005"
    length: int


@dataclass(frozen=True, kw_only=True)
class UnknownKey(KeyDifference):
    """A key that the model does not take; `meant`: the key it likely represents, or empty."""

    code: ClassVar[str] = "VLM004"
    meant: str
    outcome: Outcome = Outcome(Unknown.SIGNATURE)


@dataclass(frozen=True, kw_only=True)
class StaleLookup(KeyDifference):
    """A key that the slicer asked for, the batch does not have, and is likely `meant`."""

    code: ClassVar[str] = "VLM004"
    meant: str


@dataclass(frozen=True, kw_only=True)
class Changed(KeyDifference):
    """The right rows in another shape or with other values; `whole`: shape in the batch."""

    code: ClassVar[str] = "VLM011"
    change: Change
    whole: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class OtherColumns(KeyDifference):
    """The right rows, trimmed or padded by other columns than `input_ids`."""

    code: ClassVar[str] = "VLM011"
    columns: int | None
    of_ids: int | None
    cause: Cause | None = Cause(Because.COLUMNS)


@dataclass(frozen=True, kw_only=True)
class PaddingCut(KeyDifference):
    """The right rows, with fewer images or tiles in each than their samples own.

    `given` and `needed`: length of the padded dimension.
    """

    code: ClassVar[str] = "VLM001"
    axis: Axis
    given: int
    needed: int


@dataclass(frozen=True, kw_only=True)
class MadeOtherwise(KeyDifference):
    """A key that the slicer made, with other values than follow from the chunk."""

    code: ClassVar[str] = "VLM011"
    why: MadeReason


@dataclass(frozen=True, kw_only=True)
class LabelsMade(MadeOtherwise):
    """Labels that the slicer made of other tokens than the chunk's."""

    code: ClassVar[str] = "VLM013"
    key: str = "labels"
    outcome: Outcome = Outcome(Runs.OTHER_LABELS)


@dataclass(frozen=True, kw_only=True)
class PositionsMade(MadeOtherwise):
    """Positions that the slicer made, which the tokens do not have."""

    code: ClassVar[str] = "VLM014"
    outcome: Outcome = Outcome(Runs.OTHER_PLACES)


@dataclass(frozen=True, kw_only=True)
class PositionsDiffer(KeyDifference):
    """Positions of the batch that its tokens do not have, or deltas that follow from others."""

    code: ClassVar[str] = "VLM014"
    why: MadeReason
    outcome: Outcome = Outcome(Runs.OTHER_PLACES)

    @classmethod
    def of(cls, key: str, sample: int, why: MadeReason) -> PositionsDiffer:
        return cls(key=key, samples=(sample,), why=why, outcome=PLACED.get(key, DEPENDS))


@dataclass(frozen=True, kw_only=True)
class StaleDeltas(KeyDifference):
    """Deltas that a model has of another prompt than that in a cache: `given`, and those `due`."""

    code: ClassVar[str] = "VLM014"
    key: str = "rope_deltas"
    given: float
    due: float
    outcome: Outcome = Outcome(Runs.OTHER_PLACES)


PLACED = {"position_ids": Outcome(Runs.OTHER_PLACES), "rope_deltas": Outcome(Unknown.DELTAS)}
"""Keys that say where tokens are, and what a model does with wrong ones."""


def made_otherwise(
    key: str, why: MadeReason, chunk: int, samples: tuple[int, ...], *, packed: bool = False
) -> MadeOtherwise:
    """The difference of a key that the slicer made, by what the key is."""
    cause = Cause(Because.MAKES, key)
    place: dict[str, Any] = {"chunk": chunk, "samples": samples, "packed": packed}
    if key in PLACED:
        return PositionsMade(key=key, cause=cause, why=why, outcome=PLACED[key], **place)
    kind = LabelsMade if why.rule is MadeBy.LABELS else MadeOtherwise
    return kind(key=key, cause=cause, why=why, **place)


# --- tokens and samples of chunks ------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TokenFeatureMismatch(Difference):
    """Placeholder tokens and features of one chunk differ.

    `matched`: whether `input_ids` say which samples the chunk holds.
    """

    code: ClassVar[str] = "VLM009"
    key: str = "input_ids"
    placeholders: int
    features: int
    modality: str
    matched: bool = True


@dataclass(frozen=True, kw_only=True)
class TokensLost(Difference):
    """Fewer placeholder tokens than in the batch; the features of the media are not known."""

    code: ClassVar[str] = "VLM009"
    key: str = "input_ids"
    given: int
    owned: int
    modality: str
    matched: bool = True


@dataclass(frozen=True, kw_only=True)
class EmptyChunk(Difference):
    """A chunk without samples."""

    code: ClassVar[str] = "VLM006"
    key: None = None
    outcome: Outcome = LOUD


@dataclass(frozen=True, kw_only=True)
class Repeated(Difference):
    """Samples that came more or less often than they should.

    Attributes:
        times: Sample, and how often it came.
        total: Samples of the batch.
        wanted: How often each should come.
        expand_size: How often the slicer says that it repeats each; None for as often as it likes.
    """

    code: ClassVar[str] = "VLM006"
    key: None = None
    times: tuple[tuple[int, int], ...]
    total: int
    wanted: int
    expand_size: int | None
    outcome: Outcome = Outcome(Runs.PER_CALL)


@dataclass(frozen=True, kw_only=True)
class Reordered(Difference):
    """Samples in another order: sample `moved` came at `position`."""

    code: ClassVar[str] = "VLM007"
    key: None = None
    position: int
    moved: int
    outcome: Outcome = Outcome(Runs.OTHER_ORDER)


@dataclass(frozen=True, kw_only=True)
class SlicerRaised(Difference):
    """An exception of the slicer.

    Attributes:
        error: Name of its type.
        said: What it says, on one line.
        place: Where it was raised.
        whole: Whether the batch in one chunk raises the same.
        asked: Whether it is a `KeyError` for a key that the slicer asked for.
    """

    code: ClassVar[str] = "VLM008"
    key: None = None
    error: str
    said: str
    place: str | None
    whole: bool
    asked: bool = False
    outcome: Outcome = LOUD
