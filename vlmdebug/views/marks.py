"""What becomes of each row, in the marks that every view draws.

One record, `marks`, is made from the `KeyReport` of the verdict; text, HTML, plots and the explorer
draw it and judge nothing themselves. Owned and passed is solid, owned but missing is hollow and
dashed, passed but not owned is hatched. A key of which nothing can be drawn has a note in words.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from vlmdebug.core.record import KeyReport, KeyState
from vlmdebug.core.rows import Rows

NOTHING = Rows()
LEFT_OUT = "must be left out"
LEGEND = {
    "passed": "owned and passed",
    "missing": "owned but missing",
    "foreign": "passed but not owned",
    "altered": "owned and passed, but altered",
    "unknown": "not compared",
}
"""Every mark and its meaning, in the order in which they are explained."""


@dataclass(frozen=True)
class Marks:
    """Rows of one key in one chunk, by what became of them.

    Attributes:
        passed: Owned and passed. Where no slicer ran, the rows that are owned.
        missing: Owned, but not passed.
        foreign: Passed, but not owned.
        altered: Owned and passed, but twice, in another order, or not as they were.
        unknown: Rows that could not be compared.
        note: What has no place among the rows, such as `0 rows; must be left out`.
    """

    passed: Rows = NOTHING
    missing: Rows = NOTHING
    foreign: Rows = NOTHING
    altered: Rows = NOTHING
    unknown: Rows = NOTHING
    note: str = ""

    def items(self) -> Iterable[tuple[str, Rows]]:
        """Every mark that occurs, by its name in `LEGEND`."""
        every = ((name, getattr(self, name)) for name in LEGEND)
        return [(name, rows) for name, rows in every if rows]

    @property
    def right(self) -> bool:
        """Whether nothing but rows that are owned and passed is marked."""
        return not (self.missing or self.foreign or self.altered or self.unknown or self.note)


@lru_cache(maxsize=4096)
def marks(found: KeyReport) -> Marks:
    """The marks of one key in one chunk, from the record that its verdict is."""
    expected, used = found.expected or NOTHING, found.actual or NOTHING
    if found.state == KeyState.PLANNED:
        return Marks(passed=expected)
    if found.state == KeyState.ABSENT:
        return Marks()
    if found.state == KeyState.OK:
        return Marks(passed=used)
    if found.state == KeyState.CANNOT_TELL:
        return Marks(unknown=expected or _real(used), note="not compared")
    if found.state == KeyState.DROPPED:
        return Marks(missing=expected, note="" if expected else "key missing")
    if found.state == KeyState.MUST_BE_ABSENT:
        return Marks(foreign=_real(used), note=_counted(used, LEFT_OUT))
    if found.expected is None:
        return Marks(foreign=_real(used), note=found.state)
    return _compared(expected, used)


def _compared(expected: Rows, used: Rows) -> Marks:
    """Marks of rows that are not those that were expected."""
    both, strange = overlap(expected, used), sum(b - a for a, b in used.ranges if a < 0)
    missing, foreign = without(expected, used), without(_real(used), expected)
    note = f"{strange} {'row that is' if strange == 1 else 'rows that are'} not in the batch"
    if missing or foreign or strange:
        twice = repeated(used, both)
        return Marks(
            without(both, twice), missing, foreign, altered=twice, note=note if strange else ""
        )
    if not expected:
        return Marks(note="altered")
    return Marks(altered=expected, note=_how(expected, used))


def _how(expected: Rows, used: Rows) -> str:
    if expected == used:
        return "own rows, altered"
    return "own rows, repeated" if len(used) > len(expected) else "own rows, in another order"


def _counted(used: Rows, what: str) -> str:
    return f"{len(used)} {'row' if len(used) == 1 else 'rows'}; {what}"


def share(found: KeyReport) -> str:
    """`1 of 40 rows` where some of the rows that are owned were passed; else empty."""
    marked = marks(found)
    given = len(marked.passed) + len(marked.altered)
    return f"{given} of {given + len(marked.missing)} rows" if given and marked.missing else ""


def overlap(first: Rows, second: Rows) -> Rows:
    """Rows that are in both, in order."""
    return without(first, without(first, second))


def without(rows: Rows, others: Rows) -> Rows:
    """Rows that are not among `others`, in order."""
    taken, at, left = joined(others), 0, []
    for start, stop in joined(rows):
        while at < len(taken) and taken[at][1] <= start:
            at += 1
        for first, end in islice(taken, at, None):
            if first >= stop:
                break
            left.append((start, max(start, first)))
            start = min(stop, max(start, end))
        left.append((start, stop))
    return Rows(pair for pair in left if pair[0] < pair[1])


def repeated(rows: Rows, among: Rows) -> Rows:
    """Rows of `among` that come more than once."""
    twice, reached = [], 0
    for start, stop in sorted(pair for pair in rows.ranges if pair[0] >= 0):
        twice.append((start, min(stop, max(start, reached))))
        reached = max(reached, stop)
    return overlap(among, Rows(twice)) if any(a < b for a, b in twice) else NOTHING


def joined(rows: Rows) -> list[tuple[int, int]]:
    """The rows as ranges that neither touch nor overlap, in order."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(pair for pair in rows.ranges if pair[0] >= 0):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found


def _real(rows: Rows) -> Rows:
    return Rows(joined(rows))
