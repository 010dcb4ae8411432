"""Aya Vision and Ovis 2: one row of pixels per tile, each tile a run of tokens of its own."""

from __future__ import annotations

from typing import Any

from vlmdebug.tiny.models import text_config, vision_config
from vlmdebug.tiny.registry import Recipe
from vlmdebug.tiny.tokenizer import train_tokenizer

_TILE = {"height": 56, "width": 56}
_TILES = {"crop_to_patches": True, "min_patches": 1, "max_patches": 4}

_AYA_TOKENS = [
    "<|START_OF_IMG|>",
    "<|END_OF_IMG|>",
    "<|IMG_PATCH|>",
    "<|IMG_LINE_BREAK|>",
    *[f"TILE_{tile}" for tile in range(1, 5)],
    "TILE_GLOBAL",
]
_OVIS_TOKENS = ["<IMG_ATOM>", "<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]


def _aya_processor() -> Any:
    from transformers import AyaVisionProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
        GotOcr2ImageProcessorPil,
    )

    return AyaVisionProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=_TILE, **_TILES),
        tokenizer=train_tokenizer({"image_token": "<image>"}, unnamed=_AYA_TOKENS),
        patch_size=14,
        img_size=56,
        downsample_factor=2,
    )


def _aya_model(processor: Any) -> Any:
    from transformers import AyaVisionConfig, AyaVisionForConditionalGeneration

    tokenizer = processor.tokenizer
    config = AyaVisionConfig(
        text_config={"model_type": "cohere2", **text_config(tokenizer)},
        vision_config={
            "model_type": "siglip_vision_model",
            **vision_config(vision_use_head=False),
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        adapter_layer_norm_eps=1e-6,
    )
    return AyaVisionForConditionalGeneration(config)


def _ovis_processor() -> Any:
    from transformers import Ovis2Processor
    from transformers.models.ovis2.image_processing_pil_ovis2 import Ovis2ImageProcessorPil

    return Ovis2Processor(
        image_processor=Ovis2ImageProcessorPil(size=_TILE, use_covering_area_grid=True, **_TILES),
        tokenizer=train_tokenizer({"image_token": "<image>"}, unnamed=_OVIS_TOKENS),
        image_seq_length=4,
    )


def _ovis_model(processor: Any) -> Any:
    from transformers import Ovis2Config, Ovis2ForConditionalGeneration

    tokenizer = processor.tokenizer
    atom, *indicators = tokenizer.convert_tokens_to_ids(_OVIS_TOKENS)
    vision = vision_config(vocab_size=64, hidden_stride=2, num_visual_indicator_tokens=5)
    config = Ovis2Config(
        text_config={"model_type": "qwen2", **text_config(tokenizer)},
        vision_config=vision,
        image_token_id=atom,
        visual_indicator_token_ids=indicators,
        vocab_size=len(tokenizer),
        hidden_size=32,
    )
    return Ovis2ForConditionalGeneration(config)


RECIPES = {
    "aya_vision": Recipe("<image>", _aya_processor, _aya_model),
    "ovis2": Recipe("<image>", _ovis_processor, _ovis_model),
}
