"""What a whole batch lacks: media that its text or its counts promise, keys that its model needs.

A collator drops them in one place for all samples, so that no comparison of rows can show it.
"""

from __future__ import annotations

from vlmdebug.checking.batch_findings import (
    Lacking,
    NothingShown,
    OtherRows,
    Promised,
    Stray,
)
from vlmdebug.checking.findings import Because, Cause, Difference
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import MARKS_CLIPS
from vlmdebug.core.tensors import to_numpy
from vlmdebug.outcomes.reasons import DEPENDS, LOUD, Raises, Runs, outcome
from vlmdebug.outcomes.whole_batch import runs_unchecked, runs_with_stray, runs_without


def lacking(batch: Batch) -> list[Difference]:
    """What is stray, promised, dropped, or in the row of another sample."""
    lacks = batch.strays or batch.promised or batch.lacks  # nearly never
    found = [*_strays(batch), *_promised(batch), *_dropped(batch)] if lacks else []
    return [*found, *_in_other_rows(batch)]


def nothing_shown(batch: Batch) -> list[NothingShown]:
    """Samples of padding alone in a call with media, if the model lays shown tokens out by M-RoPE.

    With a grid, `modeling_qwen2_5_vl.get_rope_index` joins the positions of what it shows, and
    raises where that is nothing (transformers 5.24).
    """
    if MARKS_CLIPS in batch.lacks:
        return []  # said already: without, the model raises or lays out nothing
    mask, media = batch.inputs.get("attention_mask"), batch.modalities.values()
    if batch.rules.mrope is None or "position_ids" in batch.inputs or batch.packed is not None:
        return []
    if getattr(mask, "ndim", 0) != 2 or not any(one.keys for one in media):
        return []
    shown = [bool(row.any()) for row in to_numpy(mask)]  # (sample,)
    then = LOUD if batch.rules.predict else DEPENDS
    return [
        NothingShown(samples=(sample,), outcome=then)
        for sample, one in enumerate(() if all(shown) else shown)
        if not one
    ]


def _strays(batch: Batch) -> list[Stray]:
    """Placeholder tokens of videos or audio clips in a batch without any."""
    return [
        Stray(
            samples=(sample,),
            outcome=outcome(
                runs_with_stray(batch, unit, sample), Runs.TOKEN_AS_TEXT, Raises.NO_GRID
            ),
            cause=Cause(Because.NO_MEDIA, unit),
            modality=unit,
            placeholders=tokens,
        )
        for unit, by_sample in batch.strays.items()
        for sample, tokens in enumerate(by_sample)
        if tokens
    ]


def _promised(batch: Batch) -> list[Promised]:
    """Counts above 0 of media that have no key in the batch."""
    return [
        Promised(cause=Cause(Because.NO_MEDIA, unit), modality=unit, total=total)
        for unit, total in batch.promised.items()
    ]


def _dropped(batch: Batch) -> list[Lacking]:
    """Keys that the processor or the model names, and the batch has not."""
    return [
        Lacking(
            key=key,
            outcome=outcome(runs_without(batch, key), Runs.OTHER_ANSWER, Raises.NEEDS_KEY),
            cause=Cause(Because.COLLATOR, key),
        )
        for key in batch.lacks
    ]


def _in_other_rows(batch: Batch) -> list[OtherRows]:
    """Mllama and Idefics: other images in the row of a sample than its text names.

    Aspect ratios have ids from 1, padding has 0 (transformers 5.23,
    `image_processing_mllama.convert_aspect_ratios_to_ids`); Idefics' padding is zero. The models
    compare nothing.
    """
    ratios, pixels = batch.inputs.get("aspect_ratio_ids"), batch.inputs.get("pixel_values")
    masked = "image_attention_mask" in batch.layout
    key, rows = ("pixel_values", pixels) if masked else ("aspect_ratio_ids", ratios)
    if rows is None or batch.image.placeholders is None or batch.rules.checks_totals:
        return []
    if len(rows) != len(batch) or 0 in rows.shape:
        return []  # said already: rows of another batch
    then = outcome(runs_unchecked(batch), Runs.OTHER_IMAGES)
    images = (rows != 0).reshape(*rows.shape[:2], -1).any(-1)  # (sample, max_images)
    shown = images.sum(-1).tolist()
    return [
        OtherRows(
            key=key,
            samples=(sample,),
            outcome=then,
            placeholders=named,
            images=given,
        )
        for sample, (named, given) in enumerate(zip(batch.image.placeholders, shown, strict=True))
        if named != given
    ]
