"""Names, literals, parts and comprehensions of interpreted code."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Callable
from typing import Any, cast

from vlmdebug.core.keys import TOKEN_KEYS
from vlmdebug.review.arrays import Failed, Tensor, Unknown, plain, taken
from vlmdebug.review.evaluator import said
from vlmdebug.review.functions import listed_of
from vlmdebug.review.machine import Bound, Frame, Inputs, Opened, Reference, Routine
from vlmdebug.review.operators import Operators
from vlmdebug.review.tensor_methods import attribute


class Expressions(Operators):
    """Evaluates all expressions but calls."""

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
            frame.yields.append((node, self.value(node.value, frame), self.run.turn))
        return Unknown("yield")

    def _YieldFrom(self, node: ast.YieldFrom, frame: Frame) -> Any:
        items = listed_of(self.value(node.value, frame))
        frame.yields += [(node, part, None) for part in items]
        return Unknown("yield")

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
            return self.entry(base, index, node)
        if isinstance(base, (list, tuple, str, range)):
            place = plain(index)
            try:
                return base[place if isinstance(place, slice) else int(place)]
            except IndexError:
                raise Failed("IndexError") from None
        return Unknown(node)

    def entry(self, base: Any, index: Any, node: ast.AST) -> Any:
        """The entry of a mapping."""
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
        optional = isinstance(base, Inputs) and index in TOKEN_KEYS
        if optional and self.run.choices.take(node, f"a batch with {index}"):
            return Unknown(node)  # what some processors return if they are asked to
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
