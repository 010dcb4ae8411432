"""Qwen2.5-VL: one row of pixels per patch, and `image_grid_thw` to say whose patches they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmdebug.tiny.models import text_config
from vlmdebug.tiny.processors import image_only
from vlmdebug.tiny.registry import Recipe
from vlmdebug.tiny.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
_PATCH = 14
_MERGE = 2
_PIXELS_PER_TOKEN = (_PATCH * _MERGE) ** 2


def _processor() -> Qwen2_5_VLProcessor:
    from transformers import Qwen2_5_VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    image_processor = Qwen2VLImageProcessorPil(
        patch_size=_PATCH,
        merge_size=_MERGE,
        min_pixels=4 * _PIXELS_PER_TOKEN,
        max_pixels=16 * _PIXELS_PER_TOKEN,
    )
    return image_only(
        Qwen2_5_VLProcessor,
        image_processor=image_processor,
        tokenizer=train_tokenizer(_TOKENS),
        video_processor=None,
    )


def _model(processor: Qwen2_5_VLProcessor) -> Qwen2_5_VLForConditionalGeneration:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    tokenizer = processor.tokenizer
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "out_hidden_size": 32,
        "intermediate_size": 32,
        "num_heads": 2,
        "patch_size": _PATCH,
        "spatial_merge_size": _MERGE,
        "window_size": 56,
        "fullatt_block_indexes": [1],
    }
    config = Qwen2_5_VLConfig(
        text_config=text_config(tokenizer, rope_parameters=rope),
        vision_config=vision,
        image_token_id=tokenizer.image_token_id,
        video_token_id=tokenizer.video_token_id,
        vision_start_token_id=tokenizer.vision_bos_token_id,
        vision_end_token_id=tokenizer.vision_eos_token_id,
    )
    return Qwen2_5_VLForConditionalGeneration(config)


RECIPES = {"qwen2_5_vl": Recipe("<|vision_start|><|image_pad|><|vision_end|>", _processor, _model)}
