"""Cuts of rows: where they are, their bounds, and what the bounds count."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass

from vlmdebug.core.keys import GRIDS
from vlmdebug.review.keys import COUNTS, TOKEN_KEYS
from vlmdebug.review.names import words
from vlmdebug.review.values import Value

SUMS = frozenset({"cumsum", "accumulate", "sum"})
METHODS = frozenset({"split", "chunk", "narrow", "index_select", "repeat_interleave"})
"""Methods that take or repeat rows."""
READ = SUMS | frozenset(
    {"prod", "tensor", "as_tensor", "LongTensor", "array", "stack", "cat", "concatenate", "split"}
    | {"tolist", "list", "tuple", "int", "item", "zip", "map", "range", "len", "size", "pairwise"}
    | {"", "pad", "to", "cpu", "zeros", "new_zeros", "get", "pop", "chain"}
)
"""Functions between counts and offsets that do not change the unit counted."""


@dataclass(frozen=True)
class Cut:
    """Rows of one key, taken by `bounds`; `unit` is what the bounds count, if known.

    An `open` cut, `[:n]`, may instead shorten the tokens of one sample.
    """

    line: int
    key: str
    text: str
    bounds: str
    unit: str | None = None
    unsure: str | None = None
    open: bool = False


def bounds_of(node: ast.expr) -> tuple[ast.expr, str, list[ast.expr]] | None:
    """What is cut, how, and by which bounds, if `node` takes rows on dim 0."""
    if isinstance(node, ast.Subscript):
        index = node.slice
        if isinstance(index, ast.Tuple) and index.elts:
            index = index.elts[0]
        if not isinstance(index, ast.Slice) or (index.lower is None and index.upper is None):
            return None
        lower, upper = index.lower or ast.Constant(0), index.upper or ast.Constant(None)
        return node.value, "slice", [lower, upper]
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return None
    name, base, arguments = node.func.attr, node.func.value, list(node.args)
    if name not in METHODS:
        return None
    if isinstance(base, ast.Name) and base.id == "torch" and arguments:
        base, *arguments = arguments
    arguments += [part.value for part in node.keywords if part.arg != "dim"]
    dims = [part.value for part in node.keywords if part.arg == "dim"]
    if len(arguments) > 1 and name not in ("narrow", "index_select"):
        dims.append(arguments.pop())
    if any(not isinstance(dim, ast.Constant) or dim.value != 0 for dim in dims) or not arguments:
        return None
    if isinstance(arguments[0], ast.Constant) and isinstance(arguments[0].value, str):
        return None  # text
    return base, name, arguments


def unit_of(how: str, values: Sequence[Value]) -> str | None:
    """The unit of bounds that are running totals of a count of the batch; None if unknown."""
    sizes = how == "split"  # takes the counts themselves
    if not values or not (sizes or all(value.calls & SUMS for value in values)):
        return None
    sources = frozenset[str]().union(*(value.sources for value in values)) - TOKEN_KEYS
    calls = frozenset[str]().union(*(value.calls for value in values))
    if calls - READ:
        return None  # a function of the user may do anything
    if sources & {*GRIDS}:
        areas = sources <= {*GRIDS, "num_images"} and "prod" in calls
        return "patch" if areas else None
    units = {COUNTS.get(source) for source in sources}
    return units.pop() if len(units) == 1 else None


def may_cut(function: ast.AST, keys: frozenset[str]) -> bool:
    """Whether the function names a key and takes rows: a quick check beforehand."""
    if words(function).isdisjoint(keys):
        return False
    return any(isinstance(n, ast.expr) and bounds_of(n) is not None for n in ast.walk(function))
