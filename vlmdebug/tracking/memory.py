"""The memory layout of a tensor, for torch tensors and numpy arrays alike.

A view shares its parent's memory, so its address, shape and strides determine exactly which rows of
the parent it holds. No value is read and nothing is copied.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.rows import Rows
from vlmdebug.core.tensors import unreadable, version


class Parent(NamedTuple):
    """A tensor with recognisable views, and the rows it holds itself.

    Attributes:
        key: The batch key of these rows.
        tensor: The tensor, kept alive so that its memory is not reused.
        dim: The dimension of the rows.
        rows: Row of the batch at each index of `dim`; None for the batch's own tensor, where the
            index is the row.
        start: Address of the first byte that belongs to it.
        stop: Address after the last byte; `start` where addresses do not determine rows.
        strides: In elements.
        negated: Whether its values are the negative of the stored ones, as in some views of torch.
        plain: Whether it is of no subclass and can be read, with rows one after another.
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
    negated: bool
    plain: bool


def parent(key: str, tensor: Any, dim: int, rows: np.ndarray | None = None) -> Parent:
    """Record the memory of `tensor`, so that its views can be recognised."""
    start, shape, strides = place(tensor)
    reach = 0 if 0 in shape else 1
    for size, step in zip(shape, strides, strict=True):
        reach += (size - 1) * abs(step) if reach else 0
    stop = start + reach * tensor.itemsize
    known = type(tensor) is np.ndarray or type(tensor).__module__ == "torch"
    plain = known and dim == 0 and strides[:1] > (0,) and unreadable(tensor) is None
    if _is_between_elements(tensor):
        stop, plain = start, False
    written, negated = version(tensor), _is_negated(tensor)
    return Parent(key, tensor, dim, rows, start, stop, shape, strides, written, negated, plain)


def place(tensor: Any) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Address of the first element, shape, and strides in elements."""
    if isinstance(tensor, np.ndarray):
        strides = tuple(step // (tensor.itemsize or 1) for step in tensor.strides)
        return tensor.__array_interface__["data"][0], tensor.shape, strides
    return tensor.data_ptr(), tensor.shape, tensor.stride()


def _is_between_elements(tensor: Any) -> bool:
    """Whether its strides are no whole number of elements, as those of a field of records."""
    if not isinstance(tensor, np.ndarray):
        return False
    return any(step % (tensor.itemsize or 1) for step in tensor.strides)


def is_as_it_was(of: Parent) -> bool:
    """Whether it has no new writes, by torch's count, and the same memory as before.

    A tensor releases its memory by `share_memory_`, `set_`, `resize_` or `.data =`, and another
    tensor may get it.
    """
    tensor = of.tensor
    if of.version != version(tensor) or tensor.shape != of.shape:
        return False
    return isinstance(tensor, np.ndarray) or tensor.data_ptr() == of.start


def whole_rows(tensor: Any, of: Parent) -> Rows | None:
    """The rows in a slice of whole rows, of the same type; None where `view_rows` has to look.

    Nearly all tensors of a call are such slices, so this asks no more than that takes.
    """
    own = of.tensor
    if not of.plain or type(tensor) is not type(own) or tensor.dtype is not own.dtype:
        return None
    if type(tensor) is not np.ndarray:
        if tensor.layout is not own.layout or tensor.is_nested or tensor.is_neg() is not of.negated:
            return None
    address, shape, strides = place(tensor)
    if strides != of.strides or shape[1:] != of.shape[1:]:
        return None
    row, within = divmod(address - of.start, strides[0] * tensor.itemsize)
    stop = row + shape[0]
    if within or not 0 <= row < stop <= of.shape[0] or not is_as_it_was(of):
        return None
    return Rows([(row, stop)])


def view_rows(tensor: Any, of: Parent) -> tuple[range | np.ndarray, int] | None:
    """Rows of `of` that the view `tensor` holds, and their dimension.

    None if it is no view of it, or if its strides do not determine its rows: a view that begins
    inside a row and ends in the next, or any view of rows that share one memory (`expand`).
    """
    address, shape, strides = place(tensor)
    if not of.start <= address < of.stop or not _reads_alike(tensor, of):
        return None
    offset = (address - of.start) // tensor.itemsize
    if shape and of.dim == 0 and strides == of.strides and shape[1:] == of.shape[1:]:
        row, within = divmod(offset, strides[0]) if strides[0] > 0 else (0, 1)
        if not within and row + shape[0] <= of.shape[0]:  # whole rows, as most slices are
            return _pick(of, range(row, row + shape[0])), 0
    first = _position(offset, of)
    if first is None:
        return None
    dim, selected = of.dim, len(shape) == len(of.shape) - 1 and of.dim == 0
    if selected:  # one row: it has no row dimension
        shape, strides = (1, *shape), (of.strides[0], *strides)
    if len(shape) != len(of.shape) or not _lies_in_rows(shape, strides, first, of):
        return None
    count, step = shape[dim], of.strides[dim]
    stride = strides[dim] // step if step and count > 1 else 1
    rows = range(first[dim], first[dim] + count * stride, stride) if stride else None
    if rows is None:
        return _pick(of, np.full(count, first[dim])), dim
    if count and not 0 <= rows[-1] < of.shape[dim]:
        return None
    return _pick(of, rows), -1 if selected else dim


def _reads_alike(tensor: Any, of: Parent) -> bool:
    """Whether the same bytes mean the same values in both."""
    alike = tensor.dtype is of.tensor.dtype or _name(tensor) == _name(of.tensor)
    return alike and _is_negated(tensor) is of.negated


def _name(tensor: Any) -> str:
    """Its dtype as torch and numpy both write it."""
    return str(tensor.dtype).removeprefix("torch.")


def _is_negated(tensor: Any) -> bool:
    return type(tensor) is not np.ndarray and tensor.is_neg()


def _position(offset: int, of: Parent) -> list[int] | None:
    """Index of the element `offset` elements after the first; None if it is in a gap."""
    at = [0] * len(of.shape)
    long = [index for index, size in enumerate(of.shape) if size > 1]
    for index in sorted(long, key=lambda index: -of.strides[index]):  # the largest strides first
        step = of.strides[index]
        if step > 0:
            at[index], offset = divmod(offset, step)
        elif index == of.dim or step < 0:
            return None  # all rows have one address, or descending ones
    inside = all(place < size for place, size in zip(at, of.shape, strict=True))
    return at if inside and not offset else None


def _lies_in_rows(
    shape: tuple[int, ...], strides: tuple[int, ...], first: list[int], of: Parent
) -> bool:
    """Whether the view has its parent's strides and ends within the rows it begins in."""
    for index, size in enumerate(shape):
        if index == of.dim:
            if size > 1 and of.strides[index] and strides[index] % of.strides[index]:
                return False
        elif first[index] + size > of.shape[index] or (
            size > 1 and strides[index] != of.strides[index]
        ):
            return False
    return True


def _pick(of: Parent, rows: range | np.ndarray) -> range | np.ndarray:
    """Rows of the batch, given `rows` of the parent."""
    return rows if of.rows is None else of.rows[np.asarray(rows)]


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
