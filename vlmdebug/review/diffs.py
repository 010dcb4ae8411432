"""Unified diffs: which files they change, on which lines, and the files before and after.

Lines are text in which bytes that are no UTF-8 are surrogates, so that every file survives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vlmdebug.errors import BadInput

NOTHING = "/dev/null"
PREFIXES = frozenset({("a", "b"), ("i", "w"), ("c", "i"), ("c", "w"), ("o", "w"), ("1", "2")})
"""What git writes before the names of both sides."""
_TITLES = {
    "rename from ": "old",
    "copy from ": "old",
    "rename to ": "new",
    "copy to ": "new",
    "new file mode ": "old",
    "deleted file mode ": "new",
}
"""Lines of git's that name a side, or say that it has no file."""
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}


@dataclass
class Hunk:
    """Lines of both sides: `start` and `lines` of each, from 1."""

    old_start: int
    new_start: int
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    added: set[int] = field(default_factory=set)
    is_whole: bool = True


@dataclass
class FileDiff:
    """What a diff says of one file; `old` is None for a new file and `new` for a deleted one.

    The lines of a binary file are not in the diff.
    """

    old: str | None
    new: str | None
    hunks: list[Hunk] = field(default_factory=list)
    is_binary: bool = False

    @property
    def lines(self) -> frozenset[int]:
        """The new side's lines that are added or changed, and those next to deleted ones."""
        return frozenset(line for hunk in self.hunks for line in hunk.added)

    def before(self, after: Sequence[str]) -> list[str] | None:
        """The lines before the change; None if `after` is not as the diff leaves the file."""
        return self._other(after, [(h.new_start, h.new, h.old) for h in self.hunks])

    def after(self, before: Sequence[str]) -> list[str] | None:
        """The lines after the change; None if `before` is not as the diff expects the file."""
        return self._other(before, [(h.old_start, h.old, h.new) for h in self.hunks])

    def _other(
        self, lines: Sequence[str], hunks: Sequence[tuple[int, list[str], list[str]]]
    ) -> list[str] | None:
        if self.is_binary or not all(hunk.is_whole for hunk in self.hunks):
            return None
        found: list[str] = []
        done = 0
        for start, own, other in hunks:
            at = start - 1 if own else start  # of no lines, `start` is the line before
            if not done <= at <= len(lines) or not _alike(lines[at : at + len(own)], own):
                return None
            found += [*lines[done:at], *other]
            done = at + len(own)
        return [*found, *lines[done:]]


def _alike(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether lines are the same, whatever their ends: a diff may have been mailed or pasted."""
    return len(one) == len(other) and all(
        left.rstrip("\r") == right.rstrip("\r") for left, right in zip(one, other, strict=True)
    )


def files_in(diff: str) -> list[FileDiff]:
    """What a unified diff says of each file, in its order.

    Raises:
        BadInput: It is a combined diff, as of a merge.
    """
    return [*_Parser(diff).files()]


class _Parser:
    """Reads a diff line by line; text around its parts, as of a mail, is passed over."""

    def __init__(self, diff: str) -> None:
        self._lines = diff.split("\n")
        self._at = 0

    def files(self) -> Iterator[FileDiff]:
        """One per header, with its hunks."""
        current: FileDiff | None = None
        old: str | None = None
        while self._at < len(self._lines):
            line = self._lines[self._at].rstrip("\r")
            self._at += 1
            if line.startswith("@@@ "):
                raise BadInput(
                    "The diff is a combined one, as `git show` prints it for a merge. Nothing was "
                    "reviewed. Pass that of two commits: git diff BASE HEAD"
                )
            hunk = _HUNK.match(line)
            if hunk is not None and current is not None:
                current.hunks.append(self._hunk(hunk))
            elif line.startswith("diff --git "):
                if current is not None:
                    yield current
                current = _by_title(line[len("diff --git ") :])
            elif current is not None and not current.hunks and _retitled(current, line):
                continue
            elif line.startswith("--- "):
                old = _unquoted(line[4:])
            elif line.startswith("+++ "):
                if current is not None and current.hunks:
                    yield current
                    current = None
                new = _unquoted(line[4:])
                names = _named(new if old is None else old, new)
                current = FileDiff(*names) if current is None else current
                current.old, current.new = names
                old = None
        if current is not None:
            yield current

    def _hunk(self, head: re.Match[str]) -> Hunk:
        hunk = Hunk(int(head[1]), int(head[3]))
        gone, left = (int(count) if count is not None else 1 for count in (head[2], head[4]))
        line = hunk.new_start
        while (gone or left) and self._at < len(self._lines):
            text = self._lines[self._at]
            mark, rest = text[:1], text[1:]
            if mark == "+" and left:
                hunk.added.add(line)
                hunk.new.append(rest)
                line, left = line + 1, left - 1
            elif mark == "-" and gone:
                hunk.added.update((max(line - 1, 1), max(line, 1)))
                hunk.old.append(rest)
                gone -= 1
            elif mark in (" ", "", "\r") and gone and left:
                hunk.old.append(rest)
                hunk.new.append(rest)
                line, gone, left = line + 1, gone - 1, left - 1
            elif mark != "\\":
                break
            self._at += 1
        hunk.is_whole = not (gone or left)
        return hunk


def _retitled(current: FileDiff, line: str) -> bool:
    """Whether the line is one of git's that says what became of the file."""
    for word, side in _TITLES.items():
        if line.startswith(word):
            name = None if word.endswith("mode ") else _unquoted(line[len(word) :])
            setattr(current, side, name)
            return True
    current.is_binary = current.is_binary or line.startswith(("Binary files ", "GIT binary "))
    return current.is_binary


def _by_title(title: str) -> FileDiff:
    """The names in `a/cut.py b/cut.py`, for changes that give none below: of the mode, say."""
    quoted = re.fullmatch(r'("(?:\\.|[^"\\])*") ("(?:\\.|[^"\\])*")', title)
    if quoted:
        return FileDiff(*_named(_unquoted(quoted[1]), _unquoted(quoted[2])))
    half = len(title) // 2
    return FileDiff(*_named(title[:half], title[half + 1 :]))


def _named(old: str | None, new: str | None) -> tuple[str | None, str | None]:
    """Both names without git's prefixes, None for a side that has no file."""
    ours, theirs = ((name or "").partition("/") for name in (old, new))
    if (ours[0], theirs[0]) in {*PREFIXES, ("b", "b")} or NOTHING in (old, new):
        old, new = _bare(old), _bare(new)
    return (None if old == NOTHING else old), (None if new == NOTHING else new)


def _bare(name: str | None) -> str | None:
    if name is None or name == NOTHING:
        return name
    return re.sub(r"^[abciow12]/", "", name, count=1)


def _unquoted(said: str) -> str:
    """The name of a file: git quotes those with other letters than ASCII's."""
    said = said.strip()
    if not said.startswith('"'):
        return said.partition("\t")[0].removeprefix("./")
    inner = said[1:].rpartition('"')[0]
    raw = re.sub(
        r"\\(?:([0-7]{3})|(.))",
        lambda found: chr(int(found[1], 8)) if found[1] else _ESCAPES.get(found[2], found[2]),
        inner,
    )
    return raw.encode("latin-1", errors="replace").decode(errors="replace").removeprefix("./")


def changed_lines(diff: str) -> dict[str, frozenset[int]]:
    """By file, the lines that a unified diff adds or changes, and those next to what it deletes."""
    found: dict[str, frozenset[int]] = {}
    for one in files_in(diff):
        if one.new is not None:
            found[one.new] = found.get(one.new, frozenset()) | one.lines
    return found
