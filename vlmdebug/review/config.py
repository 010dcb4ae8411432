"""`[tool.vlmdebug]` of a project's `pyproject.toml`, and the options that override it.

The settings of a file are those of the closest `pyproject.toml` above it that has such a table.
Paths and patterns in it are relative to its folder.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import translate
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlmdebug.core.mismatch import CODES
from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

PROJECT = "pyproject.toml"
TABLE = "[tool.vlmdebug]"


@dataclass(frozen=True)
class Pattern:
    """A pattern of files, such as `tests/*` or `generated`, and the folder it is relative to."""

    text: str
    root: Path

    def matches(self, path: Path) -> bool:
        """Whether it matches the path of the file or of a folder above it, or the name of one."""
        whole = path.absolute()
        own = whole.relative_to(self.root) if whole.is_relative_to(self.root) else whole
        meant = self.text.rstrip("/").removeprefix("./") or "*"
        names = [own, *own.parents][: len(own.parts)]
        wanted = [_compiled(one) for one in {meant, meant.removeprefix("**/")}]
        return any(
            one.match(name.as_posix()) or ("/" not in meant and one.match(name.name))
            for name in names
            for one in wanted
        )


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))


@dataclass(frozen=True)
class Settings:
    """What is reported, and of which files.

    Attributes:
        select: Codes that are reported; None for all.
        ignore: Codes that are not.
        exclude: Files and folders that are passed over where nobody named them.
        per_file_ignores: Codes that are not reported in files of a pattern.
        baseline: A file of findings that are accepted.
    """

    select: frozenset[str] | None = None
    ignore: frozenset[str] = frozenset()
    exclude: tuple[Pattern, ...] = ()
    per_file_ignores: tuple[tuple[Pattern, frozenset[str]], ...] = ()
    baseline: Path | None = None

    def excludes(self, path: Path) -> bool:
        return any(pattern.matches(path) for pattern in self.exclude)

    def reports(self, code: str, path: Path) -> bool:
        """Whether findings with this code are reported in this file."""
        if code in self.ignore or (self.select is not None and code not in self.select):
            return False
        return not any(
            code in codes and pattern.matches(path) for pattern, codes in self.per_file_ignores
        )


class Configuration:
    """The settings of each file.

    Args:
        options: Options of the command line by their name in a project's table. They replace the
            project's own; those that are None do not. Patterns are relative to this folder.

    Raises:
        BadInput: An option cannot be used.
    """

    def __init__(self, **options: Any) -> None:
        given = {name: value for name, value in options.items() if value is not None}
        self._options = _read(given, Path.cwd(), "--")
        self._known: dict[Path, Settings] = {}

    def settings_of(self, path: Path) -> Settings:
        """The settings of a file or folder, whether it exists or not.

        Raises:
            BadInput: The project's settings cannot be read.
        """
        folder = (path if path.is_dir() else path.parent).absolute()
        if folder not in self._known:
            self._known[folder] = replace(_project_settings(folder), **self._options)
        return self._known[folder]


def project_root(folder: Path) -> Path:
    """The closest folder above with a `pyproject.toml`, or the folder itself."""
    above = (folder, *folder.parents)
    return next((place for place in above if (place / PROJECT).is_file()), folder)


def _project_settings(folder: Path) -> Settings:
    for place in (folder, *folder.parents):
        file = place / PROJECT
        table = _table(file)
        if table is not None:
            return Settings(**_read(table, place, f"{file}: {TABLE} "))
    return Settings()


def _table(file: Path) -> Mapping[str, Any] | None:
    """The table of a project's file; None if there is no such file or table."""
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
        return None
    except UnicodeDecodeError:
        raise BadInput(f"{file} is not UTF-8 text. Nothing was reviewed.") from None
    if "vlmdebug" not in text:
        return None
    try:
        found: Any = _toml().loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{file} is no TOML: {error}. Nothing was reviewed.") from None
    tools = found.get("tool", {})
    table = tools.get("vlmdebug") if isinstance(tools, dict) else None
    if table is not None and not isinstance(table, dict):
        raise BadInput(f"{file}: tool.vlmdebug is {_shown(table)}, but it is a table: {TABLE}")
    return table


def _toml() -> Any:
    """`tomllib`, or `tomli`, which is the same for Python 3.10."""
    for name in ("tomllib", "tomli"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise BadInput(
        f"Python 3.10 needs tomli to read {TABLE} of a {PROJECT}. Nothing was reviewed. "
        "Install it with: pip install tomli"
    )


# --- values --------------------------------------------------------------------------------


def _read(table: Mapping[str, Any], root: Path, before: str) -> dict[str, Any]:
    """The fields of `Settings` that a table gives; `before` comes before a name in messages.

    Raises:
        BadInput: A name or a value cannot be used.
    """
    found: dict[str, Any] = {}
    for name, value in table.items():
        read = _OPTIONS.get(name)
        if read is None:
            near = get_close_matches(name, _OPTIONS, 1)
            meant = f"did you mean {near[0]}?" if near else f"they are {', '.join(_OPTIONS)}."
            raise BadInput(f"{before}{one_line(name, 80)} is no option; {meant}")
        found[name.replace("-", "_")] = read(value, root, before + name)
    return found


def _codes(value: Any, _: Path, where: str) -> frozenset[str]:
    codes = _texts(value, where, 'a list of codes, such as ["VLM001"]')
    for code in codes:
        if code not in CODES:
            raise BadInput(
                f"{where} has {_shown(code)}, which is no mismatch code. They are {min(CODES)} to "
                f"{max(CODES)}; `vlmdebug explain` lists them."
            )
    return frozenset(codes)


def _selected(value: Any, root: Path, where: str) -> frozenset[str]:
    codes = _codes(value, root, where)
    if not codes:
        raise BadInput(
            f"{where} is empty, so nothing would be reported. Leave it out, or name codes."
        )
    return codes


def _patterns(value: Any, root: Path, where: str) -> tuple[Pattern, ...]:
    texts = _texts(value, where, 'a list of patterns, such as ["generated/*"]')
    return tuple(Pattern(text, root) for text in texts)


def _ignores(value: Any, root: Path, where: str) -> tuple[tuple[Pattern, frozenset[str]], ...]:
    if not isinstance(value, dict):
        takes = 'a table of patterns and codes, such as {"tests/*" = ["VLM001"]}'
        raise BadInput(f"{where} is {_shown(value)}, but it takes {takes}.")
    return tuple(
        (Pattern(text, root), _codes(codes, root, f"{where} of {one_line(text, 80)}"))
        for text, codes in value.items()
    )


def _file(value: Any, root: Path, where: str) -> Path:
    if not isinstance(value, str) or not value:
        raise BadInput(f"{where} is {_shown(value)}, but it takes the path of a file.")
    return root / value


def _texts(value: Any, where: str, takes: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        raise BadInput(f"{where} is {_shown(value)}, but it takes {takes}.")
    return value


def _shown(value: Any) -> str:
    return one_line(repr(value), 80)


_OPTIONS: dict[str, Callable[[Any, Path, str], Any]] = {
    "select": _selected,
    "ignore": _codes,
    "exclude": _patterns,
    "per-file-ignores": _ignores,
    "baseline": _file,
}
