"""Which rank has which tokens of a row: a step for each rank, so that colour says nothing alone.

Contiguous ranks are a staircase, a zigzag goes down and up again, and ranks that take turns fill
every step. Tokens on no rank, or on two, have the marks of `vlmdebug.views.marks`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from vlmdebug.core.packed_row import Held, Line, PackedRow
from vlmdebug.views.drawing import BAR, LOOKS, MIDDLE, NAMES, PITCH, WIDTH, chip, fitted, width_for
from vlmdebug.views.lane import EDGE, MOST_PLACES, STAYS, Lane
from vlmdebug.views.strips import BLUE

COLOURS = (BLUE, "#009E73", "#CC79A7", "#56B4E9")  # Okabe and Ito, but for those of what is wrong
DASHES = ("", "14 4", "5 4", "14 4 3 4")
STEP, TALLEST = 20, 160
"""Height of a step, and at most of all together, in pixels."""
MOST_SAID = 8


def _step(row: PackedRow) -> float:
    return min(STEP, TALLEST / max(row.ranks, 1))


def lanes(report: object, row: PackedRow, seen: object, top: int) -> Iterator[Lane]:
    """The lane of the ranks; none where the row is not split."""
    if not row.ranks:
        return
    step = _step(row)
    tall = round(row.ranks * step) + PITCH - BAR
    lane = Lane(row, "ranks", f"0 to {row.ranks - 1}, top down", top, tall)
    shared = shares(row)
    for one in row.held[:MOST_PLACES]:
        _draw(lane, one, step, noted=bool(shared))
    for start, stop, on in shared[:MOST_PLACES]:
        if not on:
            lane.mark("missing", start, stop)
            _note(lane, "on no rank", start, stop, row.ranks - 1)
            continue
        lane.used["foreign"] = None
        for rank in on:
            lane.marks.append(_box(lane, start, stop, rank, step, LOOKS["foreign"]))
        _note(lane, "on two ranks" if len(on) == 2 else "again", start, stop, on[0])
    lane.said += [_said(*one) for one in shared[:MOST_SAID]]
    yield lane


def _draw(lane: Lane, held: Held, step: float, *, noted: bool) -> None:
    """The tokens of a rank: one box, or one for each token where ranks take turns."""
    look = f'fill="{_colour(held.rank)}" fill-opacity=".55" stroke="{_colour(held.rank)}"'
    columns = range(held.start, held.stop, held.step)
    if held.step == 1 or len(columns) > MOST_PLACES:
        dense = "" if held.step == 1 else ' stroke-dasharray="1 2"'
        lane.marks.append(_box(lane, held.start, held.stop, held.rank, step, look + dense))
    else:
        every = (_box(lane, at, at + 1, held.rank, step, look) for at in columns)
        lane.marks.append("".join(every))
    said = f"rank {held.rank}"
    if held.step > 1:
        said = f"{said}: every {_ordinal(held.step)} token"
    if step == STEP:
        _name(lane, said, f"rank {held.rank}", str(held.rank), held=held, noted=noted)


def _colour(rank: int) -> str:
    return COLOURS[rank % len(COLOURS)]


def _ordinal(step: int) -> str:
    return {2: "second", 3: "third"}.get(step, f"{step}th")


def _box(lane: Lane, start: int, stop: int, rank: int, step: float, look: str) -> str:
    x, wide = lane.x(start) / 10, lane.x(stop - start) / 10
    y, tall = lane.top + EDGE + rank * step + 1, max(step - 2, 1)
    return f'<rect x="{x:.4g}%" y="{y:.6g}" width="{wide:.4g}%" height="{tall:.3g}" {look}/>'


def _name(lane: Lane, *texts: str, held: Held, noted: bool) -> None:
    """The name of a rank on its step, where there is room for it; notes need some of that."""
    middle, top = lane.x((held.start + held.stop) / 2), lane.top + EDGE + held.rank * STEP - 1
    room = lane.x(held.stop - held.start) / (2 if noted else 1)
    text = next((one for one in texts if width_for(one, room) <= MIDDLE), texts[-1])
    lane.words.append(fitted(text, middle, top, 0.5, room, NAMES))


def _note(lane: Lane, text: str, start: int, stop: int, rank: int) -> None:
    """Words on the step of a rank, whatever room there is."""
    x, below = (
        lane.x((start + stop) / 2),
        min(rank * _step(lane.row), lane.height - 2 * EDGE - STEP),
    )
    top = lane.top + EDGE + max(round(below), 0) - 1
    lane.words.append(chip(text, x, top, x / WIDTH))


# --- tokens on no rank, and on several ----------------------------------------------------------


def shares(row: PackedRow) -> tuple[tuple[int, int, tuple[int, ...]], ...]:
    """Tokens of samples that are not on one rank: `start`, `stop`, and the ranks that have them."""
    if not row.ranks or any(one.step > 1 for one in row.held):
        return ()
    changes = [(place.start, 1, -1) for place in row.places]
    changes += [(place.stop, -1, -1) for place in row.places]
    changes += [(one.start, 1, one.rank) for one in row.held]
    changes += [(one.stop, -1, one.rank) for one in row.held]
    changes.sort()
    found, on, places = list[tuple[int, int, tuple[int, ...]]](), Counter[int](), 0
    for at, (column, change, rank) in enumerate(changes):
        if rank < 0:
            places += change
        else:
            on[rank] += change
        stop = changes[at + 1][0] if at + 1 < len(changes) else column
        if stop == column or not places or on.total() == 1:
            continue
        ranks = tuple(sorted(rank for rank, times in on.items() if times))
        if found and found[-1][1:] == (column, ranks):
            found[-1] = (found[-1][0], stop, ranks)
        else:
            found.append((column, stop, ranks))
    return tuple(found)


def _said(start: int, stop: int, on: Sequence[int]) -> str:
    tokens = f"tokens {start}:{stop}" if stop - start > 1 else f"token {start}"
    are = "are" if stop - start > 1 else "is"
    if not on:
        return f"{tokens} {are} on no rank"
    return f"{tokens} {are} on {'ranks' if len(on) > 1 else 'rank'} {_listed(on)}" + (
        "" if len(on) > 1 else " twice"
    )


def _listed(numbers: Sequence[int | str]) -> str:
    *before, last = map(str, numbers)
    return f"{', '.join(before)} and {last}" if before else last


# --- positions, and words -----------------------------------------------------------------------


def curves(row: PackedRow) -> list[tuple[str, list[Line]]]:
    """The positions that each rank was given, and what their curve looks like."""
    if not row.ranks or any(one.step > 1 for one in row.held):
        return []
    order = sorted(row.held, key=lambda one: one.start)
    starts, given = [one.start for one in order], dict[int, list[Line]]()
    for line in row.given:
        at = bisect_right(starts, line.start) - 1
        given.setdefault(order[at].rank if at >= 0 else 0, []).append(line)
    found = list[tuple[str, list[Line]]]()
    for rank in sorted(given):
        dash = DASHES[rank % len(DASHES)]
        look = f'fill="none" stroke="{_colour(rank)}" stroke-width="4" {STAYS}'
        found.append((f'{look} stroke-dasharray="{dash}"' if dash else look, given[rank]))
    return found


def said(row: PackedRow) -> list[str]:
    """`rank 0 has tokens 0:18 and 54:72`, for each rank."""
    if row.ranks > MOST_SAID:
        return [f"split over {row.ranks} ranks"] if row.ranks else []
    return [
        f"rank {rank} has {_tokens(row.of_rank(rank)) or 'no tokens'}" for rank in range(row.ranks)
    ]


def _tokens(held: Iterable[Held]) -> str:
    every = [f"{one.start}:{one.stop}" + (f":{one.step}" if one.step > 1 else "") for one in held]
    if len(every) > 4:
        every = [*every[:3], f"{len(every) - 3} more stretches"]
    return f"tokens {_listed(every)}" if every else ""


def legend(row: PackedRow) -> list[str]:
    """What the lane and the curves mean, where the row is split."""
    if not row.ranks:
        return []
    return ["steps, top down: the tokens of each rank"]
