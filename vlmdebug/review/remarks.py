"""What is said of a function that was read: one remark per place, for all layouts together."""

from __future__ import annotations

import ast
import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlmdebug.checking.findings import Difference, Dropped, MustBeAbsent, WrongRows
from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.core.rows import Rows
from vlmdebug.review.evaluator import said
from vlmdebug.review.keys import nearest
from vlmdebug.review.names import asks_for_keys
from vlmdebug.review.reading import Place, Reading, supports
from vlmdebug.review.trials import Trial
from vlmdebug.review.verdicts import Verdict
from vlmdebug.safe import one_line

WIDTH = 88
INDENT = "    "
SPANS = 4
"""Stretches of rows that a remark gives."""


@dataclass(frozen=True)
class Remark:
    """A contradiction between the code and the layouts.

    Attributes:
        file, line, column, function: The location; lines and columns count from 1.
        code: The mismatch that it leads to, such as `VLM001`.
        text: The code in question.
        message: What is wrong, in which layouts, and what to do.
        wrong: The layouts in which it is wrong.
        right: The layouts in which it is right.
        unsure: The conditions on the path that could not be evaluated; None if there are none. A
            remark with such a condition is no finding.
        batch: The smallest batch that shows it, of those that were read; None if none does.
        source: The line of source.
        end: The column behind the code on its line.
        cell: In a notebook, the cell that the line is counted in, from 1; else None.
    """

    file: str
    line: int
    function: str
    code: str
    text: str
    message: str
    wrong: tuple[str, ...]
    right: tuple[str, ...] = ()
    unsure: str | None = None
    column: int = 1
    end: int = 1
    batch: str | None = None
    source: str = ""
    cell: int | None = None

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, width: int = WIDTH) -> str:
        """The remark in lines of at most about `width` characters."""
        file = self.file if self.cell is None else f"{self.file}:cell {self.cell}"
        head = one_line(f"{file}:{self.line}:{self.column}: {self.code} {self.text}")
        lines = [head, *_marked(self.source, self.column, self.end, width)]
        lines += [wrapped(line, width) for line in self.message.splitlines()]
        if self.command is not None:
            lines.append(f"    Run it: {self.command}")
        return "\n".join(lines)

    @property
    def command(self) -> str | None:
        """The command that runs the function; None for source without a Python file."""
        if not self.file.endswith(".py") or self.cell is not None:
            return None
        return f"vlmdebug falsify {shlex.quote(one_line(f'{self.file}:{self.function}'))}"


class Remarks:
    """The remarks on one function that was read.

    Attributes:
        remarks: What is wrong, also where a condition is not known.
        not_judged: Code that was not judged, with its line and the reason.
        never_run: Branches with cuts that no batch of any known layout reaches.
        agreeing: Number of places that are right in every layout that reaches them.
    """

    remarks: list[Remark]
    not_judged: list[str]
    never_run: list[str]
    agreeing: int

    def __init__(self, reading: Reading, file: str, source: Sequence[str]) -> None:
        self._reading, self._file, self._source = reading, file, source
        self.agreeing = 0
        self.remarks = [*self._places(), *self._stale(), *self._unbound()]
        self.not_judged = [*self._unjudged()]
        self.never_run = [*self._unreached()]

    # --- rows ------------------------------------------------------------------------------

    def _places(self) -> Iterator[Remark]:
        by_node: dict[tuple[ast.AST, bool], list[Place]] = {}
        for place in self._reading.places.values():
            wrong = any(v.difference for found in place.found.values() for v, _ in found)
            by_node.setdefault((place.node, wrong), []).append(place)
        for (node, wrong), places in by_node.items():
            if not wrong:
                self.agreeing += 1
                continue
            remark = self._remark_of(node, places)
            if remark is not None:
                yield remark

    def _remark_of(self, node: ast.AST, places: Sequence[Place]) -> Remark | None:
        place = max(places, key=lambda one: (self._weight(one), one.key == "pixel_values"))
        sure, unsure = self._wrong(place)
        if not sure and not unsure:
            return None
        shown = sure or {layout: verdict for layout, (verdict, _) in unsure.items()}
        wrong = {layout for one in places for layout in (*self._wrong(one)[0], *shown)}
        right = tuple(
            layout
            for layout, found in place.found.items()
            if layout not in wrong and not any(v.difference for v, _ in found)
        )
        others = [one.key for one in places if one is not place and any(self._wrong(one))]
        first = min(shown.values(), key=lambda verdict: len(verdict.trial.counts))
        assert first.difference is not None
        lines = [*_said(place.key, shown, first.difference), _rows(first)]
        if others:
            lines.append(f"The same with {', '.join(dict.fromkeys(others))}.")
        if right:
            lines.append(f"It is right in {', '.join(right)}.")
        doubts = None if sure else " and ".join(dict.fromkeys(next(iter(unsure.values()))[1]))
        lines.append(
            f"Whether a batch gets here depends on: {textwrap.shorten(doubts, 150)}"
            if doubts
            else _remedy(first.difference)
        )
        every = dict.fromkeys(shown)
        for one in places if sure else ():
            every |= dict.fromkeys(self._wrong(one)[0])
        code = first.difference.code
        return self._remark(node, code, lines, tuple(every), right, doubts, first.trial)

    def _weight(self, place: Place) -> int:
        sure, unsure = self._wrong(place)
        return len(sure) * 100 + len(unsure)

    def _wrong(
        self, place: Place
    ) -> tuple[dict[str, Verdict], dict[str, tuple[Verdict, tuple[str, ...]]]]:
        """The layouts in which it is wrong, and those in which it may be, with the conditions.

        A function that was not written for a layout is not accused for it alone.
        """
        sure: dict[str, Verdict] = {}
        unsure: dict[str, tuple[Verdict, tuple[str, ...]]] = {}
        for layout in sorted(place.found, key=self._order):
            for verdict, doubts in place.found[layout]:
                if verdict.difference is None:
                    continue
                more = list(doubts)
                if layout in self._reading.refused:
                    more.append("which batches the checks above refuse")
                if verdict.text_only:
                    more.append("whether a chunk may have no media")
                if not more:
                    sure.setdefault(layout, verdict)
                elif layout not in unsure or len(more) < len(unsure[layout][1]):
                    unsure[layout] = verdict, tuple(more)
        meant = [layout for layout in (*sure, *unsure) if self._is_meant(layout)]
        if not any(layout in sure for layout in meant):
            sure = {}
        if not meant:
            unsure = {}
        return sure, {layout: one for layout, one in unsure.items() if layout not in sure}

    def _order(self, layout: str) -> tuple[bool, int]:
        """Layouts that the function was written for come first."""
        return not self._is_meant(layout), [*self._reading.layouts].index(layout)

    def _is_meant(self, layout: str) -> bool:
        return supports(self._reading.entry, self._reading.layouts[layout][0])

    # --- names -----------------------------------------------------------------------------

    def _stale(self) -> Iterator[Remark]:
        uses = self._reading.entry.uses
        for name, node in sorted(self._reading.entry.stale.items()):
            near = nearest(name)
            if near is None or near in uses.words:
                continue
            has = [
                layout
                for layout, own in self._reading.layouts.items()
                if near in own[0].batch.layout
            ]
            owners = ", ".join(has) or "another layout"
            lines = [
                f"No layout that is known has {name}, so its branch never runs.",
                f"{near}, which {owners} has, is cut by no such branch.",
                f"Rename {name} to {near} if that is meant.",
            ]
            yield self._remark(node, "VLM004", lines, tuple(has), text=name)

    def _unbound(self) -> Iterator[Remark]:
        every = len(self._reading.layouts)
        for name, (node, layouts) in self._reading.unbound.items():
            sure = [layout for layout, doubts in layouts.items() if not doubts]
            wrong = tuple(sure or layouts)
            if len(wrong) == every:
                continue  # it depends on options, not on a layout: a task for a linter
            doubts = None if sure else " and ".join(next(iter(layouts.values())))
            lines = [
                f"{name} is not assigned where batches of {', '.join(wrong)} get here: "
                "UnboundLocalError.",
                f"Whether they do depends on: {textwrap.shorten(doubts, 150)}"
                if doubts
                else "Assign it before the branches.",
            ]
            yield self._remark(node, "VLM008", lines, wrong, unsure=doubts, text=name)

    # --- what was not judged ---------------------------------------------------------------

    def _unjudged(self) -> Iterator[str]:
        reading, judged = self._reading, self._reading.judged
        module = reading.entry.module
        above = module.above(judged)
        found: dict[ast.AST, str] = {}
        for node, (key, why) in reading.lost.items():
            if key in MEDIA_KEYS and node not in judged:
                found[node] = why
        for node, key in reading.cuts.items():
            if key in MEDIA_KEYS and node not in judged and node not in above:
                found.setdefault(node, "it is not passed on with input_ids")
        above = module.above(found)
        for node, why in reading.unread.items():
            if node not in judged and node not in above:
                found.setdefault(node, why)
        for node in module.outermost(found):
            yield one_line(f"{self._file}:{_line(node)}: {said(node)} ({found[node]})")
        why = reading.limit or (None if found else reading.dead_end)
        if why is not None:
            node = reading.entry.node
            yield one_line(f"{self._file}:{node.lineno}: {node.name} ({why})")

    def _unreached(self) -> Iterator[str]:
        """Branches with cuts of media that no run took, below a test that runs have reached."""
        if self._reading.limit is not None:
            return  # what was not read may run
        for node in self._reading.entry.nodes:
            sides = self._reading.sides.get(node.test) if isinstance(node, ast.If) else None
            if not isinstance(node, ast.If) or sides is None or len(sides) > 1:
                continue
            if not asks_for_keys(node.test, self._reading.entry.stored):
                continue
            body, name = (node.orelse, "else") if True in sides else (node.body, "if")
            if not any(map(_cuts_media, body)):
                continue
            what = f"`{name}` branch of `{said(node.test)}`"
            yield one_line(f"{self._file}:{_line(body[0])}: the {what}")

    def _remark(
        self,
        node: ast.AST,
        code: str,
        lines: Sequence[str],
        wrong: tuple[str, ...],
        right: tuple[str, ...] = (),
        unsure: str | None = None,
        trial: Trial | None = None,
        text: str = "",
    ) -> Remark:
        line, column = _line(node), getattr(node, "col_offset", 0)
        source = self._source[line - 1] if 0 < line <= len(self._source) else ""
        ends = getattr(node, "end_col_offset", None) if _line(node, end=True) == line else None
        start = len(source.encode()[:column].decode(errors="replace")) + 1
        end = len(source.encode()[:ends].decode(errors="replace")) + 1 if ends else len(source) + 1
        return Remark(
            self._file,
            line,
            self._reading.entry.path,
            code,
            text or said(node),
            "\n".join(lines),
            wrong,
            right,
            unsure or None,
            start,
            max(end, start + 1),
            None if trial is None else str(trial),
            source,
        )


def _line(node: ast.AST, *, end: bool = False) -> int:
    return int(getattr(node, "end_lineno" if end else "lineno", 1) or 1)


def _cuts_media(node: ast.AST) -> bool:
    """Whether a statement takes rows of something that is named like a media key."""
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Slice):
            names = {
                getattr(one, "id", getattr(one, "value", None)) for one in ast.walk(part.value)
            }
            if any(isinstance(name, str) and name in MEDIA_KEYS for name in names):
                return True
    return False


def _said(key: str, wrong: Mapping[str, Verdict], first: Difference) -> Iterator[str]:
    """How the key is cut, and what its rows count in the layouts where that is wrong."""
    by_unit: dict[str, list[str]] = {}
    for layout, verdict in wrong.items():
        by_unit.setdefault(verdict.trial.batch.layout[key].unit, []).append(layout)
    units = "; ".join(f"{unit} in {', '.join(names)}" for unit, names in by_unit.items())
    if isinstance(first, Dropped):
        yield f"{key} is not passed in {', '.join(wrong)}."
    elif isinstance(first, MustBeAbsent):
        yield f"{key} is passed where the chunk has no media, in {', '.join(wrong)}."
    elif not isinstance(first, WrongRows):
        yield f"{key} is passed in another shape or with other values, in {', '.join(wrong)}."
    else:
        cuts = [_cut_by(verdict.difference) for verdict in wrong.values()]
        common = [unit for unit in cuts[0] if all(unit in cut for cut in cuts)]
        if common:
            yield f"{key} is cut per {common[0]}, but has one row per {units}."
            if common[0] == "sample" and "image" in by_unit:
                yield "With one row per image, that is right only while each sample has one."
        else:
            yield f"{key} does not get the rows of its samples. It has one row per {units}."


def _cut_by(difference: Difference | None) -> tuple[str, ...]:
    return difference.cut_by if isinstance(difference, WrongRows) else ()


def _rows(verdict: Verdict) -> str:
    """The smallest batch, and what its first wrong call gets."""
    one = verdict.difference
    assert one is not None
    samples = ", ".join(map(str, one.samples))
    single = len(one.samples) == 1
    who = f"sample {samples} gets" if single else f"samples {samples} get"
    own, given = _spans(one.expected), _spans(one.actual)
    if own == given:
        whose = "its" if single else "their"
        where = verdict.trial.layout
        return f"With {verdict.trial}: {who} {whose} own rows, but not as they are ({where})."
    gets = "nothing" if isinstance(one, Dropped) else f"rows {given}"
    owns = "its rows are" if single else "their rows are"
    return f"With {verdict.trial}: {who} {gets}, but {owns} {own} ({verdict.trial.layout})."


def _spans(rows: Rows | None) -> str:
    if rows is None or not rows.ranges:
        return "none"
    spans = [f"{start}:{stop}" if start >= 0 else "others" for start, stop in rows.ranges]
    return ", ".join(spans[:SPANS]) + (", …" if len(spans) > SPANS else "")


def _remedy(difference: Difference) -> str:
    if isinstance(difference, Dropped):
        return "Pass it with the rows of the chunk's samples; see `vlmdebug export`."
    if isinstance(difference, MustBeAbsent):
        return "Leave the key out of chunks without media; see `vlmdebug export`."
    if not isinstance(difference, WrongRows):
        return "Cut it along its first dimension only; see `vlmdebug export`."
    return "Cut by running totals of what the rows count; see `vlmdebug export`."


def _marked(source: str, column: int, end: int, width: int) -> list[str]:
    """The line of source, or the stretch of it around the code, with carets below the code."""
    own = source.strip()
    if not own:
        return []
    left = len(source) - len(source.lstrip())
    room = width - len(INDENT)
    at, stop = max(column - 1 - left, 0), min(end - 1 - left, len(own))
    first = 0
    if len(own) > room and stop > room - 1:
        first = max(min(at - room // 4, len(own) - room), 0)
    before, code, after = own[first:at], own[at:stop], own[stop : first + room]
    if first:
        before = f"…{before[1:]}"
    shown = one_line(f"{before}{code}{after}")
    carets = "^" * max(len(one_line(code)), 1)
    if len(shown) > room:
        shown = f"{shown[: room - 1]}…"
    marks = f"{' ' * len(one_line(before))}{carets}"[:room]
    return [f"{INDENT}{shown}", f"{INDENT}{marks}"]


def wrapped(line: str, width: int = WIDTH, indent: str = INDENT) -> str:
    """A sentence in lines."""
    return textwrap.fill(
        line, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
