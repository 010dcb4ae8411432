"""A report as plain text of at most 80 columns, or of another width, without colour.

It is what every other view falls back to, so a part that fails leaves its reason in place.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from vlmdebug.core.code_pages import page
from vlmdebug.core.mismatch import CODES, UNCHECKED, Finding
from vlmdebug.core.record import Record
from vlmdebug.safe import harmless, one_line, plain
from vlmdebug.views import rows
from vlmdebug.views.sentences import opening_sentence, slices

WIDTH = 80
MOST_CHUNKS = 12
MOST_PARAGRAPHS = 8
MOST_CELL = 36


def to_text(report: Record, width: int = WIDTH) -> str:
    """The verdict, what happened, a paragraph per root cause, a table of chunks, the counts."""
    parts = (_head, _sentence, _findings, _ambiguities, _rows)
    blocks = [_guarded(part, report, width) for part in parts]
    return harmless("\n\n".join(block for block in blocks if block))


def to_line(report: Record) -> str:
    """A report that is OK in one line: `vlmdebug check: gemma4 batch, 3 samples: OK (…)`."""
    done = ", ".join(one.what for one in report.compared if one.against is not None)
    compared = f"{done} compared" if done else "no media in it"
    return one_line(f"vlmdebug check: {rows.headline(report)} ({compared})")


def _guarded(part: Callable[[Record, int], str], report: Record, width: int) -> str:
    try:
        return part(report, width)
    except Exception as error:  # debugging must not break the cell
        name = part.__name__.strip("_")
        reason = f"(the {name} cannot be shown: {type(error).__name__}: {error})"
        return "\n".join(wrapped(reason, width=width))


def _head(report: Record, width: int) -> str:
    return "\n".join(
        wrapped(f"vlmdebug check: {one_line(rows.headline(report))}", then="  ", width=width)
    )


def _sentence(report: Record, width: int) -> str:
    """The sentence of the worst finding, unless its message begins with the same one."""
    said = opening_sentence(report)
    if not report.findings or report.findings[0].message[1:].startswith(said[1:]):
        return ""
    return "\n".join(wrapped(one_line(said), width=width))


def _rows(report: Record, width: int) -> str:
    """The table, then the counts."""
    return "\n".join(filter(None, [_guarded(part, report, width) for part in (_table, _counts)]))


def _counts(report: Record, width: int) -> str:
    """How many of each unit the samples have, and what was compared with what."""
    lines = [wrapped(one_line(line), then="  ", width=width) for line in rows.count_lines(report)]
    return "\n".join(part for line in lines for part in line)


def _findings(report: Record, width: int) -> str:
    blocks = [
        "\n".join(
            [
                *wrapped(
                    f"{finding.code} {rows.title(finding)}: {finding.loudness}",
                    then="  ",
                    width=width,
                ),
                *wrapped(finding.message, "  ", "    ", width=width),
                *_slices(report, finding, width),
            ]
        )
        for finding in report.findings[:MOST_PARAGRAPHS]
    ]
    return "\n\n".join([*blocks, *_more(len(report.findings), "findings")])


def _slices(report: Record, finding: Finding, width: int) -> list[str]:
    """The slices of the worst chunk, as a diff."""
    lines = [f"{sign} {one_line(text)}" for sign, text in slices(report, finding)]
    return [part for line in lines for part in wrapped(line, "    ", "      ", width=width)]


def _ambiguities(report: Record, width: int) -> str:
    shown = report.ambiguities[:MOST_PARAGRAPHS]
    blocks = [
        "\n".join(wrapped(f"{UNCHECKED} AMBIGUOUS {text}", then="  ", width=width))
        for text in shown
    ]
    return "\n\n".join([*blocks, *_more(len(report.ambiguities), "ambiguities")])


def _more(count: int, noun: str) -> list[str]:
    left = count - MOST_PARAGRAPHS
    return [f"… {left} more in report.{noun}"] if left > 0 else []


def _table(report: Record, width: int) -> str:
    lines, left = rows.visible_chunks(report, MOST_CHUNKS)
    if not lines:
        return ""
    groups = rows.column_groups(report)
    keys = [group[0] for group in groups[: rows.MOST_KEYS]]
    grid = [["", *rows.fact_heads(report), *keys]]
    for line in lines:
        cells = [rows.cell(rows.state(line.chunk, key)) for key in keys]
        grid.append([line.words, *rows.facts(report, line), *cells])
    fixed = len(grid[0]) - len(keys)
    if report.chunk_size is None and report.ok:  # no verdict on what was not cut
        grid, fixed = [row[1:] for row in grid], fixed - 1
    said = fitted(grid, fixed, width)
    if left:
        said += wrapped(rows.omitted_note(report, left), then="  ", width=width)
    for group in groups:
        if others := ", ".join(group[1:]):
            known = any(rows.is_known(rows.state(chunk, group[0])) for chunk in report.chunks)
            same = f"the same rows as {one_line(group[0])}" if known else "cannot tell either"
            said += wrapped(f"{one_line(others)}: {same}", then="  ", width=width)
    if hidden := len(groups) - len(keys):
        said.append(f"… {hidden} more keys in report.chunks")
    said += wrapped(one_line(rows.right(report)), then="  ", width=width)
    return "\n".join(said)


def fitted(grid: Sequence[Sequence[str]], fixed: int, width: int = WIDTH) -> list[str]:
    """Columns side by side; those that do not fit go below, next to the first two again."""
    safe = [[_clipped(text) for text in row] for row in grid]
    widths = [max(map(len, column)) for column in zip(*safe, strict=True)]
    lines: list[str] = []
    for part in _parts(widths, fixed, width):
        lines += [""] if lines else []
        for row in safe:
            cells = (
                row[i].rjust(widths[i]) if row[i].isdigit() else row[i].ljust(widths[i])
                for i in part
            )
            line = "  ".join(cells).rstrip()
            lines.append(line if len(line) <= width else f"{line[: width - 1]}…")
    return lines


def _parts(widths: Sequence[int], fixed: int, width: int) -> list[list[int]]:
    """Column numbers of each table; later ones repeat the first two, verdict and number."""
    parts = [list(range(min(fixed, 2)))]
    for column in range(len(parts[0]), len(widths)):
        used = sum(widths[i] + 2 for i in parts[-1])
        if used + widths[column] > width:
            parts.append([0, 1])
        parts[-1].append(column)
    return parts


def _clipped(text: str) -> str:
    safe = one_line(text)
    return safe if len(safe) <= MOST_CELL else f"{safe[: MOST_CELL - 1]}…"


def wrapped(text: str, first: str = "", then: str = "", width: int = WIDTH) -> list[str]:
    """Lines of at most `width` columns; each line of `text` begins one."""
    return [
        piece
        for line in plain(text).split("\n")
        for piece in textwrap.wrap(line, width, initial_indent=first, subsequent_indent=then)
    ]


def to_rich(report: Record) -> Any:
    """The same text for rich, in the terminal's own colours; every verdict is a word first."""
    return coloured(to_text(report))


def coloured(said: str) -> Any:
    """Text with verdicts and codes picked out for rich; a code is a link to its page."""
    from rich.text import Text

    text = Text(said, no_wrap=True, overflow="ignore")
    text.highlight_regex(r"\bMISMATCH( (silent|loud))?", "bold red")
    text.highlight_regex(r"\bVLM\d{3}\b", _linked)
    text.highlight_regex(r"\b(OK|ok)\b", "bold blue")
    text.highlight_regex(r"\bAMBIGUOUS\b|\bcannot tell\b", "bold")
    return text


def _linked(code: str) -> Any:
    from rich.style import Style

    link = page(code).as_uri() if code in CODES else None
    return Style(bold=True, color="red", link=link)
