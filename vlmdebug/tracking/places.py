"""M-RoPE's positions in time, height and width, as they follow from the grids of images and videos.

A text token is one behind all before it. An image or video begins there and is laid out frame by
frame and row by row; text goes on one behind its larger side. As `modeling_qwen2_vl.get_rope_index`
and that of its variants (transformers 5.24); what differs between models is in `MRope`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.rows import rows_of
from vlmdebug.core.rules import MRope
from vlmdebug.core.tensors import to_numpy
from vlmdebug.errors import AmbiguousError
from vlmdebug.families.video_audio import TYPES

GRIDS = {"image": "image_grid_thw", "video": "video_grid_thw"}
CODES = {"image": 1, "video": TYPES["video"]}
TEXT = 0
MOST_MERGED = 8
"""Largest side of a square of patches that become one feature."""


class Block(NamedTuple):
    """The features of an image or video: frames, rows, columns, and the time between two frames."""

    frames: int
    height: int
    width: int
    step: float = 1.0

    @property
    def size(self) -> int:
        return self.frames * self.height * self.width

    @property
    def places(self) -> np.ndarray:
        """Time, height and width of each feature from its begin on, `(3, feature)`."""
        return _places_of(self)


@lru_cache(maxsize=64)
def _places_of(block: Block) -> np.ndarray:
    time, rest = np.divmod(np.arange(block.size), block.height * block.width)
    down, across = np.divmod(rest, block.width)
    found = np.stack([(time * block.step).astype(np.int64), down, across])
    found.setflags(write=False)
    return found


def mrope(
    batch: Batch,
    types: np.ndarray,
    shown: np.ndarray,
    samples: Sequence[int],
    given: Mapping[str, Any],
) -> np.ndarray | None:
    """Positions of the tokens of these samples, `(3, sample, seq)`; None where no rule is proven.

    Args:
        batch: The batch that owns the samples.
        types: 0 for text, 1 for image, 2 for video, `(sample, seq)`.
        shown: Tokens that are no padding, `(sample, seq)`; all others get 0.
        samples: Their numbers in the batch.
        given: The call, where the batch's own tensors are not kept.
    """
    stops = shown.sum(axis=1).cumsum().tolist()
    laid = mrope_in_row(batch, types[shown], stops, samples, given)
    if laid is None:
        return None
    places = np.zeros((3, *types.shape), dtype=np.int64)
    places[:, shown] = laid
    return places


def mrope_in_row(
    batch: Batch,
    types: np.ndarray,
    stops: Sequence[int],
    samples: Sequence[int],
    given: Mapping[str, Any],
) -> np.ndarray | None:
    """The same for the real tokens of all samples one behind the other, `(3, token)`.

    `stops`: where each sample ends.
    """
    rule = batch.rules.mrope
    begins = [0, *((types[1:] != types[:-1]).nonzero()[0] + 1).tolist(), *stops[:-1]]
    begins = sorted({begin for begin in begins if begin < len(types)})
    codes = types[begins].tolist()
    present = {*codes} - {TEXT}
    if rule is None or not present <= {*CODES.values()}:
        return None
    media = dict[int, tuple[Block, ...]]()
    for name, code in CODES.items():
        if code in present:
            blocks = _blocks(batch, rule, name, samples, given)
            if blocks is None:
                return None
            media[code] = tuple(blocks)
    runs = zip(codes, begins, [*begins[1:], len(types)], strict=True)
    return _laid(len(types), tuple(runs), tuple(stops), tuple(media.items()))


@lru_cache(maxsize=8)
def _laid(
    tokens: int,
    runs: Sequence[tuple[int, int, int]],
    stops: Sequence[int],
    media: Sequence[tuple[int, tuple[Block, ...]]],
) -> np.ndarray | None:
    """Positions of all tokens, `(3, token)`; None if runs have other sizes.

    The models of a loop get the same samples in turn: a policy and its reference, for one.

    Args:
        tokens: How many there are, of one sample behind the other.
        runs: Runs of tokens of one type, as type, begin and end.
        stops: Where samples end.
        media: The images and videos, in order, by type.
    """
    left, ends = {code: iter(blocks) for code, blocks in media}, {*stops}
    places = np.empty((3, tokens), dtype=np.int64)
    places[:] = np.arange(tokens)
    begin, sizes, by = 0, list[int](), list[int]()  # tokens, and what is added to their places
    for code, at, end in runs:
        if code == TEXT:
            sizes.append(end - at)
            by.append(begin - at)
            begin += end - at
            at = end
        while at < end:  # images may stand side by side
            block = next(left[code], None)
            if block is None or not block.size or at + block.size > end:
                return None
            places[:, at : at + block.size] = block.places
            sizes.append(block.size)
            by.append(begin)
            at, begin = at + block.size, begin + max(block.height, block.width)
        begin = 0 if end in ends else begin
    if any(next(blocks, None) is not None for blocks in left.values()):
        return None
    places += np.repeat(np.array(by, dtype=np.int64), sizes)
    places.setflags(write=False)
    return places


def _blocks(
    batch: Batch, rule: MRope, name: str, samples: Sequence[int], given: Mapping[str, Any]
) -> list[Block] | None:
    """The images or videos of the samples, in order."""
    key, modality = GRIDS[name], batch.modalities.get(name)
    if key not in batch.inputs or name not in batch.counts or modality is None:
        return None
    features = batch.per_image.get("feature") if name == "image" else modality.features
    try:
        rows = list(rows_of(batch.counts[name].offsets, samples))
    except (AmbiguousError, KeyError):
        return None
    grids = _grids(batch.inputs[key], rows, given.get(key))
    if grids is None or features is None or len(grids) != len(rows):
        return None
    merge = _merge(grids, [features[row] for row in rows], rule.newline)
    if merge is None:
        return None
    blocks = [
        Block(frames, height // merge, width // merge + rule.newline)
        for frames, height, width in grids
    ]
    if name == "image":
        return blocks if all(block.frames == 1 for block in blocks) else None
    return _of_videos(batch, rule, blocks, rows, given)


def _of_videos(
    batch: Batch, rule: MRope, blocks: list[Block], rows: Sequence[int], given: Mapping[str, Any]
) -> list[Block] | None:
    """Videos as the model lays them out."""
    if rule.videos == "frames":
        return [one._replace(frames=1) for block in blocks for one in repeat(block, block.frames)]
    if rule.videos == "seconds" and any(block.frames > 1 for block in blocks):
        seconds = batch.inputs.get("second_per_grid_ts", given.get("second_per_grid_ts"))
        steps = [] if seconds is None else to_numpy(seconds).tolist()
        if rule.per_second is None or (steps and len(steps) <= max(rows)):
            return None
        every = [steps[row] if steps else 1.0 for row in rows]
        return [
            block._replace(step=one * rule.per_second)
            for block, one in zip(blocks, every, strict=True)
        ]
    if rule.videos == "seconds":
        return blocks  # no video has a second frame
    return blocks if rule.videos == "whole" else None


def _grids(own: Any, rows: Sequence[int], given: Any) -> list[list[int]] | None:
    """Grids of these rows; the call's own where the batch's tensors are not kept."""
    if own is not None:
        return to_numpy(own)[rows].tolist()
    return None if given is None else to_numpy(given).tolist()


def _merge(grids: Sequence[Sequence[int]], features: Sequence[int], newline: bool) -> int | None:
    """Side of the square of patches that become one feature; None if no square fits all grids."""
    for side in range(1, MOST_MERGED + 1):
        fits = all(
            height % side == width % side == 0
            and frames * (height // side) * (width // side + newline) == count
            for (frames, height, width), count in zip(grids, features, strict=True)
        )
        if fits:
            return side
    return None
