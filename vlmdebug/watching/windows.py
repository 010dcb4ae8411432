"""Calls with some columns of a batch: windows of a prefill, and the shares of ranks.

What a call needs is in the memory of the batch that its `input_ids` are columns of. Which columns
came before is kept, so that tokens that come twice, or in no call, are found.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from weakref import ref

import numpy as np
import torch

from vlmdebug.core.keys import ALONG_TOKENS, CACHES, LABELS
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line
from vlmdebug.tracking.shard_tokens import POSITIONS
from vlmdebug.tracking.window import Place, Whole
from vlmdebug.watching.arguments import Mode
from vlmdebug.watching.rank import rank
from vlmdebug.watching.tensor_refs import columns_of, root_of, wide_of

OPEN = 64
"""Splits that are not complete and are known at a time."""


@dataclass(frozen=True)
class SplitCalls:
    """How a program splits the tokens of each call.

    Attributes:
        shards: Over how many calls or ranks; None where it is not said.
        embedded: Whether tokens are embedded before the split.
        rank: The rank of this process among those that share a call; None if it makes the calls
            of all of them.
        declared: Whether the program says that it splits calls.
    """

    shards: int | None = None
    embedded: bool = False
    rank: int | None = None
    declared: bool = False


NOT_SPLIT = SplitCalls()


class Where(NamedTuple):
    """Which columns of which tensor the `input_ids` of a call are.

    Attributes:
        root: The tensor.
        version: Writes into it, by torch's count.
        at: The columns.
        width: All columns of the tensor.
        mode: How the model is run, for one rank of several.
        cache: What identifies the cache of the call; None without one.
        cached: Tokens in the cache before the call; None if that cannot be read without waiting.
    """

    root: ref[torch.Tensor]
    version: int
    at: Place
    width: int
    mode: Mode = ()
    cache: ref[Any] | int | None = None
    cached: int | None = None


@dataclass(eq=False)
class Pass:
    """Windows of the same rows of one batch, one after another.

    `spans`: those that came, in order. `number`: of the windows before.
    """

    first: Where
    spans: list[tuple[int, int]] = field(default_factory=list)
    whole: Whole | None = None
    site: str = ""

    def fits(self, where: Where, whole: Whole | None = None) -> bool:
        """Whether a window goes on in it: it is of the same tensor, or of one with its tokens."""
        first = self.first
        alike = (first.at.rows, first.mode) == (where.at.rows, where.mode)
        if not alike or not _is_same(first.cache, where.cache):
            return False
        if whole is not None and self.whole is not None:
            return whole is self.whole or np.array_equal(whole.ids, self.whole.ids)
        return first.root() is where.root() and first.version == where.version

    def has(self, where: Where) -> bool:
        """Whether it has a window of these very columns."""
        return (where.at.start, where.at.stop) in self.spans

    def count(self, *, but: int = 0) -> np.ndarray:
        """How often each token came, `(seq,)`, without the last `but` windows."""
        found = np.zeros(self.first.width, dtype=np.int64)
        for start, stop in self.spans[: len(self.spans) - but]:
            found[start:stop] += 1
        return found


class Added(NamedTuple):
    """What is found of one window or rank.

    Attributes:
        one: Those that it goes on with; None where others are not known.
    """

    number: int
    faults: list[ShardFault]
    one: Pass | None


class Rest(NamedTuple):
    """Tokens that were in no call when the program ended, or began again.

    `site`: of the last call that had others of them.
    """

    site: str
    whole: Whole
    rows: range
    fault: ShardFault


class Windows:
    """The windows that came, and which tokens they leave.

    Attributes:
        split: How the program splits calls.
    """

    def __init__(self, split: SplitCalls) -> None:
        self.split: SplitCalls = split
        self._open: deque[Pass] = deque(maxlen=OPEN)
        self._torn = False

    def where(
        self,
        tensors: Mapping[str, torch.Tensor],
        inputs: Mapping[str, Any],
        mode: Mode = (),
        *,
        cached: bool,
    ) -> Where | None:
        """The columns that a call has; None for a call of whole rows, or of unknown ones.

        Without a declaration, windows are those of a prefill: the first one ends before the batch
        does, and all have a cache.
        """
        ids = tensors.get("input_ids")
        if ids is None or not (cached or self.split.declared):
            return None
        root, wide = root_of(ids), wide_of(ids)
        found = columns_of(ids, wide)
        if found is None or wide.ndim != 2 or root.is_inference():
            return None
        if root.ndim == 1 and not _others_agree(tensors, found[1], len(root)):
            return None  # it may be a stream of tokens, of which a batch is a part
        rows, columns = found
        at = Place(rows, columns.start, columns.stop)
        cache = next((inputs[key] for key in CACHES if inputs.get(key) is not None), None)
        length = length_of(cache)
        mode = () if cached else mode  # windows of a prefill have their cache in common
        where = Where(ref(root), root._version, at, wide.shape[1], mode, _mark(cache), length)
        known = self.split.declared or at.stop < where.width
        return where if known or any(one.fits(where) for one in self._open) else None

    def add(self, where: Where, whole: Whole, site: str) -> Added:
        """The number of this window or rank, and tokens that came twice or were left out."""
        if self.split.rank is not None and where.cache is None:
            return Added(self.split.rank, [], None)  # what other ranks have is not known here
        fitting = (one for one in reversed(self._open) if one.fits(where, whole))
        one = next((one for one in fitting if where.cache is not None or not one.has(where)), None)
        if one is None or (where.cache is not None and _begins_again(one, where)):
            one = Pass(where)
            self._open.append(one)
        one.whole, one.site = whole, site
        compared = self._ranks if where.cache is None else self._in_time
        faults = [*compared(one, where)]
        one.spans.append((where.at.start, where.at.stop))
        number = len(one.spans) - 1
        if where.cache is None and len(one.spans) == self.split.shards:
            faults += self._left_by(one) if not faults else []
            self._open = deque((o for o in self._open if o is not one), maxlen=OPEN)
        noun = "window" if where.cache is not None else "rank"
        found = [fault._replace(rank=number, noun=noun) for fault in faults]
        return Added(number, found, one)

    def close(self, passes: Collection[Pass]) -> None:
        """Forget the ranks of these: they were judged with others."""
        kept = (one for one in self._open if not any(one is other for other in passes))
        self._open = deque(kept, maxlen=OPEN)

    def tear(self) -> None:
        """Forget all ranks: calls of others are not seen."""
        self._open = deque((o for o in self._open if o.first.cache is not None), maxlen=OPEN)
        self._torn = True

    def _in_time(self, one: Pass, where: Where) -> Iterator[ShardFault]:
        """Tokens between a window and the one before it, or in both."""
        if not one.spans:
            return
        start, before = where.at.start, one.spans[-1][1]
        if start == before or _goes_on(one, where):
            one.spans = [span for span in one.spans if span[0] < start]
            return
        columns = np.zeros(where.width, dtype=bool)
        columns[min(start, before) : max(start, before)] = True
        yield from _tokens(
            Split.LOST if start > before else Split.TWICE, one, where.at.rows, columns
        )

    def _ranks(self, one: Pass, where: Where) -> Iterator[ShardFault]:
        """Tokens that a rank before has, too."""
        columns = one.count() > 0
        columns[: where.at.start] = columns[where.at.stop :] = False
        yield from _tokens(Split.TWICE, one, where.at.rows, columns)

    def _left_by(self, one: Pass, why: Split = Split.LOST) -> list[ShardFault]:
        """Tokens that are in no window."""
        return [*_tokens(why, one, one.first.at.rows, one.count() == 0)]

    def ended(self) -> Iterator[Rest]:
        """What the windows leave, now that no other will come."""
        while self._open:
            one = self._open.popleft()
            is_torn = self._torn and one.first.cache is None
            if is_torn or one.whole is None or (one.first.cache is not None and len(one.spans) < 2):
                continue
            why = Split.REST if one.first.cache is not None else Split.LOST
            for fault in self._left_by(one, why):
                noun = "window" if one.first.cache is not None else "rank"
                yield Rest(one.site, one.whole, one.first.at.rows, fault._replace(noun=noun))

    def goes_on(self, tensors: Mapping[str, torch.Tensor], inputs: Mapping[str, Any]) -> None:
        """Note a call with a cache, if its tokens are a copy of those that come next."""
        ids = tensors.get("input_ids")
        caches = [_mark(inputs[key]) for key in CACHES if inputs.get(key) is not None]
        if ids is None or not ids.is_cpu:
            return  # the host would wait for it
        for one in self._open:
            rows, whole = one.first.at.rows, one.whole
            if whole is None or not any(_is_same(one.first.cache, cache) for cache in caches):
                continue
            start = one.spans[-1][1]
            due = whole.ids[rows.start : rows.stop, start : start + ids.shape[-1]]
            if ids.shape == due.shape and np.array_equal(ids.numpy(), due):
                one.spans.append((start, start + ids.shape[-1]))


def _tokens(why: Split, one: Pass, rows: range, columns: np.ndarray) -> Iterator[ShardFault]:
    """A fault of the real tokens in these columns, `(seq,)`, if there are any."""
    assert one.whole is not None
    real = one.whole.real[rows.start : rows.stop] & columns
    count = int(real.sum())
    if count:
        media = one.whole.placeholders(Place(rows, 0, one.first.width), real)
        first = int(np.flatnonzero(real.any(axis=0))[0])
        yield ShardFault(why, column=first, given=(count,), media=media)


def _begins_again(one: Pass, where: Where) -> bool:
    """Whether a window is the first of another prefill, or the cache has other tokens before it."""
    if where.cached is None or one.first.cached is None:
        return where.cached == 0 or where.at.start <= one.first.at.start
    seen = sum(stop - start for start, stop in one.spans)
    others = where.cached - one.first.cached != seen and not _goes_on(one, where)
    return where.cached == 0 or others


def _goes_on(one: Pass, where: Where) -> bool:
    """Whether the cache says that tokens were taken back, or came in a call that was not seen."""
    if where.cached is None or one.first.cached is None:
        return False
    return where.cached - one.first.cached == where.at.start - one.first.at.start


def _others_agree(tensors: Mapping[str, torch.Tensor], columns: range, width: int) -> bool:
    """Whether positions, types or labels are the same columns of tensors of the same width."""
    for key in (*ALONG_TOKENS, POSITIONS, *LABELS):
        if key in tensors:
            wide = wide_of(tensors[key])
            found = columns_of(tensors[key], wide)
            if found is not None and found[1] == columns and wide.shape[-1] == width:
                return True
    return False


def _mark(cache: Any) -> ref[Any] | int | None:
    """What identifies a cache, which is not kept alive."""
    try:
        return None if cache is None else ref(cache)
    except TypeError:  # a tuple
        return id(cache)


def _is_same(one: ref[Any] | int | None, other: ref[Any] | int | None) -> bool:
    """Whether two marks are of one cache; a new cache may be where one that is gone was."""
    if isinstance(one, ref) and isinstance(other, ref):
        return one is other or (one() is not None and one() is other())  # it may be gone by now
    return one == other


def length_of(cache: Any) -> int | None:
    """Tokens in a cache, if they are a number on the host."""
    length = getattr(cache, "get_seq_length", None)
    if cache is None or length is None:
        return None
    try:
        found = length()
    except Exception:  # a cache of its own kind
        return None
    return found if type(found) is int else None


def split_of_calls(
    shards: int | None, coordinates: Mapping[str, int] | None, *, embedded: bool
) -> SplitCalls:
    """What the arguments of `watch` say of a split.

    Raises:
        BadInput: `shards` is no number of ranks, or `embedded` is not True or False.
    """
    plain = isinstance(shards, int) and not isinstance(shards, bool)
    if shards is not None and not (plain and shards > 0):
        raise BadInput(
            f"shards is {one_line(repr(shards), 80)}, but it says over how many ranks the tokens "
            "of each call are split: a whole number, at least 1. Nothing was watched. Pass "
            "shards=2, or leave it."
        )
    if not isinstance(embedded, bool):
        raise BadInput(
            f"embedded is {one_line(repr(embedded), 80)}, but it says whether tokens are embedded "
            "before they are split: True or False. Nothing was watched. Pass embedded=True, or "
            "leave it."
        )
    own = None if coordinates is None else coordinates.get("cp")
    split = shards is not None and shards > 1
    if own is None and split and os.environ.get("WORLD_SIZE") != "1":
        own = rank()
    return SplitCalls(shards if split else None, embedded, own, declared=split or own is not None)
