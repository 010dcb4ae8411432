"""Chunks judged by the batch that they are slices of.

A slice lies in the memory of the batch it was cut from, so the whole batch can be read there.
A batch is read once, as long as its chunks come; the tensors themselves are not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple, TypedDict
from weakref import ref

import torch

from vlmdebug.batch import Batch
from vlmdebug.compare import check_alone, compare
from vlmdebug.errors import BadInput, VlmDebugError
from vlmdebug.families.base import Facts, Hints
from vlmdebug.families.read import MEDIA_KEYS, TOKEN_KEYS, assemble
from vlmdebug.judge import Run
from vlmdebug.report import Report
from vlmdebug.tracing.check import used_chunk
from vlmdebug.tracing.memory import place, version
from vlmdebug.tracing.rows import RowFinder

Tensors = Mapping[str, torch.Tensor]
TOKENS = TOKEN_KEYS - {"position_ids", "inputs_embeds"}


class Verdict(TypedDict, total=False):
    """What came of one call: a report, or why there is none."""

    report: Report
    unread: str


class CallJudge:
    """Judges calls one by one, and reads a batch only once while its chunks come."""

    def __init__(self, hints: Hints) -> None:
        self._hints = hints
        self._cut: _CutBatch | None = None

    def __call__(self, tensors: Callable[[], Tensors], *, alone: bool = False) -> Verdict:
        """The `report` on one call, or why it is `unread`.

        `alone`: by what it was handed only, whatever that was cut from.
        """
        try:
            return {"report": self._report(tensors(), alone)}
        except VlmDebugError as error:
            return {"unread": str(error)}
        except Exception as error:  # a debugger must not end the program that it watches
            return {"unread": f"vlmdebug failed: {type(error).__name__}: {error}"}

    def _report(self, tensors: Tensors, alone: bool) -> Report:
        if "input_ids" not in tensors:
            raise BadInput("The model was called without input_ids, so samples cannot be told.")
        parents = tensors if alone else parents_of(tensors)
        if any(parents[key] is not tensors[key] for key in tensors):
            whole = None if self._cut is None else self._cut.whole(tensors, parents)
            if self._cut is None or whole is None:
                self._cut, whole = _CutBatch(tensors, parents, self._hints), parents
            report = self._cut.judge(tensors, whole)
            if report is not None:
                return report
        batch = _batch(tensors, self._hints)
        if alone:  # behind a cache the mask has columns of earlier tokens
            batch = replace(batch, columns={})
        return check_alone(batch, one_chunk=True)


class _CutBatch:
    """A batch that chunks are cut from. It keeps no tensor of the program's between two calls.

    The next chunk is of the same batch if it is a view of the same tensors, unwritten by torch's
    count; a copy of `input_ids` tells writes that torch does not see (through `.data`, numpy).
    """

    def __init__(
        self,
        tensors: Tensors,
        parents: Tensors,
        hints: Hints,
    ) -> None:
        self._marks = {key: _Mark.of(tensors[key], parents[key]) for key in tensors}
        self._ids = parents["input_ids"].clone()
        self._inputs: dict[str, Any] = {}
        self._batch: Batch | None = None
        try:
            batch = _batch(parents, hints)
        except VlmDebugError:
            return  # the slices were cut from tensors that are no batch together
        if not batch.ambiguities:
            self._names = tuple(batch.inputs)
            self._batch = replace(batch, inputs=self._inputs)

    def whole(self, tensors: Tensors, parents: Tensors) -> Tensors | None:
        """The batch's tensors, if these are slices of them and nobody wrote into them since.

        A chunk may lack keys, as one without images does, but not where some of its columns were
        left out too: what it needs is then another question.
        """
        ids, known = tensors["input_ids"], parents["input_ids"]
        if self._marks.keys() != tensors.keys() and ids.shape[1:] != known.shape[1:]:
            return None
        if not tensors.keys() <= self._marks.keys():
            return None
        found = {}
        for key, mark in self._marks.items():
            if key not in tensors:
                found[key] = mark.parent()
            elif mark.fits(tensors[key], parents[key]):
                found[key] = parents[key]
            if found.get(key) is None:
                return None
        begin = ids.storage_offset() - known.storage_offset()
        unwritten = torch.equal(ids, self._ids.as_strided(ids.shape, ids.stride(), begin))
        return found if unwritten else None

    def judge(self, tensors: Tensors, whole: Tensors) -> Report | None:
        """The report on a chunk; None where the tensors it was cut from are no batch together."""
        if self._batch is None:
            return None
        self._inputs.update((key, whole[key]) for key in self._names)
        try:
            finder = RowFinder(self._inputs, self._batch.layout)
            chunk = used_chunk(self._batch, finder, tensors, range(0))
            rows = chunk.keys["input_ids"].rows
            size = len(rows) if rows is not None else len(tensors["input_ids"])
            run = Run([chunk], size or 1, slicer="watched calls", partial=True)
            return compare(self._batch, run)
        finally:
            self._inputs.clear()


def _batch(tensors: Tensors, hints: Hints) -> Batch:
    """The batch these tensors are; arguments that are no part of one are left out."""
    samples = len(tensors["input_ids"])
    known = {
        key: tensor
        for key, tensor in tensors.items()
        if key in MEDIA_KEYS or (key in TOKENS and tensor.ndim == 2 and len(tensor) == samples)
    }
    return assemble(Facts(known, hints), None)


class _Mark(NamedTuple):
    """By what a parent is known again, and that nobody wrote into it; it is not kept alive."""

    root: ref[torch.Tensor]
    version: int | None
    dtype: torch.dtype
    place: tuple[int, tuple[int, ...], tuple[int, ...]]
    offset: int

    @classmethod
    def of(cls, tensor: torch.Tensor, parent: torch.Tensor) -> _Mark:
        root, offset = _root(tensor), int(parent.storage_offset())
        return cls(ref(root), version(root), parent.dtype, place(parent), offset)

    def fits(self, tensor: torch.Tensor, parent: torch.Tensor) -> bool:
        """Whether the tensor is a slice of it."""
        root = _root(tensor)
        same = self.root() is root and self._is_unwritten(root)
        return same and self.dtype == parent.dtype and self.place == place(parent)

    def parent(self) -> torch.Tensor | None:
        """The parent again; None where it is gone or was written to."""
        root = self.root()
        if root is None or root.dtype != self.dtype or not self._is_unwritten(root):
            return None
        _, shape, stride = self.place
        return root.detach().as_strided(shape, stride, self.offset)

    def _is_unwritten(self, root: torch.Tensor) -> bool:
        return self.version is not None and self.version == version(root)


def _root(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that this one is a view of, or itself."""
    return tensor if tensor._base is None else tensor._base


def parents_of(tensors: Tensors) -> Tensors:
    """What each tensor is a slice of; the tensors themselves where that cannot be told.

    Where several of them lie in one memory, as after a broadcast in one buffer, its rows are not
    one tensor's.
    """
    parents = {key: _parent(tensor) for key, tensor in tensors.items()}
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
    """
    shape, count = tensor.shape, tensor.numel()
    if not shape or not count:
        return tensor
    if not tensor.is_contiguous():
        root = _root(tensor)
        alike = root.is_contiguous() and root.stride()[1:] == tensor.stride()[1:]
        return root.detach() if alike and root.dtype == tensor.dtype else tensor
    size, per_row = tensor.untyped_storage().nbytes() // tensor.itemsize, count // shape[0]
    if size == count or size % per_row or tensor.storage_offset() % per_row:
        return tensor
    strides = [per_row, *(per_row // done for done in accumulate(shape[1:], mul))]
    return tensor.detach().as_strided((size // per_row, *shape[1:]), strides, 0)
