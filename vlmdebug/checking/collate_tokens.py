"""The tokens of a collated batch next to those of each row collated alone.

Padding may differ, tokens may not: each key along the tokens is compared at the tokens that
`attention_mask` shows. Which sample is which row follows from the text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.checking.collate_findings import (
    LabelsOnPadding,
    LostTogether,
    OtherLabels,
    OtherText,
    OtherTokenValues,
    RowsCounted,
    RowsReordered,
)
from vlmdebug.checking.findings import Difference
from vlmdebug.checking.labels import IGNORED
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import TOKEN_KEYS
from vlmdebug.core.tensors import to_numpy
from vlmdebug.outcomes.reasons import DEPENDS, Outcome, Runs

MASK = "attention_mask"
PLACES = "position_ids"
DELTAS = "rope_deltas"


class Unit(NamedTuple):
    """One sample of what a row gives alone; most rows give one."""

    batch: Batch
    sample: int


def units_of(alone: Sequence[Batch], whole: Batch) -> list[Unit]:
    """The samples of all rows in the order of the batch: row by row, or all first samples first.

    Trainers of pairs put all chosen answers before all rejected ones.
    """
    by_row = [Unit(one, sample) for one in alone for sample in range(len(one))]
    counts = {len(one) for one in alone}
    if counts == {1} or len(counts) != 1:
        return by_row
    by_turn = [Unit(one, sample) for sample in range(counts.pop()) for one in alone]
    texts = [text_of(whole, sample).tobytes() for sample in range(len(whole))]
    return by_turn if [text_of(*unit).tobytes() for unit in by_turn] == texts else by_row


def in_order_of(whole: Batch, units: Sequence[Unit]) -> list[int] | None:
    """The unit of each sample, if the batch holds the same texts in another order."""
    left: dict[bytes, list[int]] = {}
    for place, unit in enumerate(units):
        left.setdefault(text_of(*unit).tobytes(), []).append(place)
    order = list[int]()
    for sample in range(len(whole)):
        places = left.get(text_of(whole, sample).tobytes())
        if not places:
            return None
        order.append(places.pop(places.index(sample) if sample in places else 0))
    return order


def counted(whole: Batch, units: Sequence[Unit]) -> list[Difference]:
    """Whether the batch has as many samples as the rows alone."""
    if len(whole) == len(units):
        return []
    return [RowsCounted(samples=(*range(len(whole)),), given=len(whole), due=len(units))]


def reordered(order: Sequence[int]) -> list[Difference]:
    """The first sample that is another row's."""
    for position, moved in enumerate(order):
        if position != moved:
            return [RowsReordered(samples=(*order,), position=position, moved=moved)]
    return []


def token_differences(whole: Batch, units: Sequence[Unit]) -> list[Difference]:
    """What each key along the tokens has, compared with each unit alone."""
    found = list[Difference]()
    columns: dict[int, np.ndarray] = {}
    for sample, unit in enumerate(units):
        due = text_of(*unit)
        own = _columns(whole, sample, due)
        if own is None:
            found.append(_other_text(whole, sample, text_of(whole, sample), due))
        else:
            columns[sample] = own
    for key in sorted(TOKEN_KEYS - {"input_ids"}):
        own = [s for s, unit in enumerate(units) if key in unit.batch.inputs]
        if own and key not in whole.inputs:
            found.append(LostTogether(key=key, samples=(*own,)))
        elif key != MASK:  # which says what is compared
            for sample in (one for one in own if one in columns):
                found += _values(key, whole, sample, units[sample], columns[sample])
    return found


def _columns(whole: Batch, sample: int, due: np.ndarray) -> np.ndarray | None:
    """The columns that hold the tokens due; None if these are others.

    Where no mask hides it, padding is tokens of one value on one side.
    """
    columns, given = shown(whole, sample), text_of(whole, sample)
    if np.array_equal(given, due):
        return columns
    more = len(given) - len(due)
    if _has_mask(whole) or more <= 0:
        return None
    for own, rest in ((slice(0, len(due)), given[len(due) :]), (slice(more, None), given[:more])):
        if np.array_equal(given[own], due) and len({*rest.tolist()}) == 1:
            return columns[own]
    return None


def _other_text(whole: Batch, sample: int, given: np.ndarray, due: np.ndarray) -> OtherText:
    part = len(given) < len(due)
    cut = part and any(np.array_equal(given, side) for side in _sides(due, len(given)))
    tokens = whole.token_ids.values()
    media = any((due == token).sum() != (given == token).sum() for token in tokens)
    return OtherText(
        samples=(sample,),
        given=len(given),
        due=len(due),
        cut=bool(cut),
        outcome=DEPENDS if media else Outcome(Runs.OTHER_ANSWER),
    )


def _sides(values: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    return values[:size], values[len(values) - size :]


def _values(
    key: str, whole: Batch, sample: int, unit: Unit, columns: np.ndarray
) -> list[Difference]:
    """The difference of one key in one sample, or labels on its padding."""
    given = values_of(whole, key, sample, columns)
    due = values_of(unit.batch, key, unit.sample, shown(*unit))
    if given is None or due is None:
        return []  # said by the check of the batch: it has other columns than input_ids
    if given.shape == due.shape and _alike(key, given, due):
        learned = _learned_padding(whole, sample) if key == "labels" else 0
        return [LabelsOnPadding(samples=(sample,), learned=learned)] if learned else []
    wrong = int((given != due).sum()) if given.shape == due.shape else len(due)
    kind = OtherLabels if key == "labels" else OtherTokenValues
    by = _shift(key, whole, sample, due, columns)
    size = due.shape[-1] if due.ndim else 1
    return [kind(key=key, samples=(sample,), wrong=wrong, tokens=size, by=by)]


def _alike(key: str, given: np.ndarray, due: np.ndarray) -> bool:
    """Whether they are equal; places of tokens may all be further on, behind padding."""
    if np.array_equal(given, due):
        return True
    if key not in (PLACES, DELTAS) or not given.size:
        return False
    moved = given - due
    return bool((moved == moved.flat[0]).all())


def _shift(key: str, whole: Batch, sample: int, due: np.ndarray, real: np.ndarray) -> int:
    """Columns by which the values due stand to the right of their tokens; 0 for none."""
    row = whole.inputs.get(key)
    if due.ndim != 1 or row is None or len(row.shape) != 2 or not len(real):
        return 0
    own = to_numpy(row)[whole.spans[sample][0]]
    if not due.size or (due == due.flat[0]).all():
        return 0  # equal values fit anywhere
    first = int(real[0])
    for start in range(len(own) - len(due) + 1):
        if start != first and np.array_equal(own[start : start + len(due)], due):
            return start - first
    return 0


def _learned_padding(whole: Batch, sample: int) -> int:
    row, start, stop = whole.spans[sample]
    labels = to_numpy(whole.inputs["labels"])
    if MASK not in whole.inputs or labels.shape != whole.inputs["input_ids"].shape:
        return 0
    hidden = to_numpy(whole.inputs[MASK])[row, start:stop] == 0
    return int((hidden & (labels[row, start:stop] != IGNORED)).sum())


def text_of(batch: Batch, sample: int) -> np.ndarray:
    """The token ids of a sample, without those that `attention_mask` hides: `(token,)`."""
    row = to_numpy(batch.inputs["input_ids"])[batch.spans[sample][0]]
    return row[shown(batch, sample)].astype(np.int64)


def values_of(batch: Batch, key: str, sample: int, columns: np.ndarray) -> np.ndarray | None:
    """The values of a key at these columns; None where it has others than `input_ids`."""
    value: Any = to_numpy(batch.inputs[key])
    row = batch.spans[sample][0]
    ids = tuple(batch.inputs["input_ids"].shape)
    if value.shape == ids:
        return value[row][columns]
    if value.ndim == 3 and value.shape[1:] == ids:
        return value[:, row][:, columns]
    if key == DELTAS and len(value) == ids[0]:
        return np.asarray(value[row])
    return None


def shown(batch: Batch, sample: int) -> np.ndarray:
    """The columns of a sample's tokens that `attention_mask` shows; all where there is no mask."""
    row, start, stop = batch.spans[sample]
    columns = np.arange(start, stop)
    if not _has_mask(batch):
        return columns
    return columns[to_numpy(batch.inputs[MASK])[row, start:stop] != 0]


def _has_mask(batch: Batch) -> bool:
    """Whether it has a mask of a value per token, and not one of several dimensions."""
    mask = batch.inputs.get(MASK)
    return mask is not None and tuple(mask.shape) == tuple(batch.inputs["input_ids"].shape)
