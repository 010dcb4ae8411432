"""Differences at the seams of packed rows: positions, ends, labels and lost tokens of samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from vlmdebug.checking.doubts import NotApart
from vlmdebug.checking.findings import Difference, KeyDifference
from vlmdebug.core.observed import ObservedCall, Seam, Seams
from vlmdebug.core.packed_row import Fault, PackedRow
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.outcomes.reasons import DEPENDS, Outcome, Raises, Runs, Unknown


@dataclass(frozen=True, kw_only=True)
class AtSeam(KeyDifference):
    """A difference at a seam of packed rows."""

    seam: Seam


@dataclass(frozen=True, kw_only=True)
class OtherPositions(AtSeam):
    """Tokens of packed rows with other positions than their sample gives them."""

    code: ClassVar[str] = "VLM014"
    outcome: Outcome = Outcome(Runs.MIXES)


@dataclass(frozen=True, kw_only=True)
class Mixed(AtSeam):
    """A sample that sees tokens before its own, or does not see all of its own."""

    code: ClassVar[str] = "VLM015"
    outcome: Outcome = Outcome(Unknown.ATTENTION)


@dataclass(frozen=True, kw_only=True)
class LabelsAcross(AtSeam):
    """A first token that is learned from the last token of another sample."""

    code: ClassVar[str] = "VLM013"
    outcome: Outcome = Outcome(Runs.ACROSS)


@dataclass(frozen=True, kw_only=True)
class CutInRow(Difference):
    """A sample of a packed row that lacks some of its tokens."""

    code: ClassVar[str] = "VLM006"
    key: str = "input_ids"
    have: int
    own: int
    outcome: Outcome = Outcome(Runs.OTHER_TOKENS)


KINDS: Mapping[Seams, type[AtSeam]] = {
    Seams.NO_POSITIONS: OtherPositions,
    Seams.ORDER: OtherPositions,
    Seams.PLANES: OtherPositions,
    Seams.MROPE: OtherPositions,
    Seams.PADDING: Mixed,
    Seams.ENDS: Mixed,
    Seams.LONGEST: Mixed,
    Seams.SEEN: Mixed,
    Seams.ROWS: Mixed,
    Seams.LABELS: LabelsAcross,
}
"""What is a difference; all other seams are doubts."""
LEFT = frozenset({Seams.UNREAD, Seams.MASK, Seams.BLOCKS})
"""Doubts about the values of a key: they were not compared."""
NOT_REACHED = frozenset({Seams.MODEL, Seams.NO_MODEL, Seams.CACHE, Seams.OPEN})
"""Doubts that leave positions open."""
AT_TOKENS = frozenset({Split.NO_POSITIONS, Split.POSITIONS, Split.INSIDE, Split.LABELS, Split.MASK})
"""Faults of a split over ranks that are about one token of a sample."""
LENGTHS = Outcome(Raises.LENGTHS_DIFFER)
OUTCOMES: Mapping[Seams, Outcome] = {
    Seams.MROPE: Outcome(Runs.OTHER_PLACES),
    Seams.PADDING: Outcome(Runs.SEES_PADDING),
    Seams.SEEN: Outcome(Runs.OTHER_TOKENS),
    Seams.ROWS: Outcome(Runs.MIXES),
}


def seam_differences(
    seams: Iterable[Seam], samples: tuple[int, ...], chunk: int | None = None
) -> list[AtSeam]:
    """The differences among `seams` of a call that holds these samples."""
    found = list[AtSeam]()
    for one in seams:
        kind = KINDS.get(one.why)
        if kind is None:
            continue
        known = LENGTHS if _is_of_other_length(one) else OUTCOMES.get(one.why)
        if one.why is Seams.PLANES and known is None and not _is_broadcast(one):
            known = DEPENDS
        told: dict[str, Any] = {} if known is None else {"outcome": known}
        own = samples if one.sample is None else (one.sample,)
        found.append(kind(key=one.key, chunk=chunk, samples=own, seam=one, **told))
    return found


def _is_of_other_length(seam: Seam) -> bool:
    """Whether positions or a mask of blocks are not as long as the row, so that models raise."""
    if seam.key == "attention_mask":
        return seam.why is Seams.ENDS
    return seam.why is Seams.PLANES and seam.given[-1:] != seam.due[-1:]


def _is_broadcast(seam: Seam) -> bool:
    """Whether models take positions of this shape, and read as many planes as they find."""
    *planes, rows, _ = (0, *seam.given) if len(seam.given) < 2 else seam.given
    several = len(seam.due) > 2  # M-RoPE's
    return rows in (1, seam.due[-2]) and (not planes or (several and planes[0] in (1, 3, 4)))


def seam_doubts(seams: Iterable[Seam], samples: int) -> list[NotApart]:
    """What is not known of the seams of a call with so many samples."""
    return [NotApart(samples, one.why) for one in seams if one.why not in KINDS]


def judged_at_seams(call: ObservedCall) -> dict[str, bool]:
    """Keys that keep the samples of packed rows apart, and whether each was compared."""
    left = {seam.key for seam in call.seams if seam.why in LEFT}
    if any(seam.why in NOT_REACHED or seam.key == "attention_mask" for seam in call.seams):
        left.add("position_ids")
    mask = call.keys.get("attention_mask")
    # no model reads a mask of padding where a row holds several samples
    if mask is not None and mask.dims < 3 and call.spans and not call.spans.alone:
        left.add("attention_mask")
    return {key: key not in left for key in call.apart_by}


def rows_of_calls(calls: Iterable[ObservedCall]) -> tuple[PackedRow, ...]:
    """The packed rows of all calls, each with its faults and the number of its call."""
    return tuple(
        [
            row
            for index, call in enumerate(calls)
            for row in with_faults(call.rows, call.seams, index, call.split)
        ]
    )


def with_faults(
    rows: Iterable[PackedRow],
    seams: Iterable[Seam],
    chunk: int | None = None,
    split: Iterable[ShardFault] = (),
) -> list[PackedRow]:
    """Packed rows of one call with the differences among its seams, and of its split over ranks."""
    wrong, split = [one for one in seams if one.why in KINDS], [*split]
    return [
        replace(
            row,
            chunk=chunk,
            faults=tuple(
                dict.fromkeys(
                    [
                        *(
                            Fault(one.key, one.column)
                            for one in wrong
                            if one.sample is None or one.row == row.row
                        ),
                        *_of_split(row, split),
                    ]
                )
            ),
        )
        for row in rows
    ]


def _of_split(row: PackedRow, split: Iterable[ShardFault]) -> Iterator[Fault]:
    """Faults of a split over ranks at tokens of this row."""
    for one in split:
        if one.why in AT_TOKENS and one.sample in row.samples:
            column = row.column(one.rank, one.column)
            if column is not None:
                yield Fault(one.key, column)
        elif one.why in (Split.NO_POSITIONS, Split.POSITIONS) and row.off:
            yield Fault(one.key, row.off[0][0])  # which names the first row only
