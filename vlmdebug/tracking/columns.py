"""Columns of tokens: keys along `input_ids` must be trimmed and padded by the same columns.

Rows may be right while their columns are wrong, as in `input_ids[:, 9:]` with `attention_mask[:,
:-9]`. Columns are compared by value, so a cut that changes nothing is no mismatch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import CUT_TO_IDS
from vlmdebug.core.rows import Rows
from vlmdebug.core.tensors import to_numpy
from vlmdebug.tracking.rows import rows_by_value


class Realigned:
    """Tokens after their padding was moved to the other side or removed, row by row.

    Rows are identified by their real tokens, those that their own `attention_mask` marks.
    """

    def __init__(self, batch: Batch, ids: Any, mask: Any) -> None:
        self._batch = batch
        self._ours, self._theirs = _shown(batch.inputs["attention_mask"]), _shown(mask)
        self._width = max(int(mask.sum(axis=1).max()) for mask in (self._ours, self._theirs))
        ours = self._aligned(batch.inputs["input_ids"], self._ours)
        self._rows = rows_by_value(ours)
        self._ids = self._aligned(ids, self._theirs).astype(ours.dtype)

    @classmethod
    def of(cls, batch: Batch, ids: Any, mask: Any) -> Realigned | None:
        """None if batch or chunk has no mask of its own shape, or tokens attend to padding."""
        if batch.rules.shows_padding(batch.inputs):
            return None
        masks = ((batch.inputs["input_ids"], batch.inputs.get("attention_mask")), (ids, mask))
        for tokens, shows in masks:
            shape = tuple(getattr(shows, "shape", ()))
            if len(shape) != 2 or shape != tuple(tokens.shape) or 0 in shape:
                return None
        return cls(batch, ids, mask)

    def alike(self) -> list[list[int]]:
        """Samples with the same real tokens, for each row of the chunk's `input_ids`."""
        return [[*self._rows.get(row.tobytes(), ())] for row in self._ids]

    def matches(self, key: str, value: Any, rows: Rows) -> bool:
        """Whether `value` has the same value at each real token as these rows of `key`."""
        ours = self._aligned(self._batch.inputs[key], self._ours)[list(rows)]
        return np.array_equal(ours, self._aligned(value, self._theirs))

    def _aligned(self, values: Any, shown: np.ndarray) -> np.ndarray:
        """Real tokens of each row from the first column on, then 0, and their number."""
        table = to_numpy(values)
        aligned = np.zeros((len(table), self._width + 1), dtype=table.dtype)
        for row, (one, real) in enumerate(zip(table, shown, strict=True)):
            own = one[real]
            aligned[row, : len(own)], aligned[row, -1] = own, len(own)
        return aligned


def _shown(mask: Any) -> np.ndarray:
    return to_numpy(mask) != 0


class Columns:
    """The columns of one call, from its `input_ids`, which are these rows of the batch.

    Attributes:
        rows: The samples that `input_ids` hold.
        is_moved: Whether these differ from all columns of the batch, unchanged.
    """

    rows: Rows
    is_moved: bool

    def __init__(self, batch: Batch, rows: Rows, width: int, begins: list[int]) -> None:
        self._batch, self.rows, self._width = batch, rows, width
        self.is_moved = width != batch.inputs["input_ids"].shape[-1]
        # Columns of the batch where these may begin; below 0: after columns that were added.
        self._begins = begins

    @classmethod
    def of(
        cls,
        batch: Batch,
        ids: Any,
        told: Rows | None,
        expected: Callable[[], Rows | None],
    ) -> Columns | None:
        """None if these columns match no rows of the batch.

        `told`: the rows by memory or history.
        """
        width = ids.shape[-1]
        if width == batch.inputs["input_ids"].shape[-1]:
            return None if told is None or told.foreign else cls(batch, told, width, [0])
        for give in (lambda: told, expected):
            rows = give()
            if rows is None or rows.foreign or len(rows) != len(ids):
                continue
            columns = cls(batch, rows, width, [])
            columns._begins = columns._found("input_ids", ids, rows)
            if columns._begins:
                return columns
        return None

    @classmethod
    def moved(cls, batch: Batch, ids: Any, told: Rows | None, mask: Any) -> Columns | None:
        """The same if columns at one end were removed and others added at the other end.

        `told`: the rows by memory or history. If there are as many columns as before, the new ones
        must be padding by the chunk's own `mask`; rotated tokens are not padding.
        """
        if told is None or told.foreign or batch.rules.shows_padding(batch.inputs):
            return None
        have, width = batch.inputs["input_ids"].shape[-1], ids.shape[-1]
        ours, theirs = to_numpy(batch.inputs["input_ids"])[list(told)], to_numpy(ids)
        for begin in sorted(range(1 - width, have), key=abs):
            first, last = max(begin, 0), min(begin + width, have)
            if width != have and 2 * (last - first) < min(have, width):
                return None
            shared = theirs[:, first - begin : last - begin]
            if np.array_equal(ours[:, first:last], shared) and (
                width != have or _hides(mask, ids, first - begin, last - begin)
            ):
                columns = cls(batch, told, width, [begin])
                columns.is_moved = True
                return columns
        return None

    def matches(self, key: str, value: Any, rows: Rows) -> bool | None:
        """Whether `value`, these rows of `key`, has the columns of `input_ids`.

        None if it begins with them and has more: some models ignore the rest, others raise.
        """
        dim = self._batch.token_dims[key]
        wide = value.shape[dim]
        if wide == self._width and not self.is_moved:
            return True
        if not self._batch.rules.uses(key):
            return True  # nobody looks
        if wide < self._width:
            return False
        first = value[(slice(None),) * dim + (slice(0, self._width),)]
        begins = self._found(key, first, rows, self._begins)
        if not begins:
            return False
        self._begins = begins
        if self._batch.layout[key].columns:
            return wide == self._width or key in CUT_TO_IDS
        return True if wide == self._width else None

    def need_mask(self) -> bool | None:
        """Whether these columns hold padding that other tokens would attend to without a mask.

        None if they are the batch's own columns, or begin nowhere in them.
        """
        mask = self._batch.inputs.get("attention_mask")
        if not self.is_moved or not self._begins or len(getattr(mask, "shape", ())) != 2:
            return None
        shown = _shown(mask)[list(self.rows)]  # (sample, seq)
        return all(self._needs_mask(shown, begin) for begin in self._begins)

    def left_out(self) -> dict[int, int]:
        """Unmasked tokens of each sample that these columns do not hold.

        For a causal model, only tokens in front: later tokens attend to them, but none attends to
        tokens cut off at the end.
        """
        ids, mask = self._batch.inputs["input_ids"], self._batch.inputs.get("attention_mask")
        if not self.is_moved or not self._begins or getattr(mask, "shape", None) != ids.shape:
            return {}
        shown = _shown(mask)[list(self.rows)]  # (sample, seq)
        counts = []
        for begin in self._begins:
            held = shown[:, max(begin, 0) :]
            if not self._batch.layout.rules.causal:
                held = held[:, : self._width + min(begin, 0)]
            counts.append(shown.sum(axis=1) - held.sum(axis=1))
        least = min(counts, key=lambda count: int(count.sum()))
        return {row: n for row, n in zip(self.rows, least.tolist(), strict=True) if n}

    def _needs_mask(self, shown: np.ndarray, begin: int) -> bool:
        """Whether there is padding among the columns from `begin` on, before one that attends."""
        own, layout = shown[:, max(begin, 0) :][:, : self._width], self._batch.layout
        if layout.rules.checks_each_sample == "sometimes":
            return True  # M-RoPE computes positions from the mask, or differently without one
        if begin < 0 or not layout.rules.causal:
            return begin < 0 or own.shape[1] < self._width or not bool(own.all())
        return bool((own[:, 1:] > own[:, :-1]).any())

    def _found(
        self, key: str, value: Any, rows: Rows, among: Iterable[int] | None = None
    ) -> list[int]:
        """The column at which `value` begins in these rows of the batch."""
        axis, dim = self._batch.layout[key], self._batch.token_dims[key]
        ours, theirs = to_numpy(self._batch.inputs[key]).take(list(rows), axis.dim), to_numpy(value)
        if axis.padded and ours.ndim == theirs.ndim:
            reach = range(min(ours.shape[axis.padded_dim], theirs.shape[axis.padded_dim]))
            ours, theirs = (one.take(reach, axis.padded_dim) for one in (ours, theirs))
        ours, theirs = np.moveaxis(ours, dim, -1), np.moveaxis(theirs, dim, -1)
        if ours.shape[:-1] != theirs.shape[:-1]:
            return list(among or ())  # other dimensions are judged separately
        return list(_begins(ours, theirs, among))


def _begins(ours: np.ndarray, theirs: np.ndarray, among: Iterable[int] | None) -> Iterator[int]:
    """The offset of the last dimension of one in the other's; below 0 if theirs is longer."""
    have, size = ours.shape[-1], theirs.shape[-1]
    if not min(have, size):
        return
    if among is None:
        longer = size > have
        within, short, sign = (theirs, ours, -1) if longer else (ours, theirs, 1)
        room = within.shape[-1] - short.shape[-1]
        like_first = within[..., : room + 1] == short[..., :1]
        among = sign * np.flatnonzero(like_first.reshape(-1, room + 1).all(axis=0))
    for begin in map(int, among):
        first, last = max(begin, 0), min(begin + size, have)
        if first < last and np.array_equal(
            ours[..., first:last], theirs[..., first - begin : last - begin]
        ):
            yield begin


def _hides(mask: Any, ids: Any, first: int, last: int) -> bool:
    """Whether a mask of the shape of `ids` hides all columns but `first:last`."""
    if tuple(getattr(mask, "shape", ())) != tuple(ids.shape):
        return False
    shown = _shown(mask)
    return not shown[:, :first].any() and not shown[:, last:].any()
