"""The state of one interpreted run: names, choices at unknown conditions, and what was observed.

A run is one way through a function, for one small batch of one layout. Where a condition is
unknown, the run takes one side, and another run takes the other side.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmdebug.review.arrays import Tensor, Unknown

FUEL = 20_000
"""Expressions and statements of one run; what follows is not read."""
JUDGED = 20
"""Steps that one observed call costs."""
DEPTH = 8
"""Calls of a file's own functions within each other."""


class OutOfFuel(Exception):
    """The run takes longer than `FUEL`; `line` is that of the innermost statement."""

    line: int | None = None


class Inputs(dict[str, Any]):
    """The batch that an interpreted function gets."""


class Opened(dict[str, Any]):
    """A mapping of which only some entries are known."""


@dataclass(frozen=True)
class Reference:
    """A name from outside of the file or function: `torch.nn.functional`."""

    path: str

    @property
    def last(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def root(self) -> str:
        return self.path.rpartition(".")[0]


@dataclass(eq=False)
class Routine:
    """A function, method or lambda of the file."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    frame: Frame | None = None
    owner: str | None = None


@dataclass(eq=False)
class Bound:
    """A method of a value, before it is called."""

    of: Any
    name: str


@dataclass(eq=False)
class Frame:
    """The names of one call. `may_lack`: local names that a way may leave without a value."""

    names: dict[str, Any]
    parent: Frame | None = None
    may_lack: frozenset[str] = frozenset()
    owner: str | None = None
    yields: list[Any] = field(default_factory=list)
    result: Any = None


@dataclass(eq=False)
class Observed:
    """What one call, yield, return or loop step passes on: a value by key.

    `how`: `call`, `yield`, `return` or `step`. `turn`: number of the step, if each step takes the
    next samples.
    """

    node: ast.AST
    how: str
    items: Mapping[str, Any]
    doubts: tuple[str, ...]
    turn: int | None = None


@dataclass(frozen=True)
class Choice:
    """The side that a run takes at an unknown condition."""

    node: ast.AST
    side: bool
    said: str

    def __str__(self) -> str:
        return self.said if self.side else f"not ({self.said})"


class Choices:
    """The sides that a run takes, in order; sides that were not set are true ones."""

    def __init__(self, sides: tuple[bool, ...] = ()) -> None:
        self._sides = sides
        self.made: list[Choice] = []

    def take(self, node: ast.AST, said: str) -> bool:
        """The side at this condition: the same as before in this run, where it came before."""
        for choice in self.made:
            if choice.node is node or choice.said == said:
                return choice.side
        place = len(self.made)
        side = self._sides[place] if place < len(self._sides) else True
        self.made.append(Choice(node, side, said))
        return side

    @property
    def following(self) -> tuple[bool, ...] | None:
        """The sides of the next run; None after the last."""
        sides = [choice.side for choice in self.made]
        while sides and not sides[-1]:
            sides.pop()
        return None if not sides else (*sides[:-1], False)


class Run:
    """What one run saw.

    Attributes:
        observed: What was passed on, in order.
        cuts: The key that each piece of code took rows of.
        lost: Code that took rows which cannot be known, with its key and the reason.
        unbound: Names that were read where no way has assigned them.
        asked: Names that were looked up in the batch.
        sides: The sides that known conditions had.
        turn: Number of the step, in a loop where each step takes the next samples.
    """

    def __init__(self, inputs: Mapping[str, Any], sides: tuple[bool, ...] = ()) -> None:
        self.inputs = inputs
        self.choices = Choices(sides)
        self.fuel = FUEL
        self.depth = 0
        self.observed: list[Observed] = []
        self.cuts: dict[ast.AST, str] = {}
        self.lost: dict[ast.AST, tuple[str, str]] = {}
        self.unbound: dict[str, ast.AST] = {}
        self.asked: dict[str, ast.AST] = {}
        self.sides: dict[ast.AST, set[bool]] = {}
        self.stored: dict[str, Any] = {}
        self.ended: str | None = None
        self.turn: int | None = None

    @property
    def has_seen(self) -> bool:
        """Whether it took or passed rows of the batch."""
        return bool(self.cuts or self.lost or self.observed or self.unbound)

    def burn(self, steps: int = 1) -> None:
        self.fuel -= steps
        if self.fuel < 0:
            raise OutOfFuel

    @property
    def doubts(self) -> tuple[str, ...]:
        """The unknown conditions on the way here."""
        return tuple(map(str, self.choices.made))

    def observe(
        self, node: ast.AST, how: str, items: Mapping[str, Any], turn: int | None = None
    ) -> None:
        """Record what is passed on. To judge it takes as long as `JUDGED` steps, or more."""
        self.burn(JUDGED + len(self.choices.made))
        self.observed.append(Observed(node, how, dict(items), self.doubts, turn))

    def took(self, node: ast.AST, value: Any) -> None:
        """Record that code took rows of a tensor of the batch."""
        if isinstance(value, Tensor) and value.key is not None and value.cut is node:
            self.cuts[node] = value.key
        elif isinstance(value, (tuple, list)):
            for part in value[:1]:
                self.took(node, part)

    def lose(self, node: ast.AST, key: str | None, why: str) -> Unknown:
        """A value that cannot be known, and the reason."""
        if key is not None:
            self.lost[node] = (key, why)
        return Unknown(why, key)
