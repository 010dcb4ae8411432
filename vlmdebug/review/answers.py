"""Whether a test in the code holds for the batches of one layout."""

from __future__ import annotations

import ast

from vlmdebug.review.keys import COUNTS
from vlmdebug.review.names import Function, words
from vlmdebug.review.scope import Scope
from vlmdebug.review.values import called_name, is_made


class Answers:
    """Answers tests on the keys of a batch, and notes the keys that no layout has."""

    def __init__(self, function: Function, scope: Scope) -> None:
        self._scope, self._words = scope, words(function)
        self.asked: dict[str, int] = {}

    def of(self, test: ast.expr) -> bool | None:
        """Whether the test holds for this layout's batches; None where it cannot be read."""
        if isinstance(test, ast.BoolOp):
            answers = [self.of(value) for value in test.values]
            stops = isinstance(test.op, ast.Or)
            if stops in answers:
                return stops
            return None if None in answers else not stops
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            answer = self.of(test.operand)
            return None if answer is None else not answer
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return self._compared(test.left, test.ops[0], test.comparators[0])
        if isinstance(test, ast.Constant):
            return bool(test.value)
        if isinstance(test, ast.Call):
            return self._called(test)
        return self._present(self._scope.key(test), test)

    def unread(self, test: ast.expr) -> str:
        """The part of a test that has no answer."""
        if isinstance(test, ast.BoolOp):
            parts = [value for value in test.values if self.of(value) is None]
            word = " or " if isinstance(test.op, ast.Or) else " and "
            return word.join(self.unread(part) for part in parts)
        return ast.unparse(test)

    def _present(self, key: str | None, test: ast.expr) -> bool | None:
        """Whether the layout's batches have the key; one that none has is noted."""
        if key is None or not self._scope.known(key):
            return None
        near = self._scope.keys.nearest(key)
        if near is not None and near not in self._words:
            self.asked.setdefault(key, test.lineno)
        return self._scope.keys.has(key)

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> bool | None:
        negated = isinstance(op, ast.IsNot | ast.NotIn | ast.NotEq)
        if isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.NotEq) and _is_none(right):
            present = self._present(self._scope.key(left), left)
            return None if present is None else present == negated
        text = self._scope.text(left)
        if text is None:
            return None
        if isinstance(op, ast.In | ast.NotIn):
            listed = self._scope.listed(right)
            if listed is not None:
                return (text in listed) != negated
            if is_made(right, self._scope.names) or not isinstance(right, ast.Name | ast.Attribute):
                return None
            present = self._present(text, left)
            return None if present is None else present != negated
        other = self._scope.text(right)
        if other is not None and isinstance(op, ast.Eq | ast.NotEq):
            return (text == other) != negated
        return None

    def _called(self, node: ast.Call) -> bool | None:
        """`isinstance(value, torch.Tensor)` and its like hold for every key that is cut."""
        name = called_name(node)
        if name.lstrip("_") in ("is_tensor", "isinstance", "hasattr") and node.args:
            key = self._scope.key(node.args[0])
            if key is not None and key not in COUNTS:
                asks = ast.unparse(node)
                return True if "ensor" in asks or "shape" in asks else None
        if name == "startswith" and isinstance(node.func, ast.Attribute) and node.args:
            text = self._scope.text(node.func.value)
            start = self._scope.text(node.args[0])
            return None if text is None or start is None else text.startswith(start)
        return self._present(self._scope.key(node), node)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
