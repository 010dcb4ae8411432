"""LLaVA and similar models: one row of pixels per image, as many tokens for each.

Batches of DeepSeek-VL and Gemma 3 (without pan-and-scan) have the same layout.
"""

from __future__ import annotations

from typing import Any

from vlmdebug.tiny.models import text_config, vision_config
from vlmdebug.tiny.registry import Recipe
from vlmdebug.tiny.tokenizer import train_tokenizer

_SIZE = {"height": 56, "width": 56}
_TOKENS_PER_IMAGE = 16  # patches of 14 in 56 x 56 pixels


def _llava_processor() -> Any:
    from transformers import LlavaProcessor
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    return LlavaProcessor(
        image_processor=LlavaImageProcessorPil(
            size={"shortest_edge": 56}, crop_size=_SIZE, do_pad=False
        ),
        tokenizer=train_tokenizer({"image_token": "<image>"}),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _llava_model(processor: Any) -> Any:
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    tokenizer = processor.tokenizer
    config = LlavaConfig(
        text_config={"model_type": "llama", **text_config(tokenizer)},
        vision_config={"model_type": "clip_vision_model", **vision_config(projection_dim=32)},
        image_token_index=tokenizer.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=_TOKENS_PER_IMAGE,
    )
    return LlavaForConditionalGeneration(config)


def _deepseek_processor() -> Any:
    from transformers import DeepseekVLProcessor
    from transformers.models.deepseek_vl.image_processing_pil_deepseek_vl import (
        DeepseekVLImageProcessorPil,
    )

    return DeepseekVLProcessor(
        image_processor=DeepseekVLImageProcessorPil(size=_SIZE),
        tokenizer=train_tokenizer({"image_token": "<image_placeholder>"}),
        num_image_tokens=_TOKENS_PER_IMAGE,
    )


def _deepseek_model(processor: Any) -> Any:
    from transformers import DeepseekVLConfig, DeepseekVLForConditionalGeneration

    tokenizer = processor.tokenizer
    config = DeepseekVLConfig(
        text_config={"model_type": "llama", **text_config(tokenizer)},
        vision_config={"model_type": "siglip_vision_model", **_siglip()},
        image_token_id=tokenizer.image_token_id,
    )
    return DeepseekVLForConditionalGeneration(config)


def _gemma3_processor() -> Any:
    from transformers import Gemma3Processor
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    tokens = {
        "image_token": "<image_soft_token>",
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }
    return Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size=_SIZE),
        tokenizer=train_tokenizer(tokens),
        image_seq_length=4,
    )


def _gemma3_model(processor: Any) -> Any:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    tokenizer = processor.tokenizer
    text = text_config(
        tokenizer,
        head_dim=16,
        sliding_window=64,
        layer_types=["sliding_attention", "full_attention"],
    )
    config = Gemma3Config(
        text_config=text,
        vision_config=_siglip(),
        mm_tokens_per_image=4,
        image_token_index=tokenizer.image_token_id,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )
    return Gemma3ForConditionalGeneration(config)


def _siglip() -> dict[str, Any]:
    return vision_config(vision_use_head=False)


RECIPES = {
    "llava": Recipe("<image>", _llava_processor, _llava_model),
    "deepseek_vl": Recipe("<image_placeholder>", _deepseek_processor, _deepseek_model),
    "gemma3": Recipe("<start_of_image>", _gemma3_processor, _gemma3_model),
}
