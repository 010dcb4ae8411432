"""The media of a call that has some columns of a batch: of its placeholder tokens, or others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vlmdebug.core.keys import MEDIA_KEYS, OF_BOTH
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.tracking.window import Place, Whole
from vlmdebug.watching.fast_path import Tensors
from vlmdebug.watching.tensor_refs import TensorRef
from vlmdebug.watching.windows import SplitCalls


class Share:
    """The media of one call; their rows are known where they are slices of the batch's.

    Args:
        whole: The batch.
        known: Where the media of the batch are, and how many rows.
        at: The tokens of the call.
        tensors: Its tensors.

    Attributes:
        keys: Its media keys.
    """

    def __init__(
        self,
        whole: Whole,
        known: Mapping[str, tuple[TensorRef, int]],
        at: Place,
        tensors: Tensors,
    ) -> None:
        self.keys: list[str] = [key for key in tensors if key in MEDIA_KEYS and key not in OF_BOTH]
        self._whole, self._at, self._known = whole, at, [*known]
        self._rows: dict[str, range | None] = {}
        self._every: dict[str, list[int]] = {}
        rows = Place(at.rows, 0, whole.ids.shape[1])
        for key in self.keys:
            mark, length = known.get(key, (None, 0))
            self._rows[key] = None if mark is None else _rows(mark, tensors[key], length)
            due = None if len(at.rows) == len(whole.ids) else self._due(key, rows)
            self._every[key] = [*range(length)] if due is None else due[0]

    def faults(self, split: SplitCalls, *, cached: bool) -> list[ShardFault] | None:
        """What is wrong with them, or not known; None where the call is judged by itself."""
        shared = split.declared and not cached  # among ranks, which may embed before the split
        if not self.keys:
            named = self._placeholders and split.embedded and shared
            return [ShardFault(Split.NO_MEDIA, self._pixels)] if named else None
        if any(rows is None for rows in self._rows.values()):
            return None
        every = all([*(self._rows[key] or ())] == self._every[key] for key in self.keys)
        rules = self._whole.batch.rules
        if every and shared and (split.embedded or rules.no_placeholders):
            return []
        due = {key: self._due(key, self._at) for key in self._known}
        if any(one is not None and one[0] for key, one in due.items() if key not in self.keys):
            return None  # a key is missing that its tokens need
        due = {key: due.get(key) for key in self.keys}
        if not any(one is None for one in due.values()):
            return self._compared(due, shared=shared, embedded=split.embedded)
        if every and shared:
            return [ShardFault(Split.EMBEDDED, self.keys[0], given=(self._placeholders,))]
        return None

    def _due(self, key: str, at: Place) -> tuple[list[int], bool] | None:
        one = self._whole.batch.of_key.get(key)
        return None if one is None else self._whole.rows_due(one.name, key, at)

    def _compared(self, due: Any, *, shared: bool, embedded: bool) -> list[ShardFault] | None:
        """Rows that are known, compared with those that are due."""
        found = list[ShardFault]()
        for key, (rows, complete) in due.items():
            given = self._rows[key]
            assert given is not None
            if [*given] == rows and complete:
                continue
            if not shared:
                same = len(given) == len(rows) and complete
                return [_others(key, given, rows)] if same else None
            if embedded:
                return [ShardFault(Split.UNITS, key)]
            if {*rows} <= {*given}:
                found.append(ShardFault(Split.EMBEDDED, key, given=(self._placeholders,)))
            elif len(given) == len(rows):
                return [_others(key, given, rows)]
            else:
                return [ShardFault(Split.ROWS, key, given=(len(given),), due=(len(rows),))]
        return found[:1]

    @property
    def _pixels(self) -> str:
        return next(iter(self._whole.batch.layout.media), "pixel_values")

    @property
    def _placeholders(self) -> int:
        """Placeholder tokens of the call."""
        return self._whole.placeholders(self._at)


def _others(key: str, given: range, due: Sequence[int]) -> ShardFault:
    """As many rows as are due, but others."""
    ends = (given.start, given.stop), (due[0], due[-1] + 1)
    return ShardFault(Split.IMAGES, key, given=ends[0], due=ends[1])


def _rows(mark: TensorRef, tensor: torch.Tensor, length: int) -> range | None:
    """The rows that a slice on dim 0 has of the batch's; None where they are not known."""
    first = mark.first_row(tensor)
    if first is None or first < 0 or first + len(tensor) > length:
        return None
    return range(first, first + len(tensor))
