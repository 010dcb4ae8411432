"""What a collator does to rows together that it does not do to each alone: data, without words.

The batch of all rows is compared with what each row gives alone, token by token. Rows of media are
compared by `vlmdebug.checking.compare`, as those of a chunk that holds the whole batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from vlmdebug.checking.findings import Difference, KeyDifference
from vlmdebug.outcomes.reasons import DEPENDS, LOUD, Outcome, Runs


@dataclass(frozen=True, kw_only=True)
class RowsCounted(Difference):
    """A batch with more or fewer samples than its rows give alone."""

    code: ClassVar[str] = "VLM006"
    key: None = None
    given: int
    due: int
    outcome: Outcome = Outcome(Runs.PER_CALL)


@dataclass(frozen=True, kw_only=True)
class RowsReordered(Difference):
    """Samples in another order than their rows: sample `moved` came at `position`."""

    code: ClassVar[str] = "VLM007"
    key: None = None
    position: int
    moved: int
    outcome: Outcome = Outcome(Runs.OTHER_ORDER)


@dataclass(frozen=True, kw_only=True)
class OtherText(KeyDifference):
    """A sample with other tokens than alone.

    Attributes:
        given: Its tokens in the batch, without padding.
        due: Its tokens alone.
        cut: Whether the tokens are a part of those alone.
    """

    code: ClassVar[str] = "VLM011"
    key: str = "input_ids"
    given: int
    due: int
    cut: bool
    outcome: Outcome = Outcome(Runs.OTHER_ANSWER)


@dataclass(frozen=True, kw_only=True)
class OtherTokenValues(KeyDifference):
    """A key along the tokens with other values than alone, `wrong` of `tokens`.

    `tokens`: 0 where the key has one value for the sample.
    `by`: columns by which the values stand to the right of their tokens; 0 where no shift fits.
    """

    code: ClassVar[str] = "VLM011"
    wrong: int
    tokens: int
    by: int
    outcome: Outcome = DEPENDS


@dataclass(frozen=True, kw_only=True)
class OtherMask(KeyDifference):
    """The right tokens, with a mask that hides `hidden` of them and shows `shown` of padding."""

    code: ClassVar[str] = "VLM011"
    key: str = "attention_mask"
    hidden: int
    shown: int
    outcome: Outcome = DEPENDS


@dataclass(frozen=True, kw_only=True)
class OtherPlaces(OtherTokenValues):
    """Positions of other tokens than alone."""

    code: ClassVar[str] = "VLM014"
    key: str = "position_ids"
    outcome: Outcome = Outcome(Runs.OTHER_PLACES)


@dataclass(frozen=True, kw_only=True)
class OtherLabels(OtherTokenValues):
    """Labels of other tokens than alone."""

    code: ClassVar[str] = "VLM013"
    key: str = "labels"
    outcome: Outcome = Outcome(Runs.OTHER_LABELS)


@dataclass(frozen=True, kw_only=True)
class LabelsOnPadding(Difference):
    """Labels that are learned where `attention_mask` marks padding."""

    code: ClassVar[str] = "VLM013"
    key: str = "labels"
    learned: int
    outcome: Outcome = Outcome(Runs.OTHER_LABELS)


@dataclass(frozen=True, kw_only=True)
class LostTogether(KeyDifference):
    """A key of these samples alone that the batch lacks."""

    code: ClassVar[str] = "VLM003"


@dataclass(frozen=True, kw_only=True)
class LostKey(KeyDifference):
    """A key of media that the processor returns and the batch lacks."""

    code: ClassVar[str] = "VLM003"


@dataclass(frozen=True, kw_only=True)
class Renamed(KeyDifference):
    """A key of media under another name than `meant`, which the processor returns."""

    code: ClassVar[str] = "VLM004"
    meant: str


@dataclass(frozen=True, kw_only=True)
class SurplusTogether(KeyDifference):
    """A key of media that no sample has alone."""

    code: ClassVar[str] = "VLM005"


@dataclass(frozen=True, kw_only=True)
class ZeroRows(KeyDifference):
    """A key of media without rows, and without the dimensions of one: its shape."""

    code: ClassVar[str] = "VLM005"
    given: tuple[int, ...]
    outcome: Outcome = DEPENDS


@dataclass(frozen=True, kw_only=True)
class NotATensor(KeyDifference):
    """A key that was left as it came: `given` says what it is."""

    code: ClassVar[str] = "VLM011"
    given: str
    outcome: Outcome = LOUD


@dataclass(frozen=True, kw_only=True)
class Nested(KeyDifference):
    """A key with one dimension too many: its shape, and the shape that it should have."""

    code: ClassVar[str] = "VLM011"
    given: tuple[int, ...]
    due: tuple[int, ...]
    outcome: Outcome = DEPENDS


@dataclass(frozen=True, kw_only=True)
class CollatorRaised(Difference):
    """An exception of the collator; `alone`: also with the first of these rows alone."""

    code: ClassVar[str] = "VLM008"
    key: None = None
    error: str
    said: str
    place: str | None
    alone: bool
    outcome: Outcome = LOUD


@dataclass(frozen=True, kw_only=True)
class NoBatch(Difference):
    """The result of a collator that is no batch, in the words of the reading of the batch."""

    code: ClassVar[str] = "VLM010"
    key: None = None
    said: str
    outcome: Outcome = LOUD
