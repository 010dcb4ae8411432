"""What a batch lacks: keys, masks and media that its text, counts, processor or model ask for."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from vlmdebug.core.keys import CLIP_KEYS, IMAGE_KEYS, KNOWN, PIXELS, TYPE_IDS, modality_of
from vlmdebug.core.layout import Layout
from vlmdebug.core.tensors import by_sample, to_numpy
from vlmdebug.families.by_shape import NAME as UNKNOWN_LAYOUT
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.families.release import takes
from vlmdebug.families.video_audio import clip_of

NEEDED = (*TYPE_IDS, "cross_attention_mask")
"""Keys other than media that change how a model processes the media."""
TILES = "pixel_values_local"
"""The tiles of images that have an overview in another key."""


def strays(
    facts: BatchFacts, layout: Layout, present: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """Placeholder tokens of clips that the batch does not have, by sample.

    None of clips that `layout=` counts, or that a key which is not read may hold.
    """
    axes, found = layout.axes, dict[str, tuple[int, ...]]()
    units = {axis.unit for axis in axes.values()}.union(present)
    unread = [key for key in facts.inputs if key not in axes or axes[key].unit == "ambiguous"]
    for unit, token in facts.metadata.token_ids.items():
        if any(layout.family == UNKNOWN_LAYOUT or unit in key for key in unread):
            continue
        if unit not in units and token != facts.metadata.image_token_id:
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


def lacks(facts: BatchFacts, layout: Layout) -> tuple[str, ...]:
    """Needed keys that the processor names, or the model where no processor is at hand."""
    metadata, rules = facts.metadata, layout.rules
    named = metadata.taken_keys if metadata.returned_keys is None else metadata.returned_keys
    if not layout.media and named is not None and facts.packed is None:
        pixels = named & set(PIXELS) & set(IMAGE_KEYS)
        alone = layout.rules.no_placeholders  # nothing in the text says that there is an image
        needed = rules.raises_without - rules.sometimes_returned
        return tuple(sorted(pixels if alone else pixels & needed))
    if not layout.media or named is None:
        return ()
    described = rules.sometimes_returned & rules.raises_without
    if described and all(clip_of(key) for key in layout.media):
        described = frozenset[str]()  # no pixels to describe
    keys = [key for key in (*NEEDED, *described) if key in named or key in rules.raises_without]
    keys = [key for key in keys if not facts.has(key)]
    keys = [key for key in keys if not (key == TILES and _has_no_tiles(facts))]
    clips = not CLIP_KEYS.isdisjoint(layout.media)
    if not keys or not (clips or any(facts.placeholders or (1,))):
        return ()  # as nearly always
    placed = getattr(facts.inputs.get("position_ids"), "ndim", 0) == 3
    return tuple(
        key
        for key in keys
        if (key in named or _is_taken(metadata, key))
        and (metadata.taken_keys is None or key in metadata.taken_keys)
        and modality_of(key) in (None, *map(modality_of, layout.media))
        and rules.uses(key, positions=placed)
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


def lost_masks(facts: BatchFacts, layout: Layout) -> tuple[str, ...]:
    """Masks of pixels that the processor or the model names and the batch lacks.

    Without one, a model takes every pixel for one of an image, padding too.
    """
    metadata = facts.metadata
    named = metadata.taken_keys if metadata.returned_keys is None else metadata.returned_keys
    if named is None or not layout.media:
        return ()
    masks = sorted(layout.rules.optional_if_all_ones & named)
    return tuple(key for key in masks if not facts.has(key))
