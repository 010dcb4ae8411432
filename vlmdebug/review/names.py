"""Names in a function's source, read before any walk."""

from __future__ import annotations

import ast
from functools import lru_cache

from vlmdebug.review.keys import TOKEN_KEYS

Function = ast.FunctionDef | ast.AsyncFunctionDef


@lru_cache(maxsize=1)
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


@lru_cache(maxsize=1)
def words(function: ast.AST) -> frozenset[str]:
    """Every name and string in a function."""
    found = {ast.Name: "id", ast.Attribute: "attr", ast.Constant: "value", ast.arg: "arg"}
    said = (getattr(node, found.get(type(node), ""), None) for node in ast.walk(function))
    return frozenset(word for word in said if isinstance(word, str))


@lru_cache(maxsize=1)
def batches(function: ast.AST) -> frozenset[str]:
    """Names of the mappings in which the function looks up `input_ids` or similar keys."""
    found = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Subscript):
            base, index = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            base, index = node.func.value, node.args[0]
        else:
            continue
        if isinstance(base, ast.Name) and isinstance(index, ast.Constant):
            if index.value in TOKEN_KEYS:
                found.add(base.id)
    return frozenset(found)
