"""Which tokens one call should process: for each of its samples, a span of one row.

A chunk of a padded batch is whole rows of `input_ids`. A packed row holds several samples, so the
span of each is a part of that row. Every call is judged against a `Part`, whatever its spans are.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise, repeat
from typing import NamedTuple

import numpy as np

from vlmdebug.core.lazy import lazy
from vlmdebug.core.rows import Rows


class Span(NamedTuple):
    """The tokens `start:stop` of one row of `input_ids`."""

    row: int
    start: int
    stop: int


class Spans(tuple[Span, ...]):
    """The span of each sample of a batch.

    >>> spans = Spans([Span(0, 0, 5), Span(0, 5, 9), Span(1, 0, 7)])
    >>> spans.lengths, spans.part([1, 2]).rows
    ((5, 4, 7), (0, 1))
    """

    @classmethod
    @lru_cache(maxsize=64)
    def whole(cls, rows: int, width: int) -> Spans:
        """A sample per row: all columns of it, padding too."""
        return cls(map(Span, range(rows), repeat(0), repeat(width)))

    @lazy
    def alone(self) -> bool:
        """Whether no row holds several."""
        return len({span.row for span in self}) == len(self)

    @lazy
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sample."""
        return tuple([stop - start for _, start, stop in self])

    @lazy
    def real(self) -> np.ndarray:
        """True for the tokens of each sample, and False behind them, `(sample, seq)`."""
        lengths = np.array(self.lengths)
        return np.arange(max(self.lengths)) < lengths[:, None]

    @lazy
    def fill_one_row(self) -> bool:
        """Whether they are the tokens of one row, one sample behind the other from its begin on."""
        return self[0][:2] == (0, 0) and all(
            [row == 0 and stop == start for (*_, stop), (row, start, _) in pairwise(self)]
        )

    def part(self, samples: Sequence[int]) -> Part:
        """These samples, each with all of its tokens."""
        rows = samples if isinstance(samples, Rows) else _rows(samples)
        if len(rows.ranges) == 1:
            start, stop = rows.ranges[0]
            return Part(rows, self[start:stop])
        return Part(rows, tuple([self[sample] for sample in rows]))


class Part(NamedTuple):
    """What one call should process.

    Attributes:
        samples: The samples, in order; one comes several times if it is repeated.
        spans: The tokens of each of them.
        rank: The process that makes the call.
    """

    samples: Rows
    spans: tuple[Span, ...]
    rank: int = 0

    @property
    def rows(self) -> tuple[int, ...]:
        """The rows of `input_ids` that hold these tokens, each once."""
        return tuple(dict.fromkeys([span.row for span in self.spans]))

    def tokens(self, width: int) -> Rows:
        """The tokens as numbers over all rows of `input_ids`, which are `width` tokens wide.

        >>> Spans([Span(0, 0, 5), Span(1, 2, 9)]).part([1, 0]).tokens(10)
        Rows(12:19, 0:5)
        """
        return Rows([(row * width + start, row * width + stop) for row, start, stop in self.spans])


def _rows(samples: Sequence[int]) -> Rows:
    if isinstance(samples, range) and samples.step == 1:
        return Rows([(samples.start, samples.stop)])
    return Rows.of(samples)
