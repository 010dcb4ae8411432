"""Gemma 4: one row of pixels per image, padded to a budget of patches.

`image_position_ids` says which of the patches are real, so the number of soft tokens differs
from image to image while the shapes do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlmdebug.tiny.models import text_config
from vlmdebug.tiny.processors import image_only
from vlmdebug.tiny.registry import Recipe
from vlmdebug.tiny.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import Gemma4ForConditionalGeneration
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor

_TOKENS = {
    "image_token": "<|image|>",
    "boi_token": "<|image>",
    "eoi_token": "<image|>",
    # The processor reads the audio tokens even if no audio is given.
    "audio_token": "<|audio|>",
    "boa_token": "<|audio>",
    "eoa_token": "<audio|>",
}


def _processor() -> Gemma4Processor:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil
    from transformers.models.gemma4.processing_gemma4 import Gemma4Processor

    return image_only(
        Gemma4Processor,
        # The smallest budget upstream allows.
        image_processor=Gemma4ImageProcessorPil(max_soft_tokens=70),
        tokenizer=train_tokenizer(_TOKENS, unnamed=["<|video|>"]),
        feature_extractor=None,
        video_processor=None,
    )


def _model(processor: Gemma4Processor) -> Gemma4ForConditionalGeneration:
    from transformers import (
        Gemma4Config,
        Gemma4ForConditionalGeneration,
        Gemma4TextConfig,
        Gemma4VisionConfig,
    )

    tokenizer = processor.tokenizer
    text = text_config(
        tokenizer,
        head_dim=16,
        global_head_dim=16,
        hidden_size_per_layer_input=0,
        vocab_size_per_layer_input=len(tokenizer),
        num_kv_shared_layers=0,
        sliding_window=512,
        layer_types=["sliding_attention", "full_attention"],
        # As in the larger released checkpoints: the soft tokens of an image attend to each other,
        # and mm_token_type_ids says which tokens those are.
        use_bidirectional_attention="vision",
    )
    vision = Gemma4VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    config = Gemma4Config(
        text_config=Gemma4TextConfig(**text),
        vision_config=vision,
        audio_config=None,
        image_token_id=processor.image_token_id,
        video_token_id=processor.video_token_id,
        audio_token_id=processor.audio_token_id,
        boi_token_id=tokenizer.boi_token_id,
        eoi_token_id=tokenizer.eoi_token_id,
    )
    return Gemma4ForConditionalGeneration(config)


RECIPES = {"gemma4": Recipe(_TOKENS["image_token"], _processor, _model)}
