"""The names of one function and their values, on the way through it under one layout."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vlmdebug.review.keys import COUNTS, TOKEN_KEYS, Keys
from vlmdebug.review.names import Function, batches, bound_names
from vlmdebug.review.values import (
    UNKNOWN,
    Value,
    called_name,
    canonical,
    evaluate,
    is_made,
    key_of,
    text_of,
)

_LENGTHS = frozenset({"len", "size", "shape"})


class Scope:
    """The meaning of each name; `names` and `assigned` change during the walk."""

    keys: Keys

    def __init__(self, function: Function, keys: Keys, constants: Mapping[str, ast.expr]) -> None:
        self.keys, self._constants = keys, constants
        self._locals, bound = bound_names(function)
        self.names: dict[str, Value] = dict.fromkeys(bound, UNKNOWN)
        self.assigned: set[str] = set()
        self._batches = batches(function)
        self._ranges: dict[str, str] = {}

    def known(self, name: str) -> bool:
        """Whether a name, where the function does not bind it itself, is one of a batch."""
        keys = self.keys
        listed = name in keys.everywhere or name in TOKEN_KEYS or name in COUNTS
        return listed or keys.nearest(name) is not None

    def value(self, node: ast.expr) -> Value:
        """The meaning of an expression."""
        return evaluate(node, self.names, self.known)

    def value_for(self, target: ast.expr, node: ast.expr) -> Value:
        """The value to bind to `target`; its text is lost where it mentions the old one."""
        found = self.value(node)
        if isinstance(target, ast.Name) and _mentions(found, target.id):
            return replace(found, node=None)
        return found

    def key(self, node: ast.expr) -> str | None:
        """The key of a batch that an expression looks up."""
        return key_of(node, self.names, self.known)

    def text(self, node: ast.expr) -> str | None:
        """The text that an expression is."""
        return text_of(node, self.names)

    def is_unbound(self, name: str) -> bool:
        """Whether reading it raises: a local name that no statement so far has assigned."""
        return name in self._locals and name not in self.assigned

    def bind(self, target: ast.expr, value: Value) -> None:
        """Bind every name in `target`."""
        for part in ast.walk(target):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                self.assigned.add(part.id)
                self.names[part.id] = value
                self._forget(part.id)

    def _forget(self, name: str) -> None:
        """Texts that mention the old value of `name` hold no longer."""
        for other, value in self.names.items():
            if other != name and _mentions(value, name):
                self.names[other] = replace(value, node=None)

    def bindings(self, target: ast.expr, source: ast.expr) -> Iterator[None]:
        """Bind a loop's names, once for each key where it runs over keys that can be listed."""
        listed = self.listed(source)
        if listed is not None and isinstance(target, ast.Name):
            for key in listed:
                self.bind(target, Value(constant=key))
                yield
            return
        pair = target.elts if isinstance(target, ast.Tuple) else ()
        if len(pair) == 2 and self._runs_over_a_batch(source):
            for key in sorted(self.keys.sure - COUNTS.keys()):
                self.bind(pair[0], Value(constant=key))
                self.bind(pair[1], Value(key=key, sources=frozenset({key})))
                yield
            return
        self.bind(target, replace(self.value(source), key=None, node=None))
        if isinstance(target, ast.Name):
            self.names[target.id] = replace(self.names[target.id], node=target, made=False)
            step = self._step(source)
            if step is not None:
                self._ranges[target.id] = step
        yield

    def listed(self, node: ast.expr) -> list[str] | None:
        """The texts of a literal tuple, list or set, or of a module's constant that is one."""
        if isinstance(node, ast.Name) and node.id not in self.names:
            node = self._constants.get(node.id, node)
        if not isinstance(node, ast.Tuple | ast.List | ast.Set) or not node.elts:
            return None
        texts = [text_of(part, self.names) for part in node.elts]
        return [text for text in texts if text is not None] if None not in texts else None

    def _runs_over_a_batch(self, node: ast.expr) -> bool:
        """`inputs.items()`, where the function looks `input_ids` or its like up in `inputs`."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        base = node.func.value
        if node.func.attr != "items" or not isinstance(base, ast.Name):
            return False
        return base.id in self._batches and not is_made(base, self.names)

    def _step(self, node: ast.expr) -> str | None:
        """`n` of `range(0, samples, n)`, where `samples` is the length of a token key."""
        if not isinstance(node, ast.Call) or called_name(node) != "range" or len(node.args) != 3:
            return None
        total = self.value(node.args[1])
        whole = ast.unparse(node.args[1])
        counts = total.calls & _LENGTHS or "shape" in whole
        if not counts or not total.sources or not total.sources <= TOKEN_KEYS:
            return None
        return canonical(node.args[2], self.names)

    def is_a_step(self, parts: Sequence[ast.expr]) -> bool:
        """`start:start + n` of a loop over `range(0, samples, n)`."""
        if len(parts) != 2 or not isinstance(parts[0], ast.Name):
            return False
        step = self._ranges.get(parts[0].id)
        return step is not None and canonical(parts[1], self.names) == f"{parts[0].id} + {step}"


def _mentions(value: Value, name: str) -> bool:
    parts = ast.walk(value.node) if value.node is not None else ()
    return any(isinstance(part, ast.Name) and part.id == name for part in parts)
