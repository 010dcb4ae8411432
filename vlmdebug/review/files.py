"""Files that `review` reads: their names, bytes and encodings."""

from __future__ import annotations

import io
import os
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlmdebug.errors import BadInput
from vlmdebug.review.entry import may_be_about

IGNORE = re.compile(r"#\s*vlmdebug:\s*ignore(?:\[([\w\s,]+)\])?")
SUFFIXES = (".py", ".ipynb")
PASSED_OVER = frozenset({"__pycache__", "node_modules", "site-packages"})
"""Folders that are not entered; nor are hidden ones and virtual environments."""


@dataclass(frozen=True)
class Raw:
    """A file before it is read as source.

    Attributes:
        name: Its name in the review.
        data: Its bytes.
    """

    name: str
    data: bytes

    @property
    def is_notebook(self) -> bool:
        return self.name.endswith(".ipynb")

    @property
    def may_be_about(self) -> bool:
        """Whether it may be about batches with media: a search, many times faster than parsing."""
        return may_be_about(self.data.decode("latin-1"))


def files_of(names: Iterable[str | Path]) -> Iterator[tuple[Path, bool]]:
    """Python files and notebooks, each once, and whether it was found in a folder."""
    seen: set[str] = set()
    for path in map(Path, names):
        is_folder = path.is_dir()
        for file in _within(path) if is_folder else [path]:
            place = os.path.abspath(file)
            if place not in seen:
                seen.add(place)
                yield file, is_folder


def _within(folder: Path) -> list[Path]:
    """The files of a folder; links to folders are not followed."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = [name for name in folders if not _is_passed_over(here / name)]
        found += [here / name for name in files if name.endswith(SUFFIXES)]
    return sorted(path for path in found if path.is_file())


def _is_passed_over(folder: Path) -> bool:
    name = folder.name
    return name.startswith(".") or name in PASSED_OVER or (folder / "pyvenv.cfg").is_file()


def text_of(raw: Raw) -> str:
    """The source of a file, by the encoding that it declares, as Python reads it.

    Raises:
        BadInput: It is not text in that encoding.
    """
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw.data).readline)
        text = raw.data.decode(encoding)
    except (UnicodeDecodeError, SyntaxError, LookupError):
        raise BadInput(f"{raw.name} is not UTF-8 text. Nothing of it was reviewed.") from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def ignored(line: str, code: str) -> bool:
    """Whether a comment on the line says that this code is meant: `# vlmdebug: ignore[VLM001]`."""
    found = IGNORE.search(line)
    if found is None:
        return False
    return found[1] is None or code in re.split(r"[\s,]+", found[1].strip())


def from_here(path: Path) -> str:
    """The path as a person in this folder names it."""
    whole = path.parent.resolve() / path.name  # a link has its own name
    here = Path.cwd()
    return (whole.relative_to(here) if whole.is_relative_to(here) else path).as_posix()
