"""A report as Markdown that reads on GitHub."""

from __future__ import annotations

import re

from vlmdebug.report import Report
from vlmdebug.views import rows
from vlmdebug.views.safe import plain

MOST_CHUNKS = 64


def to_markdown(report: Report) -> str:
    """The verdict, a list item per root cause, a table of chunks."""
    lines = [f"**vlmdebug check**: {_safe(rows.headline(report))}", ""]
    lines += [f"- {_safe(line)}" for line in rows.counted(report)]
    for finding in report.findings:
        said = "<br>".join(_safe(line) for line in finding.message.splitlines())
        lines.append(f"- **{finding.code} {finding.title}** ({finding.loudness}): {said}")
    lines += [f"- **AMBIGUOUS** {_safe(text)}" for text in report.ambiguities]
    cells, right, left = rows.table(report, MOST_CHUNKS)
    if cells:
        heads = ["", *rows.columns(report)]
        lines += ["", _line(heads), "|" + " --- |" * len(heads)]
        lines += [
            _line(["ok" if ok else "MISMATCH", *row]) for ok, row in zip(right, cells, strict=True)
        ]
    if left:
        lines += ["", rows.left_out(report, left)]
    return "\n".join(lines) + "\n"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(_safe(cell, 60) for cell in cells) + " |"


def _safe(text: object, limit: int = 2000) -> str:
    """Text whose markup shows instead of acting."""
    shown = plain(text, limit).replace("\n", " ").replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", shown)
