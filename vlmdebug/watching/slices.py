"""Chunks judged by the batch that they are slices of.

A slice is in the memory of the batch it was cut from, so the whole batch can be read there.
A batch is read once, as long as its chunks come; the tensors themselves are not kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from vlmdebug.checking.doubts import NotRecomputed, Written
from vlmdebug.checking.report import Report
from vlmdebug.checking.text_doubts import doubt
from vlmdebug.checking.whole_batch import (
    batch_differences,
    check_alone,
    doubts_alone,
    planned_report,
    with_made,
)
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import ALONG_TOKENS, LABELS, MEDIA_KEYS
from vlmdebug.core.observed import Made, MadeBy, MadeReason
from vlmdebug.errors import VlmDebugError
from vlmdebug.families.assemble import assemble
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.families.packing import read_packing
from vlmdebug.families.video_audio import clip_of
from vlmdebug.tracking.copied import copied
from vlmdebug.tracking.deltas import DELTAS
from vlmdebug.tracking.made import made_keys
from vlmdebug.tracking.packed import open_seams
from vlmdebug.watching.arguments import Mode
from vlmdebug.watching.bare import MASK, POSITIONS, SEAMS, may_be_several, with_bare_row
from vlmdebug.watching.fast_path import Tensors
from vlmdebug.watching.identity import Identity, Sampled, identities_of
from vlmdebug.watching.judged import COUNTS_DIFFER, Judged, Verdict, why
from vlmdebug.watching.known_batch import KnownBatch, of_batch, untold
from vlmdebug.watching.parts import PartChecker
from vlmdebug.watching.tensor_refs import parents_of
from vlmdebug.watching.windows import NOT_SPLIT, SplitCalls, Where, Windows

SHIFTED = LABELS[1]
BATCHES = 4
"""Batches that are known at a time, as chosen and rejected answers that take turns."""


class CallChecker:
    """Judges calls one by one, and reads a batch only once while its chunks come.

    `by_sample`: a call with all samples of a batch, and with other placeholders than features, is
    judged sample by sample, which names the one that was cut.
    """

    def __init__(
        self,
        metadata: ProcessorMetadata,
        *,
        by_sample: bool = False,
        split: SplitCalls = NOT_SPLIT,
    ) -> None:
        self._metadata, self._by_sample = metadata, by_sample
        self._given = metadata
        self._options: Mapping[str, Any] = {}
        self.parts: PartChecker = PartChecker(metadata, Windows(split), self._whole)
        self._cuts: list[KnownBatch] = []  # the latest first
        self._last: tuple[Batch, range | None] | None = None  # what the last call was judged by

    def __call__(
        self,
        tensors: Callable[[], Tensors],
        *,
        alone: bool = False,
        where: Where | None = None,
        site: str = "",
        interpolated: bool = False,
        options: Mapping[str, Any] | None = None,
        mode: Mode = (),
        whole: bool = False,
    ) -> Verdict:
        """What is found in one call, or why it is unread.

        Args:
            tensors: Its tensors.
            alone: Only by its own tensors, whatever they were cut from.
            where: The columns of a batch that it has, if not all.
            site: The line that made it.
            interpolated: The model is asked to take images of any size.
            options: Arguments that are no tensors.
            mode: Whether the model trains, and whether gradients are computed.
            whole: It has all tokens, whatever shards are declared.
        """
        self._last, self._options = None, options or {}
        self._metadata = self._given.interpolated if interpolated else self._given
        self.parts.forget(mode)
        shared = bool(self.parts.split.shards) and not (alone or whole)
        try:
            given = tensors()
            wide = [key for key in ALONG_TOKENS if key in given and given[key].ndim != 2]
            plain = {key: one for key, one in given.items() if key not in wide} if wide else given
            blocks = None if alone or where is not None or not wide else given.get(MASK)
            if blocks is not None and blocks.ndim == 4 and not shared:
                packed = self._packed({**plain, MASK: blocks})
                if packed is not None:
                    wide.remove(MASK)
                    return {"judged": _with_wide(packed, given, sorted(wide)) if wide else packed}
            if where is not None and not whole:
                judged = self.parts.judged(where, plain, site)
            elif alone:
                judged = self._by_itself(plain, cached=True)
            else:
                usual = partial(self._judged, plain, given)
                judged = self.parts.of_copy(plain, site, usual) if shared else usual()
            return {"judged": _with_wide(judged, given, sorted(wide)) if wide else judged}
        except Exception as error:  # a debugger must not end the program that it watches
            return {"unread": why(error)}

    def identities(self, tensors: Tensors, media: Mapping[str, Sampled]) -> list[Identity] | None:
        """The samples of the call that was judged last; None where a row may hold several.

        Raises:
            VlmDebugError: The tensors are no batch.
        """
        batch, samples = self._last or (None, None)
        if self.parts.last is not None or self.parts.copied is not None:
            return self.parts.identities()
        if batch is None:
            batch = assemble(BatchFacts(of_batch(tensors), self._metadata), None)
            samples = range(len(batch))
        return None if samples is None else identities_of(batch, samples, tensors, media)

    def _judged(self, plain: Tensors, given: Tensors) -> Judged:
        return with_bare_row(self._of_rows(plain), given)

    def _of_rows(self, tensors: Tensors) -> Judged:
        packed = None if SEAMS.isdisjoint(tensors) else self._packed(tensors)
        if packed is not None:
            return packed
        for cut in self._cuts:
            right = self._right(cut, tensors)
            if right is not None:
                return right
        parents = parents_of(tensors)
        slices = {key for key in tensors if parents[key] is not tensors[key]}
        if not slices:
            return self._by_itself(tensors)
        if "input_ids" not in slices or MEDIA_KEYS & tensors.keys() - slices:
            return self._by_both(tensors, parents)
        return self._by_batch(tensors, parents)

    def _whole(self, tensors: Tensors) -> Judged:
        """A batch that other calls have columns of; it is no call, so that it has no options."""
        self._options = {}
        packed = None if SEAMS.isdisjoint(tensors) else self._packed(tensors)
        return self._by_itself(tensors) if packed is None else packed

    def _packed(self, tensors: Tensors) -> Judged | None:
        """A call with rows of several samples, by itself; None if no row holds several."""
        inputs: dict[str, Any] = of_batch(tensors)
        inputs |= {key: tensors[key] for key in tensors if key in SEAMS or key in (MASK, SHIFTED)}
        packing = read_packing(inputs, None, self._metadata.pad_token_id, single=True)
        if packing.spans is None and not packing.ambiguities:
            return None
        inputs |= self._options
        batch = assemble(BatchFacts(inputs, self._metadata, packing=packing), None)
        samples = None if packing.ambiguities else range(len(batch))
        seams = open_seams(batch, restarts=packing.restarts)
        made = {DELTAS: Made.unchecked(MadeBy.DELTAS_PACKED)} if DELTAS in tensors else {}
        if seams or made or doubts_alone(batch) or batch_differences(batch):
            self._last = _without_tensors(batch), samples
            report = check_alone(batch, one_chunk=True, seams=seams)
            return Judged.of(with_made(report, batch, made))
        shape = inputs["input_ids"].shape
        inputs.update(dict.fromkeys(inputs))  # the names and the width are enough
        inputs["input_ids"] = np.ndarray(shape, np.int64, bytes(8), strides=(0, 0))
        self._last = batch, samples
        return Judged(True, partial(planned_report, batch, one_chunk=True))

    def _by_itself(self, tensors: Tensors, *, cached: bool = False) -> Judged:
        """Only by the call's own tensors.

        `cached`: behind a cache, where the mask has columns of earlier tokens.
        """
        inputs: dict[str, Any] = of_batch(tensors)
        batch = assemble(BatchFacts(inputs, self._metadata), None)
        batch = replace(batch, columns={}) if cached else batch
        made = {} if cached else _not_right(batch, tensors)
        if made or doubts_alone(batch) or batch_differences(batch):
            if not cached and (several := may_be_several(tensors, self._metadata)):
                batch = assemble(BatchFacts(inputs, self._metadata, packing=several), None)
                made.pop(POSITIONS, None)
            self._last = _without_tensors(batch), range(len(batch))
            return Judged.of(with_made(check_alone(batch, one_chunk=True), batch, made))
        inputs.update(dict.fromkeys(inputs))  # the names are enough, and no tensor is kept
        self._last = batch, range(len(batch))
        return Judged(True, partial(planned_report, batch, one_chunk=True))

    def _by_batch(self, tensors: Tensors, parents: Tensors) -> Judged:
        """By the batch that all of these are slices of."""
        for cut in self._cuts:
            whole = cut.whole(tensors, parents)
            if whole is not None:
                break
        else:
            cut, whole = self._read(tensors, parents), of_batch(parents)
            right = self._right(cut, tensors)
            if right is not None:
                return right
        report = cut.judge(tensors, whole)
        if report is None:
            return self._by_itself(tensors)
        judged = self._per_sample(report, tensors)
        judged = self._unless_written(judged, cut.written, tensors)
        return self._with_copies(judged, cut, tensors)

    def _right(self, cut: KnownBatch, tensors: Tensors) -> Judged | None:
        """What was found in a chunk of a known batch that is plainly right; None in any other."""
        right = cut.right(tensors)
        if right is None or cut.batch is None:
            return None
        samples, report = right
        self._last = cut.batch, samples
        return self._with_copies(Judged(True, report), cut, tensors)

    def _per_sample(self, report: Report, tensors: Tensors) -> Judged:
        """What was found; of a whole batch with cut texts, sample by sample.

        The batch itself knows the placeholders of a chunk only in all, and the call those of each
        sample. Samples have the same numbers in both only where the chunk is the whole batch.
        """
        whole = report.chunks[0].samples == (*range(report.samples),)
        if self._by_sample and whole and {one.code for one in report.mismatches} == {COUNTS_DIFFER}:
            alone = self._by_itself(tensors)
            if not alone.ok and any(one.samples for one in alone.report().mismatches):
                return alone
        return Judged.of(report)

    def _with_copies(self, judged: Judged, cut: KnownBatch, tensors: Tensors) -> Judged:
        """What was found, and what a mask and types say that are no slices of the batch."""
        copies = [key for key in ALONG_TOKENS if key in tensors and key not in cut.keys]
        if not copies:
            return judged
        copies = [key for key in copies if tensors[key].ndim == 2]
        made = {key: copied(key, tensors, self._metadata) for key in sorted(copies)}
        wrong = {key: one for key, one in made.items() if not one.right}
        if not wrong or cut.batch is None:
            return judged
        return Judged.of(with_made(judged.report(), cut.batch, wrong))

    def _read(self, tensors: Tensors, parents: Tensors) -> KnownBatch:
        """Read the batch that these are slices of, and forget the one known longest."""
        written = frozenset[str]().union(*(cut.written_since(tensors) for cut in self._cuts))
        cut = KnownBatch(tensors, parents, self._metadata, written)
        self._cuts = [cut, *self._cuts[: BATCHES - 1]]
        return cut

    def _unless_written(self, judged: Judged, written: Collection[str], tensors: Tensors) -> Judged:
        """What was found, unless it may come of media that are written to chunk by chunk."""
        if not written or not judged.report().mismatches:
            return judged
        alone = self._by_itself(tensors)
        if not alone.ok:
            return judged
        doubts = tuple(doubt(Written(key)) for key in sorted(written))
        return Judged.of(replace(alone.report(), ambiguities=doubts))

    def _by_both(self, tensors: Tensors, parents: Tensors) -> Judged:
        """Slices together with other tensors: copies, or the whole of what others are slices of.

        A call that matches by itself is right, because nothing identifies the rows of copies. But
        if the chunk has all placeholders of the batch, a tensor that is not a slice must be the
        whole. And if the call is wrong anyway, the batch explains it better, if the batch itself
        matches.
        """
        try:
            alone, unread = self._by_itself(tensors), None
        except VlmDebugError as error:
            alone, unread = None, error
        every = _has_all(tensors, parents, self._metadata)
        if every or alone is None or (not alone.ok and alone.report().mismatches):
            cut = KnownBatch(tensors, parents, self._metadata)
            report = cut.judge(tensors, of_batch(parents)) if cut.matches else None
            if report is not None and (every or report.mismatches):
                return self._per_sample(report, tensors)
        if alone is not None:
            return alone
        assert unread is not None
        raise unread


def _without_tensors(batch: Batch) -> Batch:
    return replace(batch, inputs=dict.fromkeys(batch.inputs))


def _with_wide(judged: Judged, tensors: Tensors, wide: Sequence[str]) -> Judged:
    """What was found, with masks and types that are not `(sample, seq)` named as not compared."""
    report = judged.report()
    why = (MadeReason(MadeBy.SHAPE, (tuple(tensors[key].shape),)) for key in wide)
    doubts = [doubt(NotRecomputed(key, 0, one)) for key, one in zip(wide, why, strict=True)]
    return Judged.of(
        replace(
            report,
            mismatches=tuple(one for one in report.mismatches if one.key not in wide),
            ambiguities=(*report.ambiguities, *doubts),
        )
    )


def _not_right(batch: Batch, tensors: Tensors) -> dict[str, Made]:
    """Keys of a call that follow from its tokens, but not so, or by no rule that is known."""
    made = made_keys(batch, tensors, range(len(batch)))
    return untold(made) if made else made


def _has_all(tensors: Tensors, parents: Tensors, metadata: ProcessorMetadata) -> bool:
    """Whether the chunk has all the placeholder tokens of the media that are no slices."""
    ids, whole = tensors["input_ids"], parents["input_ids"]
    own = {key for key in MEDIA_KEYS & tensors.keys() if parents[key] is tensors[key]}
    if whole is ids or not own or not ids.stride(0):  # one row several times, by expand
        return False
    token_ids = {"": metadata.image_token_id, **metadata.token_ids}
    for token in {token_ids.get(clip_of(key)) for key in own}:
        count = 0 if token is None else int((ids == token).sum())
        if not count or count != int((whole == token).sum()):
            return False
    return True
