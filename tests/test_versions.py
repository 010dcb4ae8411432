"""The user's own batch and model in the installed Python, torch and transformers.

`make test-versions` runs this file in an environment for each release; it needs no tiny model of
`vlmdebug.tiny`, whose recipes are for new releases. Models are built from the release's own
classes. Tests of models are skipped where transformers is not installed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import vlmdebug as vd
from vlmdebug.testing import assert_slices
from vlmdebug.tiny.registry import OLDEST
from vlmdebug.watching.pending import stream_of

ENCODED = "Media came already encoded"  # as `generate` passes them from transformers 5 on
IMAGES = (2, 0, 1)
SIZES = ((56, 84), (84, 56), (112, 56))
SPECIAL = {"image_token": "<image>", "boi_token": "<boi>", "eoi_token": "<eoi>"}
QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}

needs_transformers = pytest.mark.skipif(
    find_spec("transformers") is None, reason="transformers is not installed"
)


class Built(NamedTuple):
    """A small random model, its processor, and a batch that the processor made."""

    model: Any
    processor: Any
    inputs: Mapping[str, Any]
    images: tuple[int, ...]


# --- without a model -----------------------------------------------------------------------


def test_right_slicer_passes_every_layout():
    assert_slices(vd.slicers.corrected)


def test_wrong_slicer_is_falsified_by_its_smallest_batch():
    with pytest.raises(vd.MismatchError, match=r"images per sample \[2\], chunk size 1"):
        assert_slices(vd.slicers.by_sample)


def test_synthetic_batch_is_checked_and_its_report_survives_json():
    batch = vd.make_batch("gemma4", [2, 1])
    wrong = vd.check(vd.slicers.by_sample, batch, chunk_size=1)

    assert vd.check(vd.slicers.corrected, batch, chunk_size=1).ok
    assert f"{wrong.verdict} {wrong.verdict!s}" == "MISMATCH MISMATCH"
    assert vd.Report.from_json(wrong.to_json()).verdict == wrong.verdict


def test_exported_code_cuts_as_the_batch_does():
    vd.export(vd.make_batch("internvl", [1, 2])).verify()


def test_review_names_the_line_that_cuts_pixels_by_sample():
    wrong = (
        "def chunks(inputs, size):\n"
        "    for start in range(0, len(inputs['input_ids']), size):\n"
        "        try:\n"
        "            yield {\n"
        "                'input_ids': inputs['input_ids'][start:start + size],\n"
        "                'pixel_values': inputs['pixel_values'][start:start + size],\n"
        "            }\n"
        "        except ValueError:\n"
        "            raise\n"
    )
    right = "def chunks(inputs, size):\n    yield dict(inputs)\n"

    assert [one.line for one in vd.review.source(wrong).findings] == [6]
    assert not vd.review.source(right).findings


def test_device_without_streams_is_known_as_such():
    """By a way that torch 2.2 has, too."""
    assert stream_of(torch.device("mps")) is None


# --- models of the installed release -------------------------------------------------------


def named(*names: str) -> Any:
    """The first class that the release has; a processor without torchvision comes first."""
    import transformers

    return next(found for name in names if (found := getattr(transformers, name, None)))


def tokenizer(named: Mapping[str, str]) -> Any:
    from vlmdebug.tiny.tokenizer import train_tokenizer

    return train_tokenizer(named)


def text(**sizes: Any) -> dict[str, Any]:
    found = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    found |= {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.2}
    return {**found, **sizes}


def qwen2_vl() -> tuple[Any, Any, str]:
    import transformers

    from vlmdebug.tiny.processors import image_only

    words = tokenizer(QWEN)
    images = named("Qwen2VLImageProcessorPil", "Qwen2VLImageProcessor")(
        min_pixels=56 * 56, max_pixels=112 * 112
    )

    class Processor(transformers.Qwen2VLProcessor):
        tokenizer_class = "PreTrainedTokenizerFast"  # transformers 4 takes Qwen's own alone

    processor = image_only(Processor, image_processor=images, tokenizer=words, video_processor=None)
    ids = {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in QWEN.items()}
    rope = {"rope_type": "default", "type": "default", "mrope_section": [2, 3, 3]}
    config = transformers.Qwen2VLConfig(
        text_config=text(
            vocab_size=len(words),
            rope_scaling=rope,
            **({"rope_parameters": {**rope, "rope_theta": 1e4}} if newer() else {}),
        ),
        vision_config={"embed_dim": 32, "hidden_size": 32, "depth": 1, "num_heads": 2},
        **ids,
    )
    mark = "<|vision_start|><|image_pad|><|vision_end|>"
    return transformers.Qwen2VLForConditionalGeneration(config), processor, mark


def newer() -> bool:
    """Whether the release is 5 or newer, in which `rope_parameters` replaces `rope_scaling`."""
    import transformers

    return int(transformers.__version__.split(".")[0]) >= 5


def llava() -> tuple[Any, Any, str]:
    import transformers

    words = tokenizer({"image_token": "<image>"})
    images = named("CLIPImageProcessorPil", "CLIPImageProcessor")(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    processor = transformers.LlavaProcessor(
        images, words, patch_size=14, vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )  # fmt: skip
    vision = text(image_size=56, patch_size=14, projection_dim=32)
    del vision["num_key_value_heads"]
    config = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**text(vocab_size=len(words))),
        vision_config=transformers.CLIPVisionConfig(**vision),
        image_token_index=words.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    return transformers.LlavaForConditionalGeneration(config), processor, "<image>"


def gemma3() -> tuple[Any, Any, str]:
    import transformers

    words = tokenizer({**SPECIAL, "image_token": "<soft>"})
    side = {"height": 56, "width": 56}
    images = named("Gemma3ImageProcessorPil", "Gemma3ImageProcessor")(size=side)
    processor = transformers.Gemma3Processor(images, words, image_seq_length=4)
    vision = text(image_size=56, patch_size=14)
    del vision["num_key_value_heads"]
    config = transformers.Gemma3Config(
        text_config=text(vocab_size=len(words), head_dim=16, sliding_window=64),
        vision_config=vision,
        mm_tokens_per_image=4,
        image_token_index=words.convert_tokens_to_ids("<soft>"),
        boi_token_index=words.convert_tokens_to_ids("<boi>"),
        eoi_token_index=words.convert_tokens_to_ids("<eoi>"),
    )
    return transformers.Gemma3ForConditionalGeneration(config), processor, "<boi>"


MODELS: dict[str, Callable[[], tuple[Any, Any, str]]] = {
    "qwen2_vl": qwen2_vl,
    "llava": llava,
    "gemma3": gemma3,
}


@cache
def built(name: str) -> Built:
    from PIL import Image

    torch.manual_seed(0)
    model, processor, mark = MODELS[name]()
    noise = np.random.default_rng(0)
    drawn = [
        Image.fromarray(noise.integers(1, 255, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]
    processor.tokenizer.padding_side = "right"
    try:
        inputs = processed(processor, mark, IMAGES, drawn)
        counts = IMAGES
    except ValueError:  # transformers 4.56 refuses a sample without images
        counts = tuple(filter(None, IMAGES))
        inputs = processed(processor, mark, counts, drawn)
    return Built(model.eval(), processor, inputs, counts)


def processed(processor: Any, mark: str, counts: tuple[int, ...], drawn: list[Any]) -> dict:
    left = iter(drawn)
    images = [[next(left) for _ in range(count)] for count in counts]
    texts = [f"Compare {' '.join([mark] * count)} now." for count in counts]
    return dict(processor(text=texts, images=images, padding=True, return_tensors="pt"))


@pytest.fixture(params=MODELS)
def own(request) -> Built:
    if request.param == "gemma3" and [*map(int, torch.__version__.split(".")[:2])] < [2, 6]:
        pytest.skip("the masks of Gemma 3 require torch 2.6")
    return built(request.param)


def read(own: Built) -> vd.Batch:
    return vd.read_batch(
        own.inputs, processor=own.processor, config=own.model.config, num_images=own.images
    )


def runs(model: Any, call: Mapping[str, Any]) -> torch.Tensor | None:
    try:
        with torch.no_grad():
            return model(**call).logits
    except Exception:
        return None


@needs_transformers
def test_own_batch_is_read_without_doubt(own):
    batch = read(own)

    assert not batch.ambiguities
    assert vd.check(batch).ok
    assert tuple(batch.counts["image"]) == own.images


@needs_transformers
@pytest.mark.parametrize("size", [1, 2, 3])
def test_right_chunks_pass_and_the_model_gives_the_same_logits(own, size):
    batch = read(own)

    assert vd.check(vd.slicers.corrected, batch, chunk_size=size).ok
    assert vd.prove(vd.slicers.corrected, batch, own.model, chunk_size=size).ok


@needs_transformers
def test_wrong_chunks_are_found_and_the_model_agrees(own):
    batch = read(own)
    report = vd.check(vd.slicers.by_sample, batch, chunk_size=1)

    assert report.verdict == "MISMATCH"
    assert not vd.prove(vd.slicers.by_sample, batch, own.model, chunk_size=1).ok


def sliced(batch: vd.Batch, index: int, call: Mapping[str, Any]) -> list[Any]:
    """Findings of one chunk of a sample, if `call` comes in its place."""

    def slicer(inputs, chunk_size):
        for number, chunk in enumerate(batch.chunks(1)):
            yield call if number == index else chunk

    report = vd.check(slicer, batch, chunk_size=1, pictures=False)
    return [one for one in report.mismatches if one.chunk == index]


@needs_transformers
def test_key_is_asked_for_where_the_model_needs_it(own):
    """And what is said of the model is unknown, or what it does."""
    batch = read(own)
    wrong = []
    for index, chunk in enumerate(batch.chunks(1)):
        shown = chunk["attention_mask"].bool()
        right = runs(own.model, chunk)
        assert right is not None
        for key in chunk.keys() - {"input_ids"}:
            call = {name: value for name, value in chunk.items() if name != key}
            found, does = sliced(batch, index, call), runs(own.model, call)
            same = does is not None and torch.allclose(does[shown], right[shown], atol=1e-5)
            loud = [one.silent for one in found if one.silent is not None]
            if bool(found) is same or any(silent is (does is None) for silent in loud):
                wrong.append((index, key, does is None, same, loud))

    assert not wrong


@needs_transformers
def test_token_types_are_asked_for_where_the_forward_takes_them():
    """In transformers 4 the forward of Qwen2-VL has no argument of that name."""
    from transformers import Qwen2VLForConditionalGeneration as Model

    def without(inputs, chunk_size):
        for chunk in vd.slicers.corrected(inputs, chunk_size):
            yield {key: value for key, value in chunk.items() if key != "mm_token_type_ids"}

    taken = "mm_token_type_ids" in inspect.signature(Model.forward).parameters
    found = vd.falsify(without, families=["qwen2_5_vl"], clips=False)

    assert (found is not None) == taken


@needs_transformers
def test_generation_is_watched_without_a_false_alarm(own):
    accepted = inspect.signature(type(own.model).forward).parameters
    inputs = {key: value for key, value in own.inputs.items() if key in accepted}
    with vd.watch(own.model, processor=own.processor, on_mismatch="record") as trace:
        own.model.generate(**inputs, max_new_tokens=3, do_sample=False)

    assert len(trace.calls) == 3
    assert all(call.ok or (call.unread or "").startswith(ENCODED) for call in trace.calls)


@pytest.mark.long
@needs_transformers
def test_each_tiny_model_of_the_release_is_built_and_runs():
    """With an older torch some of them raise, which is transformers' own matter."""
    import transformers

    lacks_parts = release(transformers) < release_of(OLDEST)
    for family in vd.tiny.families():
        try:
            model, processor = vd.tiny.build(family)
        except vd.BadInput as error:
            assert lacks_parts, family
            assert f"needs transformers {OLDEST} or newer" in str(error)
            continue
        assert model.config.model_type
        if lacks_parts:
            continue  # its processors may refuse what later ones take
        inputs = vd.tiny.batch(family, processor=processor)
        assert len(inputs["input_ids"]) > 0
        if release(torch) >= [2, 13]:
            assert runs(model, inputs) is not None, family


def release(module):
    """Of an imported package: `[5, 24]`."""
    return release_of(module.__version__)


def release_of(version):
    return [*map(int, version.split(".")[:2])]
