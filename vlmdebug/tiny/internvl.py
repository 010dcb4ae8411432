"""InternVL: one row of pixels per tile, and no count of tiles per image in the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmdebug.tiny.models import text_config, vision_config
from vlmdebug.tiny.processors import image_only
from vlmdebug.tiny.registry import Recipe
from vlmdebug.tiny.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import InternVLForConditionalGeneration, InternVLProcessor

_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
_TILE = 56
# 16 patches of a tile, shuffled 2 x 2 into one token each.
_TOKENS_PER_TILE = 4


def _processor() -> InternVLProcessor:
    from transformers import InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
        GotOcr2ImageProcessorPil,
    )

    image_processor = GotOcr2ImageProcessorPil(
        size={"height": _TILE, "width": _TILE}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    return image_only(
        InternVLProcessor,
        image_processor=image_processor,
        tokenizer=train_tokenizer(_TOKENS),
        image_seq_length=_TOKENS_PER_TILE,
        video_processor=None,
    )


def _model(processor: InternVLProcessor) -> InternVLForConditionalGeneration:
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    tokenizer = processor.tokenizer
    config = InternVLConfig(
        text_config={"model_type": "llama", **text_config(tokenizer)},
        vision_config=vision_config(image_size=[_TILE, _TILE], patch_size=[14, 14]),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=_TOKENS_PER_TILE,
    )
    return InternVLForConditionalGeneration(config)


RECIPES = {"internvl": Recipe("<IMG_CONTEXT>", _processor, _model)}
