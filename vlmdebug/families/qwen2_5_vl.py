"""Qwen2.5-VL and its kin: pixel values have one row per patch, the grid one row per image.

`pixel_values` is `(patch, channels * patch_pixels)` over all images; `image_grid_thw` is
`(image, 3)`. Grid `(t, h, w)` owns `t * h * w` rows and `t * h * w / merge_size ** 2`
placeholder tokens. Read in `processing_qwen2_vl` and `modeling_qwen2_5_vl` of transformers
5.23. M-RoPE lays the images of each sample out by their grids, so images of other sizes raise even
where the totals of a call agree. A chunk without images must be given no `pixel_values`: zero
rows raise "expected a non-empty list of Tensors". The models differ in what they miss: all but
Qwen2.5-VL raise without `mm_token_type_ids`, and Qwen3 and GLM broadcast a single row of patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlmdebug.errors import BadInput
from vlmdebug.families.base import (
    BatchSpec,
    Facts,
    Family,
    Hints,
    Reading,
    count_images,
    numbered,
    text,
    to_numpy,
    window,
    with_text,
)
from vlmdebug.layout import Axis, Media
from vlmdebug.plan import Counts

NEEDS_TYPES = frozenset({"image_grid_thw", "mm_token_type_ids"})
BROADCAST = {
    "pixel_values": Media("image", tolerates=frozenset({"one"})),
    "image_grid_thw": Media("image", without="either"),
}

MERGE = 2  # merge_size of synthesized batches


class Qwen2_5VL(Family):
    """One row per patch, described by a grid per image."""

    name = "qwen2_5_vl"
    models = ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_5", "glm4v")
    axes = {"pixel_values": Axis("patch"), "image_grid_thw": Axis("image")}
    media = {"pixel_values": Media("image"), "image_grid_thw": Media("image", without="either")}
    shapes = {"pixel_values": "patch, patch_pixels", "image_grid_thw": "image, 3"}
    feature_key = "image_grid_thw"
    loud_drops = frozenset({"image_grid_thw"})
    strict = True
    variants = {
        "qwen2_vl": {"loud_drops": NEEDS_TYPES},
        "qwen3_vl": {"loud_drops": NEEDS_TYPES, "media": BROADCAST},
        "qwen3_5": {"loud_drops": NEEDS_TYPES, "media": BROADCAST},
        "glm4v": {"loud_drops": NEEDS_TYPES, "media": BROADCAST},
    }

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get("image_grid_thw") is not None

    def read(self, facts: Facts) -> Reading:
        grid = to_numpy(facts.inputs["image_grid_thw"])  # (image, 3)
        patches = tuple(grid.prod(axis=1).tolist())  # (image,)
        if sum(patches) != facts.rows("pixel_values"):
            raise BadInput(
                f"image_grid_thw asks for {sum(patches)} patches "
                f"({len(patches)} images), but pixel_values has {facts.rows('pixel_values')} rows. "
                "The two belong to different batches or one was cut without the other. "
                "Pass both as the processor returned them."
            )
        merge = facts.hints.merge_size or window(sum(patches), facts.placeholders)
        features = tuple(count // merge**2 for count in patches) if merge else None
        images, ambiguities = count_images(facts, "image_grid_thw", features)
        per_image = {"patch": patches, **({"feature": features} if features else {})}
        if images is None:
            return Reading({}, features, per_image, ambiguities)
        owned = [
            sum(patches[start:stop])
            for start, stop in zip(images.offsets, images.offsets[1:], strict=False)
        ]
        counts = {"image": images, "patch": Counts(owned, f"image_grid_thw, {images.evidence}")}
        return Reading(counts, features, per_image)

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], Facts]:
        image = 3
        ids = text([[7, *[image] * size, 8] for size in spec.sizes], spec.images_per_sample)
        inputs = with_text(ids, placeholder=image, types=True)
        if spec.sizes:
            grid = [(1, MERGE, MERGE * size) for size in spec.sizes]
            inputs["image_grid_thw"] = np.array(grid, dtype=np.int64)
            inputs["pixel_values"] = numbered(sum(spec.sizes) * MERGE**2, 6)
        hints = Hints(model_type="qwen2_5_vl", image_token_id=image, merge_size=MERGE)
        return inputs, Facts(inputs, hints, spec.images_per_sample)
