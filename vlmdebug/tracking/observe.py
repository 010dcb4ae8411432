"""The rows of everything that one call of a model gets.

`input_ids` come first: they identify the samples of the chunk, and so the expected rows of every
other key if several rows have equal values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.change import Change
from vlmdebug.core.keys import BOOKKEEPING, MEDIA_OF, PACKED, PROMPT_TYPES, TYPE_IDS
from vlmdebug.core.observed import Made, MadeBy, ObservedCall, ObservedKey, Seam, Seams
from vlmdebug.core.part import Part
from vlmdebug.core.presence import expected_rows
from vlmdebug.core.rows import Rows
from vlmdebug.core.tensors import to_numpy, unreadable
from vlmdebug.errors import AmbiguousError
from vlmdebug.tracking.columns import Columns, Realigned
from vlmdebug.tracking.first_labels import with_first_labels
from vlmdebug.tracking.fixed import fixed_of
from vlmdebug.tracking.identity import identified
from vlmdebug.tracking.joined import Joined
from vlmdebug.tracking.made import made_keys
from vlmdebug.tracking.packed import PackedCall
from vlmdebug.tracking.packed_rows import packed_rows
from vlmdebug.tracking.placeholders import placeholders_of_ids, placeholders_of_part
from vlmdebug.tracking.rows import RowFinder
from vlmdebug.tracking.unmasked import Unmasked
from vlmdebug.tracking.values import recast

OF_SEAMS = frozenset({*PACKED, "position_ids", "attention_mask"})
"""Keys that keep the samples of packed rows apart, which are judged together."""


def used_chunk(
    batch: Batch, finder: RowFinder, given: Mapping[str, Any], planned_samples: range
) -> ObservedCall:
    """The rows of everything that one call gets."""
    chunk = _Chunk(batch, finder, given, planned_samples)
    names = [key for key in given.keys() if key not in BOOKKEEPING]  # noqa: SIM118 (its own keys)
    if "input_ids" in names:
        names = ["input_ids", *(key for key in names if key != "input_ids")]  # samples first
    keys = {key: chunk.used(key) for key in names}
    return ObservedCall(
        {key: used for key, used in keys.items() if used is not None},
        chunk.placeholders,
        chunk.made,
        chunk.needs_mask,
        chunk.columns.left_out() if chunk.columns is not None else {},
        **chunk.joints,
    )


class _Once:
    """The result of a function that is called at most once."""

    def __init__(self, function: Callable[[], Rows | None]) -> None:
        self._function = function
        self._said: tuple[Rows | None] | None = None

    def __call__(self) -> Rows | None:
        if self._said is None:
            self._said = (self._function(),)
        return self._said[0]


class _Chunk:
    """One call, and what its `input_ids` show once they were read.

    Attributes:
        samples: The samples it holds; the expected ones if `input_ids` do not identify them.
        width: Columns of its `input_ids`.
        columns: Checks whether other keys have the columns of its `input_ids`.
        realigned: The same, if padding was moved row by row.
        joined: The samples of its rows, if some hold several.
    """

    def __init__(
        self, batch: Batch, finder: RowFinder, given: Mapping[str, Any], planned_samples: range
    ) -> None:
        self.batch, self.finder, self.given = batch, finder, _with_ids(given)
        self.samples: Rows | range = planned_samples
        self._part: Part | None = None
        self.width: int | None = None
        self.columns: Columns | None = None
        self.realigned: Realigned | None = None
        self.joined: Joined | None = None
        self.placeholders: dict[str, int] = {}

    def used(self, key: str) -> ObservedKey | None:
        """The rows that one key holds; None if it is no tensor and not from the batch."""
        given = self.given[key]
        rows = self.finder.whole_rows(key, given)
        if rows is not None and (found := self._sliced(key, rows)) is not None:
            return found  # as most are
        if isinstance(self.batch.inputs.get(key), list) and key in self.batch.layout:
            return _listed(self.batch, key, given, self.expected(key))
        if _is_tensor(given):
            return self._tensor(key, given)
        numbers = _numbers(given)
        if numbers is not None:
            return self._tensor(key, numbers)
        if isinstance(given, (list, tuple)) and key in self.batch.layout:
            return ObservedKey(None, len(given))
        return None

    @property
    def made(self) -> dict[str, Made]:
        """Keys of this call that the batch does not have and that are computed from others."""
        told = self.samples if isinstance(self.samples, Rows) else None
        if self.joined is None:
            return made_keys(self.batch, self.given, told)
        made, own = dict[str, Made](), self.batch.inputs
        added = [key for key in self.given if key not in own and key not in OF_SEAMS]
        if added or PROMPT_TYPES in self.given:
            apart = self.joined.by_sample(self.given, tuple(self.given["input_ids"].shape))
            apart = {k: v for k, v in apart.items() if k in self.given and k not in OF_SEAMS}
            made = made_keys(self.batch, apart, told)
        unknown = Made.unchecked(MadeBy.NO_MEDIA_TO_COMPARE)
        dummies = _dummies(self.joined, self.batch, self.given)
        return made | {pixels: unknown for pixels in dummies.values()}

    @property
    def needs_mask(self) -> bool | None:
        """Whether the columns of its `input_ids` need a mask that was left out."""
        if self.joined is not None:
            return False  # it keeps apart no samples, and the padding is gone
        if self.unmasked is not None:
            return False
        if self.columns is None or self.given.get("attention_mask") is not None:
            return None
        return self.columns.need_mask()

    @cached_property
    def unmasked(self) -> Unmasked | None:
        """What keeps padding apart from samples without a mask, if something does."""
        if not isinstance(self.samples, Rows) or "input_ids" not in self.given:
            return None
        return Unmasked.of(self.batch, self.finder, self.given, [*self.samples])

    @property
    def joints(self) -> dict[str, Any]:
        """What its packed rows hold, and whether their samples are apart."""
        joined = self.joined
        if joined is None:
            flash = self.unmasked is None or self.unmasked.for_flash
            return {} if flash else {"seams": (Seam(Seams.UNMASKED, "attention_mask"),)}
        own = self.batch.inputs.get("position_ids")
        places = None if own is None else joined.own(own)
        call = PackedCall(self.batch, self.given, joined.spans, joined.samples, places)
        seams = call.seams()
        rows = packed_rows(call, seams, joined.placed)
        if joined.strange:
            seams = (*seams, Seam(Seams.STRANGE, "input_ids"))
        apart_by = tuple(key for key in call.given if key in OF_SEAMS)
        told = {"spans": joined.spans, "seams": seams, "apart_by": apart_by}
        return {**told, "cut": joined.lost, "rows": rows}

    def _ids_sliced(self, rows: Rows) -> ObservedKey:
        """`input_ids` that are these whole rows of the batch's own tensor."""
        width = self.batch.inputs["input_ids"].shape[1]
        self.samples, self._part, self.width = rows, self.batch.part(rows), width
        self.columns = Columns(self.batch, rows, width, [0])
        self.placeholders = placeholders_of_part(self.batch, self._part)
        return ObservedKey(rows, len(rows), columns=width, dims=2)

    def _sliced(self, key: str, rows: Rows) -> ObservedKey | None:
        """A key with these whole rows; None where its columns differ from those of `input_ids`."""
        if key == "input_ids":
            return self._ids_sliced(rows)
        fixed, own = fixed_of(self.finder.fixed, self.batch, key), self.columns
        if fixed.columns is not None and (
            own is None or own.is_moved or fixed.columns != self.width
        ):
            return None
        return ObservedKey(rows, len(rows), None, fixed.inner, None, fixed.columns, fixed.dims)

    def _tensor(self, key: str, value: Any) -> ObservedKey:
        if type(value) is np.ndarray or type(value).__module__ == "torch":
            return self._looked_at(key, value)
        try:
            return self._looked_at(key, value)
        except Exception as error:  # a subclass may refuse anything
            reason = f"a {type(value).__name__} that cannot be read ({type(error).__name__})"
            return ObservedKey(None, _length(value), unread=reason)

    def _looked_at(self, key: str, value: Any) -> ObservedKey:
        reason = unreadable(value)
        if reason is not None:
            return ObservedKey(None, _length(value), unread=reason)
        return self._ids(value) if key == "input_ids" else self._used(key, value)

    def _ids(self, ids: Any) -> ObservedKey:
        if ids.ndim == 2 and not ids.shape[1]:
            self.samples = Rows.of(())  # rows without a token are of no sample
            return ObservedKey(self.samples, 0, columns=0, dims=2)
        seen = self.finder.sliced("input_ids", ids, (1,))
        if ids.shape[-1:] != self.batch.inputs["input_ids"].shape[-1:] or (
            seen is None and not self.finder.is_slice("input_ids", ids)
        ):
            self.joined = Joined.of(self.batch, self.finder, self.given)
        if self.joined is not None:
            return self._ids_of(self.joined, ids)
        by_text = _Once(partial(self._by_text, ids))
        seen = seen or self.finder.see("input_ids", ids, by_text, free=(1,))
        rows, source, change, is_slice = seen
        columns = None
        if ids.ndim == 2 and source is None and (change is None or not change.reshapes):
            mask = self.given.get("attention_mask")
            told = rows if change is None or change.kind != "values" else None
            columns = Columns.of(self.batch, ids, told, by_text)
            columns = columns or Columns.moved(self.batch, ids, rows, mask)
            if columns is not None:
                rows, change = columns.rows, None if told is None else change
            elif ids.shape[1] != self.batch.inputs["input_ids"].shape[-1]:
                rows = None  # its columns match no rows of the batch
        if source is None and (rows is None or rows.foreign):
            realigned = Realigned.of(self.batch, ids, self.given.get("attention_mask"))
            found = self._identified(realigned.alike()) if realigned else None
            if found is not None:
                self.realigned, rows = realigned, found
        told = rows if source is None and rows is not None and not rows.foreign else None
        self.width = ids.shape[-1] if ids.ndim == 2 else None
        if told is not None:
            self.samples, self._part = told, self.batch.part(told)
            self.columns = columns if self.realigned is None else None
        self.placeholders = placeholders_of_ids(self.batch, ids, told, is_slice, self.given)
        length = ids.shape[0] if ids.ndim else 1
        return ObservedKey(rows, length, source, change=change, columns=self.width, dims=ids.ndim)

    def _ids_of(self, joined: Joined, ids: Any) -> ObservedKey:
        """`input_ids` with rows that hold several samples."""
        self.samples, self._part = joined.rows, None
        found = placeholders_of_ids(self.batch, ids, None, False, self.given)
        dummies = _dummies(joined, self.batch, self.given)
        self.placeholders = {unit: own for unit, own in found.items() if unit not in dummies}
        own = self.batch.inputs["input_ids"]
        change = recast("input_ids", own, ids, indexes=False)
        samples = joined.rows
        return ObservedKey(
            samples, len(samples), change=change, columns=ids.shape[1], dims=ids.ndim
        )

    def _by_text(self, ids: Any) -> Rows | None:
        """The samples of a copy of `input_ids`; other keys distinguish those of equal text."""
        options = self.finder.alike("input_ids", ids)
        found = self._identified(options) if options is not None else None
        return found if found is not None else self.expected("input_ids")

    def _identified(self, options: Sequence[Sequence[int]]) -> Rows | None:
        given, expected = self.given, list(self.samples)
        found = identified(options, expected, self.batch, self.finder, given)
        return None if found is None else Rows.of(found)

    def _used(self, key: str, value: Any) -> ObservedKey:
        axis, shape = self.batch.layout.get(key), value.shape
        if self.joined is not None and key in self.batch.token_dims:
            return _in_packed_rows(self.joined, self.batch, self.given, key, value)
        if self.realigned is not None and key in self.batch.token_dims:
            return _moved(self.realigned, self.given, key, value, self.samples)
        at = self.batch.token_dims.get(key)
        wide = shape[at] if at is not None and value.ndim > at else None
        free = () if axis is None else fixed_of(self.finder.fixed, self.batch, key).free
        expected = partial(self.expected, key, value)
        rows, source, change, is_slice = self.finder.see(key, value, expected, free)
        turned = self.columns is not None and self.columns.is_moved
        as_wide = wide == self.width and self.columns is not None and not turned
        if wide is not None and source is None and not as_wide:
            if change is None or change.kind == "values":
                rows, change = self._in_columns(key, value, rows, turned=turned)
        restored = _first_labels(self, key, value, rows, change)
        if restored is not None:
            return self._used(key, restored)
        if key in TYPE_IDS and not is_slice and _is_zeroed(self, key, value, rows):
            rows, source, change = self.expected(key), None, Change("zeros", tuple(shape))
        dim, inner = axis.dim if axis else 0, None
        if axis is not None and axis.padded and value.ndim == len(self.batch.inputs[key].shape):
            inner = shape[axis.padded_dim]
        size, dims = shape[dim] if value.ndim > dim else 1, value.ndim
        return ObservedKey(rows, size, source, inner, change=change, columns=wide, dims=dims)

    def _in_columns(
        self, key: str, value: Any, rows: Rows | None, *, turned: bool
    ) -> tuple[Rows | None, Change | None]:
        """The rows of a key along the tokens, and whether it has the columns of `input_ids`.

        A copy of another width has not been compared with the batch yet.
        """
        at, dim = self.batch.token_dims[key], self.batch.layout[key].dim
        moved = turned or value.shape[at] != self.batch.inputs[key].shape[at]
        if moved and not self.finder.is_slice(key, value):
            known = rows is not None and not rows.foreign
            likely, rows = rows if known else self.expected(key), None
        else:
            likely = rows
        if self.columns is None or likely is None or likely.foreign:
            return rows, None
        if value.shape[dim] != len(likely) or not self.finder.is_unwritten(key):
            return rows, None
        matches = self.columns.matches(key, value, likely)
        if matches:
            return likely, None
        return likely, Change("longer" if matches is None else "columns", tuple(value.shape))

    def expected(self, key: str, value: Any = None) -> Rows | None:
        """The rows that belong there; those without empty ones if `value` has as many."""
        if key not in self.batch.layout:
            return None
        try:
            self._part = self._part or self.batch.part(self.samples)
            expected = expected_rows(self.batch, key, self._part)
        except (AmbiguousError, IndexError):
            return None
        rows, full = expected.rows, expected.without_empty
        return full if full is not None and _length(value) == len(full) != len(rows) else rows


def _with_ids(given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The call, with an array in place of `input_ids` that are a list."""
    ids = given.get("input_ids")
    numbers = _numbers(ids) if isinstance(ids, (list, tuple)) else None
    return given if numbers is None else {**given, "input_ids": numbers}


def _first_labels(
    chunk: _Chunk, key: str, value: Any, rows: Rows | None, change: Change | None
) -> np.ndarray | None:
    """Labels that are none of the batch's, with first ones as there; None if that is no matter."""
    if key != "labels" or (rows is not None and not rows.foreign and change is None):
        return None
    return with_first_labels(chunk.batch, chunk.finder, chunk.given, value, chunk.samples)


def _dummies(joined: Joined, batch: Batch, given: Mapping[str, Any]) -> dict[str, str]:
    """Modalities that the batch does not have, with placeholder tokens that are of no sample.

    Each with the key of its pixels. Trainers append a dummy image to texts, so that each rank runs
    the vision tower.
    """
    new = {
        unit: pixels
        for unit, pixels in MEDIA_OF.items()
        if given.get(pixels) is not None and pixels not in batch.inputs and unit in batch.token_ids
    }
    if not new:
        return {}
    ids = to_numpy(given["input_ids"])
    own, tokens = joined.apart(ids, -1), batch.token_ids
    return {
        str(unit): pixels
        for unit, pixels in new.items()
        if (ids == tokens[unit]).sum() > (own == tokens[unit]).sum()
    }


def _is_zeroed(chunk: _Chunk, key: str, value: Any, rows: Rows | None) -> bool:
    """Whether types are zeros that stand in for other values, not rows of text-only samples."""
    expected = chunk.expected(key)
    if expected is None or rows is None or rows == expected or value.ndim != 2:
        return False
    fits = value.shape[0] == len(expected) and value.shape[1] == chunk.width
    return fits and not chunk.finder.is_slice(key, value) and not bool((value != 0).any())


def _moved(
    realigned: Realigned, given: Mapping[str, Any], key: str, value: Any, samples: Rows | range
) -> ObservedKey:
    """A token key with moved padding: its rows are identified by its real tokens, if at all."""
    shape, ids = tuple(value.shape), tuple(given["input_ids"].shape)
    if shape != ids or not isinstance(samples, Rows):
        return ObservedKey(None, shape[0] if shape else 1, dims=len(shape))
    change = None if realigned.matches(key, value, samples) else Change("columns", shape)
    return ObservedKey(samples, shape[0], change=change, columns=shape[1], dims=2)


def _in_packed_rows(
    joined: Joined, batch: Batch, given: Mapping[str, Any], key: str, value: Any
) -> ObservedKey:
    """A key along the tokens of packed rows: the values of each sample, in its own tokens."""
    shape, ids = tuple(value.shape), tuple(given["input_ids"].shape)
    change = None
    if shape[-2:] != ids or len(shape) > len(ids) + 1:
        lacks_padding = shape[:-1] == ids[:-1] and shape[-1] >= joined.stop
        blank = key in TYPE_IDS and not bool((value != 0).any())
        blank = blank and not joined.own(batch.inputs[key]).any()
        if lacks_padding or blank or (key == "attention_mask" and len(shape) != 4):
            return ObservedKey(None, shape[0] if shape else 1, dims=len(shape))
        of_blocks = key == "attention_mask"  # which is judged with the seams
        change = None if of_blocks else Change("columns", shape)
    elif key not in OF_SEAMS or (key == "attention_mask" and joined.spans.alone):
        change = None if joined.matches(batch, key, value) else Change("columns", shape)
    wide = shape[-1] if shape else None
    return ObservedKey(
        joined.rows, len(joined.samples), change=change, columns=wide, dims=len(shape)
    )


def _listed(batch: Batch, key: str, value: Any, expected: Rows | None) -> ObservedKey:
    """The rows of a list, identified by its items: the expected ones, if they match."""
    if not isinstance(value, (list, tuple)):
        return ObservedKey(None, len(value) if hasattr(value, "__len__") else 1)
    source = batch.inputs[key]
    if expected is not None and len(expected) == len(value):
        if all(source[row] is item for row, item in zip(expected, value, strict=True)):
            return ObservedKey(expected, len(value))
    places = {id(item): row for row, item in enumerate(source)}
    if len(places) < len(source) or any(id(item) not in places for item in value):
        return ObservedKey(None, len(value))  # equal items, or copies of them
    return ObservedKey(Rows.of([places[id(item)] for item in value]), len(value))


def _numbers(value: Any) -> np.ndarray | None:
    """A list of numbers, such as `image_sizes.tolist()`, as an array; None for anything else."""
    first = value
    while isinstance(first, (list, tuple)) and first:
        first = first[0]
    if first is value or not isinstance(first, (int, float)):
        return None
    try:
        return np.asarray(value)
    except ValueError:  # rows of several lengths
        return None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "data_ptr")


def _length(value: Any) -> int:
    """The size of its first dimension, if it has one."""
    try:
        return int(value.size(0)) if hasattr(value, "layout") else len(value)
    except (IndexError, TypeError, RuntimeError):
        return 1
