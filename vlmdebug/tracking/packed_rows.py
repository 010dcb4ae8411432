"""The packed rows of a call as they are drawn: samples, positions given and due, and ends.

Nothing is judged here. Where positions are off, they are so by the rule of
`vlmdebug.tracking.packed`: a sample begins where they do not go on by one, and from there on only
differences count.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import PACKED
from vlmdebug.core.lazy import lazy
from vlmdebug.core.observed import Seam, Seams
from vlmdebug.core.packed_row import Line, PackedRow, Place
from vlmdebug.core.part import Spans
from vlmdebug.families.packing import INDEX
from vlmdebug.tracking.made import ROUNDED, mrope_of
from vlmdebug.tracking.packed import PLANES, PackedCall

NAMES = ("text", "time", "height", "width")
"""Planes of M-RoPE's positions."""
MOST = 2**52
"""Largest number that is drawn: reports hold twice as much."""
MOST_LINES = 2000
"""Lines of one row's positions after which they are not kept."""


@dataclass(frozen=True)
class _Plane:
    """One plane of positions, `(row, seq)`, with those due; `real`: tokens of a sample."""

    name: str
    given: np.ndarray | None
    due: np.ndarray
    real: np.ndarray

    @lazy
    def off(self) -> np.ndarray:
        if self.given is None:
            return np.zeros(self.real.shape, dtype=bool)
        return self.real & (self.given != self.due)


def own_rows(batch: Batch, seams: Sequence[Seam]) -> tuple[PackedRow, ...]:
    """The packed rows of the batch itself; none where none are packed."""
    call = PackedCall.of_batch(batch)
    if call is None:
        return ()
    spans = enumerate(call.spans)
    return packed_rows(call, seams, [Place(s, start, stop) for s, (_, start, stop) in spans])


def packed_rows(
    call: PackedCall, seams: Sequence[Seam], places: Sequence[Place]
) -> tuple[PackedRow, ...]:
    """Every row of a call that holds samples; `places`: those of `call.spans`."""
    plain = _plain(call, seams, places)
    if plain is not None:
        return (plain,)
    planes = list(_planes(call, seams))
    plane = next((one for one in planes if one.off.any()), planes[0])
    by_row: dict[int, list[Place]] = {}
    for span, place in zip(call.spans, places, strict=True):
        by_row.setdefault(span.row, []).append(place)
    width, found = call.shape[1], list[PackedRow]()
    positions = call.numbers.get("position_ids")
    count = 0 if positions is None else 1 if positions.ndim < 3 else len(positions)
    for row, own in by_row.items():
        given = None if plane.given is None else _lines(plane.given[row], [(0, width)])
        due = _lines(plane.due[row], [(place.start, place.stop) for place in own])
        drawn = given is not None and due is not None
        found.append(
            PackedRow(
                row,
                width,
                tuple(own),
                count,
                given if given is not None and drawn else (),
                due if due is not None and (drawn or plane.given is None) else (),
                plane.name,
                tuple(_runs(plane.off[row])) if drawn else (),
                _ends(call, row),
            )
        )
    return tuple(found)


def _plain(call: PackedCall, seams: Sequence[Seam], places: Sequence[Place]) -> PackedRow | None:
    """The one row of a call that is filled by samples with all positions as due, as most are."""
    first, (rows, width), positions = call.first, call.shape, call.numbers.get("position_ids")
    if first is None or seams or rows > 1 or positions is None or positions.dtype.kind not in "iu":
        return None
    edges = [0, *(place.stop for place in places)]
    if [place.start for place in places] != edges[:-1] or edges[-1] != width:
        return None
    if min(call.spans.lengths) == 1 or len(places) > MOST_LINES or abs(first) > MOST - width:
        return None
    lines = tuple([Line(place.start, place.stop, first, 1) for place in places])
    count = 1 if positions.ndim < 3 else len(positions)
    plane = NAMES[0] if count == PLANES else ""
    return PackedRow(0, width, tuple(places), count, lines, lines, plane, (), _ends(call, 0))


def _planes(call: PackedCall, seams: Sequence[Seam]) -> Iterator[_Plane]:
    """Planes of `position_ids`, as many as can be drawn: one without values, if none can be."""
    positions, shape = _drawable(call.numbers.get("position_ids")), call.shape
    planes = positions[None] if positions is not None and positions.ndim == 2 else positions
    if planes is not None and planes.ndim == len(shape) + 1 and planes.shape[1] == 1:
        planes = np.broadcast_to(planes, (len(planes), shape[0], planes.shape[2]))
    real = np.zeros(shape, dtype=bool)
    for row, start, stop in call.spans:
        real[row, start:stop] = True
    shaped = any(one.why is Seams.PLANES for one in seams)
    count = np.arange(shape[1])
    order = _laid(call.spans, shape, [count[:size] for size in call.spans.lengths])
    if planes is None or planes.shape[1:] != shape or (shaped and len(planes) != 1):
        yield _Plane("", None, order, real)
        return
    planes = _whole(planes)
    if len(planes) != PLANES - 1:
        name = NAMES[0] if len(planes) == PLANES else ""
        due = _begun(call, planes[0], order)
        yield _Plane(name, planes[0], due, real)
        if not any(one.why is Seams.MROPE for one in seams):
            return  # the other planes are right, or not known
    alone = _alone(call)
    if alone is None:
        if len(planes) == PLANES - 1:
            yield _Plane("", None, order, real)
        return
    planes = np.broadcast_to(planes[1 - PLANES :], (PLANES - 1, *shape))
    sizes = call.spans.lengths
    due = [
        _laid(call.spans, shape, [row[:size] for row, size in zip(one, sizes, strict=True)])
        for one in _whole(alone)
    ]
    moved = np.zeros(shape, dtype=np.int64)
    for row, start, stop in call.spans:
        moved[row, start:stop] = planes[0][row, start] - due[0][row, start]
    for name, own, one in zip(NAMES[1:], planes, due, strict=True):
        yield _Plane(name, own, one + moved, real)


def _whole(values: np.ndarray) -> np.ndarray:
    """Positions as they are drawn: fractions are rounded down, but for what rounding adds."""
    return (np.floor(values + ROUNDED) if values.dtype.kind == "f" else values).astype(np.int64)


def _drawable(values: np.ndarray | None) -> np.ndarray | None:
    """Numbers that a report can hold; None where some are larger."""
    if values is None or max(float(values.max()), -float(values.min())) > MOST:
        return None
    return values


def _laid(spans: Spans, shape: tuple[int, ...], values: Iterable[np.ndarray]) -> np.ndarray:
    """Values of each sample in the places of its tokens, `(row, seq)`."""
    table = np.zeros(shape, dtype=np.int64)
    for (row, start, stop), own in zip(spans, values, strict=True):
        table[row, start:stop] = own
    return table


def _alone(call: PackedCall) -> np.ndarray | None:
    """Positions in time, height and width of each sample alone, `(3, sample, seq)`.

    None where they are not known, or the model has no such planes.
    """
    if not call.is_mrope:
        return None
    if call.own is not None and call.own.ndim == PLANES - 1:
        return call.own[1 - PLANES :]
    return mrope_of(call.batch, call.by_sample, call.samples)


def _begun(call: PackedCall, given: np.ndarray, order: np.ndarray) -> np.ndarray:
    """`order`, from the number with which each sample begins; from 0 where it does not begin.

    A row begins with its own first number, and so do its samples that go on from another one. If
    there is a mask, positions do not say where samples begin.
    """
    due, firsts, masked = order.copy(), dict[int, int](), "attention_mask" in call.given
    for row, start, stop in call.spans:
        own = int(given[row, start])
        begins = masked or not start or own != int(given[row, start - 1]) + 1
        first = firsts.setdefault(row, own if begins else 0)
        due[row, start:stop] += own if begins else first
    return due


def _lines(values: np.ndarray, places: Iterable[tuple[int, int]]) -> tuple[Line, ...] | None:
    """Values that stay or go up by one, as lines; None if these are too many."""
    steps = values[1:] - values[:-1]
    changes = (steps[1:] != steps[:-1]).nonzero()[0] + 1  # steps that differ from the one before
    edges, found = [*changes.tolist(), len(steps)], list[Line]()
    for at, end in places:
        while at < end:
            if len(found) == MOST_LINES:
                return None
            step, last = int(steps[at]) if at + 1 < end else 0, at
            if at + 1 < end and step in (0, 1):
                last = min(edges[bisect_right(edges, at)], end - 1)
            found.append(Line(at, last + 1, int(values[at]), step if last > at else 0))
            at = last + 1
    return tuple(found)


def _runs(marked: np.ndarray) -> Iterator[tuple[int, int]]:
    """Where each unbroken run begins and ends."""
    edges = np.flatnonzero(np.diff(marked.astype(np.int8), prepend=0, append=0)).tolist()
    return zip(edges[::2], edges[1::2], strict=True)


def _ends(call: PackedCall, row: int) -> Mapping[str, tuple[int, ...]]:
    """Columns of a row in which keys say that a sample ends or begins, the first one too."""
    width, found = call.shape[1], dict[str, tuple[int, ...]]()
    for key in call.numbers:
        values = call.numbers[key]
        if key not in PACKED or key.startswith("max_"):
            continue
        if key != INDEX:
            columns = {int(end) - row * width for end in values.reshape(-1).tolist()}
        elif values.shape == call.shape:
            columns = {0, *(np.flatnonzero(values[row, 1:] != values[row, :-1]) + 1).tolist()}
        else:
            continue
        found[key] = tuple(sorted([end for end in columns if 0 <= end <= width])[:MOST_LINES])
    return found
