"""What interpreted code passes on, judged as every other call is."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmdebug.checking.chunk import ChunkChecker
from vlmdebug.checking.cut_causes import Causes
from vlmdebug.checking.findings import Difference, Dropped, WrongRows
from vlmdebug.core.batch import Batch
from vlmdebug.core.observed import ObservedCall, SlicerRun
from vlmdebug.core.rows import Rows
from vlmdebug.review.arrays import Tensor
from vlmdebug.review.entry import Entry
from vlmdebug.review.machine import MORE, Observed, Run
from vlmdebug.review.trials import Trial
from vlmdebug.tracking.observe import used_chunk
from vlmdebug.tracking.rows import RowFinder


@dataclass(frozen=True)
class Verdict:
    """What one key of the observed calls of one run comes to.

    Attributes:
        node: The code that took the rows; the call where they are whole.
        key: The key.
        trial: The batch.
        difference: What is wrong; None if nothing is.
        doubts: The unknown conditions on the way.
        text_only: Whether it is wrong only in calls without media.
    """

    node: ast.AST
    key: str
    trial: Trial
    difference: Difference | None
    doubts: tuple[str, ...]
    text_only: bool = False


@dataclass(frozen=True)
class _Judged:
    """A verdict without the conditions on the way to the call, which is number `call`."""

    call: int
    node: ast.AST
    key: str
    difference: Difference | None
    text_only: bool


class Verdicts:
    """The verdicts on the runs with one batch; what several runs pass on alike is judged once."""

    def __init__(self, trial: Trial, entry: Entry) -> None:
        self._trial, self._entry = trial, entry
        self._known: dict[object, list[_Judged]] = {}

    def of(self, run: Run) -> Iterator[Verdict]:
        """The verdict on each key that a run passes on, call by call."""
        by_node: dict[ast.AST, list[Observed]] = {}
        for one in run.observed:
            by_node.setdefault(one.node, []).append(one)
        for node, calls in by_node.items():
            same = node, frozenset(run.taken), *(call.content for call in calls)
            if same not in self._known:
                self._known[same] = [*_judged(calls, {*run.taken}, self._trial, self._entry)]
            for one in self._known[same]:
                doubts = calls[one.call].doubts
                yield Verdict(one.node, one.key, self._trial, one.difference, doubts, one.text_only)


def _judged(
    calls: Sequence[Observed], taken: set[str], trial: Trial, entry: Entry
) -> Iterator[_Judged]:
    batch = trial.batch
    givens = [_given(call.items, batch.inputs) for call in calls]
    finder = RowFinder(batch.inputs, batch.layout)
    chunks = [
        used_chunk(batch, finder, given, _samples(call, trial))
        for call, given in zip(calls, givens, strict=True)
    ]
    slicer_run = SlicerRun(chunks, trial.size, partial=True)
    causes = Causes(batch, slicer_run)
    media = {key for modality in batch.modalities.values() for key in modality.keys}
    width = np.shape(batch.inputs["input_ids"])[-1]
    for index, (call, given, chunk) in enumerate(zip(calls, givens, chunks, strict=True)):
        if np.shape(given.get("input_ids", ()))[-1:] > (width,):
            continue  # rows of several samples in one
        samples = _samples_of(call, chunk, index, trial)
        if samples is None:
            continue
        checker = ChunkChecker(batch, slicer_run, index, chunk, causes)
        checker.report()
        unknown = call.items.keys() - given.keys()
        wrong = {one.key: one for one in checker.found if one.key is not None}
        text_only = not any(trial.counts[sample] for sample in samples)
        for key, value in call.items.items():
            if key in media and key in given and key not in checker.doubts:
                node = value.cut if isinstance(value, Tensor) and value.cut else call.node
                yield _Judged(index, node, key, wrong.get(key), text_only)
        for key, one in wrong.items():
            if key in media - unknown - taken and _is_dropped(call, given, one, entry, batch):
                yield _Judged(index, call.node, key, one, text_only)


def _samples_of(
    call: Observed, chunk: ObservedCall, index: int, trial: Trial
) -> Sequence[int] | None:
    """The samples of a call; None if they cannot be known."""
    ids = chunk.keys.get("input_ids")
    if ids is None:
        return _samples(call, trial) if call.turn == index else None
    unknown = ids.rows is None or ids.rows.foreign or ids.source is not None
    return None if unknown else ids.rows


def _is_dropped(
    call: Observed, given: Mapping[str, Any], one: Difference, entry: Entry, batch: Batch
) -> bool:
    """Whether a key that the function names is left out, next to others of its modality."""
    if not isinstance(one, Dropped) or MORE in call.items or call.how == "step":
        return False
    if one.key not in entry.uses.passed | entry.uses.read:
        return False
    beside = {batch.of_key[key].name for key in given if key in batch.of_key}
    return batch.of_key[one.key].name in beside


def _samples(call: Observed, trial: Trial) -> range:
    """The samples of a step of a loop over all samples."""
    if call.turn is None:
        return range(0)
    start = call.turn * trial.size
    return range(start, min(start + trial.size, len(trial.counts)))


def _given(items: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays that a call gets; what is not known and what was computed is left out."""
    found: dict[str, Any] = {}
    for key, value in items.items():
        if isinstance(value, Tensor) and not value.computed:
            found[key] = value.array
        elif isinstance(value, (list, tuple)) and value and key in inputs:
            joined = _joined(value, np.ndim(inputs[key]) - 1)
            if joined is not None:
                found[key] = joined
    return found


def _joined(parts: Sequence[Any], dims: int) -> np.ndarray | None:
    """One array of a list with one tensor per row."""
    if not all(isinstance(part, Tensor) and not part.computed for part in parts):
        return None
    arrays = [part.array for part in parts]
    shapes = {array.shape for array in arrays}
    return np.stack(arrays) if len(shapes) == 1 and arrays[0].ndim == dims else None


def rows_of(difference: Difference) -> tuple[Rows | None, Rows | None, tuple[str, ...]]:
    """Expected and actual rows, and the units by which they seem to be cut."""
    cut_by = difference.cut_by if isinstance(difference, WrongRows) else ()
    return difference.expected, difference.actual, cut_by
