"""The media of ranks that share a call: all of them on each, or on each what its tokens need.

A model that embeds on each rank needs just the images of the placeholder tokens there, and all
placeholder tokens of them. One that embeds before the split needs all media.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.modality import Modality
from vlmdebug.core.runs import Sides, sides_of
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.core.tensors import numbers_of
from vlmdebug.tracking.joined import Piece, Texts
from vlmdebug.tracking.orders import Order, side_by_side


class RankMedia:
    """The media of the ranks of one call.

    Attributes:
        faults: What is wrong with them, once `joined` was called.
        settled: Keys that need no other verdict.
    """

    def __init__(
        self,
        batch: Batch,
        ranks: Sequence[Mapping[str, Any]],
        order: Order,
        pieces: Sequence[Piece],
        texts: Texts,
    ) -> None:
        self.faults: list[ShardFault] = []
        self.settled: set[str] = set()
        self._batch, self._ranks, self._order = batch, ranks, order
        self._pieces, self._texts = pieces, texts
        self._rows = 1 + max(piece.span.row for piece in pieces)
        self._units: list[int] = []  # of one modality

    def joined(self, *, embedded: bool, vectors: bool) -> dict[str, Any]:
        """The media of the whole call, in the order of its tokens.

        Args:
            embedded: Whether tokens are embedded before the split.
            vectors: Whether the ranks got these embeddings.
        """
        found = dict[str, Any]()
        for one in self._batch.modalities.values():
            own = [key for key in one.keys if key not in self._batch.token_dims]
            values = {key: [rank.get(key) for rank in self._ranks] for key in own}
            values = {k: v for k, v in values.items() if any(value is not None for value in v)}
            if not values:
                if embedded and own:
                    self._note_no_media(one, own, vectors=vectors)
            elif all(same(value, v[0]) for v in values.values() for value in v):
                found |= {key: value[0] for key, value in values.items()}
                if not embedded:
                    self._note_parts(one, own[0])
            else:
                found |= self._apart(one, values, embedded=embedded)
        return found

    def _note_no_media(self, modality: Modality, keys: Sequence[str], *, vectors: bool) -> None:
        """No rank has media: its embeddings hold them, where these are known."""
        self.settled |= {*keys}
        if not vectors and self._tokens(modality).any():
            self.faults.append(ShardFault(Split.NO_MEDIA, keys[0]))

    def _note_parts(self, modality: Modality, key: str) -> None:
        """All media are on each rank, though not all of their placeholder tokens."""
        if self._batch.rules.no_placeholders or not self._batch.rules.checks_totals:
            return  # each token attends to images
        tokens = self._tokens(modality)
        whole = int(tokens.sum())
        for rank in range(len(self._order.widths)):
            given = int(tokens[:, self._order.ranks == rank].sum())
            if given != whole:
                self.faults.append(
                    ShardFault(Split.EMBEDDED, key, rank, given=(given,), due=(whole,))
                )
                return

    def _tokens(self, modality: Modality) -> np.ndarray:
        """Which tokens of the call are placeholders, `(row, seq)`."""
        found = np.zeros((self._rows, len(self._order)), dtype=bool)
        places = modality.places
        if places is None:
            return found
        for piece in self._pieces:
            found[piece.span.row, self._columns(piece, places[piece.alike[0]])] = True
        return found

    def _columns(self, piece: Piece, runs: Sequence[tuple[int, int]]) -> np.ndarray:
        """Columns of the call that hold these columns of the sample's row."""
        own = [column for begin, end in runs for column in range(begin, end)]
        return piece.span.start + np.searchsorted(self._texts.columns(piece.alike[0]), own)

    # --- each rank has media of its own ------------------------------------------------------

    def _apart(
        self, modality: Modality, values: Mapping[str, list[Any]], *, embedded: bool
    ) -> dict[str, Any]:
        """Media that differ between ranks."""
        for key, own in values.items():
            cut = next((rank for rank, one in enumerate(own) if self._is_cut(key, one)), None)
            if cut is not None:
                shapes = tuple(own[cut].shape), tuple(self._batch.inputs[key].shape)
                fault = ShardFault(Split.SHAPE, key, cut, given=shapes[0], due=shapes[1])
                self.faults.append(fault)
                self.settled |= {*modality.keys}
                return {}
        sides = sides_of(self._batch, modality)
        owners = None if sides is None else self._owners(sides)
        if sides is None or owners is None or any(self._sizes(k, sides) is None for k in values):
            self.faults.append(ShardFault(Split.UNITS, next(iter(values))))
            return {key: self._side_by_side(key, v) for key, v in values.items()}
        if embedded:
            return self._shared(sides, owners, values)
        needs = [self._needs(owners[:, self._order.ranks == rank]) for rank in self._all]
        for key, own in values.items():
            for rank, value in enumerate(own):
                sizes = self._sizes(key, sides) or []
                due, given = sum(sizes[unit] for unit in needs[rank]), self._length(key, value)
                if due != given:
                    why = Split.PARTLY if value is None else Split.ROWS
                    fault = ShardFault(why, key, rank, given=(given,), due=(due,))
                    self.faults.append(fault)
                    self.settled |= {*modality.keys}
                    return {}
        self._note_shared(next(iter(values)), owners, needs)
        return {key: self._in_units(key, sides, needs, own) for key, own in values.items()}

    def _note_shared(self, key: str, owners: np.ndarray, needs: Sequence[Sequence[int]]) -> None:
        """The first rank with placeholder tokens of an image that has some on another rank."""
        before = set[int]()
        for rank, units in enumerate(needs):
            if before & {*units}:
                tokens = int((owners[:, self._order.ranks == rank] >= 0).sum())
                self.faults.append(ShardFault(Split.EMBEDDED, key, rank, given=(tokens,)))
                return
            before |= {*units}

    def _is_cut(self, key: str, value: Any) -> bool:
        """Whether its rows have fewer values than those of the batch."""
        given, axis = getattr(value, "shape", None), self._batch.layout[key]
        own = getattr(self._batch.inputs[key], "shape", None)
        if given is None or own is None or axis.padded is not None:
            return False
        rows = given[: axis.dim] + given[axis.dim + 1 :], own[: axis.dim] + own[axis.dim + 1 :]
        return tuple(rows[0]) != tuple(rows[1])

    @property
    def _all(self) -> range:
        return range(len(self._ranks))

    def _owners(self, sides: Sides) -> np.ndarray | None:
        """The image, tile or clip of each placeholder token, `(row, seq)`; -1 for other tokens.

        They are numbered in the order of the tokens, as samples of equal texts are not known here;
        `_units` has their places in the batch.
        """
        found = np.full((self._rows, len(self._order)), -1, dtype=np.int64)
        self._units = []
        if sides.owned is None:
            return None
        for piece in self._pieces:
            sample = piece.alike[0]
            units = [*sides.units_of(sample)]
            columns = self._columns(piece, sides.places[sample])
            features = [sides.features[unit] for unit in units]
            if sum(features) != len(columns):
                return None
            numbers = len(self._units) + np.arange(len(units))
            found[piece.span.row, columns] = np.repeat(numbers, features)
            self._units += units
        return found

    def _needs(self, owners: np.ndarray) -> list[int]:
        """The units with placeholder tokens among these, in the order of the tokens."""
        return [*dict.fromkeys(owners[owners >= 0].tolist())]

    def _sizes(self, key: str, sides: Sides) -> list[int] | None:
        """Rows of each unit in one key; None where they are not known."""
        unit = self._batch.layout[key].unit
        if unit == sides.unit:
            return [1] * len(self._units)
        offsets = self._batch.image_offsets(unit) if sides.unit == "image" else None
        return None if offsets is None else [offsets[u + 1] - offsets[u] for u in self._units]

    def _length(self, key: str, value: Any) -> int:
        dim = self._batch.layout[key].dim
        if value is None:
            return 0
        return int(value.shape[dim]) if hasattr(value, "shape") else len(value)

    def _in_units(
        self, key: str, sides: Sides, needs: Sequence[Sequence[int]], values: Sequence[Any]
    ) -> Any:
        """The rows of all units, each once, from the first rank that has it."""
        sizes, dim = self._sizes(key, sides) or [], self._batch.layout[key].dim
        found = dict[int, Any]()
        for rank, (units, value) in enumerate(zip(needs, values, strict=True)):
            ends = [0, *accumulate(sizes[unit] for unit in units)]
            for unit, begin, end in zip(units, ends, ends[1:], strict=False):
                part = value[(*(slice(None),) * dim, slice(begin, end))]
                if not same(found.setdefault(unit, part), part):
                    self.faults.append(ShardFault(Split.OTHER_ROWS, key, rank))
        every = [found[unit] for unit in sorted(found)]
        return side_by_side(every, dim) if every else None

    def _shared(
        self, sides: Sides, owners: np.ndarray, values: Mapping[str, list[Any]]
    ) -> dict[str, Any]:
        """Whole units on each rank, one after another: the tower runs on some of them there."""
        units = self._needs(owners)
        ends = set[tuple[int, ...]]()
        for key, own in values.items():
            sizes = self._sizes(key, sides) or []
            begins = [0, *accumulate(sizes[unit] for unit in units)]
            reach = [*accumulate(self._length(key, value) for value in own)]
            rank = next((r for r, end in enumerate(reach) if end not in begins), None)
            ends.add(tuple(begins.index(end) for end in reach) if rank is None else ())
            if rank is not None or len(ends) > 1:
                given = (self._length(key, own[rank or 0]),)
                self.faults.append(ShardFault(Split.ROWS, key, rank or 0, given=given))
                self.settled |= {*values}
                return {}
        return {key: self._side_by_side(key, own) for key, own in values.items()}

    def _side_by_side(self, key: str, values: Sequence[Any]) -> Any:
        own = [value for value in values if value is not None]
        if any(isinstance(value, (list, tuple)) for value in own):
            return [item for value in own for item in value]
        dim = self._batch.layout[key].dim
        try:
            return side_by_side(own, dim)
        except (RuntimeError, ValueError, TypeError):  # other shapes
            return own[0]


def same(one: Any, other: Any) -> bool:
    """Whether both hold the same values."""
    if one is other:
        return True
    if not (hasattr(one, "shape") and hasattr(other, "shape")):
        return (
            type(one) is type(other) and isinstance(one, (int, float, str, list)) and one == other
        )
    if tuple(one.shape) != tuple(other.shape):
        return False
    if _memory(one) is not None and _memory(one) == _memory(other):
        return True
    ours, theirs = numbers_of(one), numbers_of(other)
    return ours is not None and theirs is not None and np.array_equal(ours, theirs)


def _memory(value: Any) -> tuple[Any, ...] | None:
    """Where a tensor is."""
    if not hasattr(value, "data_ptr") or not value.numel():
        return None
    try:
        return value.data_ptr(), value.dtype, tuple(value.stride())
    except RuntimeError:  # it has no memory of its own
        return None
