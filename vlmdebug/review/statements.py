"""Statements of interpreted code: each says how it ends, None if the next one follows."""

from __future__ import annotations

import ast
from functools import lru_cache
from typing import Any

from vlmdebug.review.arrays import Failed, Tensor, Unknown, plain
from vlmdebug.review.evaluator import UNREADABLE, said
from vlmdebug.review.functions import listed_of
from vlmdebug.review.loops import Loops, parts_of
from vlmdebug.review.machine import Frame, Inputs, Opened, OutOfFuel, Reference, Routine
from vlmdebug.review.names import bound_names

ENDS = (ast.Return, ast.Raise, ast.Break, ast.Continue, ast.Yield, ast.YieldFrom, ast.Delete)
"""Parts of an `if` that do more than compute and assign."""
LOOKUPS = {"KeyError": ("LookupError",), "IndexError": ("LookupError",)}


class Machine(Loops):
    """Interprets the statements of one function."""

    def execute(self, body: list[ast.stmt], frame: Frame) -> str | None:
        """Run statements; `return`, `break` or `continue` if one of these ends them."""
        for statement in body:
            method = self._method_for(type(statement))
            try:
                self.run.burn()
                ends = None if method is None else method(self, statement, frame)
            except UNREADABLE:
                ends = self._pass_over(statement, frame)
            except OutOfFuel as out:
                out.line = out.line or statement.lineno
                raise
            if ends is not None:
                return ends
        return None

    def _pass_over(self, node: ast.stmt, frame: Frame) -> None:
        """Go on behind a statement that cannot be read; the names that it assigns are unknown."""
        for part in parts_of(node):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                frame.names[part.id] = Unknown(node)

    def may_lack(self, node: ast.AST) -> frozenset[str]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            return bound_names(node)[0]
        return frozenset()

    # --- simple ----------------------------------------------------------------------------

    def _Expr(self, node: ast.Expr, frame: Frame) -> None:
        self.value(node.value, frame)

    def _Assign(self, node: ast.Assign, frame: Frame) -> None:
        found = self.value(node.value, frame)
        for target in node.targets:
            self.bind(target, found, frame)

    def _AnnAssign(self, node: ast.AnnAssign, frame: Frame) -> None:
        if node.value is not None:
            self.bind(node.target, self.value(node.value, frame), frame)

    def _AugAssign(self, node: ast.AugAssign, frame: Frame) -> None:
        load = _loaded(node.target)
        before, more = self.value(load, frame), self.value(node.value, frame)
        if isinstance(before, list) and isinstance(node.op, ast.Add):
            before += listed_of(more)
            return
        try:
            found = self.combined(node.op, before, more, node)
        except LookupError:
            found = Unknown(node)
        self.bind(node.target, found, frame)

    def _Return(self, node: ast.Return, frame: Frame) -> str:
        frame.result = None if node.value is None else self.value(node.value, frame)
        return "return"

    def _Raise(self, node: ast.Raise, frame: Frame) -> None:
        kind = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        raise Failed(said(kind) if kind is not None else "Exception", "raised")

    def _Assert(self, node: ast.Assert, frame: Frame) -> None:
        if not self.decided(node.test, frame):
            raise Failed("AssertionError")

    def _Break(self, node: ast.Break, frame: Frame) -> str:
        return "break"

    def _Continue(self, node: ast.Continue, frame: Frame) -> str:
        return "continue"

    def _Delete(self, node: ast.Delete, frame: Frame) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                frame.names.pop(target.id, None)
            elif isinstance(target, ast.Subscript):
                of, key = self.value(target.value, frame), self.value(target.slice, frame)
                if isinstance(of, dict) and isinstance(key, str):
                    of.pop(key, None)
                    self.run.taken |= {key: target} if isinstance(of, Inputs) else {}

    def _FunctionDef(self, node: ast.FunctionDef, frame: Frame) -> None:
        frame.names[node.name] = Routine(node, frame)

    _AsyncFunctionDef = _FunctionDef

    def _ClassDef(self, node: ast.ClassDef, frame: Frame) -> None:
        frame.names[node.name] = Unknown(node.name)

    def _Import(self, node: ast.Import | ast.ImportFrom, frame: Frame) -> None:
        for name in node.names:
            own = (name.asname or name.name).partition(".")[0]
            frame.names[own] = Reference(self.module.imports.get(own, own))

    _ImportFrom = _Import

    # --- branches and loops ----------------------------------------------------------------

    def _If(self, node: ast.If, frame: Frame) -> str | None:
        found = self.truth(self.value(node.test, frame))
        if found is None and self._is_beside(node, frame):
            return None
        side = self.decide(node.test, found)
        return self.execute(node.body if side else node.orelse, frame)

    def _is_beside(self, node: ast.If, frame: Frame) -> bool:
        """Whether both sides have nothing to do with the batch; their names become unknown."""
        reads, stores, more = effects_of(node)
        if more or any(_holds_rows(frame, name) for name in reads | stores):
            return False
        frame.names |= {name: Unknown(node) for name in stores}
        return True

    def _With(self, node: ast.With | ast.AsyncWith, frame: Frame) -> str | None:
        for item in node.items:
            found = self.value(item.context_expr, frame)
            if item.optional_vars is not None:
                self.bind(item.optional_vars, found, frame)
        return self.execute(node.body, frame)

    _AsyncWith = _With

    def _Try(self, node: ast.Try, frame: Frame) -> str | None:
        try:
            ends = self.execute(node.body, frame)
            if ends is None:
                ends = self.execute(node.orelse, frame)
        except Failed as failed:
            handler = next((one for one in node.handlers if _catches(one, failed.name)), None)
            if handler is None:
                self.execute(node.finalbody, frame)
                raise
            if handler.name:
                frame.names[handler.name] = Unknown(handler.name)
            ends = self.execute(handler.body, frame)
        return self.execute(node.finalbody, frame) or ends

    _TryStar = _Try

    def _Match(self, node: ast.Match, frame: Frame) -> str | None:
        subject = self.value(node.subject, frame)
        for case in node.cases:
            if isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None:
                return self.execute(case.body, frame)
            known = isinstance(case.pattern, ast.MatchValue) and isinstance(subject, (str, int))
            if known and isinstance(case.pattern, ast.MatchValue):
                fits = self.value(case.pattern.value, frame) == subject
            else:
                fits = self.run.choices.take(case.pattern, f"case {said(case.pattern)}")
            if fits:
                return self.execute(case.body, frame)
        return None

    # --- targets ---------------------------------------------------------------------------

    def bind(self, target: ast.expr, value: Any, frame: Frame) -> None:
        """Assign a value to a name, an entry, an attribute, or several of these."""
        if isinstance(target, ast.Name):
            frame.names[target.id] = value
        elif isinstance(target, (ast.Tuple, ast.List)):
            self._unpack(target.elts, value, frame)
        elif isinstance(target, ast.Starred):
            self.bind(target.value, value, frame)
        elif isinstance(target, ast.Subscript):
            self._store(self.value(target.value, frame), target, value, frame)
        elif isinstance(target, ast.Attribute):
            of = self.value(target.value, frame)
            if isinstance(of, Reference):
                self.run.stored[f"{of.path}.{target.attr}"] = value
            elif isinstance(of, dict):
                of[target.attr] = value

    def _unpack(self, targets: list[ast.expr], value: Any, frame: Frame) -> None:
        try:
            items = listed_of(value)
        except LookupError:
            key = value.key if isinstance(value, Unknown) else None
            items = [Unknown(part, key) for part in targets]
        stars = [i for i, part in enumerate(targets) if isinstance(part, ast.Starred)]
        if stars:
            rest = len(items) - len(targets) + 1
            items = [
                *items[: stars[0]],
                items[stars[0] : stars[0] + rest],
                *items[stars[0] + rest :],
            ]
        if len(items) != len(targets):
            raise Failed("ValueError")
        for part, item in zip(targets, items, strict=True):
            self.bind(part, item, frame)

    def _store(self, of: Any, target: ast.Subscript, value: Any, frame: Frame) -> None:
        index = self.value(target.slice, frame)
        if isinstance(of, Unknown) and isinstance(target.value, ast.Name) and of.key is None:
            of = frame.names[target.value.id] = Opened()
        if isinstance(of, dict):
            of[index if isinstance(index, (str, int)) else said(target.slice)] = value
        elif isinstance(of, list) and isinstance(index, int) and -len(of) <= index < len(of):
            of[index] = value
        elif isinstance(of, Tensor):
            try:
                array = of.array.copy()
                array[plain(index)] = plain(value)
            except (LookupError, ValueError, TypeError):
                pass
            else:
                of.array = array
            of.computed = True


def _holds_rows(frame: Frame | None, name: str) -> bool:
    """Whether a name may have to do with rows of the batch."""
    lacking = frame.may_lack if frame is not None else frozenset()
    while frame is not None:
        if name in frame.names:
            return isinstance(frame.names[name], (Tensor, dict, list, tuple, int, Routine)) or (
                isinstance(frame.names[name], Unknown) and frame.names[name].key is not None
            )
        frame = frame.parent
    return name == "self" or name in lacking


@lru_cache(maxsize=4096)
def effects_of(node: ast.If) -> tuple[frozenset[str], frozenset[str], bool]:
    """Names that the sides of an `if` read and assign, and whether they do more than that."""
    reads: set[str] = set()
    stores: set[str] = set()
    more = False
    for statement in (*node.body, *node.orelse):
        for part in parts_of(statement):
            if isinstance(part, ast.Name):
                (reads if isinstance(part.ctx, ast.Load) else stores).add(part.id)
            elif isinstance(part, ENDS):
                more = True
    return frozenset(reads), frozenset(stores), more


def _loaded(target: ast.expr) -> ast.expr:
    """The same place, to be read."""
    if isinstance(target, ast.Name):
        return ast.copy_location(ast.Name(target.id, ast.Load()), target)
    return target


def _catches(handler: ast.ExceptHandler, name: str) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {said(kind).rpartition(".")[2] for kind in kinds}
    return bool(names & {name, "Exception", "BaseException", *LOOKUPS.get(name, ())})
