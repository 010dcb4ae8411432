"""Review slicing code without running it: which tensor is cut by what, on which line.

    print(vlmdebug.review.paths(["trainer.py"]))

Each function is interpreted with small batches of every known layout: its tensors are arrays of the
batch's own values, and what it passes to a model, yields or returns is judged as every other call
is. Nothing of the file is executed. What cannot be known from the source, such as the attributes of
`self`, is unknown, and a condition on it takes both ways. Code that is not judged is listed with
the reason: `falsify` runs it.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vlmdebug.core.given import public
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.review import formats
from vlmdebug.review.entry import entries
from vlmdebug.review.files import WORDS, changed_lines, files_of, from_here, ignored, text_of
from vlmdebug.review.module import Module
from vlmdebug.review.reading import Reading
from vlmdebug.review.remarks import Remark, Remarks
from vlmdebug.review.trials import trials
from vlmdebug.safe import harmless, one_line

Lines = Mapping[str, frozenset[int]]


@dataclass(frozen=True)
class Review:
    """The result of a review.

    Attributes:
        remarks: Findings, and remarks that depend on a condition that could not be evaluated.
        not_judged: `file:line: text` of cuts with bounds that could not be resolved.
        agreeing: Number of cuts that count what their rows count in every layout that reaches them.
        functions: Number of functions about media.
        never_run: `file:line:` of branches with cuts that no batch of any known layout reaches.
    """

    remarks: tuple[Remark, ...] = ()
    not_judged: tuple[str, ...] = ()
    agreeing: int = 0
    functions: int = 0
    never_run: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Remark, ...]:
        """What is wrong in some layout, whatever the conditions that were not evaluated give."""
        return tuple(remark for remark in self.remarks if remark.unsure is None)

    @property
    def ok(self) -> bool:
        """Whether there are no findings. This is no proof: cuts in `not_judged` were not judged."""
        return not self.findings

    def __add__(self, other: Review) -> Review:
        return Review(
            self.remarks + other.remarks,
            self.not_judged + other.not_judged,
            self.agreeing + other.agreeing,
            self.functions + other.functions,
            self.never_run + other.never_run,
        )

    def __str__(self) -> str:
        parts = [str(remark) for remark in self.findings]
        unsure = [str(remark) for remark in self.remarks if remark.unsure is not None]
        if unsure:
            parts += ["No findings, because a condition could not be evaluated:", *unsure]
        if self.not_judged:
            parts.append("\n".join(["Not judged:", *self.not_judged]))
        if self.never_run:
            never = "Never runs, because no known layout has such a batch:"
            parts.append("\n".join([never, *self.never_run]))
        return harmless("\n\n".join([*parts, self._summary]))

    @property
    def _summary(self) -> str:
        if not self.functions:
            return "No function was found here that cuts the media of a batch."
        return (
            f"Read {number(self.functions, 'function')} about media: "
            f"{number(len(self.findings), 'finding')}, {number(self.agreeing, 'place')} right, "
            f"{len(self.not_judged)} not judged.\n"
            "The order of samples, and samples in no chunk, are not read: run the code with\n"
            "`vlmdebug falsify FILE.py:NAME`."
        )

    def to_json(self) -> str:
        """The whole review as JSON."""
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=1)

    def to_github(self) -> str:
        """The findings as workflow commands, which GitHub shows as notes on the lines."""
        return formats.to_github(self.findings)

    def to_gitlab(self) -> str:
        """The findings as a code quality report of GitLab."""
        return formats.to_gitlab(self.findings)

    def to_sarif(self) -> str:
        """The findings as SARIF 2.1.0, with a notification for all that was not judged."""
        unsure = [remark for remark in self.remarks if remark.unsure is not None]
        return formats.to_sarif(self.findings, unsure, self.not_judged)


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
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise BadInput(
            f"{name} is not Python source: {getattr(error, 'msg', error)}"
            f"{f' (line {line})' if line else ''}. Nothing of it was reviewed."
        ) from None
    known = trials(None if families is None else tuple(families))
    module, rows = Module(tree), text.splitlines()
    total = Review()
    for entry in entries(module):
        own = range(entry.node.lineno, (entry.node.end_lineno or 0) + 1)
        if (lines is not None and lines.isdisjoint(own)) or not entry.is_about():
            continue
        reading = Reading(entry, known)
        found = Remarks(reading, name, rows)
        meant = [one for one in found.remarks if not ignored(one.source, one.code)]
        remarks = tuple(sorted(meant, key=lambda remark: remark.line))
        total += Review(remarks, tuple(found.not_judged), found.agreeing, 1, tuple(found.never_run))
    return total


@public
def paths(
    names: str | Path | Iterable[str | Path],
    *,
    families: Sequence[str] | None = None,
    lines: Lines | None = None,
) -> Review:
    """Review Python files, and those in folders.

    Args:
        names: Files and folders, or one of them.
        families: Layouts to judge by; all that are known by default.
        lines: By file, the lines that changed; see `changed`.

    Raises:
        BadInput: A file that was named cannot be read as Python. One in a folder is listed in
            `not_judged`.
        OSError: A file cannot be read.
    """
    total = Review()
    for path, found in files_of([names] if isinstance(names, (str, Path)) else names):
        own = None if lines is None else lines.get(from_here(path), frozenset[int]())
        try:
            text = text_of(path)
            if found and not WORDS.search(text):
                continue
            total += source(text, path.as_posix(), families=families, lines=own)
        except BadInput as error:
            if not found:
                raise
            total += Review(not_judged=(one_line(error),))
    return total


@public
def changed(diff: str) -> dict[str, frozenset[int]]:
    """The lines that a unified diff, as of `git diff`, adds or changes, by file.

    Of what it only deletes, they are the lines before and after.

    >>> changed("--- a/cut.py\\n+++ b/cut.py\\n@@ -3,2 +3,3 @@ def cut():\\n a\\n+b\\n c\\n")
    {'cut.py': frozenset({4})}
    """
    return changed_lines(diff)


__all__ = ["Remark", "Review", "changed", "paths", "source"]
