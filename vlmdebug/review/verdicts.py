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
from vlmdebug.core.observed import SlicerRun
from vlmdebug.core.rows import Rows
from vlmdebug.review.arrays import Tensor
from vlmdebug.review.entry import Entry
from vlmdebug.review.machine import Observed, Run
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


def verdicts(run: Run, trial: Trial, entry: Entry) -> Iterator[Verdict]:
    """The verdict on each key that a run passes on, call by call."""
    by_node: dict[ast.AST, list[Observed]] = {}
    for one in run.observed:
        by_node.setdefault(one.node, []).append(one)
    for calls in by_node.values():
        yield from _judged(calls, trial, entry)


def _judged(calls: Sequence[Observed], trial: Trial, entry: Entry) -> Iterator[Verdict]:
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
        ids = chunk.keys.get("input_ids")
        if ids is None and call.turn == index:
            samples: Sequence[int] = _samples(call, trial)
        elif ids is None or ids.rows is None or ids.rows.foreign or ids.source is not None:
            continue
        else:
            samples = ids.rows
        checker = ChunkChecker(batch, slicer_run, index, chunk, causes)
        checker.report()
        unknown = call.items.keys() - given.keys()
        wrong = {one.key: one for one in checker.found if one.key is not None}
        text_only = not any(trial.counts[sample] for sample in samples)
        for key, value in call.items.items():
            if key in media and key in given and key not in checker.doubts:
                node = value.cut if isinstance(value, Tensor) and value.cut else call.node
                yield Verdict(node, key, trial, wrong.get(key), call.doubts, text_only)
        beside = {batch.of_key[key].name for key in given if key in media}
        for key, one in wrong.items():
            named = key in entry.uses.passed | entry.uses.read and key in media - unknown
            if (
                isinstance(one, Dropped)
                and named
                and call.how != "step"
                and batch.of_key[key].name in beside
            ):
                yield Verdict(call.node, key, trial, one, call.doubts, text_only)


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
