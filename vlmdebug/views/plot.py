"""A report as matplotlib figures: one key's rows, the lanes of a layout, a map of all chunks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlmdebug.core.record import KeyReport, KeyState, Record
from vlmdebug.core.rows import Rows
from vlmdebug.core.wording import image_name, letter
from vlmdebug.errors import BadInput, VlmDebugError
from vlmdebug.safe import one_line
from vlmdebug.views import rows
from vlmdebug.views.marks import LEGEND, marks
from vlmdebug.views.picture import Box, Cut, Lane, cuts, lanes
from vlmdebug.views.strips import BLUE, VERMILION, rows_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_CHUNKS = 64
SLIVER = 0.03
"""Part of all rows below which wrong rows are named, since they are hardly seen."""
MARKS: dict[str, dict[str, Any]] = {
    "passed": {"facecolor": BLUE, "edgecolor": BLUE, "linewidth": 1},
    "missing": {"facecolor": "none", "edgecolor": VERMILION, "linewidth": 1.5, "linestyle": "--"},
    "foreign": {"facecolor": "none", "edgecolor": VERMILION, "linewidth": 2.5, "hatch": "////"},
    "altered": {"facecolor": BLUE, "edgecolor": VERMILION, "linewidth": 2.5},
    "unknown": {"facecolor": "none", "edgecolor": "#888888", "linewidth": 1.5, "linestyle": ":"},
}
TINTS = ("#0072B2", "#66AAD1")
"""Of neighbouring samples."""
INK = "#777777"
"""Readable on white and on black, for figures with a transparent background."""


def plot(report: Record, ax: Axes | None = None) -> Axes:
    """One line per chunk: owned rows solid where passed, dashed where missing; others hatched.

    The key drawn is the first that went wrong, or the first media key. Without `ax` a figure is
    made that pyplot does not know of; show it with `ax.figure`, save it with
    `ax.figure.savefig(path)`.

    Raises:
        VlmDebugError: matplotlib is not installed.
    """
    key = _key(report)
    lines, left = rows.visible_chunks(report, MOST_CHUNKS)
    if ax is None:
        ax = _new_axes(1.7 + max(0.34 * min(len(lines), 12), 0.17 * len(lines)))
    for y, line in enumerate(lines):
        _draw(ax, y, line, key, rows_in(report, key))
    ax.set_yticks(range(len(lines)), [_label(report, line) for line in lines])
    ax.set_ylim(max(len(lines), 1) - 0.4, -0.6)
    ax.set_xlim(0, max(rows_in(report, key), 1) * 1.01)
    ax.set_xlabel(_literal(f"row of {key} ({report.layout.get(key, 'unknown')})"))
    ax.set_title(_title(report, left), loc="left", fontsize="medium", color=_ink(ax))
    _style(ax, small=len(lines) > 12)
    _legend(ax, [rows.state(line.chunk, key) for line in lines])
    return ax


def plot_lanes(report: Record, ax: Axes | None = None, *, chunk: int | None = None) -> Axes:
    """Which tensor counts what: samples, images and every media key, each as wide as its rows.

    Neighbouring samples differ in colour and hatch; a sample's rows look alike in every lane. With
    `chunk`, the marks of that chunk are drawn instead.

    Raises:
        BadInput: The report has no scene, so that nothing says which rows are which image.
        VlmDebugError: matplotlib is not installed.
    """
    drawn = lanes(report)
    if not drawn:
        raise BadInput(
            "This report does not know which samples own which rows, so its lanes cannot be "
            "drawn. Draw a batch with known images per sample, or check(..., pictures=True)."
        )
    if ax is None:
        ax = _new_axes(0.8 + 0.6 * len(drawn))
    cut = {} if chunk is None else cuts(report, chunk)
    for y, lane in enumerate(drawn):
        if chunk is None:
            _draw_owners(ax, y, lane)
        elif lane.name in cut:
            _draw_cut(ax, y, lane, cut[lane.name])
    names = [f"{_literal(lane.name)}\n{_literal(lane.counts)}" for lane in drawn]
    ax.set_yticks(range(len(drawn)), names)
    ax.set_ylim(len(drawn) - 0.5, -0.5)
    ax.set_xlim(0, 1)
    ax.set_xticks([])
    ax.tick_params(axis="y", length=0)
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(False)
    title = f"{report.family}: rows of each sample"
    if chunk is not None:
        title = f"{rows.subject(report)}: chunk {chunk}"
        _legend(ax, [state for state in report.chunks[chunk].keys.values()])
    ax.set_title(_literal(title), loc="left", fontsize="medium", color=_ink(ax))
    return ax


def _draw_owners(ax: Axes, y: int, lane: Lane) -> None:
    for box in lane.boxes:
        tint = box.sample % len(TINTS)
        ax.broken_barh(
            [(box.start / lane.total, (box.stop - box.start) / lane.total)],
            (y - 0.3, 0.6),
            edgecolor="white",
            linewidth=0.8,
            facecolor=TINTS[tint],
        )
        if len(lane.boxes) <= 24 and box.stop > box.start:
            middle = (box.start + box.stop) / 2 / lane.total
            ax.text(
                middle,
                y,
                _named(box, lane),
                ha="center",
                va="center",
                fontsize="x-small",
                color=("white", "black")[tint],
            )


def _draw_cut(ax: Axes, y: int, lane: Lane, cut: Cut) -> None:
    ax.broken_barh([(0, 1)], (y - 0.25, 0.5), facecolor="#88888830", edgecolor="none")
    for name, found in cut.marks.items():
        spans = [(start / lane.total, count / lane.total) for start, count in _spans(found)]
        if spans:
            ax.broken_barh(spans, (y - 0.3, 0.6), **MARKS[name])
    if cut.marks.note:
        ax.text(
            0.5,
            y,
            _literal(cut.marks.note),
            ha="center",
            va="center",
            fontsize="small",
            color=_ink(ax),
        )


def _named(box: Box, lane: Lane) -> str:
    """`A` for a sample, `A2` for the second image of it."""
    if box.image < 0:
        return letter(box.sample)
    first = min(one.image for one in lane.boxes if one.sample == box.sample)
    return image_name(box.sample, box.image - first)


def plot_map(report: Record, ax: Axes | None = None) -> Axes:
    """Every chunk against every key: right, wrong, or unknown.

    For batches too big to read line by line; wrong cells are crossed, unknown ones dotted.

    Raises:
        VlmDebugError: matplotlib is not installed.
    """
    keys = rows.keys(report)
    if ax is None:
        ax = _new_axes(1.2 + 0.3 * len(keys))
    right, wrong, unknown = [], [], []
    for x, chunk in enumerate(report.chunks):
        for y, key in enumerate(keys):
            found = rows.state(chunk, key)
            cells = right if found.ok else unknown if found.state == KeyState.CANNOT_TELL else wrong
            cells.append((x, y))
    size = max(4, min(60, 2500 / max(len(report.chunks), 1)))
    for cells, label, look in (
        (right, "right", {"color": BLUE, "marker": "s", "alpha": 0.5}),
        (wrong, "wrong", {"color": VERMILION, "marker": "x"}),
        (unknown, "cannot tell", {"color": "#777777", "marker": "."}),
    ):
        if cells:
            ax.scatter(*zip(*cells, strict=True), s=size, label=label, **look)
    ax.set_yticks(range(len(keys)), [_literal(key) for key in keys])
    ax.set_ylim(len(keys) - 0.5, -0.5)
    ax.set_xlabel("chunk" if report.chunk_size is not None else "sample")
    ax.set_title(_literal(rows.headline(report)), loc="left", fontsize="medium", color=_ink(ax))
    _style(ax, small=len(keys) > 12)
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, labelcolor=_ink(ax))
    return ax


def _new_axes(height: float) -> Axes:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VlmDebugError(
            "matplotlib is not installed, but plot() draws with it. "
            "Nothing was drawn. Install it: pip install 'vlmdebug[plot]'"
        ) from error
    from matplotlib import rcParams

    styled = rcParams["text.color"] != "black"  # somebody chose a theme
    ground = rcParams["figure.facecolor"] if styled else "none"
    ax = Figure(figsize=(8, height), layout="constrained", facecolor=ground).subplots()
    if not styled:
        ax.set_facecolor("none")
        ax.tick_params(colors=INK, which="both")
        ax.xaxis.label.set_color(INK)
        for spine in ax.spines.values():
            spine.set_color(INK)
    return ax


def _ink(ax: Axes) -> Any:
    """The colour of the axes' own words."""
    return ax.xaxis.label.get_color()


def _key(report: Record) -> str:
    known = rows.keys(report)
    wrong = (m.key for m in report.mismatches if m.key in known)
    media = rows.media(report)
    return next(wrong, None) or next(iter([*media, *known]), "input_ids")


def _draw(ax: Axes, y: int, line: rows.Line, key: str, total: int) -> None:
    marked = marks(rows.state(line.chunk, key))
    for name, found in marked.items():
        if spans := _spans(found):
            ax.broken_barh(spans, (y - 0.3, 0.6), **MARKS[name])
            if name == "foreign" and sum(count for _, count in spans) < SLIVER * total:
                _point_at(ax, y, spans[0][0] + spans[0][1], str(Rows(found.ranges[:2])))
    if marked.note:
        ax.annotate(
            _literal(marked.note),
            (1, y),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center",
            fontsize="small",
            color=_ink(ax),
        )


def _point_at(ax: Axes, y: int, x: float, text: str) -> None:
    """Name rows that are too narrow to be seen."""
    ax.annotate(
        text,
        (x, y),
        xytext=(4, 0),
        textcoords="offset points",
        va="center",
        fontsize="small",
        color=VERMILION,
    )


def _spans(found: Rows | None) -> list[tuple[float, float]]:
    """First row and number of rows of each range; rows not in the batch have no place."""
    ranges = found.ranges if found else ()
    return [(start, stop - start) for start, stop in ranges if start >= 0]


def _label(report: Record, line: rows.Line) -> str:
    if report.chunk_size is None:
        return f"sample {line.index}" + ("" if line.ok else f": {line.words}")
    return f"chunk {line.index}: {line.words}"


def _title(report: Record, left: list[rows.Line]) -> str:
    title = _literal(rows.headline(report))
    return f"{title}\nworst first; {rows.omitted_note(report, left)}" if left else title


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

    names = {name for found in drawn for name, _ in marks(found).items()}
    handles = [Patch(**MARKS[name], label=LEGEND[name]) for name in LEGEND if name in names]
    if handles:
        ax.legend(
            handles=handles,
            loc="upper left",
            bbox_to_anchor=(1, 1),
            frameon=False,
            labelcolor=_ink(ax),
        )
