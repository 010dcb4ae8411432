"""What a change made wrong or newly exposes: the review after it, without what was there before.

A remark of the base hides one of the change with the same code and text in the same function,
wherever its line moved; or in a function of the same source, whatever its name and file. It hides
none that is wrong in more layouts, or surer.
"""

from __future__ import annotations

import re
import textwrap
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace

from vlmdebug.errors import BadInput
from vlmdebug.review.changes import Change
from vlmdebug.review.entry import entries
from vlmdebug.review.files import Raw, text_of
from vlmdebug.review.many import Request
from vlmdebug.review.module import Module
from vlmdebug.review.notebooks import Notebook
from vlmdebug.review.one_file import lines_of, tree_of
from vlmdebug.review.result import Review

Place = tuple[int | None, int]
"""Cell and line."""
ROWS = frozenset({"VLM001", "VLM002"})
"""Wrong rows: whether they are as many as the right ones depends on the layout alone."""
_PLACE = re.compile(r":(?:cell (\d+):)?(\d+): ")


class Outline:
    """The functions of one file: where they are, and what they say.

    Attributes:
        bodies: The source of each function by its path, without its name and indentation.
        outside: Lines with code in no function.
    """

    def __init__(self, raw: Raw | None) -> None:
        self.bodies: dict[str, str] = {}
        self.outside: set[int] = set()
        self._at: dict[Place, str] = {}
        if raw is None:
            return
        try:
            notebook = Notebook(raw) if raw.is_notebook else None
            text = text_of(raw) if notebook is None else notebook.text
            tree = tree_of(text, raw.name)
        except BadInput:
            return
        rows = text.split("\n")
        self.outside = {n for n, row in enumerate(rows, 1) if row.split("#")[0].strip()}
        for entry in entries(Module(tree)):
            own = lines_of(entry)
            source = textwrap.dedent("\n".join(rows[own.start - 1 : own.stop - 1]))
            self.bodies[entry.path] = source.replace(f"def {entry.node.name}(", "def (", 1)
            self.outside.difference_update(own)
            for line in own:
                self._at[(None, line) if notebook is None else notebook.place(line)] = entry.path

    def function_at(self, place: Place) -> str | None:
        """The path of the function that has a line."""
        return self._at.get(place)


@dataclass(frozen=True)
class Said:
    """A remark, or a line about code that was not judged, as it is compared.

    Attributes:
        what: What it says, without its place.
        function: The function that it is in.
        wrong: The layouts that it names.
        is_sure: Whether it is a finding.
        is_touchy: Whether it is shown again if its function changed in any way.
    """

    what: Hashable
    function: str | None
    wrong: frozenset[str] = frozenset()
    is_sure: bool = False
    is_touchy: bool = False

    def hides(self, other: Said) -> bool:
        return other.wrong <= self.wrong and (self.is_sure or not other.is_sure)


def requests_of(change: Change) -> tuple[Request, Request | None]:
    """What to review of a change: the file after it, and before it."""
    lines = change.lines
    if lines is not None and (
        change.after.is_notebook  # its lines are those of JSON
        or lines & Outline(change.after).outside  # which may matter to every function
    ):
        lines = None
    before = None if change.before is None else Request(change.before)
    return Request(change.after, lines), before


def news(
    changes: Sequence[Change], after: Sequence[Review], before: Sequence[Review]
) -> list[Review]:
    """The reviews after the changes, without what those before have, too."""
    outlines = [(Outline(one.after), Outline(one.before)) for one in changes]
    said = [[*_said(one, own)] for one, (own, _) in zip(after, outlines, strict=True)]
    old = [[*_said(one, own)] for one, (_, own) in zip(before, outlines, strict=True)]
    shown = [[True] * len(own) for own in said]
    for key_of in (_in_place, _moved):
        known: dict[Hashable, list[Said]] = defaultdict(list)
        for file, own in enumerate(old):
            for one in own:
                known[key_of(file, one, outlines[file][1])].append(one)
        for file, own in enumerate(said):
            for place, one in enumerate(own):
                if not shown[file][place] or _is_touched(one, *outlines[file]):
                    continue
                rest = known[key_of(file, one, outlines[file][0])]
                at = next((n for n, other in enumerate(rest) if other.hides(one)), None)
                if at is not None:
                    shown[file][place] = False
                    rest.pop(at)
        left = {id(one) for rest in known.values() for one in rest}
        old = [[one for one in own if id(one) in left] for own in old]
    return [_only(one, own) for one, own in zip(after, shown, strict=True)]


def _in_place(file: int, one: Said, outline: Outline) -> Hashable:
    return file, one.what, one.function


def _moved(file: int, one: Said, outline: Outline) -> Hashable:
    body = outline.bodies.get(one.function or "")
    return (file, one.what, one.function) if body is None else (one.what, body)


def _is_touched(one: Said, after: Outline, before: Outline) -> bool:
    """Whether it is on code that was not judged, in a function that the change rewrites."""
    path = one.function or ""
    return (
        one.is_touchy
        and path in before.bodies
        and after.bodies.get(path) != before.bodies.get(path)
    )


def _said(review: Review, outline: Outline) -> Iterator[Said]:
    """In the order of `_only`."""
    for one in review.remarks:
        what = ROWS if one.code in ROWS else one.code, one.text
        yield Said(what, one.function, frozenset(one.wrong), one.unsure is None)
    for lines, is_touchy in ((review.not_judged, True), (review.never_run, False)):
        for line in lines:
            found = _PLACE.search(line)
            if found is None:
                yield Said(line, None, is_touchy=is_touchy)
                continue
            cell = int(found[1]) if found[1] else None
            function = outline.function_at((cell, int(found[2])))
            yield Said(line[found.end() :], function, is_touchy=is_touchy)


def _only(review: Review, shown: Sequence[bool]) -> Review:
    """The review with what is shown, and the number of what is not."""
    marks = iter(shown)
    remarks = [(one, next(marks)) for one in review.remarks]
    not_judged = tuple(line for line in review.not_judged if next(marks))
    never_run = tuple(line for line in review.never_run if next(marks))
    older = sum(not mark and one.unsure is None for one, mark in remarks)
    return replace(
        review,
        remarks=tuple(one for one, mark in remarks if mark),
        not_judged=not_judged,
        never_run=never_run,
        older=older,
        older_notes=list(shown).count(False) - older,
    )
