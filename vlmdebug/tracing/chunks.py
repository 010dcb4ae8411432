"""The rows of everything that one call of a model is handed.

`input_ids` first: they say which samples the chunk holds, and so which rows of every other key are
expected where several have equal values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from vlmdebug.batch import BOOKKEEPING, Batch
from vlmdebug.errors import AmbiguousError
from vlmdebug.plan import Rows
from vlmdebug.tracing.columns import Columns, Realigned
from vlmdebug.tracing.identity import identified
from vlmdebug.tracing.made import made_keys
from vlmdebug.tracing.rows import RowFinder
from vlmdebug.used import Made, Used, UsedChunk


def used_chunk(
    batch: Batch, finder: RowFinder, given: Mapping[str, Any], planned_samples: range
) -> UsedChunk:
    """The rows of everything one call is given."""
    chunk = _Chunk(batch, finder, given, planned_samples)
    names = sorted(given.keys(), key=lambda key: key != "input_ids")  # samples first
    keys = {key: chunk.used(key) for key in names if key not in BOOKKEEPING}
    return UsedChunk(
        {key: used for key, used in keys.items() if used is not None},
        chunk.placeholders,
        chunk.clips,
        chunk.made,
        chunk.needs_mask,
    )


class _Chunk:
    """One call, and what its `input_ids` say once they were looked at.

    Attributes:
        samples: The samples it holds; those planned where `input_ids` cannot tell.
        width: Columns of its `input_ids`.
        columns: Tells whether other keys have the columns of its `input_ids`.
        realigned: The same, where padding was moved row by row.
    """

    def __init__(
        self, batch: Batch, finder: RowFinder, given: Mapping[str, Any], planned_samples: range
    ) -> None:
        self.batch, self.finder, self.given = batch, finder, given
        self.samples: Rows | range = planned_samples
        self.width: int | None = None
        self.columns: Columns | None = None
        self.realigned: Realigned | None = None
        self.placeholders: int | None = None
        self.clips: dict[str, int] = {}

    def used(self, key: str) -> Used | None:
        """What one key holds; None where that is no tensor and nothing of the batch's."""
        if isinstance(self.batch.inputs.get(key), list) and key in self.batch.layout:
            return _listed(self.batch, key, self.given[key], self._planned(key))
        value = _numbers(self.given[key])
        if _is_tensor(value):
            return self._ids(value) if key == "input_ids" else self._used(key, value)
        if isinstance(value, (list, tuple)) and key in self.batch.layout:
            return Used(None, len(value))
        return None

    @property
    def made(self) -> dict[str, Made]:
        """Keys of this call that the batch does not have and that follow from others."""
        told = self.samples if isinstance(self.samples, Rows) else None
        return made_keys(self.batch, self.given, None if told is None else list(told))

    @property
    def needs_mask(self) -> bool | None:
        """Whether the columns of its `input_ids` need a mask that was left out."""
        if self.columns is None or self.given.get("attention_mask") is not None:
            return None
        return self.columns.need_mask()

    def _ids(self, ids: Any) -> Used:
        rows, source = self.finder.rows("input_ids", ids, partial(self._by_text, ids))
        if source is None and (rows is None or rows.foreign):
            realigned = Realigned.of(self.batch, ids, self.given.get("attention_mask"))
            found = self._identified(realigned.alike()) if realigned else None
            if found is not None:
                self.realigned, rows = realigned, found
        told = rows if source is None and rows is not None and not rows.foreign else None
        self.width = ids.shape[-1] if len(ids.shape) == 2 else None
        if told is not None:
            self.samples = told
            if self.width is not None and self.realigned is None:
                self.columns = Columns(self.batch, ids, told)
        is_slice = self.finder.is_slice("input_ids", ids)
        self.placeholders = _placeholders(self.batch, ids, told, is_slice)
        self.clips = _clips(self.batch, ids, told, is_slice)
        length = ids.shape[0] if len(ids.shape) else 1
        return Used(rows, length, source, columns=self.width, dims=len(ids.shape))

    def _by_text(self, ids: Any) -> Rows | None:
        """The samples of a copy of `input_ids`; other keys tell those of equal text apart."""
        options = self.finder.alike("input_ids", ids)
        found = self._identified(options) if options is not None else None
        return found if found is not None else self._planned("input_ids")

    def _identified(self, options: Sequence[Sequence[int]]) -> Rows | None:
        given, expected = self.given, list(self.samples)
        found = identified(options, expected, self.batch, self.finder, given)
        return None if found is None else Rows.of(found)

    def _used(self, key: str, value: Any) -> Used:
        axis, shape = self.batch.layout.get(key), value.shape
        if self.realigned is not None and key in self.batch.token_dims:
            return self._realigned(self.realigned, key, value)
        rows, source = self.finder.rows(key, value, partial(self._planned, key))
        told = rows if source is None and rows is not None and not rows.foreign else None
        at = self.batch.token_dims.get(key)
        wide = shape[at] if at is not None and len(shape) > at else None
        in_step = None
        if wide is not None and told is not None and self.columns is not None:
            in_step = self.columns.in_step(key, value, told)
        dim = axis.dim if axis else 0
        inner = None
        if axis is not None and axis.padded and len(shape) > axis.padded_dim:
            inner = shape[axis.padded_dim]
        return Used(
            rows,
            shape[dim] if len(shape) > dim else 1,
            source,
            inner,
            fits=axis is None or _fits(self.batch, key, value, self.width, in_step),
            columns=wide,
            in_step=in_step is not False,
            dims=len(shape),
        )

    def _realigned(self, realigned: Realigned, key: str, value: Any) -> Used:
        """A key beside `input_ids` whose padding was moved: told by its real tokens, if at all."""
        shape, ids = tuple(value.shape), tuple(self.given["input_ids"].shape)
        if shape != ids or not isinstance(self.samples, Rows):
            return Used(None, shape[0] if shape else 1, dims=len(shape))
        in_step = realigned.in_step(key, value, self.samples)
        return Used(self.samples, shape[0], columns=shape[1], in_step=in_step, dims=2)

    def _planned(self, key: str) -> Rows | None:
        if key not in self.batch.layout:
            return None
        try:
            return self.batch.planned(key, self.samples).rows
        except (AmbiguousError, IndexError):
            return None


def _listed(batch: Batch, key: str, value: Any, planned: Rows | None) -> Used:
    """The rows of a list, told by its items: those planned, if they are what is there."""
    if not isinstance(value, (list, tuple)):
        return Used(None, len(value) if hasattr(value, "__len__") else 1)
    source = batch.inputs[key]
    if planned is not None and len(planned) == len(value):
        if all(source[row] is item for row, item in zip(planned, value, strict=True)):
            return Used(planned, len(value))
    places = {id(item): row for row, item in enumerate(source)}
    if len(places) < len(source) or any(id(item) not in places for item in value):
        return Used(None, len(value))  # equal items, or copies of them
    return Used(Rows.of([places[id(item)] for item in value]), len(value))


def _numbers(value: Any) -> Any:
    """A list of numbers as an array, `image_sizes.tolist()` for instance; all else as it is."""
    first = value
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    if first is value or not isinstance(first, (int, float)):
        return value
    try:
        return np.asarray(value)
    except ValueError:  # rows of several lengths
        return value


def _fits(batch: Batch, key: str, value: Any, width: int | None, in_step: bool | None) -> bool:
    """Whether the dimensions beside the rows' are the batch's own.

    There are as many columns of tokens as in the chunk's `input_ids`, `width`, or they are judged
    by themselves (`in_step`). The dimension that the layout pads is left out where it is known how
    far it must reach.
    """
    axis, whole, given = batch.layout[key], batch.inputs[key].shape, value.shape
    if len(given) != len(whole):
        return False
    tokens = batch.token_dims.get(key)
    if axis.dim == 0 and given[1:] == whole[1:] and (in_step or width is None or tokens is None):
        return True
    expected = list(whole)
    if width is not None and tokens is not None:
        expected[tokens] = given[tokens] if in_step is not None else width
    reaches = axis.unit == "sample" and axis.padded in batch.counts
    skipped = axis.padded_dim if reaches else axis.dim
    return all(
        given[index] == size
        for index, size in enumerate(expected)
        if index not in (axis.dim, skipped)
    )


def _placeholders(batch: Batch, ids: Any, rows: Rows | None, is_slice: bool) -> int | None:
    """Placeholder tokens of the chunk's own `input_ids`; a copy's columns may have been moved."""
    whole = len(ids.shape) == 2 and ids.shape[1] == batch.inputs["input_ids"].shape[1]
    if whole and rows is not None and not rows.foreign:
        if is_slice or batch.image_token_id is None:
            return batch.placeholders_of(rows)
    if batch.image_token_id is None:
        return None
    return int((ids == batch.image_token_id).sum())


def _clips(batch: Batch, ids: Any, rows: Rows | None, is_slice: bool) -> dict[str, int]:
    """Placeholder tokens of video and audio clips, where they can be counted."""
    found: dict[str, int] = {}
    whole = len(ids.shape) == 2 and ids.shape[1] == batch.inputs["input_ids"].shape[1]
    for stream in batch.streams:
        if whole and is_slice and rows is not None and not rows.foreign and stream.placeholders:
            found[stream.unit] = sum(stream.placeholders[row] for row in rows)
        elif stream.token_id is not None:
            found[stream.unit] = int((ids == stream.token_id).sum())
    return found


def _is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "data_ptr")
