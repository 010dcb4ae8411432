"""One function of a file, interpreted with small batches of every layout."""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import numpy as np

from vlmdebug.core.keys import KEYS, MEDIA_KEYS, MEDIA_OF
from vlmdebug.review.arrays import Failed, Tensor, Unknown
from vlmdebug.review.entry import Entry
from vlmdebug.review.keys import KNOWN, nearest
from vlmdebug.review.machine import FUEL, Frame, OutOfFuel, Run, of_batch
from vlmdebug.review.statements import ENDS, Machine
from vlmdebug.review.trials import Trial, trials
from vlmdebug.review.uses import word_of
from vlmdebug.review.verdicts import Verdict, Verdicts

STEPS = 160_000
"""Expressions and statements that are interpreted for one function, in all of its runs."""
SETUP = 100
"""Steps that a run takes before its first statement, to make the batch."""
WAYS = 24
"""Ways through a function that are read for one batch."""
FEW = 3
"""Ways after which no others are read, if none of them has taken rows."""
UNKNOWN_ROWS = "rows of its media are not known"
NO_TOKENS = "its tokens are not rows of the batch"
REFUSES = frozenset({"AssertionError"})


@dataclass(eq=False)
class Place:
    """Code that takes rows of a key: the verdicts of all layouts."""

    node: ast.AST
    key: str
    found: dict[str, list[tuple[Verdict, tuple[str, ...]]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Way:
    """The conditions that are false, the last of them, and what its true side gave."""

    false: frozenset[str]
    last: ast.AST | None = None
    before: object = None


class Reading:
    """All that is known of one function after its runs.

    Attributes:
        places: Code that took rows which were passed on, by node and key.
        cuts: The key that each piece of code took rows of, in any run.
        unread: Calls that were not judged, and why: their tokens are not rows of the batch, or they
            get no media where the function looks media up and passes none.
        lost: Code with rows that could not be known, with key and reason.
        unbound: Names without a value, with the layouts and unknown conditions of each.
        refused: Layouts of which the code refuses some batches.
        limit: Why reading ended early, and on which line.
        sides: The sides that each known condition had.
    """

    def __init__(
        self, entry: Entry, layouts: Mapping[str, Sequence[Trial]], steps: int = STEPS
    ) -> None:
        self.entry: Entry = entry
        self.layouts: Mapping[str, Sequence[Trial]] = layouts
        self.places: dict[tuple[ast.AST, str], Place] = {}
        self.cuts: dict[ast.AST, str] = {}
        self.lost: dict[ast.AST, tuple[str, str]] = {}
        self.unbound: dict[str, tuple[ast.AST, dict[str, tuple[str, ...]]]] = {}
        self.unread: dict[ast.AST, str] = {}
        self.refused: set[str] = set()
        self.limit: str | None = None
        self._ends: set[str | None] = set()
        self.sides: dict[ast.AST, set[bool]] = {}
        self._given = self._steps = steps
        self._idle: set[ast.AST] = set()
        self._busy: set[ast.AST] = set()
        read: dict[object, str] = {}
        for layout, own in layouts.items():
            first = read.setdefault(self._sight(own[0]), layout)
            if first != layout:
                self._same(layout, first)
                continue
            self._idle, self._busy = set(), set()
            for trial in own:
                if not self._read(layout, trial):
                    break

    @property
    def taken(self) -> int:
        """Steps that its runs took."""
        return self._given - self._steps

    @property
    def judged(self) -> set[ast.AST]:
        """Code on which there is a verdict."""
        return {node for node, _ in self.places}

    @property
    def dead_end(self) -> str | None:
        """The exceptions in which each batch of each layout ended before it was passed on."""
        names = sorted(name for name in self._ends if name is not None)
        if len(names) < len(self._ends) or not names or "raise" in names:
            return None
        return f"no batch of any known layout gets through it: {', '.join(names)}"

    def _sight(self, trial: Trial) -> object:
        """What the function can see of a layout; layouts that look alike are read once."""
        if self.entry.is_generic:
            return trial.layout
        batch, words = trial.batch, self.entry.uses.words
        keys = frozenset(
            (key, axis.unit, axis.dim, np.ndim(batch.inputs.get(key, ())))
            for key, axis in batch.layout.items()
        )
        named = frozenset(part for part in keys if part[0] in words)
        return named, trial.media, "num_tiles" in words and "tile" in batch.counts

    def _same(self, layout: str, first: str) -> None:
        """Take the verdicts of a layout that the function does not distinguish from this one."""
        for place in self.places.values():
            if first in place.found:
                place.found[layout] = place.found[first]
        for _, layouts in self.unbound.values():
            if first in layouts:
                layouts[layout] = layouts[first]
        if first in self.refused:
            self.refused.add(layout)

    def _read(self, layout: str, trial: Trial) -> bool:
        """Interpret the function with one batch; whether it took rows."""
        runs, judge = [*self._runs(trial)], Verdicts(trial, self.entry)
        found = [(run, [*judge.of(run)]) for run in runs]
        ways = _Ways(found, self._idle - self._busy)
        for run, own in found:
            self._ends.add(None if run.observed or run.unbound else run.ended)
            if run.ended == "raise" or run.ended in REFUSES:
                self.refused.add(layout)
            for node, key in run.cuts.items():
                if key in MEDIA_KEYS or node not in self.cuts:
                    self.cuts[node] = key
            for node, (key, why) in run.lost.items():
                if key in MEDIA_KEYS or node not in self.lost:
                    self.lost[node] = key, why
            for test, sides in run.sides.items():
                self.sides.setdefault(test, set()).update(sides)
            for choice in run.choices.made:
                self.sides.setdefault(choice.node, set()).update((True, False))
            for verdict in own:
                at = self.places.setdefault(
                    (verdict.node, verdict.key), Place(verdict.node, verdict.key)
                )
                doubts = ways.left(verdict, run)
                at.found.setdefault(layout, []).append((verdict, doubts))
            for name, node in run.unbound.items():
                _, layouts = self.unbound.setdefault(name, (node, {}))
                before = layouts.get(layout)
                if before is None or len(run.doubts) < len(before):
                    layouts[layout] = run.doubts
            self._note_bare(run, trial)
            self._note_unread(run, {verdict.node for verdict in own})
        return any(run.has_seen or run.ended for run in runs)

    def _note_bare(self, run: Run, trial: Trial) -> None:
        passed = {key for one in run.observed for key in one.items}
        for modality in trial.batch.modalities.values():
            keys = [
                key for key in modality.keys if key in self.entry.uses.read and key in MEDIA_KEYS
            ]
            if not keys or passed & {*modality.keys} or run.ended or run.lost:
                continue
            for one in run.observed:
                if _is_cut(one.items.get("input_ids")):
                    why = f"{keys[-1]} is looked up, and no call gets it"
                    self.unread.setdefault(one.node, why)

    def _note_unread(self, run: Run, judged: set[ast.AST]) -> None:
        """Calls with media of the batch on which there is no verdict."""
        passed = {key for one in run.observed for key in one.items}
        for key in run.taken.keys() & MEDIA_KEYS - passed:
            if "input_ids" in passed:
                self.unread.setdefault(run.taken[key], f"{key} is taken out of the batch")
        for one in run.observed:
            media = [
                value for key, value in one.items.items() if key in MEDIA_KEYS and of_batch(value)
            ]
            places = {one.node, *(getattr(value, "cut", None) for value in media)}
            unknown = all(isinstance(value, Unknown) for value in media)
            if not media or not places.isdisjoint(judged) or (unknown and run.lost):
                continue
            self.unread.setdefault(one.node, UNKNOWN_ROWS if unknown else NO_TOKENS)

    def _runs(self, trial: Trial) -> Iterator[Run]:
        """The ways through the function: all conditions true, then one of them false, then two.

        Where a condition makes no difference, the ways beyond its other side are not read; and if
        neither of its sides names media, its other side is not read with the next batches.
        """
        way = _Way(frozenset())
        queue, queued, seen = deque([way]), {way.false}, False
        few = FEW if trial is self.layouts[trial.layout][0] else 1
        for number in range(1, WAYS + 1):
            way = queue.popleft()
            run = self._run(trial, way.false)
            yield run
            seen = seen or run.has_seen
            content = run.content
            differs = content != way.before
            if way.last in self._beside:
                (self._busy if differs else self._idle).add(way.last)
            for choice, false in run.choices.others if differs else ():
                if false in queued or choice.node in self._idle - self._busy:
                    continue
                if seen or choice.node not in self._beside:
                    queued.add(false)
                    queue.append(_Way(false, choice.node, content))
            if not queue or (number >= few and not seen):
                return
        self.limit = f"it has more than {WAYS} ways, and the others were not read"

    @cached_property
    def _beside(self) -> set[ast.AST]:
        """Tests of which neither side ends anything or names media: they lead to no rows."""
        words = self.entry.uses.listed | KNOWN
        nodes = self.entry.nodes
        matter = [node for node in nodes if isinstance(node, ENDS) or word_of(node) in words]
        matters = self.entry.module.above(matter)
        return {
            node.test
            for node in nodes
            if isinstance(node, ast.If | ast.IfExp) and node not in matters
        }

    def _run(self, trial: Trial, false: frozenset[str]) -> Run:
        names, stored, inputs = self.entry.names(trial)
        run = Run(inputs, false)
        run.stored.update(stored)
        self._steps -= SETUP
        run.fuel = given = max(min(run.fuel, self._steps), 0)
        machine = Machine(self.entry.module, run)
        frame = Frame(dict(names), None, machine.may_lack(self.entry.node), self.entry.owner)
        try:
            with np.errstate(all="ignore"):
                machine.execute(self.entry.node.body, frame)
            _observe_results(run, frame, self.entry.node)
        except Failed as failed:
            run.ended = "raise" if str(failed) == "raised" else failed.name
        except OutOfFuel as out:
            most = f"{self._given:,}" if given < FUEL else f"{FUEL:,} of one run"
            self.limit = (
                self.limit
                or f"its steps, {most}, ran out on line {out.line or self.entry.node.lineno}"
            )
        except RecursionError:
            self.limit = "its expressions are too deep to read"
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            self.limit = f"it could not be read: {type(error).__name__}"  # never the whole review
        self._steps -= given - max(run.fuel, 0)
        return run


def _is_cut(value: Any) -> bool:
    return isinstance(value, Tensor) and value.cut is not None


def _observe_results(run: Run, frame: Frame, node: ast.AST) -> None:
    """What is yielded and returned is passed on, too."""
    for at, value, turn in frame.yields:
        _observe(run, at, "yield", value, turn)
    results = frame.result if isinstance(frame.result, list) else [frame.result]
    for value in results:
        _observe(run, node, "return", value)


def _observe(run: Run, node: ast.AST, how: str, value: Any, turn: int | None = None) -> None:
    items: Mapping[str, Any] = {}
    if isinstance(value, dict):
        items = {key: part for key, part in value.items() if isinstance(key, str)}
    elif isinstance(value, tuple):
        for part in value:
            if isinstance(part, dict):
                _observe(run, node, how, part, turn)
        items = {part.key: part for part in value if isinstance(part, Tensor) and part.key}
    if "input_ids" in items:
        run.observe(node, how, items)
    elif turn is not None and items.keys() & MEDIA_KEYS:
        run.observe(node, how, items, turn)


class _Ways:
    """The verdicts of all runs with one batch, to see which unknown conditions matter to one."""

    def __init__(self, found: Sequence[tuple[Run, Sequence[Verdict]]], idle: set[ast.AST]) -> None:
        self._idle = idle
        self._sides = {run: {one.node: one.side for one in run.choices.made} for run, _ in found}
        self._by: dict[object, dict[Run, None]] = {}
        for run, own in found:
            for verdict in own:
                self._by.setdefault(_identity(verdict), {})[run] = None

    def left(self, verdict: Verdict, run: Run) -> tuple[str, ...]:
        """The unknown conditions without which the verdict may not hold.

        A condition does not matter if a run that took its other side has the same verdict, or if
        it is idle: it makes no difference.
        """
        same = [self._sides[other] for other in self._by[_identity(verdict)]]
        return tuple(
            said
            for said, choice in zip(verdict.doubts, run.choices.made, strict=False)
            if choice.node not in self._idle
            and not any(sides.get(choice.node) is (not choice.side) for sides in same)
        )


def _identity(verdict: Verdict) -> object:
    code = verdict.difference.code if verdict.difference else None
    return verdict.node, verdict.key, code


def supports(entry: Entry, trial: Trial) -> bool:
    """Whether the function is written for this layout: it names its keys, or goes through all."""
    uses = entry.uses
    if entry.is_generic:
        return True
    named = uses.words | {near for word in entry.stale if (near := nearest(word)) is not None}
    rules = trial.batch.rules
    needed = {
        key
        for modality in trial.batch.modalities.values()
        for key in modality.keys
        if key in MEDIA_KEYS and key not in rules.sometimes_returned
    }
    return needed <= named or any(len(_units_with(key)) == 1 for key in needed & named)


@cache
def _units_with(key: str) -> frozenset[str]:
    """What the rows of pixels (frames, audio) count in the layouts that have a key of them."""
    modality = KEYS[key].modality
    first = key if modality is None else MEDIA_OF[modality]
    found = (layout[0].batch.layout for layout in trials().values())
    return frozenset(axes[first].unit for axes in found if key in axes and first in axes)
