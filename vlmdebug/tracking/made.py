"""Keys that a slicer made: what follows from the chunk is recomputed and compared.

A key that the batch does not have has no rows to compare with. Where its values follow from the
chunk's tokens and media by a rule that real models confirm, they are compared with that rule; where
they do not, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch, Undecided
from vlmdebug.core.keys import (
    CACHES,
    CLIP_KEYS,
    DERIVED,
    IGNORED,
    MEDIA_OF,
    PROMPT_TYPES,
    modality_of,
)
from vlmdebug.core.lazy import lazy
from vlmdebug.core.observed import Made, MadeBy
from vlmdebug.core.part import Spans
from vlmdebug.core.presence import has_two_texts
from vlmdebug.core.tensors import filled, numbers_of
from vlmdebug.families import FAMILIES
from vlmdebug.families.video_audio import TYPES
from vlmdebug.tracking.deltas import DELTAS, ROUNDED, judged_deltas
from vlmdebug.tracking.places import mrope, mrope_in_row

FAR = 2**20
"""A constant that is added to all positions of a sample, and is no longer the same to the model:
rotary embeddings are single floats, which round so large a position by up to 0.06 radians."""


def made_keys(
    batch: Batch, given: Mapping[str, Any], samples: Sequence[int] | None
) -> dict[str, Made]:
    """What is known of each key of a call that follows from others and is not in the batch.

    `samples`: those that the call holds, in order; None where they could not be identified.
    """
    found = {
        key: value
        for key, value in given.items()
        if value is not None and key not in batch.inputs and _is_made(batch, key)
    }
    typed = PROMPT_TYPES in batch.inputs and given.get(PROMPT_TYPES) is not None
    appended = typed and batch.rules.token_types_mark == "completion"
    if not found and not appended:
        return {}
    call = _Call(batch, given, samples)
    made = {key: call.judged(key, value) for key, value in found.items()}
    if appended and not _completion_is_typed(call):
        made[PROMPT_TYPES] = Made.wrong(MadeBy.COMPLETION)
    return made


def positions_of(
    batch: Batch, given: Mapping[str, Any], positions: np.ndarray, samples: Sequence[int]
) -> Made:
    """What is known of `position_ids` of such tokens, `(sample, seq)` or `(plane, sample, seq)`.

    The tokens of each sample stand side by side.
    """
    planes = positions[None] if positions.ndim == 2 else positions
    return _Call(batch, given, samples).compared(planes)


def mrope_of(batch: Batch, given: Mapping[str, Any], samples: Sequence[int]) -> np.ndarray | None:
    """M-RoPE's positions of such tokens, `(3, sample, seq)`; None where no rule is proven."""
    return _Call(batch, given, samples).mrope()


def has_own_mrope(
    batch: Batch, given: Mapping[str, Any], planes: np.ndarray, samples: Sequence[int], spans: Spans
) -> bool:
    """Whether M-RoPE's positions of packed samples are plainly those of each alone; never a guess.

    `planes`, `(3, row, seq)`: up to a constant for each sample, as in `unlike`.
    """
    call, (row, first, _), last = _Call(batch, given, samples), spans[0], spans[-1].stop
    if any(b != (row, a.stop, b.stop) for a, b in pairwise(spans)) or not call.has_family:
        return False  # not side by side in one row
    if call.ids is None or call.types is None or planes.dtype.kind not in "iu":
        return False
    lengths = np.array(spans.lengths)
    stops = lengths.cumsum()
    due = mrope_in_row(batch, call.types[row, first:last], stops.tolist(), samples, given)
    if due is None:
        return False
    off = planes[:, row, first:last] - due  # (3, token)
    begins = off[0, stops - lengths]
    return bool((off == begins.repeat(lengths)).all()) and bool((abs(begins) < FAR).all())


def own_positions(batch: Batch, key: str = "position_ids") -> Made | None:
    """What is known of the `position_ids` of a padded batch itself, or of what follows from them.

    None if it has none, or where rows may hold several samples, as `read_batch` says then.
    """
    values = batch.inputs.get(key)
    undecided = any(isinstance(one, Undecided) for one in batch.ambiguities)
    if values is None or undecided or batch.packed is not None:
        packed = values is not None and key == DELTAS and not undecided
        return Made.unchecked(MadeBy.DELTAS_PACKED) if packed else None
    call = _Call(batch, batch.inputs, range(len(batch)))
    return call.judged(key, values)


def _is_made(batch: Batch, key: str) -> bool:
    return key in DERIVED or key in _taken(batch)


def _taken(batch: Batch) -> Collection[str]:
    """Media keys that models of the batch's family take, whether or not the batch has them."""
    family = FAMILIES.get(batch.layout.family)
    if family is None:
        return ()
    return {*family.axes, *family.also_takes} | (CLIP_KEYS if family.clips else set[str]())


class _Call:
    """The tokens of one call, from which other keys follow."""

    def __init__(
        self, batch: Batch, given: Mapping[str, Any], samples: Sequence[int] | None
    ) -> None:
        self.batch, self.given, self.samples = batch, given, samples

    def judged(self, key: str, value: Any) -> Made:
        if key not in DERIVED:
            return self._media(key, value)
        rule = _RULES.get(key)
        if rule is None:
            return Made.unchecked(MadeBy.NO_RULE)
        if self.ids is None:
            return Made.unchecked(MadeBy.NO_TOKENS)
        values = numbers_of(value)
        return Made.unchecked(MadeBy.NO_NUMBERS) if values is None else rule(self, values)

    @lazy
    def ids(self) -> np.ndarray | None:
        ids = numbers_of(self.given.get("input_ids"))
        return ids if ids is not None and ids.ndim == 2 and ids.size else None  # (sample, seq)

    @lazy
    def shown(self) -> np.ndarray:
        """Tokens that are no padding, `(sample, seq)`; all of them where no mask says."""
        assert self.ids is not None
        mask = numbers_of(self.given.get("attention_mask"))
        whole = numbers_of(self.batch.inputs.get("attention_mask"))
        if mask is None and self.samples is not None and whole is not None and whole.ndim == 2:
            mask = whole[list(self.samples)]
        fits = mask is not None and mask.shape == self.ids.shape
        return mask != 0 if mask is not None and fits else np.ones(self.ids.shape, dtype=bool)

    @lazy
    def _compared_tokens(self) -> np.ndarray:
        """`shown`, without padding around the text that no mask hides, `(sample, seq)`.

        Positions may leave that out or count it: the text has the same, up to a constant.
        """
        assert self.ids is not None
        front, behind, whole = self.batch.unmasked, self.batch.behind, self.batch.inputs
        masked = any(one.get("attention_mask") is not None for one in (self.given, whole))
        padded = any(front) or any(behind)
        if self.samples is None or masked or not (padded and self.batch.rules.causal):
            return self.shown
        own, wide = getattr(whole.get("input_ids"), "shape", (0, 0)), self.ids.shape[1]
        if self.ids.shape != (len(self.samples), own[1]):
            return self.shown
        samples, columns = list(self.samples), np.arange(wide)
        starts, sizes = np.array(front)[samples], np.array(behind)[samples]  # (sample,)
        return self.shown & (columns >= starts[:, None]) & (columns < wide - sizes[:, None])

    @lazy
    def types(self) -> np.ndarray | None:
        """0 for text, 1 for image, 2 for video, 3 for audio; None where a token is unknown."""
        assert self.ids is not None
        found, codes = np.zeros(self.ids.shape, dtype=np.int64), {"image": 1, **TYPES}
        tokens = self.batch.token_ids
        for unit, pixels in MEDIA_OF.items():
            token = tokens.get(unit)
            if token is not None:
                found[self.ids == token] = codes[unit]
            elif self.given.get(pixels) is not None:
                return None
        if not self.batch.rules.one_placeholder or self.given.get(MEDIA_OF["video"]) is None:
            return found
        if self.given.get(MEDIA_OF["image"]) is not None:
            return None  # which are frames is not known; models raise
        found[found == codes["image"]] = codes["video"]
        return found

    # One rule per key.

    def mask(self, values: np.ndarray) -> Made:
        assert self.ids is not None
        if self.batch.rules.checks_each_sample == "sometimes":
            return Made.unchecked(MadeBy.MASK_PLACES)
        if values.shape == self.ids.shape and (values == 1).all():
            return Made(True)
        return Made.unchecked(MadeBy.NO_MASK)

    def type_ids(self, values: np.ndarray) -> Made:
        """`mm_token_type_ids` and Ernie's; other keys mean something else in each model."""
        expected = self.types
        if expected is None:
            return Made.unchecked(MadeBy.NO_PLACEHOLDER)
        if values.shape != expected.shape:
            return Made.wrong(MadeBy.SHAPES, expected.shape, values.shape)
        real = self.shown
        if not (values != expected)[real].any():
            return Made(True)
        if not values.any():
            return Made.unchecked(MadeBy.MARKS_NONE)
        if (values != expected)[real & (expected != 0)].any():
            return Made.wrong(MadeBy.MARKS)
        return Made.unchecked(MadeBy.MARKS_TEXT)

    def plain_type_ids(self, values: np.ndarray) -> Made:
        if self.types is not None and not self.types.any() and not values.any():
            return (
                Made(True)
                if values.shape == self.types.shape
                else Made.unchecked(MadeBy.SHAPE, values.shape)
            )
        rules = self.batch.layout.rules
        if rules.seen and PROMPT_TYPES in rules.ignored and self.type_ids(values).right:
            return Made(True)  # the types of Gemma 3, for a model without such an argument
        return Made.unchecked(MadeBy.MEANING)

    def cache_position(self, values: np.ndarray) -> Made:
        assert self.ids is not None
        right = np.array_equal(values, np.arange(self.ids.shape[1]))
        alone = all(self.given.get(key) is None for key in CACHES)
        return Made(True) if right and alone else Made.unchecked(MadeBy.CACHE)

    def labels(self, values: np.ndarray, ahead: int = 0) -> Made:
        """Each the token's own id, or not learned; `shift_labels` are one ahead.

        A decoder shifts labels itself, so other ids are wrong there; labels of an encoder-decoder
        are another text, and trainers differ in what they shift.
        """
        assert self.ids is not None
        if values.shape != self.ids.shape:
            return Made.unchecked(MadeBy.SHAPE, values.shape)
        own = np.pad(self.ids[:, ahead:], ((0, 0), (0, ahead)), constant_values=IGNORED)
        if ((values == own) | (values == IGNORED)).all():
            return Made(True)
        two = has_two_texts(self.given, self.batch.rules)
        decoder = self.batch.layout.family in FAMILIES and not two
        return (Made.wrong if decoder and not ahead else Made.unchecked)(MadeBy.LABELS)

    def shift_labels(self, values: np.ndarray) -> Made:
        return self.labels(values, ahead=1)

    def places(self, values: np.ndarray) -> Made:
        """Positions of real tokens, up to a constant per row: rotary embeddings look no further."""
        planes = self.planes_of(values)
        if planes is not None and self._has_holes and self.has_family:
            return Made.unchecked(MadeBy.HOLES)
        if planes is not None and self.samples is None and self._may_be_packed(planes[0]):
            return Made.unchecked(MadeBy.OPEN_TOKENS)
        return self.compared(planes, values.shape)

    def deltas(self, values: np.ndarray) -> Made:
        assert self.ids is not None
        if not self.has_family or self.batch.rules.checks_each_sample == "never":
            return Made.unchecked(MadeBy.NO_MODEL if not self.has_family else MadeBy.NO_RULE)
        places, whole = self.mrope(), self.batch.inputs.get("input_ids")
        if places is None:
            return Made.unchecked(MadeBy.OPEN_MROPE)
        widths = [self.ids.shape[1], *getattr(whole, "shape", ())[1:]]
        return judged_deltas(values, places, self.shown, widths)

    def compared(self, planes: np.ndarray | None, shape: tuple[int, ...] = ()) -> Made:
        """The same for planes, `(plane, sample, seq)`; None where `shape` is that of none."""
        assert self.ids is not None
        if not self.has_family:
            return Made.unchecked(MadeBy.NO_MODEL)
        if planes is None:
            return Made.unchecked(MadeBy.SHAPE, shape)
        if self.batch.rules.checks_each_sample == "never" or not self._has_media:
            order = np.arange(self.ids.shape[1])
            off = unlike(planes, filled(order, planes.shape), self._compared_tokens)
            return Made(True) if off is None else Made.wrong(MadeBy.ORDER, *off)
        expected = self.mrope()
        if expected is None:
            return Made.unchecked(MadeBy.OPEN_MROPE)
        if len(planes) == 4:  # the text's own places come first
            order = filled(np.arange(self.ids.shape[1]), planes[:1].shape)
            if unlike(planes[:1], order, self._compared_tokens) is not None:
                return Made.unchecked(MadeBy.FIRST_PLANE)
            planes = planes[1:]
        planes = filled(planes, expected.shape)
        off = unlike(planes, expected, self._compared_tokens)
        if off is None:
            return Made(True)
        turned = unlike(planes[[0, 2, 1]], expected, self._compared_tokens) is None
        return Made.wrong(MadeBy.TURNED if turned else MadeBy.MROPE, *off)

    def planes_of(self, values: np.ndarray) -> np.ndarray | None:
        """`(plane, sample, seq)`: one plane, or the three or four of M-RoPE."""
        assert self.ids is not None
        planes = values[None] if values.ndim == 2 else values
        several = () if self.batch.rules.checks_each_sample == "never" else (3, 4)
        if values.ndim not in (2, 3) or planes.shape[0] not in (1, *several):
            return None
        rows, width = self.ids.shape
        if planes.shape[1] not in (1, rows) or planes.shape[2] != width:
            return None
        if values.ndim == 3 and planes.shape[0] == 1:
            return None
        return filled(planes, (planes.shape[0], rows, width))

    @property
    def has_family(self) -> bool:
        return self.batch.layout.family in FAMILIES or self.batch.layout.family == "text"

    @property
    def _has_holes(self) -> bool:
        """Whether some real tokens do not stand side by side."""
        begins = self.shown.copy()
        begins[:, 1:] &= ~self.shown[:, :-1]
        return bool((begins.sum(axis=1) > 1).any())

    def _may_be_packed(self, plane: np.ndarray) -> bool:
        """Whether samples may begin within a row, as far as positions and mask say."""
        return self.given.get("attention_mask") is None and not plane[:, 1:].all()

    @property
    def _has_media(self) -> bool:
        types = self.types
        return types is None or bool(types.any())

    def mrope(self) -> np.ndarray | None:
        """M-RoPE's positions of each sample, `(3, sample, seq)`; None where no rule is proven."""
        if self.ids is None or self.types is None or self.samples is None:
            return None
        return mrope(self.batch, self.types, self.shown, self.samples, self.given)

    def _media(self, key: str, value: Any) -> Made:
        """A key of media that models of the family take, though the batch has none."""
        if key in MEDIA_OF.values():
            return Made.wrong(MadeBy.NO_MEDIA)
        if self.given.get(MEDIA_OF[modality_of(key) or "image"]) is None:
            return Made(True)  # it describes nothing
        values = numbers_of(value) if key in self.batch.rules.optional_if_all_ones else None
        if values is not None and (values == 1).all():
            return Made(True)  # as the model assumes without it
        return Made.unchecked(MadeBy.NO_MEDIA_TO_COMPARE)


def _completion_is_typed(call: _Call) -> bool:
    """Whether tokens appended to the batch's own have type 1, as PaliGemma's `generate` does.

    False only where the batch's own tokens come first (transformers 5.23,
    `modeling_paligemma._update_model_kwargs_for_generation`).
    """
    ours, mask = (numbers_of(call.batch.inputs.get(key)) for key in ("input_ids", "attention_mask"))
    types, ids = numbers_of(call.given[PROMPT_TYPES]), call.ids
    masked = numbers_of(call.given.get("attention_mask"))
    if ids is None or types is None or ours is None or call.samples is None:
        return True
    if masked is not None and masked.shape != ids.shape:
        return True  # what is padding is not known
    if types.shape != ids.shape or len(call.samples) != len(ids):
        return True
    for row, sample in enumerate(call.samples):
        own = ours[sample] if mask is None else ours[sample][mask[sample] != 0]
        shown = call.shown[row]
        real, marks = ids[row][shown], types[row][shown]
        begins = len(real) > len(own) and np.array_equal(real[: len(own)], own)
        if begins and not marks[len(own) :].all():
            return False
    return True


def unlike(
    planes: np.ndarray, expected: np.ndarray, real: np.ndarray
) -> tuple[tuple[int, int], tuple[int, ...], tuple[int, ...]] | None:
    """The first real token with other positions than expected, but for a constant per row.

    Its row and column, its positions, and those that follow from the first token; None if there is
    none.
    """
    exact = "f" not in (planes.dtype.kind, expected.dtype.kind)
    whole = planes.astype(np.int64 if exact else np.float64, copy=False)
    off = whole - expected  # (plane, sample, seq)
    if not off.size:
        return None
    begins = off[0, np.arange(len(real)), real.argmax(axis=1)]  # (sample,)
    with np.errstate(invalid="ignore"):  # infinite ones
        off = off != begins[:, None] if exact else ~(abs(off - begins[:, None]) <= ROUNDED)
    wrong, far = off.any(axis=0) & real, ~(abs(begins) < FAR)
    if far.any():
        wrong |= real & far[:, None]
        begins = np.where(far, 0, begins)
    if not wrong.any():
        return None
    row, at = (int(one) for one in np.argwhere(wrong)[0])
    due = expected[:, row, at] + begins[row]
    return (row, at), _plain(planes[:, row, at]), _plain(due)


def _plain(values: np.ndarray) -> tuple[Any, ...]:
    """Numbers of Python, without a fraction where it is zero."""
    return tuple(int(one) if one == one // 1 else one for one in values.tolist())


_RULES: Mapping[str, Callable[[_Call, np.ndarray], Made]] = {
    "attention_mask": _Call.mask,
    "mm_token_type_ids": _Call.type_ids,
    "moe_mm_token_type_ids": _Call.type_ids,
    "token_type_ids": _Call.plain_type_ids,
    "cache_position": _Call.cache_position,
    "labels": _Call.labels,
    "shift_labels": _Call.shift_labels,
    "position_ids": _Call.places,
    DELTAS: _Call.deltas,
}

READ = frozenset(_RULES)
"""Keys with values that are read."""
