"""Chunks judged by the batch that they are slices of.

A slice lies in the memory of the batch it was cut from, so the whole batch can be read there.
A batch is read once, as long as its chunks come; the tensors themselves are not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from itertools import accumulate
from operator import mul
from typing import Any, NamedTuple, TypedDict
from weakref import ref

import torch

from vlmdebug.batch import Batch
from vlmdebug.compare import batch_mismatches, check_alone, compare
from vlmdebug.errors import VlmDebugError
from vlmdebug.families.base import Facts, Hints
from vlmdebug.families.read import MEDIA_KEYS, TOKEN_KEYS, assemble
from vlmdebug.families.streams import clip_of
from vlmdebug.judge import Run
from vlmdebug.report import Report
from vlmdebug.tracing.check import used_chunk
from vlmdebug.tracing.memory import place, version
from vlmdebug.tracing.rows import RowFinder

Tensors = Mapping[str, torch.Tensor]
TOKENS = TOKEN_KEYS - {"position_ids", "inputs_embeds"}


WRITTEN = (
    "{key} was written to between two chunks of the same input_ids, so the place of its rows does "
    "not tell whose they are, and only their number was judged. To have rows told apart, cut all "
    "chunks from a batch that stays as it is."
)


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
        except Exception as error:  # a debugger must not end the program that it watches
            return {"unread": why(error)}

    def _report(self, tensors: Tensors, alone: bool) -> Report:
        if alone:  # behind a cache the mask has columns of earlier tokens
            batch = replace(_batch(tensors, self._hints), columns={})
            return check_alone(batch, one_chunk=True)
        parents = parents_of(tensors)
        slices = {key for key in tensors if parents[key] is not tensors[key]}
        if not slices:
            return self._by_itself(tensors)
        if "input_ids" not in slices or MEDIA_KEYS & tensors.keys() - slices:
            return self._by_both(tensors, parents)
        cut = self._cut_from(tensors, parents)
        report = cut.judge(tensors)
        if report is None:
            return self._by_itself(tensors)
        return _unless_written(report, cut.written, partial(self._by_itself, tensors))

    def _by_itself(self, tensors: Tensors) -> Report:
        """By what the call was handed only."""
        return check_alone(_batch(tensors, self._hints), one_chunk=True)

    def _cut_from(self, tensors: Tensors, parents: Tensors) -> _CutBatch:
        """The batch that these are slices of, with its tensors at hand for one judgement."""
        if self._cut is None or not self._cut.takes(tensors, parents):
            before = frozenset() if self._cut is None else self._cut.written_since(tensors)
            self._cut = _CutBatch(tensors, parents, self._hints, before)
        return self._cut

    def _by_both(self, tensors: Tensors, parents: Tensors) -> Report:
        """Slices beside tensors that are none: copies, or the whole of what others are slices of.

        What is in step by itself is right, for nothing tells whose rows copies are. But where the
        chunk has all placeholders of the batch, what is no slice must be the whole. And where the
        call is wrong anyway, the batch tells better what is wrong, if it is in step itself.
        """
        try:
            alone, unread = self._by_itself(tensors), None
        except VlmDebugError as error:
            alone, unread = None, error
        every = _has_all(tensors, parents, self._hints)
        if every or unread is not None or (alone is not None and alone.mismatches):
            cut = _CutBatch(tensors, parents, self._hints)
            report = cut.judge(tensors) if cut.in_step else None
            if report is not None and (every or report.mismatches):
                return report
        if unread is not None:
            raise unread
        assert alone is not None
        return alone


def why(error: Exception) -> str:
    """Why a call is unread: what the user is told, or that the mistake is ours."""
    ours = f"vlmdebug failed: {type(error).__name__}: {error}"
    return str(error) if isinstance(error, VlmDebugError) else ours


def _unless_written(
    report: Report, written: Collection[str], by_itself: Callable[[], Report]
) -> Report:
    """The report, unless what it finds may come of media that are written chunk by chunk."""
    if not written or not report.mismatches:
        return report
    alone = by_itself()
    if not alone.ok:
        return report
    return replace(alone, ambiguities=tuple(WRITTEN.format(key=key) for key in sorted(written)))


def _has_all(tensors: Tensors, parents: Tensors, hints: Hints) -> bool:
    """Whether the chunk has all the placeholder tokens of the media that are no slices."""
    ids, whole = tensors["input_ids"], parents["input_ids"]
    own = {key for key in MEDIA_KEYS & tensors.keys() if parents[key] is tensors[key]}
    if whole is ids or not own or not ids.stride(0):  # one row several times, by expand
        return False
    token_ids = {"": hints.image_token_id, **hints.token_ids}
    for token in {token_ids.get(clip_of(key)) for key in own}:
        count = 0 if token is None else int((ids == token).sum())
        if not count or count != int((whole == token).sum()):
            return False
    return True


class _CutBatch:
    """A batch that chunks are cut from. It keeps no tensor of the program's between two calls.

    The next chunk is of the same batch if it is a view of the same tensors, unwritten by torch's
    count; a copy of `input_ids` tells writes that torch does not see (through `.data`, numpy).

    Attributes:
        written: Media that were written to while chunks of the same `input_ids` came.
    """

    def __init__(
        self,
        tensors: Tensors,
        parents: Tensors,
        hints: Hints,
        written: frozenset[str] = frozenset(),
    ) -> None:
        self.written = written
        self._whole = _of_batch(parents)
        self._marks = {key: _Mark.of(tensors[key], parents[key]) for key in self._whole}
        self._ids = parents["input_ids"].clone()
        self._inputs: dict[str, Any] = {}
        self._batch: Batch | None = None
        try:
            batch = assemble(Facts(self._whole, hints), None)
        except VlmDebugError:
            return  # the slices were cut from tensors that are no batch together
        if not batch.ambiguities:
            self._batch = replace(batch, inputs=self._inputs)

    @property
    def in_step(self) -> bool:
        """Whether placeholders and features of all its samples are; only before `judge`."""
        if self._batch is None:
            return False
        return not batch_mismatches(replace(self._batch, inputs=self._whole))

    def takes(self, tensors: Tensors, parents: Tensors) -> bool:
        """Whether these are slices of it and nobody wrote into its tensors since.

        A chunk may lack keys, as one without images does, but not where some of its columns were
        left out too: what it needs is then another question.
        """
        ids, known = tensors["input_ids"], parents["input_ids"]
        given = _of_batch(parents)
        if self._marks.keys() != given.keys() and ids.shape[1:] != known.shape[1:]:
            return False
        if not given.keys() <= self._marks.keys():
            return False
        found = {}
        for key, mark in self._marks.items():
            if key not in given:
                found[key] = mark.parent()
            elif mark.fits(tensors[key], parents[key]):
                found[key] = parents[key]
            if found.get(key) is None:
                return False
        begin = ids.storage_offset() - known.storage_offset()
        if not torch.equal(ids, self._ids.as_strided(ids.shape, ids.stride(), begin)):
            return False
        self._whole = found
        return True

    def written_since(self, tensors: Tensors) -> frozenset[str]:
        """Media that were written to, if these `input_ids` are slices of the batch's still."""
        if not self._marks["input_ids"].is_of(_root(tensors["input_ids"])):
            return frozenset()
        media = self._marks.keys() & MEDIA_KEYS & tensors.keys()
        found = {key for key in media if self._marks[key].was_written(_root(tensors[key]))}
        return self.written | found

    def judge(self, tensors: Tensors) -> Report | None:
        """The report on a chunk; None where the tensors it was cut from are no batch together."""
        whole, self._whole = self._whole, {}
        if self._batch is None:
            return None
        self._inputs.update(whole)
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
    return assemble(Facts(_of_batch(tensors), hints), None)


def _of_batch(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Media, and tokens with a row per sample; a mask of more dimensions is none of them."""
    samples = len(tensors["input_ids"])
    return {
        key: tensor
        for key, tensor in tensors.items()
        if key in MEDIA_KEYS or (key in TOKENS and tensor.ndim == 2 and len(tensor) == samples)
    }


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
        same = self.is_of(_root(tensor))
        return same and self.dtype == parent.dtype and self.place == place(parent)

    def parent(self) -> torch.Tensor | None:
        """The parent again; None where it is gone or was written to."""
        root = self.root()
        if root is None or root.dtype != self.dtype or not self._is_unwritten(root):
            return None
        _, shape, stride = self.place
        return root.detach().as_strided(shape, stride, self.offset)

    def is_of(self, root: torch.Tensor) -> bool:
        """Whether the parent is a view of that tensor, as it was."""
        return self.root() is root and self._is_unwritten(root)

    def was_written(self, root: torch.Tensor) -> bool:
        """Whether the parent is a view of that tensor, but not as it was."""
        return self.root() is root and self.version is not None and not self._is_unwritten(root)

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
