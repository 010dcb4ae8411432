"""Which calls of a process share the tokens of one batch, where others have whole batches.

A program that makes the calls of all ranks may evaluate whole batches between them. Calls go
together if they follow one another in the same mode with the same rows, and are right together. A
call that is right by itself may be whole; one that is not is a share, or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from vlmdebug.checking.report import Report
from vlmdebug.checking.shards import NotSplit
from vlmdebug.checking.text_doubts import doubt
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.watching.group import Group, Member
from vlmdebug.watching.judged import Judged
from vlmdebug.watching.windows import Windows

TURNS = 4
"""Times that a call is known again, as where several models have each share in turn."""
Late = tuple[str, Judged]
"""The line of a call, and what is found in it after it was judged."""


@dataclass
class _Lane:
    """Calls of one mode with as many rows: those that wait, and those found wrong before them."""

    waiting: list[Member] = field(default_factory=list)
    blamed: list[Member] = field(default_factory=list)


class Succession:
    """The calls in their order.

    Args:
        group: Judges calls together.
        shards: How many of them share a batch.
        windows: The columns of those that are slices.

    Attributes:
        shards: How many calls share a batch.
    """

    def __init__(self, group: Group, shards: int, windows: Windows) -> None:
        self.shards: int = shards
        self._group, self._windows = group, windows
        self._lanes: dict[Any, list[_Lane]] = {}
        self._order: list[tuple[_Lane, Member]] = []  # all that wait
        self._open: dict[Any, Late] = {}  # of calls that are whole, or wrong shares
        self._has_whole = self._has_shares = self._is_torn = False
        self._late: list[Late] = []

    @property
    def waits(self) -> bool:
        """Whether the next call may belong to calls that came."""
        return bool(self._order)

    def add(self, call: Member) -> Judged | None:
        """What is found with this call; None where nothing is to be said yet."""
        lanes = self._lanes.setdefault(call.kind, [])
        lane = _lane_of(call, lanes, self.shards)
        call = replace(call, is_again=any(map(call.is_among, (one.waiting for one in lanes))))
        lane.waiting.append(call)
        self._order.append((lane, call))
        found = self._found(lane, call)
        self._order = [(own, one) for own, one in self._order if one in own.waiting]
        return found

    def taken(self) -> list[Late]:
        """What was found in earlier calls since it was asked for, with their lines."""
        late, self._late = self._late, []
        return late

    def tear(self) -> None:
        """Note that calls come which are not seen: those that wait may belong to them."""
        self._lanes.clear()
        self._order.clear()
        self._windows.tear()
        self._is_torn = True

    def ended(self) -> Iterator[Late]:
        """What is found now that no other call comes."""
        lanes = [lane for own in self._lanes.values() for lane in own]
        for lane in lanes:
            while len(lane.waiting) >= self.shards:
                site = lane.waiting[-1].site
                judged = self._decided(lane, at_end=True)
                if judged is not None:
                    self._late.append((site, judged))
        for lane in lanes:
            self._leave(lane.waiting, at_end=True)
        self._lanes.clear()
        yield from self.taken()
        if len(self._open) == 1 and not (self._has_shares or self._has_whole or self._is_torn):
            yield from self._open.values()  # no other calls can be the shares

    # --- calls that go together ------------------------------------------------------------

    def _found(self, lane: _Lane, call: Member) -> Judged | None:
        if call.part is not None:
            own = [one for one in lane.waiting if one.part is call.part]
            if len(own) == self.shards:  # each was judged by their batch
                self._settle(lane, own)
                return None
        for taken in self._tried(lane, call):
            judged, fits = self._group.judged(taken)
            may = fits and not all(one.is_right for one in taken)
            if judged.ok or (may and not judged.report().mismatches):
                self._settle(lane, taken)
                return judged
        return self._decided(lane, at_end=False)

    def _tried(self, lane: _Lane, call: Member) -> Iterator[list[Member]]:
        """The latest calls that may be the shares of one, without those that may be whole, too."""
        every, tried = [*lane.blamed, *lane.waiting], list[list[Member]]()
        for known in (
            every,
            [one for one in every if one.site == call.site],
            [one for one in every if not one.is_right],
        ):
            taken = known[-self.shards :]
            complete = len(taken) == self.shards and taken[-1] is call
            if complete and taken not in tried and _may_share(taken):
                tried.append(taken)
                yield taken

    def _settle(self, lane: _Lane, taken: Sequence[Member]) -> None:
        """Calls that go together: those before them do not belong to them, nor to later ones."""
        self._has_shares = True
        self._close(taken)
        self._leave([one for one in lane.waiting if one not in taken])
        lane.waiting, lane.blamed = [], []
        self._leave_before(taken[0])

    def _leave_before(self, share: Member) -> None:
        """Whole calls before a share, of any lane: none comes between those of a batch."""
        order = [one for _, one in self._order]
        for own, one in self._order[: order.index(share)] if share in order else ():
            if one.is_right and one in own.waiting:
                own.waiting.remove(one)
                self._leave([one])

    def _close(self, taken: Sequence[Member]) -> None:
        self._windows.close([one.part for one in taken if one.part is not None])

    # --- calls that do not -----------------------------------------------------------------

    def _leave(self, calls: Sequence[Member], *, at_end: bool = False) -> None:
        """Calls without others that share a batch with them: whole ones, if right by themselves."""
        for one in calls:
            if one.part is not None or self._is_torn:
                continue  # what slices leave is said at the end
            report = one.alone.report()
            if report.mismatches:
                lost = self._group.too_few([one])
                report = replace(lost, mismatches=lost.mismatches + report.mismatches)
            elif one.alone.ok:
                known = self._has_shares or self._has_whole or self._open
                if not one.is_again and (known or not at_end):
                    self._has_whole = True
                    continue
                report = _undecided([one], self._group.too_few([one]))
            self._late.append((one.site, Judged.of(report)))

    def _decided(self, lane: _Lane, *, at_end: bool) -> Judged | None:
        """What is found in calls that are wrong together, once no later call can explain them."""
        waiting, shards = lane.waiting, self.shards
        head = waiting[:shards]
        if len(head) < shards:
            return None
        if not _may_share(head):  # the first one is whole, or was judged by its batch
            self._leave(head[:1])
            lane.waiting = waiting[1:]
            return None
        if not (at_end or _are_alike(head) or len(waiting) >= 2 * shards - 1):
            return None
        taken = self._probable(waiting)
        end = waiting.index(taken[-1]) + 1
        self._leave([one for one in waiting[:end] if one not in taken])
        lane.waiting, lane.blamed = waiting[end:], taken[1:]
        joined, fits = self._group.judged(taken)
        are_right = [one.is_right for one in taken]
        if not fits and any(are_right) and not all(are_right):
            self._leave(taken)  # no order joins them; what slices leave is said at the end
            return None
        self._close(taken)
        if all(are_right):
            last = taken[-1]
            self._open.setdefault((last.kind, last.site), (last.site, joined))
            return Judged.of(_undecided(taken, joined.report()))
        if self._is_torn and joined.report().mismatches:
            return Judged.of(_doubted(joined.report(), ShardFault(Split.TORN)))
        self._has_shares = True
        self._leave_before(taken[0])
        return joined

    def _probable(self, waiting: Sequence[Member]) -> list[Member]:
        """Those that are most probably the shares of one call: the wrong ones, if they suffice."""
        shares = [one for one in waiting if not one.is_right][: self.shards]
        if len(shares) == self.shards:
            return shares
        if not shares:
            return [*waiting[: self.shards]]
        at = waiting.index(shares[0])
        begins = range(max(0, at - self.shards + 1), min(at, len(waiting) - self.shards) + 1)
        tried = [[*waiting[begin : begin + self.shards]] for begin in begins]
        return max(tried, key=_likeness)  # the first of equals


def _lane_of(call: Member, lanes: list[_Lane], shards: int) -> _Lane:
    """Where a call waits: with its slices, else with the first others that lack a share.

    The same call again waits elsewhere.
    """
    slices = [
        one for one in lanes if call.part and call.part in (each.part for each in one.waiting)
    ]
    others = [one for one in lanes if one.waiting and not call.is_among(one.waiting)]
    others.sort(key=lambda one: len(one.waiting) >= shards)
    empty = [one for one in lanes if not one.waiting]
    if not (slices or others or empty) and len(lanes) < TURNS:
        empty = [_Lane()]
        lanes += empty
    return [*slices, *others, *empty, *lanes][0]


def _undecided(calls: Sequence[Member], report: Report) -> Report:
    """Calls that are right as whole ones, and wrong as shares."""
    code = report.mismatches[0].code if report.mismatches else ""
    fault = ShardFault(Split.WHOLE, given=(len(calls),), noun=code)
    own = [text for one in calls if not one.alone.ok for text in one.alone.report().ambiguities]
    report = _doubted(report, fault)
    return replace(report, ambiguities=(*dict.fromkeys((*report.ambiguities, *own)),))


def _doubted(report: Report, fault: ShardFault) -> Report:
    """The report, with its mismatches as doubts."""
    text = doubt(NotSplit(0, fault))
    return replace(report, mismatches=(), ambiguities=(text, *report.ambiguities))


def _may_share(calls: Sequence[Member]) -> bool:
    """Whether they may be shares of one batch, and some of them is a copy."""
    rows = any(one.is_of_other_rows(other) for one, other in combinations(calls, 2))
    return not rows and any(one.part is None for one in calls)


def _are_alike(calls: Sequence[Member]) -> bool:
    """Whether none is right by itself, and all are of one line and of equal width."""
    alike = len({(one.site, one.width) for one in calls}) == 1
    return alike and not any(one.is_right for one in calls)


def _likeness(calls: Sequence[Member]) -> tuple[int, int]:
    """How much calls look like the shares of one."""
    wrong = sum(not one.is_right for one in calls)
    return wrong, -len({(one.site, one.width) for one in calls})
