"""Calls in which nothing says whether a row is one sample or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from vlmdebug.core.keys import PACKED
from vlmdebug.families.facts import ProcessorMetadata
from vlmdebug.families.packing import Packing, read_packing
from vlmdebug.watching.judged import Judged
from vlmdebug.watching.tensor_refs import parents_of

POSITIONS = "position_ids"
SEAMS = frozenset({*PACKED, POSITIONS})
"""Arguments that say where samples of packed rows begin."""
MASK = "attention_mask"


def with_bare_row(judged: Judged, tensors: Mapping[str, torch.Tensor]) -> Judged:
    """What was found, and that the one row of a call may hold several samples, if it may.

    A row of a table of several is one sample, as the others are.
    """
    ids = tensors["input_ids"]
    if len(ids) != 1 or not SEAMS.isdisjoint(tensors) or _is_told(tensors):
        return judged
    (may,) = read_packing({"input_ids": ids}, None, None).ambiguities
    report = judged.report()
    if may.message in report.ambiguities:
        return judged
    return Judged.of(replace(report, ambiguities=(may.message, *report.ambiguities)))


def may_be_several(
    tensors: Mapping[str, torch.Tensor], metadata: ProcessorMetadata
) -> Packing | None:
    """What leaves open whether rows hold several samples; their positions may start anywhere."""
    if _is_told(tensors):
        return None
    own = {key: one for key, one in tensors.items() if key in SEAMS or key == "input_ids"}
    clips = {token for token in metadata.token_ids.values() if token is not None}
    open_to = read_packing(own, None, metadata.pad_token_id, clips=clips).ambiguities
    return Packing(ambiguities=open_to) if open_to else None


def _is_told(tensors: Mapping[str, torch.Tensor]) -> bool:
    """Whether a row is one sample: by a mask, or as a row of a table of several."""
    if MASK in tensors:
        return True
    ids = tensors["input_ids"]
    return len(parents_of({"input_ids": ids})["input_ids"]) > len(ids)
