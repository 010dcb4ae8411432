"""Whether keys that number the samples of packed rows, end, train or show them, fit the samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from vlmdebug.core.blocks import seen_of
from vlmdebug.core.keys import IGNORED
from vlmdebug.core.observed import Seam, Seams
from vlmdebug.core.part import Spans


def cumulative_seam(
    key: str, values: np.ndarray, shape: tuple[int, ...], spans: Spans, samples: Sequence[int]
) -> Seam | None:
    """Ends over all tokens: an end at each sample's begin, and none inside of it."""
    given, wide = sorted({int(one) for one in values.reshape(-1).tolist()}), shape[1]
    if given == sorted({row * wide + edge for row, *edges in spans for edge in edges}):
        return None  # as nearly always
    for sample, (row, start, stop) in zip(samples, spans, strict=True):
        begin, end = row * wide + start, row * wide + stop
        inside = next((one for one in given if begin < one < end), None)
        if begin not in given:
            wrong, due = min(given, key=lambda one, at=begin: abs(one - at)), begin
        elif inside is not None or given[-1] < end:
            wrong, due = given[-1] if inside is None else inside, end
        else:
            continue
        return Seam(Seams.ENDS, key, sample, row, start, (wrong,), (due,))
    row, start, stop = spans[-1]
    if given[-1] <= shape[0] * wide:
        return None
    due = row * wide + stop
    return Seam(Seams.ENDS, key, samples[-1], row, start, (given[-1],), (due,))


def number_seam(
    key: str, values: np.ndarray, shape: tuple[int, ...], spans: Spans, samples: Sequence[int]
) -> Seam | None:
    """A number per token: the same in a sample, another one in the next."""
    if tuple(values.shape) != shape:
        return Seam(Seams.ENDS, key, given=tuple(values.shape), due=shape)
    last: tuple[int, int] | None = None
    for sample, (row, start, stop) in zip(samples, spans, strict=True):
        own = values[row, start:stop]
        if (own != own[0]).any() or last == (row, int(own[0])):
            return Seam(Seams.ENDS, key, sample, row, start, (int(own[0]),))
        last = row, int(own[0])
    return None


def label_seams(labels: np.ndarray, spans: Spans, samples: Sequence[int]) -> Iterator[Seam]:
    """The first sample that is learned from the last token of the sample before it."""
    for sample, (before, (row, start, _)) in zip(samples[1:], pairwise(spans), strict=True):
        first = int(labels[row][start])
        if before.row == row and first != IGNORED:
            yield Seam(Seams.LABELS, "labels", sample, row, start, (first,), (IGNORED,))
            return


def shifted_seams(shifted: np.ndarray, spans: Spans, samples: Sequence[int]) -> Iterator[Seam]:
    """The same where labels are one ahead: the first sample that learns the one behind it."""
    for sample, ((row, _, stop), behind) in zip(samples, pairwise(spans), strict=False):
        last = int(shifted[row][stop - 1])
        if behind.row == row and last != IGNORED:
            yield Seam(Seams.LABELS, "shift_labels", sample, row, stop - 1, (last,), (IGNORED,))
            return


def seam_of_blocks(
    mask: Any, shape: tuple[int, ...], spans: Spans, samples: Sequence[int], *, cached: bool
) -> Seam | None:
    """The first token that sees others than itself and those of its sample before it.

    Args:
        mask: `(row, 1, seq, seq)`, or the same for all rows.
        shape: Of `input_ids`.
        spans: The tokens of each sample.
        samples: Their numbers.
        cached: Whether tokens may see others that a cache holds.
    """
    seen, pairs = seen_of(mask, *shape), (shape[1], shape[1])
    if seen is None and not cached and tuple(mask.shape[-2:]) != pairs:
        return Seam(Seams.ENDS, "attention_mask", given=tuple(mask.shape), due=shape)
    if seen is None:
        return Seam(Seams.MASK, "attention_mask")
    for sample, (row, start, stop) in zip(samples, spans, strict=True):
        due = np.zeros((stop - start, shape[1]), dtype=bool)
        due[:, start:stop] = np.tri(stop - start, dtype=bool)
        off = np.flatnonzero((seen[row, start:stop] != due).any(axis=1))
        if len(off):
            at = start + int(off[0])
            given = (int(seen[row, at].sum()),)
            return Seam(Seams.SEEN, "attention_mask", sample, row, at, given, (at - start + 1,))
    return None
