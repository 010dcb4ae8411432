"""A strip of a tensor's rows per chunk, as a picture that notebooks, sanitisers and themes keep.

The marks are those of `vlmdebug.views.marks`. There is no text in the picture and no background,
so that light and dark themes both read.
"""

from __future__ import annotations

from base64 import b64encode

from vlmdebug.core.record import KeyReport, Record
from vlmdebug.core.rows import Rows
from vlmdebug.safe import escaped, one_line
from vlmdebug.views.marks import marks
from vlmdebug.views.rows import cell, state

BLUE, VERMILION = "#0072B2", "#D55E00"  # Okabe and Ito
WIDTH, HEIGHT = 112, 14
MOST_RANGES = 12


def strip(found: KeyReport, key: str, total: int) -> str:
    """An `<img>` of one key in one chunk; empty where there are no rows to draw."""
    marked = marks(found)
    if not total or not (marked.items() or marked.note):
        return ""
    data = b64encode(svg(found, total).encode("ascii")).decode("ascii")
    alt = escaped(f"{one_line(key, 80)} of {total} rows: {cell(found)}")
    return f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">'


def svg(found: KeyReport, total: int) -> str:
    """The drawing: a base line for the whole tensor, and each mark; a cross where no row is one."""
    marked = marks(found)
    cross = f'<path d="M2 3l8 8m0-8l-8 8" stroke="{VERMILION}" stroke-width="2"/>'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" fill="none">',
        f'<path d="M0 7h{WIDTH}" stroke="#8886"/>',
        *(_drawn(name, _spans(rows, total)) for name, rows in marked.items()),
        cross if marked.note and not marked.items() else "",
    ]
    return "".join(parts) + "</svg>"


BARS = {
    "passed": f'stroke="{BLUE}"',
    "altered": f'stroke="{BLUE}"',
    "foreign": f'stroke="{VERMILION}" stroke-dasharray="2 1"',
}
BOXES = {
    "missing": f'stroke="{VERMILION}" stroke-width="1.5" stroke-dasharray="3 2"',
    "altered": f'stroke="{VERMILION}" stroke-width="1.5"',
    "unknown": 'stroke="#888" stroke-dasharray="1 2"',
}


def _drawn(name: str, spans: list[tuple[float, float]]) -> str:
    bars = "".join(f"M{x:g} 7h{width:g}" for x, width in spans)
    boxes = "".join(f"M{x:g} 2h{width:g}v10h-{width:g}z" for x, width in spans)
    return (f'<path d="{bars}" {BARS[name]} stroke-width="8"/>' if name in BARS else "") + (
        f'<path d="{boxes}" {BOXES[name]}/>' if name in BOXES else ""
    )


def _spans(rows: Rows | None, total: int) -> list[tuple[float, float]]:
    """Left end and width of every range, wide enough to be seen."""
    scale = (WIDTH - 2) / total
    ranges = [pair for pair in rows.ranges if pair[0] >= 0] if rows else []
    return [
        (round(1 + min(start * scale, WIDTH - 4), 1), round(max((stop - start) * scale, 3), 1))
        for start, stop in ranges[:MOST_RANGES]
    ]


def rows_in(report: Record, key: str) -> int:
    """Rows of the key in the whole batch, as far as the chunks reach."""
    found = [state(chunk, key) for chunk in report.chunks]
    ends = [
        stop for f in found for rows in (f.expected, f.actual) if rows for _, stop in rows.ranges
    ]
    return max(ends, default=0)
