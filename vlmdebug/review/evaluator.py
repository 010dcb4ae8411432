"""The base of the interpreter: the value of an expression, and the side taken at a condition."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from vlmdebug.review.arrays import Failed, Opaque, Tensor, Unknown
from vlmdebug.review.machine import Frame, OutOfFuel, Run
from vlmdebug.review.module import Module

FREE = 4096
"""Items of a value that costs no more than a number."""
SAID = 60
"""Characters of source that a reason gives."""


UNREADABLE = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    MemoryError,
)
"""What an operation raises here that is not known of the interpreted code."""


_SIZED = frozenset({Tensor, list, tuple, dict})
_METHODS: dict[type[ast.AST], Callable[..., Any] | None] = {}


class Evaluator(ABC):
    """Evaluates expressions by a method per class of node, `_Name` for `ast.Name`.

    Subclasses have these methods: `Operators`, `Expressions`, `Calls` and `Machine`.
    """

    def __init__(self, module: Module, run: Run) -> None:
        self.module: Module = module
        self.run: Run = run

    def value(self, node: ast.expr, frame: Frame) -> Any:
        """The value of an expression, `Unknown` where it cannot be known.

        Raises:
            Failed: The code raises here.
        """
        run, kind = self.run, node.__class__
        run.fuel -= 1
        if run.fuel < 0:
            raise OutOfFuel
        if kind is ast.Constant:
            return node.value  # type: ignore[attr-defined]
        method = self._method_for(kind)
        if method is None:
            return Unknown(node)
        try:
            found = method(self, node, frame)
        except UNREADABLE:
            return Unknown(node)
        if found.__class__ in _SIZED:
            size = found.array.size if isinstance(found, Tensor) else len(found) * 8
            if size > FREE:
                run.burn(size // 64)
        return found

    def _method_for(self, kind: type[ast.AST]) -> Callable[..., Any] | None:
        """The function for a class of node."""
        try:
            return _METHODS[kind]
        except KeyError:
            found = _METHODS[kind] = getattr(type(self), f"_{kind.__name__}", None)
            return found

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
        if isinstance(value, (Unknown, Opaque)):
            return True if isinstance(value, Unknown) and value.key is not None else None
        if isinstance(value, Tensor):
            if value.array.size != 1:
                raise Failed("RuntimeError")
            return bool(value.array.reshape(()).item())
        return bool(value)

    @abstractmethod
    def bind(self, target: ast.expr, value: Any, frame: Frame) -> None:
        """Assign a value to a target."""


class Decided(Unknown):
    """An unknown value that is known as a condition."""

    __slots__ = ("truth",)

    def __init__(self, why: ast.AST, truth: bool) -> None:
        super().__init__(why)
        self.truth: bool = truth


@lru_cache(maxsize=20_000)
def said(node: ast.AST, most: int = SAID) -> str:
    """The source of a node, on one line."""
    try:
        text = " ".join(ast.unparse(node).split())
    except (RecursionError, ValueError):
        return type(node).__name__
    return text if len(text) <= most else f"{text[:most]}…"
