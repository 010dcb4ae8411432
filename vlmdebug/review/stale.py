"""Names that are nearly a key, in code that expects them in a batch.

A name like `image_size` is a key of a batch only where the code treats it as one: it asks whether a
mapping has it that it also asks for real keys, or passes it on next to real keys. A name that the
code must find (`inputs["image_size"]`, never asked for), or gives to a batch itself, is its own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from vlmdebug.review.keys import KNOWN, ORDINARY, PREFIXES, nearest

Named = tuple[object, str, ast.AST, bool]
"""A mapping, a name in it, where, and whether the code can do without it or passes it on."""


def stale_names(nodes: Iterable[ast.AST]) -> dict[str, ast.AST]:
    """Names that are nearly a key but none, each with the first place that expects it."""
    known: set[object] = set()
    telling = KNOWN - ORDINARY
    soft: list[tuple[object, str, ast.AST]] = []
    own: set[tuple[object, str]] = set()
    for node in nodes:
        for where, name, at, may_lack in _named(node):
            if name in telling:
                known.add(where)
            elif may_lack and nearest(name) is not None:
                soft.append((where, name, at))
            elif not may_lack and isinstance(getattr(at, "ctx", None), ast.Store):
                own.add((where, name))
    found: dict[str, ast.AST] = {}
    for where, name, at in soft:
        if where in known and (where, name) not in own:
            before = found.get(name)
            if before is None or at.lineno < before.lineno:  # type: ignore[attr-defined]
                found[name] = at
    return found


def _named(node: ast.AST) -> Iterator[Named]:
    if isinstance(node, ast.Call):
        yield from _of_call(node)
    elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
        yield from _one(node.comparators[0], node.left, node.left, may_lack=True)
    elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        yield from _one(node.value, node.slice, node, may_lack=False)
    elif isinstance(node, ast.Attribute) and node.attr in KNOWN:
        yield _place(node.value), node.attr, node, False
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Subscript):
                passes = _mentions(node.value, target.slice)
                yield from _one(target.value, target.slice, target, may_lack=passes)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            yield from _one(node, key, key, may_lack=_mentions(value, key))
    elif isinstance(node, ast.List | ast.Tuple | ast.Set):
        for part in node.elts:
            yield from _one(node, part, part, may_lack=True)


def _of_call(node: ast.Call) -> Iterator[Named]:
    for keyword in node.keywords:
        if (keyword.arg is not None and keyword.arg.startswith(PREFIXES)) or keyword.arg in KNOWN:
            assert keyword.arg is not None
            passes = _mentions(keyword.value, ast.Constant(keyword.arg))
            yield node, keyword.arg, keyword, passes
    if isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop") and node.args:
        may_lack = node.func.attr == "get" or len(node.args) > 1
        yield from _one(node.func.value, node.args[0], node.args[0], may_lack=may_lack)


def _one(
    where: ast.expr, key: ast.expr | None, at: ast.AST | None, *, may_lack: bool
) -> Iterator[Named]:
    name = key.value if isinstance(key, ast.Constant) else None
    if isinstance(name, str) and at is not None and (name in KNOWN or name.startswith(PREFIXES)):
        yield _place(where), name, at, may_lack


def _place(where: ast.expr) -> object:
    """What tells one mapping from another: its source, or the display or call itself."""
    return ast.unparse(where) if isinstance(where, ast.Name | ast.Attribute) else where


def _mentions(value: ast.expr, key: ast.expr | None) -> bool:
    """Whether a value is made of a variable with the name of its key."""
    name = key.value if isinstance(key, ast.Constant) else None
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(value))
