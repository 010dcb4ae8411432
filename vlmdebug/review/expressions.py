"""The value of an expression of interpreted code."""

from __future__ import annotations

import ast
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, cast

import numpy as np

from vlmdebug.review.arrays import Failed, Tensor, Unknown, computed, plain, taken
from vlmdebug.review.machine import Bound, Frame, Inputs, Opened, Reference, Routine, Run
from vlmdebug.review.module import Module
from vlmdebug.review.torchlike import attribute, listed_of

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
SAID = 60
"""Characters of source that a reason gives."""
LARGEST = 10_000


class Expressions:
    """Evaluates expressions; `vlmdebug.review.calls` adds calls, `.statements` the rest."""

    def __init__(self, module: Module, run: Run) -> None:
        self.module, self.run = module, run

    def value(self, node: ast.expr, frame: Frame) -> Any:
        """The value of an expression, `Unknown` where it cannot be known.

        Raises:
            Failed: The code raises here.
        """
        self.run.burn()
        method = getattr(self, f"_{type(node).__name__}", None)
        if method is None:
            return Unknown(node)
        try:
            return method(node, frame)
        except LookupError:
            return Unknown(node)
        except (TypeError, ValueError, AttributeError, OverflowError, ArithmeticError):
            return Unknown(node)

    def call(self, node: ast.Call, frame: Frame) -> Any:
        raise NotImplementedError

    def invoke(self, routine: Routine, args: list[Any], given: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    # --- names and literals ----------------------------------------------------------------

    def _Constant(self, node: ast.Constant, frame: Frame) -> Any:
        return node.value

    def _Name(self, node: ast.Name, frame: Frame) -> Any:
        at: Frame | None = frame
        while at is not None:
            if node.id in at.names:
                return at.names[node.id]
            if node.id in at.may_lack:
                self.run.unbound.setdefault(node.id, node)
                raise Failed("UnboundLocalError")
            at = at.parent
        return self.module.value(node.id, self)

    def _Tuple(self, node: ast.Tuple, frame: Frame) -> Any:
        return tuple(self._items(node.elts, frame))

    def _List(self, node: ast.List, frame: Frame) -> Any:
        return self._items(node.elts, frame)

    def _Set(self, node: ast.Set, frame: Frame) -> Any:
        return {*self._items(node.elts, frame)}

    def _items(self, nodes: list[ast.expr], frame: Frame) -> list[Any]:
        found: list[Any] = []
        for part in nodes:
            if isinstance(part, ast.Starred):
                found += listed_of(self.value(part.value, frame))
            else:
                found.append(self.value(part, frame))
        return found

    def _Dict(self, node: ast.Dict, frame: Frame) -> Any:
        made: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None:
                name = self.value(key, frame)
                made[name if isinstance(name, (str, int)) else said(key)] = self.value(value, frame)
                continue
            inner = self.value(value, frame)
            if isinstance(inner, dict):
                made |= inner
        return made

    def _JoinedStr(self, node: ast.JoinedStr, frame: Frame) -> Any:
        parts = []
        for part in node.values:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            found = self.value(inner, frame)
            if not isinstance(found, (str, int)):
                return Unknown(node)
            parts.append(str(found))
        return "".join(parts)

    def _Lambda(self, node: ast.Lambda, frame: Frame) -> Any:
        return Routine(node, frame, frame.owner)

    def _NamedExpr(self, node: ast.NamedExpr, frame: Frame) -> Any:
        found = self.value(node.value, frame)
        frame.names[node.target.id] = found
        return found

    def _Starred(self, node: ast.Starred, frame: Frame) -> Any:
        return self.value(node.value, frame)

    def _Await(self, node: ast.Await, frame: Frame) -> Any:
        return self.value(node.value, frame)

    def _Yield(self, node: ast.Yield, frame: Frame) -> Any:
        if node.value is not None:
            frame.yields.append((node, self.value(node.value, frame)))
        return Unknown("yield")

    def _YieldFrom(self, node: ast.YieldFrom, frame: Frame) -> Any:
        frame.yields += [(node, part) for part in listed_of(self.value(node.value, frame))]
        return Unknown("yield")

    # --- operators -------------------------------------------------------------------------

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
            if isinstance(op, ast.Mult) and (not isinstance(right, int) or right > LARGEST):
                return Unknown(node)
            if not isinstance(right, (Tensor, np.ndarray)):
                return BINARY[type(op)](left, right)
        function = BINARY.get(type(op))
        if function is None or isinstance(left, (dict, str)) or isinstance(right, (dict, str)):
            return Unknown(node)
        a, b = plain(left), plain(right)
        if isinstance(op, ast.Pow) and not (np.size(a) == 1 and np.all(np.abs(b) < 64)):
            return Unknown(node)
        if isinstance(left, (list, tuple)) or isinstance(right, (list, tuple)):
            a, b = np.asarray(a), np.asarray(b)
        try:
            found = function(a, b)
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
        if isinstance(left, Unknown) or isinstance(right, Unknown):
            return Unknown(node)
        if isinstance(left, Tensor) or isinstance(right, Tensor):
            return computed(ORDER[type(op)](plain(left), plain(right)))
        return bool(ORDER[type(op)](left, right))

    def _is(self, left: Any, right: Any, same: bool, node: ast.AST) -> Any:
        for one, other in ((left, right), (right, left)):
            if one is None:
                if isinstance(other, Unknown) and other.key is None:
                    return Unknown(node)
                return (other is None) is same
        if isinstance(left, bool) and isinstance(right, bool):
            return (left is right) is same
        return Unknown(node)

    def _within(self, item: Any, where: Any) -> bool | None:
        if isinstance(where, Inputs) and isinstance(item, str):
            self.run.asked.setdefault(item, self.module.tree)
        if isinstance(item, Unknown) or isinstance(where, (Unknown, Reference, Tensor)):
            return None
        if isinstance(where, (dict, list, tuple, set, str, range)):
            if any(isinstance(part, Unknown) for part in where):
                return True if item in where else None
            return item in where
        return None

    def _IfExp(self, node: ast.IfExp, frame: Frame) -> Any:
        return self.value(node.body if self.decided(node.test, frame) else node.orelse, frame)

    def decided(self, test: ast.expr, frame: Frame) -> bool:
        """Whether a condition holds; the run's own choice where that is unknown."""
        return self.decide(test, self.truth(self.value(test, frame)))

    def decide(self, test: ast.expr, found: bool | None) -> bool:
        """The side that a run takes at a condition that was evaluated."""
        if found is None:
            return self.run.choices.take(test, said(test, 120))
        self.run.sides.setdefault(test, set()).add(found)
        return found

    def truth(self, value: Any) -> bool | None:
        """Whether a value counts as true; None where that is unknown."""
        if isinstance(value, Decided):
            return value.truth
        if isinstance(value, (Unknown, Reference, Routine, Bound)):
            return True if isinstance(value, Unknown) and value.key is not None else None
        if isinstance(value, Tensor):
            if value.array.size != 1:
                raise Failed("RuntimeError")
            return bool(value.array.reshape(()).item())
        return bool(value)

    # --- parts -----------------------------------------------------------------------------

    def _Attribute(self, node: ast.Attribute, frame: Frame) -> Any:
        return self.attribute(self.value(node.value, frame), node)

    def attribute(self, base: Any, node: ast.Attribute) -> Any:
        """`base.name`."""
        name = node.attr
        if isinstance(base, Reference):
            path = f"{base.path}.{name}"
            return self.run.stored.get(path, Reference(path))
        if isinstance(base, Tensor):
            found = attribute(base, name, node)
            return Bound(base, name) if isinstance(found, Unknown) else found
        if isinstance(base, Inputs):
            if name in base:
                return base[name]
            if self.module.is_key(name):
                self.run.asked.setdefault(name, node)
                raise Failed("AttributeError")
            return Bound(base, name)
        if isinstance(base, Unknown):
            made = Unknown(node, base.key)
            return Bound(made, name) if base.key is not None else made
        return Bound(base, name)

    def _Subscript(self, node: ast.Subscript, frame: Frame) -> Any:
        base = self.value(node.value, frame)
        return self.part(base, self.value(node.slice, frame), node)

    def part(self, base: Any, index: Any, node: ast.AST) -> Any:
        """`base[index]`."""
        if isinstance(base, Tensor):
            try:
                found = taken(base, index, node)
            except LookupError:
                return self.run.lose(node, base.key, "its bounds are not known")
            self.run.took(node, found)
            return found
        if isinstance(base, Unknown):
            if base.key is not None:
                return self.run.lose(node, base.key, "its rows are not known")
            return Unknown(node)
        if isinstance(base, (dict, Reference)) or isinstance(index, Unknown):
            return self._entry(base, index, node)
        if isinstance(base, (list, tuple, str, range)):
            place = plain(index)
            try:
                return base[place if isinstance(place, slice) else int(place)]
            except IndexError:
                raise Failed("IndexError") from None
        return Unknown(node)

    def _entry(self, base: Any, index: Any, node: ast.AST) -> Any:
        if not isinstance(base, dict) or not isinstance(index, (str, int)):
            return Unknown(node)
        if isinstance(base, Inputs) and isinstance(index, str):
            self.run.asked.setdefault(index, node)
        if index in base or isinstance(base, defaultdict):
            return cast("dict[Any, Any]", base)[index]
        if isinstance(base, Opened):
            return Unknown(node)
        if isinstance(base, Inputs) and not (isinstance(index, str) and self.module.is_key(index)):
            return Unknown(node)  # a trainer's own entry
        raise Failed("KeyError")

    def _Slice(self, node: ast.Slice, frame: Frame) -> Any:
        parts = (node.lower, node.upper, node.step)
        values = [None if part is None else self.value(part, frame) for part in parts]
        for value in values:
            if isinstance(value, Unknown):
                return value
        return slice(*(None if value is None else int(plain(value)) for value in values))

    # --- comprehensions --------------------------------------------------------------------

    def _ListComp(self, node: ast.ListComp, frame: Frame) -> Any:
        found: list[Any] = []
        self._generate(node.generators, frame, lambda at: found.append(self.value(node.elt, at)))
        return found

    _GeneratorExp = _ListComp

    def _SetComp(self, node: ast.SetComp, frame: Frame) -> Any:
        found: list[Any] = []
        self._generate(node.generators, frame, lambda at: found.append(self.value(node.elt, at)))
        return {*found}

    def _DictComp(self, node: ast.DictComp, frame: Frame) -> Any:
        found: dict[Any, Any] = {}

        def add(at: Frame) -> None:
            key = self.value(node.key, at)
            found[key if isinstance(key, (str, int)) else said(node.key)] = self.value(
                node.value, at
            )

        self._generate(node.generators, frame, add)
        return found

    def _generate(
        self, generators: list[ast.comprehension], frame: Frame, then: Callable[[Frame], None]
    ) -> None:
        inner = Frame({}, frame, owner=frame.owner, yields=frame.yields)
        first, *rest = generators
        for item in listed_of(self.value(first.iter, frame)):
            self.bind(first.target, item, inner)
            if all(self.decided(test, inner) for test in first.ifs):
                if rest:
                    self._generate(rest, inner, then)
                else:
                    then(inner)

    def bind(self, target: ast.expr, value: Any, frame: Frame) -> None:
        raise NotImplementedError


class Decided(Unknown):
    """An unknown value that is known as a condition."""

    __slots__ = ("truth",)

    def __init__(self, why: ast.AST, truth: bool) -> None:
        super().__init__(why)
        self.truth = truth


@lru_cache(maxsize=20_000)
def said(node: ast.AST, most: int = SAID) -> str:
    """The source of a node, on one line."""
    try:
        text = " ".join(ast.unparse(node).split())
    except (RecursionError, ValueError):
        return type(node).__name__
    return text if len(text) <= most else f"{text[:most]}…"
