"""A report as Markdown that reads on GitHub."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vlmdebug.core.mismatch import UNCHECKED, Finding
from vlmdebug.core.record import Record, Verdict
from vlmdebug.safe import one_line, plain
from vlmdebug.views import rows
from vlmdebug.views.sentences import opening_sentence, slices

MOST_CHUNKS = 64
MOST_ITEMS = 32


def to_markdown(report: Record) -> str:
    """The verdict, a list item per root cause, a table of chunks."""
    verdict = {Verdict.OK: "✓ OK", Verdict.MISMATCH: "✗ MISMATCH"}.get(
        report.verdict, f"? {report.verdict}"
    )
    lines = [f"**vlmdebug check: {verdict}** · {_safe(rows.subject(report))}", ""]
    lines += [_safe(opening_sentence(report)), ""]
    items = [_finding(report, finding) for finding in report.findings[:MOST_ITEMS]]
    items += [
        f"**{UNCHECKED} ? AMBIGUOUS** {_broken(text)}" for text in report.ambiguities[:MOST_ITEMS]
    ]
    lines += [f"- {item}" for item in items]
    counts = [f"- {_safe(line)}" for line in rows.count_lines(report)]
    return "\n".join([*lines, *_table(report), *([""] if counts else []), *counts]) + "\n"


def _finding(report: Record, finding: Finding) -> str:
    head = f"**{_safe(finding.code)} {rows.title(finding)}** ({finding.loudness})"
    lines = [_safe(f"{sign} {one_line(text)}") for sign, text in slices(report, finding)]
    return "<br>".join([head, _broken(finding.message), *lines])


def _table(report: Record) -> list[str]:
    chunks, left = rows.visible_chunks(report, MOST_CHUNKS)
    if not chunks:
        return []
    groups = rows.column_groups(report)[: rows.MOST_KEYS]
    heads = ["verdict", *rows.fact_heads(report), *(", ".join(group) for group in groups)]
    rules = [":--", *["--:"] * (len(heads) - len(groups) - 1), *[":--"] * len(groups)]
    lines = ["", _row(heads), f"| {' | '.join(rules)} |"]
    for line in chunks:
        cells = [rows.cell(rows.state(line.chunk, group[0])) for group in groups]
        lines.append(_row([line.words, *rows.facts(report, line), *cells]))
    after = [_safe(rows.omitted_note(report, left)), _safe(rows.right(report))]
    return lines + [part for text in after if text for part in ("", text)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_safe(cell, 80) for cell in cells)} |"


def _broken(text: str) -> str:
    return "<br>".join(_safe(line) for line in plain(text).split("\n"))


def _safe(text: object, limit: int = 2000) -> str:
    """Text on one line with its markup shown, not rendered.

    GitHub makes links of `@name` and `#1` after it has read the Markdown, whatever is escaped;
    an empty comment between the two characters stops it.
    """
    shown = one_line(text, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    shown = re.sub(r"([\\`*_\[\]|~!])", r"\\\1", shown)
    return re.sub(r"([@#])(?=\w)", r"\1<!-- -->", shown)
