"""Slicers that split the tokens of each chunk over ranks: their dicts, grouped into calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.observed import ObservedCall
from vlmdebug.core.signature import Slicer
from vlmdebug.errors import BadInput
from vlmdebug.tracking.observe import used_chunk
from vlmdebug.tracking.rows import RowFinder
from vlmdebug.tracking.shards import Ranks


class Call(NamedTuple):
    """One chunk, as it was observed.

    Attributes:
        used: What it holds.
        given: What the model gets; joined, if it was split over ranks, and empty if it cannot be.
        ranks: What each rank gets.
        learned: The label that a loss on each rank learns from each token, where it has labels.
    """

    used: ObservedCall
    given: Mapping[str, Any]
    ranks: Sequence[Mapping[str, Any]]
    learned: np.ndarray | None = None


@dataclass(frozen=True)
class SplitOver:
    """How a slicer splits each chunk.

    Attributes:
        shards: Over how many ranks; None if it does not.
        embedded: Whether tokens are embedded before the split.
    """

    shards: int | None = None
    embedded: bool = False

    def calls(self, steps: Iterator[Any]) -> Iterator[list[Any]]:
        """The dicts of one call after another: one, or one per rank."""
        if self.shards is None:
            yield from ([one] for one in steps)
            return
        while True:
            ranks = [_kept(one) for one in islice(steps, self.shards)]
            if not ranks:
                return
            yield ranks

    def seen(
        self,
        batch: Batch,
        finder: RowFinder,
        ranks: Sequence[Mapping[str, Any]],
        planned: range,
    ) -> Call:
        """What one call holds."""
        if self.shards is None:
            return Call(used_chunk(batch, finder, ranks[0], planned), ranks[0], ranks)
        given = Ranks(
            batch, finder, ranks, planned, shards=self.shards, embedded=self.embedded
        ).joined()
        return Call(given.used, given.call, ranks, given.learned)


def _kept(given: Any) -> Any:
    """The dict of a rank, which the slicer may use again for the next one, as its small tensors."""
    if not isinstance(given, Mapping):
        return given
    return {key: value.clone() if _is_small(value) else value for key, value in given.items()}


def _is_small(value: Any) -> bool:
    """Whether it is a tensor of whole numbers: ids, labels, masks, positions, grids."""
    return hasattr(value, "clone") and not (value.is_floating_point() or value.is_complex())


def split_of(slicer: Slicer) -> SplitOver:
    """Over how many ranks the slicer says that it splits each chunk.

    Raises:
        BadInput: `slicer.shards` or `slicer.embedded` has an invalid value.
    """
    shards, embedded = getattr(slicer, "shards", None), getattr(slicer, "embedded", False)
    if shards is None:
        return SplitOver()
    if isinstance(shards, bool) or not isinstance(shards, int) or shards < 1:
        raise BadInput(
            f"The slicer's shards is {shards!r}, but it says over how many ranks the tokens of "
            "each chunk are split: a whole number, at least 1. Nothing was judged. Set "
            "slicer.shards = 2, or leave it."
        )
    if not isinstance(embedded, bool):
        raise BadInput(
            f"The slicer's embedded is {embedded!r}, but it says whether tokens are embedded "
            "before they are split: True or False. Nothing was judged. Set slicer.embedded = "
            "True, or leave it."
        )
    return SplitOver(shards, embedded)
