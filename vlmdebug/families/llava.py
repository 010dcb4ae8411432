"""LLaVA and similar models: one row of pixels per image, and as many tokens for each image.

`pixel_values` is `(image, 3, height, width)`; nothing else describes it. LLaVA, DeepSeek-VL, Gemma
3 and others share the layout (`processing_llava.replace_image_token` and those of their processors,
transformers 5.23); the hybrid DeepSeek-VL returns every image a second time in
`high_res_pixel_values`, and Aria returns a `pixel_mask`. Gemma 3's pan-and-scan and Aria's split
images add crops, one row each with as many tokens as an image. Such a batch has InternVL's layout,
one row per tile. A chunk without images must be given no `pixel_values`: zero rows raise "cannot
reshape tensor of 0 elements".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlmdebug.core.layout import Axis
from vlmdebug.core.rules import KeyRules
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import features_of_rows, read_images
from vlmdebug.families.internvl import InternVL
from vlmdebug.families.rules import DECODER, DESCRIBES, INDEXED, USUAL, with_mask
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

_CROPPED = InternVL()
OLDER = "pixel_values_images"
TOKENS = 3  # placeholder tokens per image of synthesized batches
_RULES = replace(
    USUAL,
    raises_without=frozenset({"high_res_pixel_values"}),
    optional_if_all_ones=frozenset({"pixel_mask"}),
    sometimes_returned=frozenset({"high_res_pixel_values", "pixel_mask"}),
    keys={"high_res_pixel_values": DESCRIBES, "pixel_mask": DESCRIBES},
)
_TWO_WAYS = with_mask(replace(_RULES, token_types_mark="images"), INDEXED)


class Llava(Family):
    """One row per image, as many placeholder tokens for each."""

    name = "llava"
    models = (
        "llava",
        "deepseek_vl",
        "gemma3",
        "vipllava",
        "paligemma",
        "janus",
        "deepseek_vl_hybrid",
        "shieldgemma2",
        "aria",
        "gemma3n",
        "fast_vlm",
        "video_llava",
        "chameleon",
        "t5gemma2",
    )
    axes = {
        "pixel_values": Axis("image"),
        "high_res_pixel_values": Axis("image"),
        "pixel_mask": Axis("image"),
    }
    media = dict.fromkeys(axes, "image")
    shapes = {
        "pixel_values": "image, channels, height, width",
        "high_res_pixel_values": "image, channels, high_height, high_width",
        "pixel_mask": "image, height, width",
    }
    also_takes = ("image_sizes",)  # modeling_llava.forward, transformers 5.23
    feature_key = "pixel_values"
    feature_rules = ('[{n}] * len(inputs["pixel_values"])',)
    rules = _RULES
    variants = {
        # Images attend both ways (`modeling_gemma3.get_block_sequence_ids_for_mask`), or prompts do
        # (`modeling_paligemma.create_masks_for_generate`; transformers 5.23).
        **dict.fromkeys(["gemma3", "shieldgemma2"], _TWO_WAYS),
        "paligemma": replace(_TWO_WAYS, causal=False, token_types_mark="completion"),
        # An encoder that sees the whole text, and a decoder.
        "t5gemma2": replace(
            _RULES,
            causal=False,
            ignored=_RULES.ignored | {"token_type_ids"},
            raises_without=_RULES.raises_without | {"decoder_input_ids"},
            tokens={**_RULES.tokens, "decoder_input_ids": replace(DECODER, beside_one=False)},
        ),
        "gemma3n": replace(
            _RULES,
            ignored=_RULES.ignored | {"token_type_ids"},
            ignores_unmasked_audio=True,  # modeling_gemma3n.forward, transformers 5.23 and 5.24
            pads_sounds=True,  # the same
            # Convolutions take one image without its dimension (torch 2, `conv2d`).
            keys={**_RULES.keys, "pixel_values": KeyRules(runs_with=frozenset({"unbatched"}))},
        ),
        "deepseek_vl_hybrid": replace(_RULES, uncast=frozenset({"high_res_pixel_values"})),
        **dict.fromkeys(["aria", "chameleon"], replace(_RULES, uncast=frozenset({"pixel_values"}))),
        # A tower of convolutions takes zero rows.
        "fast_vlm": replace(_RULES, keys={**_RULES.keys, "pixel_values": KeyRules("either")}),
    }
    sizes = (1,)

    def for_keys(self, inputs: Mapping[str, Any]) -> Family:
        """Video-LLaVA, if its processor returned images under their older name."""
        older = inputs.get(OLDER) is not None and inputs.get("pixel_values") is None
        return _OLDER if older else self

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return False  # (row, 3, height, width) alone could also be InternVL, with one row per tile

    def resolve_variant(self, facts: BatchFacts) -> Family:
        """With crops a row is a tile: Gemma 3 with pan-and-scan, Aria with split images."""
        if not facts.has("pixel_values"):
            return self
        rows, images = facts.rows("pixel_values"), facts.num_images
        more = images is not None and sum(images) < rows
        cut = facts.metadata.splits_images or facts.num_tiles is not None or more
        return _CROPPED if cut else self

    def read(self, facts: BatchFacts) -> CountResult:
        features, inferred = features_of_rows(facts, "pixel_values")
        return read_images(facts, "pixel_values", features, inferred=inferred)

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        tokens = [[7, *[image] * TOKENS, 8] for _ in spec.sizes]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        if spec.sizes:
            inputs["pixel_values"] = numbered(len(spec.sizes), 3, 2, 2)
        metadata = ProcessorMetadata(
            model_type="llava", image_token_id=image, features_per_tile=TOKENS
        )
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)


class OlderVideoLlava(Llava):
    """Video-LLaVA with images in `pixel_values_images`, which the model renames.

    `image_processing_video_llava.preprocess` returns that key by default, and
    `modeling_video_llava.forward` takes it for `pixel_values` (transformers 5.23).
    """

    name = "video_llava_older"
    models = ("video_llava",)
    axes = {OLDER: Axis("image")}
    media = dict.fromkeys(axes, "image")
    shapes = {OLDER: "image, channels, height, width"}
    feature_key = OLDER
    feature_rules = ()
    rules = USUAL

    def for_keys(self, inputs: Mapping[str, Any]) -> Family:
        return self

    def resolve_variant(self, facts: BatchFacts) -> Family:
        return self

    def read(self, facts: BatchFacts) -> CountResult:
        features, inferred = features_of_rows(facts, OLDER)
        return read_images(facts, OLDER, features, inferred=inferred)


_OLDER = OlderVideoLlava()
