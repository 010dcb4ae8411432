"""Which samples a call holds, if several have the same text.

All samples of a visual question batch may have the same prompt. Rows of `input_ids` that were
copied untracked are then distinguished by the other keys, media first: each is the sample of that
text with the next rows of every other key in the call. Samples that are equal in all keys are the
same to a model, so any of them is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.tensors import unreadable
from vlmdebug.errors import AmbiguousError
from vlmdebug.tracking.rows import RowFinder


def identified(
    options: Sequence[Sequence[int]],
    expected: Sequence[int],
    batch: Batch,
    finder: RowFinder,
    given: Mapping[str, Any],
) -> list[int] | None:
    """A sample for each row of a call; None if some row has the text of no sample.

    Args:
        options: Samples of the same text, for each row.
        expected: Samples by the number of the call, for rows that the other keys do not identify.
        batch: The batch.
        finder: Identifies its rows, and counts each sample in earlier calls.
        given: What the call was given.
    """
    if not all(options):
        return None
    beside = [] if all(len(alike) == 1 for alike in options) else _beside(batch, finder, given)
    came, found = Counter(finder.came), list[int]()
    for row, alike in enumerate(options):
        fits = [one for one in alike if all(key.fits(one) for key in beside)] if beside else alike
        wanted = expected[row] if row < len(expected) else -1
        following = found[-1] + 1 if found else -1
        if fits:
            sample = min(fits, key=lambda one: (came[one], one))
        else:
            sample = next((one for one in (wanted, following) if one in alike), alike[0])
        found.append(sample)
        came[sample] += 1
        for one in beside:
            one.pass_over(sample)
    finder.came = came
    return found


class _Key:
    """One key of the call, row by row: the rows of the batch's key that each equals."""

    def __init__(self, offsets: Sequence[int], ours: np.ndarray, theirs: np.ndarray) -> None:
        self._offsets, self._ours, self._theirs, self._at = offsets, ours, theirs, 0

    def fits(self, sample: int) -> bool:
        """Whether the sample's rows come next."""
        own = self._ours[self._offsets[sample] : self._offsets[sample + 1]]
        return np.array_equal(own, self._theirs[self._at : self._at + len(own)])

    def pass_over(self, sample: int) -> None:
        self._at += self._offsets[sample + 1] - self._offsets[sample]


def _beside(batch: Batch, finder: RowFinder, given: Mapping[str, Any]) -> list[_Key]:
    """Keys of the call with rows that can be compared with the batch's."""
    found = []
    for key, axis in batch.layout.items():
        value = given.get(key)
        if key == "input_ids" or not hasattr(value, "shape") or unreadable(value) is not None:
            continue
        compared = finder.compared(key, value)
        try:
            offsets = batch.counts[axis.unit].offsets
        except (AmbiguousError, KeyError):
            continue
        if compared is not None:
            found.append(_Key(offsets, *compared))
    return found
