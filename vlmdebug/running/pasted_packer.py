"""Functions that exported packers are made of: `export(packed=True)` writes their source.

They need torch and what the written module defines: `slice_inputs`, `SAMPLE_KEYS`, `WHOLE_KEYS` and
`IMAGE_TOKEN`. Of `_positions` and `_positions_in_grids` it contains one, under the first name.
"""

# pyright: basic, reportMissingTypeArgument=false

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch

SAMPLE_KEYS: tuple = ()
WHOLE_KEYS: tuple = ()
IMAGE_TOKEN: int | None = None
if TYPE_CHECKING:

    def slice_inputs(inputs: dict, chunk_size: int) -> Iterator[dict]:
        """Chunks of whole samples."""
        ...


def pack_inputs(inputs: dict, chunk_size: int) -> Iterator[dict]:
    """Yield rows of `chunk_size` samples each, joined without padding.

    `position_ids` start again with each sample. Attention keeps samples apart by them as long as
    there is no attention_mask and no cache; flash-attention also reads the cu_seq_lens.
    """
    parts = [_unpadded(part) for part in slice_inputs(inputs, 1)]
    for start in range(0, len(parts), chunk_size):
        yield _joined(parts[start : start + chunk_size])


def _unpadded(part: dict) -> dict:
    """One sample without its padding and its mask, with position_ids of its own."""
    others = [key for key in ("inputs_embeds", "decoder_input_ids") if key in part]
    if others:
        raise ValueError(f"{others} are not joined by this code. Leave them out.")
    ids, mask = part["input_ids"], part.pop("attention_mask", None)
    keep = slice(None) if mask is None else mask[0].bool()
    for key, value in part.items():
        if key == "position_ids" or _is_along_tokens(key, value, ids):
            part[key] = value[..., keep]
    return {**part, "position_ids": _positions(part)}


def _positions(part: dict) -> torch.Tensor:
    """0, 1, 2 … for the tokens of one sample, (1, seq)."""
    ids = part["input_ids"]
    return torch.arange(ids.shape[1], device=ids.device)[None]


def _positions_in_grids(part: dict) -> torch.Tensor:
    """0, 1, 2 …, which keeps samples apart, and then M-RoPE's positions, (4, 1, seq)."""
    ids, planes = part["input_ids"], part.get("position_ids")
    order = torch.arange(ids.shape[1], device=ids.device).expand(1, 1, -1)
    return torch.cat([order, _mrope(part) if planes is None else planes[-3:]])


def _is_along_tokens(key: str, value: Any, ids: torch.Tensor) -> bool:
    """Whether it has a column per token: labels and types of tokens, for instance."""
    return key in SAMPLE_KEYS and getattr(value, "shape", None) == ids.shape


def _joined(parts: list) -> dict:
    """One row of these samples, and where each of them ends."""
    lengths = [part["input_ids"].shape[1] for part in parts]
    row = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        own = [part[key] for part in parts if key in part]
        if key in WHOLE_KEYS or not hasattr(own[0], "shape"):
            row[key] = own[0]
        elif key == "position_ids" or _is_along_tokens(key, own[0], parts[0]["input_ids"]):
            row[key] = torch.cat(own, dim=-1)
        else:
            row[key] = torch.cat(own)
    ends = [0, *accumulate(lengths)]
    if "labels" in row:  # the first token of a sample is not learned from the one before it
        row["labels"] = row["labels"].clone()
        row["labels"][:, ends[:-1]] = -100
    ids = row["input_ids"]
    row["cu_seq_lens_q"] = torch.tensor(ends, dtype=torch.int32, device=ids.device)
    row["cu_seq_lens_k"] = row["cu_seq_lens_q"]
    row["max_length_q"] = row["max_length_k"] = max(lengths)
    return row


def _mrope(part: dict) -> torch.Tensor:
    """M-RoPE's positions of one sample in time, height and width, (3, 1, seq)."""
    if "video_grid_thw" in part or "input_features" in part:
        raise ValueError(
            "Positions of videos and audio depend on the model: put position_ids, from its "
            "get_rope_index, into the batch."
        )
    ids, types = part["input_ids"][0], part.get("mm_token_type_ids")
    is_image = (ids == IMAGE_TOKEN if types is None else types[0] == 1).tolist()
    grids = part["image_grid_thw"].tolist() if "image_grid_thw" in part else []
    patches = sum(height * width for _, height, width in grids)
    merge = isqrt(patches // sum(is_image)) if grids else 1
    left, places, begin = iter(grids), [], 0
    while len(places) < len(is_image):
        if not is_image[len(places)]:
            places.append((begin, begin, begin))
            begin += 1
            continue
        _, height, width = next(left)
        height, width = height // merge, width // merge
        places += [(begin, begin + y, begin + x) for y in range(height) for x in range(width)]
        begin += max(height, width)
    return torch.tensor(places, device=ids.device).T[:, None]  # (3, 1, seq)
