"""What identifies a sample in every process: its real tokens, its grids and some of its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import public
from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.core.modality import MODALITIES
from vlmdebug.errors import VlmDebugError

SAMPLED = 64
"""Values of each media tensor of a sample that are read, evenly spaced."""


class Identity(NamedTuple):
    """16 hexadecimal digits, equal for equal samples, and how many media items the sample has.

    `media` is None where the items of the sample cannot be distinguished from others; then the
    digits are of the tokens alone.
    """

    digits: str
    media: int | None


@public
def identities(batch: Batch) -> list[Identity]:
    """The identity of each sample of a batch, in order.

    Padding of tokens does not count, nor does the place of a sample in its batch. Media are
    compared by their shapes and by `SAMPLED` values of each tensor. A model that pads images to
    the largest of a batch gives a sample another identity in another batch.

    Args:
        batch: What `read_batch` returns.
    """
    try:
        parts: list[Mapping[str, Any]] = list(batch.chunks(1))
    except VlmDebugError:  # ambiguous or packed: the rows of a sample are not known
        return [Identity(_digits(batch, sample, {}), None) for sample in range(len(batch))]
    counts = [batch.counts[name] for name in MODALITIES if batch.counts.get(name) is not None]
    return [
        Identity(_digits(batch, sample, part), sum(count[sample] for count in counts))
        for sample, part in enumerate(parts)
    ]


def _digits(batch: Batch, sample: int, part: Mapping[str, Any]) -> str:
    hashed = blake2b(_tokens(batch, sample), digest_size=8)
    for key in sorted(MEDIA_KEYS & part.keys()):
        value = part[key]
        if hasattr(value, "shape"):
            hashed.update(f"{key}{tuple(value.shape)}".encode() + _values(value))
    return hashed.hexdigest()


def _tokens(batch: Batch, sample: int) -> bytes:
    """The tokens that are no padding."""
    tokens = batch.tokens("input_ids", sample)
    mask = batch.inputs.get("attention_mask")
    if mask is not None and mask.ndim == 2:
        tokens = tokens[batch.tokens("attention_mask", sample) != 0]
    return tokens.numpy().astype("<i8").tobytes()


def _values(value: Any) -> bytes:
    """Some values, of the same places in every process."""
    flat = value.reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLED)].detach().double().cpu().numpy().tobytes()
