"""Keys that a slicer made: what follows from the chunk is recomputed and compared.

A key that the batch does not have has no rows to compare with. Where its values follow from the
chunk's tokens and media by a rule that real models confirm, they are compared with that rule; where
they do not, nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from math import isqrt
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import (
    CACHES,
    CLIP_KEYS,
    DERIVED,
    MEDIA_OF,
    PROMPT_TYPES,
    modality_of,
)
from vlmdebug.core.observed import Made, MadeBy
from vlmdebug.core.presence import has_two_texts
from vlmdebug.core.rows import rows_of
from vlmdebug.core.tensors import to_numpy
from vlmdebug.families import FAMILIES
from vlmdebug.families.video_audio import TYPES

IGNORED = -100  # the label of what is not learned


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
    if appended and not call.completion_is_typed:
        made[PROMPT_TYPES] = Made.wrong(MadeBy.COMPLETION)
    return made


def positions_of(
    batch: Batch, given: Mapping[str, Any], positions: np.ndarray, samples: Sequence[int]
) -> Made:
    """What is known of `position_ids` of such tokens, `(sample, seq)` or `(plane, sample, seq)`."""
    return _Call(batch, given, samples).places(positions)


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
        values = _array(value)
        return Made.unchecked(MadeBy.NO_NUMBERS) if values is None else rule(self, values)

    @cached_property
    def ids(self) -> np.ndarray | None:
        ids = _array(self.given.get("input_ids"))
        return ids if ids is not None and ids.ndim == 2 and ids.size else None  # (sample, seq)

    @cached_property
    def shown(self) -> np.ndarray:
        """Tokens that are no padding, `(sample, seq)`; all of them where no mask says."""
        assert self.ids is not None
        mask = _array(self.given.get("attention_mask"))
        whole = _array(self.batch.inputs.get("attention_mask"))
        if mask is None and self.samples is not None and whole is not None and whole.ndim == 2:
            mask = whole[list(self.samples)]
        fits = mask is not None and mask.shape == self.ids.shape
        return mask != 0 if mask is not None and fits else np.ones(self.ids.shape, dtype=bool)

    @cached_property
    def types(self) -> np.ndarray | None:
        """0 for text, 1 for image, 2 for video, 3 for audio; None where a token is unknown."""
        assert self.ids is not None
        found, codes = np.zeros(self.ids.shape, dtype=np.int64), {"image": 1, **TYPES}
        for unit, pixels in MEDIA_OF.items():
            token = self.batch.token_ids.get(unit)
            if token is not None:
                found[self.ids == token] = codes[unit]
            elif self.given.get(pixels) is not None:
                return None
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
        return Made.unchecked(MadeBy.MEANING)

    @property
    def completion_is_typed(self) -> bool:
        """Whether tokens appended to the batch's own have type 1, as PaliGemma's `generate` does.

        False only where the batch's own tokens come first (transformers 5.23,
        `modeling_paligemma._update_model_kwargs_for_generation`).
        """
        ours, mask = (_array(self.batch.inputs.get(key)) for key in ("input_ids", "attention_mask"))
        types, ids = _array(self.given[PROMPT_TYPES]), self.ids
        masked = _array(self.given.get("attention_mask"))
        if ids is None or types is None or ours is None or self.samples is None:
            return True
        if masked is not None and masked.shape != ids.shape:
            return True  # what is padding is not known
        if types.shape != ids.shape or len(self.samples) != len(ids):
            return True
        for row, sample in enumerate(self.samples):
            own = ours[sample] if mask is None else ours[sample][mask[sample] != 0]
            shown = self.shown[row]
            real, marks = ids[row][shown], types[row][shown]
            begins = len(real) > len(own) and np.array_equal(real[: len(own)], own)
            if begins and not marks[len(own) :].all():
                return False
        return True

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
        assert self.ids is not None
        if self.batch.layout.family not in (*FAMILIES, "text"):
            return Made.unchecked(MadeBy.NO_MODEL)
        planes = self._planes(values)
        if planes is None:
            return Made.unchecked(MadeBy.SHAPE, values.shape)
        if self._has_holes:
            return Made.unchecked(MadeBy.HOLES)
        if self.batch.rules.checks_each_sample == "never" or not self._has_media:
            order = np.arange(self.ids.shape[1])
            right = _alike(planes, np.broadcast_to(order, planes.shape), self.shown)
            return Made(True) if right else Made.wrong(MadeBy.ORDER)
        expected = self._mrope()
        if expected is None:
            return Made.unchecked(MadeBy.OPEN_MROPE)
        if len(planes) == 4:  # the text's own places come first
            order = np.broadcast_to(np.arange(self.ids.shape[1]), planes[:1].shape)
            if not _alike(planes[:1], order, self.shown):
                return Made.unchecked(MadeBy.FIRST_PLANE)
            planes = planes[1:]
        right = _alike(np.broadcast_to(planes, expected.shape), expected, self.shown)
        return Made(True) if right else Made.wrong(MadeBy.MROPE)

    def _planes(self, values: np.ndarray) -> np.ndarray | None:
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
        return np.broadcast_to(planes, (planes.shape[0], rows, width))

    @property
    def _has_holes(self) -> bool:
        """Whether some real tokens do not stand side by side."""
        edges = np.diff(self.shown.astype(np.int8), axis=1, prepend=0)
        return bool(((edges == 1).sum(axis=1) > 1).any())

    @property
    def _has_media(self) -> bool:
        types = self.types
        return types is None or bool(types.any())

    def _mrope(self) -> np.ndarray | None:
        """M-RoPE's places in time, height and width, `(3, sample, seq)`; 0 for padding.

        As `modeling_qwen2_vl.get_rope_index` and that of its variants (transformers 5.23), for
        images of one frame: a text token is one behind all before it; an image is laid out from
        there, row by row.
        """
        grids, types = self._grids, self.types
        if grids is None or types is None or (types > 1).any() or self.ids is None:
            return None
        places = np.zeros((3, *self.ids.shape), dtype=np.int64)
        left = iter(grids)
        for row, real in enumerate(self.shown):
            columns, begin, at = np.flatnonzero(real), 0, 0
            while at < len(columns):
                column = columns[at]
                if not types[row, column]:
                    places[:, row, column] = begin
                    at, begin = at + 1, begin + 1
                    continue
                height, width = next(left, (0, 0))
                own = columns[at : at + height * width]
                if not len(own) or len(own) < height * width or (types[row, own] != 1).any():
                    return None
                down, across = np.divmod(np.arange(len(own)), width)
                places[:, row, own] = begin + np.stack([np.zeros_like(down), down, across])
                at, begin = at + len(own), begin + max(height, width)
        return places if next(left, None) is None else None

    @property
    def _grids(self) -> list[tuple[int, int]] | None:
        """Features down and across of each image of the samples; None where no rule is proven."""
        batch, samples = self.batch, self.samples
        patches, features = batch.per_image.get("patch"), batch.per_image.get("feature")
        known = (
            batch.rules.only_used_for_position_ids
            and "image_grid_thw" in batch.inputs
            and "image" in batch.counts
        )
        if not known or samples is None or not patches or not features:
            return None
        merge = isqrt(patches[0] // features[0]) if features[0] else 0
        if not merge or any(p != f * merge**2 for p, f in zip(patches, features, strict=True)):
            return None
        grid = _array(batch.inputs["image_grid_thw"])  # (image, 3)
        if grid is not None:
            grid = grid[list(rows_of(batch.counts["image"].offsets, samples))]
        else:  # the batch's own tensors are not kept while a program is watched
            grid = _array(self.given.get("image_grid_thw"))
        own = [] if grid is None else grid.tolist()
        if any(frames != 1 for frames, _, _ in own):
            return None
        return [(height // merge, width // merge) for _, height, width in own]

    def _media(self, key: str, value: Any) -> Made:
        """A key of media that models of the family take, though the batch has none."""
        if key in MEDIA_OF.values():
            return Made.wrong(MadeBy.NO_MEDIA)
        if self.given.get(MEDIA_OF[modality_of(key) or "image"]) is None:
            return Made(True)  # it describes nothing
        values = _array(value) if key in self.batch.rules.optional_if_all_ones else None
        if values is not None and (values == 1).all():
            return Made(True)  # as the model assumes without it
        return Made.unchecked(MadeBy.NO_MEDIA_TO_COMPARE)


def _alike(planes: np.ndarray, expected: np.ndarray, real: np.ndarray) -> bool:
    """Whether real tokens have these places, but for one constant per row."""
    off = planes.astype(np.int64) - expected  # (plane, sample, seq)
    for row, shown in enumerate(real):
        own = off[:, row, shown]
        if own.size and (own != own[0, 0]).any():
            return False
    return True


def _array(value: Any) -> np.ndarray | None:
    """Its values without a copy; None if it is not an array of numbers."""
    if not hasattr(value, "shape") and not isinstance(value, (list, tuple)):
        return None
    try:
        found = to_numpy(value)
    except (TypeError, ValueError, RuntimeError):  # sparse, meta, ragged
        return None
    return found if found.dtype.kind in "biuf" else None


_RULES: Mapping[str, Callable[[_Call, np.ndarray], Made]] = {
    "attention_mask": _Call.mask,
    "mm_token_type_ids": _Call.type_ids,
    "moe_mm_token_type_ids": _Call.type_ids,
    "token_type_ids": _Call.plain_type_ids,
    "cache_position": _Call.cache_position,
    "labels": _Call.labels,
    "shift_labels": _Call.shift_labels,
    "position_ids": _Call.places,
}

READ = frozenset(_RULES)
"""Keys with values that are read."""
