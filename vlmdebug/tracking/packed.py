"""Whether a model keeps the samples of packed rows apart, as far as the call itself shows it.

With its default attention (sdpa), transformers starts a sample where `position_ids` do not go on by
one, and only if no `attention_mask` is passed (`masking_utils.find_packed_sequence_indices` and
`masking_utils._preprocess_mask_arguments`, 5.24). M-RoPE models read that from the first of four
planes. `cu_seq_lens_q` and the other lengths act in flash-attention alone
(`modeling_flash_attention_utils._flash_attention_forward`, 5.24). Rotary embeddings look at
differences only, so a constant that is added to all positions of a sample changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.blocks import is_of_blocks
from vlmdebug.core.keys import CACHES, LABELS, PACKED
from vlmdebug.core.lazy import lazy
from vlmdebug.core.observed import Seam, Seams
from vlmdebug.core.part import Spans
from vlmdebug.core.tensors import filled, numbers_of, side_by_side, to_numpy
from vlmdebug.families.packing import ENDS, INDEX, plain_ends
from vlmdebug.tracking.ends import (
    cumulative_seam,
    label_seams,
    number_seam,
    seam_of_blocks,
    shifted_seams,
)
from vlmdebug.tracking.made import FAR, has_own_mrope, positions_of, unlike

PLANES = 4
"""Planes of `position_ids` from which M-RoPE models read where samples begin: text comes first."""
FLASH = frozenset(key for key in PACKED if key.endswith(("_q", "_k")))
"""Arguments that flash-attention reads where all of them are passed."""
READ = (*PACKED, "position_ids", *LABELS)
"""Keys that say where samples begin, or what is learned there."""


def open_seams(batch: Batch, *, restarts: bool = False) -> tuple[Seam, ...]:
    """What may mix samples of packed rows, or what a mask of each pair of tokens may hide.

    `restarts`: the positions of text are known to be 0, 1, 2 … in each sample.
    """
    call = PackedCall.of_batch(batch)
    if call is not None:
        call.first = 0 if restarts else None
        return call.seams()
    mask, rules = batch.inputs.get("attention_mask"), batch.rules
    if len(getattr(mask, "shape", ())) < 3:
        return ()
    if not is_of_blocks(mask):
        return (Seam(Seams.BLOCKS, "attention_mask"),)
    shape, samples = tuple(batch.inputs["input_ids"].shape), range(len(batch))
    seam = seam_of_blocks(mask, shape, batch.spans, samples, cached=False)
    if seam is not None and seam.why is Seams.ENDS:
        return (seam,)
    known = rules.predict and rules.causal and rules.takes_block_mask
    if rules.mrope is not None and "position_ids" not in batch.inputs:  # computed from the mask
        known = known and not any(one.keys for one in batch.modalities.values())
    return () if known and seam is None else (Seam(Seams.BLOCKS, "attention_mask"),)


def _numbers(given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The values of keys of `READ` that are numbers; models take no lists of them."""
    found = dict[str, np.ndarray]()
    for key in READ:
        if key not in given:
            continue
        value = np.asarray(given[key]) if isinstance(given[key], int) else given[key]
        one = numbers_of(value) if hasattr(value, "shape") else None
        one = plain_ends(key, one) if one is not None and key in ENDS else one
        if one is None or not one.size or (key.startswith("cu_") and one.ndim != 1):
            continue
        if key.startswith("max_") and one.size > 1:
            continue
        if one.dtype.kind != "f" or np.isfinite(one).all():
            found[key] = one
    return found


def _all_begin(steps: np.ndarray, plane: np.ndarray, spans: Spans) -> bool:
    """Whether positions go on by one but where each sample begins, all with one number."""
    rows, columns = zip(*[span[:2] for span in spans], strict=True)
    jumps = [*zip(*[one.tolist() for one in (~steps).nonzero()], strict=True)]
    behind = [(row, start) for row, start in zip(rows, columns, strict=True) if start]
    return jumps == behind and bool((plane[rows, columns] == plane[rows[0], columns[0]]).all())


class PackedCall:
    """One call with packed rows.

    Attributes:
        batch: The batch that owns the samples.
        spans: The tokens of each of its samples.
        samples: Their numbers in the batch.
        own: Their `position_ids` in the batch, `(…, sample, seq)`, if it has some.
        numbers: What says where samples begin, or what is learned there, by key.
        first: The number with which each sample begins and from which it goes on by one; None
            where that is not so, or was not asked.
    """

    def __init__(
        self,
        batch: Batch,
        given: Mapping[str, Any],
        spans: Spans,
        samples: Sequence[int],
        own: np.ndarray | None,
    ) -> None:
        self.batch: Batch = batch
        self.spans: Spans = spans
        self.samples: Sequence[int] = samples
        self.own: np.ndarray | None = own
        self.given: Mapping[str, Any] = {k: v for k, v in given.items() if v is not None}
        self.shape: tuple[int, ...] = tuple(given["input_ids"].shape)
        self.wrong_ends: bool = False
        self.first: int | None = None
        self.numbers: dict[str, np.ndarray] = _numbers(self.given)
        self.unread: list[str] = [k for k in READ if k in self.given and k not in self.numbers]

    @classmethod
    def of_batch(cls, batch: Batch) -> PackedCall | None:
        """A packed batch as its own call; None where none of its rows is packed."""
        if batch.packed is None:
            return None
        return cls(batch, batch.inputs, batch.packed, range(len(batch)), None)

    def seams(self) -> tuple[Seam, ...]:
        """What may mix its samples."""
        unread = [Seam(Seams.UNREAD, key) for key in self.unread]
        return (*unread, *self.ends(), *self.labels(), *self.apart())

    # --- ends of samples -------------------------------------------------------------------

    def ends(self) -> Iterator[Seam]:
        """Keys that give other ends than the samples have."""
        for key in PACKED:
            found = self._ends_of(key, self.numbers[key]) if key in self.numbers else None
            if found is not None:
                self.wrong_ends = True
                yield found

    def _ends_of(self, key: str, values: np.ndarray) -> Seam | None:
        if key == INDEX:
            return number_seam(key, values, self.shape, self.spans, self.samples)
        if key.startswith("max_"):
            longest = max(self.spans.lengths)
            if int(values.reshape(())) >= longest:
                return None
            return Seam(Seams.LONGEST, key, given=(int(values.max()),), due=(longest,))
        return cumulative_seam(key, values, self.shape, self.spans, self.samples)

    # --- labels ----------------------------------------------------------------------------

    def labels(self) -> Iterator[Seam]:
        """The first sample that is learned from the last token of the sample before it."""
        for key, seams in zip(LABELS, (label_seams, shifted_seams), strict=True):
            labels = self.numbers.get(key)
            if labels is not None and tuple(labels.shape) == self.shape:
                yield from seams(labels, self.spans, self.samples)

    # --- positions -------------------------------------------------------------------------

    def apart(self) -> Iterator[Seam]:
        """Why attention does not keep the samples apart, or why positions are others."""
        found = self._mixed()
        if found is not None:
            yield found

    def _mixed(self) -> Seam | None:
        mask = self.given.get("attention_mask")
        if self.spans.alone and not is_of_blocks(mask):
            return self._each_alone()
        if not (self.batch.rules.predict and self.batch.rules.separates_packed):
            return Seam(Seams.MODEL if self.batch.rules.names_model else Seams.NO_MODEL)
        if is_of_blocks(mask) and self.batch.rules.takes_block_mask:
            cached = any(key in self.given for key in CACHES)
            seam = seam_of_blocks(mask, self.shape, self.spans, self.samples, cached=cached)
            return seam or self._each_alone(in_blocks=True)
        if mask is not None:
            found = self._each_alone(in_blocks=True)
            wrong = found is not None and found.why is not Seams.OPEN
            return found if wrong else Seam(Seams.MASK, "attention_mask")
        if self.given.get("use_cache") is True:
            return Seam(Seams.CACHE, "use_cache")
        return _for_flash(self, self._positions())

    def _each_alone(self, *, in_blocks: bool = False) -> Seam | None:
        """Whether each sample has the positions that it has alone, up to a constant.

        That is enough where nothing reads from them which tokens are seen: if each row holds one
        sample, or `in_blocks`, if a mask says so.
        """
        positions = self.numbers.get("position_ids")
        if positions is None:
            return Seam(Seams.OPEN) if in_blocks and self.is_mrope else None
        planes = positions[None] if positions.ndim == 2 else positions  # (plane, row, seq)
        several = (1, PLANES - 1, PLANES) if self.is_mrope else (1,)
        rows, wide = self.shape
        if planes.shape not in {(n, own, wide) for n in several for own in (1, rows)}:
            return Seam(Seams.PLANES, given=tuple(positions.shape), due=self._due_shape)
        if in_blocks and len(planes) == PLANES:
            planes = planes[1:]  # nothing reads the places of text
        planes = filled(planes, (len(planes), rows, wide))
        if len(planes) == PLANES:
            return self._with_text(planes)
        apart = side_by_side(planes, self.spans, 0)
        return self._compared(apart if len(planes) > 1 else apart[0])

    @lazy
    def is_flash(self) -> bool:
        """Whether flash-attention, if the model may have it, gets the ends of samples."""
        return self.may_flash and self.given.keys() >= FLASH and not self.wrong_ends

    @property
    def may_flash(self) -> bool:
        """Whether the model has flash-attention, or may have it."""
        return self.batch.rules.flash_attention is not False

    @lazy
    def is_mrope(self) -> bool:
        return self.batch.rules.checks_each_sample != "never"

    def _positions(self) -> Seam | None:
        if "position_ids" not in self.given:
            return Seam(Seams.FLASH if self.is_flash else Seams.NO_POSITIONS)
        positions = self.numbers.get("position_ids")
        if positions is None:
            return None  # it is unread
        planes = positions[None] if positions.ndim == 2 else positions  # (plane, row, seq)
        if planes.ndim != 3 or planes.shape[1:] != self.shape:
            return Seam(Seams.PLANES, given=tuple(positions.shape), due=self._due_shape)
        if not self.is_mrope and positions.ndim == 2:
            return self.starts(planes[0]) or _far(self, planes[0])
        if len(planes) == 1 and self.batch.rules.repeats_positions:
            planes = filled(planes, (PLANES, *self.shape))
        if self.is_mrope and len(planes) == PLANES:
            return self._with_text(planes)
        if self.is_mrope and self.is_flash and len(planes) in (1, PLANES - 1):
            return self._values(planes) or Seam(Seams.FLASH)
        return Seam(Seams.PLANES, given=tuple(positions.shape), due=self._due_shape)

    def _with_text(self, planes: np.ndarray) -> Seam | None:
        """M-RoPE's positions behind the places of text, which only say where samples begin."""
        found = self.starts(planes[0])
        jumps = self.may_flash and found is not None and found.why is Seams.ORDER
        if jumps and self._begins_for_flash(planes[0]):
            found = Seam(Seams.JUMPS)
        if found is not None and found.why in {Seams.ORDER, Seams.PADDING}:
            return found
        return self._values(planes) or found

    def _begins_for_flash(self, plane: np.ndarray) -> bool:
        """Whether flash-attention sees each sample begin, by its arguments or the lowest number."""
        if self.is_flash:
            return True
        starts = [span.start for span in self.spans]
        if self.shape[0] > 1:  # it takes each row for one sample
            return not any(starts)
        return np.flatnonzero(plane[0, : self.spans[-1].stop] == plane.min()).tolist() == starts

    @property
    def _due_shape(self) -> tuple[int, ...]:
        return (PLANES, *self.shape) if self.is_mrope else self.shape

    def starts(self, plane: np.ndarray) -> Seam | None:
        """Whether positions go on by one in each sample, and not from the token before it."""
        if self.first is not None:
            return None
        if plane.dtype.kind == "b":
            plane = plane.astype(np.int64)
        steps = np.ones(plane.shape, dtype=bool)  # (row, seq)
        np.equal(plane[:, 1:] - plane[:, :-1], 1, out=steps[:, 1:])
        firsts, before, flash = set[int](), {}, False
        if _all_begin(steps, plane, self.spans):  # as nearly always
            self.first = int(plane[self.spans[0][:2]])
            return None
        for sample, span in zip(self.samples, self.spans, strict=True):
            row, start, stop = span
            inside = np.flatnonzero(~steps[row, start + 1 : stop])
            if len(inside):
                at = start + 1 + int(inside[0])
                return self._order(sample, row, at, plane, start)
            if start and steps[row, start]:
                flash = True
                if not self.is_flash and before.get(row) != start:
                    return Seam(Seams.PADDING, "input_ids", sample, row, start)
                if not self.is_flash:
                    return self._order(sample, row, start, plane, start)
            firsts.add(int(plane[row, start]))
            before[row] = stop
        if flash:
            return Seam(Seams.FLASH)
        apart = len(firsts) < 2 or self.is_flash or not self.may_flash
        return None if apart else Seam(Seams.UNLIKE)

    def _order(self, sample: int, row: int, at: int, plane: np.ndarray, start: int) -> Seam:
        given, due = (int(plane[row, at]),), (at - start,)
        return Seam(Seams.ORDER, "position_ids", sample, row, at, given, due)

    def _values(self, planes: np.ndarray) -> Seam | None:
        """Whether M-RoPE's positions of each sample are those that it has alone."""
        planes = filled(planes[1 - PLANES :], (PLANES - 1, *self.shape))
        told = self.batch, self.given, planes, self.samples, self.spans
        if self.own is None and has_own_mrope(*told):  # as nearly always
            return None
        return self._compared(side_by_side(planes, self.spans, 0))

    def _compared(self, apart: np.ndarray) -> Seam | None:
        """Positions of each sample against those of the batch, or those that it has alone."""
        if self.own is not None:
            own = self.own[-(PLANES - 1) :] if self.own.ndim == 3 else self.own[None]
            ours = apart[-len(own) :] if apart.ndim == 3 else apart[None]
            off = unlike(filled(ours, own.shape), own, self.spans.real)
            return None if off is None else self._at(*off)
        made = positions_of(self.batch, self.by_sample, apart, self.samples)
        if made.right:
            return None
        if made.right is None or made.why is None:
            return Seam(Seams.OPEN)
        return self._at(*made.why.shapes)

    @lazy
    def by_sample(self) -> Mapping[str, Any]:
        """The call with a row per sample."""
        return {
            **self.given,
            "input_ids": side_by_side(to_numpy(self.given["input_ids"]), self.spans, -1),
            "attention_mask": self.spans.real.astype(np.int64),
        }

    def _at(self, place: Sequence[int], given: Sequence[int], due: Sequence[int]) -> Seam:
        """A token with other positions than it has alone; `place`: which sample, and its token."""
        row, start, _ = self.spans[place[0]]
        sample, column = self.samples[place[0]], start + place[1]
        return Seam(Seams.MROPE, "position_ids", sample, row, column, (*given,), (*due,))


def _for_flash(call: PackedCall, found: Seam | None) -> Seam | None:
    """What is found, next to what flash-attention makes of it where the model has that, or may.

    Without its own arguments it looks for samples in a single row alone
    (`modeling_flash_attention_utils._is_packed_sequence`, transformers 5.24).
    """
    flash = call.batch.rules.flash_attention
    if found is not None:
        return None if flash and found.why in (Seams.FLASH, Seams.JUMPS) else found
    if call.shape[0] == 1 or call.given.keys() >= FLASH or flash is False:
        return None
    if "position_ids" in call.unread:
        return None
    pairs = zip(call.samples, call.spans, strict=True)
    sample, (row, start, _) = next(one for one in pairs if one[1].start)
    if not flash:
        return Seam(Seams.SEVERAL)
    return Seam(Seams.ROWS, "cu_seq_lens_q", sample, row, start, (call.shape[0],))


def _far(call: PackedCall, plane: np.ndarray) -> Seam | None:
    """The first sample with positions that are too large for single floats."""
    near = call.first == 0 and call.shape[1] < FAR  # as nearly always
    if near or (plane.min() > -FAR and plane.max() < FAR):
        return None
    for sample, (row, start, _) in zip(call.samples, call.spans, strict=True):
        given = int(plane[row, start])
        if not -FAR < given < FAR:
            return Seam(Seams.ORDER, "position_ids", sample, row, start, (given,), (0,))
    return None


def begins(call: PackedCall, plane: np.ndarray) -> bool:
    """Whether the default attention sees each sample begin, and go on to its end."""
    found = call.starts(plane)
    return found is None or found.why is Seams.UNLIKE
