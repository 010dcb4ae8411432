"""Columns of tokens: what lies along `input_ids` is trimmed and padded by the same columns.

Rows may be the right ones and their columns not, as `input_ids[:, 9:]` beside
`attention_mask[:, :-9]`. Columns are told by value, so that a cut which changes nothing is no
mismatch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from vlmdebug.batch import Batch
from vlmdebug.families.base import to_numpy
from vlmdebug.plan import Rows
from vlmdebug.tracing.rows import rows_by_value


class Realigned:
    """Tokens whose padding was moved, to the other side or off, row by row.

    Rows are told by their real tokens, those that their own `attention_mask` shows.
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
        """None where batch or chunk has no mask of its own shape, or no row could be told."""
        masks = ((batch.inputs["input_ids"], batch.inputs.get("attention_mask")), (ids, mask))
        for tokens, shows in masks:
            shape = tuple(getattr(shows, "shape", ()))
            if len(shape) != 2 or shape != tuple(tokens.shape) or 0 in shape:
                return None
        return cls(batch, ids, mask)

    def alike(self) -> list[list[int]]:
        """Samples of the same real tokens, for each row of the chunk's `input_ids`."""
        return [[*self._rows.get(row.tobytes(), ())] for row in self._ids]

    def in_step(self, key: str, value: Any, rows: Rows) -> bool:
        """Whether `value` says the same of each real token as these rows of `key`."""
        ours = self._aligned(self._batch.inputs[key], self._ours)[list(rows)]
        return np.array_equal(ours, self._aligned(value, self._theirs))

    def _aligned(self, values: Any, shown: np.ndarray) -> np.ndarray:
        """Real tokens of each row from the first column on; behind them 0 and their number."""
        table = to_numpy(values)
        aligned = np.zeros((len(table), self._width + 1), dtype=table.dtype)
        for row, (one, real) in enumerate(zip(table, shown, strict=True)):
            own = one[real]
            aligned[row, : len(own)], aligned[row, -1] = own, len(own)
        return aligned


def _shown(mask: Any) -> np.ndarray:
    return to_numpy(mask) != 0


class Columns:
    """The columns of one call, by its `input_ids`, which are these rows of the batch's."""

    def __init__(self, batch: Batch, ids: Any, rows: Rows) -> None:
        self._batch, self._rows, self._width = batch, rows, ids.shape[-1]
        self._moved = self._width != batch.inputs["input_ids"].shape[-1]
        # Columns of the batch where these may begin; below 0: behind columns that were added.
        self._begins = self._found("input_ids", ids, rows) if self._moved else [0]

    def in_step(self, key: str, value: Any, rows: Rows) -> bool | None:
        """Whether `value`, these rows of `key`, has the columns of `input_ids`.

        None where it begins with them and has more: some models look no further, others raise.
        """
        dim = self._batch.token_dims[key]
        wide = value.shape[dim]
        if wide == self._width and not self._moved:
            return True
        if not self._begins or key in self._batch.layout.ignored:
            return True  # there is nothing to compare with, or nobody looks
        if wide < self._width:
            return False
        first = value[(slice(None),) * dim + (slice(0, self._width),)]
        begins = self._found(key, first, rows, self._begins)
        if not begins:
            return False
        self._begins = begins
        return True if wide == self._width or self._batch.layout[key].columns else None

    def need_mask(self) -> bool | None:
        """Whether these columns hold padding that other tokens would see without a mask.

        None where they are the batch's own, or begin nowhere in them.
        """
        mask = self._batch.inputs.get("attention_mask")
        if not self._moved or not self._begins or len(getattr(mask, "shape", ())) != 2:
            return None
        shown = _shown(mask)[list(self._rows)]  # (sample, seq)
        return all(self._hides(shown, begin) for begin in self._begins)

    def _hides(self, shown: np.ndarray, begin: int) -> bool:
        """Whether padding stands among the columns from `begin` on, before a token that looks."""
        own, layout = shown[:, max(begin, 0) :][:, : self._width], self._batch.layout
        if layout.strict is None:
            return True  # M-RoPE's places are counted by the mask, or otherwise without one
        if begin < 0 or not layout.causal:
            return begin < 0 or own.shape[1] < self._width or not bool(own.all())
        return bool((own[:, 1:] > own[:, :-1]).any())

    def _found(
        self, key: str, value: Any, rows: Rows, among: Iterable[int] | None = None
    ) -> list[int]:
        """Where columns equal to the value's begin in these rows of the batch."""
        axis, dim = self._batch.layout[key], self._batch.token_dims[key]
        ours, theirs = to_numpy(self._batch.inputs[key]).take(list(rows), axis.dim), to_numpy(value)
        if axis.padded and ours.ndim == theirs.ndim:
            reach = range(min(ours.shape[axis.padded_dim], theirs.shape[axis.padded_dim]))
            ours, theirs = (one.take(reach, axis.padded_dim) for one in (ours, theirs))
        ours, theirs = np.moveaxis(ours, dim, -1), np.moveaxis(theirs, dim, -1)
        if ours.shape[:-1] != theirs.shape[:-1]:
            return list(among or ())  # other dimensions are judged by themselves
        return list(_begins(ours, theirs, among))


def _begins(ours: np.ndarray, theirs: np.ndarray, among: Iterable[int] | None) -> Iterator[int]:
    """Where the last dimension of the one lies in the other's; below 0 if theirs is longer."""
    longer = theirs.shape[-1] > ours.shape[-1]
    within, short, sign = (theirs, ours, -1) if longer else (ours, theirs, 1)
    size = short.shape[-1]
    if not size:
        return
    room = within.shape[-1] - size
    if among is None:
        like_first = within[..., : room + 1] == short[..., :1]
        among = sign * np.flatnonzero(like_first.reshape(-1, room + 1).all(axis=0))
    for begin in among:
        at = sign * int(begin)
        if 0 <= at <= room and np.array_equal(within[..., at : at + size], short):
            yield int(begin)
