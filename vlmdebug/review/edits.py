"""Files as they are, byte for byte: edits at places of the syntax tree, and unified diffs.

Everything that is not edited stays as it was: line ends, tabs, encoding, byte order mark, blanks at
the ends of lines, and a missing line end at the end of the file.
"""

from __future__ import annotations

import ast
import codecs
import difflib
import io
import os
import re
import tokenize
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

CONTEXT = 3
"""Lines around a change in a diff."""


@dataclass(frozen=True)
class Edit:
    """Text in place of the characters `start:stop` of a source."""

    start: int
    stop: int
    text: str


class Source:
    """The text of a file, with its lines as Python counts them.

    Attributes:
        text: What `ast.parse` reads; line ends are those of the file.
    """

    def __init__(self, text: str, encoding: str = "utf-8", mark: bytes = b"") -> None:
        self.text: str = text
        self._encoding, self._mark = encoding, mark
        ends = [found.end() for found in re.finditer(r"\r\n|\r|\n", text)]
        self._starts = [0, *ends]

    @classmethod
    def of(cls, data: bytes, name: str) -> Source:
        """The source of a file.

        Raises:
            BadInput: It is not text in its encoding, or would not be the same bytes again.
        """
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
            mark = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
            encoding = "utf-8" if encoding == "utf-8-sig" else encoding
            made = cls(data[len(mark) :].decode(encoding), encoding, mark)
        except (UnicodeError, SyntaxError, LookupError):
            raise BadInput(f"{one_line(name)} is no text in its encoding. It was left.") from None
        if made.data != data:
            raise BadInput(f"{one_line(name)} would not stay as it is. It was left.")
        return made

    @property
    def lines(self) -> list[str]:
        """The lines, without their ends."""
        return re.split(r"\r\n|\r|\n", self.text)

    @property
    def data(self) -> bytes:
        """The bytes of the file."""
        return self._mark + self.text.encode(self._encoding)

    def span(self, node: ast.AST) -> tuple[int, int]:
        """The characters of a node."""
        ends = (("lineno", "col_offset"), ("end_lineno", "end_col_offset"))
        start, stop = (self._at(getattr(node, line), getattr(node, at)) for line, at in ends)
        return start, stop

    def _at(self, line: int, column: int) -> int:
        """The place of a column, which `ast` counts in bytes of UTF-8."""
        start = self._starts[line - 1]
        own = self.text[start : self._starts[line] if line < len(self._starts) else None]
        return start + len(own.encode("utf-8", "surrogatepass")[:column].decode(errors="ignore"))

    def of_node(self, node: ast.AST) -> str:
        """The source of a node, as it is written."""
        start, stop = self.span(node)
        return self.text[start:stop]

    def edited(self, edits: Iterable[Edit]) -> Source:
        """The source with edits, which do not overlap."""
        text, last = self.text, len(self.text)
        for edit in sorted(edits, key=lambda one: one.start, reverse=True):
            assert edit.start <= edit.stop <= last, "edits overlap"
            text, last = text[: edit.start] + edit.text + text[edit.stop :], edit.start
        return Source(text, self._encoding, self._mark)


def moved(spans: Iterable[tuple[int, int]], edits: Iterable[Edit]) -> list[tuple[int, int]]:
    """Where these spans, and what the edits wrote, are after the edits."""
    listed = [*edits]

    def at(place: int) -> int:
        return place + sum(len(e.text) - (e.stop - e.start) for e in listed if e.stop <= place)

    written = [(at(e.start), at(e.start) + len(e.text)) for e in listed]
    return [*((at(start), at(stop)) for start, stop in spans), *written]


def unified(path: Path, before: bytes, after: bytes) -> bytes:
    """A diff that `git apply` takes, in the folder that the path is relative to."""
    name = Path(os.path.relpath(path)).as_posix()
    old, new = (_lines(data) for data in (before, after))
    head = [f"{mark} {_quoted(side + name)}" for mark, side in (("---", "a/"), ("+++", "b/"))]
    found = difflib.unified_diff(old, new, n=CONTEXT, lineterm="\n")
    body = [line for line in found if not line.startswith(("---", "+++")) or line[3:] != " \n"]
    return "\n".join(head).encode() + b"\n" + b"".join(_ended(body))


def _lines(data: bytes) -> list[str]:
    """Lines as git counts them, each byte one character."""
    return re.findall(r"[^\n]*\n|[^\n]+", data.decode("latin-1"))


def _ended(lines: Iterable[str]) -> Iterator[bytes]:
    for line in lines:
        whole = line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        yield whole.encode("latin-1")


def _quoted(name: str) -> str:
    """The name as git writes it."""
    if name.isprintable() and '"' not in name and "\\" not in name:
        return f"{name}\t" if " " in name else name
    raw = name.encode(errors="surrogateescape")
    plain = "".join(
        chr(one) if 32 <= one < 127 and chr(one) not in '"\\' else f"\\{one:03o}" for one in raw
    )
    return f'"{plain}"'
