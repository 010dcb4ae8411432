"""What identifies a sample in every process: its real tokens, its grids and some of its pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from math import prod
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import public
from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.core.modality import MODALITIES
from vlmdebug.core.tensors import to_numpy

SAMPLED, FEW = 64, 4
"""Values of each media tensor of a sample that are read, evenly spaced; and about how many of a row
of fewer than `LONG` values, such as a patch, of which an image has many."""
LONG = 4_096


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

    Padding of tokens does not count, nor does the place of a sample in its batch or in a packed
    row. Media are compared by their shapes and by `SAMPLED` values of each tensor. A model that
    pads images to the largest of a batch gives a sample another identity in another batch.

    Args:
        batch: What `read_batch` returns.
    """
    dims = {key: axis.dim for key, axis in batch.layout.items()}
    media = sampled_media(batch.inputs, dims)
    return identities_of(batch, range(len(batch)), batch.inputs, media)


class Sampled(NamedTuple):
    """Some values of each row of a media tensor, and the shape of a row."""

    table: Any  # (row, value)
    shape: tuple[int, ...]


def sampled_media(
    tensors: Mapping[str, Any], dims: Mapping[str, int] | None = None
) -> dict[str, Sampled]:
    """Some values of each row of the media; views where the tensors are contiguous.

    Nothing is copied to the host, so that a device is not waited for.

    Args:
        tensors: Tensors of a batch or of a call.
        dims: The dimension of the rows, where that is not the first.
    """
    found: dict[str, Sampled] = {}
    for key in MEDIA_KEYS & tensors.keys():
        value = tensors[key]
        if not getattr(value, "shape", ()):
            continue
        value = value.detach() if hasattr(value, "detach") else value
        if dims and dims.get(key):
            value = value.swapaxes(0, dims[key])
        shape = tuple(map(int, value.shape[1:]))
        many = SAMPLED if prod(shape) >= LONG else FEW
        table = _some(value, shape, max(1, prod(shape) // many))
        found[key] = Sampled(table, shape)
    return found


def _some(value: Any, shape: tuple[int, ...], step: int) -> Any:
    """Every `step`-th value of each row, `(row, value)`."""
    plain = value.flags.c_contiguous if isinstance(value, np.ndarray) else value.is_contiguous()
    if plain or prod(shape) <= FEW:
        return value.reshape(len(value), prod(shape))[:, ::step]
    if isinstance(value, np.ndarray):
        return value[(slice(None), *np.unravel_index(np.arange(0, prod(shape), step), shape))]
    return value[(slice(None), *_indices(value, shape, step))]


def _indices(value: Any, shape: tuple[int, ...], step: int) -> Iterator[Any]:
    """Where every `step`-th value of a row is, for each of its dimensions.

    They are made on the tensor's device. The host would wait for a copy of its own to arrive there.
    """
    import torch

    places = torch.arange(0, prod(shape), step, device=value.device)
    for dim, size in enumerate(shape):
        yield places // prod(shape[dim + 1 :]) % size


def identities_of(
    batch: Batch, samples: range, tensors: Mapping[str, Any], media: Mapping[str, Sampled]
) -> list[Identity]:
    """The identities of consecutive samples of a batch.

    Args:
        batch: What is known of all its samples; the values of its tensors are not read.
        samples: Which of them.
        tensors: The tokens and masks of these samples alone.
        media: The media of these samples alone.
    """
    known = not any(one.keys for one in batch.ambiguities)  # which rows each sample has
    owned = list(_owned(batch, media)) if known else []
    counts = [batch.counts[name] for name in MODALITIES if batch.counts.get(name) is not None]
    found: list[Identity] = []
    for sample, tokens in zip(samples, _tokens(batch, samples, tensors), strict=True):
        hashed = blake2b(tokens, digest_size=8)
        for name, table, offsets, needed in owned:
            first = offsets[samples.start]
            start, stop = offsets[sample] - first, offsets[sample + 1] - first
            if start < stop and (needed is None or needed[sample]):
                hashed.update(f"{name}{stop - start}".encode() + _values(table[start:stop]))
        items = sum(count[sample] for count in counts) if known else None
        found.append(Identity(hashed.hexdigest(), items))
    return found


def _owned(batch: Batch, media: Mapping[str, Sampled]) -> Iterator[tuple[str, Any, Any, Any]]:
    """Of each media key: its name and shape, its values, its rows by sample, and whether a sample
    has any: a padded row can be of a sample without media."""
    for key in sorted(media):
        axis = batch.layout.get(key)
        if axis is None or axis.unit == "batch":
            continue  # the same for all samples
        unit = batch.layout.media.get(key)
        needed = None if unit is None else batch.counts[unit]
        name = f"{key}{media[key].shape}"
        yield name, to_numpy(media[key].table), batch.counts[axis.unit].offsets, needed


def _tokens(batch: Batch, samples: range, tensors: Mapping[str, Any]) -> Iterator[bytes]:
    """The tokens of each sample that are no padding."""
    ids = to_numpy(tensors["input_ids"]).astype("<i8", copy=False)
    mask = tensors.get("attention_mask")
    real = to_numpy(mask) != 0 if mask is not None and mask.shape == ids.shape else None
    spans = batch.spans[samples.start : samples.stop]
    for row, start, stop in spans:
        row -= spans[0].row
        own = ids[row, start:stop]
        yield (own if real is None else own[real[row, start:stop]]).tobytes()


def _values(rows: np.ndarray) -> bytes:
    """Some of the values, at the same places in every process."""
    return rows[_places(*rows.shape)].astype("<f8").tobytes()


@lru_cache(1_024)
def _places(rows: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of evenly spaced values."""
    whole = rows * values
    return np.divmod(np.arange(0, whole, max(1, whole // SAMPLED)), max(1, values))
