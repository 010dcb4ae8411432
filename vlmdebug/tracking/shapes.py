"""Rows of another shape than the batch's: columns cut or added, a dimension lost or gained.

They are identified by value: the common part is the part of the rows, wherever it begins.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import product
from typing import Any

import numpy as np

from vlmdebug.core.change import Change, Kind
from vlmdebug.core.rows import Rows
from vlmdebug.core.tensors import to_numpy
from vlmdebug.tracking.values import compare, equal

PADDING = (0, -1)
"""What processors pad with."""
Window = tuple[slice, ...]


def take(tensor: Any, dim: int, rows: Rows) -> Any:
    """These rows of a tensor, as a view if they are consecutive."""
    at = (slice(None),) * dim
    if len(rows.ranges) <= 1:
        start, stop = rows.ranges[0] if rows.ranges else (0, 0)
        return tensor[(*at, slice(start, stop))]
    return tensor[(*at, list(rows))]


def others(given: tuple[int, ...], own: tuple[int, ...], but: Collection[int]) -> list[int]:
    """Dimensions of different size in two shapes of equal length, except `but`."""
    return [at for at, size in enumerate(own) if given[at] != size and at not in but]


def common(block: Any, tensor: Any) -> tuple[Window, Window] | None:
    """The part that both have, if it begins or ends both; None if values differ."""
    given, own = tuple(tensor.shape), tuple(block.shape)
    changed = others(given, own, ())
    for sides in product(("start", "end"), repeat=len(changed)):
        side = dict(zip(changed, sides, strict=True))
        ours, theirs = (
            tuple(
                _end(have, min(have, other), side.get(at, "start"))
                for at, (have, other) in enumerate(zip(one, two, strict=True))
            )
            for one, two in ((own, given), (given, own))
        )
        if compare(block[ours], tensor[theirs]) in ("same", "rounded"):
            return ours, theirs
    return None


def _end(have: int, size: int, side: str) -> slice:
    return slice(0, size) if side == "start" else slice(have - size, have)


def resized(
    block: Any, tensor: Any, dim: int, free: Collection[int], window: Window | None
) -> Change | None:
    """Its shorter or longer dimensions, except `dim` and the `free` ones; None if there are none.

    `window`: the part of `block` that it holds, if known.
    """
    given, own = tuple(tensor.shape), tuple(block.shape)
    changed = others(given, own, {dim, *free})
    if not changed:
        return None
    kind: Kind = "grown" if any(given[at] > own[at] for at in changed) else "cut"
    if kind == "cut" and dim and changed == [0]:
        kind = "plane"
    if kind == "cut" and window is not None and _is_padding(block, window, changed):
        kind = "padding cut"
    return Change(kind, given, own)


def _is_padding(block: Any, window: Window, changed: Collection[int]) -> bool:
    """Whether everything outside the window, along these dimensions, is padding."""
    values = to_numpy(block)
    outside = np.ones(values.shape, dtype=bool)
    outside[tuple(part if at in changed else slice(None) for at, part in enumerate(window))] = False
    cut = values[outside]
    return any(bool((cut == pad).all()) for pad in PADDING)


def reshaped(block: Any, tensor: Any, dim: int) -> Change | None:
    """A dimension that was lost or added, one plane of several, or numbers in another shape."""
    given, own = tuple(tensor.shape), tuple(block.shape)
    kind: Kind | None = None
    if np.prod(given) == np.prod(own) and equal(block.reshape(-1), tensor.reshape(-1)):
        kind = "reshaped"
        if len(given) != len(own) and _long(given) == _long(own):
            kind = "lost" if len(given) < len(own) else "added"
    elif given[1:] == own and all(equal(block, one) for one in tensor):
        kind = "added"
    elif given == own[1:] and any(equal(one, tensor) for one in block):
        kind = "plane" if dim else "lost"
    elif dim and given[1:] == own[1:] and given[0] == 1:
        kind = "plane" if any(equal(one, tensor[0]) for one in block) else None
    return None if kind is None else Change(kind, given, own)


def _long(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]
