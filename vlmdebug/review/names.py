"""Local names of a function: those that may lack a value, and tests of which keys a batch has."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import lru_cache

from vlmdebug.review.keys import KNOWN

Function = ast.FunctionDef | ast.AsyncFunctionDef


@lru_cache(maxsize=256)
def bound_names(
    function: Function,
) -> tuple[frozenset[str], frozenset[str]]:
    """Names bound only by plain assignments, which raise if read early; and all but arguments."""
    stored: set[str] = set()
    arguments = {arg.arg for arg in ast.walk(function.args) if isinstance(arg, ast.arg)}
    other = set(arguments)
    queue: list[ast.AST] = list(function.body)
    while queue:
        node = queue.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            other.add(node.name)
            continue
        if isinstance(node, ast.Lambda | ast.comprehension):
            parts = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
            other |= {part.id for part in parts if isinstance(part.ctx, ast.Store)}
            continue
        if isinstance(node, ast.Global | ast.Nonlocal):
            other |= set(node.names)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            other |= {(name.asname or name.name).partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            other.add(node.name)
        elif isinstance(node, ast.MatchMapping) and node.rest:
            other.add(node.rest)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            stored.add(node.id)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Del):
            other.add(node.id)
        queue.extend(ast.iter_child_nodes(node))
    return frozenset(stored - other), frozenset((stored | other) - arguments)


def asks_for_keys(test: ast.expr, stored: Mapping[str, int]) -> bool:
    """Whether a condition asks only which keys the batch has.

    It names a key, and its names are assigned once at most (`stored`).
    """
    if isinstance(test, ast.BoolOp):
        return all(asks_for_keys(part, stored) for part in test.values)
    if isinstance(test, ast.UnaryOp):
        return asks_for_keys(test.operand, stored)
    if not isinstance(test, ast.Compare) or len(test.ops) > 1:
        return False
    if isinstance(test.ops[0], ast.In | ast.NotIn):
        return isinstance(test.left, ast.Constant)
    is_none = isinstance(test.comparators[0], ast.Constant) and test.comparators[0].value is None
    names = {part.id for part in ast.walk(test.left) if isinstance(part, ast.Name)}
    texts = {part.value for part in ast.walk(test.left) if isinstance(part, ast.Constant)}
    return (
        is_none
        and isinstance(test.ops[0], ast.Is | ast.IsNot)
        and bool(KNOWN & {*names, *texts})
        and all(stored.get(name, 0) < 2 for name in names)
    )
