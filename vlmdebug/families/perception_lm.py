"""PerceptionLM: one row per image, and as many tiles in each image of a batch.

`pixel_values` is `(image, tiles, 3, height, width)`: a thumbnail and the tiles, or the image alone
(`vision_input_type="vanilla"`). The processor cannot batch images with different numbers of tiles
(`image_processing_perception_lm.PerceptionLMImageProcessor`). Every tile becomes as many features
(`modeling_perception_lm.get_image_features`; transformers 5.24). Videos are the same, with frames
in place of tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdebug.core.layout import Axis
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import features_of_rows, read_images
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

TILES, TOKENS = 2, 3  # tiles per image, and placeholder tokens per tile, of synthesized batches


class PerceptionLM(Family):
    """One row per image, with tiles on dim 1, as many for each image."""

    name = "perception_lm"
    models = ("perception_lm",)
    axes = {"pixel_values": Axis("image")}
    media = {"pixel_values": "image"}
    shapes = {"pixel_values": "image, tiles, channels, height, width"}
    feature_key = "pixel_values"
    feature_rules = ('[{n}] * len(inputs["pixel_values"])',)
    overview_first = ("perception_lm",)
    sizes = (1,)
    videos = "video"

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return False  # other models return pixels with five dimensions, too

    def read(self, facts: BatchFacts) -> CountResult:
        tiles = int(facts.inputs["pixel_values"].shape[1])
        features, inferred = features_of_rows(facts, "pixel_values", tiles)
        return read_images(facts, "pixel_values", features, inferred=inferred)

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        tokens = [[image] * (TILES * TOKENS) for _ in spec.sizes]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        if spec.sizes:
            inputs["pixel_values"] = numbered(len(spec.sizes), TILES, 3, 2, 2)
        metadata = ProcessorMetadata(
            model_type=self.name, image_token_id=image, features_per_tile=TOKENS
        )
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)
