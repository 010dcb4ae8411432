"""What a diff or two revisions change: each file before and after.

A diff alone has too little of a file to review it. It is taken back from the file that is here,
or, where the diff was not applied yet, applied to it in memory. Where it fits neither way, the
functions that it touches are reviewed whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
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
    for name, parts in _by_name(files).items():
        change = _of_file(name, parts, bases)
        if change is None:
            missing.append(name)
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


def _by_name(files: Iterable[FileDiff]) -> dict[str, list[FileDiff]]:
    """The parts of the diff on each file that it leaves; a series of patches has several."""
    found: dict[str, list[FileDiff]] = {}
    for one in files:
        if one.new is not None and one.new.endswith(SUFFIXES):
            found.setdefault(one.new, []).append(one)
    return found


def _of_file(name: str, parts: Sequence[FileDiff], bases: Sequence[Path]) -> Change | None:
    """The change of a file, None if it is not here."""
    here = [(path, path.read_bytes()) for base in bases if (path := base / name).is_file()]
    is_new = any(one.old is None for one in parts)
    for path, data in here:
        before = _through(parts, _lines(data), FileDiff.before)
        if before is not None and (not is_new or not any(before)):
            return _change(path, data, None if is_new else _bytes(before))
    if is_new and not here and not any(one.is_binary for one in parts):
        after = _through(parts, [], FileDiff.after)
        if after is not None:
            return _change(bases[-1] / name, _bytes(after), None, UNAPPLIED)
    for base in bases:
        path = base / (parts[0].old or name)
        data = path.read_bytes() if not is_new and path.is_file() else None
        after = None if data is None else _through(parts, _lines(data), FileDiff.after)
        if data is not None and after is not None:
            return _change(base / name, _bytes(after), data, UNAPPLIED)
    if not here:
        return None
    path, data = here[0]
    lines = frozenset(line for one in parts for line in one.lines)
    is_known = not any(one.is_binary for one in parts)
    note = UNKNOWN.format(one_line(_named(path)))
    return Change(path, Raw(_named(path), data), None, lines if is_known else None, note)


def _through(
    parts: Sequence[FileDiff],
    lines: list[str],
    side: Callable[[FileDiff, Sequence[str]], list[str] | None],
) -> list[str] | None:
    """The file on the other side of all parts, which are in order of time or against it."""
    for order in (parts, parts[::-1]):
        found: list[str] | None = lines
        for one in order:
            found = None if found is None else side(one, found)
        if found is not None:
            return found
    return None


def _lines(data: bytes) -> list[str]:
    return data.decode("utf-8", "surrogateescape").split("\n")


def _bytes(lines: Sequence[str]) -> bytes:
    return "\n".join(lines).encode("utf-8", "surrogateescape")
