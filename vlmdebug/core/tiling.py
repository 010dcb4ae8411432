"""How Mllama cuts images into tiles, and which images each token attends to."""

from __future__ import annotations

from functools import cache

import numpy as np


@cache
def aspect_ratios(most: int) -> tuple[tuple[int, int], ...]:
    """Tiles `(rows, columns)` of an image of at most `most` tiles, in the order of the ids from 1.

    As `image_processing_mllama.get_all_supported_aspect_ratios` in transformers 5.23, which calls
    the first one width.

    >>> aspect_ratios(2)
    ((1, 1), (1, 2), (2, 1))
    """
    sides = range(1, most + 1)
    return tuple((rows, columns) for rows in sides for columns in sides if rows * columns <= most)


def images_seen(images: np.ndarray, most: int, *, groups: bool) -> np.ndarray:
    """Which of `most` images each token attends to, `(seq, most)`: the one that stands before it.

    `images`: where the tokens of images are, `(seq,)`. With `groups`, tokens behind images that
    stand side by side attend to all of them
    (`processing_mllama.get_cross_attention_token_mask`, transformers 5.24).
    """
    seen = np.zeros((len(images), most), dtype=bool)
    following = end = len(images)
    for number, start in reversed([*enumerate(np.flatnonzero(images).tolist())]):
        end = end if groups and following == start + 1 else following
        seen[start:end, number] = True
        following = start
    return seen
