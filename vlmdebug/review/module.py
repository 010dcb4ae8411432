"""One file of source: its functions, classes, constants and imports."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from vlmdebug.core.keys import KEYS, Kind
from vlmdebug.review.arrays import Unknown
from vlmdebug.review.machine import Frame, Reference, Routine

if TYPE_CHECKING:
    from vlmdebug.review.evaluator import Evaluator

Function = ast.FunctionDef | ast.AsyncFunctionDef
_BODIES = ("body", "orelse", "finalbody", "handlers", "cases")


class Module:
    """The names that functions of a file share."""

    def __init__(self, tree: ast.Module, lines: Sequence[str] = ()) -> None:
        self.tree: ast.Module = tree
        self.lines: Sequence[str] = lines
        self._busy: set[str] = set()

    def text_of(self, node: Function) -> str:
        """The source of a function, from its first to its last line."""
        return "\n".join(self.lines[node.lineno - 1 : node.end_lineno])

    @cached_property
    def functions(self) -> dict[str, Function]:
        return {node.name: node for node in self.tree.body if isinstance(node, Function)}

    @cached_property
    def methods(self) -> dict[str, dict[str, Function]]:
        """The methods of each class."""
        return {
            node.name: {part.name: part for part in node.body if isinstance(part, Function)}
            for node in _statements(self.tree)
            if isinstance(node, ast.ClassDef)
        }

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """Values of names and of class attributes (`Class.NAME`)."""
        found: dict[str, ast.expr] = {}
        for place, body in (("", self.tree.body), *self._classes()):
            for node in body:
                value = getattr(node, "value", None)
                if isinstance(node, (ast.Assign, ast.AnnAssign)) and value is not None:
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names = [part.id for part in targets if isinstance(part, ast.Name)]
                    found |= {place + name: value for name in names}
        return found

    def _classes(self) -> Iterator[tuple[str, list[ast.stmt]]]:
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef):
                yield f"{node.name}.", node.body

    @cached_property
    def imports(self) -> dict[str, str]:
        """The dotted path behind each imported name."""
        found: dict[str, str] = {}
        for node in _statements(self.tree):
            if isinstance(node, ast.Import):
                for name in node.names:
                    own = name.asname or name.name.partition(".")[0]
                    found[own] = name.name if name.asname else own
            elif isinstance(node, ast.ImportFrom):
                for name in node.names:
                    found[name.asname or name.name] = f"{node.module or ''}.{name.name}"
        return found

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """The node that each node of the file is a part of."""
        every = ast.walk(self.tree)
        return {part: node for node in every for part in ast.iter_child_nodes(node)}

    def above(self, nodes: Iterable[ast.AST]) -> set[ast.AST]:
        """Every node that one of these is a part of."""
        found: set[ast.AST] = set()
        for node in nodes:
            up = self.parents.get(node)
            while up is not None and up not in found:
                found.add(up)
                up = self.parents.get(up)
        return found

    def outermost(self, nodes: Collection[ast.AST]) -> Iterator[ast.AST]:
        """These nodes, without those that are parts of others."""
        is_within: dict[ast.AST, bool] = {}
        for node in nodes:
            way: list[ast.AST] = []
            up = self.parents.get(node)
            while up is not None and up not in is_within and up not in nodes:
                way.append(up)
                up = self.parents.get(up)
            found = up is not None and (up in nodes or is_within[up])
            is_within |= dict.fromkeys(way, found)
            if not found:
                yield node

    def value(self, name: str, machine: Evaluator) -> Any:
        """A name that no function has assigned."""
        if name in self.functions:
            return Routine(self.functions[name])
        if name in self.constants and name not in self._busy:
            self._busy.add(name)
            try:
                return machine.value(self.constants[name], Frame({}))
            finally:
                self._busy.discard(name)
        return Reference(self.imports.get(name, name))

    def of_class(self, owner: str | None, name: str, machine: Evaluator) -> Any:
        """A method or constant of a class, `Unknown` if the class does not have it here."""
        if owner is None:
            return Unknown(name)
        if name in self.methods.get(owner, {}):
            return Routine(self.methods[owner][name], owner=owner)
        place = f"{owner}.{name}"
        if place in self.constants:
            return machine.value(self.constants[place], Frame({}))
        return Unknown(name)

    @staticmethod
    def is_key(name: object) -> bool:
        """Whether a processor's batch may have it: it is no trainer's own."""
        return name in KEYS and KEYS[str(name)].kind is not Kind.TRAINER


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements of a file, those within others too."""
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop()
        yield node
        for name in _BODIES:
            left += getattr(node, name, ())
