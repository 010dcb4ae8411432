"""The rows of a call that is split over ranks, as they are drawn: which rank has which tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.observed import Seam
from vlmdebug.core.packed_row import Held, Line, PackedRow, Place
from vlmdebug.core.part import Spans
from vlmdebug.core.tensors import side_by_side
from vlmdebug.tracking.joined import Texts
from vlmdebug.tracking.orders import Order
from vlmdebug.tracking.packed import PackedCall
from vlmdebug.tracking.packed_rows import packed_rows
from vlmdebug.tracking.shard_tokens import POSITIONS, ShardTokens


def split_rows(
    batch: Batch,
    texts: Texts,
    call: Mapping[str, Any],
    tokens: ShardTokens,
    known: Sequence[PackedRow],
    seams: Sequence[Seam],
) -> tuple[PackedRow, ...]:
    """The rows of a joined call.

    Args:
        batch: The batch that was cut.
        texts: Its tokens.
        call: The joined call, with the positions that the ranks count where they have none.
        tokens: Its tokens and their ranks.
        known: Its packed rows, if it has some.
        seams: What is wrong at their seams.
    """
    held = held_in(tokens.order)
    rows = known or _unpacked(batch, texts, call, tokens, seams)
    rows = [replace(row, ranks=len(tokens.order.widths), held=held) for row in rows]
    if POSITIONS not in call and not known:  # they could not be joined
        return tuple([replace(row, given=(), due=(), off=()) for row in rows])
    return tuple([replace(row, given=_cut(row, held)) for row in rows])


def _unpacked(
    batch: Batch,
    texts: Texts,
    call: Mapping[str, Any],
    tokens: ShardTokens,
    seams: Sequence[Seam],
) -> tuple[PackedRow, ...]:
    spans, own = Spans(tokens.spans), None
    if POSITIONS in batch.inputs:
        own = side_by_side(tokens.own(POSITIONS, 0), spans, 0)
    places = [
        Place(sample, start, stop, int(texts.columns(sample)[0]))
        for sample, (_, start, stop) in zip(tokens.samples, spans, strict=True)
    ]
    return packed_rows(PackedCall(batch, call, spans, tokens.samples, own), seams, places)


def held_in(order: Order) -> tuple[Held, ...]:
    """The tokens of each rank in the whole call, in the order of its own columns."""
    found = list[Held]()
    for rank in range(len(order.widths)):
        places = np.flatnonzero(order.ranks == rank)
        places = places[np.argsort(order.columns[places], kind="stable")]
        steps = np.diff(places)
        step = int(steps[0]) if len(steps) and steps[0] > 1 and (steps == steps[0]).all() else 1
        edges = [0, *(np.flatnonzero(steps != step) + 1).tolist(), len(places)]
        for begin, end in pairwise(edges):
            if begin < end:
                found.append(Held(rank, int(places[begin]), int(places[end - 1]) + 1, step))
    return tuple(found)


def _cut(row: PackedRow, held: Iterable[Held]) -> tuple[Line, ...]:
    """The positions of a row in pieces, each of one rank; whole where ranks take turns."""
    edges = sorted({one.start for one in held if one.step == 1})
    return tuple([piece for line in row.given for piece in _pieces(line, edges)])


def _pieces(line: Line, edges: Sequence[int]) -> Iterator[Line]:
    at = line.start
    for end in [*(edge for edge in edges if line.start < edge < line.stop), line.stop]:
        yield Line(at, end, line.first + line.step * (at - line.start), line.step)
        at = end
