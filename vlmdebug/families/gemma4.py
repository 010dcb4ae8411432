"""Gemma 4: pixel values and patch positions have one row per image.

`pixel_values` is `(image, max_patches, patch_pixels)`, padded; `image_position_ids` is
`(image, max_patches, 2)` with (-1, -1) where a patch is padding. The model pools
`pooling_kernel_size ** 2` patches into one feature, so the positions determine the number of
features of an image (`modeling_gemma4.get_image_features`, transformers 5.23). The processor drops
`num_soft_tokens_per_image`. In Gemma 4 Unified the processor pools, and every position is one
feature.

A chunk without images must be given no `pixel_values`: zero rows raise "cannot reshape tensor of
0 elements". A single row of pixels with several rows of positions is broadcast without an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.layout import Axis
from vlmdebug.core.rules import ModelRules
from vlmdebug.core.tensors import to_numpy
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import infer_merge_size, read_images
from vlmdebug.families.rules import DECODER, DESCRIBES, INDEXED, ONE, TYPES, USUAL, with_mask
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

POOL = 2  # side of the pooling window of synthesized batches


class Gemma4(Family):
    """One row per image, described by patch positions."""

    name = "gemma4"
    models = ("gemma4", "gemma4_unified", "diffusion_gemma")
    axes = {"pixel_values": Axis("image"), "image_position_ids": Axis("image")}
    media = dict.fromkeys(axes, "image")
    shapes = {
        "pixel_values": "image, max_patches, patch_pixels",
        "image_position_ids": "image, max_patches, 2",
    }
    feature_key = "image_position_ids"
    feature_rules = ('((inputs["image_position_ids"][..., 0] != -1).sum(-1) // {n}**2).tolist()',)
    rules = with_mask(
        replace(
            USUAL,
            ignored=frozenset(),
            # modeling_gemma4.forward, transformers 5.23 and 5.24
            ignores_unmasked_audio=True,
            raises_without=frozenset({"image_position_ids"}),
            keys={"pixel_values": ONE, "image_position_ids": DESCRIBES},
        ),
        INDEXED,
    )
    variants = {
        # An encoder of the prompt and a decoder, which denoises a canvas of tokens and attends to
        # all of it. Without a canvas, it draws one; of the token types it makes a mask that it does
        # not use (`modeling_diffusion_gemma.DiffusionGemmaEncoderModel`, 5.24). The canvas attends
        # to padding of the prompt, too, where no mask of its own hides it
        # (`DiffusionGemmaDecoderModel.create_diffusion_decoder_attention_mask`).
        "diffusion_gemma": replace(
            rules,
            causal=False,
            shows_padding_without="decoder_attention_mask",
            ignored=TYPES,
            read_in_vain=TYPES,
            tokens={**rules.tokens, "decoder_input_ids": replace(DECODER, beside_one=False)},
        ),
    }
    videos = "frame"
    audio = "input_features_mask"

    def rules_for(self, metadata: ProcessorMetadata | None) -> ModelRules:
        """Smaller checkpoints attend to images as to text and ignore the token types."""
        known = super().rules_for(metadata)
        causal = metadata is not None and metadata.attends_both_ways is False
        return known.but(ignored=TYPES) if causal else known

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get("image_position_ids") is not None

    def read(self, facts: BatchFacts) -> CountResult:
        return read_images(facts, "image_position_ids", self._features(facts))

    def _features(self, facts: BatchFacts) -> tuple[int, ...] | None:
        positions = to_numpy(facts.inputs["image_position_ids"])  # (image, max_patches, 2)
        patches = (positions[..., 0] != -1).sum(axis=-1)  # (image,); -1 is padding
        pool = facts.metadata.pooling_size or infer_merge_size(
            int(patches.sum()), facts.placeholders
        )
        if facts.metadata.model_type == "gemma4_unified":
            pool = 1  # its processor pools: a position is a feature
        return None if pool is None else tuple((patches // pool**2).tolist())

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image, size = 3, max(self.sizes)
        ids = text([[7, *[image] * tokens, 8] for tokens in spec.sizes], spec.images_per_sample)
        inputs = with_text(ids, placeholder=image, types=True)
        if spec.sizes:
            patches = size * POOL**2
            positions = np.full((len(spec.sizes), patches, 2), -1, dtype=np.int64)
            for row, tokens in enumerate(spec.sizes):
                positions[row, : tokens * POOL**2] = row
            inputs["pixel_values"] = numbered(len(spec.sizes), patches, 3)
            inputs["image_position_ids"] = positions
        metadata = ProcessorMetadata(model_type="gemma4", image_token_id=image, pooling_size=POOL)
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)
