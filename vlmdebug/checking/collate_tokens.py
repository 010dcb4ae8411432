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
    OtherMask,
    OtherPlaces,
    OtherText,
    OtherTokenValues,
    RowsCounted,
    RowsReordered,
)
from vlmdebug.checking.findings import Difference
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import IGNORED, TOKEN_KEYS
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


def token_differences(
    whole: Batch, units: Sequence[Unit], pad: int | None = None
) -> list[Difference]:
    """What each key along the tokens has, compared with each unit alone; `pad`: id of padding."""
    found = list[Difference]()
    columns: dict[int, np.ndarray] = {}
    for sample, unit in enumerate(units):
        due = text_of(*unit)
        own = _columns(whole, sample, due, pad)
        if own is None:
            found.append(_other_text(whole, sample, text_of(whole, sample), due))
        else:
            columns[sample] = own
            found += _mask_differs(whole, sample, own)
    for key in sorted(TOKEN_KEYS - {"input_ids"}):
        own = [s for s, unit in enumerate(units) if key in unit.batch.inputs]
        if own and key not in whole.inputs:
            found.append(LostTogether(key=key, samples=(*own,)))
        elif key != MASK:  # which says what is compared
            for sample in (one for one in own if one in columns):
                found += _values(key, whole, sample, units[sample], columns[sample])
    return found


def _columns(whole: Batch, sample: int, due: np.ndarray, pad: int | None) -> np.ndarray | None:
    """The columns that hold the tokens due; None if these are others.

    What else the mask shows is padding: `pad`, or without a mask tokens of one value on one side.
    """
    columns, given = shown(whole, sample), text_of(whole, sample)
    if np.array_equal(given, due):
        return columns
    row, start, stop = whole.spans[sample]
    every = np.arange(start, stop)
    text = to_numpy(whole.inputs["input_ids"])[row]
    more = len(every) - len(due)
    for own in (every[: len(due)], every[max(more, 0) :]):
        rest = {*text[np.setdiff1d(columns, own)].tolist()}
        padded = rest <= {pad} if _has_mask(whole) else len(rest) == 1
        if np.array_equal(text[own], due) and padded:
            return own
    return None


def _mask_differs(whole: Batch, sample: int, columns: np.ndarray) -> list[Difference]:
    """A mask that shows other columns than those of the tokens."""
    if not _has_mask(whole):
        return []
    seen = shown(whole, sample)
    hidden, more = np.setdiff1d(columns, seen), np.setdiff1d(seen, columns)
    if not len(hidden) and not len(more):
        return []
    before = len(more) and int(more[0]) < int(columns[0])  # what every token attends to
    ids = to_numpy(whole.inputs["input_ids"])[whole.spans[sample][0]]
    media = np.isin(ids[hidden], [*whole.token_ids.values()]).any()
    runs = Runs.OTHER_ANSWER if len(hidden) else Runs.SEES_PADDING
    known = not media and (len(hidden) or before)
    return [
        OtherMask(
            samples=(sample,),
            hidden=len(hidden),
            shown=len(more),
            outcome=Outcome(runs) if known else DEPENDS,
        )
    ]


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
        return []  # as `unread` says
    if key == DELTAS:
        more = _columns_of(whole) - _columns_of(unit.batch)  # some releases count padding
        if any(np.array_equal(given + by, due) for by in (0, more)):
            return []
    if given.shape == due.shape and _alike(key, given, due):
        learned = _learned_padding(whole, sample) if key == "labels" else 0
        return [LabelsOnPadding(samples=(sample,), learned=learned)] if learned else []
    size = due.shape[-1] if due.ndim else 1
    wrong = size
    if given.shape == due.shape and size:
        wrong = int((given != due).reshape(-1, size).any(axis=0).sum())  # planes of one token
    kind = {"labels": OtherLabels, PLACES: OtherPlaces}.get(key, OtherTokenValues)
    by = _shift(key, whole, sample, due, columns)
    tokens = size if due.ndim and key != DELTAS else 0
    return [kind(key=key, samples=(sample,), wrong=wrong, tokens=tokens, by=by)]


def _alike(key: str, given: np.ndarray, due: np.ndarray) -> bool:
    """Whether they are equal; places of tokens may all be further on, behind padding."""
    if np.array_equal(given, due):
        return True
    if key != PLACES or not given.size:
        return False
    moved = given - due
    return bool((moved == moved.flat[0]).all())


def _columns_of(batch: Batch) -> int:
    return int(batch.inputs["input_ids"].shape[-1])


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
    if (key == DELTAS or value.ndim == 1) and len(value) == ids[0]:
        return np.asarray(value[row])  # one value per sample
    return None


def unread(whole: Batch, units: Sequence[Unit]) -> list[str]:
    """Keys along the tokens that cannot be compared: they have no value per token."""
    found = list[str]()
    for key in sorted(TOKEN_KEYS - {"input_ids"}):
        own = [(s, unit) for s, unit in enumerate(units) if key in unit.batch.inputs]
        if key not in whole.inputs or not own:
            continue
        sides = (whole, own[0][0]), own[0][1]
        if any(values_of(one, key, s, shown(one, s)) is None for one, s in sides):
            found.append(key)
    return found


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
