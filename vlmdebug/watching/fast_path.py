"""Correct chunks of a batch that was read already, identified by their memory.

Nearly every call of a loop is right. A few numbers show it: each key begins and ends where the rows
of the chunk's samples do. Nothing is called wrong here; chunks that are not clearly right are
checked in detail (`vlmdebug.checking.chunk`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch

from vlmdebug.checking.compare import compare
from vlmdebug.checking.report import Report
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import BOOKKEEPING, DERIVED, OPTIONS, TOKEN_KEYS
from vlmdebug.core.observed import Made, ObservedCall, ObservedKey, SlicerRun
from vlmdebug.core.rows import rows_of
from vlmdebug.tracking.deltas import DELTAS
from vlmdebug.tracking.made import made_keys
from vlmdebug.watching.tensor_refs import TensorRef

Tensors = Mapping[str, torch.Tensor]
TOKENS = TOKEN_KEYS - {"position_ids", DELTAS, "inputs_embeds"}
BESIDE = OPTIONS | BOOKKEEPING.keys()
"""Arguments that are not part of a batch."""
MADE = DERIVED - TOKENS
"""Arguments that a program makes for each call."""


class _Rows(NamedTuple):
    """The rows of each sample; `owned`: by this count the key is needed or absent."""

    mark: TensorRef
    offsets: Sequence[int]
    owned: Sequence[int] | None


class FastPath:
    """Finds the clearly right chunks of one batch; it keeps no tensor.

    `matches`: placeholders and features of all samples agree, as far as they are known.
    """

    def __init__(self, batch: Batch, marks: Mapping[str, TensorRef], *, matches: bool) -> None:
        self._batch = batch
        odd = [False] * len(batch) if matches else _mismatched(batch)
        self._odd = (0, *accumulate(map(int, odd)))
        plain = all(key in marks and _is_plain(batch, key, marks[key]) for key in batch.layout)
        self._rows = {key: _rows(batch, key, marks[key]) for key in batch.layout if plain}

    def samples(self, tensors: Tensors) -> range | None:
        """Samples of a chunk that is clearly right, apart from the values of its `input_ids`."""
        ids = tensors["input_ids"]
        first = self._rows["input_ids"].mark.first_row(ids) if self._rows else None
        if first is None:
            return None
        last = first + len(ids)
        if last >= len(self._odd) or self._odd[first] != self._odd[last]:
            return None
        for key, rows in self._rows.items():
            owns = rows.owned is None or rows.owned[first] != rows.owned[last]
            if (key in tensors) != owns or not (owns or rows.mark.is_there()):
                return None
            if owns:
                start, stop = rows.offsets[first], rows.offsets[last]
                if rows.mark.first_row(tensors[key]) != start or len(tensors[key]) != stop - start:
                    return None
        samples = range(first, last)
        made = MADE.intersection(tensors)
        others = [key for key in tensors if key not in self._rows and key not in made]
        if not all(_is_beside(key, tensors[key], len(samples)) for key in others):
            return None
        if made and not all(one.right for one in self._made(tensors, samples)):
            return None
        return samples

    def _made(self, tensors: Tensors, samples: range) -> Iterable[Made]:
        found = made_keys(self._batch, tensors, samples)
        return [one for key, one in found.items() if key in MADE]

    def report(self, samples: range, keys: Mapping[str, object]) -> Callable[[], Report]:
        """A function that builds the report on such a chunk with these keys."""
        return partial(_report, self._batch, samples, (*keys,))


def _report(batch: Batch, samples: range, keys: Sequence[str]) -> Report:
    used = {}
    for key in filter(batch.layout.__contains__, keys):
        rows = rows_of(batch.counts[batch.layout[key].unit].offsets, samples)
        used[key] = ObservedKey(rows, len(rows))
    part = batch.part(samples)
    written = {name: batch.placeholders_of(part, name) for name in batch.modalities}
    known = {name: count for name, count in written.items() if count is not None}
    chunk = ObservedCall(used, known)
    return compare(batch, SlicerRun([chunk], len(samples), slicer="watched calls", partial=True))


def _rows(batch: Batch, key: str, mark: TensorRef) -> _Rows:
    unit, counts = batch.layout.given_with(key), batch.counts
    owned = None if unit is None else counts[unit].offsets
    return _Rows(mark, counts[batch.layout[key].unit].offsets, owned)


def _is_plain(batch: Batch, key: str, mark: TensorRef) -> bool:
    """Whether its rows are consecutive on dim 0, each long enough for its padding."""
    axis, media, (_, shape, strides) = batch.layout[key], batch.layout.media.get(key), mark.place
    units = {axis.unit} | ({media} if media is not None else set())
    if axis.dim or not units <= batch.counts.keys() or not shape or strides[0] <= 0:
        return False
    if axis.padded is None or axis.padded not in batch.counts:
        return True
    return len(shape) > axis.padded_dim and shape[axis.padded_dim] >= max(
        batch.counts[axis.padded], default=0
    )


def _mismatched(batch: Batch) -> list[bool]:
    """Samples with a different number of placeholder tokens than features of their own rows."""
    found = [False] * len(batch)
    for name, modality in batch.modalities.items():
        written, made = modality.placeholders, batch.features_by_sample[name]
        if written is not None and made is not None:
            pairs = zip(found, written, made, strict=True)
            found = [known or one != other for known, one, other in pairs]
    return found


def _is_beside(key: str, tensor: torch.Tensor, samples: int) -> bool:
    """Whether it is not part of the batch: an argument of another kind, or a copy of tokens."""
    if key not in TOKENS:
        return key in BESIDE
    return tensor._base is None and (tensor.ndim != 2 or len(tensor) == samples)
