"""What slicing code does to right chunks: to one key, to the set of keys, to the order of chunks.

A mutation says nothing of right or wrong: the values of what came out, and the model, say that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from differential.sound import Sound

Chunk = dict[str, Any]


class Place(NamedTuple):
    """Where a mutation is done: which chunk of a batch, which samples it holds, which key."""

    sound: Sound
    samples: range
    key: str
    inputs: Mapping[str, Any]

    @property
    def value(self) -> torch.Tensor:
        """All rows of the key in the batch."""
        return self.inputs[self.key]


@dataclass(frozen=True)
class Mutation:
    """One change of one key of a chunk; None where it does not apply there.

    Attributes:
        change: Takes the chunk's tensor and where it is.
        harmless: Whether it is meant to change nothing that counts; values have the last word.
    """

    name: str
    change: Callable[[torch.Tensor, Place], Any]
    tokens: bool = True
    media: bool = True
    harmless: bool = False

    def __repr__(self) -> str:
        return self.name


# --- copies that change nothing --------------------------------------------------------------


def _emptied(value: torch.Tensor, place: Place) -> Any:
    """A copy whose memory was given to another tensor."""
    kept = value.clone()
    kept.share_memory_()
    return value.clone()


def _rows_of(value: torch.Tensor, place: Place) -> Any:
    return torch.stack([value[row] for row in range(len(value))]) if len(value) else None


COPIES = [
    Mutation("clone", lambda v, p: v.clone(), harmless=True),
    Mutation("contiguous", lambda v, p: v.contiguous(), harmless=True),
    Mutation("deepcopy", lambda v, p: copy.deepcopy(v), harmless=True),
    Mutation("through numpy", lambda v, p: torch.from_numpy(v.numpy().copy()), harmless=True),
    Mutation("numpy view", lambda v, p: torch.from_numpy(v.numpy()), harmless=True),
    Mutation(
        "through a list",
        lambda v, p: torch.tensor(v.tolist(), dtype=v.dtype) if v.numel() < 5000 else None,
        harmless=True,
    ),
    Mutation("index_select", lambda v, p: v.index_select(0, torch.arange(len(v))), harmless=True),
    Mutation("index", lambda v, p: v[list(range(len(v)))], harmless=True),
    Mutation("stack of rows", _rows_of, harmless=True),
    Mutation(
        "cat of rows",
        lambda v, p: torch.cat([v[n : n + 1] for n in range(len(v))]) if len(v) else None,
        harmless=True,
    ),
    Mutation("flip twice", lambda v, p: v.flip(0).flip(0), harmless=True),
    Mutation("roll there and back", lambda v, p: v.roll(1, -1).roll(-1, -1), harmless=True),
    Mutation(
        "pad and trim",
        lambda v, p: F.pad(v, (0, 2))[..., :-2] if v.ndim > 1 else None,
        harmless=True,
    ),
    Mutation(
        "columns by cat, in order",
        lambda v, p: torch.cat([v[:, :2], v[:, 2:]], 1) if v.ndim > 1 else None,
        harmless=True,
    ),
    Mutation("double and back", lambda v, p: v.double().to(v.dtype), harmless=True),
    Mutation("transpose twice", lambda v, p: v.transpose(0, -1).transpose(0, -1), harmless=True),
    Mutation("memory shared first", _emptied, harmless=True),
    Mutation(
        "half and back",
        lambda v, p: v.half().float() if v.dtype == torch.float32 and v.abs().max() < 6e4 else None,
        tokens=False,
        harmless=True,
    ),
    Mutation(
        "bfloat16 and back",
        lambda v, p: v.bfloat16().float() if v.dtype == torch.float32 else None,
        tokens=False,
        harmless=True,
    ),
    Mutation(
        "where in place of index",
        lambda v, p: torch.where(torch.ones_like(v, dtype=torch.bool), v, torch.zeros_like(v)),
        harmless=True,
    ),
    Mutation("times one", lambda v, p: v * 1, harmless=True),
]

# --- rows ------------------------------------------------------------------------------------


def _moved_by(step: int) -> Callable[[torch.Tensor, Place], Any]:
    """As many rows, from `step` further on in the batch."""

    def change(value: torch.Tensor, place: Place) -> Any:
        whole, rows = place.value, len(value)
        if len(whole) == rows or not rows:
            return None
        first = next(
            (n for n in range(len(whole)) if whole[n].data_ptr() == value.data_ptr()), None
        )
        if first is None or not 0 <= first + step <= len(whole) - rows:
            return None
        return whole[first + step : first + step + rows]

    return change


ROWS = [
    Mutation("rows, one on", _moved_by(1)),
    Mutation("rows, one back", _moved_by(-1)),
    Mutation("rows copied, one on", lambda v, p: _cloned(_moved_by(1)(v, p))),
    Mutation("rows through numpy, one back", lambda v, p: _numpy(_moved_by(-1)(v, p))),
    Mutation("reversed rows", lambda v, p: v.flip(0) if len(v) > 1 else None),
    Mutation("rows rolled", lambda v, p: v.roll(1, 0) if len(v) > 1 else None),
    Mutation("without the last row", lambda v, p: v[:-1]),
    Mutation("without the first row", lambda v, p: v[1:]),
    Mutation("last row twice", lambda v, p: torch.cat([v, v[-1:]])),
    Mutation("last row in place of the first", lambda v, p: torch.cat([v[-1:], v[1:]])),
    Mutation("every row twice", lambda v, p: v.repeat_interleave(2, 0)),
    Mutation("no row", lambda v, p: v[:0]),
    Mutation("all rows of the batch", lambda v, p: p.value),
    Mutation("cut by sample", lambda v, p: p.value[p.samples.start : p.samples.stop]),
    Mutation("first rows of the batch", lambda v, p: p.value[: len(v)]),
    Mutation("a row of zeros more", lambda v, p: torch.cat([v, torch.zeros_like(v[:1])])),
    Mutation("one row, expanded", lambda v, p: v[:1].expand(v.shape) if len(v) > 1 else None),
]

# --- columns, dimensions ---------------------------------------------------------------------


def _halves(value: torch.Tensor, place: Place) -> Any:
    half = value.shape[-1] // 2
    return torch.cat([value[..., half:], value[..., :half]], -1) if half else None


def _if_wide(change: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor, Place], Any]:
    return lambda value, place: change(value) if value.ndim > 1 and value.shape[-1] > 1 else None


SHAPES = [
    Mutation("columns rolled", _if_wide(lambda v: v.roll(1, -1))),
    Mutation("columns rolled by cat", _if_wide(lambda v: torch.cat([v[..., 1:], v[..., :1]], -1))),
    Mutation("columns shifted by pad", _if_wide(lambda v: F.pad(v[..., 1:], (0, 1)))),
    Mutation("columns shifted right by pad", _if_wide(lambda v: F.pad(v[..., :-1], (1, 0)))),
    Mutation("halves swapped", _halves),
    Mutation("columns reversed", _if_wide(lambda v: v.flip(-1))),
    Mutation("a column less", _if_wide(lambda v: v[..., :-1])),
    Mutation("a column less in front", _if_wide(lambda v: v[..., 1:])),
    Mutation("a column more", lambda v, p: F.pad(v, (0, 1)) if v.ndim > 1 else None),
    Mutation("a column more in front", lambda v, p: F.pad(v, (1, 0)) if v.ndim > 1 else None),
    Mutation("dim 1 trimmed", lambda v, p: v[:, : v.shape[1] // 2] if v.ndim > 1 else None),
    Mutation("dim 1 reversed", lambda v, p: v.flip(1) if v.ndim > 1 else None),
    Mutation(
        "channels turned by index",
        lambda v, p: v[:, [2, 1, 0]] if v.ndim > 3 and v.shape[1] == 3 else None,
        tokens=False,
    ),
    Mutation(
        "channels turned by cat",
        lambda v, p: (
            torch.cat([v[:, 2:], v[:, 1:2], v[:, :1]], 1)
            if v.ndim > 3 and v.shape[1] == 3
            else None
        ),
        tokens=False,
    ),
    Mutation("height and width", lambda v, p: v.transpose(-1, -2) if v.ndim > 3 else None),
    Mutation("a dimension lost", lambda v, p: v[0] if len(v) else None),
    Mutation("a dimension added", lambda v, p: v[None]),
    Mutation("a dimension added inside", lambda v, p: v[:, None]),
    Mutation("a dimension added at the end", lambda v, p: v[..., None]),
    Mutation("squeezed", lambda v, p: v.squeeze(0) if len(v) == 1 else None),
    Mutation("flat", lambda v, p: v.reshape(-1) if v.ndim > 1 else None),
    Mutation("stacked twice", lambda v, p: torch.stack([v, v])),
]

# --- values ----------------------------------------------------------------------------------

VALUES = [
    Mutation("long", lambda v, p: v.long() if v.is_floating_point() else None),
    Mutation("bool", lambda v, p: v.bool()),
    Mutation("uint8", lambda v, p: v.to(torch.uint8)),
    Mutation("int8", lambda v, p: v.to(torch.int8)),
    Mutation("times two", lambda v, p: v * 2),
    Mutation("zeros", lambda v, p: torch.zeros_like(v)),
    Mutation("ones", lambda v, p: torch.ones_like(v)),
    Mutation("inverted", lambda v, p: 1 - v),
    Mutation("noise", lambda v, p: v + torch.rand_like(v) if v.is_floating_point() else None),
    Mutation("not a number", lambda v, p: v * float("nan") if v.is_floating_point() else None),
    Mutation(
        "overflown", lambda v, p: (v * 1e6).half().float() / 1e6 if v.is_floating_point() else None
    ),
    Mutation(
        "ids in bfloat16",
        lambda v, p: v.bfloat16().to(v.dtype) if not v.is_floating_point() else None,
    ),
    Mutation(
        "normalised twice",
        lambda v, p: (v - 0.5) / 0.5 if v.is_floating_point() else None,
        tokens=False,
    ),
    Mutation("one value", lambda v, p: _one_value(v)),
]


def _one_value(value: torch.Tensor) -> Any:
    """The first half of the first row is another's."""
    if not value.numel():
        return None
    changed = value.clone()
    flat = changed[0].reshape(-1) if changed.ndim > 1 else changed[:1]
    flat[: max(1, len(flat) // 2)] += 1
    return changed


OF_ONE_KEY = [*COPIES, *ROWS, *SHAPES, *VALUES]


def _cloned(value: Any) -> Any:
    return None if value is None else value.clone()


def _numpy(value: Any) -> Any:
    return None if value is None else torch.from_numpy(np.array(value.numpy()))


# --- keys ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfKeys:
    """A change of which keys a chunk has; None where it does not apply."""

    name: str
    change: Callable[[Chunk, Place], Chunk | None]

    def __repr__(self) -> str:
        return self.name


def _without(chunk: Chunk, key: str) -> Chunk | None:
    return {name: value for name, value in chunk.items() if name != key} if key in chunk else None


def _with(key: str, make: Callable[[torch.Tensor], Any]) -> Callable[[Chunk, Place], Chunk | None]:
    def change(chunk: Chunk, place: Place) -> Chunk | None:
        return None if key in place.inputs else {**chunk, key: make(chunk["input_ids"])}

    return change


def _empty_media(chunk: Chunk, place: Place) -> Chunk | None:
    """Media keys without rows, where the chunk must have none."""
    missing = [key for key in place.sound.media if key not in chunk]
    return {**chunk, **{key: place.inputs[key][:0] for key in missing}} if missing else None


def _others_media(chunk: Chunk, place: Place) -> Chunk | None:
    """All media of another chunk of as many samples."""
    total = len(place.sound.images)
    size = len(place.samples)
    other = range(0, size) if place.samples.start else range(total - size, total)
    if other == place.samples:
        return None
    theirs = place.sound.chunk(other, place.inputs)
    keys = place.sound.media
    return {
        **{key: value for key, value in chunk.items() if key not in keys},
        **{key: value for key, value in theirs.items() if key in keys},
    }


KEYS = [
    OfKeys("key dropped", lambda c, p: _without(c, p.key)),
    OfKeys("media dropped", lambda c, p: _dropped_media(c, p)),
    OfKeys("misspelt", lambda c, p: _misspelt(c, p)),
    OfKeys("position_ids of zeros", _with("position_ids", torch.zeros_like)),
    OfKeys(
        "position_ids counted",
        _with("position_ids", lambda ids: torch.arange(ids.shape[1]).expand(ids.shape)),
    ),
    OfKeys(
        "position_ids, three planes counted",
        _with("position_ids", lambda ids: torch.arange(ids.shape[1]).expand(3, *ids.shape)),
    ),
    OfKeys("token_type_ids of zeros", _with("token_type_ids", torch.zeros_like)),
    OfKeys("mm_token_type_ids of zeros", _with("mm_token_type_ids", torch.zeros_like)),
    OfKeys("advantages", _with("advantages", lambda ids: torch.ones(len(ids)))),
    OfKeys("use_cache", lambda c, p: {**c, "use_cache": False}),
    OfKeys("media without rows", _empty_media),
    OfKeys("media of another chunk", _others_media),
]


def _dropped_media(chunk: Chunk, place: Place) -> Chunk | None:
    media = place.sound.media
    left = {key: value for key, value in chunk.items() if key not in media}
    return left if len(left) < len(chunk) else None


def _misspelt(chunk: Chunk, place: Place) -> Chunk | None:
    if place.key not in chunk:
        return None
    left = _without(chunk, place.key)
    assert left is not None
    return {**left, place.key.rstrip("s") + "_ids": chunk[place.key]}


# --- chunks ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class OfChunks:
    """A change of which chunks come, as their numbers in the order of coming."""

    name: str
    change: Callable[[int, Random], list[int] | None]

    def __repr__(self) -> str:
        return self.name


CHUNKS = [
    OfChunks("all chunks", lambda n, dice: list(range(n))),
    OfChunks("last chunk forgotten", lambda n, dice: list(range(n - 1)) if n > 1 else None),
    OfChunks("first chunk forgotten", lambda n, dice: list(range(1, n)) if n > 1 else None),
    OfChunks("reversed", lambda n, dice: list(range(n))[::-1] if n > 1 else None),
    OfChunks("one twice", lambda n, dice: sorted([*range(n), dice.randrange(n)])),
    OfChunks("first in place of last", lambda n, dice: [*range(n - 1), 0] if n > 1 else None),
]
