"""One picture of a batch: samples, images and tensor rows as lanes, and a chunk's cut through them.

Each lane is as wide as all of its rows. What a chunk owns is joined from lane to lane by a band;
what it was handed instead is hatched. The picture holds no text, so that it reads in light and
dark themes and may be stretched; the names of the lanes stand beside it. `lanes` is the drawing as
plain data, which the SVG here, the widget and matplotlib all draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from vlmdebug.layout import plural
from vlmdebug.plan import Rows
from vlmdebug.report import Report
from vlmdebug.scene import Scene
from vlmdebug.views import rows as told
from vlmdebug.views.strips import BLUE, VERMILION

WIDTH, PITCH, BAR = 1000, 46, 22
"""Width of the picture, distance from lane to lane, height of a lane, in pixels."""
MOST_LANES = 8
MOST_BOXES = 2000


@dataclass(frozen=True)
class Box:
    """Rows `start:stop` of a lane, and the sample and image whose they are (-1: no one image's)."""

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
    """What one chunk owns and was handed in one lane."""

    planned: Rows
    used: Rows | None
    ok: bool


def lanes(report: Report) -> tuple[Lane, ...]:
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
        boxes = tuple(Box(i, i + 1, s, i) for i, s in enumerate(_owners(scene)))
        found.append(Lane("images", _many(images, "image"), images, boxes))
    for key in told.media(report):
        lane = _of_key(report, scene, key)
        if lane is not None:
            found.append(lane)
    return tuple(found[:MOST_LANES])


def _many(count: int, unit: str) -> str:
    return f"{count} {unit if count == 1 else plural(unit)}"


def _owners(scene: Scene) -> list[int]:
    """Sample of each image."""
    return [sample for sample, count in enumerate(scene.images) for _ in range(count)]


def _runs(scene: Scene) -> Iterable[tuple[float, float, int]]:
    for sample, runs in enumerate(scene.places):
        for start, stop, image in runs:
            yield sample + start / scene.tokens, sample + stop / scene.tokens, image


def _of_key(report: Report, scene: Scene, key: str) -> Lane | None:
    unit = scene.units.get(key, "")
    bounds = scene.bounds(key)
    if bounds is not None:
        owners = _owners(scene)
        boxes = [Box(*pair, owners[image], image) for image, pair in enumerate(pairwise(bounds))]
    elif unit in report.counts:
        ends = (0, *accumulate(report.counts[unit]))
        boxes = [Box(*pair, sample) for sample, pair in enumerate(pairwise(ends))]
    else:
        return None
    total = boxes[-1].stop if boxes else 0
    return Lane(key, _many(total, unit), total, tuple(boxes)) if total else None


def cuts(report: Report, chunk: int) -> dict[str, Cut]:
    """What the chunk owns and was handed, by the name of the lane."""
    scene, found = report.scene, report.chunks[chunk]
    if scene is None:
        return {}
    whole = Rows((s, s + 1) for s in found.samples if 0 <= s < len(scene.images))
    ends = (0, *accumulate(scene.images))
    images = Rows((ends[sample], ends[sample + 1]) for sample in whole)
    made = {"samples": Cut(whole, whole, True), "images": Cut(images, images, True)}
    for key, state in found.keys.items():
        used = state.used if state.state != "absent" else None
        made[key] = Cut(state.planned or Rows(), used, state.ok)
    return made


def handed(report: Report, chunk: int) -> Rows:
    """Images that wrong rows of the chunk are of, and that are not its own."""
    scene = report.scene
    if scene is None:
        return Rows()
    own = set(cuts(report, chunk)["images"].planned)
    found: dict[int, None] = {}
    for key, state in report.chunks[chunk].keys.items():
        if not state.ok:
            found.update(dict.fromkeys(scene.images_in(key, state.used)))
    return Rows.of(sorted(image for image in found if image not in own))


def height(drawn: Sequence[Lane]) -> int:
    """Height of the picture in pixels."""
    return PITCH * len(drawn)


def svg(report: Report, chunk: int | None) -> str:
    """The whole picture as a file of its own; `chunk` is the one whose cut is drawn."""
    drawn = lanes(report)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height(drawn)}" '
        f'preserveAspectRatio="none" width="{WIDTH}" height="{height(drawn)}">'
        f"{outlines(drawn)}{overlay(report, chunk, drawn) if chunk is not None else ''}</svg>"
    )


HATCH = (
    '<pattern id="h" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)">'
    f'<path d="M0 0h6v6H0z" fill="{VERMILION}" fill-opacity=".25"/>'
    f'<path d="M0 0v6" stroke="{VERMILION}" stroke-width="4"/></pattern>'
)


def outlines(drawn: Sequence[Lane]) -> str:
    """Every lane with a line between its boxes; placeholder tokens as bars in their samples."""
    parts = [HATCH]
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
    return "".join(parts)


def _top(index: int) -> int:
    return index * PITCH + (PITCH - BAR) // 2


def overlay(report: Report, chunk: int, drawn: Sequence[Lane]) -> str:
    """The cut of one chunk: bands through what it owns, hatches where it was handed others'."""
    cut = cuts(report, chunk)
    bands, owned, wrong = [], [], []
    for index, lane in enumerate(drawn):
        found = cut.get(lane.name)
        if found is None:
            continue
        spans = _spans(found.planned, lane)
        owned += [_box(x, width, _top(index)) for x, width in spans]
        below = drawn[index + 1] if index + 1 < len(drawn) else None
        if below is not None and below.name in cut:
            bands += _bands(spans, _spans(cut[below.name].planned, below), index)
        if not found.ok:
            wrong += [_box(x, width, _top(index)) for x, width in _spans(found.used, lane)]
        if lane.name == "images":
            wrong += [
                _box(x, width, _top(index)) for x, width in _spans(handed(report, chunk), lane)
            ]
    return (
        _path("".join(bands), f'fill="{BLUE}" fill-opacity=".16"')
        + _path("".join(owned), f'fill="{BLUE}" fill-opacity=".45" stroke="{BLUE}"')
        + _path("".join(wrong), f'fill="url(#h)" stroke="{VERMILION}" stroke-width="1.5"')
    )


def _spans(rows: Rows | None, lane: Lane) -> list[tuple[float, float]]:
    scale = WIDTH / lane.total
    ranges = [pair for pair in rows.ranges if pair[0] >= 0] if rows else []
    return [(start * scale, max((stop - start) * scale, 2)) for start, stop in ranges]


def _box(x: float, width: float, top: int) -> str:
    return f"M{x:.5g} {top}h{width:.4g}v{BAR}h-{width:.4g}z"


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


def _path(data: str, look: str) -> str:
    return f'<path d="{data}" {look}/>' if data else ""


def description(report: Report, chunk: int) -> str:
    """The same for those who do not see it."""
    said = []
    for name, cut in cuts(report, chunk).items():
        if cut.ok and (name not in ("images", *told.media(report)) or not cut.planned):
            continue
        own = told.short(cut.planned)
        if cut.ok:
            said.append(f"{name} {own}")
        else:
            said.append(f"{name}: {told.cell(report.chunks[chunk].keys[name])}")
    samples = told.short(cuts(report, chunk)["samples"].planned)
    noun = "Chunk" if report.chunk_size is not None else "Sample"
    return f"{noun} {chunk} holds samples {samples} and owns {'; '.join(said) or 'no media'}"
