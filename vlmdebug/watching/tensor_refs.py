"""Recognises slices of known tensors without keeping the tensors alive."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from operator import mul
from typing import NamedTuple
from weakref import ref

import torch

from vlmdebug.core.tensors import version
from vlmdebug.tracking.memory import place


class TensorRef(NamedTuple):
    """Identifies a parent and detects writes into it, without keeping it alive."""

    root: ref[torch.Tensor]
    version: int | None
    dtype: torch.dtype
    place: tuple[int, tuple[int, ...], tuple[int, ...]]
    offset: int

    @classmethod
    def of(cls, tensor: torch.Tensor, parent: torch.Tensor) -> TensorRef:
        root, offset = root_of(tensor), int(parent.storage_offset())
        return cls(ref(root), version(root), parent.dtype, place(parent), offset)

    def fits(self, tensor: torch.Tensor, parent: torch.Tensor) -> bool:
        """Whether the tensor is a slice of it."""
        same = self.is_of(root_of(tensor))
        return same and self.dtype == parent.dtype and self.place == place(parent)

    def first_row(self, tensor: torch.Tensor) -> int | None:
        """Where the tensor begins, if it is consecutive whole rows of the parent."""
        root = tensor._base if tensor._base is not None else tensor
        if self.root() is not root or tensor.dtype is not self.dtype:
            return None
        if self.version is None or self.version != version(root):
            return None
        _, shape, strides = self.place
        if tensor.stride() != strides or tensor.shape[1:] != shape[1:]:
            return None
        row, within = divmod(int(tensor.storage_offset()) - self.offset, strides[0])
        return None if within else row

    def is_there(self) -> bool:
        """Whether the parent still exists unchanged."""
        root = self.root()
        return root is not None and self._is_unwritten(root)

    def parent(self) -> torch.Tensor | None:
        """The parent; None if it is gone or was written to."""
        root = self.root()
        if root is None or root.dtype != self.dtype or not self._is_unwritten(root):
            return None
        _, shape, stride = self.place
        return root.detach().as_strided(shape, stride, self.offset)

    def is_of(self, root: torch.Tensor) -> bool:
        """Whether the parent is a view of that tensor, unchanged."""
        return self.root() is root and self._is_unwritten(root)

    def was_written(self, root: torch.Tensor) -> bool:
        """Whether the parent is a view of that tensor, but changed."""
        return self.root() is root and self.version is not None and not self._is_unwritten(root)

    def _is_unwritten(self, root: torch.Tensor) -> bool:
        return self.version is not None and self.version == version(root)


def root_of(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that this one is a view of, or itself."""
    return tensor if tensor._base is None else tensor._base


def columns_of(tensor: torch.Tensor, root: torch.Tensor) -> tuple[range, range] | None:
    """Rows and columns of a tensor in the wider one that it is a view of; None if it is not such.

    Both are `(row, seq)`, or have more dimensions before these, which are not cut.
    """
    shape, whole = tensor.shape, root.shape
    if root is tensor or len(shape) < 2 or len(shape) != len(whole) or shape[:-2] != whole[:-2]:
        return None
    if not 0 < shape[-1] < whole[-1] or not root.is_contiguous() or root.dtype != tensor.dtype:
        return None
    strides = zip(shape, tensor.stride(), root.stride(), strict=True)
    if any(own != of for size, own, of in strides if size > 1):
        return None
    row, column = divmod(int(tensor.storage_offset() - root.storage_offset()), whole[-1])
    rows, columns = range(row, row + shape[-2]), range(column, column + shape[-1])
    return (rows, columns) if rows.stop <= whole[-2] and columns.stop <= whole[-1] else None


def wide_of(tensor: torch.Tensor) -> torch.Tensor:
    """What a tensor has some columns of; its root, whatever that is, if it has none.

    One row may be a view of a tensor of one dimension, as `ids[None]` is.
    """
    root = root_of(tensor)
    if (
        root.ndim == 1
        and tensor.ndim > 1
        and set(tensor.shape[:-1]) == {1}
        and root.is_contiguous()
    ):
        return root.detach().view(*tensor.shape[:-1], len(root))
    return root


def parents_of(
    tensors: Mapping[str, torch.Tensor], *, columns: bool = False
) -> Mapping[str, torch.Tensor]:
    """What each tensor is a slice of; the tensors themselves if that is unknown.

    `columns`: of one row, as `ids[None]`, some columns are known to be a slice, too.

    If several of them share one memory, as after a broadcast in one buffer, its rows do not belong
    to one tensor.
    """
    parents = {key: _parent(tensor) for key, tensor in tensors.items()}
    for key, tensor in tensors.items() if columns else ():
        wide = wide_of(tensor)
        if columns_of(tensor, wide) is not None:
            parents[key] = wide.detach()
    owners: dict[int, torch.Tensor] = {}
    for key, parent in parents.items():
        tensor = tensors[key]
        if parent is not tensor:
            owner = owners.setdefault(parent.data_ptr(), tensor)
            if owner is not tensor and owner.data_ptr() != tensor.data_ptr():
                return tensors
    return parents


def _parent(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that this one holds some rows of, if it is a slice; else the same tensor.

    Rows that follow each other are looked up in their memory, which holds all rows of a
    contiguous parent; every second row, or some columns of each, in the tensor they are a view of.
    A tensor with writes that is no view may have been made smaller in place (`resize_`): what is
    behind it is left over, and no rows of its.
    """
    shape, count = tensor.shape, tensor.numel()
    if not shape or not count:
        return tensor
    if tensor._base is None and tensor.untyped_storage().nbytes() == count * tensor.itemsize:
        return tensor  # alone in its memory, as copies are
    root = root_of(tensor)
    if columns_of(tensor, root) is not None:
        return root.detach()
    if root is tensor and version(tensor):
        return tensor
    if not tensor.is_contiguous():
        alike = root.is_contiguous() and root.stride()[1:] == tensor.stride()[1:]
        return root.detach() if alike and root.dtype == tensor.dtype else tensor
    size, per_row = tensor.untyped_storage().nbytes() // tensor.itemsize, count // shape[0]
    if size == count or size % per_row or tensor.storage_offset() % per_row:
        return tensor
    strides = [per_row, *(per_row // done for done in accumulate(shape[1:], mul))]
    return tensor.detach().as_strided((size // per_row, *shape[1:]), strides, 0)
