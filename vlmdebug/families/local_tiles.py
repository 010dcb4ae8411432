"""DeepSeek-OCR 2 and Step 3.7: one row per image, and all tiles in a second tensor.

`pixel_values` is `(image, 3, height, width)`, an overview of each image. `pixel_values_local` is
`(patch, 3, height, width)`, the tiles of all images one after another, and
`num_local_patches` `(image,)` counts them; small images have none, and a batch without tiles has no
`pixel_values_local`. In DeepSeek-OCR 2 a view becomes 144 or 256 features by its size, and each
image gets one more (`modeling_deepseek_ocr2.get_image_features`, transformers 5.23). Step 3.7 adds
none, and takes the tiles that `num_local_patches` says, so that it ignores surplus ones
(`modeling_step3p7.get_image_features`, transformers 5.24).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.layout import Axis
from vlmdebug.core.rows import Counts
from vlmdebug.core.rules import KeyRules
from vlmdebug.core.tensors import to_numpy
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import read_images
from vlmdebug.families.rules import DESCRIBES, SURPLUS, USUAL
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

SEPARATOR = {"deepseek_ocr2": 1}
"""Features of each image in addition to those of its views, by model type."""


class LocalTiles(Family):
    """One row per image, and one row per tile in a tensor of their own."""

    name = "deepseek_ocr2"
    models = ("deepseek_ocr2", "step3p7")
    axes = {
        "pixel_values": Axis("image"),
        "num_local_patches": Axis("image"),
        "pixel_values_local": Axis("patch"),
    }
    media = {"pixel_values": "image", "num_local_patches": "image", "pixel_values_local": "patch"}
    shapes = {
        "pixel_values": "image, channels, height, width",
        "num_local_patches": "image",
        "pixel_values_local": "patch, channels, patch_height, patch_width",
    }
    feature_key = "num_local_patches"
    feature_rules = (
        '((inputs["pixel_values"].shape[-1] / {n}) ** 2 + inputs["num_local_patches"] * '
        '(inputs.get("pixel_values_local", inputs["pixel_values"]).shape[-1] / {n}) ** 2).tolist()',
    )
    rules = replace(
        USUAL,
        optional_if_all_zeros=frozenset({"num_local_patches"}),
        read_only_with={"num_local_patches": "pixel_values_local"},
        raises_without=frozenset({"num_local_patches", "pixel_values_local"}),
        sometimes_returned=frozenset({"pixel_values_local"}),
        uncast=frozenset({"pixel_values", "pixel_values_local"}),
        keys={"num_local_patches": DESCRIBES, "pixel_values_local": KeyRules("either")},
    )
    variants = {
        "step3p7": replace(
            rules,
            uncast=frozenset(),
            read_only_with={},
            keys={
                **rules.keys,
                "pixel_values": SURPLUS,
                "num_local_patches": replace(DESCRIBES, runs_with=frozenset({"nested"})),
                "pixel_values_local": KeyRules("either", frozenset({"any", "short"})),
            },
        )
    }

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return False  # Step 3.7 returns the same keys, and its model is another

    def read(self, facts: BatchFacts) -> CountResult:
        tiles = to_numpy(facts.inputs["num_local_patches"]).tolist()  # (image,)
        pieces = self._pieces(facts, tiles)
        features = None if pieces is None else tuple(map(sum, pieces))
        found = read_images(facts, "num_local_patches", features, pieces)
        if "image" not in found.counts:
            return found
        ends = np.cumsum([0, *tiles])[list(found.counts["image"].offsets)]
        owned = Counts(np.diff(ends).tolist(), "num_local_patches")
        return replace(
            found,
            counts={**found.counts, "patch": owned},
            per_image={**found.per_image, "patch": tuple(tiles)},
        )

    def _pieces(self, facts: BatchFacts, tiles: list[int]) -> tuple[tuple[int, ...], ...] | None:
        """Features of each view of each image: its tiles, then the overview."""
        rule = facts.metadata.features_of_pixels
        if rule is None:
            return None
        overview = rule(*facts.inputs["pixel_values"].shape[-2:])
        tile = 0
        if facts.has("pixel_values_local"):
            tile = rule(*facts.inputs["pixel_values_local"].shape[-2:])
        if overview is None or tile is None:
            return None
        more = SEPARATOR.get(facts.metadata.model_type or "", 0)
        return tuple((*[tile] * count, overview + more) for count in tiles)

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        more = SEPARATOR[self.name]
        tokens = [[image] * (1 + tiles + more) for tiles in spec.sizes]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        if spec.sizes:
            inputs["pixel_values"] = numbered(len(spec.sizes), 3, 4, 4)
            inputs["num_local_patches"] = np.array(spec.sizes, dtype=np.int64)
            inputs["pixel_values_local"] = numbered(sum(spec.sizes), 3, 2, 2)
        metadata = ProcessorMetadata(
            model_type=self.name, image_token_id=image, features_of_pixels=lambda height, width: 1
        )
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)
