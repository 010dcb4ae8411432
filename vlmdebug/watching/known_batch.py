"""A batch that chunks are cut from, recognised by its memory as long as they come."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch

from vlmdebug.checking.compare import compare
from vlmdebug.checking.report import Report
from vlmdebug.checking.whole_batch import batch_differences
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.core.observed import Made, MadeBy, SlicerRun
from vlmdebug.errors import VlmDebugError
from vlmdebug.families.assemble import assemble
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.tracking.observe import used_chunk
from vlmdebug.tracking.rows import RowFinder
from vlmdebug.watching.fast_path import TOKENS, FastPath, Tensors
from vlmdebug.watching.tensor_refs import TensorRef, root_of


class KnownBatch:
    """A batch that chunks are cut from. It keeps no tensor of the program's between two calls.

    The next chunk is of the same batch if it is a view of the same tensors, unwritten by torch's
    count; a copy of `input_ids` tells writes that torch does not see (through `.data`, numpy).

    Attributes:
        written: Media that were written to while chunks of the same `input_ids` came.
        matches: Whether it is a batch, and placeholders and features of all its samples agree.
        batch: The batch without its tensors; None where these are none together.
    """

    def __init__(
        self,
        tensors: Tensors,
        parents: Tensors,
        metadata: ProcessorMetadata,
        written: frozenset[str] = frozenset(),
    ) -> None:
        self.written: frozenset[str] = written
        self.matches: bool = False
        self._inputs: dict[str, Any] = of_batch(parents)
        self._marks = {key: TensorRef.of(tensors[key], parents[key]) for key in self._inputs}
        self._ids = parents["input_ids"].clone()
        self.batch: Batch | None = None
        self._right: FastPath | None = None
        try:
            batch = assemble(BatchFacts(self._inputs, metadata), None)
            if not batch.ambiguities:
                self.matches = not batch_differences(batch)
                self.batch = batch
                self._right = FastPath(batch, self._marks, matches=self.matches)
        except VlmDebugError:
            pass  # the slices were cut from tensors that are no batch together
        finally:
            self._forget()

    def _forget(self) -> None:
        """Keep the names of the batch's tensors only."""
        self._inputs.update(dict.fromkeys(self._inputs))

    @property
    def keys(self) -> Collection[str]:
        """Keys of the batch."""
        return self._marks.keys()

    def right(self, tensors: Tensors) -> tuple[range, Callable[[], Report]] | None:
        """The samples of a chunk that is plainly right, and the report on it; None otherwise."""
        samples = None if self._right is None else self._right.samples(tensors)
        if self._right is None or samples is None:
            return None
        if not torch.equal(tensors["input_ids"], self._ids[samples.start : samples.stop]):
            return None
        return samples, self._right.report(samples, tensors)

    def whole(self, tensors: Tensors, parents: Tensors) -> Tensors | None:
        """The batch's tensors, if these are slices of them and nobody wrote into them since.

        A chunk may lack keys, as one without images does, but not where some of its columns were
        left out too: what it needs is then another question.
        """
        ids, known = tensors["input_ids"], parents["input_ids"]
        if not self._marks["input_ids"].is_of(root_of(ids)):
            return None
        given = of_batch(parents)
        if self._marks.keys() != given.keys() and ids.shape[1:] != known.shape[1:]:
            return None
        if not given.keys() <= self._marks.keys():
            return None
        found = {}
        for key, mark in self._marks.items():
            if key not in given:
                found[key] = mark.parent()
            elif mark.fits(tensors[key], parents[key]):
                found[key] = parents[key]
            if found.get(key) is None:
                return None
        begin = ids.storage_offset() - known.storage_offset()
        if not torch.equal(ids, self._ids.as_strided(ids.shape, ids.stride(), begin)):
            return None
        return found

    def written_since(self, tensors: Tensors) -> frozenset[str]:
        """Media that were written to, if these `input_ids` are slices of the batch's still."""
        if not self._marks["input_ids"].is_of(root_of(tensors["input_ids"])):
            return frozenset()
        media = self._marks.keys() & MEDIA_KEYS & tensors.keys()
        found = {key for key in media if self._marks[key].was_written(root_of(tensors[key]))}
        return self.written | found

    def judge(self, tensors: Tensors, whole: Tensors) -> Report | None:
        """The report on a chunk; None where the tensors it was cut from are no batch together."""
        if self.batch is None:
            return None
        self._inputs.update(whole)
        try:
            finder = RowFinder(self._inputs, self.batch.layout)
            chunk = used_chunk(self.batch, finder, tensors, range(0))
            chunk = replace(chunk, made=untold(chunk.made))
            rows = chunk.keys["input_ids"].rows
            size = len(rows) if rows is not None else len(tensors["input_ids"])
            run = SlicerRun([chunk], size or 1, slicer="watched calls", partial=True)
            return compare(self.batch, run)
        finally:
            self._forget()


def of_batch(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Media, and tokens with a row per sample; a mask of more dimensions is none of them."""
    samples = tensors["input_ids"].shape[0]
    return {
        key: tensor
        for key, tensor in tensors.items()
        if key in MEDIA_KEYS or (key in TOKENS and tensor.ndim == 2 and tensor.shape[0] == samples)
    }


def untold(made: Mapping[str, Made]) -> dict[str, Made]:
    """Those that are not right; a copy of tokens may be the batch's own, which is not seen here."""
    wrong = {key: one for key, one in made.items() if not one.right}
    typed = MadeBy.COMPLETION  # follows from a copy, too
    return {
        key: one
        for key, one in wrong.items()
        if key not in TOKENS or (one.why is not None and one.why.rule is typed)
    }
