"""Fixes for findings, each proven before it is offered.

An edit is proven if the interpreter then judges at least what it judged before, in every layout,
and finds nothing wrong with these keys and nothing new in the file; and if, where torch is
installed, `falsify` broke the function before and does not break it any more. What is not proven
is not offered, and listed with the reason.
"""

from __future__ import annotations

import ast
import importlib.util
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.review.candidates import MOST, Edits, candidates
from vlmdebug.review.edits import Source, moved, unified
from vlmdebug.review.entry import Entry, entries
from vlmdebug.review.files import ignored
from vlmdebug.review.keys import nearest
from vlmdebug.review.module import Module
from vlmdebug.review.reading import Reading
from vlmdebug.review.remarks import Remark, Remarks
from vlmdebug.review.trials import Trial, trials
from vlmdebug.review.tried import broken_by
from vlmdebug.safe import one_line

Layouts = Mapping[str, Sequence[Trial]]
Place = tuple[str, str, str]
"""Function, code and text of a finding."""


@dataclass(frozen=True)
class Fix:
    """One proven change of a file.

    Attributes:
        file, line, function, code: Where the finding was, and its code.
        before: The source that was replaced.
        after: What stands there now.
        proof: How it was proven.
    """

    file: str
    line: int
    function: str
    code: str
    before: str
    after: str
    proof: str

    def __str__(self) -> str:
        after = one_line(self.after.strip(" ,"), 80)
        change = f"{one_line(self.before, 80)} -> {after}" if self.before else f"added {after}"
        return f"{one_line(self.file)}:{self.line}: {self.code} {change} ({self.proof})"


@dataclass(frozen=True)
class Fixed:
    """A file and its fixes.

    Attributes:
        path: The file.
        fixes: The changes, in the order in which they were found.
        left: `file:line: CODE text: reason` of each finding that no proven change fixes.
        before, after: The bytes of the file.
    """

    path: Path
    fixes: tuple[Fix, ...]
    left: tuple[str, ...]
    before: bytes
    after: bytes

    @property
    def diff(self) -> bytes:
        """The changes as a unified diff, which `git apply` takes in this folder."""
        return unified(self.path, self.before, self.after) if self.fixes else b""

    def write(self) -> None:
        """Write the file.

        Raises:
            BadInput: It is no longer what was reviewed.
            OSError: It cannot be written.
        """
        if not self.fixes:
            return
        if self.path.read_bytes() != self.before:
            raise BadInput(f"{one_line(self.path)} was changed meanwhile. It was left as it is.")
        self.path.write_bytes(self.after)


def fixed(findings: Iterable[Remark], *, families: Sequence[str] | None = None) -> Iterator[Fixed]:
    """The files of findings, and what of them can be fixed. Nothing is written.

    Findings in notebooks, and in source without a file, are left out.

    Args:
        findings: Of a review.
        families: Layouts that it judged by; all that are known by default.

    Raises:
        OSError: A file cannot be read.
    """
    known = trials(None if families is None else tuple(families))
    by_file: dict[str, set[Place]] = {}
    for one in findings:
        if one.command is not None:
            by_file.setdefault(one.file, set()).add(_place(one))
    for name, wanted in by_file.items():
        path = Path(name)
        try:
            fixer = _Fixer(path, Source.of(path.read_bytes(), name), known, wanted)
        except (BadInput, SyntaxError, ValueError, RecursionError):
            continue  # it is no longer what was reviewed
        yield fixer.run()


@dataclass
class _Function:
    """One function that was read."""

    entry: Entry
    reading: Reading
    remarks: list[Remark]
    not_judged: int

    @cached_property
    def judged(self) -> Counter[tuple[str, str]]:
        """Number of verdicts by key and layout."""
        return self._count(wrong=False)

    @cached_property
    def wrong(self) -> Counter[tuple[str, str]]:
        """Number of wrong ones."""
        return self._count(wrong=True)

    def _count(self, *, wrong: bool) -> Counter[tuple[str, str]]:
        found: Counter[tuple[str, str]] = Counter()
        for (_, key), place in self.reading.places.items():
            for layout, verdicts in place.found.items():
                own = [one for one, _ in verdicts if one.difference is not None or not wrong]
                found[key, layout] += len(own)
        return found

    def keys_at(self, remark: Remark) -> list[str]:
        """The keys that a finding is about."""
        near = nearest(remark.text) if remark.code == "VLM004" else None
        found: dict[str, None] = {} if near is None else {near: None, remark.text: None}
        for (node, key), place in self.reading.places.items():
            if getattr(node, "lineno", 0) == remark.line and any(
                one.difference is not None for own in place.found.values() for one, _ in own
            ):
                found[key] = None
        return [*found]


def _read(source: Source, name: str, known: Layouts) -> dict[str, _Function]:
    """The functions of a file, by name."""
    module, rows = Module(ast.parse(source.text)), source.lines
    found: dict[str, _Function] = {}
    for entry in entries(module):
        if entry.is_about():
            reading = Reading(entry, known)
            remarks = Remarks(reading, name, rows)
            meant = [one for one in remarks.remarks if not ignored(one.source, one.code)]
            found[entry.path] = _Function(entry, reading, meant, len(remarks.not_judged))
    return found


class _Fixer:
    """Fixes one file, finding by finding; each is proven on top of those before."""

    def __init__(
        self, path: Path, source: Source, known: Layouts, wanted: Collection[Place]
    ) -> None:
        self._path, self._source, self._known = path, source, known
        self._before = source.data
        self._functions = _read(source, path.as_posix(), known)
        self._wanted = wanted
        self._written: list[tuple[int, int]] = []

    def remarks(self) -> list[tuple[_Function, Remark]]:
        """The findings that are left, in the order of lines."""
        found = [
            (one, remark)
            for one in self._functions.values()
            for remark in one.remarks
            if remark.unsure is None and _place(remark) in self._wanted
        ]
        return sorted(found, key=lambda pair: (pair[1].line, pair[1].column))

    def run(self) -> Fixed:
        """Fix what can be fixed."""
        fixes: list[Fix] = []
        left: dict[Place, str] = {}
        while True:
            for function, remark in self.remarks():
                same = _place(remark)
                if same in left:
                    continue
                found, why = self._fix(function, remark)
                if found is not None:
                    fixes.append(found)
                    break
                where = f"{remark.file}:{remark.line}: {remark.code} {remark.text}"
                left[same] = f"not fixed: {one_line(where)}: {why}"
            else:
                break
        return Fixed(
            self._path, tuple(fixes), tuple(left.values()), self._before, self._source.data
        )

    def _fix(self, function: _Function, remark: Remark) -> tuple[Fix | None, str]:
        """The first change that is proven, and why there is none."""
        keys, why = function.keys_at(remark), "no change is known that would be right"
        tried = islice(candidates(remark, keys, function.entry, self._source), MOST)
        for edits in tried:
            if self._overlaps(edits):
                continue
            try:
                source = self._source.edited(edits)
                functions = _read(source, self._path.as_posix(), self._known)
            except (SyntaxError, UnicodeError, ValueError, RecursionError):
                continue
            after = functions.get(remark.function)
            if after is None or not self._is_better(function, after, remark, keys, functions):
                continue
            why = self._disproof(source.data, after, keys)
            if why:
                continue
            first = edits[0]
            before = self._source.text[first.start : first.stop]
            self._written = moved(self._written, edits)
            self._source, self._functions = source, functions
            judged = number(len({layout for _, layout in after.judged}), "layout")
            proof = f"read in {judged}, {_ran()}"
            args = (remark.file, remark.line, remark.function, remark.code)
            return Fix(*args, before, first.text, proof), ""
        return None, why

    def _overlaps(self, edits: Edits) -> bool:
        """Whether an edit changes what an earlier one has written."""
        return any(
            edit.start < stop and edit.stop > start
            for edit in edits
            for start, stop in self._written
        )

    def _is_better(
        self,
        before: _Function,
        after: _Function,
        remark: Remark,
        keys: Sequence[str],
        functions: Mapping[str, _Function],
    ) -> bool:
        """Whether the interpreter judges as much as before, and finds less wrong."""
        if after.reading.limit is not None or after.not_judged > before.not_judged:
            return False
        if any(
            after.judged[key, layout] < count and self._may_reach(layout, remark)
            for (key, layout), count in before.judged.items()
        ):
            return False
        if not any(count and key in keys for (key, _), count in after.judged.items()):
            return False
        if any(after.wrong[place] > before.wrong[place] for place in after.wrong):
            return False
        if any(count and key in keys for (key, _), count in after.wrong.items()):
            return False
        gone = Counter(map(_identity, before.remarks))
        gone.subtract(map(_identity, after.remarks))
        if gone[_identity(remark)] < 1 or min(gone.values()) < 0:
            return False
        others = self._functions.keys() - {remark.function}
        return functions.keys() == self._functions.keys() and all(
            self._is_as_right(self._functions[name], functions[name]) for name in others
        )

    def _may_reach(self, layout: str, remark: Remark) -> bool:
        """Whether batches of a layout have the key, if a look-up of it is renamed."""
        near = nearest(remark.text) if remark.code == "VLM004" else None
        return near is None or near in self._known[layout][0].batch.layout

    @staticmethod
    def _is_as_right(before: _Function, after: _Function) -> bool:
        """Whether another function of the file has no new remark and is judged alike."""
        new = Counter(map(_identity, after.remarks)) - Counter(map(_identity, before.remarks))
        less = before.judged - after.judged
        return not new and not less and after.not_judged <= before.not_judged

    def _disproof(self, data: bytes, after: _Function, keys: Collection[str]) -> str:
        """Why running the function does not confirm the change; empty if it does."""
        if not _has_torch():
            return ""
        layouts = {layout for _, layout in after.judged}
        name = f"{self._path}:{after.entry.path}"
        before = broken_by(name, self._source.data, layouts)
        if isinstance(before, str):
            return f"not proven, because falsify cannot judge it: {before}"
        if not any(key in keys for _, _, key in before):
            return "not proven, because falsify finds nothing wrong with it"
        now = broken_by(name, data, layouts)
        if isinstance(now, str):
            return f"not proven, because falsify cannot judge it after the change: {now}"
        wrong = sorted(one for one in now if one not in before or one[2] in keys)
        if wrong:
            family, code, key = wrong[0]
            return f"not proven, because falsify finds {code} {one_line(key)} ({family}) after it"
        return ""


def _place(remark: Remark) -> Place:
    """What a finding is about, wherever its line has moved."""
    return remark.function, remark.code, remark.text


def _identity(remark: Remark) -> tuple[str, str, str]:
    return remark.code, remark.text, remark.message.partition("\n")[0]


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _ran() -> str:
    return "run with generated batches" if _has_torch() else "not run: torch is not installed"
