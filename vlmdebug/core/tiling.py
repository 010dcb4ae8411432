"""Mllama's aspect ratios: how many tiles down and across an image was cut into."""

from __future__ import annotations

from functools import cache


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
