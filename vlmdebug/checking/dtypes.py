"""Tensors with numbers of another kind than a model takes. The dtype says it; no value is read."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from vlmdebug.checking.doubts import Needs, OtherDtype, WholePixels
from vlmdebug.checking.labels import UNTOLD
from vlmdebug.checking.masks import MASK
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import LABELS, MEDIA_OF, PIXELS
from vlmdebug.outcomes.clips import GRIDS
from vlmdebug.outcomes.whole_batch import lays_out_media

PADDED = MEDIA_OF["image"]
DOUBLE = "float64"
"""What numpy computes in, and no model has weights of; which of the others fits is not known."""


def odd_dtypes(batch: Batch) -> Iterator[WholePixels | OtherDtype]:
    """Media in whole numbers, and keys with a dtype that makes the model raise."""
    for key in PIXELS:
        if key in batch.inputs and ("int" in (name := _name(batch, key)) or "bool" in name):
            yield WholePixels(key, name)
    for key in sorted(batch.rules.uncast & batch.inputs.keys()):
        if (name := _name(batch, key)).endswith(DOUBLE):
            yield OtherDtype(key, name, "weights")
    for key, due, why in _needed(batch):
        name = _name(batch, key)
        if name and name.removeprefix("torch.") != due:
            yield OtherDtype(key, name, why)


def _needed(batch: Batch) -> Iterator[tuple[str, str, Needs]]:
    """Keys, the dtype that each must have, and what needs it."""
    if _writes_positions(batch):
        yield "input_ids", "int64", "positions"
    for key in LABELS if batch.layout.family not in UNTOLD else ():
        if _dims(batch, key) == 2:
            yield key, "int64", "loss"
    if _dims(batch, MASK) == 2 and _dims(batch, PADDED) == 5:
        yield MASK, "bool", "tiles"


def _writes_positions(batch: Batch) -> bool:
    """Whether M-RoPE writes places of int64 into a tensor with the dtype of `input_ids`.

    Torch raises where a mask chooses the places to write, and casts elsewhere
    (`modeling_qwen2_5_vl.get_rope_index`, transformers 5.20 and 5.24). With times in fractions, the
    tensor is of floating point (`modeling_qwen3_omni_moe.get_rope_index`).
    """
    rule = batch.rules.mrope
    if rule is None or rule.sounds == "times" or "attention_mask" not in batch.inputs:
        return False
    return lays_out_media(batch) and any(key in batch.layout for key in GRIDS)


def _dims(batch: Batch, key: str) -> int:
    return len(getattr(batch.inputs.get(key), "shape", ()))


def _name(batch: Batch, key: str) -> str:
    """`torch.int64`, or `int64` of numpy; empty for a list."""
    return _spelled(getattr(batch.inputs[key], "dtype", ""))


_spelled = cache(str)  # of a dtype of torch, it takes as long as all other lines here
