"""Qwen-VL: one row of pixels per patch, and `image_grid_thw` with the patches per image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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


def _processor() -> Qwen2_5_VLProcessor:
    from transformers import Qwen2_5_VLProcessor

    return image_only(
        Qwen2_5_VLProcessor,
        image_processor=_image_processor(_PATCH),
        tokenizer=train_tokenizer(_TOKENS),
        video_processor=None,
    )


def _model(processor: Qwen2_5_VLProcessor) -> Qwen2_5_VLForConditionalGeneration:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

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
    text = text_config(processor.tokenizer, rope_parameters=rope)
    config = Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_ids(processor.tokenizer))
    return Qwen2_5_VLForConditionalGeneration(config)


def _older_processor() -> Any:
    from transformers import Qwen2VLProcessor

    return image_only(
        Qwen2VLProcessor,
        image_processor=_image_processor(_PATCH),
        tokenizer=train_tokenizer(_TOKENS),
        video_processor=None,
    )


def _older_model(processor: Any) -> Any:
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": _PATCH,
        "spatial_merge_size": _MERGE,
    }
    text = text_config(processor.tokenizer, rope_parameters=rope)
    config = Qwen2VLConfig(text_config=text, vision_config=vision, **_ids(processor.tokenizer))
    return Qwen2VLForConditionalGeneration(config)


def _newer_processor() -> Any:
    from transformers import Qwen3VLProcessor

    return image_only(
        Qwen3VLProcessor,
        image_processor=_image_processor(16),
        tokenizer=train_tokenizer(_TOKENS),
        video_processor=None,
    )


_NEWER_VISION = {
    "depth": 2,
    "hidden_size": 32,
    "out_hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 32,
    "patch_size": 16,
    "spatial_merge_size": _MERGE,
    "num_position_embeddings": 64,
}


def _newer_model(processor: Any) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 3, 3],
        "mrope_interleaved": True,
    }
    config = Qwen3VLConfig(
        text_config=text_config(processor.tokenizer, head_dim=16, rope_parameters=rope),
        vision_config={**_NEWER_VISION, "deepstack_visual_indexes": [0]},
        **_ids(processor.tokenizer),
    )
    return Qwen3VLForConditionalGeneration(config)


def _newest_model(processor: Any) -> Any:
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [1, 1, 0],
        "mrope_interleaved": True,
        "partial_rotary_factor": 0.25,
    }
    text = text_config(
        processor.tokenizer,
        head_dim=16,
        layer_types=["linear_attention", "full_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=2,
        linear_key_head_dim=16,
        linear_value_head_dim=16,
        rope_parameters=rope,
    )
    config = Qwen3_5Config(
        text_config=text, vision_config=_NEWER_VISION, **_ids(processor.tokenizer)
    )
    return Qwen3_5ForConditionalGeneration(config)


def _image_processor(patch: int) -> Any:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
        Qwen2VLImageProcessorPil,
    )

    pixels = (patch * _MERGE) ** 2
    return Qwen2VLImageProcessorPil(
        patch_size=patch, merge_size=_MERGE, min_pixels=4 * pixels, max_pixels=16 * pixels
    )


def _ids(tokenizer: Any) -> dict[str, Any]:
    return {
        "image_token_id": tokenizer.image_token_id,
        "video_token_id": tokenizer.video_token_id,
        "vision_start_token_id": tokenizer.vision_bos_token_id,
        "vision_end_token_id": tokenizer.vision_eos_token_id,
    }


_PLACEHOLDER = "<|vision_start|><|image_pad|><|vision_end|>"
RECIPES = {
    "qwen2_vl": Recipe(_PLACEHOLDER, _older_processor, _older_model),
    "qwen2_5_vl": Recipe(_PLACEHOLDER, _processor, _model),
    "qwen3_vl": Recipe(_PLACEHOLDER, _newer_processor, _newer_model),
    "qwen3_5": Recipe(_PLACEHOLDER, _newer_processor, _newest_model),
}
