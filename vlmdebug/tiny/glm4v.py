"""GLM-4.1V: the layout of Qwen-VL, one row of pixels per patch and a grid per image."""

from __future__ import annotations

from typing import Any

from vlmdebug.tiny.models import text_config
from vlmdebug.tiny.processors import image_only
from vlmdebug.tiny.registry import Recipe
from vlmdebug.tiny.tokenizer import train_tokenizer

_TOKENS = {"image_token": "<|image|>", "video_token": "<|video|>"}
_EDGES = ["<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]


def _processor() -> Any:
    from transformers import Glm4vProcessor
    from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil

    pixels = 28 * 28
    return image_only(
        Glm4vProcessor,
        image_processor=Glm4vImageProcessorPil(
            size={"shortest_edge": 8 * pixels, "longest_edge": 32 * pixels}
        ),
        tokenizer=train_tokenizer(_TOKENS, unnamed=_EDGES),
        video_processor=None,
    )


def _model(processor: Any) -> Any:
    from transformers import Glm4vConfig, Glm4vForConditionalGeneration

    tokenizer = processor.tokenizer
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "partial_rotary_factor": 0.5,
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "num_heads": 2,
        "intermediate_size": 32,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "image_size": 112,
    }
    names = ("image_start", "image_end", "video_start", "video_end")
    edges = zip(names, tokenizer.convert_tokens_to_ids(_EDGES), strict=True)
    config = Glm4vConfig(
        text_config=text_config(tokenizer, rope_parameters=rope),
        vision_config=vision,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        **{f"{name}_token_id": token for name, token in edges},
    )
    return Glm4vForConditionalGeneration(config)


RECIPES = {"glm4v": Recipe("<|begin_of_image|><|image|><|end_of_image|>", _processor, _model)}
