"""Calls of one row in which nothing says whether it is one sample or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from vlmdebug.core.keys import PACKED
from vlmdebug.families.packing import read_packing
from vlmdebug.watching.judged import Judged
from vlmdebug.watching.tensor_refs import parents_of

SEAMS = frozenset({*PACKED, "position_ids"})
"""Arguments that say where samples of packed rows begin."""
MASK = "attention_mask"


def with_bare_row(judged: Judged, tensors: Mapping[str, torch.Tensor]) -> Judged:
    """What was found, and that the one row of a call may hold several samples, if it may.

    A row of a table of several is one sample, as the others are.
    """
    ids = tensors["input_ids"]
    if len(ids) != 1 or MASK in tensors or not SEAMS.isdisjoint(tensors):
        return judged
    if len(parents_of({"input_ids": ids})["input_ids"]) > 1:
        return judged
    (may,) = read_packing({"input_ids": ids}, None, None).ambiguities
    report = judged.report()
    return Judged.of(replace(report, ambiguities=(may.message, *report.ambiguities)))
