"""A copy of some tokens of a batch that is not seen: what it says by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import IGNORED, LABELS
from vlmdebug.core.presence import has_two_texts
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.core.tensors import numbers_of, to_numpy
from vlmdebug.families import FAMILIES
from vlmdebug.tracking.joined import IDS, PADDING_MASK
from vlmdebug.tracking.shard_labels import PLAIN
from vlmdebug.tracking.shard_tokens import POSITIONS

OF_TEXT = 4
"""Planes of M-RoPE's positions, if the first one is of the text."""


class Copy:
    """The tokens of one rank.

    Args:
        tensors: The call.
        pad: The padding token, if it is known.

    Attributes:
        mask: Its mask, `(row, seq)`; None if it has none of that shape.
    """

    def __init__(self, tensors: Mapping[str, Any], pad: int | None) -> None:
        self._tensors = tensors
        self._ids = to_numpy(tensors[IDS])
        mask = numbers_of(tensors.get(PADDING_MASK))
        self.mask: np.ndarray | None = (
            mask if mask is not None and mask.shape == self._ids.shape else None
        )
        if self.mask is not None:
            self._real = self.mask != 0
        else:
            self._real = np.ones(self._ids.shape, dtype=bool) if pad is None else self._ids != pad
        self._places = self._text_places()

    def _text_places(self) -> np.ndarray | None:
        """The place of each token in its sample, `(row, seq)`; None where positions do not say."""
        table = numbers_of(self._tensors.get(POSITIONS))
        if table is None or table.shape[-1] != self._ids.shape[1]:
            return None
        if table.ndim == 3:
            table = table[0] if len(table) == OF_TEXT else None
        if table is None or table.ndim != 2 or len(table) not in (1, len(self._ids)):
            return None
        with np.errstate(invalid="ignore"):  # what is no number counts no tokens
            return np.broadcast_to(table, self._ids.shape).astype(np.int64)

    def pieces(self) -> list[dict[str, Any]]:
        """As `Whole.pieces`; the batch is not known, and runs are None where positions fall."""
        found = list[dict[str, Any]]()
        for row, real in enumerate(self._real):
            runs = None
            if self._places is not None:
                places = self._places[row, real]
                runs = _runs(places) if (np.diff(places) > 0).all() else None
            found.append({"text": None, "of": None, "runs": runs})
        return found

    def labels(self, batch: Batch) -> Iterator[ShardFault]:
        """A label that is neither its token's own id, nor that of the next token."""
        if has_two_texts(self._tensors, batch.rules) or batch.layout.family not in FAMILIES:
            return
        for key in LABELS:
            labels = numbers_of(self._tensors.get(key))
            if labels is None:
                continue
            if labels.shape != self._ids.shape:
                given, due = (int(labels.shape[-1]),), (self._ids.shape[1],)
                yield ShardFault(Split.COLUMNS, key, given=given, due=due)
                continue
            learned = self._real & (labels != IGNORED)
            dues = self._ids, self._next()
            wrong = [learned & (labels != due) & (due != IGNORED) for due in dues]
            if not all(one.any() for one in wrong):
                continue
            best = int(key != PLAIN or wrong[1].sum() < wrong[0].sum())
            row, at = (int(one) for one in np.argwhere(wrong[best])[0])
            numbers = (int(labels[row, at]),), (int(dues[best][row, at]),)
            yield ShardFault(Split.LABELS, key, 0, row, at, *numbers)

    def _next(self) -> np.ndarray:
        """The token behind each, `(row, seq)`; -100 where it may be on another rank."""
        found = np.full_like(self._ids, IGNORED)
        if self._places is not None:
            goes_on = (np.diff(self._places, axis=1) == 1) & self._real[:, 1:]
            found[:, :-1] = np.where(goes_on, self._ids[:, 1:], IGNORED)
        return found


def _runs(places: np.ndarray) -> list[list[int]]:
    """Growing numbers as runs of `[first, count, step]`."""
    if not len(places):
        return []
    steps = np.diff(places)
    if len(steps) and (steps == steps[0]).all():
        return [[int(places[0]), len(places), int(steps[0])]]
    cuts = [0, *(np.flatnonzero(steps != 1) + 1).tolist(), len(places)]
    return [[int(places[begin]), end - begin, 1] for begin, end in pairwise(cuts)]


def more_media(batch: Batch) -> list[ShardFault]:
    """More media than placeholder tokens, which may be those of all ranks."""
    for one in batch.modalities.values():
        if not one.keys or not batch.rules.checks_totals or batch.rules.no_placeholders:
            continue
        if one.features is not None and one.placeholders is not None:
            tokens = sum(one.placeholders)
            if sum(one.features) > tokens:
                return [ShardFault(Split.EMBEDDED, one.keys[0], given=(tokens,))]
    return []
