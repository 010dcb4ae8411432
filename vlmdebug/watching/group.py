"""Calls that share the tokens of one batch and have copies of them: joined, and judged as one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple
from weakref import ref

import numpy as np
import torch

from vlmdebug.checking.compare import compare
from vlmdebug.checking.report import Report
from vlmdebug.checking.shards import NotSplit, PositionsOfRank, shard_differences
from vlmdebug.checking.text import as_mismatch
from vlmdebug.checking.text_doubts import doubt
from vlmdebug.checking.whole_batch import planned_report, with_made
from vlmdebug.core.keys import ALONG_TOKENS, CACHES, IGNORED, KEYS, LABELS, MEDIA_KEYS, OF_BOTH
from vlmdebug.core.observed import SlicerRun
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.core.tensors import numbers_of, to_numpy
from vlmdebug.errors import VlmDebugError
from vlmdebug.families.assemble import assemble
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.tracking.copied import copied
from vlmdebug.tracking.joined import IDS, PADDING_MASK
from vlmdebug.tracking.orders import Order, orders, side_by_side
from vlmdebug.tracking.rows import RowFinder
from vlmdebug.tracking.shard_media import same
from vlmdebug.tracking.shard_tokens import POSITIONS
from vlmdebug.tracking.shards import Ranks
from vlmdebug.watching.arguments import Mode
from vlmdebug.watching.fast_path import TOKENS, Tensors
from vlmdebug.watching.judged import COUNTS_DIFFER, Judged
from vlmdebug.watching.tensor_refs import root_of
from vlmdebug.watching.windows import Pass


def _nothing() -> Report:
    raise AssertionError("nobody asks for the report of what is right")


MEDIA = MEDIA_KEYS.difference(OF_BOTH)
"""Keys that are not split along the tokens."""
RIGHT = Judged(True, _nothing)


class _Gone(NamedTuple):
    """A tensor of the program's that is not kept alive."""

    root: ref[torch.Tensor]
    version: int | None
    place: tuple[tuple[int, ...], tuple[int, ...], int]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> _Gone:
        root = root_of(tensor)
        place = tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
        return cls(ref(root), None if root.is_inference() else root._version, place)

    def again(self) -> torch.Tensor | None:
        """The tensor; None if it is gone or was written to."""
        root = self.root()
        if root is None or self.version is None or root._version != self.version:
            return None
        return root.detach().as_strided(*self.place)


@dataclass(frozen=True, eq=False)
class Member:
    """A call that may share the tokens of a batch with others.

    Attributes:
        numbers: Copies of its numbers, and where its media are.
        tokens: Where its tokens are.
        site: The line that made it.
        mode: Which model was run, and how.
        alone: What is found in it by itself, as in a whole batch.
        part: The slices of one batch that it is among, as that batch judged it; None for copies.
        is_share: Whether the batch has real tokens in other columns, so that it is not whole.
        is_again: Whether a call with the same numbers waits.
    """

    numbers: Mapping[str, Any]
    tokens: _Gone
    site: str
    mode: Mode
    alone: Judged
    part: Pass | None = None
    is_share: bool = False
    is_again: bool = False

    @classmethod
    def of(cls, tensors: Tensors, site: str, mode: Mode, alone: Judged) -> Member:
        """A call; none of its tensors is kept."""
        kept = {key: _Gone.of(one) if key in MEDIA else one.clone() for key, one in tensors.items()}
        return cls(kept, _Gone.of(tensors[IDS]), site, mode, alone)

    @property
    def kind(self) -> tuple[Any, ...]:
        """What all calls that share a batch have in common."""
        return self.mode, len(self.numbers[IDS])

    @property
    def width(self) -> int:
        return self.numbers[IDS].shape[1]

    @cached_property
    def is_right(self) -> bool:
        """Whether nothing is wrong with it by itself, so that it may be whole."""
        return not self.is_share and (self.alone.ok or not self.alone.report().mismatches)

    def is_among(self, calls: Sequence[Member]) -> bool:
        """Whether one of them has the same numbers, as far as both have them."""
        return any(self._is_as(one) for one in calls)

    def _is_as(self, other: Member) -> bool:
        keys = (self.numbers.keys() & other.numbers.keys()) - MEDIA
        return all(torch.equal(self.numbers[key], other.numbers[key]) for key in keys)

    def is_of_other_rows(self, other: Member) -> bool:
        """Whether both have whole rows of one tensor, and not the same."""
        one, two = self.tokens, other.tokens
        root = one.root()
        if root is None or root is not two.root() or one.version != two.version:
            return False
        whole = root.ndim == 2 and root.shape[1] == self.width == other.width
        return whole and one.place != two.place


class Joined(NamedTuple):
    """What is found in calls together.

    Attributes:
        fits: Whether an order of their tokens makes them the ranks of one call.
    """

    judged: Judged
    fits: bool


class Group:
    """Judges the calls of one batch together.

    Args:
        metadata: Of the model and its processor.
        shards: How many calls share a batch.
        embedded: Whether tokens are embedded before the split.
        alone: Judges a whole batch by itself.
    """

    def __init__(
        self,
        metadata: ProcessorMetadata,
        shards: int,
        alone: Callable[[Tensors], Judged],
        *,
        embedded: bool,
    ) -> None:
        self._metadata, self._shards, self._alone = metadata, shards, alone
        self._embedded = embedded

    def judged(self, calls: Sequence[Member]) -> Joined:
        """What is found in all of them together."""
        try:
            judged, fits = self._judged([dict(one.numbers) for one in calls])
        except VlmDebugError:  # no batch together
            judged, fits = self._unknown(calls[0].numbers, ()), False
        return Joined(judged, fits)

    def _unknown(self, call: Mapping[str, Any], doubts: Sequence[ShardFault]) -> Judged:
        """Calls of which no order is known."""
        batch = assemble(BatchFacts({IDS: call[IDS]}, self._metadata), None)
        report = planned_report(batch, one_chunk=True)
        return Judged.of(_with(report, [*doubts, ShardFault(Split.UNKNOWN)]))

    def _judged(self, calls: Sequence[dict[str, Any]]) -> tuple[Judged, bool]:
        gone = dict.fromkeys(key for one in calls for key in one if key in MEDIA)
        ranks = [{k: v.again() if k in gone else v for k, v in one.items()} for one in calls]
        gone = [key for key in gone if any(key in r and r[key] is None for r in ranks)]
        doubts = [ShardFault(Split.GONE, key) for key in gone]
        joins = _joins(ranks, self._metadata.pad_token_id)
        if not joins:
            return self._unknown(ranks[0], doubts), False
        join, alone = self._best(ranks, joins)
        starts = _packed(join.along[POSITIONS], join.order) if join.packed else []
        report, is_joined = self._compared(ranks, join, starts, gone=bool(gone))
        if not alone.ok:
            whole = alone.report()  # positions say where it lacks tokens
            places = [one for one in report.mismatches if one.code == PositionsOfRank.code]
            whole = replace(whole, mismatches=(*places, *whole.mismatches))
            return Judged.of(_with(whole, doubts)), True
        return Judged.of(_with(report, doubts)), is_joined and not starts

    def too_few(self, calls: Sequence[Member]) -> Report:
        """Calls of some ranks, and no more came."""
        facts = BatchFacts({IDS: calls[0].numbers[IDS]}, self._metadata)
        batch = assemble(facts, None)
        given, due = (len(calls),), (self._shards,)
        fault = ShardFault(Split.RANKS, rank=len(calls), given=given, due=due, noun="call")
        (found,) = shard_differences([fault], 0, tuple(range(len(batch))))
        return replace(
            planned_report(batch, one_chunk=True), mismatches=(as_mismatch(found, batch),)
        )

    def _best(
        self, ranks: Sequence[dict[str, Any]], joins: Sequence[_Join]
    ) -> tuple[_Join, Judged]:
        """The order that positions say, or in which the whole is right by itself."""
        found = list[tuple[_Join, Judged]]()
        for join in joins:
            if join.falls > joins[0].falls and joins[0].is_sure:
                break
            whole = {key: value for key, value in join.along.items() if key not in LABELS}
            if not join.packed:
                whole.pop(POSITIONS, None)
                if join.real.all():  # the row of a call without mask is one sample here
                    whole.setdefault(PADDING_MASK, torch.from_numpy(join.real).long())
            media = _media(ranks, join.order)
            masked = copied(PADDING_MASK, whole, self._metadata) if PADDING_MASK in whole else None
            alone = self._alone({**whole, **(media or {})}) if media is not None else RIGHT
            if masked is not None and not masked.right and _has_holes(whole[PADDING_MASK]):
                batch = assemble(BatchFacts({IDS: whole[IDS]}, self._metadata), None)
                alone = Judged.of(
                    with_made(planned_report(batch, one_chunk=True), batch, {PADDING_MASK: masked})
                )
            found.append((join, alone))
            if alone.ok:
                return found[-1]
        return found[0]

    def _compared(
        self,
        ranks: Sequence[dict[str, Any]],
        join: _Join,
        starts: Sequence[ShardFault],
        *,
        gone: bool,
    ) -> tuple[Report, bool]:
        """What is wrong with the joined call and its split, and whether an order joins its ranks.

        `starts`: pieces of ranks that may begin another sample. `gone`: some media are.
        """
        media, unsure = _media(ranks, join.order), list[ShardFault]()
        if media is None:
            if not gone:
                key = next(key for one in ranks for key in one if key in MEDIA)
                unsure.append(ShardFault(Split.UNITS, key))
            ranks = [{k: v for k, v in one.items() if k not in MEDIA} for one in ranks]
        tokens = {k: v for k, v in join.along.items() if k in TOKENS or k in OF_BOTH}
        tokens = {key: value for key, value in tokens.items() if key not in LABELS} | (media or {})
        batch = assemble(BatchFacts(tokens, self._metadata), None)
        if join.packed:
            unsure += starts
            batch = replace(batch, inputs={**batch.inputs, POSITIONS: join.along[POSITIONS]})
        embedded, finder = self._embedded or media is None, RowFinder(tokens, batch.layout)
        given = Ranks(
            batch, finder, ranks, range(len(batch)), shards=self._shards, embedded=embedded
        ).joined()
        used = replace(given.used, split=(*given.used.split, *join.learned()))
        shards = self._shards
        run = SlicerRun([used], len(batch), slicer="watched calls", partial=True, shards=shards)
        keys = sorted(key for key in ALONG_TOKENS if key in tokens)
        made = {key: copied(key, tokens, self._metadata) for key in keys}
        wrong = {key: one for key, one in made.items() if one.right is False}
        report = compare(batch, run)
        if media is None:
            kept = tuple(one for one in report.mismatches if one.code != COUNTS_DIFFER)
            report = replace(report, mismatches=kept)
        is_joined = all(one.why is not Split.UNKNOWN for one in used.split)
        return _with(with_made(report, batch, wrong), unsure), is_joined


class _Join(NamedTuple):
    """The ranks in one order.

    Attributes:
        order: Which token of which rank each token is.
        along: The keys along the tokens, joined.
        real: Tokens that are no padding, `(row, seq)`.
        falls: How often positions fall along them.
        is_sure: Whether there are positions, and they never fall.
    """

    order: Order
    along: dict[str, Any]
    real: np.ndarray
    falls: int
    is_sure: bool

    @classmethod
    def of(cls, ranks: Sequence[Mapping[str, Any]], order: Order, pad: int | None) -> _Join:
        along = _along(ranks, order)
        ids, mask = to_numpy(along[IDS]), numbers_of(along.get(PADDING_MASK))
        if mask is not None:
            real = mask != 0
        else:
            real = np.ones(ids.shape, dtype=bool) if pad is None else ids != pad
        places = numbers_of(along.get(POSITIONS))
        if places is None:
            return cls(order, along, real, 0, is_sure=False)
        first = np.broadcast_to(places if places.ndim == 2 else places[0], ids.shape)
        least = int(places.ndim == 2)  # tokens of an image have the same time
        rows = zip(first, real, strict=True)
        falls = sum(int((np.diff(row[shown]) < least).sum()) for row, shown in rows)
        return cls(order, along, real, falls, is_sure=not falls)

    @property
    def packed(self) -> bool:
        """Whether rows may hold several samples: positions fall, and no mask is there."""
        return self.falls > 0 and PADDING_MASK not in self.along

    def learned(self) -> list[ShardFault]:
        """Padding with a label that is neither its own id, nor that of the next token."""
        ids, found = to_numpy(self.along[IDS]), list[ShardFault]()
        ahead = np.full_like(ids, IGNORED)
        ahead[:, :-1] = ids[:, 1:]
        for key in LABELS:
            labels = numbers_of(self.along.get(key))
            if labels is None or labels.shape != ids.shape:
                continue
            wrong = ~self.real & (labels != IGNORED) & (labels != ids) & (labels != ahead)
            for row, at in np.argwhere(wrong)[:1]:
                rank, column = int(self.order.ranks[at]), int(self.order.columns[at])
                given = (int(labels[row, at]),)
                found.append(ShardFault(Split.LEARNED, key, rank, int(row), column, given))
        return found


def _with(report: Report, faults: Sequence[ShardFault]) -> Report:
    """A report with doubts of a split."""
    texts = [doubt(NotSplit(0, one)) for one in faults]
    return replace(report, ambiguities=(*report.ambiguities, *texts))


def _joins(ranks: Sequence[Mapping[str, Any]], pad: int | None) -> list[_Join]:
    """The ranks in each order, that in which positions fall least often first.

    Empty where ranks have no common rows.
    """
    tables = [found for one in ranks if (found := numbers_of(one.get(IDS))) is not None]
    shapes = [table.shape for table in tables]
    if len(tables) < len(ranks) or len({shape[:-1] for shape in shapes}) > 1:
        return []
    known = [_Join.of(ranks, order, pad) for order in orders([shape[1] for shape in shapes])]
    return sorted(known, key=lambda join: join.falls)


def _has_holes(mask: Any) -> bool:
    """Whether tokens that are shown do not stand side by side in some row."""
    edges = np.diff((to_numpy(mask) != 0).astype(np.int8), axis=1, prepend=0)
    return bool(((edges == 1).sum(axis=1) > 1).any())


def _along(ranks: Sequence[Mapping[str, Any]], order: Order) -> dict[str, Any]:
    """The keys along the tokens that all ranks have, joined."""
    found, widths = {}, [(width,) for width in order.widths]
    for key in ranks[0]:
        if key in MEDIA or key in CACHES or key not in KEYS:
            continue
        values = [one.get(key) for one in ranks]
        shapes = [tuple(getattr(value, "shape", ())) for value in values]
        dim = 1 if key in OF_BOTH else len(shapes[0]) - 1
        others = {(*shape[:dim], *shape[dim + 1 :]) for shape in shapes}
        if len(others) == 1 and [shape[dim : dim + 1] for shape in shapes] == widths:
            found[key] = order.joined(values, dim)
    return found


def _packed(positions: Any, order: Order) -> list[ShardFault]:
    """Positions that start again where a piece of a rank begins, as those of each rank would."""
    table = to_numpy(positions)
    first = table if table.ndim == 2 else table[0]
    rows, columns = np.nonzero((np.diff(first, axis=1) < 0) & order.begins[None, 1:])
    return [
        ShardFault(
            Split.PACKED,
            POSITIONS,
            int(order.ranks[at + 1]),
            int(row),
            int(order.columns[at + 1]),
            (int(first[row, at + 1]),),
            (int(first[row, at]) + 1,),
        )
        for row, at in zip(rows[:1], columns[:1], strict=True)
    ]


def _media(ranks: Sequence[Mapping[str, Any]], order: Order) -> dict[str, Any] | None:
    """The media of all ranks: the same on each, or those of one after the other.

    None where their order is not known, or some are gone.
    """
    found = dict[str, Any]()
    plain = bool((np.diff(order.ranks) >= 0).all())
    for key in dict.fromkeys(key for one in ranks for key in one if key in MEDIA):
        if any(key in one and one[key] is None for one in ranks):
            return None
        values = [one.get(key) for one in ranks]
        if all(same(one, values[0]) for one in values):
            found[key] = values[0]
        elif plain:
            found[key] = side_by_side([value for value in values if value is not None], 0)
        else:
            return None
    return found
