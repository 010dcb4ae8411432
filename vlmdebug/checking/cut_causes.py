"""By what a slicer seems to have cut, read off the rows of all its chunks.

One wrong chunk fits many causes; a cause is named only if it explains every chunk of the key, those
that came out right and those without it too.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlmdebug.checking.findings import Because, Cause
from vlmdebug.core.batch import Batch
from vlmdebug.core.lazy import lazy
from vlmdebug.core.observed import ObservedCall, ObservedKey, SlicerRun
from vlmdebug.core.rows import Counts, Rows, chunk_bounds

WITHOUT_ZEROS = Cause(Because.WITHOUT_ZEROS)


def samples_of(batch: Batch, run: SlicerRun, index: int, chunk: ObservedCall) -> Rows:
    """The samples of a chunk, by its `input_ids`; the expected ones if these are unknown."""
    ids = chunk.keys.get("input_ids")
    if ids is not None and ids.rows is not None and ids.source is None and not ids.rows.foreign:
        return ids.rows
    return Rows(chunk_bounds(len(batch), run.chunk_size)[index : index + 1])


class Causes:
    """What the wrong rows of a run have in common."""

    batch: Batch
    run: SlicerRun

    def __init__(self, batch: Batch, run: SlicerRun) -> None:
        self.batch, self.run = batch, run
        self._found: dict[str, tuple[Cause, ...]] = {}

    def of(self, key: str) -> tuple[Cause, ...]:
        """`WITHOUT_ZEROS`, or the units with offsets by which all rows of `key` may be cut."""
        if key not in self._found:
            self._found[key] = self._common(key)
        return self._found[key]

    def _common(self, key: str) -> tuple[Cause, ...]:
        unit = self.batch.layout[key].unit
        found: list[str] | None = None
        candidates = [name for name in self.batch.counts if name != unit]
        for samples, chunk in self._chunks:
            used = chunk.keys.get(key)
            if not samples or (used is not None and used.rows is None):
                continue
            if used is None and not self._owns(key, samples):
                continue
            if used is None or not candidates:
                found = []
                break
            found = candidates = self._fits(key, samples, used, candidates)
        if found:
            return tuple(Cause(Because.CUT_PER, unit) for unit in found)
        return (WITHOUT_ZEROS,) if self._lacks_zeros(key) else ()

    def _lacks_zeros(self, key: str) -> bool:
        """Whether every chunk, right ones too, has the rows of counts in which no 0 stands."""
        own = self.batch.counts[self.batch.layout[key].unit]
        kept = Counts([count for count in own if count], "")
        if len(kept) == len(own) or self.run.partial:
            return False
        for samples, chunk in self._chunks:
            used = chunk.keys.get(key)
            ends = (samples[0], samples[-1] + 1) if samples else (0, 0)
            start, stop = (kept.offsets[min(end, len(kept))] for end in ends)
            if (used.rows if used is not None else Rows()) != Rows([(start, stop)]):
                return False
        return True

    @lazy
    def _chunks(self) -> list[tuple[Rows, ObservedCall]]:
        return [
            (samples_of(self.batch, self.run, index, chunk), chunk)
            for index, chunk in enumerate(self.run.chunks)
        ]

    def _owns(self, key: str, samples: Rows) -> bool:
        counts = self.batch.counts[self.batch.layout[key].unit]
        return any(counts[sample] for sample in samples if 0 <= sample < len(counts))

    def _fits(
        self, key: str, samples: Rows, used: ObservedKey, candidates: Sequence[str]
    ) -> list[str]:
        """Those of the units with offsets by which these rows of one chunk may be cut."""
        first, last = samples[0] if samples else 0, samples[-1] + 1 if samples else 0
        if not samples or first < 0:
            return []
        own = self.batch.counts[self.batch.layout[key].unit]
        ends = {last, first + self.run.chunk_size}
        return [
            unit
            for unit in candidates
            if any(
                used.rows == _cut(self.batch.counts[unit], unit, first, end, own.total)
                for end in (ends if unit == "sample" else {last})
            )
        ]


def _cut(counts: Counts, unit: str, first: int, end: int, total: int) -> Rows:
    start = counts.offsets[first]
    stop = end if unit == "sample" else counts.offsets[min(end, len(counts))]
    return Rows([(min(start, total), min(stop, total))])
