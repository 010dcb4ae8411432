"""Packed rows as a picture: a lane of tokens with seams, and under it what each token is given.

All lanes of a row stand in the columns of `input_ids`: its samples, the images that their
placeholder tokens see, positions as a curve that starts again with each sample, and the ends that
other keys give. The marks are those of `vlmdebug.views.marks`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from vlmdebug.core.packed_row import Line, PackedRow
from vlmdebug.core.record import ChunkReport, KeyState, Record
from vlmdebug.core.scene import Scene
from vlmdebug.core.wording import letter, number
from vlmdebug.views import ranks
from vlmdebug.views import rows as lines
from vlmdebug.views.drawing import HATCH, HIDDEN, NAMES, PITCH, SHAPES, WORDS, path, stretched
from vlmdebug.views.lane import EDGE, MOST_PLACES, STAYS, Lane
from vlmdebug.views.marks import LEGEND
from vlmdebug.views.sentences import named
from vlmdebug.views.strips import BLUE, VERMILION

MOST_ROWS = 4
CURVE = 2 * PITCH
"""Height of the lane of positions in pixels."""
GIVEN = f'fill="none" stroke="{BLUE}" stroke-width="4" {STAYS}'
DUE = f'fill="none" stroke="#888" stroke-width="1.5" {STAYS}'
LACKING = f'fill="none" stroke="{VERMILION}" stroke-width="2" stroke-dasharray="6 4" {STAYS}'
POSITIONS = "position_ids"


class Sight(NamedTuple):
    """An image as the tokens of one see it: its number, or -1 for none of the batch."""

    image: int
    whole: bool = True


class Seen(NamedTuple):
    """Placeholder tokens of image `own`, and what they see there; None for nothing.

    `place`: the number of their sample among those of the row.
    """

    start: int
    stop: int
    place: int
    own: int
    given: Sight | None


def rows_of(report: Record, chunk: int) -> list[PackedRow]:
    """The packed rows of a chunk; of a batch alone, those of the sample."""
    if report.chunk_size is not None:
        return [row for row in report.packed if row.chunk == chunk]
    return [row for row in report.packed if row.chunk is None and chunk in row.samples]


def lanes(report: Record, chunk: int) -> list[Lane]:
    """Every lane of the packed rows of a chunk; none where no row is packed."""
    found, top = list[Lane](), 0
    shown = rows_of(report, chunk)[:MOST_ROWS]
    seen = _seen(report, report.chunks[chunk], shown) if shown else []
    for row, images in zip(shown, seen, strict=True):
        for make in (_tokens, ranks.lanes, _images, _positions, _ends, _others):
            for lane in make(report, row, images, top):
                found.append(lane.framed())
                top += lane.height
    return found


def _tokens(report: Record, row: PackedRow, seen: Sequence[Seen], top: int) -> Iterator[Lane]:
    """The samples, and tokens of none of them."""
    lane = Lane(row, f"row {row.row}", number(row.tokens, "token"), top)
    times = Counter(row.samples)
    come = set[int]()
    for place in row.places[:MOST_PLACES]:
        at, name = (place.start, place.stop), letter(place.sample)
        again = place.sample in come
        lane.mark("altered" if again or place.lost else "passed", *at)
        if place.lost:
            lane.word(
                f"{name}, {number(place.lost, 'token')} missing", f"{name} in part", name, at=at
            )
            lane.said.append(f"sample {name} lacks {number(place.lost, 'token')}")
        elif again:
            lane.word(f"{name}, again", name, at=at)
        else:
            lane.word(name, at=at, fill=NAMES)
        come.add(place.sample)
    again = [sample for sample, count in times.items() if count > 1]
    lane.said += [f"sample {letter(sample)} comes {times[sample]} times" for sample in again]
    for column in (fault.column for fault in row.faults if fault.key == "input_ids"):
        begin = max((place.stop for place in row.places if place.stop <= column), default=0)
        lane.mark("foreign", begin, column)
        lane.word("padding", at=(begin, column))
        lane.said.append(f"padding stands in tokens {begin}:{column}")
    yield lane


def _images(report: Record, row: PackedRow, seen: Sequence[Seen], top: int) -> Iterator[Lane]:
    """What the placeholder tokens of each image see."""
    scene = report.scene
    if scene is None or not seen:
        return
    lane = Lane(row, "images", "seen there", top)
    for own, runs in groupby(seen[:MOST_PLACES], key=lambda one: (one.place, one.own, one.given)):
        (_, image, given), every = own, list(runs)
        look, texts, said = _sight(scene, image, given)
        for one in every:
            lane.mark(look, one.start, one.stop)
        fill = NAMES if look == "passed" else WORDS
        lane.word(*texts, at=(every[0].start, every[-1].stop), fill=fill)
        lane.said += [said] if said else []
    yield lane


def _sight(scene: Scene, image: int, given: Sight | None) -> tuple[str, tuple[str, ...], str]:
    """What the tokens of an image see: the mark, words from long to short, and what is wrong."""
    name = _short(scene, image)
    if given is None:
        return "missing", (f"{name} missing", name), f"tokens of {name} see no image"
    if given.image != image:
        other = _short(scene, given.image) if given.image >= 0 else "another image"
        return "foreign", (f"{other}, not {name}", other), f"tokens of {name} see {other}"
    if given.whole:
        return "passed", (name,), ""
    return "altered", (f"{name} in part", name), f"tokens of {name} see a part of it"


def _short(scene: Scene, image: int) -> str:
    return scene.name(image).removeprefix("image ")


def _positions(report: Record, row: PackedRow, seen: Sequence[Seen], top: int) -> Iterator[Lane]:
    """Positions of each sample alone as a thin line, those given as a bold one."""
    wrong = bool(row.wrong & {POSITIONS, "input_ids"})  # or padding that they count
    if not row.due or not (row.given or wrong):
        return
    lane = Lane(row, POSITIONS, f"{row.plane} plane" if row.plane else "", top, CURVE, faint=True)
    every = [value for one in (*row.given, *row.due) for value in (one.first, _last(one))]
    low, high = min(every), max(every)
    lane.counts = lane.counts or f"{low} to {high}"
    for start, stop in row.off[:MOST_PLACES]:
        lane.mark("foreign" if wrong else "unknown", start, stop)
        lane.said.append(f"{POSITIONS} of tokens {start}:{stop} are not those of the sample alone")
    if row.given:
        for look, given in ranks.curves(row) or [(GIVEN, row.given)]:
            lane.curves.append(path(_curve(lane, given, low, high), look))
        lane.curves.append(path(_curve(lane, row.due, low, high), DUE))
    else:
        lane.used["missing"] = None
        lane.curves.append(path(_curve(lane, row.due, low, high), LACKING))
    if wrong and not row.off:
        verb = "does" if row.planes == 1 else "do"
        said = f"{number(row.planes, 'plane')} {verb} not separate samples"
        said = said if row.planes else "missing"
        lane.word(said, at=(0, row.tokens))
        lane.said.append(f"{POSITIONS}: {said}")
    yield lane


def _last(line: Line) -> int:
    return line.first + line.step * (line.stop - line.start - 1)


def _curve(lane: Lane, drawn: Iterable[Line], low: int, high: int) -> str:
    bottom, tall = lane.top + lane.height - EDGE - 4, lane.height - 2 * EDGE - 8
    scale = tall / max(high - low, 1)
    return "".join(
        f"M{lane.x(one.start):.5g} {bottom - (one.first - low) * scale:.4g}"
        f"L{lane.x(one.stop):.5g} {bottom - (_last(one) - low) * scale:.4g}"
        for one in drawn
    )


def _ends(report: Record, row: PackedRow, seen: Sequence[Seen], top: int) -> Iterator[Lane]:
    """Ends of samples that other keys give; those with the same ends share a lane."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for key, ends in row.ends.items():
        alike.setdefault((ends, key in row.wrong), []).append(key)
    begins = {place.start for place in row.places}
    edges = begins | {place.stop for place in row.places}
    for keys in alike.values():
        lane = Lane(row, keys[0], f"and {keys[1]}" if len(keys) > 1 else "ends of samples", top)
        given, wrong = row.ends[keys[0]], keys[0] in row.wrong
        strange = [end for end in given if wrong and end not in edges]
        lost = sorted(begins - {*given}) if wrong else []
        for look, ends in (
            ("passed", [end for end in given if end not in strange]),
            ("foreign", strange),
            ("missing", lost),
        ):
            for end in ends[:MOST_PLACES]:
                lane.tick(look, end)
        if strange:
            lane.said.append(f"{keys[0]} has an end at {', '.join(map(str, strange[:4]))}")
        if lost:
            lane.said.append(f"{keys[0]} has no end at {', '.join(map(str, lost[:4]))}")
        top += lane.height
        yield lane


def _others(report: Record, row: PackedRow, seen: Sequence[Seen], top: int) -> Iterator[Lane]:
    """Other keys with a fault: labels across a seam, and lengths."""
    drawn = {POSITIONS, "input_ids", *row.ends}
    begins = {place.start for place in row.places if place.start}
    for key in dict.fromkeys(one.key for one in row.faults if one.key not in drawn):
        lane = Lane(row, key, "", top)
        for column in (one.column for one in row.faults if one.key == key):
            said = "not that of this token" if row.ranks else "not that of these samples"
            across = key == "labels" and column in begins
            if across or (key in ("labels", "shift_labels") and not row.ranks):
                said = "learned across the seam"
            lane.tick("foreign", column)
            lane.note(said, column)
            lane.said.append(f"{key}: {said}, token {column}")
        top += lane.height
        yield lane


# --- what the tokens see -----------------------------------------------------------------------


def _seen(report: Record, chunk: ChunkReport, shown: Sequence[PackedRow]) -> list[list[Seen]]:
    """Of each row, its runs of placeholder tokens and the images that they see, if all are known.

    The model takes images in the order of the tokens: the tokens of the n-th image see the n-th.
    """
    scene = report.scene
    found: list[list[Seen]] = [[] for _ in shown]
    if scene is None or not scene.places:
        return found
    runs = [list(_runs(scene, row)) for row in shown]
    given = _given(report, scene, chunk) if report.chunk_size is not None else None
    if any(image < 0 for own in runs for *_, image in own) or (given is None and report.chunk_size):
        return found
    at = -1
    for own, seen in zip(runs, found, strict=True):
        last = None
        for start, stop, place, image in own:
            at += (place, image) != last
            last = place, image
            sees = Sight(image) if given is None else given[at] if at < len(given) else None
            seen.append(Seen(start, stop, place, image, sees))
    return found


def _runs(scene: Scene, row: PackedRow) -> Iterator[tuple[int, int, int, int]]:
    """Placeholder tokens in the columns of the row: start, stop, which sample, image."""
    for at, place in enumerate(row.places):
        moved = place.start - place.begin
        for start, stop, image in scene.places[place.sample]:
            start, stop = max(start + moved, place.start), min(stop + moved, place.stop)
            if start < stop:
                yield start, stop, at, image


def _given(report: Record, scene: Scene, chunk: ChunkReport) -> list[Sight] | None:
    """The images of a chunk in the order of their rows; None where that is not known."""
    keys = [key for key in lines.media(report) if _of_images(scene, key) and key in chunk.keys]
    key = min(keys, key=lambda one: chunk.keys[one].ok, default=None)
    if key is None:
        return None
    state = chunk.keys[key]
    if state.actual is None:
        return [] if state.state in (KeyState.DROPPED, KeyState.ABSENT) else None
    bounds, found = scene.bounds(key), list[Sight]()
    for start, stop in state.actual.ranges:
        if start < 0:
            found.append(Sight(-1))
        elif bounds is None:
            every = [image for row in range(start, stop) for image in scene.of_sample(row)]
            found += map(Sight, every)
        else:
            found += _cut(bounds, start, stop)
    return found


def _cut(bounds: Sequence[int], start: int, stop: int) -> Iterator[Sight]:
    """The images of these rows."""
    for image in range(bisect_right(bounds, start) - 1, bisect_left(bounds, stop)):
        first, end = bounds[image], bounds[image + 1]
        if first < end:
            yield Sight(image, start <= first and end <= stop)


def _of_images(scene: Scene, key: str) -> bool:
    rows_are_samples = scene.units.get(key) == "sample" and key == "pixel_values"
    return rows_are_samples or scene.bounds(key) is not None


# --- the picture -------------------------------------------------------------------------------


def height(drawn: Sequence[Lane]) -> int:
    """Height of the picture in pixels."""
    return sum(lane.height for lane in drawn)


def drawing(drawn: Sequence[Lane]) -> str:
    """All that is drawn, to be put into an `<svg>` of that height."""
    tall = height(drawn)
    ground, marks, curves, words = (
        "".join("".join(getattr(lane, layer)) for lane in drawn)
        for layer in ("ground", "marks", "curves", "words")
    )
    return HATCH + stretched(ground, tall) + marks + stretched(curves, tall) + words


def svg(drawn: Sequence[Lane]) -> str:
    """The picture as a separate file."""
    size = f'xmlns="http://www.w3.org/2000/svg" width="100%" height="{height(drawn)}"'
    return f"<svg {size}>{HIDDEN}{drawing(drawn)}</svg>"


def title(report: Record, chunk: int, drawn: Sequence[Lane]) -> str:
    """What the picture shows."""
    row, noun = drawn[0].row, lines.plural_of(report, 1)
    packed = any(len(lane.row.places) > 1 for lane in drawn)
    over = f", split over {number(row.ranks, 'rank')}" if row.ranks else ""
    return f"{'Packed rows' if packed or not over else 'Rows'} of {noun} {chunk}{over}"


def description(report: Record, chunk: int, drawn: Sequence[Lane]) -> str:
    """The same for those who do not see it."""
    said = []
    for row in rows_of(report, chunk)[:MOST_ROWS]:
        wrong = [text for lane in drawn if lane.row is row for text in lane.said]
        wrong = [*ranks.said(row), *wrong]
        holds = f"Row {row.row} holds {named(row.samples)[:1].lower()}{named(row.samples)[1:]}"
        said.append("; ".join([f"{holds} in {number(row.tokens, 'token')}", *wrong]))
    return ". ".join(said)


def legend(report: Record, chunk: int, drawn: Sequence[Lane]) -> str:
    """The meaning of the marks and lines that occur in the picture."""
    used = {look for lane in drawn for look in lane.used}
    said = [f"{SHAPES[name]}: {LEGEND[name]}" for name in LEGEND if name in used]
    if any(len(lane.row.places) > 1 for lane in drawn):
        said.append("upright lines: seams between samples")
    said += ranks.legend(drawn[0].row)
    if any(lane.name == POSITIONS and lane.row.given for lane in drawn):
        like = ", in the colour and dashes of its rank" if ranks.curves(drawn[0].row) else ""
        said.append(f"bold curve: positions given{like}; thin curve: those of each sample alone")
    left = len(rows_of(report, chunk)) - MOST_ROWS
    if left > 0:
        said.append(f"{number(left, 'more row')} not drawn")
    every = "; ".join(said)
    return every[:1].upper() + every[1:]
