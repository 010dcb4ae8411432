"""ExpectedRows against used: the rules by which a chunk is judged.

Everything here is arithmetic on row numbers. Who ran the slicer and how its rows were
recognised (`vlmdebug.tracking`) does not matter; every way of watching code ends here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from vlmdebug.checking.chunk import ChunkChecker
from vlmdebug.checking.cut_causes import Causes
from vlmdebug.checking.doubts import Doubt
from vlmdebug.checking.findings import (
    Because,
    Cause,
    Difference,
    Dropped,
    Reordered,
    Repeated,
    SlicerRaised,
    StaleLookup,
)
from vlmdebug.checking.report import Report
from vlmdebug.checking.text_doubts import doubt
from vlmdebug.checking.whole_batch import batch_differences, doubts_alone, report_of, unsettled_of
from vlmdebug.core.batch import Batch
from vlmdebug.core.observed import SlicerRun
from vlmdebug.core.record import ChunkReport
from vlmdebug.safe import one_line

MOST_OF_ERROR = 500


def compare(batch: Batch, run: SlicerRun) -> Report:
    """Check every chunk of `run`, then the whole of it, then the batch alone."""
    reports, found, doubts = _all_differences(batch, run)
    unsettled = (unsettled_of if run.partial else doubts_alone)(batch)
    found += [] if run.partial else batch_differences(batch)
    return report_of(batch, reports, found, _ambiguities(unsettled, doubts), run)


def compare_cuts(batch: Batch, run: SlicerRun) -> Report | None:
    """The same of a batch that is sound by itself; None where nothing at all is to be reported."""
    reports, found, doubts = _all_differences(batch, run)
    ambiguities = _ambiguities(unsettled_of(batch), doubts)
    return report_of(batch, reports, found, ambiguities, run) if found or ambiguities else None


def _all_differences(
    batch: Batch, run: SlicerRun
) -> tuple[list[ChunkReport], list[Difference], dict[str, Doubt]]:
    """What `chunk_differences` finds, and what differs over all chunks."""
    reports, found, doubts = chunk_differences(batch, run)
    found = _with_stale_lookups(batch, run, found)
    return reports, [*found, *_raised(run), *_order(batch, run, reports)], doubts


def _ambiguities(unsettled: Iterable[str], doubts: Mapping[str, Doubt]) -> list[str]:
    """What is not known of the batch, and what was not compared, each once."""
    texts = {text: text for text in unsettled}
    texts |= {key: doubt(one) for key, one in doubts.items() if key not in texts}
    return list(texts.values())


def chunk_differences(
    batch: Batch, run: SlicerRun
) -> tuple[list[ChunkReport], list[Difference], dict[str, Doubt]]:
    """Every chunk of `run` on its own: the verdicts, what differs, and what was not compared."""
    reports: list[ChunkReport] = []
    found: list[Difference] = []
    doubts: dict[str, Doubt] = {}
    causes = Causes(batch, run)
    for index, chunk in enumerate(run.chunks):
        checker = ChunkChecker(batch, run, index, chunk, causes)
        reports.append(checker.report())
        found += checker.found
        for key, one in checker.doubts.items():
            doubts.setdefault(key, one)
    return reports, found, doubts


def _with_stale_lookups(
    batch: Batch, run: SlicerRun, found: Sequence[Difference]
) -> list[Difference]:
    """A missing name that the slicer looked up explains why it dropped a similar key."""
    dropped = list(dict.fromkeys(one.key for one in found if isinstance(one, Dropped)))
    result = list(found)
    for asked in run.missing_lookups if dropped else ():
        near = get_close_matches(asked, dropped, 1, cutoff=0.75)
        if not near or asked in batch.known:
            continue  # code for all layouts asks for keys that this one lacks
        places = [i for i, m in enumerate(result) if isinstance(m, Dropped) and m.key == near[0]]
        cause = Cause(Because.LOOKS_FOR, asked)
        for place in places:
            result[place] = replace(result[place], cause=cause)
        first = result[places[0]]
        stale = StaleLookup(
            key=asked, samples=first.samples, outcome=first.outcome, cause=cause, meant=near[0]
        )
        result.insert(places[0], stale)
    return result


def _raised(run: SlicerRun) -> list[SlicerRaised]:
    error = run.error
    if error is None:
        return []
    missing = (
        isinstance(error, KeyError) and bool(error.args) and error.args[0] in run.missing_lookups
    )
    return [
        SlicerRaised(
            chunk=len(run.chunks),
            error=type(error).__name__,
            said=one_line(error, MOST_OF_ERROR),
            place=run.error_place,
            whole=run.refuses_whole,
            asked=missing,
        )
    ]


def _order(batch: Batch, run: SlicerRun, reports: Sequence[ChunkReport]) -> list[Difference]:
    """Samples over all chunks: each as often as it should come, in the batch's order."""
    if run.partial or not all(chunk.identified for chunk in run.chunks):
        return []
    visited = [sample for report in reports for sample in report.samples]
    times = Counter(visited)
    wanted = run.expand_size or _usual(times)
    ended = run.error is not None
    counted = [(s, times[s]) for s in range(len(batch)) if not (ended and times[s] < wanted)]
    wrong = tuple((sample, count) for sample, count in counted if count != wanted)
    if wrong:
        return [
            Repeated(
                samples=tuple(sample for sample, _ in wrong),
                times=wrong,
                total=len(batch),
                wanted=wanted,
                expand_size=run.expand_size,
                packed=any(chunk.spans is not None for chunk in run.chunks),
            )
        ]
    packed = any(chunk.spans is not None for chunk in run.chunks)
    misplaced = None if run.any_order or packed else _first_out_of_order(visited)
    if misplaced is not None:
        moved = visited[misplaced]
        return [Reordered(samples=tuple(visited), position=misplaced, moved=moved)]
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
