"""The rows of a call that is split over ranks, as they are drawn: which rank has which tokens.

Where the ranks could be joined, their order says that. Where tokens are on no rank, or on two, the
longest runs of each rank's tokens in the sample say it.
"""

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

MOST_TOKENS = 2**14
"""Tokens of a rank, or of a sample, above which lost tokens are counted and not placed."""


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


# --- ranks that no order joins -------------------------------------------------------------------


def scattered_rows(
    texts: Texts, ranks: Sequence[Sequence[np.ndarray]], samples: Sequence[int], shards: int
) -> tuple[PackedRow, ...]:
    """Rows of one sample each, of which some tokens are on no rank or on two.

    Args:
        texts: The tokens of the batch.
        ranks: The tokens of each row on each rank, without padding.
        samples: The sample of each row.
        shards: Over how many ranks the call should be split.
    """
    longest = max((len(tokens) for rows in ranks for tokens in rows), default=0)
    if max([longest, *(texts.length(sample) for sample in samples)]) > MOST_TOKENS:
        return ()
    found = list[PackedRow]()
    for row, sample in enumerate(samples):
        due, held, reached = texts.text(sample), list[Held](), 0
        for rank, rows in enumerate(ranks):
            for start, stop in _runs_in(due, rows[row], reached):
                held.append(Held(rank, start, stop))
                reached = stop
        place = Place(sample, 0, len(due), int(texts.columns(sample)[0]))
        count = max(shards, len(ranks))
        found.append(PackedRow(row, len(due), (place,), ranks=count, held=tuple(held)))
    return tuple(found)


def _runs_in(due: np.ndarray, tokens: np.ndarray, reached: int) -> Iterator[tuple[int, int]]:
    """Where tokens are in those of a sample: the longest run from each on, nearest to `reached`."""
    at = 0
    while at < len(tokens):
        starts, size = np.flatnonzero(due == tokens[at]), 1
        while len(starts) and at + size < len(tokens):
            on = starts[starts + size < len(due)]
            on = on[due[on + size] == tokens[at + size]]
            if not len(on):
                break
            starts, size = on, size + 1
        if len(starts):
            start = int(starts[np.argmin(np.abs(starts - reached))])
            reached = start + size
            yield start, reached
        at += size


def counted(rows: Iterable[PackedRow]) -> tuple[int, int]:
    """How many tokens of these rows are on no rank, and how often others come once more."""
    lost = twice = 0
    for row in rows:
        times = np.zeros(row.tokens, dtype=np.int64)
        for one in row.held:
            times[one.start : one.stop : one.step] += 1
        lost += int((times == 0).sum())
        twice += int(np.maximum(times - 1, 0).sum())
    return lost, twice
