"""The values of tensors in host memory, and counts of masks over tokens.

Nothing here imports torch; tensors are used through the few methods that torch and numpy share.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np

from vlmdebug.core.part import Spans
from vlmdebug.core.rows import Places


def to_numpy(value: Any) -> np.ndarray:
    """A tensor's values in host memory; 16-bit floats that numpy lacks are widened exactly.

    Waits for the device, so it is for ids, grids and what must be compared by value.
    """
    if not hasattr(value, "detach"):
        return np.asarray(value)
    try:
        return value.numpy(force=True)  # views that are negated when they are read, too
    except TypeError:  # bfloat16, float8
        return value.float().numpy(force=True)


def numbers_of(value: Any) -> np.ndarray | None:
    """Its values without a copy; None if it is not an array of numbers."""
    if not hasattr(value, "shape") and not isinstance(value, (list, tuple)):
        return None
    try:
        found = to_numpy(value)
    except (TypeError, ValueError, RuntimeError):  # sparse, meta, ragged
        return None
    return found if found.dtype.kind in "biuf" else None


def widened(marks: np.ndarray, by: int) -> np.ndarray:
    """Marks and the tokens next to them, so many on each side, `(row, seq)`.

    >>> widened(np.array([[False, False, False, True]]), 1).tolist()
    [[False, False, True, True]]
    """
    for _ in range(by):
        wider = marks.copy()
        wider[:, 1:] |= marks[:, :-1]
        wider[:, :-1] |= marks[:, 1:]
        marks = wider
    return marks


def side_by_side(table: np.ndarray, spans: Spans, fill: int) -> np.ndarray:
    """The tokens of each sample in a row of its own, `(…, sample, seq)`, with `fill` behind them.

    `table` is a key of shape `(…, row, seq)`.
    """
    apart = np.full((*table.shape[:-2], *spans.real.shape), fill, dtype=table.dtype)
    if spans.fill_one_row and table.ndim == 2:  # as nearly always
        apart[spans.real] = table[0, : spans[-1].stop]
        return apart
    for sample, (row, start, stop) in enumerate(spans):
        apart[..., sample, : stop - start] = table[..., row, start:stop]
    return apart


def filled(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The values, repeated where they have fewer dimensions or a length of 1; no copy."""
    return values if values.shape == shape else np.broadcast_to(values, shape)


def places_of(mask: np.ndarray) -> Places:
    """Where each unbroken run of a mask `(sample, seq)` begins and ends, by sample."""
    samples, width = mask.shape[0], mask.shape[1] + 1
    table = np.zeros((samples, width), dtype=bool)  # a column of False before each row
    table[:, 1:] = mask
    flat = table.ravel()
    edges = (flat[1:] != flat[:-1]).nonzero()[0].tolist()
    if len(edges) % 2:
        edges.append(flat.size - 1)  # a run ends with the last row
    found: list[list[tuple[int, int]]] = [[] for _ in range(samples)]
    for begin, end in zip(*[iter(edges)] * 2, strict=True):
        sample = begin // width
        place = begin - sample * width
        found[sample].append((place, place + end - begin))
    return Places(map(tuple, found))


def by_sample(mask: np.ndarray) -> tuple[int, ...]:
    """How many of each row of `(sample, seq)` are true; nearly always none are."""
    if not np.count_nonzero(mask):
        return (0,) * len(mask)
    return tuple(mask.sum(axis=1).tolist())


def unreadable(value: Any) -> str | None:
    """Why the values of a tensor cannot be compared, in words: `on the meta device`."""
    if isinstance(value, np.ndarray):
        return None if value.dtype.kind in "biuf" else f"an array of {value.dtype}"
    laid_out = getattr(value, "layout", None)
    if getattr(value, "is_nested", False):
        return "nested"
    if laid_out is None:
        return None  # no tensor of torch's
    if value.is_meta:
        return "on the meta device, which holds no values"
    return _unreadable(laid_out, value.dtype)


@cache
def _unreadable(layout: Any, dtype: Any) -> str | None:
    """Words for torch's layouts and dtypes that do not store rows as plain numbers in memory."""
    name = str(layout).removeprefix("torch.")
    if name != "strided":
        return "sparse" if "sparse" in name else f"laid out as {name}"
    if str(dtype).removeprefix("torch.").startswith(("quint", "qint")):
        return "quantized"
    return "of complex numbers" if dtype.is_complex else None


def in_host_memory() -> AbstractContextManager[Any]:
    """Where the program has another default device, new tensors are still made in host memory."""
    torch = sys.modules.get("torch")
    if torch is None or torch.empty(0).device.type == "cpu":
        return nullcontext()
    return torch.device("cpu")


def version(tensor: Any) -> int | None:
    """torch's count of writes into this memory; None if it keeps none."""
    try:
        return tensor._version
    except (AttributeError, RuntimeError):  # numpy; tensors made in inference mode
        return None
