"""What a batch lacks: keys, masks and media that its text, counts, processor or model ask for."""

from __future__ import annotations

import numpy as np

from vlmdebug.core.keys import CLIP_KEYS, KNOWN, modality_of
from vlmdebug.core.layout import Layout
from vlmdebug.core.tensors import by_sample, to_numpy
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.families.form import Form
from vlmdebug.families.release import takes
from vlmdebug.families.video_audio import clip_of

TILES = "pixel_values_local"
"""The tiles of images that have an overview in another key."""


def strays(facts: BatchFacts, form: Form) -> dict[str, tuple[int, ...]]:
    """Placeholder tokens of clips that the batch does not have, by sample."""
    found = dict[str, tuple[int, ...]]()
    for unit, token in form.absent_clips:
        places = facts.ids == token
        if np.count_nonzero(places):  # nearly never
            found[unit] = by_sample(places)
    return found


def promised(facts: BatchFacts, layout: Layout) -> dict[str, int]:
    """Sums of counts that were given of media without any key in the batch."""
    given = {"image": facts.num_images, "tile": facts.num_tiles, **facts.clips}
    given = {unit: counts for unit, counts in given.items() if counts and any(counts)}
    if not given or any(key not in KNOWN for key in facts.inputs):
        return {}
    present = {clip_of(key) for key in layout.media}  # "" means images
    present |= {layout[key].unit for key in layout.media}
    return {
        unit: sum(counts)
        for unit, counts in given.items()
        if (unit if unit in ("video", "audio") else "") not in present
    }


def lacks(facts: BatchFacts, form: Form) -> tuple[str, ...]:
    """Needed keys that the processor names, or the model where no processor is at hand."""
    layout, metadata = form.layout, facts.metadata
    if not layout.media and facts.packed is None:
        return form.lost_pixels
    keys = [key for key in form.lacking if not (key == TILES and _has_no_tiles(facts))]
    clips = not CLIP_KEYS.isdisjoint(layout.media)
    if not keys or not (clips or any(facts.placeholders or (1,))):
        return ()  # as nearly always
    placed = getattr(facts.inputs.get("position_ids"), "ndim", 0) == 3
    return tuple(
        key
        for key in keys
        if (key in (form.named or ()) or _is_taken(metadata, key))
        and (metadata.taken_keys is None or key in metadata.taken_keys)
        and modality_of(key) in (None, *map(modality_of, layout.media))
        and layout.rules.uses(key, positions=placed)
    )


def _has_no_tiles(facts: BatchFacts) -> bool:
    """Whether no image of the batch is large enough for tiles, which are then left out."""
    counted = facts.inputs.get("num_local_patches")
    return counted is not None and not to_numpy(counted).any()


def _is_taken(metadata: ProcessorMetadata, key: str) -> bool:
    """Whether the forward names a key: of the model at hand, or of the installed release."""
    if metadata.taken_keys is not None:
        return key in metadata.taken_keys
    return bool(metadata.model_type and takes(metadata.model_type, key))
