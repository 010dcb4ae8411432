"""Calls that are split over ranks along their tokens: the ranks joined again, and judged as one.

Each rank gets some tokens of a call: a stretch of them, two as in zigzag ring attention, or every
n-th. The tokens themselves say in which order the ranks belong together. The joined call is judged
like any other; what a split alone can get wrong is found here: tokens on no rank or on two, keys
of other columns, positions and labels that start again on each rank, media of another rank.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import BOOKKEEPING, CACHES, KNOWN, LABELS, PACKED
from vlmdebug.core.observed import ObservedCall, ObservedKey, Seam, Seams
from vlmdebug.core.packed_row import PackedRow
from vlmdebug.core.presence import expected_rows
from vlmdebug.core.rows import Rows
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.core.tensors import numbers_of, unreadable
from vlmdebug.errors import AmbiguousError
from vlmdebug.tracking.joined import IDS, PADDING_MASK, Piece, Texts, edges
from vlmdebug.tracking.observe import used_chunk
from vlmdebug.tracking.orders import Order, orders, zigzags_of_samples
from vlmdebug.tracking.rank_keys import EMBEDS, RankKeys
from vlmdebug.tracking.rows import RowFinder
from vlmdebug.tracking.scattered import Scattered
from vlmdebug.tracking.shard_labels import ShardLabels
from vlmdebug.tracking.shard_media import RankMedia, same
from vlmdebug.tracking.shard_tokens import POSITIONS, ShardTokens
from vlmdebug.tracking.split_rows import split_rows
from vlmdebug.tracking.unmasked import Unmasked


class JoinedRanks(NamedTuple):
    """One call, joined from what its ranks were given.

    Attributes:
        used: What it holds, as of any call, and what is wrong with its split.
        call: The arguments that a model without a split would get; empty if they are not known.
        learned: The label that a loss on each rank learns from each token, `(row, seq)`; None if
            there are no labels.
    """

    used: ObservedCall
    call: Mapping[str, Any] = {}
    learned: np.ndarray | None = None


class _Whole(NamedTuple):
    """An order in which the tokens are whole samples; positions fall `falls` times."""

    order: Order
    pieces: list[Piece]
    falls: int


class Ranks:
    """The ranks of one call.

    Args:
        batch: The batch that was cut.
        finder: Finds rows of it.
        ranks: The arguments of each rank, in order.
        planned: The samples that it should hold, where tokens do not say.
        shards: Over how many ranks it should be split.
        embedded: Whether tokens are embedded before the split, so that a rank needs no media.
    """

    def __init__(
        self,
        batch: Batch,
        finder: RowFinder,
        ranks: Sequence[Mapping[str, Any]],
        planned: range,
        *,
        shards: int,
        embedded: bool = False,
    ) -> None:
        self._batch, self._finder, self._planned = batch, finder, planned
        self._shards = shards
        self._faults = list[ShardFault]()
        if len(ranks) < shards:
            given, due = (len(ranks),), (shards,)
            self._faults.append(ShardFault(Split.RANKS, rank=len(ranks), given=given, due=due))
        self._unread = {key for rank in ranks for key in rank if unreadable(rank[key]) is not None}
        self._faults += [ShardFault(Split.UNREAD, key) for key in sorted(self._unread)]
        ranks = [{k: v for k, v in rank.items() if k not in self._unread} for rank in ranks]
        self._vectors = all(r.get(IDS) is None and r.get(EMBEDS) is not None for r in ranks)
        self._ranks = ranks
        if self._vectors and EMBEDS in batch.inputs:
            self._ranks = [{**rank, IDS: _tokens_of(batch, rank[EMBEDS])} for rank in ranks]
        self._embedded = embedded or self._vectors
        self._tables = [_table(rank.get(IDS)) for rank in self._ranks]
        self._keys = RankKeys(batch, self._ranks, self._tables)
        self._texts: Texts | None = finder.texts or Texts.of(batch)
        finder.texts = self._texts

    def joined(self) -> JoinedRanks:
        """The call that they share."""
        if self._vectors and EMBEDS not in self._batch.inputs:
            used = used_chunk(self._batch, self._finder, self._ranks[0], self._planned)
            return JoinedRanks(used)  # nobody knows its tokens
        tables = [table for table in self._tables if table is not None]
        if self._texts is None or len(tables) < len(self._tables) or len({*map(len, tables)}) > 1:
            return self._scattered()
        found = self._found(tables)
        return self._scattered() if found is None else self._judged(found.order, found.pieces)

    # --- the order of the tokens -------------------------------------------------------------

    def _found(self, tables: Sequence[np.ndarray]) -> _Whole | None:
        """The order in which the tokens are whole samples; None if there is none.

        Of several, one in which positions fall least: once per sample that does not begin its row.
        """
        assert self._texts is not None
        widths, texts = [table.shape[1] for table in tables], self._texts.every
        best = self._least_falling(self._whole_in(orders(widths)))
        if best is None or best.falls > len(best.pieces) - len(tables[0]):
            rows = np.concatenate(tables, axis=1)[:1]  # all have the same columns
            each = (order for row in rows for order in zigzags_of_samples(row, widths, texts))
            known = () if best is None else (best,)
            best = self._least_falling([*known, *self._whole_in(each)])
        return best

    def _whole_in(self, tried: Iterable[Order]) -> Iterator[_Whole]:
        """Those of these orders in which the tokens are whole samples."""
        for order in tried:
            pieces = self._pieces(order)
            if pieces is not None:
                yield _Whole(order, pieces, self._falls(order))

    def _least_falling(self, found: Iterable[_Whole]) -> _Whole | None:
        return min(found, key=lambda one: one.falls, default=None)  # first of equals

    def _pieces(self, order: Order) -> list[Piece] | None:
        """The samples of the tokens in this order; None if these are not whole samples."""
        assert self._texts is not None
        table = order.joined(self._tables, 1)
        mask = {PADDING_MASK: self._keys.along(PADDING_MASK, order)}
        ends = edges({POSITIONS: self._keys.along(POSITIONS, order)}, table.shape)
        for given in ({}, mask):  # a mask may be of other tokens
            found = self._whole(table, self._texts.not_padding(table, given), ends)
            if found is not None:
                return found
        return None

    def _whole(
        self, table: np.ndarray, shown: np.ndarray, ends: Collection[tuple[int, int]]
    ) -> list[Piece] | None:
        """The samples of these rows, if nothing else but padding is there."""
        texts, found = self._texts, list[Piece]()
        assert texts is not None
        for row, tokens in enumerate(table.astype(texts.dtype, copy=False)):
            real = shown[row] & ~texts.is_padding(tokens)
            own = texts.pieces(row, tokens, real, ends)
            if own is None or texts.is_strange(own, tokens, real):
                return None
            found += own
        sizes = [one.span.stop - one.span.start for one in found]
        whole = [texts.length(one.alike[0]) for one in found]
        return found if found and sizes == whole else None

    def _falls(self, order: Order) -> int:
        """How often positions fall: tells orders apart in which the tokens are the same."""
        table = numbers_of(self._keys.along(POSITIONS, order))
        if table is None:
            return 0
        return int((np.diff(table if table.ndim == 2 else table[0], axis=-1) < 0).sum())

    # --- the joined call -----------------------------------------------------------------------

    def _judged(self, order: Order, pieces: list[Piece]) -> JoinedRanks:
        assert self._texts is not None
        names = dict.fromkeys(k for rank in self._ranks for k in rank if rank[k] is not None)
        call, settled = dict[str, Any](), {*self._unread}
        for key in [name for name in names if name not in BOOKKEEPING]:
            values = [rank.get(key) for rank in self._ranks]
            if self._keys.is_along(key):
                call[key] = self._keys.along(key, order)
                fault = None if call[key] is not None else self._keys.unlike(key, values, order)
                if fault is None and key == PADDING_MASK and self._keys.is_whole(call[key], order):
                    self._faults.append(ShardFault(Split.WHOLE_MASK, key))
            elif key in self._batch.of_key:
                continue
            else:
                read = key in PACKED or key in KNOWN or key in self._batch.layout
                alike = not read or all(same(one, values[0]) for one in values)
                call[key] = values[0] if alike else None
                fault = None if alike else ShardFault(Split.DIFFER, key)
            if fault is not None:
                self._faults.append(fault)
                settled.add(key)
        media = RankMedia(self._batch, self._ranks, order, pieces, self._texts)
        call |= media.joined(embedded=self._embedded, vectors=self._vectors)
        self._faults += media.faults
        call = {key: value for key, value in call.items() if value is not None}
        tokens = ShardTokens(self._batch, self._texts, call, order, pieces)
        labels = ShardLabels(self._batch, self._texts, call, tokens)
        used = self._observed(call, tokens, labels, settled | media.settled)
        return JoinedRanks(used, self._for_model(call, tokens), labels.learned())

    def _observed(
        self, call: dict[str, Any], tokens: ShardTokens, labels: ShardLabels, settled: set[str]
    ) -> ObservedCall:
        """The joined call as any other, and its tokens as parts of ranks."""
        given = {key: value for key, value in call.items() if key not in LABELS}
        given = self._keys.trimmed(given) if tokens.surplus else given
        if POSITIONS in self._batch.inputs and tokens.one_per_row:
            given.pop(POSITIONS, None)
        masked = tokens.mask()
        if masked is not None:
            del given[PADDING_MASK]
            settled = settled | {PADDING_MASK}
            self._faults.append(masked)
        below = tokens.below_zero()
        if below is not None:
            self._faults.append(below)
            given[POSITIONS] = tokens.with_padding_apart(call[POSITIONS])
        used = used_chunk(self._batch, self._finder, given, self._planned)
        ids = used.keys.get(IDS)
        rows = [] if ids is None or ids.rows is None else [*ids.rows]
        if len(rows) == len(tokens.samples) and min(rows, default=0) >= 0:
            tokens.samples = rows
        cached = any(rank.get(key) is not None for rank in self._ranks for key in CACHES)
        made, faults = tokens.positions(used.made, settled, cached=cached, embedded=self._embedded)
        self._faults += [*faults, *labels.faults(), *labels.padding(), *tokens.shown()]
        settled |= {key for key in LABELS if key in call}
        settled |= {POSITIONS} if POSITIONS in self._batch.inputs and tokens.one_per_row else set()
        keys = dict(used.keys)
        for key in settled & self._batch.layout.keys():
            due = _as_due(self._batch, key, tokens.samples)
            dims = getattr(call.get(key), "ndim", 0)
            keys |= {} if due is None else {key: due._replace(dims=dims)}
        seams = (*used.seams, *labels.seams)
        used = replace(used, keys=keys, made=made, seams=seams, split=tuple(self._faults))
        apart = Unmasked.of(self._batch, self._finder, call, tokens.samples)
        if apart is not None:
            open_ = () if apart.for_flash else (Seam(Seams.UNMASKED, PADDING_MASK),)
            used = replace(used, needs_mask=False, seams=(*used.seams, *open_))
        return replace(used, rows=self._rows(used, call, tokens))

    def _rows(
        self, used: ObservedCall, call: dict[str, Any], tokens: ShardTokens
    ) -> tuple[PackedRow, ...]:
        """The rows of the joined call, to be drawn."""
        assert self._texts is not None
        unread = POSITIONS not in call and any(POSITIONS in rank for rank in self._ranks)
        given = call if unread else {IDS: call[IDS], **self._for_model(call, tokens)}
        if self._embedded and POSITIONS not in call and tokens.counts_planes:
            places = numbers_of(given.get(POSITIONS))  # the same in each plane
            given |= {} if places is None else {POSITIONS: np.stack([places] * 3)}
        known = [tokens.as_given(row) for row in used.rows]
        return split_rows(self._batch, self._texts, given, tokens, known, used.seams)

    def _for_model(self, call: dict[str, Any], tokens: ShardTokens) -> dict[str, Any]:
        """The joined call as a model takes it; without positions, several ranks count from 0.

        A model of M-RoPE does not count where it has the tokens of a sample and its media.
        """
        if self._vectors:
            media = {IDS, *self._batch.of_key}
            call = {key: value for key, value in call.items() if key not in media}
            call = self._keys.trimmed(call) if tokens.surplus else call
        if POSITIONS in call or len(self._ranks) == 1:
            return call
        if not self._embedded and tokens.follow_on_each_rank:
            return call
        like = call[EMBEDS if self._vectors else IDS]
        places = tokens.order.columns[None, : like.shape[1]].repeat(like.shape[0], 0)
        if hasattr(like, "detach"):
            import torch

            places = torch.from_numpy(places).to(like.device)
        return {**call, POSITIONS: places}

    # --- ranks that no order joins -----------------------------------------------------------

    def _are_whole_without(self, token: int) -> bool:
        """Whether they are whole samples in a known order, but for one column with this token.

        Be it padding or not, it does not belong there.
        """
        for ranks in _without(token, self._ranks, self._tables):
            other = Ranks(self._batch, self._finder, ranks, self._planned, shards=self._shards)
            tables = [table for table in other._tables if table is not None]
            if other._found(tables) is not None:
                return True
        return False

    def _scattered(self) -> JoinedRanks:
        """Which tokens are missing or come twice; if none, their order is not known."""
        found = Scattered(self._batch, self._texts, self._ranks, self._tables, self._planned)
        token = found.may_be_padding
        found.proven = token is not None and self._are_whole_without(token)
        self._faults += found.faults()
        samples = Rows.of(self._planned)
        keys = {IDS: ObservedKey(samples, len(samples))}
        rows = found.drawn(self._shards)
        return JoinedRanks(ObservedCall(keys, rows=rows, split=tuple(self._faults)))


def _as_due(batch: Batch, key: str, samples: Sequence[int]) -> ObservedKey | None:
    """A key that was judged already, with the rows that belong there; None if none do."""
    try:
        expected = expected_rows(batch, key, batch.part(Rows.of(samples)))
    except (AmbiguousError, IndexError):
        return ObservedKey(None, 0)
    absent = expected.presence == "absent"
    return None if absent else ObservedKey(expected.rows, len(expected.rows))


def _without(
    token: int, ranks: Sequence[Mapping[str, Any]], tables: Sequence[np.ndarray | None]
) -> Iterator[list[dict[str, Any]]]:
    """What shows the order of the ranks, without one column that holds this token; each in turn."""
    known = [
        {k: v for k in (IDS, PADDING_MASK, POSITIONS) if (v := numbers_of(rank.get(k))) is not None}
        for rank in ranks
    ]
    for number, table in enumerate(tables):
        columns = () if table is None else np.flatnonzero((table == token).any(axis=0))
        for column in columns:
            cut = {key: np.delete(value, column, axis=-1) for key, value in known[number].items()}
            yield [cut if at == number else one for at, one in enumerate(known)]


def _table(ids: Any) -> np.ndarray | None:
    """`input_ids` of a rank; None if it has none of two dimensions."""
    found = numbers_of(ids) if hasattr(ids, "shape") else None  # models take no lists
    return found if found is not None and found.ndim == 2 and found.dtype.kind in "iu" else None


def _tokens_of(batch: Batch, vectors: Any) -> Any:
    """The tokens of vectors of a rank, by the batch's `inputs_embeds`; -1 for others."""
    own, given = numbers_of(batch.inputs[EMBEDS]), numbers_of(vectors)
    ids = numbers_of(batch.inputs[IDS])
    if own is None or given is None or ids is None or given.ndim != 3:
        return None
    known = {vector.tobytes(): int(token) for vector, token in _pairs(own, ids)}
    flat = [known.get(vector.tobytes(), -1) for row in given for vector in row]
    found = np.array(flat, dtype=ids.dtype).reshape(given.shape[:2])
    like = batch.inputs[IDS]
    return like.new_tensor(found) if hasattr(like, "new_tensor") else found


def _pairs(vectors: np.ndarray, ids: np.ndarray) -> list[tuple[np.ndarray, Any]]:
    return [*zip(vectors.reshape(-1, vectors.shape[-1]), ids.reshape(-1), strict=True)]
