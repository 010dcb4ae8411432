"""Walk one function as it would run for the batches of one layout.

A test on the batch's keys (`if image_grid_thw is not None`) has an answer in each layout, so the
walk goes only where that layout's batches go. Where a test cannot be read, both ways are walked
and what is found there is marked `unsure`. A batch with images is assumed.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from vlmdebug.review.answers import Answers
from vlmdebug.review.cuts import Cut, bounds_of, unit_of
from vlmdebug.review.keys import COUNTS, TOKEN_KEYS, Keys
from vlmdebug.review.names import Function
from vlmdebug.review.scope import Scope
from vlmdebug.review.values import UNKNOWN, Value, canonical

TRIES: tuple[type[ast.Try], ...] = (
    ast.Try,
    getattr(ast, "TryStar", ast.Try),
)  # except* came with Python 3.11


@dataclass(frozen=True)
class Unbound:
    """A local name that is read where no way of this layout has assigned it."""

    line: int
    name: str
    unsure: str | None = None


class Walk:
    """The cuts and unbound names of one function under one layout."""

    def __init__(self, function: Function, keys: Keys, constants: Mapping[str, ast.expr]) -> None:
        self.cuts: dict[tuple[int, int, str], Cut] = {}
        self.unbound: dict[tuple[int, str], Unbound] = {}
        self._scope = Scope(function, keys, constants)
        self._answers = Answers(function, self._scope)
        self._unsure: list[str] = []
        self._exits: list[tuple[str, bool]] = []
        self._recording = True
        self._block(function.body)
        self._read_units()

    @property
    def asked(self) -> dict[str, int]:
        """Keys that tests ask for and no layout has, with the line of the first test."""
        return self._answers.asked

    # Statements: each says whether the next one can be reached.

    def _block(self, statements: Sequence[ast.stmt]) -> bool:
        return all(self._statement(statement) for statement in statements)

    def _statement(self, node: ast.stmt) -> bool:
        if isinstance(node, ast.If):
            return self._if(node)
        if isinstance(node, ast.For | ast.AsyncFor):
            self._expression(node.iter)
            self._loop(node.target, node.iter, node.body)
            return self._block(node.orelse)
        if isinstance(node, ast.While):
            self._expression(node.test)
            self._twice(node.body)
            return self._block(node.orelse)
        if isinstance(node, ast.With | ast.AsyncWith):
            for item in node.items:
                self._expression(item.context_expr)
                if item.optional_vars is not None:
                    self._bind(item.optional_vars, UNKNOWN)
            return self._block(node.body)
        if isinstance(node, TRIES):
            return self._try(node)
        if isinstance(node, ast.Match):
            self._expression(node.subject)
            for case in node.cases:
                self._maybe(f"case {ast.unparse(case.pattern)}", case.body)
            return True
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            return True  # reviewed on its own
        self._simple(node)
        return not isinstance(node, ast.Return | ast.Raise | ast.Continue | ast.Break)

    def _simple(self, node: ast.stmt) -> None:
        if isinstance(node, ast.Assign):
            self._expression(node.value)
            for target in node.targets:
                self._assign(target, node.value)
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                self._expression(node.value)
                self._assign(node.target, node.value)
        elif isinstance(node, ast.AugAssign):
            self._expression(node.target)
            self._expression(node.value)
            self._bind(node.target, UNKNOWN)
        else:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    self._expression(child)

    def _if(self, node: ast.If) -> bool:
        self._expression(node.test)
        answer = self._answers.of(node.test)
        if answer is not None:
            return self._block(node.body if answer else node.orelse)
        test = self._answers.unread(node.test)
        first = self._maybe(test, node.body)
        second = self._maybe(f"not ({test})", node.orelse)
        if first != second:  # what follows is only reached by the other way
            leaves = any(isinstance(part, ast.Return | ast.Raise) for part in ast.walk(node))
            self._exits.append((test if first else f"not ({test})", leaves))
        return first or second

    def _maybe(self, test: str, body: Sequence[ast.stmt]) -> bool:
        """Walk what may or may not run: its names hold afterwards only where they did before."""
        before, assigned = dict(self._scope.names), set(self._scope.assigned)
        self._unsure.append(test)
        reached = self._block(body)
        self._unsure.pop()
        for name, value in self._scope.names.items():
            if before.get(name) != value:
                before[name] = UNKNOWN if name in assigned else value
        self._scope.names = before
        return reached

    def _try(self, node: ast.Try) -> bool:
        reached = self._block(node.body) and self._block(node.orelse)
        for handler in node.handlers:
            reached = self._maybe("an exception is met", handler.body) or reached
        return self._block(node.finalbody) and reached

    def _loop(self, target: ast.expr, source: ast.expr, body: Sequence[ast.stmt]) -> None:
        for _ in self._scope.bindings(target, source):
            self._twice(body)

    def _twice(self, body: Sequence[ast.stmt]) -> None:
        """A loop's later rounds know the names that its first one assigned."""
        before = list(self._exits)
        if self._recording:  # loops within a first round need none of their own
            self._recording = False
            self._block(body)
            self._recording, self._exits = True, before
        self._block(body)
        self._exits = [(test, leaves) for test, leaves in self._exits if leaves]

    # Expressions

    def _expression(self, node: ast.expr) -> None:
        if isinstance(node, ast.IfExp):
            self._expression(node.test)
            answer = self._answers.of(node.test)
            if answer is not False:
                self._either(node.test, node.body, answer)
            if answer is not True:
                self._either(ast.UnaryOp(ast.Not(), node.test), node.orelse, answer)
            return
        if isinstance(node, ast.BoolOp):
            self._shortcut(node)
            return
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            self._comprehension(node)
            return
        if isinstance(node, ast.Lambda):
            return
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            self._read(node)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.keyword):
                self._expression(child.value)
            elif isinstance(child, ast.expr):
                self._expression(child)
        if isinstance(node, ast.NamedExpr):
            self._assign(node.target, node.value)
        self._look_for_cut(node)

    def _shortcut(self, node: ast.BoolOp) -> None:
        """`a and b`: b is only reached where a holds."""
        stops = isinstance(node.op, ast.Or)
        for value in node.values:
            self._expression(value)
            if self._answers.of(value) is stops:
                return

    def _either(self, test: ast.expr, node: ast.expr, answer: bool | None) -> None:
        if answer is None:
            self._unsure.append(ast.unparse(test))
        self._expression(node)
        if answer is None:
            self._unsure.pop()

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        before = dict(self._scope.names)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._expression(node.generators[0].iter)
        self._generators(node.generators, parts)
        self._scope.names = before

    def _generators(self, generators: list[ast.comprehension], parts: list[ast.expr]) -> None:
        if not generators:
            for part in parts:
                self._expression(part)
            return
        first, *rest = generators
        for _ in self._scope.bindings(first.target, first.iter):
            doubts = len(self._unsure)
            answers = []
            for test in first.ifs:
                self._expression(test)
                answers.append(self._answers.of(test))
                if answers[-1] is None:
                    self._unsure.append(ast.unparse(test))
            if False not in answers:
                self._generators(rest, parts)
            del self._unsure[doubts:]

    def _read(self, node: ast.Name) -> None:
        if self._recording and self._scope.is_unbound(node.id):
            place = (node.lineno, node.id)
            self.unbound.setdefault(place, Unbound(node.lineno, node.id, self._doubt))

    # Names

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            values = value.elts if isinstance(value, ast.Tuple | ast.List) else ()
            if len(values) == len(target.elts):
                for part, own in zip(target.elts, values, strict=True):
                    self._assign(part, own)
                return
            whole = self._scope.value(value)
            self._bind(target, replace(whole, key=None, node=None, made=False))
            return
        if isinstance(value, ast.IfExp):
            answer = self._answers.of(value.test)
            if answer is not None:
                self._assign(target, value.body if answer else value.orelse)
                return
        self._bind(target, self._scope.value_for(target, value))

    def _bind(self, target: ast.expr, value: Value) -> None:
        self._scope.bind(target, value)
        if isinstance(target, ast.Subscript | ast.Attribute):
            self._expression(target.value)
            if isinstance(target, ast.Subscript):
                self._expression(target.slice)

    # Cuts

    @property
    def _doubt(self) -> str | None:
        tests = [test for test, _ in self._exits] + self._unsure
        return " and ".join(dict.fromkeys(tests)) or None

    def _look_for_cut(self, node: ast.expr) -> None:
        if not self._recording:
            return
        found = bounds_of(node)
        if found is None:
            return
        base, how, bounds = found
        key = self._scope.key(base)
        if key is None or key in COUNTS:
            return
        text = " ".join([how, *(canonical(part, self._scope.names) for part in bounds)])
        values = [self._scope.value(part) for part in bounds]
        unit = "sample" if self._scope.is_a_step(bounds) else unit_of(how, values)
        half = how == "slice" and any(isinstance(part, ast.Constant) for part in bounds)
        cut = Cut(node.lineno, key, ast.unparse(node), text, unit, self._doubt, half)
        self.cuts.setdefault((node.lineno, node.col_offset, key), cut)

    def _read_units(self) -> None:
        """Bounds that cut a token key somewhere in the function count samples."""
        tokens = (cut for cut in self.cuts.values() if cut.key in TOKEN_KEYS)
        samples = {cut.bounds for cut in tokens if not cut.open}
        for place, cut in self.cuts.items():
            if cut.bounds in samples:
                self.cuts[place] = replace(cut, unit="sample")
