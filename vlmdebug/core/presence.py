"""Which rows of a key a call should get, and whether the model needs the key there.

`expected_rows` answers from the part of the batch alone. If a key is missing, `can_do_without` also
reads the values of the batch and the other arguments of the call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import EXTRAS, PROMPT_TYPES, TRAINERS_OWN, TWO_TEXTS, TYPE_IDS
from vlmdebug.core.layout import SAMPLE_WITH_IMAGES
from vlmdebug.core.observed import ObservedCall
from vlmdebug.core.part import Part
from vlmdebug.core.rows import Rows, rows_of
from vlmdebug.core.rules import ModelRules
from vlmdebug.errors import AmbiguousError

Presence = Literal["required", "absent", "either"]
M_ROPE = 3
"""Dimensions of M-RoPE's `position_ids`, `(3 or 4, sample, seq)`."""


class ExpectedRows(NamedTuple):
    """The rows one chunk should get of one key, and whether the key must be there at all.

    `without_empty`: rows that are also right, without the padding of samples without media.
    """

    rows: Rows
    presence: Presence
    without_empty: Rows | None = None


def expected_rows(batch: Batch, key: str, part: Part) -> ExpectedRows:
    """The rows of `key` that a call should get for this part of the batch, in its order.

    Raises:
        AmbiguousError: The rows of the key cannot be assigned to samples.
    """
    if key in batch.unsettled:
        raise AmbiguousError(batch.unsettled[key])
    layout = batch.layout
    counted = layout.axes[key].unit
    if counted == "token":
        rows = part.tokens(int(batch.inputs["input_ids"].shape[1]))
    else:
        rows = rows_of(batch.counts[counted].offsets, part.samples)
    unit = layout.given_with(key)
    if unit is not None:
        return _of_media(batch, key, part.samples, rows, unit)
    return ExpectedRows(rows, "either" if _is_optional(batch, key, part) else "required")


class Expected(dict[str, ExpectedRows]):
    """The expected rows of each key for one part of a batch; raises as `expected_rows` does."""

    def __init__(self, batch: Batch, part: Part) -> None:
        super().__init__()
        self._batch, self._part = batch, part

    def __missing__(self, key: str) -> ExpectedRows:
        found = self[key] = expected_rows(self._batch, key, self._part)
        return found


def _of_media(batch: Batch, key: str, samples: Rows, rows: Rows, unit: str) -> ExpectedRows:
    """As `expected_rows`, for a key that a chunk gets if its samples own some `unit`."""
    rules, axis, counts = batch.rules.of(key), batch.layout[key], batch.counts[unit]
    without_empty = None
    if rules.may_skip_empty_rows and axis.unit == "sample":
        without_empty = Rows.of([sample for sample in samples if counts[sample]])
    owned = rows if unit == axis.unit else rows_of(counts.offsets, samples)
    presence: Presence = "required"
    if not owned.ranges:
        omit = rules.when_no_media == "omit" or _are_next_to_images(batch, key, samples)
        presence = "absent" if omit else "either"
        rows = rows if rules.when_no_media == "either" else Rows()
    elif axis.unit == SAMPLE_WITH_IMAGES and all(batch.counts["image"][s] <= 1 for s in samples):
        presence = "either"  # without it, every image counts as the only one of its sample
    return ExpectedRows(rows, presence, without_empty)


def _are_next_to_images(batch: Batch, key: str, samples: Rows) -> bool:
    """Whether the samples have images, though no rows of this key, as of tiles: zero rows raise."""
    if batch.is_of_clips(key) or "image" not in batch.counts:
        return False
    return any(batch.counts["image"][sample] for sample in samples)


def _is_optional(batch: Batch, key: str, part: Part) -> bool:
    """Whether the model does not need such a key for these samples, whatever its values."""
    rules = batch.rules
    if key == "attention_mask" and rules.causal and batch.padded is not None:
        return not _padded(batch, part)
    if not rules.uses(key) or key in TRAINERS_OWN:
        return True  # no model reads it
    if isinstance(batch.inputs.get(key), list):
        return True
    return key == "labels"  # the logits are the same; a missing loss is noticed


def can_do_without(
    batch: Batch, key: str, part: Part, expected: ExpectedRows, chunk: ObservedCall
) -> bool:
    """Whether the model's output is the same for a chunk that lacks `key`."""
    rules = batch.rules
    if key == "attention_mask" and chunk.needs_mask is not None:
        return not chunk.needs_mask
    if expected.presence != "required" or _is_nobodys(batch, key):
        return True
    if key == "attention_mask" and rules.checks_each_sample == "sometimes":
        return not _own_media(batch, part) and not _padded(batch, part)
    if key == "attention_mask":
        return batch.is_full(key, expected.rows)
    zeros_by_default = _marks_media(batch, key) or key in rules.optional_if_all_zeros
    if zeros_by_default and batch.is_zero(key, expected.rows):
        return True
    positions = chunk.keys.get("position_ids")
    if not rules.uses(key, positions=positions is not None and positions.dims == M_ROPE):
        return True
    return key in rules.optional_if_all_ones and batch.is_full(key, expected.rows)


def _own_media(batch: Batch, part: Part) -> bool:
    """Whether the samples have or may have media, which the Omni thinkers place by the mask."""
    units = {*batch.layout.media.values()}
    if not units <= batch.counts.keys():
        return True
    return any(batch.counts[unit][sample] for unit in units for sample in part.samples)


def _padded(batch: Batch, part: Part) -> bool:
    """Whether a mask hides, or may hide, tokens to which later tokens would attend."""
    if not batch.padded:
        return batch.padded is None
    return not batch.padded.isdisjoint(part.samples)


def _marks_media(batch: Batch, key: str) -> bool:
    """Whether a key of token types is zero except at media tokens."""
    images = batch.rules.token_types_mark == "images"
    return key in TYPE_IDS and (images or key != PROMPT_TYPES)


def _is_nobodys(batch: Batch, key: str) -> bool:
    """Whether no model takes the key: the user gave its unit, perhaps for a log."""
    layout = batch.layout
    counted = layout.feature_key is not None and layout[key].unit == "sample"
    return counted and key not in batch.known | EXTRAS


def has_two_texts(inputs: Mapping[str, Any], rules: ModelRules) -> bool:
    """Whether labels are another text than `input_ids`: the model is an encoder-decoder.

    Some make `decoder_input_ids` of labels where they are given none, so the rules count too
    (`modeling_t5gemma2.forward`, transformers 5.23).
    """
    return bool(TWO_TEXTS & {*inputs, *rules.tokens})
