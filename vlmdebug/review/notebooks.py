"""The code cells of a notebook as one source, and the way back from its lines to cells.

Cells share their names, so they are read as one file. Lines that only IPython understands are
replaced by what keeps the others where they are.
"""

from __future__ import annotations

import ast
import json
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.review.files import Raw
from vlmdebug.review.result import Review
from vlmdebug.safe import one_line

PYTHON_CELLS = frozenset(
    {"capture", "debug", "prun", "pypy", "python", "python3", "time", "timeit"}
)
"""Magics of a cell, of which the rest is Python."""
_PIECE = re.compile(
    r'"""(?:\\.|[^\\])*?"""|"(?:\\.|[^"\\\n])*"'
    r"|'''(?:\\.|[^\\])*?'''|'(?:\\.|[^'\\\n])*'"
    r"|#[^\n]*|\\\n|[^\[({\])}\n\"'\\#]+|.",
    re.DOTALL,
)
"""A string, a comment, a joined line, code without brackets and line ends, or one character."""
_MAGIC = re.compile(r"[ \t]*(?:%|!|\?)|[^\n#'\"=]*=[ \t]*[%!]|[\w.*% \t]+\?{1,2}[ \t]*(?:\n|$)")
"""How a line begins, or reads, that is no Python: `%magic`, `!command`, `x = !command`, `name?`."""
_SHELL_LINE = re.compile(r"(?:[^\n]*\\\n)*[^\n]*")


class Notebook:
    """The code of a notebook.

    Attributes:
        text: The source of all code cells, one below the other.
        broken: `file:cell N:line: text` of the cells that are no Python; `text` is without them.
    """

    def __init__(self, raw: Raw) -> None:
        self._name = raw.name
        self.broken: list[str] = []
        self._cells: list[int] = []
        self._starts: list[int] = []
        sources: list[str] = []
        line = 1
        for number, source in _code_cells(raw):
            read = self._readable(number, source)
            self._cells.append(number)
            self._starts.append(line)
            sources.append(read)
            line += read.count("\n") + 1
        self.text: str = "\n".join(sources)

    def _readable(self, number: int, source: str) -> str:
        """The cell as Python, or as empty lines if it is none."""
        if _parses(source):
            return source
        found = without_magics(source)
        error = _error(found)
        if error is None:
            return found
        where = f"{self._name}:cell {number}:{error.lineno or 1}"
        self.broken.append(one_line(f"{where}: the cell is not Python source: {error.msg}"))
        return "\n" * source.count("\n")

    def located(self, review: Review) -> Review:
        """A review of `text`, with lines counted in their cells."""
        remarks = tuple(
            replace(one, cell=cell, line=line)
            for one in review.remarks
            for cell, line in [self.place(one.line)]
        )
        return replace(
            review,
            remarks=remarks,
            not_judged=(*self.broken, *map(self._moved, review.not_judged)),
            never_run=tuple(map(self._moved, review.never_run)),
        )

    def place(self, line: int) -> tuple[int, int]:
        at = max(bisect_right(self._starts, line) - 1, 0)
        return self._cells[at], line - self._starts[at] + 1

    def _moved(self, said: str) -> str:
        """`file:line: text` as `file:cell N:line: text`."""
        name = one_line(self._name)
        line, _, rest = said.removeprefix(f"{name}:").partition(":")
        if not (said.startswith(f"{name}:") and line.isdigit()):
            return said
        cell, own = self.place(int(line))
        return f"{name}:cell {cell}:{own}:{rest}"


def _code_cells(raw: Raw) -> Iterator[tuple[int, str]]:
    """The number of each code cell, counted from 1 among all cells, and its source.

    Raises:
        BadInput: It is no notebook, or not one of Python.
    """
    try:
        found: Any = json.loads(raw.data.decode("utf-8-sig"))
        about = found.get("metadata", {})
        spec = about.get("language_info", {}).get("name") or about.get("kernelspec", {}).get(
            "language", "python"
        )
        listed = found["cells"] if "cells" in found else found["worksheets"][0]["cells"]
        cells = [
            (number, _source(cell))
            for number, cell in enumerate(listed, 1)
            if cell.get("cell_type") == "code"
        ]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise BadInput(
            f"{raw.name} is not a notebook: it is no JSON with cells. Nothing of it was reviewed."
        ) from None
    if not str(spec).lower().startswith(("python", "ipython")):
        raise BadInput(
            f"{raw.name} is a notebook of {one_line(spec, 40)}, not of Python. "
            "Nothing of it was reviewed."
        )
    yield from cells


def _source(cell: Any) -> str:
    lines = cell.get("source", cell.get("input", ""))
    text = "".join(lines) if isinstance(lines, list) else str(lines)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _parses(source: str) -> bool:
    return _error(source) is None


def _error(source: str) -> SyntaxError | None:
    try:
        ast.parse(source)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError) as error:
        return SyntaxError(str(error) or "it is nested too deeply")
    return None


def without_magics(source: str) -> str:
    r"""The cell without what only IPython understands; every line keeps its place.

    >>> without_magics("%matplotlib inline\nfiles = !ls\nif files:\n    !rm a \\\n    b")
    'pass\nfiles = get_ipython()\nif files:\n    pass\n'
    """
    found = re.match(r"\s*%%(\w*)[^\n]*", source)
    if found is not None:
        blank = re.sub(r"[^\n]", "", found[0])
        if found[1] not in PYTHON_CELLS:
            return "\n" * source.count("\n")
        source = blank + source[found.end() :]
    parts: list[str] = []
    at, depth, begins = 0, 0, True
    while at < len(source):
        if begins and not depth and _MAGIC.match(source, at):
            line = _SHELL_LINE.match(source, at)
            assert line is not None
            parts.append(_replaced(line[0]))
            at, begins = line.end(), False
            continue
        piece = _PIECE.match(source, at)
        assert piece is not None
        text = piece[0]
        depth = max(depth + (text in ("(", "[", "{")) - (text in (")", "]", "}")), 0)
        begins = text == "\n"
        parts.append(text)
        at = piece.end()
    return "".join(parts)


def _replaced(line: str) -> str:
    indent = re.match(r"[ \t]*", line)
    assert indent is not None
    target = re.match(r"([^\n#'\"=%!?]*=)[ \t]*[%!]", line)
    kept = f"{target[1]} get_ipython()" if target else f"{indent[0]}pass"
    return kept + "\n" * line.count("\n")
