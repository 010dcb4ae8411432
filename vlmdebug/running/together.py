"""A collator on rows: each row alone is the oracle for all rows together.

The batch of all rows is judged as it is, like any batch. Its tokens are compared with those of each
row alone. Its media are compared with the rows alone, joined, by the judge of slicers: the batch is
one chunk that holds every sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch

from vlmdebug.checking.collate_findings import (
    CollatorRaised,
    LostKey,
    NoBatch,
    Renamed,
    SurplusTogether,
)
from vlmdebug.checking.collate_tokens import (
    Unit,
    counted,
    in_order_of,
    reordered,
    token_differences,
    units_of,
    unread,
)
from vlmdebug.checking.compare import chunk_differences
from vlmdebug.checking.doubts import Doubt, NotAlone, NotNextTo, NotTheSame, Unmatched
from vlmdebug.checking.findings import Because, Cause, Difference
from vlmdebug.checking.report import Report
from vlmdebug.checking.text import as_collated, named
from vlmdebug.checking.text_doubts import doubt
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import MEDIA_KEYS, MEDIA_OF, TOKEN_KEYS
from vlmdebug.core.mismatch import Mismatch
from vlmdebug.core.observed import SlicerRun
from vlmdebug.core.record import ChunkReport, Compared
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput, NotJudged
from vlmdebug.families.llava import OLDER
from vlmdebug.outcomes.reasons import Outcome
from vlmdebug.running.batch_report import batch_report
from vlmdebug.running.collated import Tensors, tensors_of
from vlmdebug.running.collator import Collator
from vlmdebug.running.joined import (
    all_its_own,
    apart_by_media,
    is_dummy,
    joined,
    media_of,
    numbers_of,
    pieces,
    unpacked,
)
from vlmdebug.running.raised import place_of
from vlmdebug.safe import one_line
from vlmdebug.tracking.observe import used_chunk
from vlmdebug.tracking.rows import RowFinder

MOST_OF_ERROR = 500
TIMES = 4
"""How often rows are collated again, to see what is random."""
PIXELS, TEXT = MEDIA_OF["image"], "input_ids"
OF_OTHERS = frozenset(
    named(Cause(because))
    for because in (
        Because.LABELS_OTHER,
        Because.LABELS_SHIFTED,
        Because.LABELS_LENGTH,
        Because.LABELS_PADDING,
    )
)
Said = tuple[Difference, Batch]
"""A difference, and the batch that its rows are of."""


class NextTo(NamedTuple):
    """What the batch has that its rows alone have not.

    Attributes:
        found: What differs.
        doubts: What could not be compared.
        chunks: The verdict on each sample, where rows of media differ.
    """

    found: list[Said]
    doubts: list[Doubt]
    chunks: tuple[ChunkReport, ...] = ()


@dataclass(frozen=True)
class Alone:
    """What one row gives alone: a batch, or the error of the collator or of the reading."""

    batch: Batch | None
    error: Exception | None = None


def alone(trial: Collator, row: Any) -> Alone:
    """One row, collated alone."""
    try:
        output = trial([row])
    except Exception as error:  # the collator's own
        return Alone(None, error)
    try:
        tensors = tensors_of(output, 1, trial.dims)
        return Alone(_read_one(trial, tensors))
    except BadInput as error:
        return Alone(None, error)


def collate_report(trial: Collator, rows: Sequence[Any], singles: Sequence[Alone]) -> Report:
    """The report on the batch of all rows, next to each of them alone.

    Raises:
        NotJudged: The collator gives no mapping.
    """
    try:
        output = trial(rows)
    except Exception as error:  # the collator's own
        raised = [one.error for one in singles if isinstance(one.error, type(error))]
        difference = _raised(raised[0] if raised else error, alone=bool(raised))
        return _bare(len(rows), difference, error=error)
    tensors = tensors_of(output, len(rows), trial.dims)
    batches = [one.batch for one in singles if one.batch is not None]
    known = batches if len(batches) == len(rows) else None
    try:
        whole = _read(trial, tensors.inputs, known)
    except NotJudged:
        raise
    except BadInput as error:
        wrong = [*tensors.found, *_lost(trial, tensors.inputs, len(rows), known or ())]
        if not batches and not wrong:
            raise
        return _bare(len(rows), *(wrong or [NoBatch(said=str(error))]))
    whole = _without_dummies(whole)
    report = batch_report(whole)
    found: list[Said] = [(one, whole) for one in tensors.found]
    doubts = list[Doubt]()
    found += [(one, whole) for one in _lost(trial, tensors.inputs, len(rows), [whole])]
    if known is None:
        doubts += [
            NotAlone(place, f"{type(one.error).__name__}: {one_line(one.error, 300)}")
            for place, one in enumerate(singles)
            if one.error is not None
        ]
    else:
        compared = _next_to(trial, whole, known)
        found, doubts = [*found, *compared.found], [*doubts, *compared.doubts]
        report = replace(report, chunks=compared.chunks or report.chunks)
    varying = _varying(trial, rows, singles, tensors.inputs) if found and known is not None else ()
    if varying:
        all_of_it = TEXT in varying  # other texts, or another order of them
        found = [] if all_of_it else [one for one in found if one[0].key not in varying]
        doubts = [NotTheSame(varying), *doubts]
    return _with(report, whole, found, doubts, compared=known is not None)


def _without_dummies(whole: Batch) -> Batch:
    """The batch, in which the hidden tokens of a dummy image leave no doubt."""
    if not any(whole.hidden):
        return whole
    hidden = tuple(
        0 if count and is_dummy(Unit(whole, sample)) else count
        for sample, count in enumerate(whole.hidden)
    )
    return replace(whole, hidden=hidden)


def _media(trial: Collator, inputs: Mapping[str, Any], read: Sequence[Batch]) -> list[str]:
    """The media that placeholder tokens name; images too if no batch could be read."""
    found = {name for batch in read for name in batch.modalities if _has(batch, name)}
    tokens = inputs.get(TEXT)
    if isinstance(tokens, torch.Tensor) and bool((tokens == trial.video_token).any()):
        found.add("video")  # a batch without its keys has no such modality
    return sorted(found if read else found | {"image"})


def _has(batch: Batch, medium: str) -> bool:
    return any(batch.modalities[medium].placeholders or ())


def _lost(
    trial: Collator, inputs: Mapping[str, Any], samples: int, read: Sequence[Batch]
) -> list[Difference]:
    """Keys that the processor returns for media that the batch has, and the batch has not.

    The batch may have one under another name.
    """
    media = _media(trial, inputs, read)
    due = [key for medium in media for key in trial.returned.get(medium, ())]
    lost = [key for key in due if key in MEDIA_KEYS and key not in inputs]
    strange = [key for key in inputs if key not in trial.dims and key not in TOKEN_KEYS]
    if OLDER in lost and PIXELS in inputs:
        lost.remove(OLDER)  # the processor returns either, as it is asked to
    found, every = list[Difference](), tuple(range(samples))
    for key in lost:
        near = get_close_matches(key, strange, 1, cutoff=0.6)
        if near and isinstance(inputs[near[0]], torch.Tensor):
            found.append(Renamed(key=near[0], samples=every, meant=key))
        else:
            found.append(LostKey(key=key, samples=every))
    return found


def _next_to(trial: Collator, whole: Batch, batches: Sequence[Batch]) -> NextTo:
    """The batch of all rows next to each of them alone."""
    units = units_of(batches, whole)
    miscounted = counted(whole, units)
    if miscounted:
        return NextTo([(one, whole) for one in miscounted], [])
    found = list[Difference]()
    order = in_order_of(whole, units)
    order = None if order is None else apart_by_media(whole, units, order)
    if order is not None and order != [*range(len(units))]:
        units = [units[place] for place in order]
        if not getattr(trial.collate, "any_order", False):
            found += reordered(order)
    found += token_differences(whole, units, trial.pad)
    media = _media_next_to(trial, whole, units)
    doubts = [*map(NotNextTo, unread(whole, units)), *media.doubts]
    return NextTo([*((one, whole) for one in found), *media.found], doubts, media.chunks)


def _media_next_to(trial: Collator, whole: Batch, units: Sequence[Unit]) -> NextTo:
    """The media of the batch as one chunk of the batch that the rows alone give."""
    due = {key for unit in units for key in media_of(unit)}
    given = [key for key in whole.layout.media if key in whole.inputs]
    if not due:
        dummies = any(is_dummy(unit) for unit in units)
        every = tuple(range(len(units)))
        surplus = [] if dummies else given
        return NextTo([(SurplusTogether(key=key, samples=every), whole) for key in surplus], [])
    inputs = unpacked(whole)
    made = joined(inputs, units)
    batch = trial.read(made, numbers_of(units))
    keys = {key: value for key, value in inputs.items() if key in batch.layout}
    finder = RowFinder(batch.inputs, batch.layout, by_value=True)
    samples = range(len(batch))
    together = used_chunk(batch, finder, keys, samples)
    _, found, doubts = chunk_differences(batch, SlicerRun([together], len(batch)))
    media = [one for one in found if one.key in due]
    outcomes = {one.key: one.outcome for one in media}
    unsure: list[Doubt] = [
        NotNextTo(key) if isinstance(one, Unmatched) else one
        for key, one in doubts.items()
        if key in due
    ]
    if not media:
        return NextTo([], unsure)
    parts = pieces(keys, batch)
    calls = [used_chunk(batch, finder, one, range(s, s + 1)) for s, one in enumerate(parts)]
    reports, each, _ = chunk_differences(batch, SlicerRun(calls, 1))
    by_sample = [one for one in each if one.key in outcomes and one.samples]
    silent = {key for key in outcomes if key not in {one.key for one in by_sample}}
    shown = [_as_whole(one, outcomes[one.key]) for one in by_sample]
    shown += [one for one in media if one.key in silent]
    return NextTo([(one, batch) for one in shown], unsure, tuple(reports))


def _as_whole(one: Difference, outcome: Outcome) -> Difference:
    return replace(one, outcome=outcome, cause=None)


def _read(trial: Collator, inputs: dict[str, Any], batches: Sequence[Batch] | None) -> Batch:
    """The batch of all rows, with the counts that the rows give alone."""
    counts: dict[str, list[int]] = {}
    units = [Unit(one, sample) for one in batches or () for sample in range(len(one))]
    if units and len(units) == len(inputs.get(TEXT, ())):
        text_only = all(is_dummy(unit) or not media_of(unit) for unit in units)
        counts = {} if text_only else numbers_of(units)
    with suppress(BadInput):
        first = trial.read(inputs, counts)
        if batches is None or len(first) != len(units) or not counts:
            return first
        own = units_of(batches, first)
        order = in_order_of(first, own)
        counts = numbers_of(own if order is None else [own[place] for place in order])
    with suppress(BadInput):
        return trial.read(inputs, counts)
    return trial.read(inputs)  # rows were lost or added: the counts fit what the rows give alone


def _read_one(trial: Collator, tensors: Tensors) -> Batch:
    """The batch of one row: all media are its sample's, if it has one sample."""
    read = trial.read(tensors.inputs)
    given = all_its_own(read)
    return trial.read(tensors.inputs, given) if given else read


def _varying(
    trial: Collator, rows: Sequence[Any], singles: Sequence[Alone], together: Mapping[str, Any]
) -> tuple[str, ...]:
    """Keys that are other ones when the same rows are collated again, with other random numbers.

    All rows together and each of them alone, some times: what is random may happen rarely.
    """
    found = set[str]()
    alone = [([row], one.batch.inputs) for row, one in zip(rows, singles, strict=True) if one.batch]
    for seed in range(1, TIMES + 1):
        for some, first in ((rows, together), *alone):
            with suppress(Exception):
                again = tensors_of(trial.again(some, seed=seed), len(some), trial.dims).inputs
                found |= {key for key, value in first.items() if _differ(value, again.get(key))}
    return tuple(sorted(found))


def _differ(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return False
    return one.shape != other.shape or not torch.equal(one, other)


def _with(
    report: Report,
    batch: Batch,
    found: Sequence[Said],
    doubts: Sequence[Doubt],
    *,
    compared: bool,
) -> Report:
    """The report on the batch, with what its rows alone show."""
    said = tuple(as_collated(one, of) for one, of in found)
    samples = {s for one, _ in found if one.key not in (None, "labels") for s in one.samples}
    kept = tuple(one for one in report.mismatches if not _is_said(one, samples, said))
    keys = {one.key for one, _ in found}  # media that could not be counted: the rows alone say why
    told = {one.message for one in batch.ambiguities if not keys.isdisjoint(one.keys)}
    doubted = tuple(text for text in report.ambiguities if text not in told)
    wrong = {one.key for one in kept}
    doubts = [one for one in doubts if not (isinstance(one, NotNextTo) and one.key in wrong)]
    what = f"{number(len(batch.layout), 'key')} of {number(len(batch), 'sample')}"
    against = "each row collated alone" if compared else None
    return replace(
        report,
        mismatches=(*said, *kept),
        ambiguities=(*doubted, *map(doubt, doubts)),
        compared=(Compared(what, against), *report.compared),
    )


def _is_said(one: Mismatch, samples: set[int], named: Sequence[Mismatch]) -> bool:
    """Whether a mismatch of the batch itself follows from those next to the rows alone."""
    if not named:
        return False
    if one.key == "labels":
        labelled = {s for other in named if other.key == "labels" for s in other.samples}
        return one.cause in OF_OTHERS and not labelled.isdisjoint(one.samples)
    if one.code == "VLM014":
        placed = {s for other in named if other.key == one.key for s in other.samples}
        return not placed.isdisjoint(one.samples)
    lost = {other.key for other in named if other.code in ("VLM003", "VLM004")}
    if one.code == "VLM003":
        return one.key in lost
    return one.code == "VLM010" and (not one.samples or not samples.isdisjoint(one.samples))


def _raised(error: Exception, *, alone: bool) -> CollatorRaised:
    said = one_line(error, MOST_OF_ERROR)
    return CollatorRaised(error=type(error).__name__, said=said, place=place_of(error), alone=alone)


def _bare(samples: int, *found: Difference, error: Exception | None = None) -> Report:
    """The report where no batch could be read."""
    return Report(
        family="unknown",
        layout={},
        counts={"sample": (1,) * samples},
        evidence={"sample": "rows"},
        chunk_size=None,
        chunks=(),
        mismatches=tuple(as_collated(one, None) for one in found),  # pyright: ignore[reportArgumentType]
        error=error,
    )
