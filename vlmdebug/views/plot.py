"""Planned against used rows as a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vlmdebug.errors import VlmDebugError
from vlmdebug.report import ChunkReport, Report
from vlmdebug.views import rows
from vlmdebug.views.safe import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CHUNKS = 64
BLUE, VERMILLION = "#0072B2", "#D55E00"


def plot(report: Report, ax: Axes | None = None) -> Axes:
    """One line per chunk: rows planned as outlines, rows used as bars, wrong ones hatched.

    The key drawn is the first that is wrong, or the first media key.

    Raises:
        VlmDebugError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise VlmDebugError(
            "matplotlib is not installed, but plot() draws with it. "
            "Install it: pip install 'vlmdebug[plot]'"
        ) from error
    key = _key(report)
    chunks, left = rows.drawn(report, MOST_CHUNKS)
    if ax is None:
        ax = Figure(figsize=(8, 1.6 + 0.32 * len(chunks)), layout="constrained").subplots()
    for line, (_, chunk) in enumerate(chunks):
        _draw(ax, line, chunk, key)
    ax.set_yticks(range(len(chunks)), [_label(index, chunk) for index, chunk in chunks])
    ax.set_ylim(len(chunks) - 0.4, -0.6)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel(f"rows of {plain(key, 60)} ({plain(report.layout.get(key, ''), 60)})")
    more = f"\n{rows.left_out(report, left)}" if left else ""
    ax.set_title(plain(rows.headline(report), 120) + more, loc="left", fontsize="medium")
    ax.legend(
        handles=[
            Patch(facecolor="none", edgecolor="black", label="planned"),
            Patch(facecolor=BLUE, label="used, right"),
            Patch(facecolor=VERMILLION, hatch="////", edgecolor="white", label="used, wrong"),
        ],
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        frameon=False,
    )
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def _key(report: Report) -> str:
    wrong = (m.key for m in report.mismatches if m.key and m.key in report.layout)
    media = (key for key, axis in report.layout.items() if "padded" in axis or "sample" not in axis)
    return next(wrong, None) or next(media, None) or next(iter(report.layout), "input_ids")


def _draw(ax: Axes, line: int, chunk: ChunkReport, key: str) -> None:
    found = chunk.keys.get(key)
    if found is None:
        return
    look: dict[str, Any] = (
        {"facecolor": BLUE}
        if found.ok
        else {"facecolor": VERMILLION, "hatch": "////", "edgecolor": "white"}
    )
    for start, stop in found.used.ranges if found.used else ():
        if start >= 0:
            ax.barh(line, stop - start, left=start, height=0.5, **look)
    for start, stop in found.planned.ranges if found.planned else ():
        ax.barh(line, stop - start, left=start, height=0.8, fill=False, edgecolor="black")


def _label(index: int, chunk: ChunkReport) -> str:
    return f"chunk {index}  {'ok' if chunk.ok else 'MISMATCH'}"
