"""Mllama (Llama 3.2 Vision): one row per sample, padded over images, also without images.

`pixel_values` is `(sample, max_images, max_tiles, 3, height, width)`, `aspect_ratio_ids`
`(sample, max_images)`, `aspect_ratio_mask` `(sample, max_images, max_tiles)` and
`cross_attention_mask` `(sample, seq, max_images, max_tiles)`. Placeholder tokens are not expanded:
one per image. Features enter by cross-attention, and tokens before the first image, as well as
text-only rows, attend to the padded image slots: a text-only sample must keep its padded row, or
its logits change (`modeling_mllama._prepare_cross_attention_mask`,
transformers 5.23). The model compares no counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.layout import Axis
from vlmdebug.core.rows import Counts
from vlmdebug.core.rules import KeyRules
from vlmdebug.core.tiling import images_seen
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.rules import ONE, USUAL
from vlmdebug.families.synthesize import BatchSpec, numbered, one_token_each, owned_images

KEYS = ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask")


class Mllama(Family):
    """One row per sample in every key; the padded row belongs to a text-only sample too."""

    name = "mllama"
    models = ("mllama",)
    axes = {
        **{key: Axis("sample", padded="image") for key in KEYS},
        "cross_attention_mask": Axis("sample", padded="image", columns=True),
    }
    media = dict.fromkeys(axes, "image")
    shapes = {
        "pixel_values": "sample, max_images, max_tiles, channels, height, width",
        "aspect_ratio_ids": "sample, max_images",
        "aspect_ratio_mask": "sample, max_images, max_tiles",
        "cross_attention_mask": "sample, seq, max_images, max_tiles",
    }
    feature_key = "pixel_values"
    rules = replace(
        USUAL,
        checks_totals=False,
        raises_without=frozenset({"aspect_ratio_ids", "aspect_ratio_mask"}),
        sometimes_returned=frozenset({"cross_attention_mask"}),
        keys={
            **dict.fromkeys(KEYS, KeyRules("keep")),
            "cross_attention_mask": replace(ONE, when_no_media="keep"),
        },
    )
    sizes = (1,)

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get("aspect_ratio_ids") is not None

    def read(self, facts: BatchFacts) -> CountResult:
        if facts.num_images is not None:
            return CountResult({"image": Counts(facts.num_images, "num_images")})
        if facts.placeholders is not None:
            return CountResult({"image": Counts(facts.placeholders, facts.placeholder_source)})
        return CountResult({})

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        inputs = one_token_each(spec, image)
        if spec.sizes:
            owned = owned_images(spec)
            samples, images = owned.shape
            inputs["pixel_values"] = numbered(samples, images, 1, 3, 2, 2)
            inputs["aspect_ratio_ids"] = owned.astype(np.int64)
            inputs["aspect_ratio_mask"] = owned.astype(np.int64)[:, :, None]
            rows = inputs["input_ids"] == image
            seen = [images_seen(row, images, groups=True) for row in rows]
            inputs["cross_attention_mask"] = np.stack(seen).astype(np.int64)[..., None]
        metadata = ProcessorMetadata(model_type="mllama", image_token_id=image)
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)
