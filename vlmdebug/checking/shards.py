"""Differences of calls that are split over ranks along their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from vlmdebug.checking.findings import Difference
from vlmdebug.core.shards import APART, DOUBTS, ShardFault, Split
from vlmdebug.outcomes.reasons import Outcome, Runs


@dataclass(frozen=True, kw_only=True)
class OnRanks(Difference):
    """Something that a split over ranks does wrong."""

    fault: ShardFault


@dataclass(frozen=True, kw_only=True)
class TokensOfRanks(OnRanks):
    """Tokens that are on no rank, or on two."""

    code: ClassVar[str] = "VLM006"


@dataclass(frozen=True, kw_only=True)
class TextOfRanks(TokensOfRanks):
    """The same, where no placeholder token is among them."""

    outcome: Outcome = Outcome(Runs.PER_CALL)


@dataclass(frozen=True, kw_only=True)
class PositionsOfRank(OnRanks):
    """Tokens that have other positions on their rank than in the whole call."""

    code: ClassVar[str] = "VLM014"
    outcome: Outcome = Outcome(Runs.OTHER_PLACES)


@dataclass(frozen=True, kw_only=True)
class LabelsOfRank(OnRanks):
    """Tokens that have other labels on their rank than in the whole call."""

    code: ClassVar[str] = "VLM013"
    outcome: Outcome = Outcome(Runs.OTHER_LABELS)


@dataclass(frozen=True, kw_only=True)
class ColumnsOfRank(OnRanks):
    """A key with other columns than the tokens of its rank."""

    code: ClassVar[str] = "VLM011"


@dataclass(frozen=True, kw_only=True)
class MissingOnRank(OnRanks):
    """A key that some ranks have, and others lack."""

    code: ClassVar[str] = "VLM003"


@dataclass(frozen=True, kw_only=True)
class RowsOfRank(OnRanks):
    """Media that do not fit the placeholder tokens of their rank."""

    code: ClassVar[str] = "VLM001"


@dataclass(frozen=True, kw_only=True)
class OtherRowsOfRank(OnRanks):
    """An image that is not the same on two ranks, or is that of other placeholder tokens."""

    code: ClassVar[str] = "VLM002"
    outcome: Outcome = Outcome(Runs.WRONG_PIXELS)


@dataclass(frozen=True, kw_only=True)
class PaddingSeen(OnRanks):
    """Padding that the mask shows."""

    code: ClassVar[str] = "VLM015"
    outcome: Outcome = Outcome(Runs.SEES_PADDING)


KINDS: Mapping[Split, type[OnRanks]] = {
    Split.LOST: TokensOfRanks,
    Split.TWICE: TokensOfRanks,
    Split.RANKS: TokensOfRanks,
    Split.COLUMNS: ColumnsOfRank,
    Split.MASK: ColumnsOfRank,
    Split.OWN_MASK: ColumnsOfRank,
    Split.SHAPE: ColumnsOfRank,
    Split.PARTLY: MissingOnRank,
    Split.NO_POSITIONS: PositionsOfRank,
    Split.POSITIONS: PositionsOfRank,
    Split.INSIDE: LabelsOfRank,
    Split.LABELS: LabelsOfRank,
    Split.LEARNED: LabelsOfRank,
    Split.SHOWN: PaddingSeen,
    Split.ROWS: RowsOfRank,
    Split.OTHER_ROWS: OtherRowsOfRank,
    Split.IMAGES: OtherRowsOfRank,
}
"""What is a difference; all others are doubts."""


class NotSplit(NamedTuple):
    """What is not known of a split over ranks."""

    chunk: int
    fault: ShardFault


def shard_differences(
    faults: Iterable[ShardFault], chunk: int, samples: tuple[int, ...]
) -> list[OnRanks]:
    """The differences among `faults` of one call."""
    return [
        _kind(one)(
            key=None if one.why is Split.RANKS else one.key,
            chunk=chunk,
            samples=samples if one.sample is None else (one.sample,),
            fault=one,
        )
        for one in faults
        if one.why not in DOUBTS
    ]


def _kind(fault: ShardFault) -> type[OnRanks]:
    is_text = fault.why in APART and fault.media == 0
    return TextOfRanks if is_text else KINDS[fault.why]


def shard_doubts(faults: Iterable[ShardFault], chunk: int) -> list[NotSplit]:
    """What is not known among `faults` of one call."""
    return [NotSplit(chunk, one) for one in faults if one.why in DOUBTS]
