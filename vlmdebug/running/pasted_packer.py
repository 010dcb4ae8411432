"""Functions that exported packers are made of: `export(packed=True)` writes their source.

They need torch and what the written module defines: `slice_inputs` and the constants below. Of
`_positions` and `_positions_in_grids` it contains one, under the first name, and one function
`_videos_…`, as `_video_blocks`.
"""

# pyright: basic, reportMissingTypeArgument=false

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import accumulate, pairwise, repeat
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch

SAMPLE_KEYS: tuple = ()
WHOLE_KEYS: tuple = ()
MEDIA_TOKENS: dict = {}
STEPS_PER_SECOND: float = 1
POSITIONS = torch.int64
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
    types = _types(row)
    is_media, left = [code in (1, 2) for code in types], _blocks(row, types)
    order, time, down, across = [], [], [], []
    for length in lengths:
        begin, stop = 0, len(time) + length
        order += range(length)
        while len(time) < stop:
            at = len(time)
            if not is_media[at]:
                end = is_media.index(True, at, stop) if True in is_media[at:stop] else stop
                text = [begin + one for one in range(end - at)]
                for plane in (time, down, across):
                    plane += text
                begin += end - at
                continue
            times, height, width, after = next(left[types[at]], ((), 0, 0, 0))
            size = len(times) * height * width
            if not size or types[at : min(at + size, stop)].count(types[at]) != size:
                raise _unknown()
            columns = [begin + x for x in range(width)] * height
            for one in times:
                time += repeat(begin + one, height * width)
                for y in range(height):
                    down += repeat(begin + y, width)
                across += columns
            begin += after
    if any(next(blocks, None) for blocks in left.values()):
        raise _unknown()
    planes = torch.frombuffer(array("d", order + time + down + across), dtype=torch.float64)
    return planes.view(4, 1, -1).to(POSITIONS).to(row["input_ids"].device)


def _types(row: dict) -> list:
    """0 for each token of text, 1 of images, 2 of videos, 3 of audio, which is placed as text."""
    ids, types = row["input_ids"], row.get("mm_token_type_ids")
    if types is None:
        types = torch.zeros_like(ids)
        for token, code in MEDIA_TOKENS.items():
            types[ids == token] = code
    types = types[0].tolist()
    if "image_grid_thw" not in row:  # frames may have the token of images
        types = [2 if code == 1 else code for code in types]
    if 2 in types and (2, 3) in {tuple(sorted(pair)) for pair in pairwise(types)}:
        raise _unknown()  # a video and its own sound
    return types


def _blocks(row: dict, types: list) -> dict:
    """Images (1) and videos (2): the time of each frame, height, width, and where text goes on."""
    keys = ("image_grid_thw", "video_grid_thw")
    images, videos = [row[key].tolist() if key in row else [] for key in keys]
    patches = sum(frames * height * width for frames, height, width in images + videos)
    merge = isqrt(patches // max(1, types.count(1) + types.count(2))) or 1
    sides = [(frames, height // merge, width // merge) for frames, height, width in videos]
    of_images = [(height // merge, width // merge) for _, height, width in images]
    return {
        1: iter([((0,), *side, max(side)) for side in of_images]),
        2: iter(_video_blocks(row, sides)),
    }


def _videos_by_frame(row: dict, sides: list) -> list:
    """Each frame is placed as an image."""
    each = [side for frames, *side in sides for _ in range(frames)]
    return [((0,), *side, max(side)) for side in each]


def _videos_whole(row: dict, sides: list) -> list:
    """One step of time per frame."""
    return [(range(frames), *side, max(side)) for frames, *side in sides]


def _videos_in_seconds(row: dict, sides: list) -> list:
    """Steps of time by the seconds between two frames."""
    seconds = row.get("second_per_grid_ts", repeat(1))
    times = [
        (torch.arange(frames) * (STEPS_PER_SECOND * one)).long().tolist()
        for (frames, *_), one in zip(sides, seconds, strict=False)
    ]
    return [(own, *side, max(side)) for own, (_, *side) in zip(times, sides, strict=True)]


def _videos_among_sounds(row: dict, sides: list) -> list:
    """Steps of time by the seconds between two frames; text goes on behind the last of them."""
    seconds = torch.as_tensor(row["video_second_per_grid"] if sides else []).float().cpu()
    times = [
        (torch.arange(frames) * one * STEPS_PER_SECOND).to(POSITIONS).tolist()
        for (frames, *_), one in zip(sides, seconds, strict=False)
    ]
    sides = [side for _, *side in sides]
    return [(own, *side, max(own[-1] + 1, *side)) for own, side in zip(times, sides, strict=True)]


def _videos_unknown(row: dict, sides: list) -> list:
    """Where the model's steps of time are not known."""
    if sides:
        raise _unknown()
    return []


def _unknown() -> ValueError:
    return ValueError(
        "Positions of these images, videos or sounds do not follow from the batch, so they are not "
        "computed here. Put them into the padded batch before it is packed: "
        "inputs['position_ids'] = get_rope_index(…)[0] of the model, given the tensors of inputs "
        "that it takes."
    )


def _video_blocks(row: dict, sides: list) -> list:
    """The one of these that is written: time of each frame, height, width, where text goes on."""
    return _videos_unknown(row, sides)
