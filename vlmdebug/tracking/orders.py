"""Orders in which tokens are split over ranks, and what the ranks hold put back in that order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from vlmdebug.core.tensors import to_numpy

MOST_PADDING = 128
"""Tokens of padding behind a sample, per piece of it, up to which it is found in a zigzag."""


class Order:
    """Which token of which rank each token of the whole call is.

    Attributes:
        widths: Tokens of each rank.
        index: The place of each token where all ranks are put side by side, `(seq,)`.
        ranks: The rank of each token, `(seq,)`.
        columns: Its column there, `(seq,)`.
    """

    def __init__(self, widths: Sequence[int], index: np.ndarray) -> None:
        self.widths: tuple[int, ...] = tuple(widths)
        self.index: np.ndarray = index
        ends = np.cumsum(widths)
        self.ranks: np.ndarray = np.searchsorted(ends, index, side="right")
        self.columns: np.ndarray = index - (ends - np.array(widths))[self.ranks]

    def __len__(self) -> int:
        return len(self.index)

    @cached_property
    def begins(self) -> np.ndarray:
        """Tokens that do not follow the token before them on the same rank, `(seq,)`."""
        goes_on = (self.ranks[1:] == self.ranks[:-1]) & (np.diff(self.columns) == 1)
        return np.concatenate([[False], ~goes_on])

    def joined(self, values: Sequence[Any], dim: int) -> Any:
        """The value of each rank along the tokens, put together on `dim` in this order."""
        whole, index = side_by_side(values, dim), self.index
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
    piece r and piece `2n - 1 - r`. Striped: token i is on rank `i % n`. Last, zigzag over groups
    of ranks, of which each splits its part in contiguous pieces.
    """
    yield Order(widths, np.arange(sum(widths)))
    if len(widths) < 2:
        return
    groups = rings(widths)
    yield Order(widths, _zigzag(next(groups)))
    if max(widths) - min(widths) <= 1 and [*widths] == sorted(widths, reverse=True):
        begins = np.cumsum([0, *widths])
        rows = [begin + np.arange(width) for begin, width in zip(begins, widths, strict=False)]
        places = np.concatenate([np.arange(width) for width in widths])
        yield Order(widths, np.concatenate(rows)[np.argsort(places, kind="stable")])
    for wide in groups:
        yield Order(widths, _zigzag(wide))


def rings(widths: Sequence[int]) -> Iterator[list[int]]:
    """Tokens of each rank, then of each of fewer and larger groups of neighbouring ranks."""
    for size in range(1, len(widths) // 2 + 1):
        if len(widths) % size == 0:
            yield np.array(widths).reshape(-1, size).sum(1).tolist()


def _zigzag(widths: Sequence[int]) -> np.ndarray:
    """The places of the tokens of a zigzag over ranks or groups of these widths."""
    begins = np.cumsum([0, *widths]).tolist()
    halves = [begin + (width + 1) // 2 for begin, width in zip(begins, widths, strict=False)]
    first = [np.arange(begin, half) for begin, half in zip(begins, halves, strict=False)]
    second = [np.arange(half, end) for half, end in zip(halves, begins[1:], strict=True)]
    return np.concatenate([*first, *reversed(second)])


def zigzags_of_samples(
    tokens: np.ndarray, widths: Sequence[int], texts: Iterable[np.ndarray]
) -> Iterator[Order]:
    """Zigzags in which each sample of a row is split on its own, as these texts show.

    As `zigzag_ring_flash_attn_varlen` of ring-flash-attention takes it. Padding may stand behind
    each sample; what is behind the last one is in no order.

    Args:
        tokens: The row, the tokens of all ranks side by side, `(seq,)`.
        widths: Tokens of each rank.
        texts: The tokens of each sample of the batch.
    """
    known = {text.tobytes(): text for text in texts if len(text)}
    for wide in rings(widths):
        if len({*wide}) == 1:
            table = tokens.reshape(len(wide), -1)  # (ring, seq of the ring)
            pieces = _pieces_of(table, [*known.values()])
            if pieces is not None:
                yield Order(widths, _of_pieces(table.shape, pieces))


def _pieces_of(table: np.ndarray, texts: Sequence[np.ndarray]) -> list[int] | None:
    """The length of a piece of each sample, in order; None if these texts do not fill the row."""
    dead = set[int]()
    path = [(0, _fitting(table, 0, texts))]
    sizes = list[int]()
    while path:
        at, options = path[-1]
        size = next((one for one in options if at + 2 * one not in dead), None)
        if size is None:
            dead.add(at)
            path.pop()
            if sizes:
                sizes.pop()
            continue
        sizes.append(size)
        at += 2 * size
        left = table[:, at:]
        if not left.size or (left == left[0, 0]).all():  # padding
            return sizes
        path.append((at, _fitting(table, at, texts)))
    return None


def _fitting(table: np.ndarray, at: int, texts: Sequence[np.ndarray]) -> Iterator[int]:
    """Lengths of a piece with which one of these texts begins at this column, shortest first."""
    rings, width = table.shape
    tried = set[int]()
    for text in texts:
        least = -(-len(text) // (2 * rings))
        if not np.array_equal(table[0, at : at + least], text[:least]):
            continue
        for size in range(least, min(least + MOST_PADDING, (width - at) // 2) + 1):
            if size in tried:
                continue
            found = table[:, at : at + 2 * size].reshape(rings, 2, size)
            row = np.concatenate([found[:, 0].ravel(), found[::-1, 1].ravel()])
            behind = row[len(text) :]
            if np.array_equal(row[: len(text)], text) and (behind == behind[:1]).all():
                tried.add(size)
                yield size


def _of_pieces(shape: tuple[int, ...], sizes: Sequence[int]) -> np.ndarray:
    """The places of the tokens of samples with pieces of these lengths, by ring side by side."""
    places, found, at = np.arange(shape[0] * shape[1]).reshape(shape), list[np.ndarray](), 0
    for size in sizes:
        own = places[:, at : at + 2 * size].reshape(shape[0], 2, size)
        found += [own[:, 0].ravel(), own[::-1, 1].ravel()]
        at += 2 * size
    return np.concatenate([*found, places[:, at:].ravel()])
