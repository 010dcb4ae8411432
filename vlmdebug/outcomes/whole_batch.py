"""Predicts what a model does with a batch that is wrong in itself: True run, False raise, None
unknown.

The answers follow from the `ModelRules` of the layout, as in `vlmdebug.outcomes.forward`.
"""

from __future__ import annotations

from vlmdebug.core.alignment import fits
from vlmdebug.core.batch import Batch
from vlmdebug.core.runs import Sides


def runs_with_runs(batch: Batch, sides: Sides, differ: bool | None) -> bool | None:
    """Whether it runs with these placeholder tokens and features.

    `differ`: whether those of the sample in question differ; None if its images are not known.
    """
    rules = batch.rules
    if not rules.predict:
        return None
    if not rules.takes_totals(sum(sides.placeholders), sum(sides.features)):
        return False
    lengths = [length for own in sides.lengths for length in own]
    if differ is None or rules.checks_each_sample == "sometimes":
        return None
    if fits(lengths, sides.pieces) or not lays_out_media(batch):
        return True  # models assign the images to the runs in order, whatever their sample
    written = batch.image.placeholders
    if any(marks != written for marks in batch.marked.values()):
        return None  # newer releases lay images out by these marks, older ones by the tokens
    return False if differ else None


def lays_out_media(batch: Batch) -> bool:
    """Whether the model looks at the media of each sample of this batch."""
    return batch.rules.lays_out_media(positions="position_ids" in batch.inputs)


def runs_with_stray(batch: Batch, unit: str, sample: int) -> bool | None:
    """Whether it runs with a placeholder token of videos or audio clips that the batch lacks.

    Tried with each tiny model, transformers 5.23. Models that place media by `mm_token_type_ids`
    raise if these mark a video and the call has no grid for it ('NoneType' object is not an
    iterator) but has some other grid. Qwen's omni models, which have no such types, raise if the
    token begins a video (`modeling_qwen2_5_omni.get_rope_index`, 5.24). The others embed the token
    as text.
    """
    rules, types = batch.rules, batch.inputs.get("mm_token_type_ids")
    if not rules.predict:
        return None
    if unit == "video" and types is None and batch.image.keys:
        return None if lays_out_media(batch) else True
    places = bool(rules.only_used_for_position_ids and batch.image.keys and lays_out_media(batch))
    if unit != "video" or types is None or not places:
        return True
    return not bool((batch.tokens("mm_token_type_ids", sample) == 2).any())


def runs_side_by_side(batch: Batch) -> bool | None:
    """Whether it runs if one run of placeholder tokens is several images, given known rules.

    M-RoPE takes the next row of image_grid_thw for each run (`modeling_qwen2_vl.get_rope_index`,
    transformers 5.23).
    """
    rules = batch.rules
    return False if rules.predict and rules.checks_each_sample == "always" else None


def runs_unchecked(batch: Batch) -> bool | None:
    """Whether it runs because it compares nothing: without pixels, or without totals to compare."""
    return True if batch.rules.predict else None


def runs_with_sizes(batch: Batch) -> bool | None:
    """Whether it runs if sizes within the padded pixels are other ones: totals are all it compares.

    `modeling_mistral3.get_image_features` splits the features by `image_sizes` (5.23).
    """
    features, placeholders = batch.image.features, batch.image.placeholders
    if not batch.rules.predict or features is None or placeholders is None:
        return None
    return sum(features) == sum(placeholders)


def runs_without(batch: Batch, key: str) -> bool | None:
    """Whether it runs if the whole batch lacks `key` and has pixels."""
    rules = batch.rules
    if rules.mrope is not None and key == rules.mrope.timed_by:
        return False if rules.predict else None
    return key not in rules.raises_without if rules.predict else None
