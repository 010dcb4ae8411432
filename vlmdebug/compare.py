"""Planned against used: the rules by which a chunk is judged.

Everything here is arithmetic on row numbers. Who ran the slicer and how its rows were
recognised (`vlmdebug.tracing`) does not matter; every way of watching code ends here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from vlmdebug import wording
from vlmdebug.alone import batch_mismatches, report_of, unsettled_of
from vlmdebug.batch import Batch
from vlmdebug.cut_causes import Causes
from vlmdebug.judge import Judge
from vlmdebug.mismatch import Mismatch
from vlmdebug.report import ChunkReport, Report
from vlmdebug.used import Run


def compare(batch: Batch, run: Run, *, alone: bool = True) -> Report:
    """Judge every chunk of `run`, then the whole of it, then the batch `alone`."""
    reports: list[ChunkReport] = []
    mismatches: list[Mismatch] = []
    unsettled = {text: text for text in unsettled_of(batch)}
    causes = Causes(batch, run)
    for index, chunk in enumerate(run.chunks):
        judge = Judge(batch, run, index, chunk, causes)
        reports.append(judge.report())
        mismatches += judge.mismatches
        for key, message in judge.unsettled.items():
            unsettled.setdefault(key, message)
    mismatches = _with_stale_lookups(batch, run, mismatches)
    mismatches += _raised(batch, run)
    mismatches += _order(batch, run, reports)
    mismatches += batch_mismatches(batch) if alone and not run.partial else []
    return report_of(batch, reports, mismatches, list(unsettled.values()), run)


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


def _raised(batch: Batch, run: Run) -> list[Mismatch]:
    error = run.error
    if error is None:
        return []
    message = wording.raised(error, run.error_place, len(run.chunks), whole=run.refuses_whole)
    if isinstance(error, KeyError) and error.args and error.args[0] in run.asked:
        message = f"{message}\n{wording.keys_of(batch)}"
    return [Mismatch("VLM008", message, chunk=len(run.chunks), silent=False)]


def _order(batch: Batch, run: Run, reports: Sequence[ChunkReport]) -> list[Mismatch]:
    """Samples over all chunks: each as often as it should come, in the batch's order."""
    if run.partial or any(chunk.embedded for chunk in run.chunks):
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
    if list(visited) == sorted(visited):
        return None
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
