"""LFM2-VL: one row of patches per tile, padded to the longest, and no count of tiles.

`pixel_values` is `(tile, max_patches, patch_pixels)`, `pixel_attention_mask` `(tile, max_patches)`
and `spatial_shapes` `(tile, 2)`, the grid of patches of each tile. A `downsample_factor` square of
patches becomes one placeholder token, so the shapes determine the tokens of each tile, and the
placeholder tokens of a sample determine its number of tiles. The processor drops the rows and
columns of tiles per image. Read in `processing_lfm2_vl.replace_image_token` and
`modeling_lfm2_vl.get_image_features` of transformers 5.23. A chunk without images must be given no
`pixel_values`: zero rows raise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.layout import Axis
from vlmdebug.core.rows import Counts
from vlmdebug.core.rules import Tolerated
from vlmdebug.core.tensors import to_numpy
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import check_total, split_by_placeholders
from vlmdebug.families.internvl import ambiguous_tiles, images_by_edges
from vlmdebug.families.rules import DESCRIBES, MULTIPLIED, ONE, SURPLUS, USUAL, with_mask
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

READ_BY_ROW: frozenset[Tolerated] = frozenset({"surplus", "none"})
FACTOR = 2  # downsample_factor of synthesized batches


class Lfm2VL(Family):
    """One row per tile, described by the tile's grid of patches."""

    name = "lfm2_vl"
    models = ("lfm2_vl",)
    axes = {
        "pixel_values": Axis("tile"),
        "pixel_attention_mask": Axis("tile"),
        "spatial_shapes": Axis("tile"),
    }
    media = dict.fromkeys(axes, "tile")
    shapes = {
        "pixel_values": "tile, max_patches, patch_pixels",
        "pixel_attention_mask": "tile, max_patches",
        "spatial_shapes": "tile, 2",
    }
    feature_key = "spatial_shapes"
    feature_rules = ('(-(-inputs["spatial_shapes"] // {n})).prod(-1).tolist()',)
    rules = with_mask(
        replace(
            USUAL,
            seen=("5.23",),
            checks_each_row=True,
            raises_without=frozenset({"pixel_attention_mask", "spatial_shapes"}),
            keys={
                "pixel_values": ONE,
                "pixel_attention_mask": replace(SURPLUS, when_no_media="either"),
                "spatial_shapes": DESCRIBES,
            },
        ),
        MULTIPLIED,
    )
    in_release = {
        # Its features come from spatial_shapes alone, and any row of these fits any tile, as all
        # have the padded size. The mask only hides padded patches, and is read by row:
        # modeling_lfm2_vl.get_image_features, masking_utils.padding_mask_function (5.24).
        "5.24": replace(
            rules,
            seen=("5.24",),
            checks_each_row=False,
            raises_without=frozenset({"spatial_shapes"}),
            optional_if_all_ones=frozenset({"pixel_attention_mask"}),
            keys={
                "pixel_values": ONE,
                "pixel_attention_mask": replace(DESCRIBES, runs_with=READ_BY_ROW),
                "spatial_shapes": DESCRIBES,
            },
        ),
    }

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get("spatial_shapes") is not None

    def read(self, facts: BatchFacts) -> CountResult:
        tiles = facts.rows("spatial_shapes")
        features = self._features(facts)
        images = images_by_edges(facts)
        if facts.num_images is not None:
            images = {"image": Counts(facts.num_images, "num_images")}
        if facts.num_tiles is not None:
            check_total("num_tiles", facts.num_tiles, "pixel_values", tiles, "tile")
            owned = Counts(facts.num_tiles, "num_tiles")
        elif facts.samples == 1:
            owned = Counts([tiles], "the batch has one sample")
        else:
            known = features is not None and facts.placeholders is not None
            found = (
                split_by_placeholders(features or (), facts.placeholders or ()) if known else None
            )
            if found is None:
                return CountResult(images, features, {}, (ambiguous_tiles(facts, tiles, features),))
            owned = Counts(found, f"{facts.placeholder_source} against spatial_shapes")
        return CountResult({**images, "tile": owned}, features, self._per_image(facts, features))

    def _per_image(
        self, facts: BatchFacts, features: tuple[int, ...] | None
    ) -> dict[str, tuple[int, ...]]:
        """Tiles and tokens of each image, if begin and end tokens mark the images."""
        if facts.between_edges is None or features is None:
            return {}
        tokens = tuple(span for sample in facts.between_edges for span in sample)
        tiles = split_by_placeholders(features, tokens)
        return {} if tiles is None else {"tile": tuple(tiles), "feature": tokens}

    def _features(self, facts: BatchFacts) -> tuple[int, ...] | None:
        factor = facts.metadata.downsample_factor
        if not factor:
            return None
        shapes = to_numpy(facts.inputs["spatial_shapes"]).tolist()  # (tile, 2)
        return tuple(-(-height // factor) * -(-width // factor) for height, width in shapes)

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        tokens = [
            [token for tile in range(tiles) for token in (*[image] * (1 + tile % 2), 9)]
            for tiles in spec.sizes
        ]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        if spec.sizes:
            grids = [(2, 2 + 2 * (tile % 2)) for tiles in spec.sizes for tile in range(tiles)]
            inputs["pixel_values"] = numbered(len(grids), 8, 6)
            inputs["pixel_attention_mask"] = np.array(
                [[int(patch < height * width) for patch in range(8)] for height, width in grids],
                dtype=np.int64,
            )
            inputs["spatial_shapes"] = np.array(grids, dtype=np.int64)
        metadata = ProcessorMetadata(
            model_type="lfm2_vl", image_token_id=image, downsample_factor=FACTOR
        )
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)
