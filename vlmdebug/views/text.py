"""A report as plain text of at most 80 columns, without colour."""

from __future__ import annotations

import textwrap

from vlmdebug.report import Report
from vlmdebug.views import rows
from vlmdebug.views.safe import plain

WIDTH = 80
MOST_CHUNKS = 12


def to_text(report: Report) -> str:
    """The verdict, how the counts are known, a paragraph per root cause, a table of chunks."""
    blocks = [_head(report), _findings(report), _ambiguities(report), _table(report)]
    return "\n\n".join(block for block in blocks if block)


def _head(report: Report) -> str:
    lines = _wrapped(f"vlmdebug check: {rows.headline(report)}", "", "  ")
    for line in rows.counted(report):
        lines += _wrapped(line, "  ", "    ")
    return "\n".join(lines)


def _findings(report: Report) -> str:
    blocks = []
    for finding in report.findings:
        lines = _wrapped(f"{finding.code} {finding.title}: {finding.loudness}", "", "  ")
        for line in finding.message.splitlines():
            lines += _wrapped(line, "  ", "    ")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def _ambiguities(report: Report) -> str:
    return "\n\n".join(
        "\n".join(_wrapped(f"AMBIGUOUS {text}", "", "  ")) for text in report.ambiguities
    )


def _table(report: Report) -> str:
    cells, right, left = rows.table(report, MOST_CHUNKS)
    if not cells:
        return ""
    heads = [plain(head, 24) for head in rows.columns(report)]
    if report.chunk_size is None:  # a chunk is a sample: one number names both
        heads, cells = heads[1:], [row[1:] for row in cells]
    grid = [
        ["", *heads],
        *(["ok" if ok else "!!", *row] for ok, row in zip(right, cells, strict=True)),
    ]
    if report.chunk_size is None:
        grid = [row[1:] for row in grid]
    lines = _fitted(grid)
    if left:
        lines.append(rows.left_out(report, left))
    wrong = rows.right(report)
    if report.mismatches and report.chunk_size is not None and wrong:
        lines += _wrapped(f"right in every chunk: {', '.join(map(plain, wrong))}", "", "  ")
    return "\n".join(lines)


def _fitted(grid: list[list[str]]) -> list[str]:
    """Columns side by side; those that do not fit beside the first ones go below them."""
    widths = [max(len(plain(row[i], 40)) for row in grid) for i in range(len(grid[0]))]
    fixed = next((i for i, head in enumerate(grid[0]) if head == "features"), 0) + 1
    parts, start = [], fixed
    while True:
        stop, width = start, sum(widths[:fixed]) + 2 * fixed
        while stop < len(widths) and (width + widths[stop] <= WIDTH or stop == start):
            width += widths[stop] + 2
            stop += 1
        parts.append(
            [*range(fixed), *range(start, stop)] if not parts else [*range(2), *range(start, stop)]
        )
        if stop >= len(widths):
            break
        start = stop
    lines: list[str] = []
    for part in parts:
        lines += [""] if lines else []
        for row in grid:
            line = "  ".join(plain(row[i], 40).ljust(widths[i]) for i in part)
            lines.append(line.rstrip()[:WIDTH])
    return lines


def _wrapped(text: str, first: str, then: str) -> list[str]:
    return textwrap.wrap(
        plain(text).replace("\n", " "), WIDTH, initial_indent=first, subsequent_indent=then
    ) or [""]
