"""Walk one function as it would run for the batches of one layout.

A test on the batch's keys (`if image_grid_thw is not None`) has an answer in each layout, so the
walk goes only where that layout's batches go. Where a test cannot be read, both ways are walked
and what is found there is marked `unsure`. A batch with images is assumed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from vlmdebug.review.cuts import Cut, bounds_of, unit_of
from vlmdebug.review.keys import COUNTS, TOKEN_KEYS, Keys
from vlmdebug.review.names import Function, batches, bound_names, words
from vlmdebug.review.values import (
    UNKNOWN,
    Value,
    called_name,
    canonical,
    evaluate,
    is_made,
    key_of,
    text_of,
)

_LENGTHS = frozenset({"len", "size", "shape"})


@dataclass(frozen=True)
class Unbound:
    """A local name that is read where no way of this layout has assigned it."""

    line: int
    name: str
    unsure: str | None = None


class Walk:
    """The cuts and unbound names of one function under one layout."""

    keys: Keys
    constants: Mapping[str, ast.expr]

    def __init__(
        self,
        function: Function,
        keys: Keys,
        constants: Mapping[str, ast.expr],
    ) -> None:
        self.keys, self.constants = keys, constants
        self.cuts: dict[tuple[int, int, str], Cut] = {}
        self.unbound: dict[tuple[int, str], Unbound] = {}
        self.asked: dict[str, int] = {}
        self._unsure: list[str] = []
        self._exits: list[tuple[str, bool]] = []
        self._ranges: dict[str, str] = {}
        self._recording = True
        self._locals, bound = bound_names(function)
        self._names: dict[str, Value] = dict.fromkeys(bound, UNKNOWN)
        self._assigned: set[str] = set()
        self._batches = batches(function)
        self._words = words(function)
        self._block(function.body)
        self._read_units()

    def known(self, name: str) -> bool:
        """Whether a name, where the function does not bind it itself, is one of a batch."""
        keys = self.keys
        listed = name in keys.everywhere or name in TOKEN_KEYS or name in COUNTS
        return listed or keys.nearest(name) is not None

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
        if isinstance(node, ast.Try | ast.TryStar):
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
        answer = self._answer(node.test)
        if answer is not None:
            return self._block(node.body if answer else node.orelse)
        test = self._unread(node.test)
        first = self._maybe(test, node.body)
        second = self._maybe(f"not ({test})", node.orelse)
        if first != second:  # what follows is only reached by the other way
            leaves = any(isinstance(part, ast.Return | ast.Raise) for part in ast.walk(node))
            self._exits.append((test if first else f"not ({test})", leaves))
        return first or second

    def _unread(self, test: ast.expr) -> str:
        """The part of a test that has no answer."""
        if isinstance(test, ast.BoolOp):
            parts = [value for value in test.values if self._answer(value) is None]
            word = " or " if isinstance(test.op, ast.Or) else " and "
            return word.join(self._unread(part) for part in parts)
        return ast.unparse(test)

    def _maybe(self, test: str, body: Sequence[ast.stmt]) -> bool:
        """Walk what may or may not run: its names hold afterwards only where they did before."""
        before, assigned = dict(self._names), set(self._assigned)
        self._unsure.append(test)
        reached = self._block(body)
        self._unsure.pop()
        for name, value in self._names.items():
            if before.get(name) != value:
                before[name] = UNKNOWN if name in assigned else value
        self._names = before
        return reached

    def _try(self, node: ast.Try | ast.TryStar) -> bool:
        reached = self._block(node.body) and self._block(node.orelse)
        for handler in node.handlers:
            reached = self._maybe("an exception is met", handler.body) or reached
        return self._block(node.finalbody) and reached

    def _loop(self, target: ast.expr, source: ast.expr, body: Sequence[ast.stmt]) -> None:
        for _ in self._bindings(target, source):
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
            answer = self._answer(node.test)
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
            if self._answer(value) is stops:
                return

    def _either(self, test: ast.expr, node: ast.expr, answer: bool | None) -> None:
        if answer is None:
            self._unsure.append(ast.unparse(test))
        self._expression(node)
        if answer is None:
            self._unsure.pop()

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        before = dict(self._names)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        self._expression(node.generators[0].iter)
        self._generators(node.generators, parts)
        self._names = before

    def _generators(self, generators: list[ast.comprehension], parts: list[ast.expr]) -> None:
        if not generators:
            for part in parts:
                self._expression(part)
            return
        first, *rest = generators
        for _ in self._bindings(first.target, first.iter):
            doubts = len(self._unsure)
            answers = []
            for test in first.ifs:
                self._expression(test)
                answers.append(self._answer(test))
                if answers[-1] is None:
                    self._unsure.append(ast.unparse(test))
            if False not in answers:
                self._generators(rest, parts)
            del self._unsure[doubts:]

    def _read(self, node: ast.Name) -> None:
        if node.id in self._locals and node.id not in self._assigned and self._recording:
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
            whole = evaluate(value, self._names, self.known)
            self._bind(target, replace(whole, key=None, node=None, made=False))
            return
        if isinstance(value, ast.IfExp):
            answer = self._answer(value.test)
            if answer is not None:
                self._assign(target, value.body if answer else value.orelse)
                return
        found = evaluate(value, self._names, self.known)
        if isinstance(target, ast.Name) and found.node is not None:
            mentions = {part.id for part in ast.walk(found.node) if isinstance(part, ast.Name)}
            if target.id in mentions:
                found = replace(found, node=None)
        self._bind(target, found)

    def _bind(self, target: ast.expr, value: Value) -> None:
        for part in ast.walk(target):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                self._assigned.add(part.id)
                self._names[part.id] = value
                self._forget(part.id)
        if isinstance(target, ast.Subscript | ast.Attribute):
            self._expression(target.value)
            if isinstance(target, ast.Subscript):
                self._expression(target.slice)

    def _forget(self, name: str) -> None:
        """Texts that mention the old value of `name` hold no longer."""
        for other, value in self._names.items():
            if other != name and value.node is not None:
                mentions = {part.id for part in ast.walk(value.node) if isinstance(part, ast.Name)}
                if name in mentions:
                    self._names[other] = replace(value, node=None)

    def _bindings(self, target: ast.expr, source: ast.expr) -> Iterator[None]:
        """Bind a loop's names, once for each key where it runs over keys that can be listed."""
        listed = self._listed(source)
        if listed is not None and isinstance(target, ast.Name):
            for key in listed:
                self._bind(target, Value(constant=key))
                yield
            return
        pair = isinstance(target, ast.Tuple) and len(target.elts) == 2
        if pair and self._runs_over_a_batch(source):
            assert isinstance(target, ast.Tuple)
            for key in sorted(self.keys.sure - COUNTS.keys()):
                self._bind(target.elts[0], Value(constant=key))
                self._bind(target.elts[1], Value(key=key, sources=frozenset({key})))
                yield
            return
        self._bind(target, replace(evaluate(source, self._names, self.known), key=None, node=None))
        if isinstance(target, ast.Name):
            self._names[target.id] = replace(self._names[target.id], node=target, made=False)
            step = self._step(source)
            if step is not None:
                self._ranges[target.id] = step
        yield

    def _listed(self, node: ast.expr) -> list[str] | None:
        """The texts of a literal tuple, list or set, or of a module's constant that is one."""
        if isinstance(node, ast.Name) and node.id not in self._names:
            node = self.constants.get(node.id, node)
        if not isinstance(node, ast.Tuple | ast.List | ast.Set) or not node.elts:
            return None
        texts = [text_of(part, self._names) for part in node.elts]
        return [text for text in texts if text is not None] if None not in texts else None

    def _runs_over_a_batch(self, node: ast.expr) -> bool:
        """`inputs.items()`, where the function looks `input_ids` or its like up in `inputs`."""
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        base = node.func.value
        if node.func.attr != "items" or not isinstance(base, ast.Name):
            return False
        return base.id in self._batches and not is_made(base, self._names)

    def _step(self, node: ast.expr) -> str | None:
        """`n` of `range(0, samples, n)`, where `samples` is the length of a token key."""
        if not isinstance(node, ast.Call) or called_name(node) != "range" or len(node.args) != 3:
            return None
        total = evaluate(node.args[1], self._names, self.known)
        whole = ast.unparse(node.args[1])
        counts = total.calls & _LENGTHS or "shape" in whole
        if not counts or not total.sources or not total.sources <= TOKEN_KEYS:
            return None
        return canonical(node.args[2], self._names)

    # Tests

    def _answer(self, test: ast.expr) -> bool | None:
        """Whether the test holds for this layout's batches; None where it cannot be read."""
        if isinstance(test, ast.BoolOp):
            answers = [self._answer(value) for value in test.values]
            stops = isinstance(test.op, ast.Or)
            if stops in answers:
                return stops
            return None if None in answers else not stops
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            answer = self._answer(test.operand)
            return None if answer is None else not answer
        if isinstance(test, ast.Compare) and len(test.ops) == 1:
            return self._compared(test.left, test.ops[0], test.comparators[0])
        if isinstance(test, ast.Constant):
            return bool(test.value)
        if isinstance(test, ast.Call):
            return self._called(test)
        return self._present(key_of(test, self._names, self.known), test)

    def _present(self, key: str | None, test: ast.expr) -> bool | None:
        """Whether the layout's batches have the key; one that none has is noted."""
        if key is None or not self.known(key):
            return None
        near = self.keys.nearest(key)
        if near is not None and near not in self._words:
            self.asked.setdefault(key, test.lineno)
        return self.keys.has(key)

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> bool | None:
        negated = isinstance(op, ast.IsNot | ast.NotIn | ast.NotEq)
        if isinstance(op, ast.Is | ast.IsNot | ast.Eq | ast.NotEq) and _is_none(right):
            present = self._present(key_of(left, self._names, self.known), left)
            return None if present is None else present == negated
        text = text_of(left, self._names)
        if text is None:
            return None
        if isinstance(op, ast.In | ast.NotIn):
            listed = self._listed(right)
            if listed is not None:
                return (text in listed) != negated
            if is_made(right, self._names) or not isinstance(right, ast.Name | ast.Attribute):
                return None
            present = self._present(text, left)
            return None if present is None else present != negated
        other = text_of(right, self._names)
        if other is not None and isinstance(op, ast.Eq | ast.NotEq):
            return (text == other) != negated
        return None

    def _called(self, node: ast.Call) -> bool | None:
        """`isinstance(value, torch.Tensor)` and its like hold for every key that is cut."""
        name = called_name(node)
        if name.lstrip("_") in ("is_tensor", "isinstance", "hasattr") and node.args:
            key = key_of(node.args[0], self._names, self.known)
            if key is not None and key not in COUNTS:
                asks = ast.unparse(node)
                return True if "ensor" in asks or "shape" in asks else None
        if name == "startswith" and isinstance(node.func, ast.Attribute) and node.args:
            text = text_of(node.func.value, self._names)
            start = text_of(node.args[0], self._names)
            return None if text is None or start is None else text.startswith(start)
        return self._present(key_of(node, self._names, self.known), node)

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
        key = key_of(base, self._names, self.known)
        if key is None or key in COUNTS:
            return
        text = " ".join([how, *(canonical(part, self._names) for part in bounds)])
        unit = "sample" if self._is_a_step(bounds) else unit_of(how, self._values(bounds))
        half = how == "slice" and any(isinstance(part, ast.Constant) for part in bounds)
        cut = Cut(node.lineno, key, ast.unparse(node), text, unit, self._doubt, half)
        self.cuts.setdefault((node.lineno, node.col_offset, key), cut)

    def _values(self, parts: Sequence[ast.expr]) -> list[Value]:
        return [evaluate(part, self._names, self.known) for part in parts]

    def _is_a_step(self, parts: Sequence[ast.expr]) -> bool:
        """`start:start + n` of a loop over `range(0, samples, n)`."""
        if len(parts) != 2 or not isinstance(parts[0], ast.Name):
            return False
        step = self._ranges.get(parts[0].id)
        return step is not None and canonical(parts[1], self._names) == f"{parts[0].id} + {step}"

    def _read_units(self) -> None:
        """Bounds that cut a token key somewhere in the function count samples."""
        tokens = (cut for cut in self.cuts.values() if cut.key in TOKEN_KEYS)
        samples = {cut.bounds for cut in tokens if not cut.open}
        for place, cut in self.cuts.items():
            if cut.bounds in samples:
                self.cuts[place] = replace(cut, unit="sample")


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None
