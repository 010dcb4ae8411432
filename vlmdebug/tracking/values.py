"""Whether a tensor holds the values of some rows: the same, rounded, destroyed, or others.

All values are compared, whatever the size. Equal values cost one pass; only others are compared
further, first at a few positions spread over the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import product
from typing import Any, Literal

import numpy as np

from vlmdebug.core.change import Change, Kind
from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.core.tensors import to_numpy

Values = Literal["same", "rounded", "destroyed", "other"]
MOST_SAMPLED = 4096
"""Number of positions compared before, or instead of, all of them."""
CLOSE = 2.0**-7
"""Largest error of rounding to 16 bits, relative to a tensor's largest value."""
INDICES = ("int64", "int32")
"""Index dtypes of `torch.nn.functional.embedding` (torch 2)."""
MASKS = ("bool", "uint8")
"""Dtypes of masks that `tensor[mask]` takes (torch 2)."""


def compare(ours: Any, theirs: Any) -> Values:
    """How the values of `theirs` relate to `ours`, which has the same shape."""
    if equal(ours, theirs):
        return "same"
    mine, other = to_numpy(ours), to_numpy(theirs)
    if mine.shape != other.shape:
        return "other"
    places = positions(mine.size)
    few, few_others = mine.reshape(-1)[places], other.reshape(-1)[places]
    with np.errstate(all="ignore"):
        for values, cast in _casts(mine):
            if _alike(cast(few), few_others) and _alike(cast(mine), other):
                return _unless_lost(mine, other) if values == "rounded" else values
    return "other"


def equal(ours: Any, theirs: Any) -> bool:
    """Whether both hold the same numbers, in whatever dtype; NaN equals itself."""
    alike = type(ours) is type(theirs) and ours.dtype == theirs.dtype
    asked = alike and hasattr(ours, "equal") and ours.device == theirs.device
    if asked and "float8" not in str(ours.dtype):  # which has no such operation everywhere
        if ours.equal(theirs):
            return True
        if not ours.is_floating_point():
            return False
    return _alike(to_numpy(ours), to_numpy(theirs))


@lru_cache(maxsize=64)
def positions(size: int, most: int = MOST_SAMPLED) -> np.ndarray:
    """Some positions of `size` in order, evenly spread and at both ends; all of them if few."""
    if size <= most:
        return np.arange(size)
    return np.unique(np.linspace(0, size - 1, most).astype(np.int64))


def kind_of(value: Any) -> str:
    """`f` for floating point, else `i`."""
    if isinstance(value, np.ndarray):
        return "f" if value.dtype.kind == "f" else "i"
    return "f" if value.is_floating_point() else "i"


def dtype_of(value: Any) -> str:
    """`float32`, for torch and numpy alike."""
    return str(value.dtype).removeprefix("torch.")


def _alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    return np.array_equal(ours, theirs, equal_nan=True)


Cast = Callable[[np.ndarray], np.ndarray]


def _casts(ours: np.ndarray) -> Iterator[tuple[Values, Cast]]:
    """Ways in which values are rounded or destroyed, there and back."""
    narrow: dict[str, Cast] = {"half": _half, "bfloat16": _bfloat16, "single": _single}
    floats: Values = "rounded" if ours.dtype.kind == "f" else "destroyed"
    for cast in narrow.values():
        yield floats, cast
    for first, second in product((_half, _bfloat16), repeat=2):
        if first is not second:
            yield floats, lambda values, f=first, s=second: s(f(values))
    for dtype in (np.int64, np.int32, np.int16, np.int8, np.uint8, np.bool_):
        yield "destroyed", lambda values, d=dtype: values.astype(d)
        if ours.dtype.kind == "f":  # through 16 bits, as `.half().long()`
            yield "destroyed", lambda values, d=dtype: _half(values).astype(d)
            yield "destroyed", lambda values, d=dtype: _bfloat16(values).astype(d)


def _half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float32)


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """Rounded to the nearest, ties to even; kept in 32 bits, as numpy has no bfloat16."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + (((bits >> 16) & 1) + 0x7FFF).astype(np.uint32)) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(values), np.float32(np.nan), rounded.view(np.float32))


def _unless_lost(ours: np.ndarray, theirs: np.ndarray) -> Values:
    """Rounded, unless finite numbers became infinite or all small numbers became 0."""
    finite = np.isfinite(ours)
    if not np.isfinite(theirs[finite]).all():
        return "destroyed"
    mine, other = ours[finite].astype(np.float64), theirs[finite].astype(np.float64)
    most = np.abs(mine).max(initial=0.0)
    return "rounded" if np.abs(mine - other).max(initial=0.0) <= CLOSE * most else "destroyed"


def changed(kind: Kind, before: Any, after: Any) -> Change:
    """A change between a tensor of the batch and what was passed, with both dtypes."""
    return Change(kind, dtype=(dtype_of(after), dtype_of(before)))


def recast(key: str, before: Any, after: Any, *, indexes: bool) -> Change | None:
    """A cast that kept these values, but would lose others or is refused by the model.

    `indexes`: the model takes rows by this mask.
    """
    if indexes and dtype_of(after) not in MASKS:
        return changed("dtype", before, after)
    if kind_of(before) == "f" and kind_of(after) != "f":
        return changed("destroyed", before, after)
    if key == "input_ids" and dtype_of(after) not in INDICES:
        return changed("dtype", before, after)
    looked_up = key in MEDIA_KEYS or key == "labels"
    if looked_up and dtype_of(before) in INDICES and dtype_of(after) not in INDICES:
        return changed("recast", before, after)
    return None
