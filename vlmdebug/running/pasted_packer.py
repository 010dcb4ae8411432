"""Functions that exported packers are made of: `export(packed=True)` writes their source.

They need torch and what the written module defines: `slice_inputs`, `SAMPLE_KEYS`, `WHOLE_KEYS` and
`IMAGE_TOKEN`. Of `_positions` and `_positions_in_grids` it contains one, under the first name.
"""

# pyright: basic, reportMissingTypeArgument=false

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import accumulate, repeat
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
    there is no attention_mask and no cache, which rows say by `use_cache`; flash-attention also
    reads the cu_seq_lens.
    """
    for chunk in slice_inputs(inputs, chunk_size):
        yield _joined(chunk)


def _joined(chunk: dict) -> dict:
    """One row of the samples of a chunk, and where each of them ends."""
    others = [key for key in ("inputs_embeds", "decoder_input_ids") if key in chunk]
    if others:
        raise ValueError(f"{others} are not joined by this code. Leave them out.")
    ids, mask = chunk["input_ids"], chunk.pop("attention_mask", None)
    keep = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    lengths = keep.sum(1).tolist()
    if not any(lengths):
        raise ValueError(
            "attention_mask hides all tokens of these samples, so their row would be empty. Leave "
            "such samples out, or pack them with others: raise chunk_size."
        )
    row = {
        key: value[keep][None] if _is_along_tokens(key, value, ids) else value
        for key, value in chunk.items()
    }
    row["position_ids"] = _positions({**row, "position_ids": chunk.get("position_ids")}, keep)
    ends = [0, *accumulate(lengths)]
    if "labels" in row:  # the first token of a sample is not learned from the one before it
        row["labels"][:, [end for end in ends[:-1] if end < ends[-1]]] = -100
    row["cu_seq_lens_q"] = torch.tensor(ends, dtype=torch.int32, device=ids.device)
    row["cu_seq_lens_k"] = row["cu_seq_lens_q"]
    row["max_length_q"] = row["max_length_k"] = max(lengths)
    row["use_cache"] = False  # once a model begins a cache, it does not see where samples begin
    return row


def _positions(row: dict, keep: torch.Tensor) -> torch.Tensor:
    """0, 1, 2 … for the tokens of each sample, (1, seq)."""
    return (keep.cumsum(1) - 1)[keep][None]


def _positions_in_grids(row: dict, keep: torch.Tensor) -> torch.Tensor:
    """0, 1, 2 …, which keeps samples apart, and then M-RoPE's positions, (4, 1, seq)."""
    if row["position_ids"] is None:
        return _mrope(row, keep.sum(1).tolist())
    order = (keep.cumsum(1) - 1)[keep][None, None]
    return torch.cat([order, row["position_ids"][-3:][:, keep][:, None]])


def _is_along_tokens(key: str, value: Any, ids: torch.Tensor) -> bool:
    """Whether it has a column per token: labels and types of tokens, for instance."""
    own = key == "input_ids" or key in SAMPLE_KEYS
    return own and getattr(value, "shape", None) == ids.shape


def _mrope(row: dict, lengths: list) -> torch.Tensor:
    """0, 1, 2 … for each sample, and M-RoPE's time, height and width, (4, 1, seq)."""
    if "video_grid_thw" in row or "input_features" in row:
        raise ValueError(
            "Positions of videos and audio depend on the model, so they are not computed here. "
            "Put them into the padded batch before it is packed: inputs['position_ids'] = "
            "get_rope_index(…)[0] of the model, given the tensors of inputs that it takes."
        )
    ids, types = row["input_ids"][0], row.get("mm_token_type_ids")
    is_image = (ids == IMAGE_TOKEN if types is None else types[0] == 1).tolist()
    grids = row["image_grid_thw"].tolist() if "image_grid_thw" in row else []
    patches = sum(height * width for _, height, width in grids)
    merge = isqrt(patches // sum(is_image)) if grids else 1
    left, order, time, down, across = iter(grids), [], [], [], []
    for length in lengths:
        begin, stop = 0, len(time) + length
        order += range(length)
        while len(time) < stop:
            at = len(time)
            if not is_image[at]:
                end = is_image.index(True, at, stop) if True in is_image[at:stop] else stop
                for plane in (time, down, across):
                    plane += range(begin, begin + end - at)
                begin += end - at
                continue
            _, height, width = next(left)
            height, width = height // merge, width // merge
            time += repeat(begin, height * width)
            for y in range(begin, begin + height):
                down += repeat(y, width)
                across += range(begin, begin + width)
            begin += max(height, width)
    planes = torch.frombuffer(array("q", order + time + down + across), dtype=torch.int64)
    return planes.view(4, 1, -1).to(ids.device)
