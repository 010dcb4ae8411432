"""Built-in functions that need more than values, and methods of dicts, lists and texts."""

from __future__ import annotations

import ast
import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from vlmdebug.review.arrays import Failed, Tensor, Unknown
from vlmdebug.review.expressions import Expressions
from vlmdebug.review.functions import FUNCTIONS, listed_of
from vlmdebug.review.machine import MORE, Bound, Frame, Inputs, Reference, Routine
from vlmdebug.review.tensor_methods import METHODS, number


class Builtins(Expressions):
    """Evaluates what is known of Python's own types and functions."""

    @abstractmethod
    def invoke(self, routine: Routine, args: list[Any], given: Mapping[str, Any]) -> Any:
        """Call a function of the file."""

    def _of_dict(
        self, of: dict[Any, Any], name: str, args: list[Any], given: dict[str, Any], node: ast.AST
    ) -> Any:
        if name in ("get", "pop") and args:
            if isinstance(args[0], Unknown):
                return Unknown(node)
            if isinstance(of, Inputs):
                self.run.asked.setdefault(str(args[0]), node)
                if args[0] not in of and not self.module.is_key(args[0]):
                    near = isinstance(args[0], str) and len(args) < 2
                    return None if near else args[1]
            if args[0] not in of and name == "pop" and len(args) < 2 and "default" not in given:
                return self.entry(of, args[0], node)
            if name == "pop" and isinstance(of, Inputs):
                self.run.taken[str(args[0])] = node
            default = args[1] if len(args) > 1 else given.get("default")
            return of.pop(args[0], default) if name == "pop" else of.get(args[0], default)
        if name in ("items", "keys", "values"):
            return [*getattr(of, name)()]
        if name == "update":
            for part in (*args, given):
                self.merge(of, part, node)
            return None
        if name == "setdefault":
            return of.setdefault(args[0], args[1] if len(args) > 1 else None)
        if name in ("copy", "to", "data", "cuda", "cpu"):
            return type(of)(of) if name == "copy" else of
        return Unknown(node)

    def merge(self, of: dict[Any, Any], more: Any, node: ast.AST) -> None:
        """Add entries. Ones that are not known may replace any, and bring any."""
        if isinstance(more, dict):
            of.update(more)
            return
        for name, value in of.items():
            if isinstance(value, Tensor) and value.cut is not None:
                of[name] = self.run.lose(value.cut, value.key, "it may be replaced later")
            elif isinstance(value, (Tensor, Unknown)):
                of[name] = Unknown(node, value.key)
        of[MORE] = Unknown("more")

    def _of_list(
        self, of: list[Any], name: str, args: list[Any], given: dict[str, Any], node: ast.AST
    ) -> Any:
        if name == "append":
            of.append(args[0])
        elif name == "extend":
            of.extend(listed_of(args[0]))
        elif name == "insert":
            of.insert(number(args[0]), args[1])
        elif name == "reverse":
            of.reverse()
        elif name == "pop":
            if not of:
                raise Failed("IndexError")
            return of.pop(number(args[0]) if args else -1)
        elif name == "copy":
            return [*of]
        else:
            return Unknown(node)
        return None

    def _builtin_isinstance(self, node: ast.Call, frame: Frame) -> Any:
        value, kinds = self.value(node.args[0], frame), ast.unparse(node.args[1])
        if isinstance(value, (Unknown, Reference, Bound)):
            if isinstance(value, Unknown) and value.key is not None:
                return "Tensor" in kinds or "ndarray" in kinds
            return Unknown(node)
        if isinstance(value, Tensor):
            return "Tensor" in kinds or "ndarray" in kinds
        names = {"Inputs": "dict Mapping BatchFeature UserDict MutableMapping"}
        own = names.get(type(value).__name__, type(value).__name__)
        more = {"list": "Sequence Iterable", "tuple": "Sequence Iterable", "dict": "Mapping"}
        words = set(re.findall(r"\w+", kinds))
        return bool(words & {*own.split(), *more.get(own, "").split()})

    def _builtin_hasattr(self, node: ast.Call, frame: Frame) -> Any:
        value, name = self.value(node.args[0], frame), self.value(node.args[1], frame)
        if isinstance(value, Tensor):
            return name in METHODS or name in ("shape", "ndim", "device", "dtype")
        if isinstance(value, Inputs) and self.module.is_key(name):
            return name in value
        if isinstance(value, (int, float, str, list, tuple)) or value is None:
            return hasattr(value, str(name))
        return Unknown(node)

    def _builtin_getattr(self, node: ast.Call, frame: Frame) -> Any:
        value, name = self.value(node.args[0], frame), self.value(node.args[1], frame)
        if not isinstance(name, str):
            return Unknown(node)
        if isinstance(value, Inputs) and self.module.is_key(name):
            if name not in value and len(node.args) > 2:
                return self.value(node.args[2], frame)
        made = ast.copy_location(ast.Attribute(node.args[0], name, ast.Load()), node)
        found = self.attribute(value, made)
        return Unknown(node) if isinstance(found, Reference) else found

    def _builtin_any(self, node: ast.Call, frame: Frame) -> Any:
        return self._over(node, frame, stops=True)

    def _builtin_all(self, node: ast.Call, frame: Frame) -> Any:
        return self._over(node, frame, stops=False)

    def _over(self, node: ast.Call, frame: Frame, *, stops: bool) -> Any:
        truths = [self.truth(part) for part in listed_of(self.value(node.args[0], frame))]
        if stops in truths:
            return stops
        return Unknown(node) if None in truths else not stops

    def _builtin_map(self, node: ast.Call, frame: Frame) -> Any:
        function, *lists = self._items(node.args, frame)
        rows = zip(*map(listed_of, lists), strict=False)
        if isinstance(function, Routine):
            return [self.invoke(function, [*row], {}) for row in rows]
        if isinstance(function, Reference) and function.last in FUNCTIONS:
            return [FUNCTIONS[function.last]([*row], {}, node) for row in rows]
        return Unknown(node)

    def _builtin_next(self, node: ast.Call, frame: Frame) -> Any:
        items = listed_of(self.value(node.args[0], frame))
        if items:
            return items[0]
        if len(node.args) > 1:
            return self.value(node.args[1], frame)
        raise Failed("StopIteration")

    def _builtin_print(self, node: ast.Call, frame: Frame) -> Any:
        return None


SPECIAL = frozenset(
    name.removeprefix("_builtin_") for name in vars(Builtins) if name.startswith("_builtin_")
)
"""Names of the built-in functions that need more than values."""
