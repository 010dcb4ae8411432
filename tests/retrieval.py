"""Tiny retrieval models with their real processors: an embedding for each token, or for each text
and image.

`prove` compares logits; here it is given the embeddings in their place. Models of CLIP's kind have
an embedding per text and one per image, which stand at every token of the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

IMAGES = ((200, 100), (100, 300), (160, 160))
TEXTS = ["A small cat.", "Which number do you read?", "Describe the picture."]
_SQUARE = {"height": 56, "width": 56}
_TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
_ENDS = {"bos_token_id": 2, "eos_token_id": 3}
_HEADS = {"num_attention_heads": 2, "initializer_range": 0.1}


@dataclass(frozen=True)
class Retriever:
    """A model, and a batch of three samples with one image each.

    Attributes:
        build: Makes the tiny model and its processor.
        layout: What `read_batch` is told of keys that it cannot know.
        call: Arguments of the processor besides the images.
    """

    build: Callable[[], tuple[Any, Any]]
    layout: Mapping[str, str]
    call: Mapping[str, Any]

    @property
    def reading(self) -> str:
        """The call of `read_batch` that reads a batch of the model."""
        told = f", layout={dict(self.layout)!r}" if self.layout else ", processor=processor"
        return f"read_batch(inputs{told}, num_images=num_images)"


class Embeddings:
    """A model with embeddings in place of logits, `(sample, seq, dim)`."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, **inputs: Any) -> SimpleNamespace:
        made = self.model(**inputs)
        if hasattr(made, "embeddings"):
            return SimpleNamespace(logits=made.embeddings)
        both = torch.cat([made.text_embeds, made.image_embeds], dim=-1)  # (sample, 2 * dim)
        tokens = inputs["input_ids"].shape[1]
        return SimpleNamespace(logits=both[:, None].expand(-1, tokens, -1))


def _awake(make: Callable[[], Any]) -> Any:
    from vlmdebug.tiny.models import _seeded, _wake

    with _seeded(0):
        model = make()
        _wake(model)
    return model.eval()


def _colqwen2() -> tuple[Any, Any]:
    from transformers import ColQwen2Config, ColQwen2ForRetrieval, ColQwen2Processor

    from vlmdebug import tiny

    vlm, processor = tiny.build("qwen2_vl")
    config = ColQwen2Config(vlm_config=vlm.config, embedding_dim=16)
    made = ColQwen2Processor(processor.image_processor, processor.tokenizer)
    return _awake(lambda: ColQwen2ForRetrieval(config)), made


def _colpali() -> tuple[Any, Any]:
    from transformers import ColPaliConfig, ColPaliForRetrieval, ColPaliProcessor

    from vlmdebug import tiny

    vlm, processor = tiny.build("paligemma")
    made = ColPaliProcessor(processor.image_processor, processor.tokenizer)
    vlm.config.text_config.vocab_size = vlm.config.vocab_size = len(made.tokenizer)
    config = ColPaliConfig(vlm_config=vlm.config, embedding_dim=16)
    return _awake(lambda: ColPaliForRetrieval(config)), made


def _tiles() -> Any:
    from transformers.models.idefics3 import image_processing_pil_idefics3

    size = {"longest_edge": 112}
    most = {"longest_edge": 56}
    return image_processing_pil_idefics3.Idefics3ImageProcessorPil(size=size, max_image_size=most)


def _tile_tokenizer() -> Any:
    from vlmdebug.tiny.tokenizer import train_tokenizer

    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
    return train_tokenizer({}, unnamed=[*special, *places])


def _modernvbert_config(tokenizer: Any) -> Any:
    from transformers import ModernVBertConfig

    from vlmdebug.tiny.from_config import small

    return small(
        ModernVBertConfig,
        tokenizer,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pixel_shuffle_factor=2,
        text_config={
            "model_type": "modernbert",
            **{f"{name}_token_id": 3 for name in ("cls", "sep")},
        },
        vision_config={"model_type": "siglip_vision_model", "vision_use_head": False},
    )


def _modernvbert() -> tuple[Any, Any]:
    from transformers import Idefics3Processor, ModernVBertForMaskedLM

    tokenizer = _tile_tokenizer()
    made = Idefics3Processor(_tiles(), tokenizer, image_seq_len=4)
    config = _modernvbert_config(made.tokenizer)
    return _awake(lambda: ModernVBertForMaskedLM(config)), made


def _colmodernvbert() -> tuple[Any, Any]:
    from transformers import (
        ColModernVBertConfig,
        ColModernVBertForRetrieval,
        ColModernVBertProcessor,
    )

    made = ColModernVBertProcessor(_tiles(), _tile_tokenizer(), image_seq_len=4)
    config = ColModernVBertConfig(vlm_config=_modernvbert_config(made.tokenizer), embedding_dim=16)
    return _awake(lambda: ColModernVBertForRetrieval(config)), made


def _clip() -> tuple[Any, Any]:
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    from vlmdebug.tiny.tokenizer import train_tokenizer

    tokenizer = train_tokenizer({})
    images = CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=_SQUARE)
    text = {**_TEXT, **_HEADS, "vocab_size": len(tokenizer), **_ENDS}
    vision = {**_TEXT, **_HEADS, "image_size": 56, "patch_size": 14}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    return _awake(lambda: CLIPModel(config)), CLIPProcessor(images, tokenizer)


def _siglip() -> tuple[Any, Any]:
    from transformers import SiglipConfig, SiglipModel, SiglipProcessor
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    from vlmdebug.tiny.tokenizer import train_tokenizer

    tokenizer = train_tokenizer({})
    text = {**_TEXT, **_HEADS, **_ENDS, "vocab_size": len(tokenizer), "projection_size": 32}
    vision = {**_TEXT, **_HEADS, "image_size": 56, "patch_size": 14}
    config = SiglipConfig(text_config=text, vision_config=vision)
    made = SiglipProcessor(SiglipImageProcessorPil(size=_SQUARE), tokenizer)
    return _awake(lambda: SiglipModel(config)), made


_PAIR = {"pixel_values": "sample"}
_TEXT_TOO = {"text": TEXTS, "padding": True}
RETRIEVERS = {
    "colqwen2": Retriever(_colqwen2, {**_PAIR, "image_grid_thw": "sample"}, {}),
    "colpali": Retriever(_colpali, _PAIR, {}),
    "colmodernvbert": Retriever(_colmodernvbert, {**_PAIR, "pixel_attention_mask": "sample"}, {}),
    "modernvbert": Retriever(
        _modernvbert, {}, {"text": [f"<image> {text}" for text in TEXTS], "padding": True}
    ),
    "clip": Retriever(_clip, _PAIR, _TEXT_TOO),
    "siglip": Retriever(_siglip, _PAIR, _TEXT_TOO),
}


@cache
def built(name: str) -> tuple[Any, Any]:
    """The tiny model and its processor, once per process."""
    model, processor = RETRIEVERS[name].build()
    return (model if name == "modernvbert" else Embeddings(model)), processor


def inputs_of(name: str) -> dict[str, Any]:
    """What the processor returns for three images, and three texts where it takes both."""
    from vlmdebug import tiny

    call, processor = RETRIEVERS[name].call, built(name)[1]
    images = [own[0] for own in tiny.images([1, 1, 1], IMAGES)]
    if name == "colmodernvbert":  # its `__call__` takes no images alone
        return dict(processor.process_images(images, return_tensors="pt"))
    given = [[image] for image in images] if name == "modernvbert" else images
    return dict(processor(images=given, return_tensors="pt", **call))
