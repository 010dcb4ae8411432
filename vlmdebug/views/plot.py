"""Planned against used rows as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlmdebug.errors import VlmDebugError
from vlmdebug.plan import Rows
from vlmdebug.report import KeyReport, Report
from vlmdebug.views import rows
from vlmdebug.views.safe import one_line
from vlmdebug.views.strips import BLUE, VERMILLION, rows_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CHUNKS = 64
RIGHT: dict[str, Any] = {"facecolor": BLUE, "edgecolor": BLUE, "linewidth": 0}
WRONG: dict[str, Any] = {
    "facecolor": VERMILLION,
    "edgecolor": "white",
    "linewidth": 0,
    "hatch": "////",
}
PLANNED: dict[str, Any] = {"facecolor": "none", "edgecolor": "#444444", "linewidth": 1.2}


def plot(report: Report, ax: Axes | None = None) -> Axes:
    """One line per chunk: rows planned as outlines, rows used as bars, wrong ones hatched.

    The key drawn is the first that went wrong, or the first media key. Without `ax` a figure is
    made that pyplot does not know of; show it with `ax.figure`, save it with
    `ax.figure.savefig(path)`.

    Raises:
        VlmDebugError: matplotlib is not installed.
    """
    key = _key(report)
    lines, left = rows.drawn(report, MOST_CHUNKS)
    if ax is None:
        ax = _new_axes(len(lines))
    for y, line in enumerate(lines):
        _draw(ax, y, line, key)
    ax.set_yticks(range(len(lines)), [_label(report, line) for line in lines])
    ax.set_ylim(max(len(lines), 1) - 0.4, -0.6)
    ax.set_xlim(0, max(rows_in(report, key), 1) * 1.01)
    ax.set_xlabel(_literal(f"row of {key} ({report.layout.get(key, 'unknown')})"))
    ax.set_title(_title(report, left), loc="left", fontsize="medium")
    _style(ax, small=len(lines) > 12)
    _legend(ax, [rows.state(line.chunk, key) for line in lines])
    return ax


def _new_axes(lines: int) -> Axes:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VlmDebugError(
            "matplotlib is not installed, but plot() draws with it. "
            "Nothing was drawn. Install it: pip install 'vlmdebug[plot]'"
        ) from error
    height = 1.7 + max(0.34 * min(lines, 12), 0.17 * lines)
    return Figure(figsize=(8, height), layout="constrained").subplots()


def _key(report: Report) -> str:
    known = rows.keys(report)
    wrong = (m.key for m in report.mismatches if m.key in known)
    media = rows.media(report)
    return next(wrong, None) or next(iter([*media, *known]), "input_ids")


def _draw(ax: Axes, y: int, line: rows.Line, key: str) -> None:
    found = rows.state(line.chunk, key)
    used, planned = _spans(found.used), _spans(found.planned)
    if used:
        ax.broken_barh(used, (y - 0.25, 0.5), **(RIGHT if found.ok else WRONG))
    if planned:
        ax.broken_barh(planned, (y - 0.36, 0.72), **PLANNED)


def _spans(found: Rows | None) -> list[tuple[float, float]]:
    """First row and number of rows of each range; rows not in the batch have no place."""
    ranges = found.ranges if found else ()
    return [(start, stop - start) for start, stop in ranges if start >= 0]


def _label(report: Report, line: rows.Line) -> str:
    if report.chunk_size is None:
        return f"sample {line.index}" + ("" if line.ok else f": {line.words}")
    return f"chunk {line.index}: {line.words}"


def _title(report: Report, left: int) -> str:
    title = _literal(rows.headline(report))
    return f"{title}\nworst first; {rows.left_out(report, left)}" if left else title


def _literal(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return one_line(text, 120).replace("$", r"\$")


def _style(ax: Axes, *, small: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(axis="y", length=0)
    if small:
        ax.tick_params(axis="y", labelsize="small")
    ax.grid(axis="x", alpha=0.25)
    ax.set_axisbelow(True)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)


def _legend(ax: Axes, drawn: Sequence[KeyReport]) -> None:
    """What the looks mean, for those that occur."""
    from matplotlib.patches import Patch

    looks = [
        ("planned", PLANNED, any(found.planned for found in drawn)),
        ("used, right", RIGHT, any(found.used and found.ok for found in drawn)),
        ("used, wrong", WRONG, any(found.used and not found.ok for found in drawn)),
    ]
    handles = [Patch(**look, label=label) for label, look, occurs in looks if occurs]
    if handles:
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
