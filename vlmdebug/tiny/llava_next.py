"""LLaVA-NeXT: one row of pixels per image, its tiles padded to the image with most of them.

The number of features of an image follows from `image_sizes`, its original height and width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmdebug.tiny.models import text_config, vision_config
from vlmdebug.tiny.registry import Recipe
from vlmdebug.tiny.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor

_TILE = 56
_PATCH = 14
# The canvases on which an image may be placed, (height, width): wide, tall, square.
_PINPOINTS = [[_TILE, 2 * _TILE], [2 * _TILE, _TILE], [2 * _TILE, 2 * _TILE]]


def _processor() -> LlavaNextProcessor:
    from transformers import LlavaNextProcessor
    from transformers.models.llava_next.image_processing_pil_llava_next import (
        LlavaNextImageProcessorPil,
    )

    image_processor = LlavaNextImageProcessorPil(
        size={"shortest_edge": _TILE},
        crop_size={"height": _TILE, "width": _TILE},
        image_grid_pinpoints=_PINPOINTS,
    )
    return LlavaNextProcessor(
        image_processor=image_processor,
        tokenizer=train_tokenizer({"image_token": "<image>"}),
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def _model(processor: LlavaNextProcessor) -> LlavaNextForConditionalGeneration:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
    )

    tokenizer = processor.tokenizer
    config = LlavaNextConfig(
        text_config=LlamaConfig(**text_config(tokenizer)),
        vision_config=CLIPVisionConfig(**vision_config(patch_size=_PATCH, projection_dim=32)),
        image_token_index=tokenizer.image_token_id,
        image_grid_pinpoints=_PINPOINTS,
        image_seq_length=(_TILE // _PATCH) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )
    return LlavaNextForConditionalGeneration(config)


RECIPES = {"llava_next": Recipe("<image>", _processor, _model)}
