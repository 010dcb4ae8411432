"""Idefics2 and Mllama: one row of pixels per sample, padded over its images."""

from __future__ import annotations

from typing import Any

from vlmdebug.tiny.from_config import recipe_from_config
from vlmdebug.tiny.models import text_config, vision_config
from vlmdebug.tiny.registry import Recipe
from vlmdebug.tiny.tokenizer import train_tokenizer

_RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]


def _idefics2_processor() -> Any:
    from transformers import Idefics2Processor
    from transformers.models.idefics2.image_processing_pil_idefics2 import (
        Idefics2ImageProcessorPil,
    )

    return Idefics2Processor(
        image_processor=Idefics2ImageProcessorPil(
            size={"shortest_edge": 40, "longest_edge": 56}, do_image_splitting=False
        ),
        tokenizer=train_tokenizer(
            {}, unnamed=["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
        ),
        image_seq_len=4,
    )


def _idefics2_model(processor: Any) -> Any:
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration

    tokenizer = processor.tokenizer
    perceiver = {
        "hidden_size": 32,
        "resampler_n_latents": 4,
        "resampler_depth": 1,
        "resampler_n_heads": 2,
        "resampler_head_dim": 16,
        "num_key_value_heads": 1,
        "initializer_range": 0.2,
    }
    config = Idefics2Config(
        text_config={"model_type": "mistral", **text_config(tokenizer)},
        vision_config=vision_config(initializer_range=0.2),
        perceiver_config=perceiver,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return Idefics2ForConditionalGeneration(config)


def _mllama_processor() -> Any:
    from transformers import MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    return MllamaProcessor(
        image_processor=MllamaImageProcessorPil(
            size={"height": 56, "width": 56}, max_image_tiles=4
        ),
        tokenizer=train_tokenizer({"image_token": "<|image|>"}, unnamed=["<|python_tag|>"]),
    )


def _mllama_model(processor: Any) -> Any:
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    tokenizer = processor.tokenizer
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        "vision_output_dim": 64,
        "intermediate_layers_indices": [0],
        "supported_aspect_ratios": _RATIOS,
        "max_num_tiles": 4,
        "norm_eps": 1e-5,
    }
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    config = MllamaConfig(
        text_config=text_config(tokenizer, cross_attention_layers=[1], rope_parameters=rope),
        vision_config=vision,
        image_token_index=tokenizer.image_token_id,
    )
    return MllamaForConditionalGeneration(config)


RECIPES = {
    "idefics": recipe_from_config(
        "idefics",
        processor="IdeficsProcessor",
        images=(
            "idefics.image_processing_pil_idefics",
            "IdeficsImageProcessorPil",
            {"image_size": 56},
        ),
        placeholder="",  # the processor writes the tokens of all images behind the text
        tokens={"image_token": "<image>"},
        unnamed=["<fake_token_around_image>"],
        vision_config={"embed_dim": 32},
    ),
    "idefics2": Recipe("<image>", _idefics2_processor, _idefics2_model),
    "mllama": Recipe("<|image|>", _mllama_processor, _mllama_model),
}
