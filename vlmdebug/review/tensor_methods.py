"""What the methods of torch's and numpy's tensors do to the tensors of an interpreted function.

They are functions of the tensor, its positional and named arguments and the node of the call.
Semantics are those of torch where numpy differs.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vlmdebug.review.arrays import Failed, Tensor, Unknown, compared, computed, plain, small
from vlmdebug.review.machine import Reference

LOSSY = frozenset({"uint8", "int8", "bool"})
"""Names of dtypes that lose values of pixels."""


def number(value: Any) -> int:
    """An int from a number or a tensor of one element."""
    found = plain(value)
    if isinstance(found, np.ndarray):
        if found.size != 1:
            raise Failed("TypeError")
        found = found.reshape(()).item()
    if not isinstance(found, (int, float, np.number)):
        raise LookupError
    return int(found)


def dims_of(args: Sequence[Any]) -> tuple[int, ...]:
    """Sizes that are given one by one or as a list."""
    parts = args[0] if len(args) == 1 and isinstance(args[0], (list, tuple)) else args
    return tuple(number(part) for part in parts)


def dim_of(args: list[Any], given: dict[str, Any], place: int, default: int | None = 0) -> Any:
    """The dimension that a call names, or the argument at `place`."""
    for name in ("dim", "axis"):
        if name in given:
            return None if given[name] is None else number(given[name])
    return number(args[place]) if len(args) > place else default


def _same(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    return x


def _cast(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    """Values that a dtype cannot hold are lost, so what is left is not compared."""
    kinds = {part.last for part in (*args, *given.values()) if isinstance(part, Reference)}
    return Tensor(x.array, x.key, computed=True, cut=x.cut) if kinds & LOSSY else x


def _whole(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    return x.of(np.trunc(x.array).astype(np.int64)) if x.array.dtype.kind == "f" else x


def _size(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    dim = dim_of(args, given, 0, None)
    try:
        return tuple(x.array.shape) if dim is None else x.array.shape[dim]
    except IndexError:
        raise Failed("IndexError") from None


def _reduced(how: str) -> Callable[..., Tensor]:
    def method(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
        dim = dim_of(args, given, 0, None)
        keep = bool(given.get("keepdim", given.get("keepdims", False)))
        array = x.array.astype(float) if how == "mean" else x.array
        return computed(getattr(array, how)(axis=dim, keepdims=keep))

    return method


def _cumsum(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    return computed(x.array.cumsum(axis=dim_of(args, given, 0, None)))


def _reshape(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    if args and isinstance(args[0], Unknown):
        return x  # a view in another dtype
    return x.of(x.array.reshape(dims_of(args or [given["shape"]])), node)


def _flatten(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    start = number(given.get("start_dim", args[0] if args else 0))
    stop = number(given.get("end_dim", args[1] if len(args) > 1 else -1)) % max(x.array.ndim, 1)
    shape = x.array.shape
    size = math.prod(shape[start : stop + 1])
    return x.of(x.array.reshape(*shape[:start], size, *shape[stop + 1 :]), node)


def _unflatten(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    dim, sizes, shape = number(args[0]), dims_of([args[1]]), x.array.shape
    return x.of(x.array.reshape(*shape[:dim], *sizes, *shape[dim + 1 :]), node)


def _squeeze(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    dim = dim_of(args, given, 0, None)
    if dim is not None and x.array.shape[dim] != 1:
        return x
    return x.of(x.array.squeeze(axis=dim), node)


def _unsqueeze(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    return x.of(np.expand_dims(x.array, dim_of(args, given, 0)), node)


def _transpose(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    return x.of(np.swapaxes(x.array, number(args[0]), number(args[1])), node)


def _permute(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    return x.of(x.array.transpose(dims_of(args)), node)


def _repeat(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    if len(dims_of(args)) < x.array.ndim:
        raise Failed("RuntimeError")
    return _tile(x, args, given, node)


def _tile(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    sizes = dims_of(args)
    small(x.array.size * math.prod(sizes))
    return x.of(np.tile(x.array, sizes), node)


def _expand(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    sizes = dims_of(args)
    own = (1,) * (len(sizes) - x.array.ndim) + x.array.shape
    shape = [have if size == -1 else size for size, have in zip(sizes, own, strict=True)]
    return x.of(np.broadcast_to(x.array, shape), node)


def _repeat_interleave(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    times = plain(args[0] if args else given["repeats"])
    dim = dim_of(args, given, 1, None)
    small(x.array.size * int(np.max(times, initial=0)))
    return x.of(np.repeat(x.array, times, axis=dim), node)


def _split(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> tuple[Tensor, ...]:
    sizes = args[0] if args else given.get("split_size_or_sections", given.get("split_size"))
    dim = dim_of(args, given, 1)
    length = x.array.shape[dim]
    found = plain(sizes)
    if isinstance(found, (list, np.ndarray)) and np.ndim(found):
        steps = [number(part) for part in found]
        if sum(steps) != length:
            raise Failed("RuntimeError")
    else:
        step = number(sizes)
        if step <= 0:
            raise Failed("RuntimeError")
        steps = [min(step, length - start) for start in range(0, length, step)] or [0]
    ends = [*itertools.accumulate(steps)]
    return tuple(
        x.of(x.array.take(range(end - size, end), axis=dim), node if not dim else None)
        for size, end in zip(steps, ends, strict=True)
    )


def _chunk(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> tuple[Tensor, ...]:
    count = number(args[0] if args else given["chunks"])
    if count <= 0:
        raise Failed("RuntimeError")
    dim = dim_of(args, given, 1)
    step = -(-x.array.shape[dim] // count)
    return _split(x, [max(step, 1), dim], {}, node)


def _array_split(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    places = plain(args[0])
    if isinstance(places, (list, np.ndarray)):
        ends = [0, *map(number, places), len(x)]
        return [x.of(x.array[a:b], node) for a, b in itertools.pairwise(ends)]
    return [x.of(part, node) for part in np.array_split(x.array, number(places))]


def _unbind(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> tuple[Tensor, ...]:
    dim = dim_of(args, given, 0)
    return tuple(x.of(part, node if not dim else None) for part in np.moveaxis(x.array, dim, 0))


def _narrow(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    names = ("dim", "start", "length")
    values = [*args, *(given[name] for name in names[len(args) :])]
    dim, start, length = map(number, values)
    if start + length > x.array.shape[dim]:
        raise Failed("RuntimeError")
    return x.of(x.array.take(range(start, start + length), axis=dim), None if dim else node)


def _index_select(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    dim = dim_of(args, given, 0)
    index = np.asarray(plain(args[1] if len(args) > 1 else given["index"]), dtype=np.int64)
    try:
        return x.of(x.array.take(np.atleast_1d(index), axis=dim), None if dim else node)
    except IndexError:
        raise Failed("IndexError") from None


def _masked(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    return Tensor(x.array.copy(), x.key, computed=True, cut=x.cut)


def _item(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    if x.array.size != 1:
        raise Failed("RuntimeError")
    return x.array.reshape(()).item()


def _tolist(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    return x.array.tolist()


def _flip(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    return x.of(np.flip(x.array, dims_of(args or [given["dims"]])), node)


def _nonzero(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    found = np.nonzero(x.array)
    if given.get("as_tuple"):
        return tuple(computed(part) for part in found)
    return computed(np.stack(found, axis=-1))


def _like(fill: int) -> Callable[..., Tensor]:
    def method(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
        shape = dims_of(args) if args else x.array.shape
        small(math.prod(shape))
        return computed(np.full(shape, fill, dtype=x.array.dtype))

    return method


def _order(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    found = np.argsort(x.array, axis=dim_of(args, given, 0, -1), kind="stable")
    down = bool(given.get("descending", False))
    return computed(np.flip(found, -1) if down else found)


def _numel(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> int:
    return int(x.array.size)


def _ndim(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> int:
    return int(x.array.ndim)


def _compared(how: str) -> Callable[..., Tensor]:
    def method(x: Tensor, args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
        return compared(getattr(np, how), x, args[0])

    return method


_UNCHANGED = (
    "cpu cuda clone detach contiguous numpy float half bfloat16 double requires_grad_ "
    "pin_memory copy data asarray ascontiguousarray as_subclass type_as share_memory_"
)
METHODS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(_UNCHANGED.split(), _same),
    **dict.fromkeys(("to", "type"), _cast),
    **dict.fromkeys(("long", "int"), _whole),
    "bool": lambda x, args, given, node: computed(x.array != 0),
    "size": _size,
    "dim": _ndim,
    "numel": _numel,
    "item": _item,
    "tolist": _tolist,
    "cumsum": _cumsum,
    **dict.fromkeys(("view", "reshape"), _reshape),
    "flatten": _flatten,
    "ravel": _flatten,
    "unflatten": _unflatten,
    "squeeze": _squeeze,
    **dict.fromkeys(("unsqueeze", "expand_dims"), _unsqueeze),
    **dict.fromkeys(("transpose", "swapaxes"), _transpose),
    "permute": _permute,
    "repeat": _repeat,
    "tile": _tile,
    "expand": _expand,
    **dict.fromkeys(("repeat_interleave",), _repeat_interleave),
    **dict.fromkeys(("split", "split_with_sizes"), _split),
    "chunk": _chunk,
    "array_split": _array_split,
    "tensor_split": _array_split,
    "unbind": _unbind,
    "narrow": _narrow,
    "index_select": _index_select,
    "flip": _flip,
    "nonzero": _nonzero,
    "argsort": _order,
    **dict.fromkeys(("masked_fill", "masked_fill_", "fill_", "clamp", "where"), _masked),
    **{how: _reduced(how) for how in ("sum", "prod", "max", "min", "any", "all", "mean")},
    **dict.fromkeys(("new_zeros", "zeros_like"), _like(0)),
    **dict.fromkeys(("new_ones", "ones_like"), _like(1)),
    "eq": _compared("equal"),
    "ne": _compared("not_equal"),
    "gt": _compared("greater"),
    "lt": _compared("less"),
}
"""Methods of tensors, also as functions of a tensor: `torch.split(x, 2)`."""


def attribute(x: Tensor, name: str, node: ast.AST) -> Any:
    """An attribute that is not called."""
    if name == "shape":
        return tuple(x.array.shape)
    if name == "ndim":
        return int(x.array.ndim)
    if name == "T":
        return x.of(x.array.T, node)
    if name == "data":
        return x
    return Unknown(name)
