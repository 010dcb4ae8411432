"""A call with some columns of a known batch: one rank of several, or a window of a prefill.

The memory of `input_ids` says which tokens these are, so each value along the tokens is compared
with that of its own token. Other ranks are not needed for that, nor are they known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import ALONG_TOKENS, IGNORED, LABELS, OF_BOTH
from vlmdebug.core.lazy import lazy
from vlmdebug.core.presence import has_two_texts
from vlmdebug.core.runs import sides_of
from vlmdebug.core.shards import ShardFault, Split
from vlmdebug.core.tensors import numbers_of
from vlmdebug.families import FAMILIES
from vlmdebug.tracking.joined import IDS, PADDING_MASK
from vlmdebug.tracking.made import mrope_of
from vlmdebug.tracking.shard_labels import PLAIN
from vlmdebug.tracking.shard_tokens import POSITIONS


class Place(NamedTuple):
    """Tokens `start:stop` of these rows of a batch."""

    rows: range
    start: int
    stop: int

    def of(self, table: np.ndarray) -> np.ndarray:
        """A table along the tokens, cut to them: `(…, row, seq)`."""
        return table[..., self.rows.start : self.rows.stop, self.start : self.stop]

    def shown(self, wide: int, ends: Sequence[int], behind: int | None) -> tuple[int, int]:
        """The columns of the batch that a mask of so many columns is for, up to one of `ends`.

        Behind a cache of so many tokens, a model takes the first column for the first token there,
        which may be before the batch. Where none of `ends` fits, they are those of the tokens.
        """
        for begin in (0,) if behind is None else (self.start - behind,):
            for end in ends:
                if wide == end - begin != self.stop - self.start:
                    return begin, end
        return self.start, self.stop


class Whole:
    """What is known of a batch that windows are cut from; it keeps numbers, and no tensor.

    Args:
        batch: The batch, with its tensors; they are read here alone.
        own: Keys along the tokens, which are whole here, `(…, row, seq)`.
        pad: The padding token, if it is known.

    Attributes:
        batch: The batch without tensors.
        ids: Its tokens, `(row, seq)`.
        real: Those that are no padding, as far as that is known, `(row, seq)`.
        own: The values of the keys along the tokens.
        masked: Whether a mask says what padding is.
    """

    def __init__(
        self, batch: Batch, own: Mapping[str, Any], bare: Batch, pad: int | None = None
    ) -> None:
        self.batch: Batch = bare
        self.own: dict[str, np.ndarray] = {
            key: found.copy()
            for key, value in own.items()
            if (found := numbers_of(value)) is not None
        }
        self.ids: np.ndarray = self.own[IDS]
        mask = self.own.get(PADDING_MASK)
        self.masked: bool = mask is not None and mask.shape == self.ids.shape
        self.real: np.ndarray = mask != 0 if mask is not None and self.masked else self._text(pad)
        rows = range(len(self.ids))
        grids = batch.rules.checks_each_sample != "never"
        self._mrope = mrope_of(batch, own, rows) if grids else None
        self._grids = grids and bool(self._placeholders.any())
        self._owners = {name: self._owned(name) for name in bare.modalities}

    def _text(self, pad: int | None) -> np.ndarray:
        """All tokens but padding at either end of each row: one token again and again."""
        same = self.ids == self.ids[:, :1], (self.ids == self.ids[:, -1:])[:, ::-1]
        before, after = (np.logical_and.accumulate(one, axis=1) for one in same)
        ends = np.zeros(self.ids.shape, dtype=bool)
        for token, run in ((self.ids[:, :1], before), (self.ids[:, -1:], after[:, ::-1])):
            ends |= run & ((token == pad) | (run.sum(axis=1, keepdims=True) > 1))
        return ~ends | self._placeholders

    @lazy
    def _placeholders(self) -> np.ndarray:
        return np.isin(self.ids, [*self.batch.token_ids.values()])

    def has_others(self, at: Place) -> bool:
        """Whether its rows have real tokens in other columns."""
        real = self.real[at.rows.start : at.rows.stop]
        return bool(real[:, : at.start].any() or real[:, at.stop :].any())

    def placeholders(self, at: Place, among: np.ndarray | None = None) -> int:
        """How many tokens there are placeholders; `among` tokens of these rows, `(row, seq)`."""
        found = at.of(self._placeholders)
        return int((found if among is None else found & among).sum())

    def mask(self, at: Place) -> np.ndarray | None:
        """The mask of a window; None if the batch has none."""
        return at.of(self.own[PADDING_MASK]) if self.masked else None

    def behind_padding(self, at: Place, behind: int) -> np.ndarray:
        """Which tokens of a window have padding in front of them, among so many, `(row, seq)`."""
        begin = max(at.start - behind, 0)
        padding = ~self.real[at.rows.start : at.rows.stop, begin : at.stop]
        return np.logical_or.accumulate(padding, axis=1)[:, at.start - begin :]

    def pieces(self, at: Place) -> list[dict[str, Any]]:
        """Of each row of a window: a digest of all its tokens, how many they are, and those here.

        Padding does not count. `runs` are the first one, their number and the step between them.
        """
        found = list[dict[str, Any]]()
        for row in at.rows:
            real = self.real[row]
            first, last = int(real[: at.start].sum()), int(real[: at.stop].sum())
            text = blake2b(self.ids[row, real].astype("<i8").tobytes(), digest_size=8).hexdigest()
            runs = [[first, last - first, 1]] if last > first else []
            found.append({"text": text, "of": int(real.sum()), "runs": runs})
        return found

    # --- positions -------------------------------------------------------------------------

    @lazy
    def positions(self) -> list[np.ndarray]:
        """The positions that tokens may have, `(plane, row, seq)`; none where no rule says."""
        own = self.own.get(POSITIONS)
        if own is not None:
            return [own[None] if own.ndim == 2 else own]
        columns = np.broadcast_to(np.arange(self.ids.shape[1]), self.ids.shape)
        counted = np.maximum(self.real.cumsum(axis=1) - 1, 0)
        if not self._grids:
            return [columns[None], counted[None]]
        if self._mrope is None:
            return []
        places = self._mrope
        return [places, *(np.concatenate([one[None], places]) for one in (columns, counted))]

    # --- media -----------------------------------------------------------------------------

    def _owned(self, name: str) -> np.ndarray | None:
        """The image, tile or clip of each placeholder token, `(row, seq)`; -1 for other tokens.

        None where that is not known.
        """
        sides = sides_of(self.batch, self.batch.modalities[name])
        if sides is None or sides.owned is None:
            return None
        found = np.full(self.ids.shape, -1, dtype=np.int64)
        for sample, runs in enumerate(sides.places):
            columns = [column for begin, end in runs for column in range(begin, end)]
            units = [*sides.units_of(sample)]
            features = [sides.features[unit] for unit in units]
            if sum(features) != len(columns):
                return None
            row, start, _ = self.batch.spans[sample]
            found[row, start + np.array(columns, dtype=np.int64)] = np.repeat(units, features)
        return found

    def rows_due(self, name: str, key: str, at: Place) -> tuple[list[int], bool] | None:
        """Rows of a media key that the placeholder tokens of a window need.

        And whether all placeholder tokens of these images are in it. None if that is not known.
        """
        owners, sides = self._owners[name], sides_of(self.batch, self.batch.modalities[name])
        if owners is None or sides is None:
            return None
        here = at.of(owners)
        here = here[here >= 0]
        units = [*dict.fromkeys(here.tolist())]
        complete = bool(np.isin(owners, units).sum() == len(here))
        unit = self.batch.layout[key].unit
        if unit == sides.unit:
            return units, complete
        offsets = self.batch.image_offsets(unit) if sides.unit == "image" else None
        if offsets is None:
            return None
        return [row for one in units for row in range(offsets[one], offsets[one + 1])], complete


class Window:
    """One call that has the tokens at one place of a batch, and what does not go with them.

    Args:
        whole: The batch.
        at: Which tokens they are.
        given: The arguments of the call.
        number: The number of the rank or window, to be named.
        noun: What it is.
        cached: Whether the model has the tokens before it in a cache.
        behind: How many tokens are in the cache, if that is known.
    """

    def __init__(
        self,
        whole: Whole,
        at: Place,
        given: Mapping[str, Any],
        *,
        number: int,
        noun: str,
        cached: bool,
        behind: int | None = None,
    ) -> None:
        self._whole, self._at, self._given = whole, at, given
        self._number, self._noun, self._cached = number, noun, cached
        self._behind = behind
        self._real = at.of(whole.real)

    def faults(self) -> Iterator[ShardFault]:
        """What does not go with its token, or is not known to."""
        for key in ALONG_TOKENS:
            if self._given.get(key) is not None and key in self._whole.own:
                yield from self._along(key)
        if self._cached and self._whole.masked and self._given.get(PADDING_MASK) is None:
            yield from self._unmasked()
        for key in OF_BOTH:
            if self._given.get(key) is not None and key in self._whole.own:
                yield from self._of_both(key)
        yield from self._positions()
        for key in LABELS:
            if self._given.get(key) is not None:
                yield from self._labels(key)

    def fault(
        self,
        why: Split,
        key: str,
        place: Sequence[int] = (0, 0),
        given: Sequence[int] = (),
        due: Sequence[int] = (),
    ) -> ShardFault:
        """A fault at a row and column of the call."""
        row, at = int(place[0]), int(place[1])
        found = ShardFault(why, key, self._number, row, at, (*given,), (*due,))
        return found._replace(noun=self._noun)

    def _columns(self, key: str, value: np.ndarray) -> ShardFault:
        """A key with another number of columns than tokens."""
        due = self._at.stop - self._at.start
        found = self.fault(Split.COLUMNS, key, given=(int(value.shape[-1]),), due=(due,))
        return found._replace(sample=None)

    def _along(self, key: str) -> Iterator[ShardFault]:
        """Masks and types of other tokens; a mask may reach from the first token on."""
        value, whole = numbers_of(self._given[key]), self._whole.own[key]
        if value is None or value.ndim != 2:
            return  # named as not compared
        rows, start, stop = self._at
        first, end = start, stop
        if key == PADDING_MASK:
            ends = (stop, whole.shape[1]) if self._cached else (whole.shape[1],)
            first, end = self._at.shown(value.shape[1], ends, self._behind)
            if (first, end) != (start, stop):
                if not self._cached:
                    yield self.fault(Split.WHOLE_MASK, key)
            elif self._behind is not None and value.shape[1] != self._behind + stop - start:
                sizes = [value.shape[1]], [self._behind + stop - start]
                found = self.fault(Split.OWN_MASK, key, (0, 0), *sizes)
                yield found._replace(sample=None)
                return
            if first != 0:  # the tokens before may be others
                value, first = value[:, start - first :], start
        due = whole[rows.start : rows.stop, first:end]
        if value.shape != due.shape:
            yield self._columns(key, value)
            return
        other = (value != 0) != (due != 0) if key == PADDING_MASK else value != due
        for row, column in np.argwhere(other)[:1]:
            numbers = [int(value[row, column])], [int(due[row, column])]
            yield self.fault(Split.MASK, key, (row, column + first - start), *numbers)

    def _unmasked(self) -> Iterator[ShardFault]:
        """Padding in front of tokens, which they see without a mask."""
        seen = self._whole.behind_padding(self._at, self._behind or 0) & self._real
        for place in np.argwhere(seen)[:1]:
            yield self.fault(Split.PARTLY, PADDING_MASK, place.tolist())

    def _of_both(self, key: str) -> Iterator[ShardFault]:
        """A mask of tokens and images, of other tokens."""
        value, (rows, start, stop) = numbers_of(self._given[key]), self._at
        due = self._whole.own[key][rows.start : rows.stop, start:stop]
        if value is None or value.shape != due.shape:
            columns = 0 if value is None or value.ndim < 2 else int(value.shape[1])
            given, wide = (columns,), (stop - start,)
            yield self.fault(Split.COLUMNS, key, given=given, due=wide)._replace(sample=None)
            return
        for place in np.argwhere(value != due)[:1]:
            given, belongs = [int(value[tuple(place)])], [int(due[tuple(place)])]
            yield self.fault(Split.MASK, key, place[:2].tolist(), given, belongs)

    def _positions(self) -> Iterator[ShardFault]:
        value = self._given.get(POSITIONS)
        if value is None:
            if not self._cached:
                yield from self._without()
            return
        table = numbers_of(value)
        rows, start, stop = self._at
        if table is None or table.ndim not in (2, 3):
            yield self.fault(Split.UNREAD, POSITIONS)
            return
        if table.shape[-1] != stop - start or table.shape[-2] not in (1, len(rows)):
            yield self._columns(POSITIONS, table)
            return
        planes = table[None] if table.ndim == 2 else table
        planes = np.broadcast_to(planes, (len(planes), len(rows), stop - start))
        yield from self._unlike(planes)

    def _unlike(self, planes: np.ndarray) -> Iterator[ShardFault]:
        """The first token with other positions than its own, where these are known."""
        wrong, known = None, self._whole.positions
        for one in known:
            due = self._at.of(one)
            if len(due) != len(planes) and 1 not in (len(due), len(planes)):
                continue
            off = ((planes != due).any(axis=0)) & self._real
            if not off.any():
                return
            if wrong is None or off.sum() < wrong[0].sum():
                wrong = off, due
        if wrong is None:
            yield self.fault(Split.PLACES, POSITIONS)
            return
        if self._behind not in (None, self._at.start):  # other tokens are before it
            yield self.fault(Split.PLACES, POSITIONS, (0, 0), [self._behind], [self._at.start])
            return
        off, due = wrong
        row, column = np.argwhere(off)[0]
        given, belongs = planes[:, row, column].tolist(), due[:, row, column].tolist()
        settled = POSITIONS in self._whole.own or self._whole.masked
        why = Split.POSITIONS if settled or not self._may_be_packed(planes) else Split.PACKED
        yield self.fault(why, POSITIONS, (row, column), given, belongs)

    def _may_be_packed(self, planes: np.ndarray) -> bool:
        """Whether all positions that are not due may be those of samples that begin in the row."""
        first = planes[0]
        steps = np.diff(first, axis=1)
        starts = bool(((steps != 1) <= (first[:, 1:] == 0)).all())
        return starts and bool((first[:, 0] <= self._at.start).all())

    def _without(self) -> Iterator[ShardFault]:
        """Without positions, a model counts from 0."""
        rows, start, _ = self._at
        before = self._whole.real[rows.start : rows.stop, :start].any(axis=1)
        here = before & self._real.any(axis=1)
        for row in np.flatnonzero(here)[:1]:
            column = int(np.flatnonzero(self._real[row])[0])
            yield self.fault(
                Split.NO_POSITIONS, POSITIONS, (row, column), [column], [start + column]
            )

    # --- labels ----------------------------------------------------------------------------

    def _labels(self, key: str) -> Iterator[ShardFault]:
        labels = numbers_of(self._given[key])
        rows, start, stop = self._at
        if labels is None or labels.ndim != 2 or len(labels) != len(rows):
            yield self.fault(Split.UNREAD, key)
            return
        if labels.shape[1] != stop - start:
            yield self._columns(key, labels)
            return
        own = self._whole.own.get(key)
        if own is not None and own.shape == self._whole.ids.shape:
            due = self._at.of(own)
            wrong = np.argwhere((labels != due) & self._real)[:1]
        else:
            due, wrong = self._free(key, labels)
        yield from self._learned_padding(key, labels, known=own is not None)
        for row, column in wrong:
            given = [int(labels[row, column])], [int(due[row, column])]
            yield self.fault(Split.LABELS, key, (row, column), *given)
        if not len(wrong):
            yield from self._at_the_cut(key, labels, known=own is not None)

    def _learned_padding(
        self, key: str, labels: np.ndarray, *, known: bool
    ) -> Iterator[ShardFault]:
        """Padding with a label that is neither its own id, nor that of the next token."""
        wrong = ~self._real & (labels != IGNORED)
        for one in [self._at.of(self._whole.own[key])] if known else self._dues(key):
            wrong &= labels != one
        for row, column in np.argwhere(wrong)[:1]:
            yield self.fault(Split.LEARNED, key, (row, column), [int(labels[row, column])])

    def _dues(self, key: str) -> list[np.ndarray]:
        """The label of each token: its own id and that of the next one, the likelier first."""
        ids = self._whole.ids
        ahead = np.full_like(ids, IGNORED)
        ahead[:, :-1] = ids[:, 1:]
        return [self._at.of(ids), self._at.of(ahead)][:: 1 if key == PLAIN else -1]

    def _free(self, key: str, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The label of each token, its own or that of the next, and where others are learned."""
        dues, rules = self._dues(key), self._whole.batch.rules
        learned = self._real & (labels != IGNORED)
        none = np.zeros((0, 2), dtype=np.int64)
        if has_two_texts(self._given, rules) or self._whole.batch.layout.family not in FAMILIES:
            return dues[0], none
        wrong = [learned & (labels != due) for due in dues]
        if not all(one.any() for one in wrong):
            return dues[0], none
        best = int(wrong[1].sum() < wrong[0].sum())
        return dues[best], np.argwhere(wrong[best])[:1]

    def _at_the_cut(self, key: str, labels: np.ndarray, *, known: bool) -> Iterator[ShardFault]:
        """What a loss on this rank does not learn: the first token of the next one."""
        rows, start, stop = self._at
        learned = labels != IGNORED
        plain = not ((labels != self._at.of(self._whole.ids)) & learned & self._real).any()
        if key == PLAIN and plain:
            before = self._whole.real[rows.start : rows.stop, start - 1] if start else False
            for row in np.flatnonzero(before & learned[:, 0] & self._real[:, 0])[:1]:
                yield self.fault(Split.BETWEEN, key, (row, 0), [int(labels[row, 0])])
            return
        if known or stop >= self._whole.ids.shape[1] or labels.shape[1] < 2:
            return
        after = self._whole.real[rows.start : rows.stop, stop]
        for row in np.flatnonzero(after & learned[:, -2] & ~learned[:, -1])[:1]:
            due = int(self._whole.ids[rows[row], stop])
            yield self.fault(Split.LAST, key, (row, labels.shape[1] - 1), [IGNORED], [due])
