"""One picture of a batch: samples, images and tensor rows as lanes, and a chunk's cut through them.

Each lane is as wide as all of its rows. What a chunk owns is joined from lane to lane by a band;
what became of its rows is drawn by the marks of `vlmdebug.views.marks`. Only the bands are
stretched with the picture: marks and words are as large in a narrow one. `lanes` is the drawing as
plain data, which the SVG here, the widget and matplotlib all draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from vlmdebug.core.layout import plural
from vlmdebug.core.record import Record, Verdict
from vlmdebug.core.rows import Rows
from vlmdebug.core.scene import Scene
from vlmdebug.core.wording import image_name, letter
from vlmdebug.views import rows as lines
from vlmdebug.views.drawing import (
    BAR,
    HATCH,
    HIDDEN,
    LEAST,
    LOOKS,
    NAMES,
    PITCH,
    SHAPES,
    WIDTH,
    chip,
    fitted,
    path,
    stretched,
)
from vlmdebug.views.marks import LEGEND, Marks, marks, share, without
from vlmdebug.views.packed import rows_of
from vlmdebug.views.strips import BLUE

MOST_LANES = 8
MOST_BOXES = 2000
MOST_MARKS = 200
MOST_NAMES = 64


@dataclass(frozen=True)
class Box:
    """Rows `start:stop` of a lane, with their sample and image (-1: no single image)."""

    start: int
    stop: int
    sample: int
    image: int = -1


@dataclass(frozen=True)
class Lane:
    """One line of the picture.

    Attributes:
        name: `samples`, `images`, or a key of the batch.
        counts: What it counts, in words: `576 patches`.
        total: Its rows.
        boxes: Its parts.
        runs: Where placeholder tokens stand within the rows, `(start, stop, image)`; of `samples`
            alone.
    """

    name: str
    counts: str
    total: int
    boxes: tuple[Box, ...]
    runs: tuple[tuple[float, float, int], ...] = ()


@dataclass(frozen=True)
class Cut:
    """What one chunk owns in one lane, and what became of it."""

    expected: Rows
    marks: Marks


def lanes(report: Record) -> tuple[Lane, ...]:
    """Samples, images, then every media key; none where the report has no scene."""
    scene = report.scene
    if scene is None:
        return ()
    samples = report.samples
    found = [
        Lane(
            "samples",
            _many(samples, "sample"),
            samples,
            tuple(Box(s, s + 1, s) for s in range(samples)),
            tuple(_runs(scene)),
        )
    ]
    images = sum(scene.images)
    if images:
        boxes = tuple(Box(i, i + 1, s, i) for i, s in enumerate(scene.owners))
        found.append(Lane("images", _many(images, "image"), images, boxes))
    for key in keys_of(report):
        lane = _of_key(report, scene, key)
        if lane is not None:
            found.append(lane)
    return tuple(found[:MOST_LANES])


def keys_of(report: Record) -> list[str]:
    """Keys with a lane, where their rows are known: media, and what is wrong in some chunk."""
    wrong = dict.fromkeys(
        key for chunk in report.chunks for key, found in chunk.keys.items() if not found.ok
    )
    return list(dict.fromkeys([*lines.media(report), *wrong]))


def _many(count: int, unit: str) -> str:
    return f"{count} {unit if count == 1 else plural(unit)}"


def _runs(scene: Scene) -> Iterable[tuple[float, float, int]]:
    for sample, runs in enumerate(scene.places):
        for start, stop, image in runs:
            yield sample + start / scene.tokens, sample + stop / scene.tokens, image


def _of_key(report: Record, scene: Scene, key: str) -> Lane | None:
    unit = report.axes[key].unit if key in report.axes else ""
    bounds, owners = scene.bounds(key), scene.owners
    if bounds is not None:
        boxes = [Box(*pair, owners[image], image) for image, pair in enumerate(pairwise(bounds))]
    elif unit in report.counts:
        ends = report.offsets[unit]
        boxes = [Box(*pair, sample) for sample, pair in enumerate(pairwise(ends))]
    else:
        return None
    total = boxes[-1].stop if boxes else 0
    return Lane(key, _many(total, unit), total, tuple(boxes)) if total else None


def cuts(report: Record, chunk: int) -> dict[str, Cut]:
    """What the chunk owns and what became of it, by the name of the lane."""
    scene, found = report.scene, report.chunks[chunk]
    if scene is None:
        return {}
    whole = Rows((s, s + 1) for s in found.samples if 0 <= s < len(scene.images))
    ends = (0, *accumulate(scene.images))
    images = Rows((ends[sample], ends[sample + 1]) for sample in whole)
    of_keys = {
        key: Cut(state.expected or Rows(), marks(state)) for key, state in found.keys.items()
    }
    return {
        "samples": Cut(whole, _of_samples(report, chunk, whole)),
        "images": Cut(images, _of_images(report, scene, images, of_keys)),
        **of_keys,
    }


def _of_samples(report: Record, chunk: int, whole: Rows) -> Marks:
    """Solid, unless the fault of the chunk is one of its samples and of none of its keys."""
    found = report.chunks[chunk]
    ids = lines.state(found, "input_ids")
    if not ids.ok:
        return marks(ids)
    if any(not key.ok for key in found.keys.values()) or rows_of(report, chunk):
        return Marks(passed=whole)  # packed rows have a picture of their own
    if lines.chunk_verdicts(report)[chunk].verdict is not Verdict.MISMATCH:
        return Marks(passed=whole)
    counts = (found.placeholders, found.features)
    note = "" if None in counts else f"{counts[0]} placeholders, {counts[1]} features"
    return Marks(altered=whole, note=note if counts[0] != counts[1] else "")


def _of_images(report: Record, scene: Scene, own: Rows, keys: dict[str, Cut]) -> Marks:
    """An image is missing where a key lacks some of its rows."""
    media = {key: cut.marks for key, cut in keys.items() if lines.kind(report, key) == "media"}
    if any(marked.unknown for marked in media.values()):
        return Marks(unknown=own)
    lost, given = (
        {i for k, m in media.items() for i in scene.images_in(k, getattr(m, name))}
        for name in ("missing", "foreign")
    )
    missing = Rows.of(sorted(lost & set(own)))
    return Marks(without(own, missing), missing, Rows.of(sorted(given - set(own))))


def height(drawn: Sequence[Lane]) -> int:
    """Height of the picture in pixels."""
    return PITCH * len(drawn)


def svg(report: Record, chunk: int | None) -> str:
    """The whole picture as a separate file; `chunk` is the chunk of the drawn cut."""
    drawn = lanes(report)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="100%" height="{height(drawn)}">'
        f"{HIDDEN}{outlines(drawn)}{overlay(report, chunk, drawn) if chunk is not None else ''}"
        "</svg>"
    )


def outlines(drawn: Sequence[Lane]) -> str:
    """Every lane with a line between its boxes; placeholder tokens as bars in their samples."""
    parts: list[str] = []
    for index, lane in enumerate(drawn):
        scale, top = WIDTH / lane.total, _top(index)
        edges = {round(box.start * scale, 1) for box in lane.boxes[:MOST_BOXES] if box.start}
        ticks = "".join(f"M{x:g} {top}v{BAR}" for x in sorted(edges))
        frame = f"M0 {top}h{WIDTH}v{BAR}H0z"
        parts.append(f'<path d="{frame}{ticks}" fill="#8882" stroke="#888" stroke-width=".8"/>')
        runs = "".join(
            f"M{start * scale:.5g} {top + BAR // 2}H{stop * scale:.5g}"
            for start, stop, _ in lane.runs[:MOST_BOXES]
        )
        if runs:
            parts.append(f'<path d="{runs}" stroke="#888" stroke-width="8"/>')
    return HATCH + stretched("".join(parts), height(drawn))


def _top(index: int) -> int:
    return index * PITCH + (PITCH - BAR) // 2


def overlay(report: Record, chunk: int, drawn: Sequence[Lane]) -> str:
    """The cut of one chunk: bands through what it owns, and the mark of every row."""
    cut = cuts(report, chunk)
    bands: list[str] = []
    for index, (lane, below) in enumerate(pairwise(drawn)):
        if lane.name in cut and below.name in cut:
            spans = _spans(cut[lane.name].expected, lane)
            bands += _bands(spans, _spans(cut[below.name].expected, below), index)
    samples, boxes, words = report.chunks[chunk].samples, list[str](), list[str]()
    for index, lane in enumerate(drawn):
        if lane.name in cut:
            boxes += _boxes(cut[lane.name].marks, lane, _top(index), samples)
            words += _words(cut[lane.name].marks, lane, _top(index), samples)
    band = path("".join(bands), f'fill="{BLUE}" fill-opacity=".16"')
    parts = stretched(band, height(drawn)) if band else "", *boxes, names(report, drawn), *words
    return "".join(parts)


def names(report: Record, drawn: Sequence[Lane]) -> str:
    """A, B and A1 at the left of boxes that have room for it."""
    scene, parts = report.scene, list[str]()
    for index, lane in enumerate(drawn):
        for box in lane.boxes[:MOST_NAMES]:
            x, end = (place * WIDTH / lane.total for place in (box.start, box.stop))
            if (end - x) / 2 < LEAST:
                continue
            name = letter(box.sample)
            if box.image >= 0 and scene is not None:
                name = scene.name(box.image).removeprefix("image ")
            parts.append(fitted(name, x, _top(index), -0.15, (end - x) / 2, NAMES))
    return "".join(parts)


def _boxes(marked: Marks, lane: Lane, top: int, samples: Sequence[int]) -> Iterable[str]:
    """The marks of one lane; a small one where none of its rows is marked, but a note is."""
    for name, rows in marked.items():
        for x, width in _spans(rows, lane)[:MOST_MARKS]:
            place = f'x="{x / 10:.4g}%" y="{top}" width="{width / 10:.4g}%" height="{BAR}"'
            yield f"<rect {place} {LOOKS[name]}/>"
    if marked.note and not marked.items():
        place = f'x="{_begin(lane, samples) / 10:.4g}%" y="{top - 4}" width="6"'
        yield f'<rect {place} height="{BAR + 8}" {LOOKS["foreign"]}/>'


def _words(marked: Marks, lane: Lane, top: int, samples: Sequence[int]) -> Iterable[str]:
    """`missing` where there is room, and the note."""
    for x, width in _spans(marked.missing, lane)[:MOST_MARKS]:
        yield fitted("missing", x + width / 2, top, 0.5, width)
    if marked.note:
        x = _begin(lane, samples)
        yield chip(marked.note, x, top, x / WIDTH)


def _begin(lane: Lane, samples: Sequence[int]) -> float:
    """Where rows of the chunk's first sample begin, or would begin."""
    first = min(samples, default=0)
    start = next((box.start for box in lane.boxes if box.sample >= first), lane.total)
    return start * WIDTH / lane.total


def _spans(rows: Rows | None, lane: Lane) -> list[tuple[float, float]]:
    scale = WIDTH / lane.total
    ranges = [pair for pair in rows.ranges if pair[0] >= 0] if rows else []
    return [(start * scale, max((stop - start) * scale, 4)) for start, stop in ranges]


def _bands(
    above: Sequence[tuple[float, float]], below: Sequence[tuple[float, float]], index: int
) -> list[str]:
    """From what is owned in one lane to what is owned in the next, where each is one piece."""
    if len(above) != 1 or len(below) != 1:
        return []
    (x, width), (to, wide) = above[0], below[0]
    start, end = _top(index) + BAR, _top(index + 1)
    middle = (start + end) / 2
    return [
        f"M{x:.5g} {start}C{x:.5g} {middle:g} {to:.5g} {middle:g} {to:.5g} {end}h{wide:.4g}"
        f"C{to + wide:.5g} {middle:g} {x + width:.5g} {middle:g} {x + width:.5g} {start}z"
    ]


def description(report: Record, chunk: int) -> str:
    """The same for those who do not see it."""
    said, wrong = [], []
    for name, cut in cuts(report, chunk).items():
        if not cut.marks.right and name not in ("samples", "images"):
            found = report.chunks[chunk].keys[name]
            some = share(found)
            wrong.append(f"{name}: {lines.cell(found)}" + (f" ({some})" if some else ""))
        elif name in ("images", *lines.media(report)) and cut.expected:
            said.append(f"{name} {lines.short(cut.expected)}")
    samples = list(report.chunks[chunk].samples)
    noun = "Chunk" if report.chunk_size is not None else "Sample"
    named = lines.short(Rows.of(samples)) if len(samples) != 1 else str(samples[0])
    holds = f"{noun} {chunk} holds {'sample' if len(samples) == 1 else 'samples'} {named}"
    owns = f" and owns {'; '.join(said) or 'no media'}" if said or not wrong else ""
    return "; ".join([holds + owns, *wrong])


def legend(report: Record, chunk: int) -> str:
    """The meaning of the marks that occur in the picture."""
    names = {name for cut in cuts(report, chunk).values() for name, _ in cut.marks.items()}
    said = [f"{SHAPES[name]}: {LEGEND[name]}" for name in LEGEND if name in names]
    scene = report.scene
    bars = ["grey bars: placeholder tokens"] if scene is not None and any(scene.places) else []
    named = next((s for s, count in enumerate(scene.images) if count), None) if scene else None
    if named is not None:
        bars.append(f"{image_name(named, 0)}: first image of sample {named}")
    every = "; ".join([*said, *bars])
    return every[:1].upper() + every[1:]
