"""An audit as one HTML page, for light and dark themes, without scripts."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from vlmdebug.core.wording import many
from vlmdebug.fleet.audit_row import AuditSettings
from vlmdebug.fleet.dialogue import dialogue_of
from vlmdebug.fleet.faults import MEANING
from vlmdebug.fleet.pictures import opened
from vlmdebug.fleet.sources import Block, rows_of
from vlmdebug.fleet.sql import Answer
from vlmdebug.fleet.summary import Summary
from vlmdebug.fleet.table import shown
from vlmdebug.safe import escaped, one_line
from vlmdebug.views.page import TABLES, page, wide

SIDE = 96
"""Longest side of a thumbnail, in pixels."""
THUMBNAILS = 4
"""Images shown of one row."""
STYLE = (
    f"{TABLES}td,th{{vertical-align:top}}tr+tr td{{border-top:1px solid rgba(128,128,128,.35)}}"
    ".n{text-align:right}code{overflow-wrap:anywhere}td code{overflow-wrap:normal}"
    "img{margin:0 .4em .2em 0;border:1px solid rgba(128,128,128,.5)}"
)


def to_page(summary: Summary, blocks: Sequence[Block], settings: AuditSettings) -> str:
    """The whole page."""
    verdict = "✓ no faults" if summary.ok else f"✗ {many(summary.faulty, 'row')} with a fault"
    title = f"{verdict} in {many(summary.rows, 'row')}"
    parts = [
        f"<h1>vlmdebug audit: {escaped(title)}</h1>",
        _section("Faults", _faults(summary)),
        _section("Worst rows", _worst(summary, blocks, settings)),
        _section("Tokens of a row", _bars(summary.ask("lengths"), "tokens from")),
        _section("Images of a row", _bars(summary.ask("images"), "images")),
        _section("Not read", _names(summary.not_read)),
        _section("Not compared", _table(summary.ask("not_compared"))),
        _section("Texts and images that several rows share", _table(summary.ask("duplicates"))),
        _section("Files", _table(summary.ask("files"))),
        f"<p>The table is <code>{escaped(summary.path)}</code>; any SQL can ask it.</p>",
    ]
    return page(title, parts, STYLE)


def _section(title: str, content: str) -> str:
    return f"<h2>{title}</h2>\n{wide(title, content)}" if content else ""


def _rows(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A table; cells are HTML."""

    def marked(cells: Sequence[str], name: str) -> str:
        return "".join(
            f"<{name}{' class=n' if at in right else ''}>{cell}</{name}>"
            for at, cell in enumerate(cells)
        )

    body = "".join(f"<tr>{marked(row, 'td')}</tr>\n" for row in rows)
    return f"<table>\n<thead><tr>{marked(heads, 'th')}</tr></thead>\n<tbody>{body}</tbody></table>"


def _table(answer: Answer) -> str:
    if not answer.rows:
        return ""
    cells = [[escaped(one_line(cell, 200)) for cell in row] for row in answer.rows]
    return _rows([escaped(name.replace("_", " ")) for name in answer.columns], cells)


def _faults(summary: Summary) -> str:
    if summary.ok:
        return "<p>None.</p>"
    first = {name: row for name, _, row in summary.ask("faults").rows}
    cells = [
        [f"<code>{kind.value}</code>", f"{count:,}", str(first[kind.value]), escaped(MEANING[kind])]
        for kind, count in summary.kinds.items()
    ]
    return _rows(("kind", "rows", "first row", "meaning"), cells, right=(1, 2))


def _names(files: Sequence[str]) -> str:
    return "<br>".join(f"<code>{escaped(one_line(shown(file), 200))}</code>" for file in files)


def _bars(answer: Answer, label: str) -> str:
    """A bar for each line of an answer of two numbers, longest at full width."""
    if not answer.rows:
        return ""
    most = max(count for _, count in answer.rows)
    bar = '<svg width="240" height="12" role="img" aria-label="{0}"><rect width="{1:.1f}" '
    bar += 'height="12" fill="#0072B2"/></svg>'
    cells = [
        [str(value), f"{count:,}", bar.format(many(count, "row"), max(1, 240 * count / most))]
        for value, count in answer.rows
    ]
    return _rows((escaped(label), "rows", ""), cells, right=(0, 1))


def _worst(summary: Summary, blocks: Sequence[Block], settings: AuditSettings) -> str:
    if not summary.worst:
        return ""
    cells = []
    for row, file, number, block, inside, details in summary.worst:
        said = "<br>".join(escaped(one_line(detail, 300)) for detail in details)
        place = f"{escaped(one_line(Path(file).name, 80))}, its row {number}"
        pictures = _thumbnails(_row(blocks[block], inside), Path(settings.root))
        cells.append([str(row), place, said, pictures])
    return _rows(("row", "where", "what is wrong", "images"), cells, right=(0,))


def _row(block: Block, number: int) -> Any:
    """A row of the data, read again."""
    return next(islice(rows_of(block), number, None), None)


def _thumbnails(row: Any, root: Path) -> str:
    if not isinstance(row, Mapping):
        return ""
    read = dialogue_of(row, {})
    given = () if isinstance(read, str) else read.media["image"][:THUMBNAILS]
    return "".join(_thumbnail(one, number, root) for number, one in enumerate(given, start=1))


def _thumbnail(given: Any, number: int, root: Path) -> str:
    """One image, small; nothing where it cannot be read, which the fault says."""
    try:
        image = opened(given, root)
        if image is None:
            return ""
        image = image.convert("RGB")
        image.thumbnail((SIDE, SIDE))
        stored = io.BytesIO()
        image.save(stored, "JPEG", quality=70)
    except Exception:  # each image format of Pillow has its own errors
        return ""
    source = b64encode(stored.getvalue()).decode()
    return (
        f'<img alt="image {number}" width="{image.width}" height="{image.height}" '
        f'src="data:image/jpeg;base64,{source}">'
    )
