"""Placeholder tokens of a call, by modality."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import MEDIA_OF
from vlmdebug.core.part import Part
from vlmdebug.core.rows import Rows

SHARED = ("image", "video")
"""Modalities that have one placeholder token in some models."""


def placeholders_of_part(batch: Batch, part: Part) -> dict[str, int]:
    """Placeholder tokens of a part of the batch, by modality, if they can be counted."""
    found = {name: batch.placeholders_of(part, name) for name in batch.modalities}
    return {name: counted for name, counted in found.items() if counted is not None}


def placeholders_of_ids(
    batch: Batch, ids: Any, rows: Rows | None, is_slice: bool, given: Mapping[str, Any]
) -> dict[str, int]:
    """Placeholder tokens of the chunk's own `input_ids`, by modality, if they can be counted.

    The batch's counts are valid only for a slice of it: a copy's columns may have been moved. Where
    images and videos share a token, those of a call are of the one that it has.
    """
    found: dict[str, int] = {}
    whole = len(ids.shape) == 2 and ids.shape[1] == batch.inputs["input_ids"].shape[1]
    known = rows if whole and rows is not None and not rows.foreign else None
    for name, modality in batch.modalities.items():
        counted = None
        if known is not None and (is_slice or modality.token_id is None):
            counted = batch.placeholders_of(batch.part(known), name)
        elif modality.token_id is not None:
            counted = int((ids == modality.token_id).sum())
        if counted is not None:
            found[name] = counted
    if is_slice or "video" not in found or not batch.rules.one_placeholder:
        return found
    there = {name for name in SHARED if given.get(MEDIA_OF[name]) is not None}
    total = sum(found.pop(name, 0) for name in SHARED)
    if len(there) < len(SHARED):
        found |= {name: total if name in there or not there else 0 for name in SHARED}
    return found
