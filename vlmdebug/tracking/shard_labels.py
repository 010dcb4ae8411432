"""Labels of calls that are split over ranks.

Labels may be next to their tokens, as models take them, or one token ahead, if they were shifted
before the split. A shift on each rank loses the label of the first token of the next rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import IGNORED, LABELS
from vlmdebug.core.observed import Seam, Seams
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.core.tensors import numbers_of
from vlmdebug.tracking.joined import IDS, Texts
from vlmdebug.tracking.shard_tokens import ShardTokens

PLAIN, AHEAD = LABELS
"""Labels next to their tokens, or one ahead."""


class ShardLabels:
    """The labels of a call that is split over ranks.

    Attributes:
        seams: Labels that are learned across samples of a packed row, once `faults` was called.
    """

    def __init__(
        self, batch: Batch, texts: Texts, call: Mapping[str, Any], tokens: ShardTokens
    ) -> None:
        self.seams: list[Seam] = []
        self._batch, self._texts, self._call, self._tokens = batch, texts, call, tokens

    @cached_property
    def _is_free(self) -> bool:
        """Whether the batch has no labels: each is then the token's own id, or ignored."""
        return PLAIN not in self._batch.inputs

    @cached_property
    def _due(self) -> np.ndarray:
        """The label of each token, `(row, seq)`."""
        if not self._is_free:
            return self._tokens.own(PLAIN, IGNORED)
        ids = numbers_of(self._call[IDS])
        assert ids is not None
        return np.where(self._tokens.inside, ids, IGNORED)

    @cached_property
    def _ahead(self) -> np.ndarray:
        """The label of the next token of each sample."""
        found = np.full_like(self._due, IGNORED)
        found[:, :-1] = np.where(self._tokens.firsts[:, 1:], IGNORED, self._due[:, 1:])
        return found

    @cached_property
    def _ahead_of_padding(self) -> np.ndarray:
        """The same, where the last token of a sample learns the padding that the batch has next."""
        found = self._ahead.copy()
        table = numbers_of(self._batch.inputs[IDS if self._is_free else PLAIN])
        if table is None or not self._tokens.one_per_row:
            return found
        for sample, (row, _, stop) in zip(self._tokens.samples, self._tokens.spans, strict=True):
            behind = int(self._texts.columns(sample)[-1]) + 1
            if behind < table.shape[-1]:
                found[row, stop - 1] = table[sample, behind]
        return found

    def faults(self) -> Iterator[ShardFault]:
        """Labels of other tokens, lost ones, and those that a loss on each rank does not learn."""
        for key in LABELS:
            labels = numbers_of(self._call.get(key))
            if labels is not None and labels.shape == self._tokens.shape:
                yield from self._labels(key, labels)
            elif key in self._call:
                yield ShardFault(Split.UNREAD, key)

    def _labels(self, key: str, labels: np.ndarray) -> Iterator[ShardFault]:
        plain = self._fits(labels, self._due) | (self._tokens.firsts & (labels == IGNORED))
        ahead = self._fits(labels, self._ahead) | self._fits(labels, self._ahead_of_padding)
        if key == PLAIN and plain.all():
            self._note_seams(labels)
            if AHEAD not in self._call:
                yield from self._between(labels)
        elif ahead.all():
            yield from self._holes(key, labels)
        else:
            inside = self._fits(labels, self._shifted_on_ranks(self._due, labels))
            shifted = inside.all() or key == AHEAD
            wrong = np.argwhere(~(ahead if shifted else plain))[0]
            due = (self._ahead if shifted else self._due)[tuple(wrong)]
            why = Split.INSIDE if inside.all() else Split.LABELS
            yield self._tokens.fault(why, key, wrong, [int(labels[tuple(wrong)])], [int(due)])

    def _fits(self, labels: np.ndarray, due: np.ndarray) -> np.ndarray:
        """Where labels are those that are due, or of no sample, `(row, seq)`."""
        fits = (labels == due) | ~self._tokens.inside
        return fits | (labels == IGNORED) if self._is_free else fits

    def _shifted_on_ranks(self, labels: np.ndarray, last: np.ndarray | int) -> np.ndarray:
        """Labels one ahead on each rank, and the last one of each as `last` has it."""
        found = np.zeros_like(labels) + last
        for rank in range(len(self._tokens.order.widths)):
            own = np.flatnonzero(self._tokens.order.ranks == rank)
            own = own[np.argsort(self._tokens.order.columns[own], kind="stable")]
            found[:, own[:-1]] = labels[:, own[1:]]
        return found

    def learned(self) -> np.ndarray | None:
        """The label that a loss on each rank learns from each token, `(row, seq)`.

        A model shifts labels that are next to their tokens, on the rank where it runs.
        """
        for key in (AHEAD, PLAIN):
            labels = numbers_of(self._call.get(key))
            if labels is None or labels.shape != self._tokens.shape:
                continue
            plain = self._fits(labels, self._due) | (self._tokens.firsts & (labels == IGNORED))
            ahead = key == AHEAD or not plain.all()
            return labels if ahead else self._shifted_on_ranks(labels, IGNORED)
        return None

    def _cuts(self) -> np.ndarray:
        """Tokens that follow a token of the same sample in another piece, `(row, seq)`."""
        return self._tokens.order.begins & self._tokens.inside & ~self._tokens.firsts

    def _between(self, labels: np.ndarray) -> Iterator[ShardFault]:
        """A label next to its token that is learned from a token of another rank."""
        lost = np.argwhere(self._cuts() & (labels != IGNORED))
        if len(lost):
            yield self._tokens.fault(
                Split.BETWEEN, PLAIN, lost[0], [int(labels[tuple(lost[0])])], []
            )

    def _holes(self, key: str, labels: np.ndarray) -> Iterator[ShardFault]:
        """Labels that are missing at the end of a piece alone, where the batch has none."""
        if not self._is_free:
            return
        learned = labels != IGNORED
        text = ~np.isin(self._due, [*self._batch.token_ids.values()])
        cuts = self._cuts()
        hole = cuts[:, 2:] & text[:, 2:] & learned[:, :-2] & ~learned[:, 1:-1] & learned[:, 2:]
        for row, at in np.argwhere(hole)[:1]:
            due = int(self._due[row, at + 2])
            yield self._tokens.fault(Split.INSIDE, key, (row, at + 1), [IGNORED], [due])

    def _note_seams(self, labels: np.ndarray) -> None:
        """A first token that is learned from the sample before it in its row."""
        ends = {(row, stop) for row, _, stop in self._tokens.spans}
        for sample, (row, start, _) in zip(self._tokens.samples, self._tokens.spans, strict=True):
            first = int(labels[row, start])
            if (row, start) in ends and first != IGNORED:
                self.seams.append(
                    Seam(Seams.LABELS, PLAIN, sample, row, start, (first,), (IGNORED,))
                )
                return

    def padding(self) -> Iterator[ShardFault]:
        """Padding that is not the batch's, with labels, or that a mask shows."""
        added = self._tokens.added
        ignored = ~self._tokens.inside if self._ignores_padding else added
        for key in LABELS:
            labels = numbers_of(self._call.get(key))
            if labels is not None and labels.shape == self._tokens.shape:
                wrong = ignored & (labels != IGNORED)
                wrong[:, :-1] &= ~self._tokens.firsts[:, 1:] | (labels[:, :-1] != self._due[:, 1:])
                yield from self._tokens.at_first(Split.LEARNED, key, wrong, labels)

    @property
    def _ignores_padding(self) -> bool:
        """Whether the batch has labels, and none of padding."""
        labels = None if self._is_free else numbers_of(self._batch.inputs[PLAIN])
        if labels is None:
            return False
        real = np.zeros(labels.shape, dtype=bool)
        for sample in range(len(labels)):
            real[sample, self._texts.columns(sample)] = True
        return bool((labels[~real] == IGNORED).all())
