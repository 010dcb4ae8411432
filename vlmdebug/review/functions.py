"""Functions of Python, itertools, math, numpy and torch, on the values of interpreted code.

A name that is not in the table gives an unknown value.
"""

from __future__ import annotations

import ast
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from vlmdebug.review.arrays import Failed, Tensor, Unknown, computed, joined, plain, small
from vlmdebug.review.tensor_methods import dim_of, dims_of, number


def _cat(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    parts = args[0] if args else given.get("tensors")
    if isinstance(parts, Tensor):
        raise Failed("TypeError")
    dim = dim_of(args, given, 1)
    listed = listed_of(parts)
    if not listed:
        raise Failed("RuntimeError")
    return joined(listed, lambda arrays: np.concatenate(arrays, axis=dim))


def _stack(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    parts, dim = args[0] if args else given.get("tensors"), dim_of(args, given, 1)
    listed = listed_of(parts)
    if not listed:
        raise Failed("RuntimeError")
    return joined(listed, lambda arrays: np.stack(arrays, axis=dim))


def _tensor(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Tensor):
        return args[0]
    return computed(np.asarray(plain(args[0])))


def _filled(fill: int) -> Callable[..., Tensor]:
    def function(args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
        sizes = dims_of(args or [given["size"]])
        small(math.prod(sizes))
        return computed(np.full(sizes, fill))

    return function


def _arange(args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    numbers = [number(part) for part in args]
    small(len(range(*numbers)))
    return computed(np.arange(*numbers))


def _randperm(args: list[Any], given: dict[str, Any], node: ast.AST) -> Tensor:
    small(number(args[0]))
    return computed(np.arange(number(args[0]))[::-1].copy())


def _where(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    if len(args) == 1:
        return tuple(computed(part) for part in np.nonzero(plain(args[0])))
    return computed(np.where(*map(plain, args)))


def listed_of(value: Any) -> list[Any]:
    """The items of anything that a `for` goes through.

    Raises:
        LookupError: They are unknown, or too many.
        Failed: It cannot be iterated.
    """
    if isinstance(value, Unknown):
        raise LookupError
    if isinstance(value, Tensor):
        if not value.array.ndim:
            raise Failed("TypeError")
        return [value.of(part, value.cut) for part in value.array]
    if isinstance(value, (list, tuple, range, str, set, dict)):
        small(len(value))
        return [*value]
    if value is None or isinstance(value, (int, float)):
        raise Failed("TypeError")
    raise LookupError


def _sum(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Tensor):
        return computed(args[0].array.sum(axis=dim_of(args, given, 1, None)))
    total: Any = args[1] if len(args) > 1 else given.get("start", 0)
    for part in listed_of(args[0]):
        is_list = isinstance(part, list)
        total = (total or []) + part if is_list else plain(total) + plain(part)
        small(len(total) if is_list else 0)
    return computed(total) if isinstance(total, np.ndarray) else total


def _accumulate(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    if len(args) > 1 or given.get("func") is not None:
        raise LookupError
    first = given.get("initial")
    return [*itertools.accumulate([number(part) for part in listed_of(args[0])], initial=first)]


def _zip(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    return [*zip(*map(listed_of, args))]  # noqa: B905  (`strict=` is the code's own)


def _len(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    if isinstance(args[0], Unknown):
        raise LookupError
    if not hasattr(args[0], "__len__"):
        raise Failed("TypeError")
    return len(args[0])


def _range(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    try:
        return range(*map(number, args))
    except (TypeError, ValueError):
        raise Failed("ValueError") from None


def _enumerate(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    start = number(args[1]) if len(args) > 1 else number(given.get("start", 0))
    return [*enumerate(listed_of(args[0]), start)]


def _extreme(how: Callable[..., Any]) -> Callable[..., Any]:
    def function(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
        if given.get("key") is not None:
            raise LookupError
        items = [plain(part) for part in (args if len(args) > 1 else listed_of(args[0]))]
        if not items:
            if "default" in given:
                return given["default"]
            raise Failed("ValueError")
        found = how(items)
        return found.item() if isinstance(found, np.ndarray) and found.ndim == 0 else found

    return function


def _int(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    if args and isinstance(args[0], str):
        raise LookupError
    return number(args[0]) if args else 0


def _slice(args: list[Any], given: dict[str, Any], node: ast.AST) -> slice:
    return slice(*args)


def _islice(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    bounds = [None if part is None else number(part) for part in args[1:]]
    return [*itertools.islice(listed_of(args[0]), *bounds)]


def _batched(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    items, size = listed_of(args[0]), number(args[1])
    return [tuple(items[start : start + size]) for start in range(0, len(items), max(size, 1))]


def _pairwise(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    return [*itertools.pairwise(listed_of(args[0]))]


def _chain(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    return [*itertools.chain.from_iterable(map(listed_of, args))]


def _flattened(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    return [*itertools.chain.from_iterable(map(listed_of, listed_of(args[0])))]


def _list(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    return listed_of(args[0]) if args else []


def _tuple(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    return tuple(listed_of(args[0])) if args else ()


def _set(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    items = listed_of(args[0]) if args else []
    if any(isinstance(item, (Tensor, Unknown)) for item in items):
        raise LookupError
    return set(items)


def _sorted(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    if given.get("key") is not None:
        raise LookupError
    items = [plain(item) for item in listed_of(args[0])]
    return sorted(items, reverse=bool(given.get("reverse", False)))


def _reversed(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    return listed_of(args[0])[::-1]


def _ceil(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    return math.ceil(plain(args[0]))


def _dict(args: list[Any], given: dict[str, Any], node: ast.AST) -> Any:
    if args and isinstance(args[0], Unknown):
        raise LookupError
    return dict(args[0] if args else (), **given)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("cat", "concat", "concatenate", "hstack"), _cat),
    **dict.fromkeys(("stack",), _stack),
    **dict.fromkeys(("tensor", "as_tensor", "LongTensor", "IntTensor", "from_numpy"), _tensor),
    **dict.fromkeys(("array", "asarray"), _tensor),
    **dict.fromkeys(("zeros",), _filled(0)),
    **dict.fromkeys(("ones",), _filled(1)),
    "arange": _arange,
    **dict.fromkeys(("randperm", "permutation"), _randperm),
    "where": _where,
    "sum": _sum,
    "accumulate": _accumulate,
    **dict.fromkeys(("zip", "zip_longest"), _zip),
    "len": _len,
    "range": _range,
    "enumerate": _enumerate,
    "max": _extreme(max),
    "min": _extreme(min),
    "int": _int,
    "slice": _slice,
    "islice": _islice,
    "batched": _batched,
    "pairwise": _pairwise,
    "chain": _chain,
    "from_iterable": _flattened,
    "list": _list,
    "tuple": _tuple,
    "set": _set,
    "frozenset": _set,
    "sorted": _sorted,
    "reversed": _reversed,
    "ceil": _ceil,
    "dict": _dict,
    "abs": lambda args, given, node: abs(plain(args[0])),
    "iter": lambda args, given, node: listed_of(args[0]),
}
"""Functions of Python, itertools, math, numpy and torch by the last part of their names."""
MODULES = frozenset({"torch", "np", "numpy", "itertools", "math", "F", "jnp", "builtins", ""})
