"""Mistral 3 and similar models: pixel values have one row per image, padded to the largest.

`pixel_values` is `(image, 3, max_height, max_width)`; `image_sizes` is `(image, 2)`, the height and
width of what is not padding. Every `patch_size * spatial_merge_size` square of it is one
placeholder token; Pixtral's processor separates the rows by break and end tokens, Apertus 1.5's by
another token, and LightOnOCR's does not; Emu3 adds one to each row, a line end. Read in
`processing_pixtral.replace_image_token`, `processing_emu3.replace_image_token` and
`modeling_mistral3.get_image_features` of transformers 5.23. A chunk without images must be given no
`pixel_values`: zero rows raise "expected a non-empty list of Tensors". Surplus rows of pixels after
those of `image_sizes` are ignored without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.layout import Axis
from vlmdebug.core.tensors import to_numpy
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import read_images
from vlmdebug.families.rules import DESCRIBES, INDEXED, SURPLUS, USUAL, with_mask
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

PIXTRAL_12B = "llava with a pixtral tower"
SIDE = 2  # pixels of a feature's square in synthesized batches


class Mistral3(Family):
    """One row per image, padded in height and width."""

    name = "mistral3"
    models = ("mistral3", "lighton_ocr", "mistral_large4", "emu3", "apertus1p5")
    processors = ("pixtral", PIXTRAL_12B)
    axes = {"pixel_values": Axis("image"), "image_sizes": Axis("image")}
    media = dict.fromkeys(axes, "image")
    shapes = {"pixel_values": "image, channels, height, width", "image_sizes": "image, 2"}
    feature_key = "image_sizes"
    feature_rules = ('(inputs["image_sizes"] / {n}).prod(-1).tolist()',)  # no fraction of a square
    rules = replace(
        USUAL,
        raises_without=frozenset({"image_sizes"}),
        keys={"pixel_values": SURPLUS, "image_sizes": DESCRIBES},
    )
    variants = {
        "mistral_large4": with_mask(rules, INDEXED),
        # Surplus sizes are ignored like surplus pixels (`modeling_apertus1p5.get_image_tokens`,
        # 5.24).
        "apertus1p5": replace(
            rules,
            keys={
                "pixel_values": SURPLUS,
                "image_sizes": replace(DESCRIBES, runs_with=SURPLUS.runs_with),
            },
        ),
        PIXTRAL_12B: replace(rules, seen=()),  # its calls were never compared
    }

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        pixels = inputs.get("pixel_values")
        return inputs.get("image_sizes") is not None and getattr(pixels, "ndim", 0) == 4

    def read(self, facts: BatchFacts) -> CountResult:
        side = facts.metadata.pixels_per_feature
        line_end = facts.metadata.model_type == "emu3"
        features = rows = None
        if side is not None:
            sizes = to_numpy(facts.inputs["image_sizes"]).tolist()  # (image, 2)
            rows = tuple((width // side + line_end,) * (height // side) for height, width in sizes)
            features = tuple(map(sum, rows))
        return read_images(facts, "image_sizes", features, rows)

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        tokens = [[image] * size for size in spec.sizes]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        if spec.sizes:
            sizes = [(SIDE, SIDE * size) for size in spec.sizes]
            inputs["pixel_values"] = numbered(len(spec.sizes), 3, SIDE, SIDE * max(spec.sizes))
            for row, (_, width) in zip(inputs["pixel_values"], sizes, strict=True):
                row[..., width:] = 0
            inputs["image_sizes"] = np.array(sizes, dtype=np.int64)
        metadata = ProcessorMetadata(
            model_type="mistral3", image_token_id=image, pixels_per_feature=SIDE
        )
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)
