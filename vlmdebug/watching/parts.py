"""Verdicts on calls with some columns of a batch: a rank of several, or a window of a prefill."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from vlmdebug.checking.findings import Difference
from vlmdebug.checking.report import Report
from vlmdebug.checking.shards import shard_differences, shard_doubts
from vlmdebug.checking.text import as_mismatch
from vlmdebug.checking.text_doubts import doubt
from vlmdebug.checking.whole_batch import (
    batch_differences,
    doubts_alone,
    planned_report,
    with_made,
)
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import ALONG_TOKENS, LABELS, MEDIA_KEYS
from vlmdebug.core.observed import Made
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.errors import VlmDebugError
from vlmdebug.families.assemble import assemble
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.families.windows import is_computed_alike
from vlmdebug.tracking.copied import copied
from vlmdebug.tracking.joined import IDS, PADDING_MASK
from vlmdebug.tracking.window import Place, Window
from vlmdebug.watching.arguments import Mode
from vlmdebug.watching.copy_of_rank import Copy, more_media
from vlmdebug.watching.fast_path import TOKENS, Tensors
from vlmdebug.watching.group import Group, Member
from vlmdebug.watching.identity import Identity
from vlmdebug.watching.judged import Judged
from vlmdebug.watching.known import Known, KnownBatches
from vlmdebug.watching.share import Share
from vlmdebug.watching.succession import Late, Succession
from vlmdebug.watching.windows import Rest, SplitCalls, Where, Windows


class PartChecker:
    """Judges calls that have some columns of a batch.

    Args:
        metadata: Of the model and its processor.
        windows: Which columns came before.
        alone: Judges a whole batch by itself.
    """

    def __init__(
        self,
        metadata: ProcessorMetadata,
        windows: Windows,
        alone: Callable[[Tensors], Judged],
    ) -> None:
        self._metadata = metadata
        self.windows: Windows = windows
        self._batches = KnownBatches(metadata, alone)
        shards, rank = windows.split.shards, windows.split.rank
        self.succession: Succession | None = None
        if shards is not None and rank is None:
            group = Group(metadata, shards, alone, embedded=windows.split.embedded)
            self.succession = Succession(group, shards, windows)
        self._mode: Mode = ()
        self.last: tuple[Known, Place] | None = None
        self.copied: list[dict[str, Any]] | None = None  # of a last call with a copy of its tokens

    @property
    def split(self) -> SplitCalls:
        return self.windows.split

    def forget(self, mode: Mode) -> None:
        """Forget the last call; `mode`: of the next one."""
        self.last = self.copied = None
        self._mode = mode

    def of_copy(self, tensors: Tensors, site: str, alone: Callable[[], Judged]) -> Judged:
        """What is found in a call with a copy of some tokens, of which the batch is not seen.

        `alone`: judges it as a whole batch.

        Raises:
            VlmDebugError: Its tensors are no part of a batch.
        """
        if self.succession is not None:
            batch = self._call({IDS: tensors[IDS]}, None, media=False)
            none = Judged(True, partial(planned_report, _bare(batch), one_chunk=True))
            try:
                whole = alone()
            except VlmDebugError as error:  # nothing is known of it
                whole = Judged.of(replace(none.report(), ambiguities=(str(error),)))
            found = self.succession.add(Member.of(tensors, site, self._mode, whole))
            return found or none
        copy = Copy(tensors, self._metadata.pad_token_id)
        self.copied = copy.pieces()
        number = self.split.rank or 0
        batch, found, why = self._counted(tensors, copy.mask, shared=True)
        faults = [one._replace(rank=number) for one in why if one.why is not Split.UNITS]
        faults += [one._replace(rank=number) for one in copy.labels(batch)]
        faults.append(ShardFault(Split.ALONE, rank=number))
        judged = self._report(batch, None, found, faults)
        keys = [key for key in ALONG_TOKENS if key in tensors and tensors[key].ndim == 2]
        made = {key: copied(key, tensors, self._metadata) for key in sorted(keys)}
        return _with_made(judged, batch, {k: one for k, one in made.items() if one.right is False})

    def judged(self, where: Where, tensors: Tensors, site: str) -> Judged:
        """What is found in a call with these columns.

        Raises:
            VlmDebugError: Its tensors are no part of a batch.
        """
        known = self._batches.of(tensors)
        number, faults, part = self.windows.add(where, known.whole, site)
        cached = where.cache is not None
        noun = "window" if cached else "rank"
        window = Window(
            known.whole,
            where.at,
            tensors,
            number=number,
            noun=noun,
            cached=cached,
            behind=where.cached,
        )
        faults += window.faults()
        images = known.whole.placeholders(where.at) > 0
        if cached and where.at.start and not is_computed_alike(self._metadata, images=images):
            faults.append(ShardFault(Split.BEHIND, rank=number, noun=noun))
        share = Share(known.whole, known.media, where.at, tensors)
        why = share.faults(self.split, cached=cached)
        mask, found = known.whole.mask(where.at), list[Difference]()
        if why is None:
            batch, found, why = self._counted(
                tensors, mask, shared=self.split.declared and not cached
            )
        else:
            batch = self._call(tensors, mask, media=False)
        faults += [one._replace(rank=number, noun=noun) for one in why]
        self.last = known, where.at
        judged = self._report(batch, known.said, found, faults)
        judged = _with_made(judged, batch, self._copies(known, where.at, tensors))
        if self.succession is None or cached:
            return judged
        rest = known.whole.has_others(where.at)
        call = Member.of(tensors, site, self._mode, judged)
        return self.succession.add(replace(call, part=part, is_share=rest)) or judged

    def _counted(
        self, tensors: Tensors, mask: np.ndarray | None, *, shared: bool
    ) -> tuple[Batch, list[Difference], list[ShardFault]]:
        """The call by itself: its media compared with its own placeholder tokens.

        `shared`: among ranks, where tokens may be embedded before the split.
        """
        keys = [key for key in tensors if key in MEDIA_KEYS]
        if shared and self.split.embedded and keys:
            batch = self._call(tensors, mask, media=False)
            return batch, [], [ShardFault(Split.UNITS, keys[0])]
        batch = self._call(tensors, mask, media=True)
        more = more_media(batch) if shared else []
        if not more:
            return batch, batch_differences(batch), []
        return self._call(tensors, mask, media=False), [], more

    def _copies(self, known: Known, at: Place, tensors: Tensors) -> dict[str, Made]:
        """Masks and types that no batch was judged with, and are not known to go with tokens."""
        found, whole = dict[str, Made](), known.whole.ids
        for key in ALONG_TOKENS:
            value = tensors.get(key)
            if value is None or value.ndim != 2 or (known.media and key in known.whole.own):
                continue
            ids, wide = tensors[IDS], value.shape[1]
            if key == PADDING_MASK and wide in (at.stop, whole.shape[1]):  # from the first token on
                ids = torch.from_numpy(whole[at.rows.start : at.rows.stop, :wide])
            found[key] = copied(key, {IDS: ids, key: value}, self._metadata)
        return {key: one for key, one in found.items() if not one.right}

    def _report(
        self,
        batch: Batch,
        said: Report | None,
        found: Iterable[Difference],
        faults: list[ShardFault],
    ) -> Judged:
        samples = tuple(range(len(batch)))
        found = [*found, *shard_differences(faults, 0, samples)]
        unsure = [*doubts_alone(batch), *map(doubt, shard_doubts(faults, 0))]
        report = partial(planned_report, _bare(batch), one_chunk=True)
        if not (found or unsure or said):
            return Judged(True, report)
        return Judged.of(
            replace(
                report(),
                mismatches=(
                    *(as_mismatch(one, batch) for one in found),
                    *(said.mismatches if said else ()),
                ),
                ambiguities=(*unsure, *(said.ambiguities if said else ())),
            )
        )

    def _call(self, tensors: Tensors, mask: np.ndarray | None, *, media: bool) -> Batch:
        """The call as a batch of its own, without labels, which are compared apart.

        `mask`: that of its tokens; its own may be wrong, or reach further back. `media`: with its
        media, which were not compared with those of the batch.
        """
        ids = tensors[IDS]
        inputs: dict[str, Any] = {
            key: value
            for key, value in tensors.items()
            if (key in MEDIA_KEYS and media)
            or key == IDS
            or (key in TOKENS and value.shape == ids.shape)
        }
        for key in (PADDING_MASK, *LABELS):
            inputs.pop(key, None)
        if mask is not None:
            inputs[PADDING_MASK] = mask
        return replace(assemble(BatchFacts(inputs, self._metadata), None), columns={})

    # --- the trace -------------------------------------------------------------------------

    def identities(self) -> list[Identity] | None:
        """The samples that the last call has a part of; None where they are not known."""
        if self.last is None:
            return None
        known, at = self.last
        read = known.identities
        return None if read is None else read[at.rows.start : at.rows.stop]

    def traced(self) -> dict[str, Any]:
        """Which tokens of these samples the last call has, for a line of the trace."""
        if self.split.rank is None:
            return {}
        if self.last is not None:
            known, at = self.last
            return {"tokens": known.whole.pieces(at)}
        return {} if self.copied is None else {"tokens": self.copied}

    # --- the end ---------------------------------------------------------------------------

    def late(self) -> list[Late]:
        """What was found in earlier calls, now that later ones came."""
        return [] if self.succession is None else self.succession.taken()

    def rest(self) -> Iterator[Late]:
        """What windows leave at the end, with the last call that had some of their tokens."""
        if self.succession is not None:
            yield from self.succession.ended()
        for one in self.windows.ended():
            yield one.site, self._of_rest(one)

    def _of_rest(self, one: Rest) -> Judged:
        batch = one.whole.batch
        inputs: dict[str, Any] = {**batch.inputs, IDS: one.whole.ids}
        batch = replace(batch, inputs=inputs)
        found = shard_differences([one.fault], 0, tuple(one.rows))
        return Judged.of(
            replace(
                planned_report(batch, one_chunk=True),
                mismatches=tuple(as_mismatch(each, batch) for each in found),
                ambiguities=tuple(map(doubt, shard_doubts([one.fault], 0))),
            )
        )


def _with_made(judged: Judged, batch: Batch, made: dict[str, Made]) -> Judged:
    """What was found, and what is wrong or not known of keys that follow from the tokens."""
    return Judged.of(with_made(judged.report(), batch, made)) if made else judged


def _bare(batch: Batch) -> Batch:
    """The batch without its tensors: their names and the width of its tokens are enough."""
    width = np.broadcast_to(np.int64(0), tuple(batch.inputs[IDS].shape))
    return replace(batch, inputs={**dict.fromkeys(batch.inputs), IDS: width})
