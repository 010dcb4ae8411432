"""Where a tensor's elements lie, for torch tensors and numpy arrays alike.

A view shares its parent's memory, so its address, shape and strides say exactly which rows of
the parent it holds. No value is read and nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmdebug.plan import Rows


@dataclass(frozen=True, slots=True)
class Parent:
    """A tensor whose views can be recognised, and the rows it holds itself.

    Attributes:
        key: The batch key whose rows these are.
        tensor: The tensor, kept alive so that its memory is not given to another.
        dim: The dimension the rows lie on.
        rows: Row of the batch at each index of `dim`; None for the batch's own tensor, whose
            index is its row.
        start: Address of the first byte that belongs to it.
        stop: Address behind the last one.
        strides: In elements.
    """

    key: str
    tensor: Any
    dim: int
    rows: np.ndarray | None
    start: int
    stop: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    version: int | None


def parent(key: str, tensor: Any, dim: int, rows: np.ndarray | None = None) -> Parent:
    """Note where `tensor` lies, so that its views can be recognised."""
    start, shape, strides = place(tensor)
    reach = sum((size - 1) * abs(step) for size, step in zip(shape, strides, strict=True) if size)
    stop = start + (reach + 1) * tensor.itemsize if 0 not in shape else start
    return Parent(key, tensor, dim, rows, start, stop, shape, strides, version(tensor))


def place(tensor: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Address of the first element, shape, and strides in elements."""
    if isinstance(tensor, np.ndarray):
        strides = tuple(step // (tensor.itemsize or 1) for step in tensor.strides)
        return tensor.__array_interface__["data"][0], tensor.shape, strides
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def version(tensor: Any) -> int | None:
    """torch's count of writes into this memory; None where it keeps none."""
    try:
        return tensor._version
    except (AttributeError, RuntimeError):  # numpy; tensors made in inference mode
        return None


def view_rows(tensor: Any, of: Parent) -> tuple[range | np.ndarray, int] | None:
    """Rows of `of` that the view `tensor` holds, and the dimension they lie on.

    None where it is no view of it or a view whose rows cannot be read off its strides.
    """
    address, shape, strides = place(tensor)
    if not of.start <= address < of.stop or tensor.itemsize != of.tensor.itemsize:
        return None
    offset, dim, step = (address - of.start) // tensor.itemsize, of.dim, of.strides[of.dim]
    first = offset // step % of.shape[dim] if step else 0
    if len(shape) == len(of.shape):
        if not _same_steps(shape, strides, of, dim):
            return None
        stride = strides[dim] // step if step else 0
        count = shape[dim]
        return _pick(
            of, range(first, first + count * stride, stride) if stride else first, count
        ), dim
    if len(shape) == len(of.shape) - 1 and dim == 0 and strides == of.strides[1:]:
        return _pick(of, first, 1), -1  # one row, selected: its dimension is gone
    return None


def _same_steps(shape: tuple[int, ...], strides: tuple[int, ...], of: Parent, dim: int) -> bool:
    for index, size in enumerate(shape):
        if index == dim:
            if size > 1 and of.strides[dim] and strides[dim] % of.strides[dim]:
                return False
        elif size > 1 and strides[index] != of.strides[index]:
            return False
    return True


def _pick(of: Parent, rows: range | int, count: int) -> range | np.ndarray:
    """Rows of the batch, where `rows` are rows of the parent."""
    if isinstance(rows, int):
        rows = range(rows, rows + 1)
        if count != 1:
            return np.full(count, rows[0] if of.rows is None else of.rows[rows[0]])
    return rows if of.rows is None else of.rows[rows.start : rows.stop : rows.step]


def as_rows(rows: range | np.ndarray) -> Rows:
    """Row numbers as ranges, without a Python loop over every row."""
    if isinstance(rows, range) and rows.step == 1:
        return Rows([(rows.start, rows.stop)])
    numbers = np.asarray(rows)
    if not len(numbers):
        return Rows()
    breaks = np.flatnonzero((np.diff(numbers) != 1) | (numbers[:-1] < 0)) + 1
    starts = numbers[np.r_[0, breaks]]
    stops = numbers[np.r_[breaks - 1, len(numbers) - 1]] + 1
    return Rows(zip(starts.tolist(), stops.tolist(), strict=True))
