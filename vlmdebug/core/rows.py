"""Which rows each sample owns: counts in, row ranges out.

This is the only place that computes offsets. The checks, the exported code and the pictures all use
it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, islice, starmap
from numbers import Integral
from typing import Any, overload

from vlmdebug.core.lazy import lazy
from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

MOST_RANGES = 6
"""Most ranges of rows that are printed."""


class Counts(tuple[int, ...]):
    """The number of rows of one unit that each sample owns, and its source.

    >>> images = Counts([2, 0, 1], "num_images argument")
    >>> images, images.offsets, images.total
    ((2, 0, 1), (0, 2, 2, 3), 3)
    """

    evidence: str

    def __new__(cls, per_sample: Iterable[int], evidence: str) -> Counts:
        self = super().__new__(cls, per_sample)
        self.evidence = evidence
        return self

    def __getnewargs__(self) -> tuple[tuple[int, ...], str]:
        return tuple(self), self.evidence

    @lazy
    def offsets(self) -> tuple[int, ...]:
        """Sample s owns the rows from `offsets[s]` up to `offsets[s + 1]`."""
        return (0, *accumulate(self))

    @property
    def total(self) -> int:
        return self.offsets[-1]


class Places(tuple[tuple[tuple[int, int], ...], ...]):
    """The start and end of each contiguous run of placeholder tokens of each sample.

    >>> Places([((1, 5), (7, 9)), ()]).runs
    ((4, 2), ())
    """

    @lazy
    def runs(self) -> tuple[tuple[int, ...], ...]:
        """Lengths of the runs of each sample."""
        return tuple([tuple([end - begin for begin, end in sample]) for sample in self])

    @lazy
    def tokens(self) -> tuple[int, ...]:
        """Placeholder tokens of each sample."""
        return tuple(map(sum, self.runs))


class Rows(Sequence[int]):
    """Row numbers in order, held as ranges: `Rows([(0, 256), (512, 600)])`.

    Two `Rows` are equal if they hold the same rows in the same order, however their ranges are
    split; `Rows` compares with any sequence of row numbers. A row of -1 is not in the batch.

    >>> Rows([(0, 2), (2, 3)]) == range(3), str(Rows.of([4, 5, 0]))
    (True, '4:6, 0:1')
    """

    __slots__ = ("ranges",)
    ranges: tuple[tuple[int, int], ...]

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        given = tuple(ranges)
        if len(given) == 1 and given[0][0] != given[0][1]:
            self.ranges = given
            return
        merged: list[tuple[int, int]] = []
        for start, stop in given:
            if start == stop:
                continue
            if merged and merged[-1][1] == start and start > 0:
                merged[-1] = (merged[-1][0], stop)
            else:
                merged.append((start, stop))
        self.ranges = tuple(merged)

    @classmethod
    def of(cls, rows: Iterable[int]) -> Rows:
        """Rows from single row numbers."""
        return cls((row, row + 1) for row in rows)

    def __len__(self) -> int:
        if len(self.ranges) == 1:
            start, stop = self.ranges[0]
            return stop - start
        return sum(stop - start for start, stop in self.ranges)

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(starmap(range, self.ranges))

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> int | Rows:
        rows = range(*self.ranges[0]) if len(self.ranges) == 1 else list(self)
        return Rows.of(rows[index]) if isinstance(index, slice) else rows[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Rows):
            return self.ranges == other.ranges
        if isinstance(other, Sequence) and not isinstance(other, str):
            return list(self) == list(other)
        return NotImplemented

    def __hash__(self) -> int:
        return hash(self.ranges)

    @property
    def foreign(self) -> bool:
        """Whether some row is not in the batch."""
        for start, _ in self.ranges:  # noqa: SIM110 (a generator is slower; every key is asked)
            if start < 0:
                return True
        return False

    def __str__(self) -> str:
        if not self.ranges:
            return "no rows"
        shown = self.ranges[:MOST_RANGES]
        text = ", ".join("?" if start < 0 else f"{start}:{stop}" for start, stop in shown)
        return text if len(shown) == len(self.ranges) else f"{text}, …"

    def __repr__(self) -> str:
        return f"Rows({self})"


def chunk_bounds(samples: int, chunk_size: int) -> list[tuple[int, int]]:
    """Start and end of every chunk, in samples; the last chunk may be short.

    >>> chunk_bounds(3, 2)
    [(0, 2), (2, 3)]
    """
    if isinstance(chunk_size, bool) or not isinstance(chunk_size, Integral) or chunk_size < 1:
        raise BadInput(
            f"chunk_size is {chunk_size!r}, but a chunk holds a whole number of samples, "
            "at least 1. Nothing was cut. Pass chunk_size=1 or more."
        )
    size = int(chunk_size)
    return [(start, min(start + size, samples)) for start in range(0, samples, size)]


def rows_of(offsets: Sequence[int], samples: Iterable[int]) -> Rows:
    """The rows that `samples` own, in the order of `samples`.

    A text-only sample owns no rows; the next sample starts at the same row:

    >>> rows_of(Counts([256, 0, 256], "example").offsets, [1, 2])
    Rows(256:512)
    """
    if isinstance(samples, Rows):
        return Rows([(offsets[start], offsets[stop]) for start, stop in samples.ranges])
    if isinstance(samples, range) and samples.step == 1:
        return Rows([(offsets[samples.start], offsets[samples.stop])])
    return Rows([(offsets[sample], offsets[sample + 1]) for sample in samples])


def as_counts(values: Any, *, name: str, samples: int) -> tuple[int, ...]:
    """Whole, non-negative numbers, one per sample, or a `BadInput` that names the invalid one."""
    listed = values.tolist() if hasattr(values, "tolist") else values
    if isinstance(listed, (str, bytes)) or not isinstance(listed, Iterable):
        raise BadInput(
            f"{name} is {one_line(repr(values), 80)}, but it holds one whole number per sample. "
            f"Pass a list of {samples} numbers, such as {name}={[1] * min(samples, 3)}."
        )
    listed = list(islice(listed, samples + 1)) if not hasattr(listed, "__len__") else listed
    counts = tuple(_plain(count) for count in listed)
    for sample, count in enumerate(counts):
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**31:
            raise BadInput(
                f"{name}[{sample}] is {one_line(repr(count), 80)}, but a count is a whole number, "
                "0 or more. "
                f"Nothing was read. Pass 0 for a sample that has none."
            )
    if len(counts) != samples:
        raise BadInput(
            f"{name} has {len(counts)} entries, but the batch has {samples} samples "
            f"(rows of input_ids). Give one number per sample, 0 for a text-only one."
        )
    return counts


def _plain(count: Any) -> Any:
    """A scalar of numpy or torch as a Python number; anything else unchanged."""
    return count.item() if hasattr(count, "item") and getattr(count, "ndim", 0) == 0 else count
