"""Review slicing code without running it: which tensor is cut by what, on which line.

    print(vlmdebug.review.paths(["trainer.py"]))

Each function is interpreted with small batches of every known layout: its tensors are arrays of the
batch's own values, and what it passes to a model, yields or returns is judged as every other call
is. Nothing of the file is executed. What cannot be known from the source, such as the attributes of
`self`, is unknown, and a condition on it takes both ways. Code that is not judged is listed with
the reason: `falsify` runs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlmdebug.core.given import public
from vlmdebug.errors import BadInput
from vlmdebug.review.diffs import changed_lines
from vlmdebug.review.files import from_here
from vlmdebug.review.fixing import Fix, Fixed, fixed
from vlmdebug.review.many import reviews_of
from vlmdebug.review.one_file import review_text
from vlmdebug.review.remarks import Remark
from vlmdebug.review.result import Review
from vlmdebug.review.run import listed, read_requests

Lines = Mapping[str, frozenset[int]]


@public
def source(
    text: str,
    name: str = "<source>",
    *,
    families: Sequence[str] | None = None,
    lines: frozenset[int] | None = None,
) -> Review:
    """Review Python source code without running it.

    Args:
        text: The source.
        name: Its name in the review.
        families: Layouts to judge by; all known ones by default.
        lines: Review only functions that have one of these lines.

    Raises:
        BadInput: The source is not Python, or no family has that name.
    """
    return review_text(text, name, None if families is None else tuple(families), lines)


@public
def paths(
    names: str | Path | Iterable[str | Path],
    *,
    families: Sequence[str] | None = None,
    lines: Lines | None = None,
) -> Review:
    """Review Python files and notebooks, and those in folders. No `pyproject.toml` is read.

    Args:
        names: Files and folders, or one of them.
        families: Layouts to judge by; all that are known by default.
        lines: By file, the lines that changed; see `changed`. Only functions with one of these are
            reviewed.

    Raises:
        BadInput: A file that was named cannot be read as Python. One in a folder is listed in
            `not_judged`.
        OSError: A file that was named cannot be read.
    """
    read = [*read_requests([names] if isinstance(names, (str, Path)) else names)]
    requests = [
        one if lines is None else replace(one, lines=lines.get(from_here(path), frozenset[int]()))
        for path, one in read
    ]
    found = reviews_of(requests, None if families is None else tuple(families))
    for one, review in zip(requests, found, strict=True):
        if isinstance(review, BadInput) and not one.is_found:
            raise review
    return Review.joined(map(listed, found))


@public
def fixes(
    names: str | Path | Iterable[str | Path],
    *,
    families: Sequence[str] | None = None,
    lines: Lines | None = None,
) -> tuple[Fixed, ...]:
    """The proven changes of files with findings. Nothing is written; see `Fixed.write`.

    A change is offered if interpretation finds nothing wrong after it in any layout and nothing
    new in the file, and if, where torch is installed, `falsify` breaks the function before it and
    not after it. For that, the function is run in a process of its own.

    Args:
        names: Files and folders, or one of them.
        families: Layouts to judge by; all that are known by default.
        lines: By file, the lines that changed; see `changed`.

    Raises:
        BadInput: As for `paths`.
        OSError: A file cannot be read.
    """
    found = paths(names, families=families, lines=lines)
    return tuple(fixed(found.findings, families=families))


@public
def changed(diff: str) -> dict[str, frozenset[int]]:
    """The lines that a unified diff, as of `git diff`, adds or changes, by file.

    Of what it only deletes, they are the lines before and after.

    >>> changed("--- a/cut.py\\n+++ b/cut.py\\n@@ -3,2 +3,3 @@ def cut():\\n a\\n+b\\n c\\n")
    {'cut.py': frozenset({4})}
    """
    return changed_lines(diff)


__all__ = ["Fix", "Fixed", "Remark", "Review", "changed", "fixes", "paths", "source"]
