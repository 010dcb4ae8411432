"""Batches that calls have some columns of: read once, while their windows come."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import torch

from vlmdebug.checking.report import Report
from vlmdebug.checking.whole_batch import batch_differences
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import LABELS, MEDIA_KEYS, OF_BOTH
from vlmdebug.errors import VlmDebugError
from vlmdebug.families.assemble import assemble
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.tracking.joined import IDS, PADDING_MASK
from vlmdebug.tracking.shard_tokens import POSITIONS
from vlmdebug.tracking.window import Whole
from vlmdebug.watching.fast_path import TOKENS, Tensors
from vlmdebug.watching.identity import Identity, identities_of, sampled_media
from vlmdebug.watching.judged import Judged
from vlmdebug.watching.tensor_refs import TensorRef, parents_of, root_of, wide_of


@dataclass(frozen=True)
class Known:
    """A batch that was read, and which tensors it was read from.

    Attributes:
        media: Where the media of the batch are, and how many rows; empty if they do not fit it.
        said: What is wrong with it, whoever cuts it; None where nothing is.
    """

    whole: Whole
    marks: Mapping[str, TensorRef]
    media: Mapping[str, tuple[TensorRef, int]]
    said: Report | None
    identities: list[Identity] | None

    def is_of(self, roots: Mapping[str, torch.Tensor]) -> bool:
        """Whether a call with slices of these tensors is of this batch.

        Masks, positions and labels may also be other tensors: their values are compared.
        """
        if not roots.keys() <= self.marks.keys():
            return False
        own = [key for key in roots if key == IDS or key in MEDIA_KEYS]
        others = [key for key in roots if key not in own]
        return all(self.marks[key].is_of(roots[key]) for key in own) and not any(
            self.marks[key].was_written(roots[key]) for key in others
        )


KNOWN = 4
"""Batches that are known at a time."""


class KnownBatches:
    """The batches that were read last.

    Args:
        metadata: Of the model and its processor.
        alone: Judges a whole batch by itself.
    """

    def __init__(self, metadata: ProcessorMetadata, alone: Callable[[Tensors], Judged]) -> None:
        self._metadata, self._alone = metadata, alone
        self._known: list[Known] = []

    def of(self, tensors: Tensors) -> Known:
        """The batch of a call that has some of its columns.

        Raises:
            VlmDebugError: The tensors are no batch together.
        """
        shape = wide_of(tensors[IDS]).shape
        names = [k for k in tensors if k in TOKENS or k in MEDIA_KEYS or k in (POSITIONS, *LABELS)]
        names = [k for k in names if k in MEDIA_KEYS or wide_of(tensors[k]).shape[-2:] == shape]
        roots = {key: root_of(tensors[key]) for key in names}
        for one in self._known:
            if one.is_of(roots):
                return one
        masked = PADDING_MASK in tensors
        found = self._read({key: tensors[key] for key in names}, shape, masked=masked)
        self._known = [found, *self._known[: KNOWN - 1]]
        return found

    def _read(self, tensors: Tensors, shape: torch.Size, *, masked: bool) -> Known:
        """`masked`: the call has a mask, which may be no slice of the batch's."""
        parents = parents_of(tensors, columns=True)
        marks = {key: TensorRef.of(tensors[key], parents[key]) for key in tensors}
        own = {
            key: parent
            for key, parent in parents.items()
            if (key not in MEDIA_KEYS and parent.shape[-2:] == shape)
            or (key in OF_BOTH and parent.shape[:2] == shape)
        }
        batch, tokens, media = self._assembled(tensors, parents, own)
        bare = replace(batch, inputs=dict.fromkeys(batch.inputs))
        whole = Whole(batch, {**own, **(media or {})}, bare, self._metadata.pad_token_id)
        if media is None:
            return Known(whole, marks, {}, None, None)
        given = {**own, **media}
        real = whole.real | (whole.ids != self._metadata.pad_token_id)
        plain = len(real) == 1 and POSITIONS not in own and bool(real.all())
        if (masked or plain) and not whole.masked:  # one row is one sample, unless positions fall
            given[PADDING_MASK] = torch.from_numpy(real).long()  # they are counted without padding
        judged = self._alone(given)
        away = any(not one.is_cpu for one in media.values())
        every = range(len(batch))
        read = None if away else identities_of(batch, every, tokens, sampled_media(media))
        rows = {key: (TensorRef.of(tensors[key], one), len(one)) for key, one in media.items()}
        return Known(whole, marks, rows, None if judged.ok else judged.report(), read)

    def _assembled(
        self, tensors: Tensors, parents: Tensors, own: Tensors
    ) -> tuple[Batch, Tensors, Tensors | None]:
        """The batch, its tokens, and the media that fit them; None if none do."""
        tokens = {key: value for key, value in own.items() if key in TOKENS and value.ndim == 2}
        both = {key: value for key, value in own.items() if key in OF_BOTH}
        keys = MEDIA_KEYS.difference(OF_BOTH) & parents.keys()
        counted = {key: value for key, value in tokens.items() if key not in LABELS}
        for source in (parents, tensors):  # the media may be of the same samples as the tokens
            media = {key: source[key] for key in keys}
            with suppress(VlmDebugError):
                whole = {**counted, **both, **media}
                found = assemble(BatchFacts(whole, self._metadata), None)
                if not found.ambiguities and not batch_differences(found):
                    return found, tokens, media
        return assemble(BatchFacts(tokens, self._metadata), None), tokens, None
