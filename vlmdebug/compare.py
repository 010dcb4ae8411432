"""Planned against used: the rules by which a chunk is judged.

Everything here is arithmetic on row numbers. Who ran the slicer and how its rows were
recognised (`vlmdebug.tracing`) does not matter; every way of watching code ends here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from vlmdebug import wording
from vlmdebug.batch import Batch
from vlmdebug.errors import AmbiguousError
from vlmdebug.judge import Judge, images_of
from vlmdebug.mismatch import Mismatch
from vlmdebug.outcome import features_of
from vlmdebug.report import ChunkReport, KeyReport, Report
from vlmdebug.used import Run


def compare(batch: Batch, run: Run) -> Report:
    """Judge every chunk of `run`, then the whole of it, then the batch alone."""
    reports: list[ChunkReport] = []
    mismatches: list[Mismatch] = []
    unsettled: dict[str, str] = {a.message: a.message for a in batch.ambiguities}
    for index, chunk in enumerate(run.chunks):
        judge = Judge(batch, run, index, chunk)
        reports.append(judge.report())
        mismatches += judge.mismatches
        for key, message in judge.unsettled.items():
            unsettled.setdefault(key, message)
    mismatches = _with_stale_lookups(batch, run, mismatches)
    mismatches += _raised(run)
    mismatches += _order(batch, run, reports)
    mismatches += [] if run.partial else batch_mismatches(batch)
    return _report(batch, reports, mismatches, list(unsettled.values()), run)


def check_alone(batch: Batch, *, one_chunk: bool = False) -> Report:
    """The batch without a slicer: planned rows, placeholders and features.

    A line per sample, or one for all of them.
    """
    report = planned_report(batch, one_chunk=one_chunk)
    return replace(
        report,
        mismatches=tuple(batch_mismatches(batch)),
        ambiguities=tuple(doubts_alone(batch)),
    )


def planned_report(batch: Batch, *, one_chunk: bool = False) -> Report:
    """The rows each sample owns, or all of them together; nothing is looked for."""
    every = range(len(batch))
    reports = [
        _planned_chunk(batch, samples)
        for samples in ([every] if one_chunk else [[s] for s in every])
    ]
    return _report(batch, reports, [], [], None)


def doubts_alone(batch: Batch) -> list[str]:
    """What cannot be told of the batch without a slicer."""
    messages = [ambiguity.message for ambiguity in batch.ambiguities]
    if not messages and _steps_unknown(batch):
        messages = [wording.steps_unknown(batch)]
    messages += [
        wording.more_columns(key, width, batch.inputs["input_ids"].shape[-1])
        for key, width in batch.columns.items()
        if width > batch.inputs["input_ids"].shape[-1]
    ]
    messages += [
        wording.clips_unknown(stream.unit)
        for stream in batch.streams
        if not messages and batch.stream_step(stream, []) is None
    ]
    return messages


def _planned_chunk(batch: Batch, samples: Sequence[int]) -> ChunkReport:
    keys = {}
    for key in batch.layout:
        try:
            planned = batch.planned(key, samples)
        except AmbiguousError:
            keys[key] = KeyReport("cannot tell", None, None)
        else:
            state = "absent" if planned.presence == "absent" else "planned"
            keys[key] = KeyReport(state, planned.rows, None)
    placeholders, features = batch.placeholders_of(samples), features_of(batch, samples)
    return ChunkReport(tuple(samples), images_of(batch, samples), placeholders, features, keys)


def _steps_unknown(batch: Batch) -> bool:
    """Whether placeholders and features of a batch with media cannot be compared."""
    known = batch.features is not None and batch.placeholders is not None
    return bool(batch.image_keys) and batch.layout.checks_counts and not known


def batch_mismatches(batch: Batch) -> list[Mismatch]:
    """Samples whose placeholder tokens are not as many as their images' features."""
    if batch.ambiguities:
        return _totals_mismatch(batch)
    found = _short_columns(batch)
    features, placeholders = batch.features_by_sample or (), batch.placeholders or ()
    for sample, (made, written) in enumerate(zip(features, placeholders, strict=False)):
        if made == written:
            continue
        silent = not batch.image_keys or (
            sum(features) == sum(placeholders) and not batch.layout.strict
        )
        message = wording.out_of_step(batch, sample, written, made)
        found.append(Mismatch("VLM010", message, key="input_ids", samples=(sample,), silent=silent))
    seen = {sample for mismatch in found for sample in mismatch.samples}
    return found + _marked_otherwise(batch, seen) + _clip_mismatches(batch)


def _short_columns(batch: Batch) -> list[Mismatch]:
    """Keys that lie along the tokens, but not along all of them."""
    wide = batch.inputs["input_ids"].shape[-1]
    return [
        Mismatch("VLM011", wording.short_columns(key, width, wide), key=key, cause="columns")
        for key, width in batch.columns.items()
        if width < wide
    ]


def _marked_otherwise(batch: Batch, seen: Collection[int]) -> list[Mismatch]:
    """Samples whose placeholder tokens two sources count differently."""
    if batch.marked is None or batch.placeholders is None:
        return []
    return [
        Mismatch(
            "VLM010",
            wording.marked_otherwise(sample, counted, marked),
            key="mm_token_type_ids",
            samples=(sample,),
        )
        for sample, (counted, marked) in enumerate(
            zip(batch.placeholders, batch.marked, strict=True)
        )
        if counted != marked and sample not in seen
    ]


def _clip_mismatches(batch: Batch) -> list[Mismatch]:
    found = []
    for stream in batch.streams:
        for sample in range(len(batch)):
            step = batch.stream_step(stream, [sample])
            if step is not None and step[0] != step[1]:
                message = wording.clips_out_of_step(stream.unit, sample, *step)
                found.append(Mismatch("VLM010", message, key="input_ids", samples=(sample,)))
    return found


def _totals_mismatch(batch: Batch) -> list[Mismatch]:
    """Where nobody knows which images are whose, the totals can still be out of step."""
    if batch.features is None or batch.placeholders is None or not batch.layout.checks_counts:
        return []
    placeholders, features = sum(batch.placeholders), sum(batch.features)
    if placeholders == features:
        return []
    message = wording.totals_out_of_step(placeholders, features)
    return [Mismatch("VLM010", message, key="input_ids", silent=False)]


def _with_stale_lookups(batch: Batch, run: Run, found: Sequence[Mismatch]) -> list[Mismatch]:
    """A name the slicer asked for in vain is why it dropped the key of nearly that name."""
    dropped = dict.fromkeys(m.key for m in found if m.code == "VLM003" and m.key)
    result = list(found)
    for asked in run.asked if dropped else ():
        near = get_close_matches(asked, list(dropped), 1, cutoff=0.75)
        if not near or asked in batch.known:
            continue  # code for all layouts asks for keys that this one lacks
        cause = f"looks for {asked}"
        result = [
            replace(m, cause=cause) if m.code == "VLM003" and m.key == near[0] else m
            for m in result
        ]
        first = next(i for i, m in enumerate(result) if m.cause == cause)
        message = wording.stale_lookup(batch, asked, near[0])
        stale = replace(
            result[first], code="VLM004", message=message, key=asked, planned=None, chunk=None
        )
        result.insert(first, stale)
    return result


def _raised(run: Run) -> list[Mismatch]:
    if run.error is None:
        return []
    message = wording.raised(run.error, run.error_place, len(run.chunks))
    return [Mismatch("VLM008", message, chunk=len(run.chunks), silent=False)]


def _order(batch: Batch, run: Run, reports: Sequence[ChunkReport]) -> list[Mismatch]:
    """Samples over all chunks: each as often as it should come, in the batch's order."""
    if run.partial:
        return []
    visited = [sample for report in reports for sample in report.samples]
    times = Counter(visited)
    wanted = run.expand_size or _usual(times)
    ended = run.error is not None
    counted = [(s, times[s]) for s in range(len(batch)) if not (ended and times[s] < wanted)]
    wrong = {sample: count for sample, count in counted if count != wanted}
    if wrong:
        message = wording.skipped_or_repeated(wrong, len(batch), wanted, run.expand_size)
        return [Mismatch("VLM006", message, samples=tuple(wrong), silent=True)]
    misplaced = None if run.any_order else _first_out_of_order(visited)
    if misplaced is not None:
        message = wording.reordered(misplaced, visited[misplaced])
        return [Mismatch("VLM007", message, samples=tuple(visited), silent=True)]
    return []


def _usual(times: Mapping[int, int]) -> int:
    """How often most samples came."""
    samples_by_count = Counter(times.values())
    return max(samples_by_count, key=lambda count: (samples_by_count[count], count), default=1)


def _first_out_of_order(visited: Sequence[int]) -> int | None:
    """Place of the first sample that came before an earlier one.

    Where each comes several times, whole batches may follow each other or copies of a sample: the
    first copies are in order then, and so are the second ones.
    """
    comings: list[list[int]] = []  # places in `visited` of first copies, of second ones, …
    times: Counter[int] = Counter()
    for place, sample in enumerate(visited):
        if times[sample] == len(comings):
            comings.append([])
        comings[times[sample]].append(place)
        times[sample] += 1
    for places in comings:
        samples = [visited[place] for place in places]
        for place, sample, due in zip(places, samples, sorted(samples), strict=True):
            if sample != due:
                return place
    return None


def _report(
    batch: Batch,
    chunks: Sequence[ChunkReport],
    mismatches: Sequence[Mismatch],
    ambiguities: Sequence[str],
    run: Run | None,
) -> Report:
    return Report(
        family=batch.layout.family,
        layout={key: str(axis) for key, axis in batch.layout.items()},
        counts={unit: tuple(count) for unit, count in batch.counts.items()},
        evidence={unit: count.evidence for unit, count in batch.counts.items()},
        chunk_size=run.chunk_size if run else None,
        chunks=tuple(chunks),
        mismatches=tuple(mismatches),
        ambiguities=tuple(ambiguities),
        slicer=run.slicer if run else None,
        error=run.error if run else None,
    )
