"""Masks and token types of a watched call that are no slices of the batch its tokens are cut from.

They may be copies of the batch's own, which is not seen, or made by the loop. What they must be
follows from the tokens of the call, as far as the padding token and the placeholders are known.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.core.observed import Made, MadeBy
from vlmdebug.core.tensors import to_numpy
from vlmdebug.errors import VlmDebugError
from vlmdebug.families.assemble import assemble
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata


def copied(key: str, tensors: Mapping[str, torch.Tensor], metadata: ProcessorMetadata) -> Made:
    """What is known about one of them, `(sample, seq)`, from the `input_ids` of its call."""
    value, ids = tensors[key], tensors["input_ids"]
    if value.shape != ids.shape:
        return Made.unchecked(MadeBy.OTHER_SHAPE)
    if key == "attention_mask":
        return _mask(to_numpy(value), to_numpy(ids), metadata.pad_token_id)
    return _types(key, tensors, metadata)


def _mask(mask: np.ndarray, ids: np.ndarray, pad: int | None) -> Made:
    """Whether it hides the padding at both ends of each row, and no other token.

    A padding token that is shown next to the text may end it, where it is the end token too.
    """
    if pad is None:
        return Made.unchecked(MadeBy.PADDING_UNKNOWN)
    padding, shown = ids == pad, mask != 0
    ends = np.logical_and.accumulate(padding, axis=1)
    ends |= np.logical_and.accumulate(padding[:, ::-1], axis=1)[:, ::-1]
    if (~padding & ~shown).any():
        return Made.unchecked(MadeBy.HIDES_TEXT)
    if ((ends & shown).sum(axis=1) > 1).any():
        return Made.unchecked(MadeBy.SHOWS_PADDING)
    return Made(True)


def _types(key: str, tensors: Mapping[str, torch.Tensor], metadata: ProcessorMetadata) -> Made:
    """Whether the placeholder tokens are marked as such, as far as the model marks them by it."""
    own = {"input_ids", key, *MEDIA_KEYS} & tensors.keys()
    try:
        batch = assemble(BatchFacts({name: tensors[name] for name in own}, metadata), None)
    except VlmDebugError:
        return Made.unchecked(MadeBy.UNREAD)
    marked = batch.marked.get(key)
    if marked is None or batch.image.placeholders is None:
        return Made.unchecked(MadeBy.MARKS_UNKNOWN)
    if marked != batch.image.placeholders:
        return Made.wrong(MadeBy.NOT_MARKED)
    exact = key == "mm_token_type_ids" or batch.rules.token_types_mark == "images"
    if exact and int((tensors[key] == 1).sum()) != sum(marked):
        return Made.unchecked(MadeBy.MARKS_TEXT)
    return Made(True)
