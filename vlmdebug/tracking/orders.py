"""Orders in which tokens are split over ranks, and what the ranks hold put back in that order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.tensors import to_numpy


class Piece(NamedTuple):
    """The tokens `start:stop` of one rank, which follow each other in the whole call."""

    rank: int
    start: int
    stop: int


class Order:
    """Which token of which rank each token of the whole call is.

    Attributes:
        widths: Tokens of each rank.
        ranks: The rank of each token, `(seq,)`.
        columns: Its column there, `(seq,)`.
    """

    def __init__(self, widths: Sequence[int], pieces: Sequence[Piece]) -> None:
        self.widths: tuple[int, ...] = tuple(widths)
        places = [(one.rank, np.arange(one.start, one.stop)) for one in pieces]
        none = np.zeros(0, dtype=np.int64)
        self.columns: np.ndarray = np.concatenate([none, *(columns for _, columns in places)])
        ranks = [np.full(len(columns), rank) for rank, columns in places]
        self.ranks: np.ndarray = np.concatenate([none, *ranks])

    def __len__(self) -> int:
        return len(self.columns)

    @cached_property
    def _index(self) -> np.ndarray:
        """The place of each token where all ranks are put side by side."""
        return np.array([0, *accumulate(self.widths)])[self.ranks] + self.columns

    @cached_property
    def begins(self) -> np.ndarray:
        """Tokens that do not follow the token before them on the same rank, `(seq,)`."""
        goes_on = (self.ranks[1:] == self.ranks[:-1]) & (np.diff(self.columns) == 1)
        return np.concatenate([[False], ~goes_on])

    def joined(self, values: Sequence[Any], dim: int) -> Any:
        """The value of each rank along the tokens, put together on `dim` in this order."""
        whole, index = side_by_side(values, dim), self._index
        if len(index) == whole.shape[dim] and (np.diff(index) == 1).all():
            return whole
        if isinstance(whole, np.ndarray):
            return np.take(whole, index, axis=dim)
        import torch

        return whole.index_select(dim, torch.from_numpy(index).to(whole.device))


def side_by_side(values: Sequence[Any], dim: int) -> Any:
    """Arrays or tensors, concatenated."""
    if any(isinstance(value, np.ndarray) for value in values):
        return np.concatenate([to_numpy(value) for value in values], axis=dim)
    import torch

    return torch.cat([value.to(values[0].device) for value in values], dim)


def orders(widths: Sequence[int]) -> Iterator[Order]:
    """Ways to split a call into ranks of these widths, the plainest first.

    Contiguous: one piece after the other. Zigzag, as in ring attention: of `2n` pieces, rank r has
    piece r and piece `2n - 1 - r`. Striped: token i is on rank `i % n`.
    """
    ranks = range(len(widths))
    yield Order(widths, [Piece(rank, 0, widths[rank]) for rank in ranks])
    if len(widths) < 2:
        return
    halves = [(width + 1) // 2 for width in widths]
    first = [Piece(rank, 0, halves[rank]) for rank in ranks]
    yield Order(widths, [*first, *(Piece(r, halves[r], widths[r]) for r in reversed(ranks))])
    if max(widths) - min(widths) <= 1 and [*widths] == sorted(widths, reverse=True):
        rows = [(rank, at) for at in range(max(widths)) for rank in ranks if at < widths[rank]]
        yield Order(widths, [Piece(rank, at, at + 1) for rank, at in rows])
