"""Which rows of the batch a tensor holds, and whether they are unchanged.

Memory comes first: a view is inside its parent. Everything else is a copy and is compared with the
batch by value, with the expected rows first, because rows of equal values are the same to the
model. Copies that were tracked while the slicer ran are a hint where to look, never a verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.change import Change
from vlmdebug.core.layout import Layout
from vlmdebug.core.lazy import lazy
from vlmdebug.core.rows import Rows
from vlmdebug.core.tensors import to_numpy, unreadable, version
from vlmdebug.tracking.memory import Parent, as_rows, is_as_it_was, parent, view_rows, whole_rows
from vlmdebug.tracking.shapes import common, others, reshaped, resized, take
from vlmdebug.tracking.values import (
    changed,
    compare,
    equal,
    positions,
    recast,
)

SMALL = 1 << 20
"""Largest tensor, in bytes, of which all values are noted; of a larger one, only some."""
MOST_NOTED = 512
"""Number of values noted of a larger tensor, to detect writes that torch does not count."""


class Seen(NamedTuple):
    """The rows that a tensor holds, their batch key if it is another one, and what changed.

    `rows` are None if they are unknown. `is_slice`: it is a view of the batch's own tensor.
    """

    rows: Rows | None
    source: str | None = None
    change: Change | None = None
    is_slice: bool = False


class Located(NamedTuple):
    """A tensor inside a known one: its rows, and their dimension (-1: one row, selected)."""

    of: Parent
    rows: Any
    dim: int


class RowFinder:
    """Finds rows of one batch's tensors; knows the copies that were reported to it.

    `by_value`: values of tensors on the host are noted too, because torch does not count writes
    through numpy or `.data`.
    """

    def __init__(
        self, inputs: Mapping[str, Any], layout: Layout, *, by_value: bool = False
    ) -> None:
        self._own = {
            key: parent(key, inputs[key], axis.dim)
            for key, axis in layout.items()
            if axis.unit != "batch" and not isinstance(inputs[key], list)
        }
        self._indexing = {key for key in layout.media if layout.rules.of(key).indexes}
        self._copies: list[Parent] = []
        self._by_value: dict[tuple[str, str], _Values] = {}
        self.came: Counter[int] = Counter()  # how often each sample came, where texts are equal
        self.fixed: dict[str, Any] = {}  # of `observe`: what all calls share of a key
        self.texts: Any = None  # of `vlmdebug.tracking.joined`, once a call may be packed
        self._at_first = {
            key: _noted(own.tensor)
            for key, own in self._own.items()
            if by_value and _is_here(own.tensor)
        }

    def written(self) -> list[str]:
        """Keys of the batch with changed values."""
        return [
            key for key, values in self._at_first.items() if values != _noted(self._own[key].tensor)
        ]

    def learn(self, tensor: Any, key: str, rows: np.ndarray, dim: int) -> None:
        """Remember a copy, unless writes into it would not be detected (inference mode)."""
        if version(tensor) is not None and unreadable(tensor) is None and tensor.numel():
            self._copies.append(parent(key, tensor, dim, np.asarray(rows)))

    def known(self, tensor: Any) -> tuple[str, np.ndarray, int] | None:
        """Key and rows of `tensor` by memory or history, and their dimension (-1: selected)."""
        if not hasattr(tensor, "data_ptr") and not isinstance(tensor, np.ndarray):
            return None
        found = self._locate(tensor)
        return None if found is None else (found.of.key, np.asarray(found.rows), found.dim)

    def is_unwritten(self, key: str) -> bool:
        """Whether the batch's own tensor is unchanged, by torch's count of writes."""
        return is_as_it_was(self._own[key])

    def is_slice(self, key: str, tensor: Any) -> bool:
        """Whether `tensor` is in the memory of the batch's own tensor."""
        return key in self._own and self._within(tensor, self._own[key]) is not None

    def whole_rows(self, key: str, tensor: Any) -> Rows | None:
        """The rows of a slice of whole rows, as most are; None where it may be anything else."""
        own = self._own.get(key)
        return None if own is None else whole_rows(tensor, own)

    def sliced(self, key: str, tensor: Any, free: Collection[int] = ()) -> Seen | None:
        """What `see` finds in a slice of the batch's own tensor; None where it is none."""
        own = self._own.get(key)
        if own is None:
            return None
        rows = view_rows(tensor, own)
        if rows is None or rows[1] != own.dim or not is_as_it_was(own):
            return None
        return _view(own, as_rows(rows[0]), tensor, free)

    def _locate(self, tensor: Any, key: str | None = None) -> Located | None:
        if key in self._own:  # where nearly all of them are
            found = self._within(tensor, self._own[key])
            if found is not None:
                return found
        for of in (*reversed(self._copies), *self._own.values()):
            found = self._within(tensor, of)
            if found is not None:
                return found
        return None

    def _within(self, tensor: Any, of: Parent) -> Located | None:
        found = view_rows(tensor, of)
        return None if found is None or not is_as_it_was(of) else Located(of, *found)

    def see(
        self,
        key: str,
        tensor: Any,
        expected: Callable[[], Rows | None],
        free: Collection[int] = (),
    ) -> Seen:
        """The rows that `tensor` holds and whether they are unchanged.

        Rows None: they are unknown, for example after a write into the batch's own tensor.

        Args:
            key: The name under which it was passed.
            tensor: The value that was passed; its values can be read.
            expected: Returns the expected rows, preferred if rows have equal values.
            free: Dimensions that may have another size; they are judged elsewhere.
        """
        seen = self.sliced(key, tensor, free)
        if seen is not None:
            return seen  # as most are
        own, found = self._own.get(key), self._locate(tensor, key)
        if own is None:
            return Seen(as_rows(found.rows), found.of.key) if found else Seen(None)
        if not is_as_it_was(own):
            return Seen(None)
        if tensor.ndim and not tensor.shape[own.dim if tensor.ndim > own.dim else 0]:
            return Seen(Rows())
        if _fits(own, tensor):
            seen = self._of_own_shape(own, tensor, expected(), found)
        else:
            seen = self._of_another_shape(own, tensor, expected(), found, free)
        if seen.change is None and seen.rows is not None and seen.source is None:
            indexes = key in self._indexing
            return seen._replace(change=recast(key, own.tensor, tensor, indexes=indexes))
        return seen

    def _of_own_shape(
        self, own: Parent, tensor: Any, expected: Rows | None, found: Located | None
    ) -> Seen:
        """A copy of the batch's own shape: its values decide, whatever its history."""
        by_history = self._rows_by_history(own, tensor, found)
        given = (rows for rows in (expected, by_history) if rows is not None)
        likely = [rows for rows in given if _may_be(own, rows, tensor)]
        blocks = [take(own.tensor, own.dim, rows) for rows in likely]
        for rows, block in zip(likely, blocks, strict=True):
            if equal(block, tensor):
                return Seen(rows)
        for rows, block in zip(likely, blocks, strict=True):
            values = compare(block, tensor)
            if values != "other":
                lost = values == "destroyed"
                return Seen(rows, None, changed("destroyed", own.tensor, tensor) if lost else None)
        if found is not None and self._is_other(own, found, tensor):
            return Seen(as_rows(found.rows), found.of.key)
        numbers = self._values(own, tensor).find(tensor, expected)
        if by_history is not None and not by_history.foreign and (numbers < 0).all():
            return Seen(by_history, None, changed("values", own.tensor, tensor))
        rows = as_rows(numbers)
        if not rows.foreign and compare(take(own.tensor, own.dim, rows), tensor) == "other":
            # equal after the cast only
            return Seen(rows, None, changed("destroyed", own.tensor, tensor))
        return Seen(rows)

    def alike(self, key: str, tensor: Any) -> list[list[int]] | None:
        """Candidate rows of the batch for each row of a copy; None if it cannot be compared.

        A tracked copy holds the rows it was made of, if it still has their values.
        """
        own = self._own.get(key)
        if own is None or len(tensor.shape) != len(own.shape) or 0 in tensor.shape:
            return None
        found, values = self._locate(tensor, key), self._values(own, tensor)
        if found is not None and found.dim == own.dim and self._is(found.of.key, key):
            rows = as_rows(found.rows)
            if not rows.foreign and values.equal(tensor, rows):
                return [[row] for row in rows]
        return values.alike(tensor)

    def compared(self, key: str, tensor: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """A number for each row of the batch's tensor and of this one, the same for equal rows.

        None if rows have another shape. Rows known by memory equal no others.
        """
        own = self._own.get(key)
        if own is None or len(tensor.shape) != len(own.shape):
            return None
        found = self._locate(tensor, key)
        if found is not None and found.of.key == key and found.dim == own.dim:
            return np.arange(own.shape[own.dim]), np.asarray(found.rows)
        values = self._values(own, tensor)
        return values.numbered(tensor) if values.fits(tensor) else None

    def _of_another_shape(
        self,
        own: Parent,
        tensor: Any,
        expected: Rows | None,
        found: Located | None,
        free: Collection[int],
    ) -> Seen:
        """Rows with other dimensions: it holds a part of them, or all in another shape."""
        by_history = self._rows_by_history(own, tensor, found)
        for rows in (expected, by_history):
            if rows is None or rows.foreign or not rows.ranges:
                continue
            block = take(own.tensor, own.dim, rows)
            if tensor.ndim == block.ndim and tensor.shape[own.dim] == len(rows):
                parts = common(block, tensor)
                if parts is not None:
                    return Seen(rows, None, resized(block, tensor, own.dim, free, parts[0]))
            change = reshaped(block, tensor, own.dim)
            if change is not None:
                return Seen(rows, None, change)
        if found is not None and not self._is(found.of.key, own.key):
            return Seen(as_rows(found.rows), found.of.key)
        if not _fits(own, tensor, free):
            return Seen(None)
        if by_history is not None:
            return Seen(by_history)
        return Seen(self._by_beginning(own, tensor, expected))

    def _by_beginning(self, own: Parent, tensor: Any, expected: Rows | None) -> Rows | None:
        """Rows that begin as these do, if all of them are in the batch."""
        if any(given > have for given, have in zip(tensor.shape[1:], own.shape[1:], strict=True)):
            return None
        if own.dim or 0 in tensor.shape:
            return None
        cut = own.tensor[(slice(None), *(slice(0, size) for size in tensor.shape[1:]))]
        begun = _Values(own._replace(tensor=cut), tensor).find(tensor, expected)
        return None if (begun < 0).any() else as_rows(begun)

    def _rows_by_history(self, own: Parent, tensor: Any, found: Located | None) -> Rows | None:
        """Rows of this key by the history of a copy, as a hint."""
        if found is None or not self._is(found.of.key, own.key):
            return None
        rows = as_rows(found.rows)
        if found.dim < 0:
            return rows  # one row without its dimension
        return rows if found.dim == own.dim and len(rows) == tensor.shape[own.dim] else None

    def _is_other(self, own: Parent, found: Located, tensor: Any) -> bool:
        """Whether these are unchanged rows of another key of the batch."""
        if self._is(found.of.key, own.key) or found.dim < 0:
            return False
        theirs, rows = self._own[found.of.key], as_rows(found.rows)
        return _may_be(theirs, rows, tensor) and equal(
            take(theirs.tensor, theirs.dim, rows), tensor
        )

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


def _view(own: Parent, rows: Rows, tensor: Any, free: Collection[int]) -> Seen:
    """A view of the batch's own tensor; its dimensions may be shorter."""
    if not own.dim and tensor.shape[1:] == own.shape[1:]:
        return Seen(rows, is_slice=True)
    if not others(tuple(tensor.shape), own.shape, {own.dim, *free}):
        return Seen(rows, is_slice=True)
    block = take(own.tensor, own.dim, rows)
    parts = None if 0 in tensor.shape else common(block, tensor)
    change = resized(block, tensor, own.dim, free, parts[0] if parts else None)
    return Seen(rows, None, change, is_slice=True)


class _Values:
    """The rows of one tensor of the batch by their values, in the dtype of its copy."""

    def __init__(self, own: Parent, like: Any) -> None:
        self._dim, self._is_mask = own.dim, "mask" in own.key
        self._table = _table(_cast(own.tensor, like), own.dim)

    @lazy
    def _rows(self) -> dict[bytes, list[int]]:
        return rows_by_value(self._table)

    def find(self, tensor: Any, expected: Rows | None) -> np.ndarray:
        """Row numbers, -1 for a row of other values.

        A row of a mask may be newly made and equal another one by chance: it counts as a row of the
        batch only where it is expected.
        """
        table, wanted = _table(to_numpy(tensor), self._dim), list(expected or ())
        found = matching(self._rows, table, wanted)
        for index, row in enumerate(found):
            expected_row = wanted[index] if index < len(wanted) else -1
            if row != expected_row and self._is_mask:
                found[index] = -1
        return found

    def alike(self, tensor: Any) -> list[list[int]]:
        """Rows of equal values for each row of a copy, possibly with trimmed columns."""
        ours, table = self._table, _table(to_numpy(tensor), self._dim)
        if table.shape[1:] == ours.shape[1:]:
            return [[*self._rows.get(row.tobytes(), ())] for row in table]
        if table.ndim != 2:
            return [[] for _ in table]
        have, given = ours.shape[1], table.shape[1]
        size = min(have, given)
        starts = _fitting(ours[:, :size], table[:, :size])
        ends = _fitting(ours[:, have - size :], table[:, given - size :])
        return [sorted(start | end) for start, end in zip(starts, ends, strict=True)]

    def numbered(self, tensor: Any) -> tuple[np.ndarray, np.ndarray]:
        """The first row of equal values, for each of our rows and of the tensor's; -1 for none."""
        ours = np.empty(len(self._table), dtype=np.int64)
        for rows in self._rows.values():
            ours[rows] = rows[0]
        table = _table(to_numpy(tensor), self._dim)
        theirs = [self._rows.get(row.tobytes(), (-1,))[0] for row in table]
        return ours, np.array(theirs, dtype=np.int64)

    def fits(self, tensor: Any) -> bool:
        """Whether its rows have the same shape."""
        shape, dim = [*tensor.shape], self._dim
        return shape[:dim] + shape[dim + 1 :] == [*self._table.shape[1:]]

    def equal(self, tensor: Any, expected: Rows) -> bool:
        """Whether the tensor holds exactly the values of the expected rows."""
        table = _table(to_numpy(tensor), self._dim)
        if table.shape != (len(expected), *self._table.shape[1:]):
            return False
        return np.array_equal(_bits(table), _bits(self._table[list(expected)]))


def _fitting(ours: np.ndarray, theirs: np.ndarray) -> list[set[int]]:
    """Rows of `ours` that equal each row of `theirs`."""
    return [set(np.flatnonzero((ours == row).all(axis=1)).tolist()) for row in theirs]


def rows_by_value(table: np.ndarray) -> dict[bytes, list[int]]:
    """Row numbers by the bytes of the rows."""
    rows: dict[bytes, list[int]] = {}
    for row, values in enumerate(table):
        rows.setdefault(values.tobytes(), []).append(row)
    return rows


def matching(
    rows: Mapping[bytes, Sequence[int]], table: np.ndarray, expected: Sequence[int]
) -> np.ndarray:
    """The number of each row of `table`, -1 where there is none.

    Of equal rows, the expected one is chosen, or the one that follows the row before.
    """
    found = np.full(len(table), -1, dtype=np.int64)
    for index, values in enumerate(table):
        alike = rows.get(values.tobytes(), [])
        if alike:
            wanted = expected[index] if index < len(expected) else -1
            following = int(found[index - 1]) + 1 if index else -1
            found[index] = next((r for r in (wanted, following) if r in alike), alike[0])
    return found


def _may_be(own: Parent, rows: Rows, tensor: Any) -> bool:
    """Whether a tensor has the shape of these rows."""
    if rows.foreign or tensor.ndim != len(own.shape):
        return False
    return len(rows) == tensor.shape[own.dim] and _fits(own, tensor)


def _fits(own: Parent, tensor: Any, free: Collection[int] = ()) -> bool:
    """Whether all dimensions except that of the rows and the free ones are as in the batch."""
    given = tuple(tensor.shape)
    return len(given) == len(own.shape) and not others(given, own.shape, {own.dim, *free})


def _noted(tensor: Any) -> bytes:
    """Its values: all, or a sample from everywhere if it is large."""
    values = to_numpy(tensor)
    if tensor.nbytes > SMALL:
        values = values.flat[positions(values.size, MOST_NOTED)]
    return values.tobytes()  # so that NaN equals itself


def _is_here(tensor: Any) -> bool:
    """Whether its values are on the host."""
    return isinstance(tensor, np.ndarray) or getattr(tensor, "is_cpu", False)


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
