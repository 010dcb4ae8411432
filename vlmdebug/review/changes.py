"""What a diff or two revisions change: each file before and after.

A diff alone has too little of a file to review it. It is taken back from the file that is here,
or, where the diff was not applied yet, applied to it in memory. Where it fits neither way, the
functions that it touches are reviewed whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmdebug.errors import BadInput
from vlmdebug.review import revisions
from vlmdebug.review.diffs import FileDiff, files_in
from vlmdebug.review.files import SUFFIXES, Raw, from_here
from vlmdebug.safe import one_line

UNAPPLIED = (
    "The diff is not applied here. The files were reviewed as it would leave them, and lines are "
    "counted in those."
)
UNKNOWN = (
    "{} is neither as the diff leaves it nor as it was before. The functions that the diff touches "
    "were reviewed whole, and older findings in them are shown, too."
)


@dataclass(frozen=True)
class Change:
    """A changed file.

    Attributes:
        path: Where it is, or would be.
        after: What is reviewed.
        before: What is older than the change; None for a new file.
        lines: The lines that the change touches, if `before` is not known; else None.
        note: How it was read, where that limits the review.
    """

    path: Path
    after: Raw
    before: Raw | None = None
    lines: frozenset[int] | None = None
    note: str | None = None


def of_revisions(name: str) -> list[Change]:
    """The files that differ between revisions: see `revisions.changed_in`."""
    return [_change(one.path, one.after, one.before) for one in revisions.changed_in(name)]


def of_diff(diff: str, places: Sequence[Path] = ()) -> list[Change]:
    """The Python files and notebooks that a unified diff changes.

    Args:
        diff: The diff.
        places: Files or folders that the review is limited to.

    Raises:
        BadInput: It is no diff, or changes a file that is not here.
    """
    files = files_in(diff)
    if not files:
        raise BadInput(
            "The diff names no file. Nothing was reviewed. Pass a unified diff, as `git diff` "
            "prints it."
        )
    bases = _bases()
    found: list[Change] = []
    missing: list[str] = []
    for one in files:
        if one.new is None or not one.new.endswith(SUFFIXES):
            continue
        change = _of_file(one, bases)
        if change is None:
            missing.append(one.new)
        elif within(change.path, places):
            found.append(change)
    if missing and not (places and found):
        raise BadInput(
            f"The diff changes {one_line(missing[0])}, which is not here. Nothing was reviewed. "
            "Run this where the diff was made, on the changed files, or pass their paths."
        )
    return found


def within(path: Path, places: Iterable[Path]) -> bool:
    """Whether a file is one of the places, or below one; every file is if there are none."""
    whole = path.resolve()
    own = [place.resolve() for place in places]
    return not own or any(whole.is_relative_to(place) for place in own)


def _named(path: Path) -> str:
    """The path from this folder, which may be below the repository's."""
    name = from_here(path)
    return Path(os.path.relpath(name)).as_posix() if Path(name).is_absolute() else name


def _change(path: Path, after: bytes, before: bytes | None, note: str | None = None) -> Change:
    name = _named(path)
    old = None if before is None else Raw(name, before)
    return Change(path, Raw(name, after), old, note=note)


def _bases() -> list[Path]:
    """Folders that the names of a diff may be relative to: this one, and up to the repository."""
    here = Path.cwd()
    above = [here, *here.parents]
    root = next((n for n, folder in enumerate(above) if (folder / ".git").exists()), 0)
    return above[: root + 1]


def _of_file(one: FileDiff, bases: Sequence[Path]) -> Change | None:
    """The change of a file, None if it is not here."""
    here: list[tuple[Path, bytes]] = []
    for base in bases:
        path = base / (one.new or "")
        if path.is_file():
            here.append((path, path.read_bytes()))
    for path, data in here:
        before = one.before(_lines(data))
        if before is not None and one.old is not None:
            return _change(path, data, _bytes(before))
        if before is not None and not any(before):
            return _change(path, data, None)
    if one.old is None:
        after = one.after([])
        if after is not None and not here and not one.is_binary:
            return _change(bases[-1] / (one.new or ""), _bytes(after), None, UNAPPLIED)
    for base in bases:
        path = base / (one.old or "")
        data = path.read_bytes() if one.old is not None and path.is_file() else None
        after = None if data is None else one.after(_lines(data))
        if data is not None and after is not None:
            return _change(base / (one.new or ""), _bytes(after), data, UNAPPLIED)
    if not here:
        return None
    path, data = here[0]
    lines = None if one.is_binary else one.lines
    note = UNKNOWN.format(one_line(_named(path)))
    return Change(path, Raw(_named(path), data), None, lines, note)


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "surrogateescape").split("\n")


def _bytes(lines: Sequence[str]) -> bytes:
    return "\n".join(lines).encode("utf-8", "surrogateescape")
