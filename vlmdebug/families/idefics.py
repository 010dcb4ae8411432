"""Idefics: one row per sample, padded over images, and a mask that every call needs.

`pixel_values` is `(sample, max_images, 3, height, width)`, zero for padding, and
`image_attention_mask` `(sample, seq, max_images)`. Placeholder tokens are not expanded: one per
image. Features enter by cross-attention to the images that the mask names; the model raises without
pixels, also for a text-only chunk, which keeps its padded row
(`modeling_idefics.IdeficsModel`, transformers 5.23). It compares no counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.layout import Axis
from vlmdebug.core.rules import KeyRules
from vlmdebug.core.tiling import images_seen
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.families.mllama import Mllama
from vlmdebug.families.rules import ONE, UNEQUAL, USUAL, with_mask
from vlmdebug.families.synthesize import BatchSpec, numbered, one_token_each, owned_images


class Idefics(Mllama):
    """One row per sample in every key; the padded row belongs to a text-only sample too."""

    name = "idefics"
    models = ("idefics",)
    axes = {
        "pixel_values": Axis("sample", padded="image"),
        "image_attention_mask": Axis("sample", padded="image", columns=True),
    }
    media = dict.fromkeys(axes, "image")
    shapes = {
        "pixel_values": "sample, max_images, channels, height, width",
        "image_attention_mask": "sample, seq, max_images",
    }
    rules = with_mask(
        replace(
            USUAL,
            checks_totals=False,
            raises_without=frozenset(axes),
            keys={
                "pixel_values": KeyRules("keep"),
                "image_attention_mask": replace(ONE, when_no_media="keep"),
            },
        ),
        UNEQUAL,
    )

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get("image_attention_mask") is not None

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        inputs = one_token_each(spec, image)
        if spec.sizes:
            owned = owned_images(spec)
            samples, images = owned.shape
            pixels = numbered(samples, images, 3, 2, 2)
            inputs["pixel_values"] = pixels * owned[:, :, None, None, None].astype(np.float32)
            rows = inputs["input_ids"] == image
            seen = [images_seen(row, images, groups=False) for row in rows]
            inputs["image_attention_mask"] = np.stack(seen).astype(np.int64)
        metadata = ProcessorMetadata(model_type="idefics", image_token_id=image)
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)
