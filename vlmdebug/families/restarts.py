"""Packed rows with positions 0, 1, 2 … in each sample, as nearly all have them.

There, where each sample begins and whether its positions are right are one question, which `watch`
asks of every call.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import repeat
from operator import sub
from typing import Any

import numpy as np

from vlmdebug.core.keys import PACKED
from vlmdebug.core.part import Span, Spans

OTHERS = frozenset({"attention_mask", *PACKED})
"""Keys that may say something else than the positions."""
OF_TEXT = (1, 4)
"""Planes of `position_ids` of which the first counts the tokens of each sample."""
WIDE = np.dtype(np.int32).itemsize
"""Bytes of numbers that do not come round again within a row."""


def restarted(
    tensors: Mapping[str, Any], planes: np.ndarray, ids: np.ndarray, pad: int | None
) -> Spans | None:
    """The tokens of each sample, if `position_ids` are 0, 1, 2 … in each and nothing else counts.

    None where more must be read: other keys that say where samples begin, padding, samples of one
    token, or one sample in each row.

    Args:
        tensors: The call.
        planes: Its `position_ids`, `(plane, row, seq)`.
        ids: Its `input_ids`, `(row, seq)`.
        pad: Id of the padding token, where known.
    """
    if len(planes) not in OF_TEXT or not OTHERS.isdisjoint(tensors):
        return None
    flat = planes[0].reshape(-1)
    if flat.dtype.kind != "i" or flat.dtype.itemsize < WIDE:
        return None
    zero, (rows, width) = flat == 0, ids.shape
    starts = zero.nonzero()[0].tolist()
    if len(starts) <= rows or starts[0]:
        return None
    if np.count_nonzero((flat[1:] - flat[:-1] != 1) != zero[1:]):
        return None  # they jump elsewhere, too
    stops = [*starts[1:], flat.size]
    shortest = min(map(sub, stops, starts))
    padding = 0 if pad is None else np.count_nonzero(ids == pad)
    if shortest < 2 or padding >= shortest:
        return None
    if len(planes) > 1 and (pad is None or padding):
        return None
    if rows == 1:
        return Spans(map(Span, repeat(0), starts, stops))
    if planes[0, :, 0].any():
        return None  # a sample does not go on in the next row
    places = [divmod(start, width) for start in starts]
    sizes = map(sub, stops, starts)
    return Spans(Span(row, at, at + size) for (row, at), size in zip(places, sizes, strict=True))
