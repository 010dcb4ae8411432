"""LLaVA-NeXT: pixel values have one row per image, its tiles padded on dim 1.

`pixel_values` is `(image, max_tiles, 3, height, width)`; `image_sizes` is `(image, 2)`, the
original height and width, from which processor and model both derive tiles and features
("anyres"). The processor's own `_get_num_multimodal_tokens(image_sizes=…)` gives the placeholder
tokens of an image; without a processor they are computed from the config.

A chunk without images may be given zero rows or no key: both leave the logits unchanged. The
model reads as many rows of pixels as there are sizes: surplus rows do not raise, unless there is no
size at all ("expected a non-empty list of Tensors"; `modeling_llava_next.get_image_features`,
transformers 5.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.layout import Axis
from vlmdebug.core.rules import KeyRules
from vlmdebug.core.tensors import to_numpy
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import read_images
from vlmdebug.families.rules import DESCRIBES, SURPLUS, USUAL
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text


class LlavaNext(Family):
    """One row per image, tiles padded on dim 1."""

    name = "llava_next"
    models = ("llava_next", "llava_next_video", "granite4_vision")
    axes = {"pixel_values": Axis("image", padded="tile"), "image_sizes": Axis("image")}
    media = dict.fromkeys(axes, "image")
    shapes = {
        "pixel_values": "image, max_tiles, channels, height, width",
        "image_sizes": "image, 2",
    }
    feature_key = "image_sizes"
    rules = replace(
        USUAL,
        raises_without=frozenset({"image_sizes"}),
        keys={
            "pixel_values": KeyRules("either", frozenset({"none", "surplus"})),
            "image_sizes": DESCRIBES,
        },
    )
    variants = dict.fromkeys(
        ["llava_next_video", "granite4_vision"],
        replace(rules, keys={"pixel_values": SURPLUS, "image_sizes": DESCRIBES}),
    )
    videos = "video"

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        pixels = inputs.get("pixel_values")
        other = inputs.get("batch_num_images")  # of LLaVA-OneVision
        return (
            inputs.get("image_sizes") is not None
            and other is None
            and getattr(pixels, "ndim", 0) == 5
        )

    def read(self, facts: BatchFacts) -> CountResult:
        features = None
        if facts.metadata.tokens_per_image is not None:
            sizes = to_numpy(facts.inputs["image_sizes"]).tolist()  # (image, 2)
            features = tuple(
                facts.metadata.tokens_per_image([(height, width) for height, width in sizes])
            )
        return read_images(facts, "image_sizes", features)

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        tokens = [[image] * (2 + size) for size in spec.sizes]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        if spec.sizes:
            sizes = [(10 * size, 10 + row) for row, size in enumerate(spec.sizes)]
            inputs["pixel_values"] = numbered(len(spec.sizes), max(spec.sizes), 3, 2, 2)
            inputs["image_sizes"] = np.array(sizes, dtype=np.int64)
        metadata = ProcessorMetadata(
            model_type="llava_next",
            image_token_id=image,
            tokens_per_image=lambda sizes: [2 + height // 10 for height, _ in sizes],
        )
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)
