"""Local names of a function that a way through it may leave without a value."""

from __future__ import annotations

import ast
from functools import lru_cache

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
