"""The review of one file: every function about media, within a limit of steps.

The steps are the expressions and statements that are interpreted. Functions that are not about
media cost none, and are read no further than their names.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence

from vlmdebug.errors import BadInput
from vlmdebug.review import notebooks
from vlmdebug.review.entry import Entry, entries
from vlmdebug.review.files import Raw, ignored, text_of
from vlmdebug.review.module import Module
from vlmdebug.review.reading import STEPS, Reading
from vlmdebug.review.remarks import Remarks
from vlmdebug.review.result import Review
from vlmdebug.review.trials import Trial, trials
from vlmdebug.safe import one_line

FILE_STEPS = 10 * STEPS
"""Steps for all functions of a file; those after them are listed as not judged."""


def review_of(
    raw: Raw, families: tuple[str, ...] | None = None, lines: frozenset[int] | None = None
) -> Review:
    """The review of a file or notebook, by its bytes.

    Raises:
        BadInput: It is no Python source, or no family has that name.
    """
    if not raw.is_notebook:
        return review_text(text_of(raw), raw.name, families, lines)
    notebook = notebooks.Notebook(raw)
    found = review_text(notebook.text, raw.name, families)
    return notebook.located(found)


def review_text(
    text: str,
    name: str,
    families: tuple[str, ...] | None = None,
    lines: frozenset[int] | None = None,
) -> Review:
    """The review of source; of the functions that have one of these lines, if any are given.

    Raises:
        BadInput: It is no Python source, or no family has that name.
    """
    known = trials(families)
    rows = text.split("\n")
    module = Module(tree_of(text, name), rows)
    meant = [
        entry
        for entry in entries(module)
        if (lines is None or not lines.isdisjoint(lines_of(entry))) and entry.is_about()
    ]
    return Review.joined(_reviews(meant, known, name, rows))


def tree_of(text: str, name: str) -> ast.Module:
    """The syntax tree of source.

    Raises:
        BadInput: It has none.
    """
    try:
        return ast.parse(text)
    except (RecursionError, MemoryError):
        why = "its expressions or blocks are nested too deeply for Python's own parser"
        raise BadInput(f"{name} cannot be read: {why}. Nothing of it was reviewed.") from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        raise BadInput(
            f"{name} is not Python source: {getattr(error, 'msg', error)}"
            f"{f' (line {line})' if line else ''}. Nothing of it was reviewed."
        ) from None


def lines_of(entry: Entry) -> range:
    """The lines of a function, decorators included."""
    first = min([entry.node.lineno, *(one.lineno for one in entry.node.decorator_list)])
    return range(first, (entry.node.end_lineno or first) + 1)


def _reviews(
    meant: Sequence[Entry], known: Mapping[str, Sequence[Trial]], name: str, rows: Sequence[str]
) -> Iterator[Review]:
    left = FILE_STEPS
    for place, entry in enumerate(meant):
        if left <= 0:
            yield _out_of_steps(meant[place:], name)
            return
        reading = Reading(entry, known, min(STEPS, left))
        left -= reading.taken
        found = Remarks(reading, name, rows)
        own = [one for one in found.remarks if not ignored(one.source, one.code)]
        remarks = tuple(sorted(own, key=lambda remark: remark.line))
        yield Review(remarks, tuple(found.not_judged), found.agreeing, 1, tuple(found.never_run))


def _out_of_steps(rest: Sequence[Entry], name: str) -> Review:
    first = rest[0]
    more = f" and {len(rest) - 1} more functions about media" if len(rest) > 1 else ""
    why = f"the functions above took the {FILE_STEPS:,} steps that are read of a file"
    line = one_line(f"{name}:{first.node.lineno}: {first.path}{more} ({why})")
    return Review(not_judged=(line,), functions=len(rest))
