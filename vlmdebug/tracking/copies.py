"""Rows followed through the operations that copy them.

A copy is no longer in its parent's memory. While a slicer runs, torch reports every operation to
this module. Operations that move whole rows (index, cat, repeat, `.to()`, padding …) are repeated
on the row numbers. Values are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

Numbers = np.ndarray
Known = Callable[[Any], tuple[Numbers, int] | None]
"""Rows of a tensor and their dimension (-1: one row, selected), if they are known."""

SAME = frozenset(
    [
        "clone",
        "contiguous",
        "to",
        "cpu",
        "cuda",
        "float",
        "half",
        "bfloat16",
        "double",
        "long",
        "int",
        "bool",
        "type",
        "type_as",
        "pin_memory",
    ]
)
JOIN = frozenset(["cat", "concat", "concatenate", "vstack", "row_stack"])
STACK = frozenset({"stack"})


class FollowCopies(TorchFunctionMode):
    """Calls `learn(tensor, key, rows, dim)` for each new tensor made of known rows of one key."""

    def __init__(
        self,
        known: Callable[[Any], tuple[str, Numbers, int] | None],
        learn: Callable[[Any, str, Numbers, int], None],
    ) -> None:
        super().__init__()
        self._known, self._learn = known, learn

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        rule = RULES.get(getattr(func, "__name__", ""))
        if rule is _getitem and isinstance(args[1], (slice, int)):
            return out  # a view, which its memory identifies; by far the most common case
        if rule is not None and isinstance(out, torch.Tensor):
            self._follow(rule, out, args, kwargs)
        return out

    def _follow(self, rule: Rule, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        keys: set[str] = set()

        def known(tensor: Any) -> tuple[Numbers, int] | None:
            found = self._known(tensor)
            if found is None:
                return None
            keys.add(found[0])
            return found[1:]

        try:
            found = rule(known, out, args, kwargs)
        except Exception:  # called in a way that no rule covers: its rows are identified by value
            return
        if found is None or len(keys) != 1:  # rows of two keys: they are identified by value
            return
        rows, dim = found
        if out.ndim > dim and len(rows) == out.shape[dim]:
            self._learn(out, keys.pop(), rows, dim)


def _same(known: Known, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    source = known(args[0])
    return source if source is not None and out.shape == args[0].shape else None


def _join(known: Known, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """`cat` on the rows' dimension appends rows; on another it widens each row."""
    tensors = args[0] if args else kwargs["tensors"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    found = [known(tensor) for tensor in tensors if tensor.numel()]
    parts = [part for part in found if part is not None]
    if not parts or len(parts) < len(found):
        return None
    own = parts[0][1]
    if own != dim % out.ndim or any(part[1] != own for part in parts):
        same = all(part[1] == own and np.array_equal(part[0], parts[0][0]) for part in parts)
        return parts[0] if same and own >= 0 else None
    return np.concatenate([part[0] for part in parts]), own


def _stack(known: Known, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """`stack` of single selected rows restores their dimension."""
    tensors = args[0] if args else kwargs["tensors"]
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    found = [known(tensor) for tensor in tensors]
    parts = [part for part in found if part is not None and part[1] == -1]
    if dim or not parts or len(parts) < len(found):
        return None
    return np.concatenate([part[0] for part in parts]), 0


def _getitem(known: Known, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    source, index = known(args[0]), args[1]
    if source is None or source[1] < 0:
        return None
    rows, dim = source
    if isinstance(index, tuple):
        if len(index) <= dim or any(i is None or i is Ellipsis for i in index):
            return None
        if any(not isinstance(i, slice) for at, i in enumerate(index) if at != dim):
            return None
        index = index[dim]
    elif dim:
        return None
    return _taken(rows, index, dim)


def _taken(rows: Numbers, index: Any, dim: int) -> Any:
    if isinstance(index, torch.Tensor):
        index = index.detach().cpu().numpy()
    if isinstance(index, (list, np.ndarray)):
        index = np.asarray(index) if len(index) else np.empty(0, dtype=np.int64)
        if index.ndim != 1:
            return None
    elif not isinstance(index, slice):
        return None
    return rows[index], dim


def _index_select(known: Known, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    source = known(args[0])
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    index = args[2] if len(args) > 2 else kwargs.get("index")
    if source is None or dim is None or dim % args[0].ndim != source[1]:
        return None
    return _taken(source[0], index, source[1])


def _repeat_interleave(known: Known, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    source = known(args[0])
    repeats = args[1] if len(args) > 1 else kwargs.get("repeats")
    dim = args[2] if len(args) > 2 else kwargs.get("dim")
    if source is None or repeats is None or dim is None or dim % args[0].ndim != source[1]:
        return None
    times = repeats.cpu().numpy() if isinstance(repeats, torch.Tensor) else repeats
    return np.repeat(source[0], times), source[1]


def _repeat(known: Known, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """`repeat` and `tile` with as many factors as dimensions."""
    source = known(args[0])
    factors = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if source is None or source[1] < 0 or len(factors) != args[0].ndim:
        return None
    return np.tile(source[0], factors[source[1]]), source[1]


def _flip(known: Known, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    source = known(args[0])
    dims = args[1] if len(args) == 2 else args[1:]
    dims = [dims] if isinstance(dims, int) else list(dims)
    if source is None or [dim % args[0].ndim for dim in dims] != [source[1]]:
        return None
    return source[0][::-1], source[1]


def _pad(known: Known, out: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """`F.pad`: widths come in pairs from the last dimension; new rows have no owner."""
    source = known(args[0])
    widths = args[1] if len(args) > 1 else kwargs.get("pad")
    if source is None or widths is None or source[1] < 0:
        return None
    at = 2 * (args[0].ndim - 1 - source[1])
    before, after = (widths[at], widths[at + 1]) if at < len(widths) else (0, 0)
    if before < 0 or after < 0:
        return None
    return np.concatenate([np.full(before, -1), source[0], np.full(after, -1)]), source[1]


Rule = Callable[[Known, Any, Sequence[Any], dict[str, Any]], Any]

RULES: dict[str, Rule] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(JOIN, _join),
    **dict.fromkeys(STACK, _stack),
    "__getitem__": _getitem,
    "index_select": _index_select,
    "repeat_interleave": _repeat_interleave,
    "repeat": _repeat,
    "tile": _repeat,
    "flip": _flip,
    "pad": _pad,
}
