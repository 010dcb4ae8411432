"""Whether a model keeps the samples of packed rows apart, as far as the batch itself shows it.

With its default attention (sdpa), transformers starts a sample where `position_ids` do not go on by
one, and only if no `attention_mask` is passed (`find_packed_sequence_indices` and
`masking_utils._preprocess_mask_arguments`, 5.23). M-RoPE models read that from the first of four
planes. Other arguments (`cu_seq_lens_q`) act in flash-attention alone.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.observed import Seams
from vlmdebug.core.tensors import side_by_side, to_numpy
from vlmdebug.tracking.made import IGNORED, positions_of

PLANES = 4
"""Planes of `position_ids` from which M-RoPE models read where samples begin: text comes first."""


def open_seams(batch: Batch) -> Seams | None:
    """Why the samples of packed rows may not be apart; None if they are, or if none are packed."""
    if batch.packed is None:
        return None
    if not (batch.rules.predict and batch.rules.separates_packed):
        return Seams.MODEL
    if "attention_mask" in batch.inputs:
        return Seams.MASK
    if "position_ids" not in batch.inputs:
        return Seams.NO_POSITIONS
    positions = to_numpy(batch.inputs["position_ids"])
    planes = positions if positions.ndim == 3 else positions[None]  # (plane, row, seq)
    mrope = batch.rules.checks_each_sample != "never"
    if len(planes) != (PLANES if mrope else 1):
        return Seams.PLANES
    for row, start, stop in batch.packed:
        if not np.array_equal(planes[0, row, start:stop], np.arange(stop - start)):
            return Seams.ORDER
    return (_of_mrope(batch, planes) if mrope else None) or _of_labels(batch)


def _of_labels(batch: Batch) -> Seams | None:
    """Whether no sample is learned from the last token of the one before it in its row."""
    labels, spans = batch.inputs.get("labels"), batch.spans
    if labels is None or tuple(labels.shape) != tuple(batch.inputs["input_ids"].shape):
        return None
    learned = any(
        before.row == own.row and int(labels[own.row][own.start]) != IGNORED
        for before, own in pairwise(spans)
    )
    return Seams.LABELS if learned else None


def _of_mrope(batch: Batch, planes: np.ndarray) -> Seams | None:
    """Whether the positions of each sample are those that it has alone."""
    assert batch.packed is not None
    spans = batch.packed
    given: dict[str, Any] = {
        "input_ids": side_by_side(to_numpy(batch.inputs["input_ids"]), spans, -1),
        "attention_mask": side_by_side(np.ones_like(planes[0]), spans, 0),
    }
    apart = np.stack([side_by_side(plane, spans, 0) for plane in planes])  # (plane, sample, seq)
    right = positions_of(batch, given, apart, range(len(batch))).right
    return None if right else Seams.OPEN if right is None else Seams.MROPE
