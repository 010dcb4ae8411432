"""What changed between two revisions of a git repository, or between one and the working tree."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vlmdebug.errors import BadInput
from vlmdebug.review.files import SUFFIXES
from vlmdebug.safe import one_line

FILE_MODES = ("100644", "100755", "100664")


@dataclass(frozen=True)
class Blob:
    """One changed file: its path, and its bytes on both sides, None where there is no file."""

    path: Path
    before: bytes | None
    after: bytes


def is_revision(name: str) -> bool:
    """Whether git takes the name for revisions: `main`, `HEAD~2`, `main..HEAD`."""
    if name.startswith("-") or "\0" in name or "../" in name or "/.." in name:
        return False
    if ".." in name:
        return True
    return _git_says("rev-parse", "--quiet", "--verify", f"{name}^{{commit}}") is not None


def changed_in(name: str) -> list[Blob]:
    """The Python files and notebooks that differ between revisions.

    Args:
        name: `BASE..HEAD`, `BASE...HEAD` (since they parted), or `BASE`, which is compared with
            the files as they are, also those that git does not know yet.

    Raises:
        BadInput: git is missing, this is no repository, or it has no such revision.
    """
    root = _root()
    old, new = _ends(name)
    words = ["diff", "--raw", "-z", "-M", "--no-abbrev", "--no-ext-diff", "--no-relative"]
    rows = [*_rows(_git(*words, old, *([new] if new else []), "--").split(b"\0"))]
    known = _blobs(root, {mark for row in rows for mark in row[:2] if mark})
    found = []
    for before, after, path in rows:
        file = root / path
        if after and after not in known:
            raise BadInput(
                f"git lacks the contents of {one_line(path)}. Nothing was reviewed. Fetch them."
            )
        data = known[after] if after else _read(file)
        if data is not None:
            found.append(Blob(file, known.get(before) if before else None, data))
    if new is None:
        found += _untracked(root)
    return sorted(found, key=lambda one: one.path)


def _ends(name: str) -> tuple[str, str | None]:
    """The commits of both sides; None for the working tree."""
    if "..." in name:
        left, _, right = name.partition("...")
        ends = _commit(left or "HEAD", name), _commit(right or "HEAD", name)
        base = _git_says("merge-base", *ends)
        if base is None:
            raise BadInput(
                f"The revisions of {one_line(name, 200)} have no common commit here. "
                "Nothing was reviewed. Fetch their history, or pass BASE..HEAD."
            )
        return base, ends[1]
    if ".." in name:
        left, _, right = name.partition("..")
        return _commit(left or "HEAD", name), _commit(right or "HEAD", name)
    return _commit(name, name), None


def _commit(name: str, said: str) -> str:
    found = (
        None
        if name.startswith("-")
        else _git_says("rev-parse", "--quiet", "--verify", f"{name}^{{commit}}")
    )
    if found is None:
        where = "" if name == said else f" of {one_line(said, 200)}"
        raise BadInput(
            f"git knows no revision {one_line(name, 200)}{where} here. Nothing was reviewed. "
            "Fetch it first; in GitHub Actions, give actions/checkout fetch-depth: 0."
        )
    return found


def _rows(parts: Sequence[bytes]) -> Iterator[tuple[str | None, str | None, str]]:
    """The marks of both sides' contents, None where there is none, and the path.

    A file that is to be read from the working tree has no mark either.
    """
    at = 0
    while at + 1 < len(parts):
        old_mode, new_mode, old, new, status = parts[at].decode("ascii").lstrip(":").split()
        paths = 2 if status[0] in "RC" else 1
        path = os.fsdecode(parts[at + paths])
        at += 1 + paths
        if not path.endswith(SUFFIXES) or status[0] == "D" or new_mode not in FILE_MODES:
            continue
        has_old = old_mode in FILE_MODES and set(old) != {"0"}
        yield old if has_old else None, new if set(new) != {"0"} else None, path


def _blobs(root: Path, marks: Iterable[str]) -> dict[str, bytes]:
    """The contents with these marks; those that git lacks, as in a partial clone, are left out."""
    wanted = sorted(marks)
    if not wanted:
        return {}
    out = _git("cat-file", "--batch", given="".join(f"{mark}\n" for mark in wanted).encode())
    found: dict[str, bytes] = {}
    at = 0
    for mark in wanted:
        head, _, _ = out[at : at + 200].partition(b"\n")
        at += len(head) + 1
        size = head.split()[-1]
        if size.isdigit():
            found[mark] = out[at : at + int(size)]
            at += int(size) + 1
    return found


def _untracked(root: Path) -> Iterator[Blob]:
    """Files that git does not know yet, and does not ignore."""
    out = _git("-C", str(root), "ls-files", "-z", "--others", "--exclude-standard")
    for part in out.split(b"\0"):
        path = root / os.fsdecode(part)
        is_meant = path.name.endswith(SUFFIXES) and not path.is_symlink()
        data = _read(path) if is_meant else None
        if data is not None:
            yield Blob(path, None, data)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _root() -> Path:
    found = _git_says("rev-parse", "--show-toplevel")
    if found is None:
        raise BadInput(
            f"{Path.cwd()} is in no git repository with files. Nothing was reviewed. Run this in "
            "one, or pass files, folders or --diff FILE."
        )
    return Path(found)


def _git_says(*words: str) -> str | None:
    """One line of git's, None if it fails."""
    try:
        return os.fsdecode(_git(*words)).strip()
    except BadInput:
        return None


def _git(*words: str, given: bytes = b"") -> bytes:
    """The output of a git command, run in this folder.

    Raises:
        BadInput: git is not installed, or fails.
    """
    options = ["-c", "core.quotePath=false", "-c", "diff.renameLimit=10000"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        ran = subprocess.run(
            ["git", *options, *words], input=given, capture_output=True, env=environment, check=True
        )
    except FileNotFoundError:
        raise BadInput("git is not installed. Nothing was reviewed.") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()
        first = said.splitlines()[0] if said else f"git {words[0]} failed"
        raise BadInput(f"git: {one_line(first, 300)}. Nothing was reviewed.") from None
    return ran.stdout
