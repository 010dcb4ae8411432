"""Batches made to a layout without a processor: what to make, and the tensors to make it of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class BatchSpec:
    """A batch to be made: images per sample, one size number per image, and videos likewise.

    What an image's size means is the family's: grid side, tiles, soft tokens; a video's is its
    frames; audio clips are alike. `labels`, M-RoPE's `position_ids` and, with videos,
    `second_per_grid_ts` are added on request. The text is short: sizes and frames of 1, the
    smallest, go without saying, and so do padding on the right and what is not there.
    """

    family: str
    images_per_sample: tuple[int, ...]
    sizes: tuple[int, ...]
    videos_per_sample: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    audios_per_sample: tuple[int, ...] = ()
    padding_side: str = "right"
    labels: bool = False
    position_ids: bool = False
    second_per_grid_ts: bool = False

    @property
    def clips(self) -> bool:
        """Whether there are videos or audio clips."""
        return any(self.videos_per_sample) or any(self.audios_per_sample)

    def __repr__(self) -> str:
        parts = [f"{self.family}: images per sample {list(self.images_per_sample)}"]
        if set(self.sizes) - {1}:
            parts.append(f"sizes {list(self.sizes)}")
        if self.frames:
            parts.append(f"videos per sample {list(self.videos_per_sample)}")
        if set(self.frames) - {1}:
            parts.append(f"frames {list(self.frames)}")
        if self.audios_per_sample:
            parts.append(f"audio clips per sample {list(self.audios_per_sample)}")
        if self.padding_side == "left":
            parts.append("padded left")
        parts += [f"with {key}" for key in ASKED_FOR if getattr(self, key)]
        return ", ".join(parts)


ASKED_FOR = ("labels", "position_ids", "second_per_grid_ts")
"""Keys of a made batch that are there where its specification asks for them."""


ANSWER = 6
"""Tokens of text behind the images of a synthesized sample, which has 8 at least."""


def text(per_image: Sequence[Sequence[int]], images_per_sample: Sequence[int]) -> np.ndarray:
    """`input_ids` of samples with the given token ids for each image, padded right.

    Every sample begins with its own text token, so that no two rows are equal. It ends with text,
    as long as completions that a loop may keep the logits of (`logits_to_keep`).
    """
    images = iter(per_image)
    rows: list[list[int]] = []
    for sample, count in enumerate(images_per_sample):
        row = [100 + sample, 5]
        for _ in range(count):
            row += [*next(images), 6]
        rows.append([*row, *range(20, 20 + ANSWER)])
    return padded(rows)


def padded(rows: Sequence[list[int]]) -> np.ndarray:
    """Token ids of unequal length as one array, filled up with 0 on the right."""
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.int64)


def with_text(ids: np.ndarray, *, placeholder: int, types: bool) -> dict[str, Any]:
    """The token keys that go with `ids`; 0 is padding."""
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}
    if types:
        inputs["mm_token_type_ids"] = (ids == placeholder).astype(np.int64)
    return inputs


def numbered(rows: int, *shape: int) -> np.ndarray:
    """A float tensor `(rows, *shape)` in which every row holds its own number, from 1.

    Its fractions rise along the row, so that a cast or a move within it changes something.
    """
    column = np.arange(1, rows + 1, dtype=np.float32).reshape(rows, *[1] * len(shape))
    within = np.arange(prod(shape), dtype=np.float32).reshape(shape) / (2 * max(prod(shape), 1))
    return column + within


def owned_images(spec: BatchSpec) -> np.ndarray:
    """Which rows are images and which padding, `(sample, max_images)`, if rows are samples."""
    most = max(spec.images_per_sample)
    return np.arange(most) < np.array(spec.images_per_sample)[:, None]


def one_token_each(spec: BatchSpec, image: int) -> dict[str, Any]:
    """Texts in which each image is one placeholder token `image`."""
    ids = text([[image] for _ in spec.sizes], spec.images_per_sample)
    return with_text(ids, placeholder=image, types=False)
