"""Operators, comparisons and conditions of interpreted code."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from vlmdebug.review.arrays import (
    Failed,
    Opaque,
    Tensor,
    Unknown,
    apart,
    compared,
    computed,
    plain,
    small,
    weight,
)
from vlmdebug.review.evaluator import Decided, Evaluator
from vlmdebug.review.machine import Frame, Inputs, Reference

BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
    ast.BitAnd: operator.and_,
    ast.BitXor: operator.xor,
}
ORDER: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
LARGEST = 1 << 64
"""The largest integer that is computed with here."""


class Operators(Evaluator):
    """Evaluates operators."""

    def _BinOp(self, node: ast.BinOp, frame: Frame) -> Any:
        left, right = self.value(node.left, frame), self.value(node.right, frame)
        return self.combined(node.op, left, right, node)

    def combined(self, op: ast.operator, left: Any, right: Any, node: ast.AST) -> Any:
        """`left op right`."""
        if isinstance(left, Unknown) or isinstance(right, Unknown):
            return Unknown(node)
        if isinstance(op, ast.BitOr) and isinstance(left, dict) and isinstance(right, dict):
            return {**left, **right}
        if isinstance(left, (list, tuple)) and isinstance(op, (ast.Add, ast.Mult)):
            if isinstance(op, ast.Mult):
                small(len(left) * right)
            elif isinstance(right, (list, tuple)):
                small(len(left) + len(right))
            if not isinstance(right, (Tensor, np.ndarray)):
                return BINARY[type(op)](left, right)
        function = BINARY.get(type(op))
        if function is None or isinstance(left, (dict, str)) or isinstance(right, (dict, str)):
            return Unknown(node)
        a, b = plain(left), plain(right)
        if isinstance(op, ast.Pow) and not (np.size(a) == 1 and np.all(np.abs(b) < 64)):
            return Unknown(node)
        if any(isinstance(part, int) and abs(part) > LARGEST for part in (a, b)):
            return Unknown(node)
        if isinstance(left, (list, tuple)) or isinstance(right, (list, tuple)):
            a, b = np.asarray(a), np.asarray(b)
        try:
            found = apart(function, a, b)
        except ZeroDivisionError:
            raise Failed("ZeroDivisionError") from None
        if not isinstance(left, Tensor) and not isinstance(right, Tensor):
            return found
        return computed(found)

    def _UnaryOp(self, node: ast.UnaryOp, frame: Frame) -> Any:
        if isinstance(node.op, ast.Not):
            found = self.truth(self.value(node.operand, frame))
            return Unknown(node) if found is None else not found
        found = self.value(node.operand, frame)
        made = plain(found)
        if isinstance(node.op, ast.USub):
            made = -made
        elif isinstance(node.op, ast.Invert):
            made = ~made
        return computed(made) if isinstance(found, Tensor) else made

    def _BoolOp(self, node: ast.BoolOp, frame: Frame) -> Any:
        stops = isinstance(node.op, ast.Or)
        open_ = False
        found: Any = None
        for part in node.values:
            found = self.value(part, frame)
            truth = self.truth(found)
            if truth is None:
                open_ = True
            elif truth is stops:
                # `unknown or True` is true as a condition; as a value it may be another one.
                return found if not open_ else Decided(node, truth)
        return Unknown(node) if open_ else found

    def _Compare(self, node: ast.Compare, frame: Frame) -> Any:
        left = self.value(node.left, frame)
        result: Any = True
        for op, part in zip(node.ops, node.comparators, strict=True):
            right = self.value(part, frame)
            result = self._compared(op, left, right, node)
            if len(node.ops) > 1 and self.truth(result) is not True:
                return result
            left = right
        return result

    def _compared(self, op: ast.cmpop, left: Any, right: Any, node: ast.AST) -> Any:
        if isinstance(op, (ast.Is, ast.IsNot)):
            return self._is(left, right, isinstance(op, ast.Is), node)
        if isinstance(op, (ast.In, ast.NotIn)):
            found = self._within(left, right)
            return Unknown(node) if found is None else found is isinstance(op, ast.In)
        if isinstance(left, (Unknown, Opaque)) or isinstance(right, (Unknown, Opaque)):
            return Unknown(node)
        if isinstance(left, Tensor) or isinstance(right, Tensor):
            return compared(ORDER[type(op)], left, right)
        small(weight(left) + weight(right))
        return bool(ORDER[type(op)](left, right))

    def _is(self, left: Any, right: Any, same: bool, node: ast.AST) -> Any:
        for one, other in ((left, right), (right, left)):
            if one is None:
                if isinstance(other, Reference) or (
                    isinstance(other, Unknown) and other.key is None
                ):
                    return Unknown(node)
                return (other is None) is same
        if isinstance(left, bool) and isinstance(right, bool):
            return (left is right) is same
        return Unknown(node)

    def _within(self, item: Any, where: Any) -> bool | None:
        if isinstance(where, Inputs) and isinstance(item, str):
            self.run.asked.setdefault(item, self.module.tree)
        if isinstance(item, (Unknown, Opaque)) or isinstance(where, (Unknown, Opaque, Tensor)):
            return None
        if isinstance(where, range):
            return item in where if isinstance(item, int) else None
        if isinstance(where, str):
            return item in where if isinstance(item, str) else None
        if isinstance(where, (dict, list, tuple, set)):
            small(weight(where))
            if any(isinstance(part, (Unknown, Opaque)) for part in where):
                return True if item in where else None
            return item in where
        return None

    def _IfExp(self, node: ast.IfExp, frame: Frame) -> Any:
        return self.value(node.body if self.decided(node.test, frame) else node.orelse, frame)
