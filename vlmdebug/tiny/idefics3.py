"""Idefics3 and SmolVLM: one row of pixels per sample, its tiles padded to the largest sample.

SmolVLM is Idefics3 with videos, so both share everything but the classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest import mock

from vlmdebug.tiny.from_config import recipe_from_config
from vlmdebug.tiny.models import text_config, vision_config
from vlmdebug.tiny.processors import image_only
from vlmdebug.tiny.registry import Recipe
from vlmdebug.tiny.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import (
        Idefics3ForConditionalGeneration,
        Idefics3Processor,
        PreTrainedTokenizerFast,
        SmolVLMForConditionalGeneration,
        SmolVLMProcessor,
    )

_TILE = 56
# 16 patches of a tile, shuffled 2 x 2 into one token each.
_TOKENS_PER_TILE = 4
# The long side is cut into 3 tiles, the short one into 1 to 3, and the whole image is one more.
_MOST_TILES = 3
_RESIZE_TO = {"longest_edge": _MOST_TILES * _TILE}
_CUT_TO = {"longest_edge": _TILE}


def _tokenizer() -> PreTrainedTokenizerFast:
    rows = cols = range(1, _MOST_TILES + 1)
    cells = [f"<row_{row}_col_{col}>" for row in rows for col in cols]
    return train_tokenizer(
        {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>"},
        unnamed=["<end_of_utterance>", "<global-img>", *cells],
    )


def _idefics3_processor() -> Idefics3Processor:
    from transformers import Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    return Idefics3Processor(
        image_processor=Idefics3ImageProcessorPil(size=_RESIZE_TO, max_image_size=_CUT_TO),
        tokenizer=_tokenizer(),
        image_seq_len=_TOKENS_PER_TILE,
    )


def _smolvlm_processor() -> SmolVLMProcessor:
    from transformers.models.smolvlm import processing_smolvlm
    from transformers.models.smolvlm.image_processing_pil_smolvlm import (
        SmolVLMImageProcessorPil,
    )

    # The constructor checks for num2words, which only spells out the frame count of a video.
    # It may not be installed, so a callable replaces it while the constructor runs.
    with mock.patch.object(processing_smolvlm, "num2words", str):
        return image_only(
            processing_smolvlm.SmolVLMProcessor,
            image_processor=SmolVLMImageProcessorPil(size=_RESIZE_TO, max_image_size=_CUT_TO),
            tokenizer=_tokenizer(),
            image_seq_len=_TOKENS_PER_TILE,
            video_processor=None,
        )


def _idefics3_model(processor: Idefics3Processor) -> Idefics3ForConditionalGeneration:
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    return Idefics3ForConditionalGeneration(Idefics3Config(**_sizes_for(processor)))


def _smolvlm_model(processor: SmolVLMProcessor) -> SmolVLMForConditionalGeneration:
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    return SmolVLMForConditionalGeneration(SmolVLMConfig(**_sizes_for(processor)))


def _sizes_for(processor: Idefics3Processor | SmolVLMProcessor) -> dict:
    tokenizer = processor.tokenizer
    return {
        "text_config": {"model_type": "llama", **text_config(tokenizer)},
        "vision_config": vision_config(image_size=_TILE),
        "scale_factor": 2,
        "image_token_id": tokenizer.image_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


RECIPES = {
    "granite_docling": recipe_from_config(
        "granite_docling",
        processor="GraniteDoclingProcessor",
        images=(
            "granite_docling.image_processing_pil_granite_docling",
            "GraniteDoclingImageProcessorPil",
            {"size": {"height": _TILE, "width": _TILE}},
        ),
        placeholder="<image>",
        unnamed=[
            *("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"),
            *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
        ],
        parts={"image_seq_len": _TOKENS_PER_TILE},
        vision_config={
            "scale_factor": 2,
            "deepstack_visual_indexes": [0],
            "use_fine_route": False,
        },
    ),
    "idefics3": Recipe("<image>", _idefics3_processor, _idefics3_model),
    "smolvlm": Recipe("<image>", _smolvlm_processor, _smolvlm_model),
}
