"""Functions that exported packers are made of: `export(packed=True)` writes their source.

They need torch and what the written module defines: `slice_inputs`, `SAMPLE_KEYS`, `WHOLE_KEYS`,
and, for M-RoPE, `IMAGE_TOKEN`, `VIDEO_TOKEN`, `VIDEOS`, `TIMED_BY` and `PER_SECOND`. Of
`_positions` and `_positions_in_grids` it contains one, under the first name.
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
VIDEO_TOKEN: int | None = None
VIDEOS: str | None = None
TIMED_BY = ""
PER_SECOND: float = 1
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
    if "input_features" in row or ("video_grid_thw" in row and VIDEOS is None):
        raise ValueError(
            "Positions of audio and of these videos depend on the model, so they are not computed "
            "here. Put them into the padded batch before it is packed: inputs['position_ids'] = "
            "get_rope_index(…)[0] of the model, given the tensors of inputs that it takes."
        )
    kinds = _kinds(row)
    is_media = [*map(bool, kinds)]
    left = _grids(row, sum(is_media))
    order, time, down, across = [], [], [], []
    for length in lengths:
        begin, stop = 0, len(time) + length
        order += range(length)
        while len(time) < stop:
            at = len(time)
            if not is_media[at]:
                end = is_media.index(True, at, stop) if True in is_media[at:stop] else stop
                for plane in (time, down, across):
                    plane += range(begin, begin + end - at)
                begin += end - at
                continue
            times, height, width = next(left[kinds[at]])
            for frame in times:
                time += repeat(begin + frame, height * width)
                for y in range(begin, begin + height):
                    down += repeat(y, width)
                    across += range(begin, begin + width)
            begin += max(height, width)
    planes = torch.frombuffer(array("q", order + time + down + across), dtype=torch.int64)
    return planes.view(4, 1, -1).to(row["input_ids"].device)


def _kinds(row: dict) -> list:
    """1 for the tokens of images, 2 for those of videos, else 0."""
    ids, types = row["input_ids"][0], row.get("mm_token_type_ids")
    if types is not None:
        kinds = types[0].tolist()
    else:
        kinds = [{IMAGE_TOKEN: 1, VIDEO_TOKEN: 2}.get(token, 0) for token in ids.tolist()]
    if "image_grid_thw" in row:
        return kinds
    return [2 if kind else 0 for kind in kinds]  # frames may have the token of images


def _grids(row: dict, tokens: int) -> dict:
    """Time of each frame, and height and width in tokens, of images (1) and videos (2)."""
    images = row["image_grid_thw"].tolist() if "image_grid_thw" in row else []
    videos = row["video_grid_thw"].tolist() if "video_grid_thw" in row else []
    patches = sum(frames * height * width for frames, height, width in images + videos)
    merge = isqrt(patches // tokens) if tokens else 1
    seconds = torch.as_tensor(row.get(TIMED_BY, [1] * len(videos))).cpu()
    blocks = []
    for video, (frames, height, width) in enumerate(videos):
        size = height // merge, width // merge
        if VIDEOS == "frames":  # each is laid out as an image
            blocks += repeat(((0,), *size), frames)
            continue
        step = PER_SECOND * seconds[video] if VIDEOS == "seconds" else 1
        blocks.append(((torch.arange(frames) * step).long().tolist(), *size))
    return {
        1: iter([((0,), height // merge, width // merge) for _, height, width in images]),
        2: iter(blocks),
    }
