"""Which rows of the batch a tensor holds, by the cheapest way that is exact.

First by memory: a view lies inside its parent. Then by history: copies made while the slicer
ran were followed. Last by value: a copy made out of sight (numpy, `.tolist()`) is compared
with the batch, row by row; rows of equal values are the same to the model, so any of them will
do, the planned one first. A copy is not called wrong before its values were looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from vlmdebug.families.base import to_numpy
from vlmdebug.layout import Layout
from vlmdebug.plan import Rows
from vlmdebug.tracing.memory import Parent, as_rows, parent, version, view_rows

SMALL = 1 << 20
"""Bytes of a tensor up to which its values are looked at unasked."""


class RowFinder:
    """Finds rows of one batch's tensors; knows the copies made while it was told of them.

    `by_value`: small tensors on the host are compared too, for torch does not count what is
    written through numpy or `.data`.
    """

    def __init__(
        self, inputs: Mapping[str, Any], layout: Layout, *, by_value: bool = False
    ) -> None:
        self._own = {
            key: parent(key, inputs[key], axis.dim)
            for key, axis in layout.items()
            if axis.unit != "batch" and not isinstance(inputs[key], list)
        }
        self._media = layout.media.keys()
        self._copies: list[Parent] = []
        self._by_value: dict[tuple[str, Any], _Values] = {}
        self.came: Counter[int] = Counter()  # how often each sample came, where texts are equal
        self._at_first = {
            key: to_numpy(own.tensor).copy()
            for key, own in self._own.items()
            if by_value and _is_small(own.tensor)
        }

    def written(self) -> list[str]:
        """Keys of the batch whose values are no longer what they were at first."""
        return [
            key
            for key, values in self._at_first.items()
            if not np.array_equal(_bits(values), _bits(to_numpy(self._own[key].tensor)))
        ]

    def learn(self, tensor: Any, key: str, rows: np.ndarray, dim: int) -> None:
        """Remember a copy, unless writes into it would go unseen (inference mode)."""
        if tensor.numel() and version(tensor) is not None:
            self._copies.append(parent(key, tensor, dim, np.asarray(rows)))

    def known(self, tensor: Any) -> tuple[str, np.ndarray, int] | None:
        """Key and rows of `tensor` by memory or history, and their dimension (-1: selected)."""
        if not hasattr(tensor, "data_ptr") and not isinstance(tensor, np.ndarray):
            return None
        found = self._locate(tensor)
        if found is None:
            return None
        of, rows, dim = found
        return of.key, np.asarray(rows), dim

    def is_slice(self, key: str, tensor: Any) -> bool:
        """Whether `tensor` lies in the memory of the batch's own tensor."""
        return key in self._own and view_rows(tensor, self._own[key]) is not None

    def _locate(self, tensor: Any, key: str | None = None) -> tuple[Parent, Any, int] | None:
        if key in self._own:  # where nearly all of them lie
            found = self._within(tensor, self._own[key])
            if found is not None:
                return found
        for of in (*reversed(self._copies), *self._own.values()):
            found = self._within(tensor, of)
            if found is not None:
                return found
        return None

    def _within(self, tensor: Any, of: Parent) -> tuple[Parent, Any, int] | None:
        found = view_rows(tensor, of)
        return None if found is None or of.version != version(of.tensor) else (of, *found)

    def rows(
        self, key: str, tensor: Any, planned: Callable[[], Rows | None]
    ) -> tuple[Rows | None, str | None]:
        """Rows that `tensor` holds, and the batch key they are of if it is not `key`.

        None where they cannot be told: the shape is another, or the slicer wrote into the
        batch's own tensor, whose rows are no longer what they were.

        Args:
            key: The name under which it was handed over.
            tensor: What was handed over.
            planned: Gives the rows expected, preferred where rows have equal values.
        """
        own = self._own.get(key)
        if own is not None and own.version != version(own.tensor):
            return None, None
        found = self._locate(tensor, key)
        if own is None:
            return (as_rows(found[1]), found[0].key) if found else (None, None)
        if not tensor.ndim or not tensor.shape[own.dim if tensor.ndim > own.dim else 0]:
            return Rows(), None
        if found is None:
            numbers = self._values(own, tensor).find(tensor, planned())
            return (None if numbers is None else as_rows(numbers)), None
        of, numbers, dim = found
        if dim != own.dim:  # a row without its dimension, or rows turned to another one
            return Rows([(-1, 0)] * tensor.shape[0]), None
        rows = as_rows(numbers)
        if of is own:
            return rows, None
        if self._was_written(own, of, tensor, rows):
            numbers = self._values(own, tensor).find(tensor, planned())
            return (None if numbers is None else as_rows(numbers)), None
        expected = planned()
        if rows == expected and self._is(of.key, key):
            return rows, None
        if expected is not None and self._values(own, tensor).equal(tensor, expected):
            return expected, None
        return rows, None if self._is(of.key, key) else of.key

    def alike(self, key: str, tensor: Any) -> list[list[int]] | None:
        """Rows of the batch that each row of a copy may be; None where it cannot be compared.

        A copy that was followed is the rows it was made of, if it still holds their values.
        """
        own = self._own.get(key)
        if own is None or len(tensor.shape) != len(own.shape) or 0 in tensor.shape:
            return None
        found, values = self._locate(tensor, key), self._values(own, tensor)
        if found is not None and found[2] == own.dim and self._is(found[0].key, key):
            rows = as_rows(found[1])
            if not rows.foreign and values.equal(tensor, rows):
                return [[row] for row in rows]
        return values.alike(tensor)

    def compared(self, key: str, tensor: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """A number for each row of the batch's tensor and of this one, the same for equal rows.

        None where rows are of another shape. Rows known by memory equal no others.
        """
        own = self._own.get(key)
        if own is None or len(tensor.shape) != len(own.shape):
            return None
        found = self._locate(tensor, key)
        if found is not None and found[0].key == key and found[2] == own.dim:
            return np.arange(own.shape[own.dim]), np.asarray(found[1])
        values = self._values(own, tensor)
        return values.numbered(tensor) if values.fits(tensor) else None

    def _was_written(self, own: Parent, of: Parent, copy: Any, rows: Rows) -> bool:
        """Whether a copy of media rows holds other values than they do.

        Tokens are left out: what pads them moves their columns.
        """
        if own.key not in self._media or of.key != own.key or own.key not in self._at_first:
            return False
        values = self._values(own, copy)
        return not rows.foreign and values.fits(copy) and not values.equal(copy, rows)

    def _is(self, key: str, other: str) -> bool:
        """Whether two keys of the batch are the same tensor, as labels often are `input_ids`."""
        one, two = self._own[key], self._own[other]
        return key == other or (one.start, one.shape, one.strides) == (
            two.start,
            two.shape,
            two.strides,
        )

    def _values(self, own: Parent, like: Any) -> _Values:
        at = (own.key, str(like.dtype))
        if at not in self._by_value:
            self._by_value[at] = _Values(own, like)
        return self._by_value[at]


class _Values:
    """The rows of one tensor of the batch by their values, in the dtype of a copy of it."""

    def __init__(self, own: Parent, like: Any) -> None:
        self._dim = own.dim
        self._table = _table(_cast(own.tensor, like), own.dim)

    @cached_property
    def _known(self) -> dict[bytes, list[int]]:
        return rows_by_value(self._table)

    def find(self, tensor: Any, planned: Rows | None) -> np.ndarray | None:
        """Row numbers, -1 for a row of other values; None where shapes cannot be compared."""
        if len(tensor.shape) != self._table.ndim:
            return None
        table = _table(to_numpy(tensor), self._dim)
        expected = list(planned or ())
        if table.shape[1:] == self._table.shape[1:]:
            if self._equal(table, expected):
                return np.array(expected, dtype=np.int64)
            return self._search(table, expected)
        return self._window(table, expected)

    def alike(self, tensor: Any) -> list[list[int]]:
        """Rows of equal values for each row of a copy, whose columns may have been trimmed."""
        table = _table(to_numpy(tensor), self._dim)
        if table.shape[1:] == self._table.shape[1:]:
            return [[*self._known.get(row.tobytes(), ())] for row in table]
        fits = [_fitting(*_common(self._table, table, side)) for side in ("end", "start")]
        return [sorted(end | start) for end, start in zip(*fits, strict=True)]

    def numbered(self, tensor: Any) -> tuple[np.ndarray, np.ndarray]:
        """The first row of equal values, for each of our rows and of the tensor's; -1 for none."""
        ours = np.empty(len(self._table), dtype=np.int64)
        for rows in self._known.values():
            ours[rows] = rows[0]
        table = _table(to_numpy(tensor), self._dim)
        theirs = [self._known.get(row.tobytes(), (-1,))[0] for row in table]
        return ours, np.array(theirs, dtype=np.int64)

    def fits(self, tensor: Any) -> bool:
        """Whether its rows are of the same shape."""
        shape, dim = [*tensor.shape], self._dim
        return shape[:dim] + shape[dim + 1 :] == [*self._table.shape[1:]]

    def equal(self, tensor: Any, planned: Rows) -> bool:
        """Whether the tensor holds the planned rows' values, to the bit."""
        return len(tensor.shape) == self._table.ndim and self._equal(
            _table(to_numpy(tensor), self._dim), list(planned)
        )

    def _equal(self, table: np.ndarray, expected: Sequence[int]) -> bool:
        if table.shape != (len(expected), *self._table.shape[1:]):
            return False
        return np.array_equal(_bits(table), _bits(self._table[expected]))

    def _search(self, table: np.ndarray, expected: Sequence[int]) -> np.ndarray:
        return matching(self._known, table, expected)

    def _window(self, table: np.ndarray, expected: Sequence[int]) -> np.ndarray | None:
        """Rows whose trailing dimensions were trimmed or padded, at the end or at the start.

        Only the part that both have is compared; a row is told only where the planned one fits,
        or a single one.
        """
        if 0 in table.shape:
            return None
        fits = [_fitting(*_common(self._table, table, side)) for side in ("end", "start")]
        found = []
        for index, (end, start) in enumerate(zip(*fits, strict=True)):
            rows = end | start
            wanted = expected[index] if index < len(expected) else -1
            if wanted not in rows and len(rows) != 1:
                return None
            found.append(wanted if wanted in rows else rows.pop())
        return np.array(found, dtype=np.int64)


def rows_by_value(table: np.ndarray) -> dict[bytes, list[int]]:
    """Row numbers by what the rows hold."""
    rows: dict[bytes, list[int]] = {}
    for row, values in enumerate(table):
        rows.setdefault(values.tobytes(), []).append(row)
    return rows


def matching(
    rows: Mapping[bytes, Sequence[int]], table: np.ndarray, expected: Sequence[int]
) -> np.ndarray:
    """The number of each row of `table`, -1 where there is none.

    Of equal rows, the expected one is meant, or the one that follows the row before.
    """
    found = np.full(len(table), -1, dtype=np.int64)
    for index, values in enumerate(table):
        alike = rows.get(values.tobytes(), [])
        if alike:
            wanted = expected[index] if index < len(expected) else -1
            following = int(found[index - 1]) + 1 if index else -1
            found[index] = next((r for r in (wanted, following) if r in alike), alike[0])
    return found


def _fitting(ours: np.ndarray, theirs: np.ndarray) -> list[set[int]]:
    """Rows of `ours` that equal each row of `theirs`."""
    flat = ours.reshape(len(ours), -1)
    return [set(np.flatnonzero((flat == row.ravel()).all(axis=1)).tolist()) for row in theirs]


def _common(ours: np.ndarray, theirs: np.ndarray, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Both tables cut to the trailing shape they share, keeping their starts or their ends."""
    sizes = [min(a, b) for a, b in zip(ours.shape[1:], theirs.shape[1:], strict=True)]
    if side == "end":
        cut = tuple(slice(0, size) for size in sizes)
        return ours[:, *cut], theirs[:, *cut]
    return tuple(  # type: ignore[return-value]
        table[
            :,
            *(slice(have - size, have) for have, size in zip(table.shape[1:], sizes, strict=True)),
        ]
        for table in (ours, theirs)
    )


def _is_small(tensor: Any) -> bool:
    """Whether its values lie on the host and are few."""
    here = isinstance(tensor, np.ndarray) or getattr(tensor, "is_cpu", False)
    return here and tensor.nbytes <= SMALL


def _bits(table: np.ndarray) -> np.ndarray:
    """The bytes of each row, so that NaN equals itself."""
    flat = np.ascontiguousarray(table)
    return flat.view(np.uint8) if flat.ndim else flat


def _table(values: np.ndarray, dim: int) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, dim, 0))


def _cast(tensor: Any, like: Any) -> np.ndarray:
    """The batch's own tensor as the copy would hold it after `.to(dtype)`."""
    if hasattr(tensor, "to") and hasattr(like, "detach") and tensor.dtype != like.dtype:
        return to_numpy(tensor.detach().to(like.dtype))
    values, target = to_numpy(tensor), to_numpy(like).dtype
    return values if values.dtype == target else values.astype(target)
