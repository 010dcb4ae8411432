"""Qwen2.5-VL and its variants: pixel values have one row per patch, the grid one row per image.

`pixel_values` is `(patch, …)` over all images: flat patches, or `(channels, side, side)` in
PaddleOCR-VL and Kimi; `image_grid_thw` is `(image, 3)`. Grid `(t, h, w)` owns `t * h * w` rows and
`t * h * w / merge_size ** 2` placeholder tokens; Inkling 2 does not merge, HunYuan-VL adds a
token per row of features and two per image, and Hy 4 VL one per row (transformers 5.24).
VideoLLaMA 3 gives `image_merge_sizes`, one per image.
Read in `modeling_qwen2_5_vl.get_image_features` and those of the variants, transformers 5.23.

A chunk without images must be given no `pixel_values`: zero rows raise. Other checks differ between
models and were found by running each (`variants`). Many lay out the images of each sample by their
grids (M-RoPE), so images of other sizes raise even if the totals of a call agree. Many raise
without `mm_token_type_ids`, and many broadcast a single row of patches. GLM-OCR shares its
processor with GLM-4.6V and does not broadcast; without a config it is read as GLM-4.6V.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, ClassVar

import numpy as np

from vlmdebug.core.batch import Ambiguity, Contradiction, Reshaped
from vlmdebug.core.layout import VIDEO_PATCH, Axis
from vlmdebug.core.rows import Counts
from vlmdebug.core.tensors import to_numpy
from vlmdebug.core.wording import number
from vlmdebug.families import rules as known
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.formulas import UNMERGED, with_newlines
from vlmdebug.families.image_counts import count_images, infer_merge_size, refuses_rows
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

# Features of one image of grid (t, h, w), if they are not t * h * w / merge ** 2.
_FEATURES: dict[str, Callable[[list[int], int], int]] = {
    **dict.fromkeys(UNMERGED, lambda grid, merge: grid[0] * grid[1] * grid[2]),
    "hunyuan_vl": lambda grid, merge: (grid[1] // merge) * (grid[2] // merge + 1) + 2,
    "hy_v4_vl": lambda grid, merge: grid[0] * with_newlines(grid[1], grid[2], merge),
}

# Shapes of patches of models that raise for any other number of dimensions; the others reshape them
# (`forward` of the vision embeddings of each, transformers 5.23).
_PATCHES: dict[str, str] = {
    **dict.fromkeys(["paddleocr_vl", "kimi_k25"], "patch, channels, patch_side, patch_side"),
    **dict.fromkeys(
        ["cosmos3_edge", "lfm3_vl", "ernie4_5_vl_moe", "muse_glimmer", "muse_spark", "hy_v4_vl"],
        "patch, patch_pixels",
    ),
}

MERGE = 2  # merge_size of synthesized batches


class Qwen2_5VL(Family):
    """One row per patch, described by a grid per image."""

    name = "qwen2_5_vl"
    models = (
        "qwen2_5_vl",
        "qwen2_vl",
        "qwen3_vl",
        "qwen3_5",
        "glm4v",
        "qwen3_vl_moe",
        "qwen3_5_moe",
        "qwen4_exp",
        "qwen2_5_omni_thinker",
        "qwen3_omni_moe_thinker",
        "cosmos3_omni",
        "cosmos3_edge",
        "exaone4_5",
        "hyperclovax_vision_v2",
        "lfm3_vl",
        "dots3_note",
        "cohere_compass",
        "ernie4_5_vl_moe",
        "glm4v_moe",
        "glm46v",
        "glmga",
        "glm_ocr",
        "glm5_next",
        "kimi_k25",
        "minimax_m3_vl",
        "muse_glimmer",
        "muse_spark",
        "paddleocr_vl",
        "video_llama_3",
        "inkling2",
        "inkling2_loop",
        "hy_v4_vl",
    )
    processors = ("qwen2_5_omni", "qwen3_omni_moe")
    grid: ClassVar[str] = "image_grid_thw"
    axes = {
        "pixel_values": Axis("patch"),
        "image_grid_thw": Axis("image"),
        "image_merge_sizes": Axis("image"),
    }
    media = dict.fromkeys(axes, "image")
    shapes = {
        "pixel_values": "patch, ...",
        "image_grid_thw": "image, 3",
        "image_merge_sizes": "image",
    }
    feature_key = "image_grid_thw"
    feature_rules = (
        '(inputs["image_grid_thw"].prod(-1) // inputs["image_merge_sizes"] ** 2).tolist()',
        '(inputs["image_grid_thw"].prod(-1) // {n}**2).tolist()',
    )
    rules = known.QWEN2_5
    variants = {
        "qwen2_vl": known.QWEN2,
        "cosmos3_edge": known.QWEN2_FRAMES,
        "ernie4_5_vl_moe": known.QWEN2_IMAGES,
        **dict.fromkeys(["qwen3_vl", "qwen3_vl_moe"], known.QWEN3),
        **dict.fromkeys(["cosmos3_omni", "cohere_compass"], known.QWEN3),
        "paddleocr_vl": known.QWEN3_IMAGES,
        "hy_v4_vl": known.HY4,
        **dict.fromkeys(["glm4v", "glm4v_moe", "glm46v", "glmga"], known.GLM),
        "glm_ocr": known.GLM_OCR,
        **dict.fromkeys(["qwen3_5", "qwen3_5_moe"], known.QWEN3_5),
        "qwen4_exp": known.QWEN4,
        **dict.fromkeys(["exaone4_5", "hyperclovax_vision_v2", "minimax_m3_vl"], known.GRID),
        "lfm3_vl": replace(known.GRID_MULTIPLIED, uncast=frozenset({"pixel_values"})),
        "glm5_next": known.GRID_MULTIPLIED,
        "dots3_note": known.GRID_INDEXED,
        **dict.fromkeys(["inkling2", "inkling2_loop"], known.GRID_INDEXED_UNEQUAL),
        "kimi_k25": known.GRID_BROADCAST,
        **dict.fromkeys(["muse_glimmer", "muse_spark"], known.GRID_BROADCAST_INDEXED),
        **dict.fromkeys(["qwen2_5_omni", "qwen2_5_omni_thinker"], known.OMNI),
        **dict.fromkeys(["qwen3_omni_moe", "qwen3_omni_moe_thinker"], known.OMNI_BROADCAST),
        "video_llama_3": known.GRID_MERGES,
    }
    videos = VIDEO_PATCH
    timed = True
    audio = "feature_attention_mask"

    def shape_of(self, key: str, model_type: str | None) -> str:
        named = super().shape_of(key, model_type)
        return _PATCHES.get(model_type or "", named) if key == "pixel_values" else named

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        pixels, ids = inputs.get("pixel_values"), inputs["input_ids"]
        by_sample = getattr(pixels, "ndim", 0) == 3 and len(inputs["pixel_values"]) == len(ids)
        if inputs.get(self.grid) is None or not by_sample:
            return inputs.get(self.grid) is not None
        # Retrieval models pad the patches of each sample: ColQwen2 (`__call__` of its processor).
        return int(to_numpy(inputs[self.grid]).prod(axis=-1).sum()) == len(ids)

    def read(self, facts: BatchFacts) -> CountResult:
        grids: list[list[int]] = to_numpy(facts.inputs[self.grid]).tolist()  # (image, 3)
        patches = tuple(map(prod, grids))  # (image,)
        merges = self._merges(facts, patches)
        rule = _FEATURES.get(facts.metadata.model_type or "")
        each = map(rule, grids, merges) if rule else map(_merged, patches, merges)
        features = tuple(each) if merges else None
        inferred = not facts.has("image_merge_sizes") and not facts.metadata.merge_size
        images, ambiguities = count_images(facts, self.grid, features)
        wrong = [*self._other_rows(facts, patches), *self._odd_grids(facts, grids, merges)]
        ambiguities = (*ambiguities, *wrong)
        per_image = {"patch": patches, **({"feature": features} if features else {})}
        if images is None:
            return CountResult({}, features, per_image, ambiguities, inferred=inferred)
        owned = [
            sum(patches[start:stop])
            for start, stop in zip(images.offsets, images.offsets[1:], strict=False)
        ]
        counts = {"image": images, "patch": Counts(owned, f"{self.grid}, {images.evidence}")}
        return CountResult(counts, features, per_image, ambiguities, inferred=inferred)

    def _other_rows(self, facts: BatchFacts, patches: Sequence[int]) -> list[Ambiguity]:
        """Pixels of more or fewer patches than the grids ask for."""
        rows = facts.rows("pixel_values")
        if sum(patches) == rows:
            return []
        shape = tuple(getattr(facts.inputs.get("pixel_values"), "shape", ()))
        if shape[:-1] == (1, sum(patches)):
            said = (
                f"pixel_values has shape {shape}: a dimension was added in front of its patches. "
                "A model that flattens it runs, but its rows cannot be cut. Pass pixel_values[0]."
            )
            return [Reshaped(("pixel_values",), "patch", said)]
        said = (
            f"{self.grid} asks for {number(sum(patches), 'patch')} "
            f"({number(len(patches), 'image')}), but pixel_values has {number(rows, 'row')}. "
            "The two belong to different batches or one was cut without the other. "
            "Pass both as the processor returned them."
        )
        own = self.layout(facts.metadata).rules
        loud = refuses_rows(facts, own, "pixel_values", sum(patches))
        return [Contradiction(("pixel_values",), "patch", said, silent=False if loud else None)]

    def _odd_grids(
        self, facts: BatchFacts, grids: Sequence[Sequence[int]], merges: Sequence[int]
    ) -> list[Contradiction]:
        """Images with sides, in patches, that are not multiples of the merge size."""
        odd = [
            image
            for image, (grid, merge) in enumerate(zip(grids, merges, strict=False))
            if grid[-2] % merge or grid[-1] % merge
        ]
        if not odd or facts.metadata.model_type in UNMERGED:
            return []
        sides = " x ".join(map(str, grids[odd[0]]))
        said = (
            f"{self.grid}[{odd[0]}] is {sides}, but height and width are multiples of the merge "
            f"size {merges[odd[0]]} ({len(odd)} of {len(grids)} images are not). "
            "The model raises or mixes up patches. "
            "Resize images by the processor, which rounds their sides."
        )
        return [Contradiction((), None, said, refused=False, silent=None)]

    def _merges(self, facts: BatchFacts, patches: Sequence[int]) -> list[int]:
        """Side of the square of patches that merge, for each image; empty if it is not known."""
        if facts.has("image_merge_sizes"):
            merges = to_numpy(facts.inputs["image_merge_sizes"]).tolist()  # (image,)
            return [merges[min(image, len(merges) - 1)] for image in range(len(patches))]
        merge = facts.metadata.merge_size or infer_merge_size(sum(patches), facts.placeholders)
        return [merge] * len(patches) if merge else []

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        ids = text([[7, *[image] * size, 8] for size in spec.sizes], spec.images_per_sample)
        inputs = with_text(ids, placeholder=image, types=True)
        if spec.sizes:
            grid = [(1, MERGE, MERGE * size) for size in spec.sizes]
            inputs["image_grid_thw"] = np.array(grid, dtype=np.int64)
            inputs["pixel_values"] = numbered(sum(spec.sizes) * MERGE**2, 96)
        metadata = ProcessorMetadata(
            model_type="qwen2_5_vl", image_token_id=image, merge_size=MERGE
        )
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)


class NemotronHOmni(Qwen2_5VL):
    """As Qwen2.5-VL, with a grid of height and width, `image_grid_hw`, per image."""

    name = "nemotron_h_omni"
    models = ("nemotron_h_omni",)
    processors = ()
    grid = "image_grid_hw"
    axes = {"pixel_values": Axis("patch"), "image_grid_hw": Axis("image")}
    media = dict.fromkeys(axes, "image")
    shapes = {"pixel_values": "patch, ...", "image_grid_hw": "image, 2"}
    videos = None
    timed = False
    audio = "input_features_mask"
    feature_key = "image_grid_hw"
    feature_rules = ('(inputs["image_grid_hw"].prod(-1) // {n}**2).tolist()',)
    rules = replace(
        known.with_mask(known.GRID, known.UNEQUAL),
        raises_without=frozenset({"image_grid_hw"}),
        sometimes_returned=frozenset(),
        keys={"image_grid_hw": known.DESCRIBES},
    )
    variants = {}

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        inputs, facts = super().synthesize(spec)
        if spec.sizes:
            inputs["image_grid_hw"] = inputs.pop("image_grid_thw")[:, 1:]
        del inputs["mm_token_type_ids"]
        return inputs, replace(facts, metadata=replace(facts.metadata, model_type=self.name))


def _merged(patches: int, merge: int) -> int:
    return patches // merge**2
