"""Real processors in calls that return another layout than usual, read, cut and run.

Those that need torchvision run in the process that has it (`test_torchvision.py`).
"""

from __future__ import annotations

import importlib
import os

import numpy as np
import odd
import pytest
import torch
import transformers
from architectures import VARIABLE, architectures

import vlmdebug as vd
from vlmdebug.tiny.tokenizer import train_tokenizer
from vlmdebug.tiny.unproven import RECIPES

V = "<video>"
NOISE = np.random.default_rng(0)
needs_torchvision = pytest.mark.skipif(VARIABLE not in os.environ, reason="needs torchvision")


def get(path):
    """A class of transformers.models, by its path."""
    module, name = path.rsplit(".", 1)
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)


def video(frames, width, height):
    return NOISE.integers(1, 255, (frames, height, width, 3), dtype=np.uint8)


def proven(batch, model):
    """Whether the batch's own chunks, and the exported code, leave the logits as they are."""
    slicers = [lambda _, size: batch.chunks(size), vd.export(batch).function]
    proofs = [vd.prove(slicer, batch, model, chunk_size=1) for slicer in slicers]
    return [str(proof) for proof in proofs if not proof.ok] == []


# --- SmolVLM: rows are videos -----------------------------------------------------------------


@pytest.fixture
def smolvlm(monkeypatch):
    from transformers.models.smolvlm import processing_smolvlm

    monkeypatch.setattr(processing_smolvlm, "num2words", str)  # an optional package for one word
    model, processor = vd.tiny.build("smolvlm")
    made = get("smolvlm.video_processing_smolvlm.SmolVLMVideoProcessor")
    size = {"longest_edge": 56}
    processor.video_processor = made(size=size, max_image_size=size)

    def read(texts, videos, **given):
        inputs = processor(
            text=texts, videos=videos, padding=True, return_tensors="pt", do_sample_frames=False
        )
        return vd.read_batch(inputs, processor=processor, **given)

    return model, read


@needs_torchvision
@pytest.mark.parametrize(
    ("texts", "frames", "counts"),
    [
        pytest.param(
            ["a <video> <video>", "t", "c <video>"], [3, 3, 3], (2, 0, 1), id="as samples"
        ),
        pytest.param(
            ["a <video>", "text", "c <video>"], [3, 3], (1, 0, 1), id="fewer than samples"
        ),
        pytest.param(["a <video> <video>", "c <video>"], [2, 3, 1], (2, 1), id="padded frames"),
    ],
)
def test_rows_of_smolvlm_are_videos(smolvlm, texts, frames, counts):
    model, read = smolvlm
    batch = read(texts, [video(count, 56, 56) for count in frames])

    assert batch.layout["pixel_values"] == vd.Axis("video")
    assert batch.counts["video"] == counts
    assert batch.image.features == tuple(4 * count for count in frames)
    assert vd.check(batch).ok
    assert vd.check(lambda _, size: batch.chunks(size), batch, chunk_size=1).ok
    assert proven(batch, model)


@needs_torchvision
def test_padded_frames_of_one_video_per_sample_are_no_features(smolvlm):
    model, read = smolvlm
    batch = read(["a <video>", "c <video>"], [video(2, 56, 56), video(3, 56, 56)])

    assert vd.check(batch).ok
    assert proven(batch, model)
    assert read(["a <video>"], [video(2, 56, 56)], num_videos=[1]).counts["video"] == (1,)


@needs_torchvision
def test_videos_of_smolvlm_that_are_cut_by_sample_are_found(smolvlm):
    model, read = smolvlm
    batch = read(["a <video> <video>", "t", "c <video>"], [video(3, 56, 56)] * 3)

    def by_sample(inputs, chunk_size):
        for start in range(len(inputs["input_ids"])):
            yield {
                key: value[start : start + 1]
                for key, value in inputs.items()
                if key != "num_images"
            }

    report = vd.check(by_sample, batch, chunk_size=1)

    assert {finding.key for finding in report.mismatches} >= {"pixel_values"}
    assert not vd.prove(by_sample, batch, model, chunk_size=1).ok


# --- other videos -----------------------------------------------------------------------------


@needs_torchvision
def test_compression_mask_has_a_row_per_video_feature():
    model, processor = vd.tiny.build("video_llama_3")
    made = get("video_llama_3.video_processing_video_llama_3.VideoLlama3VideoProcessor")
    size = {"shortest_edge": 784, "longest_edge": 112 * 112 * 8}
    processor.video_processor = made(patch_size=14, temporal_patch_size=1, merge_size=2, size=size)
    pad = "<|vision_start|><|video_pad|><|vision_end|>"
    inputs = processor(
        text=[f"a {pad}", "text", f"b {pad}"],
        videos=[np.repeat(video(1, 112, 56), 4, axis=0), video(4, 56, 56)],
        padding=True,
        return_tensors="pt",
        do_sample_frames=False,
    )
    batch = vd.read_batch(inputs, processor=processor)
    kept = inputs["video_compression_mask"]

    assert not kept.all()  # equal frames were dropped
    assert batch.layout["video_compression_mask"] == vd.Axis("video feature")
    assert batch.counts["video feature"] == (32, 0, 16)
    assert sum(batch.modalities["video"].features) == int(kept.sum())
    assert vd.check(batch).ok
    assert vd.check(lambda _, size: batch.chunks(size), batch, chunk_size=1).ok
    assert proven(batch, model)


@pytest.mark.parametrize("name", architectures(["video_llava"]))
def test_older_key_of_video_llava_has_a_row_per_image(name):
    model, processor = vd.tiny.build(name)
    inputs = processor(
        text=["a <image> <image>", "t", "b <image>"],
        images=odd.images((((60, 60), (60, 60)), (), ((60, 60),))),
        padding=True,
        return_tensors="pt",
    )
    batch = vd.read_batch(inputs, processor=processor)

    assert "pixel_values_images" in inputs
    assert batch.layout["pixel_values_images"] == vd.Axis("image")
    assert batch.counts["image"] == (2, 0, 1)
    assert vd.check(batch).ok
    assert proven(batch, model)


@pytest.mark.parametrize("name", architectures(["llava_onevision"]))
@pytest.mark.parametrize("given", [{}, {"num_images": [2, 1]}], ids=["by the text", "as given"])
def test_flat_list_of_images_is_counted_image_by_image(name, given):
    model, processor = vd.tiny.build(name)
    flat = odd.flat(odd.images((((200, 100), (100, 200)), ((160, 160),))))
    inputs = processor(
        text=["a <image> <image>", "x <image>"], images=flat, padding=True, return_tensors="pt"
    )
    batch = vd.read_batch(inputs, processor=processor, **given)

    assert inputs["batch_num_images"].tolist() == [1, 1, 1]
    assert batch.layout["batch_num_images"] == vd.Axis("image")
    assert batch.counts["image"] == (2, 1)
    assert vd.check(batch).ok
    assert proven(batch, model)


# --- one checkpoint with two names ------------------------------------------------------------


@pytest.fixture(scope="module")
def pixtral():
    """Pixtral-12B: a LLaVA model with Pixtral's tower and processor."""
    names = {"image_token": "[IMG]", "image_break_token": "[IMG_BREAK]"}
    tokenizer = train_tokenizer({**names, "image_end_token": "[IMG_END]"})
    pictures = get("pixtral.image_processing_pil_pixtral.PixtralImageProcessorPil")(
        size={"longest_edge": 112}, patch_size={"height": 14, "width": 14}
    )
    processor = transformers.PixtralProcessor(pictures, tokenizer, patch_size=14)
    small = {
        **{"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "initializer_range": 0.1},
    }
    vision = transformers.PixtralVisionConfig(image_size=112, patch_size=14, head_dim=16, **small)
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=transformers.LlamaConfig(
            vocab_size=len(tokenizer), num_key_value_heads=2, **small
        ),
        image_token_index=tokenizer.image_token_id,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    inputs = processor(
        text=["a [IMG] [IMG]", "text", "x [IMG]"],
        images=odd.images((((200, 100), (100, 200)), (), ((160, 160),))),
        padding=True,
        return_tensors="pt",
    )
    inputs.pop("token_type_ids", None)
    return transformers.LlavaForConditionalGeneration(config).eval(), processor, inputs


@needs_torchvision
@pytest.mark.parametrize("given", ["both", "model", "processor"])
def test_pixtral_is_a_llava_model_with_a_processor_of_its_own(pixtral, given):
    model, processor, inputs = pixtral
    sources = {"model": model, "processor": processor}
    batch = vd.read_batch(inputs, **(sources if given == "both" else {given: sources[given]}))

    assert batch.layout.family == "mistral3"
    assert batch.counts["image"] == (2, 0, 1)
    assert not batch.ambiguities
    assert vd.check(batch).ok
    assert proven(batch, model)


# --- audio ------------------------------------------------------------------------------------

AUDIO = {
    "audioflamingo3": ("AudioFlamingo3Processor", "<sound>"),
    "musicflamingo": ("MusicFlamingoProcessor", "<sound>"),
    "glmasr": ("GlmAsrProcessor", "<|pad|>"),
}


def windows(name, seconds=(3.0, 1.0)):
    """A batch of clips in windows of 2 seconds."""
    kind, token = AUDIO[name]
    unnamed = [token, "<|sound_bos|>", "<|sound_eos|>"]
    processor = getattr(transformers, kind)(
        transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=2),
        train_tokenizer({}, unnamed=unnamed),
    )
    sounds = [NOISE.normal(size=int(16000 * count)).astype("float32") for count in seconds]
    texts = [f"{letter} {processor.audio_token}" for letter in "abc"[: len(seconds)]]
    return processor, processor(text=texts, audio=sounds, return_tensors="pt", padding=True)


@pytest.mark.parametrize("name", AUDIO)
@pytest.mark.parametrize("given", [{}, {"num_audios": [1, 1, 1]}], ids=["by the text", "as given"])
def test_rows_of_audio_are_windows_of_clips(name, given):
    processor, inputs = windows(name, (3.0, 1.0, 5.5))
    batch = vd.read_batch(inputs, processor=processor, **given)

    assert not batch.ambiguities
    assert batch.layout["input_features"] == vd.Axis("window")
    assert batch.counts["window"] == (2, 1, 3)
    assert batch.counts["audio"] == (1, 1, 1)
    assert vd.check(batch).ok
    assert [len(chunk["input_features"]) for chunk in batch.chunks(1)] == [2, 1, 3]
    cut = vd.export(batch).function(dict(inputs), 1)
    assert [len(chunk["input_features"]) for chunk in cut] == [2, 1, 3]


def test_windows_of_an_unknown_model_are_given():
    inputs = {key: value for key, value in windows("audioflamingo3")[1].items()}
    unsure = vd.read_batch(inputs)
    batch = vd.read_batch(
        inputs, layout={"input_features": "window"}, counts={"window": [2, 1]}, num_audios=[1, 1]
    )

    assert 'layout={"input_features": "window"} with counts={"window": […]}' in (
        unsure.ambiguities[0].message
    )
    assert not batch.ambiguities
    assert [len(chunk["input_features_mask"]) for chunk in batch.chunks(1)] == [2, 1]


# --- what is ambiguous, and what its remedy gives ---------------------------------------------


def test_patches_padded_by_sample_are_not_read_as_qwens():
    """ColQwen2's: `pixel_values` is `(sample, max_patches, 1176)`."""
    ids = torch.ones(2, 5, dtype=torch.long)
    inputs = {
        "input_ids": ids,
        "attention_mask": ids,
        "pixel_values": torch.rand(2, 64, 1176),
        "image_grid_thw": torch.tensor([[1, 4, 8], [1, 8, 8]]),
    }
    unsure = vd.read_batch(inputs)
    layout = {"pixel_values": vd.Axis("sample", padded="patch"), "image_grid_thw": "image"}
    batch = vd.read_batch(inputs, layout=layout, num_images=[1, 1])

    assert {one.keys for one in unsure.ambiguities} == {("pixel_values",), ("image_grid_thw",)}
    assert not batch.ambiguities
    assert [len(chunk["image_grid_thw"]) for chunk in batch.chunks(1)] == [1, 1]


@needs_torchvision
def test_rows_of_minicpm_are_slices():
    recipe = RECIPES["minicpm_ocr"]
    processor, image = recipe.processor(), recipe.placeholder
    inputs = processor(
        text=[f"a {image}"], images=odd.images((((900, 900),),)), padding=True, return_tensors="pt"
    )
    batch = vd.read_batch(inputs, processor=processor, num_images=[1])

    assert batch.layout["target_sizes"].unit == "tile"
    assert batch.counts["tile"] == (len(inputs["target_sizes"]),)
    assert [one.keys for one in batch.ambiguities] == [("pixel_values",)]


@needs_torchvision
@pytest.mark.parametrize("crops", [False, True], ids=["whole images", "crops"])
def test_tiles_of_got_ocr_are_counted_by_their_placeholders(crops):
    """GOT-OCR 2 takes one image for each text, and writes the text itself."""
    processor = get("got_ocr2.processing_got_ocr2.GotOcr2Processor")(
        get("got_ocr2.image_processing_pil_got_ocr2.GotOcr2ImageProcessorPil")(
            size={"height": 56, "width": 56}
        ),
        train_tokenizer({}, unnamed=["<imgpad>", "<img>", "</img>", "<|im_start|>", "<|im_end|>"]),
    )
    pictures = odd.flat(odd.images((((300, 100),), ((60, 60),))))
    inputs = processor(images=pictures, padding=True, return_tensors="pt", crop_to_patches=crops)
    tiles = len(inputs["pixel_values"])
    batch = vd.read_batch(inputs, processor=processor)

    assert (tiles > 2) == crops
    assert batch.layout.family == "internvl"
    assert batch.counts["tile"] == (tiles - 1, 1)
    assert vd.check(batch).ok


def test_florence_is_compared_by_the_logits_of_its_decoder():
    vision = {"depths": [1] * 4, "embed_dim": [8, 16, 24, 32], "num_heads": [1, 2, 2, 2]}
    text = {
        **{"model_type": "bart", "vocab_size": 99, "d_model": 32, "encoder_layers": 1},
        **{"decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    }
    vision |= {"num_groups": [1, 2, 2, 2], "projection_dim": 32}
    torch.manual_seed(0)
    text |= {"init_std": 0.5}
    config = transformers.Florence2Config(vision_config=vision, text_config=text, image_token_id=9)
    model = transformers.Florence2ForConditionalGeneration(config).eval()
    ids = torch.tensor([[9] * 5 + [20, 21], [9] * 5 + [22, 1]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": 9 * torch.rand(2, 3, 64, 64) * torch.tensor([[[[1]]], [[[-1]]]]),
        "decoder_input_ids": torch.tensor([[2, 5, 7]] * 2),
    }
    batch = vd.read_batch(inputs, layout={"pixel_values": "sample"})

    def swapped(inputs, chunk_size):
        for chunk, other in zip(batch.chunks(1), [*batch.chunks(1)][::-1], strict=True):
            yield {**chunk, "pixel_values": other["pixel_values"]}

    assert vd.prove(lambda _, size: batch.chunks(size), batch, model).ok
    assert not vd.prove(swapped, batch, model).ok
