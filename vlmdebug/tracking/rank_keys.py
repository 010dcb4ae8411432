"""The keys of ranks that share a call: which are along the tokens, and these put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import KEYS, LABELS
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.tracking.joined import IDS, PADDING_MASK
from vlmdebug.tracking.orders import Order
from vlmdebug.tracking.shard_media import same
from vlmdebug.tracking.shard_tokens import POSITIONS

EMBEDS = "inputs_embeds"


class RankKeys:
    """The arguments of the ranks of one call.

    Args:
        batch: The batch that was cut.
        ranks: The arguments of each rank, in order.
        tables: `input_ids` of each, `(row, seq)`; None where they cannot be read.
    """

    def __init__(
        self,
        batch: Batch,
        ranks: Sequence[Mapping[str, Any]],
        tables: Sequence[np.ndarray | None],
    ) -> None:
        self._batch, self._ranks, self._tables = batch, ranks, tables

    def along(self, key: str, order: Order) -> Any:
        """A key along the tokens in this order; None if some rank has other columns.

        A mask may also be whole on each rank, or reach from the first token on.
        """
        values: list[Any] = [rank.get(key) for rank in self._ranks]
        dims = {self._dim(key, value) for value in values}
        dim = dims.pop()
        if dim is None or dims:
            return None
        sizes = [int(value.shape[dim]) for value in values]
        alike = {(*value.shape[:dim], *value.shape[dim + 1 :]) for value in values}
        if len(alike) == 1 and sizes == [*order.widths]:
            return order.joined(values, dim)
        reach = np.cumsum(order.widths).tolist()
        if key == PADDING_MASK and sizes in (reach, [len(order)] * len(sizes)):
            last = values[-1]
            if all(same(value, last[:, : value.shape[1]]) for value in values):
                return last
        return None

    def is_whole(self, mask: Any, order: Order) -> bool:
        """Whether each of several ranks has this mask of all tokens."""
        masks = [getattr(rank.get(PADDING_MASK), "shape", ()) for rank in self._ranks]
        return len(masks) > 1 and {*masks} == {mask.shape} and mask.shape[1] > max(order.widths)

    def _dim(self, key: str, value: Any) -> int | None:
        """The dimension of the tokens; None for values that have none."""
        ndim = getattr(value, "ndim", 0)
        if ndim < 2:
            return None
        if key == EMBEDS:
            return 1
        last = ndim - 1
        dim = last if key == POSITIONS else self._batch.token_dims.get(key, last)
        return dim if dim < ndim else None

    def is_along(self, key: str) -> bool:
        """Whether a key has a value per token."""
        if key in self._batch.token_dims or key in LABELS or key == "seq_idx":
            return True
        if key in KEYS:
            return KEYS[key].unit == "token"
        pairs = zip(self._ranks, self._tables, strict=True)
        shapes = [(getattr(rank.get(key), "shape", None), ids) for rank, ids in pairs]
        return all(ids is not None and shape == ids.shape for shape, ids in shapes)

    def unlike(self, key: str, values: Sequence[Any], order: Order) -> ShardFault:
        """Why a key along the tokens cannot be joined."""
        dims = getattr(values[0], "ndim", 2)
        if key == PADDING_MASK and dims > 2:
            return ShardFault(Split.MASK_DIMS, key, given=(dims,))
        for rank, (value, due) in enumerate(zip(values, order.widths, strict=True)):
            dim = self._dim(key, value)
            given = () if dim is None else (int(value.shape[dim]),)
            if value is None:
                return ShardFault(Split.PARTLY, key, rank)
            if given != (due,):
                return ShardFault(Split.COLUMNS, key, rank, given=given, due=(due,))
        return ShardFault(Split.DIFFER, key)

    def trimmed(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """A joined call without padding behind the columns of the batch."""
        wide, found = self._batch.inputs[IDS].shape[1], dict(call)
        for key in filter(self.is_along, call):
            at = (slice(None),) * (self._dim(key, call[key]) or 0)
            found[key] = call[key][(*at, slice(0, wide))]
        return found
