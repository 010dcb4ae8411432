"""Ranks that no order joins: which tokens are on no rank, or on two, and where.

How many these are is counted. Where they belong is shown by the longest runs of each rank's tokens
in the sample, and drawn if it comes to the same number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.packed_row import Held, PackedRow, Place
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.tracking.joined import PADDING_MASK, Texts

MOST_TOKENS = 2**14
"""Tokens of a rank, or of a sample, above which lost tokens are counted and not placed."""


class _Row(NamedTuple):
    """How often each token of a row comes on all ranks, how often it should, and its sample."""

    given: Counter[int]
    due: Counter[int]
    sample: int | None = None


class Scattered:
    """The ranks of one call, of which the tokens are those of the batch in no known order.

    Args:
        batch: The batch that was cut.
        texts: Its tokens, if they are known.
        ranks: The arguments of each rank.
        tables: `input_ids` of each rank, `(row, seq)`; None where they cannot be read.
        planned: The samples that the call should hold.

    Attributes:
        proven: Whether the one token that comes too often is known to be no padding.
    """

    def __init__(
        self,
        batch: Batch,
        texts: Texts | None,
        ranks: Sequence[Mapping[str, Any]],
        tables: Sequence[np.ndarray | None],
        planned: range,
    ) -> None:
        self._batch, self._texts, self._planned = batch, texts, planned
        self.proven: bool = False
        self._masked = all(rank.get(PADDING_MASK) is not None for rank in ranks)
        known = [table for table in tables if table is not None]
        self._tokens: list[list[np.ndarray]] = []  # of each row on each rank, without padding
        if texts is not None and len(known) == len(tables):
            for table, rank in zip(known, ranks, strict=True):
                shown = texts.real(table, rank)
                rows = zip(table, shown, strict=True)
                self._tokens.append([tokens[real] for tokens, real in rows])

    def faults(self) -> list[ShardFault]:
        """Tokens that are missing or come twice; if none, that their order is not known."""
        if not (self._lost or self._twice) or 2 * self._lost.total() > self._whole:
            return [ShardFault(Split.UNKNOWN)]
        found = list[ShardFault]()
        for why, tokens in ((Split.LOST, self._lost), (Split.TWICE, self._twice)):
            if tokens:
                media = sum(tokens[one] for one in self._batch.token_ids.values())
                found.append(ShardFault(why, given=(tokens.total(),), media=media))
        return found

    def drawn(self, shards: int) -> tuple[PackedRow, ...]:
        """The rows as they are drawn; none where they would not show what was counted."""
        samples = [row.sample for row in self._rows if row.sample is not None]
        alike = {len(rows) for rows in self._tokens} == {len(samples)}
        if self._texts is None or not alike or self.faults()[0].why is Split.UNKNOWN:
            return ()
        found = scattered_rows(self._texts, self._tokens, samples, shards)
        return found if counted(found) == (self._lost.total(), self._twice.total()) else ()

    @property
    def _whole(self) -> int:
        return sum(row.due.total() for row in self._rows)

    @cached_property
    def _lost(self) -> Counter[int]:
        return sum((row.due - row.given for row in self._rows), Counter[int]())

    @property
    def _twice(self) -> Counter[int]:
        return Counter() if self.may_be_padding is not None and not self.proven else self._more

    @cached_property
    def _more(self) -> Counter[int]:
        """How often tokens of the samples come too often."""
        return sum((_only(row.given - row.due, row.due) for row in self._rows), Counter[int]())

    @cached_property
    def may_be_padding(self) -> int | None:
        """The one token that comes too often where no mask says what is padding; None if none is.

        No padding is made of placeholder tokens.
        """
        if len(self._more) != 1 or self._masked:
            return None
        (token,) = self._more
        return None if token in self._batch.token_ids.values() else token

    @cached_property
    def _rows(self) -> list[_Row]:
        """How often each token comes on all ranks, and how often it should, row by row.

        A row of one sample is compared with the nearest sample, and a packed row with the batch if
        it should hold all of it; nothing is known of any other.
        """
        texts = self._texts
        if texts is None or not self._tokens:
            return []
        owned = [Counter(texts.text(sample).tolist()) for sample in range(len(self._batch))]
        given = [Counter[int]() for _ in range(max(map(len, self._tokens)))]
        for rows in self._tokens:
            for own, tokens in zip(given, rows, strict=False):
                own.update(tokens.tolist())
        if len(given) == len(self._planned):
            pairs = zip(given, self._planned, strict=True)
            samples = [_sample_of(own, owned, planned) for own, planned in pairs]
            return [_Row(own, owned[s], s) for own, s in zip(given, samples, strict=True)]
        if len(given) == 1 and len(self._planned) == len(owned):
            return [_Row(given[0], sum(owned, Counter[int]()))]
        return []


def _sample_of(given: Counter[int], owned: Sequence[Counter[int]], planned: int) -> int:
    """The sample of a row: the nearest, but the planned one where just some tokens are missing."""
    nearest = min(range(len(owned)), key=lambda sample: _apart(owned[sample], given))
    whole = _apart(owned[nearest], given) == 0
    return nearest if whole or given - owned[planned] else planned


def _only(tokens: Counter[int], known: Counter[int]) -> Counter[int]:
    """Those tokens that are known."""
    return Counter({token: count for token, count in tokens.items() if token in known})


def _apart(one: Counter[int], other: Counter[int]) -> int:
    """How many tokens one has more often than the other, or less."""
    return (one - other).total() + (other - one).total()


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
