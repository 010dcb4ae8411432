"""Loops of interpreted code: the rows that each step takes belong together."""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import Any

from vlmdebug.review.arrays import Tensor, Unknown
from vlmdebug.review.calls import Calls
from vlmdebug.review.functions import listed_of
from vlmdebug.review.machine import Frame, Inputs

ROUNDS = 64
"""Rounds of a `while` loop with a condition that stays true."""


class Loops(Calls):
    """Interprets loops."""

    def _For(self, node: ast.For | ast.AsyncFor, frame: Frame) -> str | None:
        source = self.value(node.iter, frame)
        before: dict[str, Any] | None = None
        try:
            items = listed_of(source)
        except LookupError:
            items = self._unknown_items(node, frame)
            before = _totals(frame)
        over_samples = (
            isinstance(source, range)
            and source[:1] == range(1)
            and (source.stop == len(self.run.inputs.get("input_ids", ())))
        )
        for turn, item in enumerate(items):
            self.bind(node.target, item, frame)
            outer = self.run.turn
            self.run.turn = turn if over_samples else outer
            ends = self._step(node, frame, turn if over_samples else None)
            self.run.turn = outer
            if ends == "break":
                return _forget(node, before, frame)
            if ends == "return":
                return ends
        _forget(node, before, frame)
        return self.execute(node.orelse, frame)

    _AsyncFor = _For

    def _unknown_items(self, node: ast.For | ast.AsyncFor, frame: Frame) -> list[Any]:
        """One unknown item; all keys of the batch where each item is looked up in it."""
        if isinstance(node.target, ast.Name):
            for name in looked_up_in(node, node.target.id):
                if frame.names.get(name) is self.run.inputs:
                    return [*self.run.inputs]
        return [Unknown(node.target)]

    def _While(self, node: ast.While, frame: Frame) -> str | None:
        before: dict[str, Any] | None = None
        for turn in range(ROUNDS):
            test = self.truth(self.value(node.test, frame))
            if test is None:
                before = before or _totals(frame)
                test = turn == 0
            if not test:
                _forget(node, before, frame)
                return self.execute(node.orelse, frame)
            ends = self._step(node, frame)
            if ends == "break":
                return _forget(node, before, frame)
            if ends == "return":
                return ends
        return None

    def _step(
        self, node: ast.For | ast.AsyncFor | ast.While, frame: Frame, turn: int | None = None
    ) -> str | None:
        """One round of a loop; rows that it took and passed to no call are one call of theirs."""
        before = {name: id(value) for name, value in frame.names.items()}
        seen = len(self.run.observed)
        ends = self.execute(node.body, frame)
        items: dict[str, Any] = {}
        for name, value in frame.names.items():
            if before.get(name) == id(value):
                continue
            parts = value.values() if isinstance(value, dict) and _is_open(value) else (value,)
            for part in parts:
                if not isinstance(part, Tensor) or part.key is None:
                    continue
                if part.cut in parts_of(node):
                    items.setdefault(part.key, part)
        if not items:
            return ends
        observed = self.run.observed[seen:]
        passed = {key for one in observed for key in one.items}
        if "input_ids" in passed:
            own = next(one.items["input_ids"] for one in observed if "input_ids" in one.items)
            items.setdefault("input_ids", own)
        left = items.keys() - passed - {"input_ids"}
        if left and ("input_ids" in items or turn is not None):
            kept = {key: part for key, part in items.items() if key in left or key == "input_ids"}
            self.run.observe(node, "step", kept, None if "input_ids" in items else turn)
        return ends


def _totals(frame: Frame) -> dict[str, Any]:
    """Numbers of a frame, and the lengths of its lists of numbers."""
    return {
        name: len(value) if isinstance(value, list) else value
        for name, value in frame.names.items()
        if isinstance(value, int)
        or (isinstance(value, list) and all(isinstance(part, int) for part in value))
    }


def _forget(node: ast.AST, before: dict[str, Any] | None, frame: Frame) -> None:
    """What a loop counts is not known if the number of its turns is not."""
    for name, total in (before or {}).items():
        value = frame.names.get(name)
        if total != (len(value) if isinstance(value, list) else value):
            frame.names[name] = Unknown(node)


def _is_open(value: dict[Any, Any]) -> bool:
    """Whether a mapping is what a step makes for one call, without its tokens."""
    return "input_ids" not in value and not isinstance(value, Inputs)


@lru_cache(maxsize=1024)
def parts_of(node: ast.AST) -> frozenset[ast.AST]:
    """A node and everything in it."""
    return frozenset(ast.walk(node))


@lru_cache(maxsize=1024)
def looked_up_in(node: ast.AST, index: str) -> tuple[str, ...]:
    """The names of which `NAME[index]` is taken within a node."""
    return tuple(
        part.value.id
        for part in parts_of(node)
        if isinstance(part, ast.Subscript)
        and isinstance(part.value, ast.Name)
        and isinstance(part.slice, ast.Name)
        and part.slice.id == index
    )
