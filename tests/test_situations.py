"""Public reports of this class of bug, rebuilt on tiny models.

Each begins with what its reporter had, an error text, an exception or a program that runs, and with
no argument that they would not think of. The answer must name the sample, and say why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import vlmdebug as vd
from vlmdebug.magics import watching


class Answer(NamedTuple):
    """What came of it: the samples that were named, and the text."""

    samples: tuple[int, ...]
    said: str


class Situation(NamedTuple):
    """A report, its rebuilt program, and the answer: the sample, and words of the cause."""

    origin: str
    program: Callable[[], Answer]
    samples: tuple[int, ...] | None
    words: str


SITUATIONS: list[Situation] = []


def situation(origin: str, samples: tuple[int, ...] | None, words: str) -> Any:
    """Add a program; `samples`: None where no sample can be named."""

    def added(program: Callable[[], Answer]) -> Callable[[], Answer]:
        SITUATIONS.append(Situation(origin, program, samples, words))
        return program

    return added


# --- what a reporter does --------------------------------------------------------------------


def after(program: Callable[[], Any]) -> Answer:
    """An exception, then `vlmdebug.post_mortem()`."""
    try:
        program()
    except Exception:
        found = vd.post_mortem()
        return Answer(found.samples, str(found))
    raise AssertionError("the program did not raise")


def running(program: Callable[[], Any]) -> Answer:
    """`vlmdebug run`, where the model does not raise."""
    with watching() as sessions, torch.no_grad():
        program()
    reports = [found.call.report for found in sessions[0].found.values()]
    mismatches = [one for report in reports for one in report.mismatches]
    samples = {sample for one in mismatches for sample in one.samples}
    return Answer(tuple(sorted(samples)), "\n".join(one.message for one in mismatches))


def batch_of(
    family: str, images: Any = (1, 1, 1), **options: Any
) -> tuple[Any, Any, dict[str, Any]]:
    model, processor = vd.tiny.build(family)
    given = {"sizes": (160, 160), "padding_side": "right", **options}
    return model, processor, dict(vd.tiny.batch(family, images, **given))


def token_of(model: Any) -> int:
    config = model.config
    return getattr(config, "image_token_id", None) or config.image_token_index


def with_tokens(inputs: dict[str, Any], sample: int, tokens: list[int]) -> dict[str, Any]:
    """More tokens at the end of one sample, as a completion; the others are padded."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    more, shown = ids.new_zeros(len(ids), len(tokens)), mask.new_zeros(len(ids), len(tokens))
    more[sample], shown[sample] = torch.tensor(tokens), 1
    given = {"input_ids": torch.cat([ids, more], 1), "attention_mask": torch.cat([mask, shown], 1)}
    types = inputs.get("mm_token_type_ids")
    if types is not None:
        given["mm_token_type_ids"] = torch.cat([types, torch.zeros_like(more)], 1)
    return {**inputs, **given}


def image(side: int = 64) -> Any:
    from PIL import Image

    return Image.new("RGB", (side, side))


# --- the reports ------------------------------------------------------------------------------


@situation("verl-project/verl#3155", (1,), "sampled by a model in its completion")
def an_image_token_in_a_completion() -> Answer:
    model, _, inputs = batch_of("qwen2_5_vl")
    return after(lambda: model(**with_tokens(inputs, 1, [7, token_of(model), 7])))


@situation("verl-project/verl#6656", (0,), "image")
def an_image_token_without_any_image() -> Answer:
    model, _, inputs = batch_of("qwen2_5_vl", [0, 0])
    bad = with_tokens(inputs, 0, [7, token_of(model)])
    return running(lambda: model(**bad))


@situation("2U1/Qwen-VL-Series-Finetune#218", (2,), "3 too many")
def placeholders_that_are_typed_in_the_data() -> Answer:
    model, _, inputs = batch_of("qwen2_5_vl")
    return after(lambda: model(**with_tokens(inputs, 2, [token_of(model)] * 3)))


def without_placeholders(family: str) -> Answer:
    model, _, inputs = batch_of(family, [1])
    ids = inputs["input_ids"].masked_fill(inputs["input_ids"] == token_of(model), 7)
    return after(lambda: model(**{**inputs, "input_ids": ids}))


@situation("datalab-to/chandra#88", (0,), "0 placeholder tokens")
def a_prompt_without_placeholders() -> Answer:
    return without_placeholders("qwen2_5_vl")


@situation("lmstudio-ai/mlx-engine#325", (0,), "0 placeholder tokens")
def a_prompt_without_placeholders_of_another_model() -> Answer:
    return without_placeholders("qwen3_5")


@situation("NVIDIA-NeMo/RL#2957", (0, 1, 2), "columns")
def media_narrowed_with_the_text() -> Answer:
    model, _, inputs = batch_of("qwen2_5_vl", [1, 2, 1])
    bad = {key: one[:, :63] if one.ndim == 2 else one for key, one in inputs.items()}
    return after(lambda: model(**bad))


@situation("NVIDIA-NeMo/Automodel#3531", (0, 1), "image_position_ids")
def positions_of_patches_cut_with_the_text() -> Answer:
    model, _, inputs = batch_of("gemma4", [1, 1])
    bad = {**inputs, "image_position_ids": inputs["image_position_ids"][:, :100]}
    return after(lambda: model(**bad))


@situation("NVIDIA-NeMo/RL#3940", (0, 1), "another size")
def images_processed_again_at_another_size() -> Answer:
    model, _, rollout = batch_of("qwen2_5_vl", [1, 1], sizes=(112, 112), seed=1)
    _, _, training = batch_of("qwen2_5_vl", [1, 1], sizes=(224, 112), seed=1)
    media = {key: training[key] for key in ("pixel_values", "image_grid_thw")}
    return after(lambda: model(**{**rollout, **media}))


@situation("Blaizzy/mlx-vlm#1726", (1,), "another shape")
def grids_of_different_shapes_in_a_collator() -> Answer:
    def collate(features: list[dict[str, Any]]) -> dict[str, Any]:
        return {key: np.stack([one[key] for one in features]) for key in features[0]}

    grids = [np.ones((count, 3), dtype=int) for count in (1, 2, 1)]
    return after(lambda: collate([{"image_grid_thw": grid} for grid in grids]))


@situation("hiyouga/LlamaFactory#10497", None, "unexpected keyword argument")  # no sample is wrong
def a_wrong_keyword() -> Answer:
    def cut(batch: dict[str, Any], *, packed: bool) -> Any:
        return batch

    def step(batch: dict[str, Any]) -> Any:
        return cut(batch, is_packed=False)  # type: ignore[call-arg]

    return after(lambda: step(batch_of("qwen2_5_vl")[2]))


@situation("QwenLM/Qwen3-VL#1261", (1,), "image_grid_thw")
def a_grid_with_odd_sides() -> Answer:
    model, _, inputs = batch_of("qwen2_5_vl", [1, 1])
    grid = inputs["image_grid_thw"].clone()
    grid[1, 1] -= 1
    rows = int(grid.prod(-1).sum())
    bad = {**inputs, "image_grid_thw": grid, "pixel_values": inputs["pixel_values"][:rows]}
    return after(lambda: model(**bad))


@situation("vllm-project/vllm#55644", (0, 1), "video")
def a_video_of_more_frames_in_its_text() -> Answer:
    model, _, inputs = batch_of("qwen2_5_vl", [1, 1], sizes=(112, 112))
    video, ids = model.config.video_token_id, inputs["input_ids"]
    ids = ids.masked_fill(ids == token_of(model), video)
    clips = {
        "pixel_values_videos": torch.randn(32, 1176),
        "video_grid_thw": torch.tensor([[1, 4, 4]] * 2),
    }
    text = {"input_ids": ids, "attention_mask": inputs["attention_mask"]}
    return after(lambda: model(**text, mm_token_type_ids=(ids == video).int() * 2, **clips))


@situation("unslothai/unsloth#3159", (1,), "cut from image B1")
def truncation_inside_an_image() -> Answer:
    model, _, inputs = batch_of("gemma3", [1, 1], padding_side="left")
    last = int((inputs["input_ids"][1] == token_of(model)).nonzero()[-1])
    keys = ("input_ids", "attention_mask", "token_type_ids")
    cut = {key: one[:, : last - 1] if key in keys else one for key, one in inputs.items()}
    return after(lambda: model(**cut))


@situation("Blaizzy/mlx-vlm#1872", None, "")  # behind a cache nothing says which rows are due
def chunks_of_tokens_that_reuse_the_first_features() -> Answer:
    model, _, inputs = batch_of("llava", [2])
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    middle = int((ids[0] == token_of(model)).nonzero()[15]) + 1

    def prefill() -> None:
        first = model(input_ids=ids[:, :middle], pixel_values=pixels[:1], use_cache=True)
        cache = getattr(first, "cache", None) or first.past_key_values
        model(input_ids=ids[:, middle:], pixel_values=pixels[:1], past_key_values=cache)

    return running(prefill)


@situation("vllm-project/vllm#51827", (0,), "pixel_values")
def tiles_of_a_sample_cut_per_image() -> Answer:
    model, _, inputs = batch_of("idefics3", [1, 1])

    def forwards() -> None:
        for sample in range(2):
            own = {key: one[sample : sample + 1] for key, one in inputs.items()}
            media = ("pixel_values", "pixel_attention_mask")
            pixels = {key: inputs[key][:2] if not sample else inputs[key][2:] for key in media}
            with suppress(Exception):
                model(**{**own, **pixels})

    return running(forwards)


@situation("vllm-project/vllm#39681", (1,), "cannot be stacked")
def samples_processed_one_by_one() -> Answer:
    _, processor, _ = batch_of("qwen2_5_vl", [1])

    def collate(features: list[Any]) -> Any:
        return torch.utils.data.default_collate([dict(one) for one in features])

    texts = [processor.image_token] * 3
    ran = [
        processor(text=[text], images=[image(side)], return_tensors="pt")
        for text, side in zip(texts, (64, 112, 64), strict=True)
    ]
    media = [{key: one[key] for key in ("pixel_values", "image_grid_thw")} for one in ran]
    return after(lambda: collate(media))


@situation("NVIDIA-NeMo/Megatron-Bridge#4776", (0, 1), "labels")
def tokens_expanded_after_the_labels() -> Answer:
    model, _, inputs = batch_of("llava", [1, 1])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == token_of(model), -100)
    return running(lambda: model(**inputs, labels=labels.roll(5, 1)))


@situation("MakazhanAlpamys/Soup#488", (0, 1), "labels")
def labels_of_placeholders() -> Answer:
    model, _, inputs = batch_of("llava", [1, 1])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    return running(lambda: model(**inputs, labels=labels))


@situation("yaolinli/TimeChat-Online#5", (1,), "video_grid_thw")
def the_first_grid_for_all_videos() -> Answer:
    model, _, inputs = batch_of("qwen2_5_vl", [1, 1], sizes=[(112, 112), (112, 224)])
    video, ids = model.config.video_token_id, inputs["input_ids"]
    text = {"input_ids": ids.masked_fill(ids == token_of(model), video)}
    clips = {
        "pixel_values_videos": torch.randn(128, 1176),
        "video_grid_thw": torch.tensor([[1, 8, 8]]),
    }
    types = (text["input_ids"] == video).int() * 2
    mask = inputs["attention_mask"]
    return after(lambda: model(**text, attention_mask=mask, mm_token_type_ids=types, **clips))


@situation("modelscope/ms-swift#5550", (1,), "placeholder 1 has no image")
def more_tags_than_images() -> Answer:
    _, processor, _ = batch_of("qwen2_5_vl", [1])
    tag = processor.image_token

    def collate(rows: list[dict[str, Any]]) -> Any:
        images = [one for row in rows for one in row["images"]]
        return processor(text=[row["text"] for row in rows], images=images)

    rows = [{"text": tag, "images": [image()]}, {"text": f"{tag} {tag}", "images": [image()]}]
    return after(lambda: collate(rows))


@situation("QwenLM/Qwen3-VL#1461", (0,), "another order")
def texts_in_another_order_than_their_images() -> Answer:
    model, _, inputs = batch_of("qwen2_5_vl", [1, 2], sizes=[(112, 112), (112, 224), (224, 224)])
    media = {"pixel_values", "image_grid_thw"}
    bad = {key: one if key in media else one.flip(0) for key, one in inputs.items()}
    return running(lambda: model(**bad))


@situation("huggingface/transformers#48887", (2,), "audio")
def placeholders_of_a_sound_that_are_missing() -> Answer:
    from recorded import RECORDERS, built

    model, _ = built("qwen2_audio")
    inputs = RECORDERS["qwen2_audio"].inputs(["a", "", "aa"])
    ids = inputs["input_ids"].clone()
    ids[2, (ids[2] == model.config.audio_token_index).nonzero()[-5:, 0]] = 7
    return after(lambda: model(**{**inputs, "input_ids": ids}))


def cases() -> Iterator[Any]:
    for one in SITUATIONS:
        yield pytest.param(one, id=one.origin)


@pytest.mark.parametrize("case", cases())
def test_the_sample_of_a_public_report_is_named(case: Situation) -> None:
    answer = case.program()

    assert case.words in answer.said
    if case.samples is not None:
        assert answer.samples == case.samples


def test_most_reports_name_their_sample() -> None:
    assert len(SITUATIONS) == 22
    assert sum(case.samples is not None for case in SITUATIONS) >= 20
