"""The state of one interpreted run: names, choices at unknown conditions, and what was observed.

A run is one way through a function, for one small batch of one layout. Where a condition is
unknown, the run takes one side, and another run takes the other side.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.review.arrays import Opaque, Tensor, Unknown, weight

FUEL = 20_000
"""Expressions and statements of one run; what follows is not read."""
JUDGED = 20
"""Steps that one observed call costs."""
MOST_COMPARED = 256
"""Items of a list that is compared with those of other runs."""
MORE = "**"
"""The entry of a mapping that has others, which are not known."""
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
class Reference(Opaque):
    """A name from outside of the file or function: `torch.nn.functional`."""

    path: str

    @property
    def last(self) -> str:
        return self.path.rpartition(".")[2]

    @property
    def root(self) -> str:
        return self.path.rpartition(".")[0]


@dataclass(eq=False)
class Routine(Opaque):
    """A function, method or lambda of the file."""

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    frame: Frame | None = None
    owner: str | None = None


@dataclass(eq=False)
class Bound(Opaque):
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

    @cached_property
    def content(self) -> object:
        """What is passed on, to be compared with other calls."""
        return self.node, self.how, self.turn, _content(self.items)


@dataclass(frozen=True)
class Choice:
    """The side that a run takes at an unknown condition."""

    node: ast.AST
    side: bool
    said: str

    def __str__(self) -> str:
        return self.said if self.side else f"not ({self.said})"


class Choices:
    """The sides that a run takes: true ones, but for the conditions in `false`."""

    def __init__(self, false: frozenset[str] = frozenset()) -> None:
        self.false = false
        self.made: list[Choice] = []

    def take(self, node: ast.AST, said: str) -> bool:
        """The side at this condition: the same as before in this run, where it came before."""
        for choice in self.made:
            if choice.node is node or choice.said == said:
                return choice.side
        side = said not in self.false
        self.made.append(Choice(node, side, said))
        return side

    @property
    def others(self) -> Iterator[tuple[Choice, frozenset[str]]]:
        """Conditions that were true, with the way in which this one is false, too."""
        for choice in self.made:
            if choice.side:
                yield choice, self.false | {choice.said}


def of_batch(value: Any) -> bool:
    """Whether a value holds rows of the batch."""
    if isinstance(value, (list, tuple)):
        return any(map(of_batch, value[:MOST_COMPARED]))
    return isinstance(value, (Tensor, Unknown)) and value.key is not None


def _content(value: Any) -> object:
    """A value as what is equal to those of equal values, rows and origin."""
    if isinstance(value, Tensor):
        array = value.array
        return value.key, value.cut, value.computed, array.shape, array.dtype, array.tobytes()
    if isinstance(value, Mapping):
        return tuple((str(key), _content(part)) for key, part in value.items())
    if isinstance(value, (list, tuple)) and weight(value) <= MOST_COMPARED:
        return type(value), tuple(map(_content, value))
    return (type(value), value) if isinstance(value, (str, int, float)) else id(value)


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
        taken: Keys that were taken out of the batch, and where.
    """

    def __init__(self, inputs: Mapping[str, Any], false: frozenset[str] = frozenset()) -> None:
        self.inputs = inputs
        self.choices: Choices = Choices(false)
        self.fuel: int = FUEL
        self.depth = 0
        self.observed: list[Observed] = []
        self.cuts: dict[ast.AST, str] = {}
        self.lost: dict[ast.AST, tuple[str, str]] = {}
        self.unbound: dict[str, ast.AST] = {}
        self.asked: dict[str, ast.AST] = {}
        self.sides: dict[ast.AST, set[bool]] = {}
        self.stored: dict[str, Any] = {}
        self.taken: dict[str, ast.AST] = {}
        self.ended: str | None = None
        self.turn: int | None = None

    @property
    def content(self) -> object:
        """What it saw, to be compared with other runs."""
        return (
            tuple(choice.said for choice in self.choices.made),
            tuple(one.content for one in self.observed),
            self.ended,
            frozenset(self.unbound),
            frozenset(self.lost),
            frozenset(self.cuts),
        )

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
        """Record rows that are passed on. To judge them takes `JUDGED` steps, or more."""
        if not any(map(of_batch, items.values())):
            return
        self.burn(JUDGED + len(self.choices.made))
        self.observed.append(Observed(node, how, dict(items), self.doubts, turn))

    def took(self, node: ast.AST, value: Any) -> None:
        """Record that code took rows of a tensor of the batch."""
        if isinstance(value, Tensor) and value.key is not None and value.cut is node:
            if value.key in MEDIA_KEYS or node not in self.cuts:
                self.cuts[node] = value.key
        elif isinstance(value, (tuple, list)):
            for part in value[:1]:
                self.took(node, part)

    def lose(self, node: ast.AST, key: str | None, why: str) -> Unknown:
        """A value that cannot be known, and the reason."""
        if key is not None and (key in MEDIA_KEYS or node not in self.lost):
            self.lost[node] = (key, why)
        return Unknown(why, key)
