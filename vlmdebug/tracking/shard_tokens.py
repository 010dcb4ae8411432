"""Positions and padding of calls that are split over ranks, and the place of each token."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.observed import Made
from vlmdebug.core.packed_row import PackedRow
from vlmdebug.core.part import Span
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.core.tensors import numbers_of
from vlmdebug.tracking.joined import IDS, PADDING_MASK, Piece, Texts
from vlmdebug.tracking.made import positions_of, unlike
from vlmdebug.tracking.orders import Order

POSITIONS = "position_ids"
APART = -9
"""A position from which no sample goes on."""


class ShardTokens:
    """The tokens of a call that is split over ranks.

    Attributes:
        samples: The sample of each piece.
        spans: The tokens of each piece.
        shape: Rows and tokens of the call.
        order: Which token of which rank each token is.
    """

    def __init__(
        self,
        batch: Batch,
        texts: Texts,
        call: Mapping[str, Any],
        order: Order,
        pieces: Sequence[Piece],
    ) -> None:
        self.samples: list[int] = [piece.alike[0] for piece in pieces]
        self._batch, self._texts, self._call = batch, texts, call
        self.order: Order = order
        self.spans: list[Span] = [piece.span for piece in pieces]
        self.shape: tuple[int, int] = (int(call[IDS].shape[0]), len(order))

    @property
    def one_per_row(self) -> bool:
        """Whether no row holds several samples."""
        return len({span.row for span in self.spans}) == len(self.spans)

    @cached_property
    def surplus(self) -> bool:
        """Whether the call has the columns of the batch, and more behind them."""
        wide = self._batch.inputs[IDS].shape[1]
        pairs = zip(self.samples, self.spans, strict=True)
        starts = all(self._texts.columns(s)[0] == span.start for s, span in pairs)
        return self.one_per_row and self.shape[1] > wide and starts

    @cached_property
    def inside(self) -> np.ndarray:
        """Tokens of samples, `(row, seq)`."""
        found = np.zeros(self.shape, dtype=bool)
        for row, start, stop in self.spans:
            found[row, start:stop] = True
        return found

    @cached_property
    def firsts(self) -> np.ndarray:
        """The first token of each sample, `(row, seq)`."""
        found = np.zeros(self.shape, dtype=bool)
        for row, start, _ in self.spans:
            found[row, start] = True
        return found

    def own(self, key: str, fill: int) -> np.ndarray:
        """A key of the batch in the tokens of the call, `(…, row, seq)`."""
        table = numbers_of(self._batch.inputs[key])
        assert table is not None
        found = np.full((*table.shape[:-2], *self.shape), fill, dtype=table.dtype)
        for sample, (row, start, stop) in zip(self.samples, self.spans, strict=True):
            found[..., row, start:stop] = table[..., sample, self._texts.columns(sample)]
        return found

    def fault(
        self, why: Split, key: str, place: Sequence[int], given: Sequence[int], due: Sequence[int]
    ) -> ShardFault:
        """A fault at a row and token of the call."""
        row, at = int(place[0]), int(place[1])
        sample = next(
            (
                s
                for s, (r, a, b) in zip(self.samples, self.spans, strict=True)
                if r == row and a <= at < b
            ),
            None,
        )
        rank, column = int(self.order.ranks[at]), int(self.order.columns[at])
        return ShardFault(why, key, rank, sample, column, (*given,), (*due,))

    # --- positions ---------------------------------------------------------------------------

    def positions(
        self,
        made: Mapping[str, Made],
        settled: Collection[str],
        *,
        cached: bool,
        embedded: bool,
    ) -> tuple[Mapping[str, Made], list[ShardFault]]:
        """What is known of keys that were made, without positions, and faults of positions.

        Args:
            made: Keys of the call that the batch does not have.
            settled: Keys that were judged already.
            cached: Whether the model continues positions from a cache.
            embedded: Whether the model gets vectors, from which no M-RoPE positions follow.
        """
        if POSITIONS in settled:
            return made, []
        if POSITIONS not in self._call:
            if cached:
                return made, []
            if embedded and self.counts_planes:
                return self._of_vectors(made)
            return made, [*self._without_positions()]
        if not self.one_per_row:
            return made, []  # judged with the seams
        if POSITIONS in self._batch.inputs:
            return made, [*self._other_positions()]
        one = made.get(POSITIONS)
        if one is None or one.right is not False or one.why is None or len(one.why.shapes) != 3:
            return made, []
        others = {key: value for key, value in made.items() if key != POSITIONS}
        return others, [self.fault(Split.POSITIONS, POSITIONS, *one.why.shapes)]

    def _without_positions(self) -> Iterator[ShardFault]:
        """Each rank counts its own tokens from 0: the first token that has another place."""
        counted, due = self.order.columns, np.arange(self.shape[1])
        for row, start, stop in self.spans:
            off = (counted - due)[start:stop]
            wrong = np.flatnonzero(off != off[0])
            if len(wrong):
                at = start + int(wrong[0])
                given, belongs = [int(counted[at])], [int(due[at] + off[0])]
                yield self.fault(Split.NO_POSITIONS, POSITIONS, (row, at), given, belongs)
                return

    def _of_vectors(self, made: Mapping[str, Made]) -> tuple[Mapping[str, Made], list[ShardFault]]:
        """Each rank counts its own vectors from 0, also those of images."""
        counted = np.broadcast_to(self.order.columns, self.shape)
        one = positions_of(self._batch, self._call, counted, self.samples)
        if one.right:
            return made, []
        if one.right is None or one.why is None or len(one.why.shapes) != 3:
            return {**made, POSITIONS: one}, []
        return made, [self.fault(Split.NO_POSITIONS, POSITIONS, *one.why.shapes)]

    @property
    def _lays_out_images(self) -> bool:
        """Whether positions follow from the sizes of images, as M-RoPE's do."""
        return self._batch.rules.checks_each_sample != "never"

    @property
    def counts_planes(self) -> bool:
        """Whether a rank that has vectors alone counts in each plane of M-RoPE alike."""
        return self._lays_out_images and self.one_per_row

    @property
    def follow_on_each_rank(self) -> bool:
        """Whether the model of a rank can lay out M-RoPE itself: it has all of each sample."""
        return (
            self.counts_planes
            and all(len({*self.order.ranks[a:b].tolist()}) == 1 for _, a, b in self.spans)
            and not [*self._without_positions()]
        )

    def _other_positions(self) -> Iterator[ShardFault]:
        """Positions that are not those of the batch, but for a constant per sample."""
        table = numbers_of(self._call[POSITIONS])
        if table is None:
            yield ShardFault(Split.UNREAD, POSITIONS)
            return
        given = np.nan_to_num(table, nan=-1, posinf=-1, neginf=-1).astype(np.int64)
        ours, theirs = (
            one[None] if one.ndim == 2 else one[-3:] for one in (given, self.own(POSITIONS, 0))
        )
        shape = (max(len(ours), len(theirs)), *self.shape)
        off = unlike(np.broadcast_to(ours, shape), np.broadcast_to(theirs, shape), self.inside)
        if off is not None:
            yield self.fault(Split.POSITIONS, POSITIONS, *off)

    def below_zero(self) -> ShardFault | None:
        """The first sample at 0 behind padding at -1: no matter where each 0 begins a sample."""
        table = numbers_of(self._call.get(POSITIONS))
        plane = table if table is None or table.ndim == 2 else table[0]
        if plane is None or plane.shape != self.shape or self.one_per_row:
            return None
        below = np.zeros(self.shape, dtype=bool)
        below[:, 1:] = (plane[:, :-1] == -1) & ~self.inside[:, :-1] & (plane[:, 1:] == 0)
        faults = self.at_first(Split.BELOW_ZERO, POSITIONS, below & self.firsts, plane)
        return next(faults, None)

    def with_padding_apart(self, positions: Any) -> Any:
        """The same positions, with padding at numbers that no sample goes on from."""
        if isinstance(positions, np.ndarray):
            return np.where(self.inside, positions, APART)
        inside = positions.new_tensor(self.inside).bool()
        return positions.where(inside, positions.new_tensor(APART))

    @staticmethod
    def as_given(row: PackedRow) -> PackedRow:
        """A row that is drawn, with the -1 that `with_padding_apart` replaced."""
        lines = [one._replace(first=-1) if one.first == APART else one for one in row.given]
        return replace(row, given=tuple(lines))

    # --- padding -----------------------------------------------------------------------------

    @cached_property
    def added(self) -> np.ndarray:
        """Tokens that are padding, and not the batch's, `(row, seq)`."""
        wide = self._batch.inputs[IDS].shape[1] if self.one_per_row else 0
        return ~self.inside & (np.arange(self.shape[1]) >= wide)

    def shown(self) -> Iterator[ShardFault]:
        """Padding behind the batch's own that a mask shows to tokens before it."""
        mask = numbers_of(self._call.get(PADDING_MASK))
        if mask is not None and mask.shape == self.shape and not self._batch.rules.causal:
            yield from self.at_first(Split.SHOWN, PADDING_MASK, self.added & (mask != 0), mask)

    def mask(self) -> ShardFault | None:
        """The first token of the batch that the mask shows or hides though the batch does not."""
        mask = numbers_of(self._call.get(PADDING_MASK))
        known = PADDING_MASK in self._batch.inputs and self.one_per_row
        if mask is None or mask.shape != self.shape or not known:
            return None
        own = np.arange(self.shape[1]) < self._batch.inputs[IDS].shape[1]
        wrong = own & ((mask != 0) != self.inside)
        faults = self.at_first(Split.MASK, PADDING_MASK, wrong, mask)
        return next((one._replace(due=(int(not one.given[0]),)) for one in faults), None)

    def at_first(
        self, why: Split, key: str, wrong: np.ndarray, values: np.ndarray
    ) -> Iterator[ShardFault]:
        for place in np.argwhere(wrong)[:1]:
            yield self.fault(why, key, place, [int(values[tuple(place)])], [])
