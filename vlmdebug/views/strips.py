"""A strip of a tensor's rows per chunk, as a picture that notebooks, sanitisers and themes keep.

Rows planned are an outline, rows used a bar, a dashed one where they are wrong. There is no text
in the picture and no background, so that light and dark themes both read.
"""

from __future__ import annotations

from base64 import b64encode

from vlmdebug.plan import Rows
from vlmdebug.report import KeyReport, Report
from vlmdebug.safe import escaped, one_line
from vlmdebug.views.rows import cell, state

BLUE, VERMILION = "#0072B2", "#D55E00"  # Okabe and Ito
WIDTH, HEIGHT = 128, 14
MOST_RANGES = 12


def strip(found: KeyReport, key: str, total: int) -> str:
    """An `<img>` of one key in one chunk; empty where there are no rows to draw."""
    if not total or not (found.used or found.planned):
        return ""
    data = b64encode(svg(found, total).encode("ascii")).decode("ascii")
    alt = escaped(f"{one_line(key, 80)} of {total} rows: {cell(found)}")
    return f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">'


def svg(found: KeyReport, total: int) -> str:
    """The drawing: a base line for the whole tensor, the rows used, the rows planned."""
    bars = "".join(f"M{x:g} 7h{width:g}" for x, width in _spans(found.used, total))
    boxes = "".join(
        f"M{x:g} 1h{width:g}v12h-{width:g}z" for x, width in _spans(found.planned, total)
    )
    look = f'stroke="{BLUE}"' if found.ok else f'stroke="{VERMILION}" stroke-dasharray="2 1"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" fill="none">',
        f'<path d="M0 7h{WIDTH}" stroke="#8886"/>',
        f'<path d="{bars}" {look} stroke-width="7"/>' if bars else "",
        f'<path d="{boxes}" stroke="#888"/>' if boxes else "",
    ]
    return "".join(parts) + "</svg>"


def _spans(rows: Rows | None, total: int) -> list[tuple[float, float]]:
    """Left end and width of every range, wide enough to be seen."""
    scale = (WIDTH - 2) / total
    ranges = [pair for pair in rows.ranges if pair[0] >= 0] if rows else []
    return [
        (round(1 + min(start * scale, WIDTH - 4), 1), round(max((stop - start) * scale, 3), 1))
        for start, stop in ranges[:MOST_RANGES]
    ]


def rows_in(report: Report, key: str) -> int:
    """Rows of the key in the whole batch, as far as the chunks reach."""
    found = [state(chunk, key) for chunk in report.chunks]
    ends = [stop for f in found for rows in (f.planned, f.used) if rows for _, stop in rows.ranges]
    return max(ends, default=0)
