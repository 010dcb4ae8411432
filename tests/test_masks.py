"""Pixels beside what a batch says of them, with transformers' own processors and tiny models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from architectures import built
from PIL import Image

import vlmdebug as vd
from vlmdebug.core.tiling import aspect_ratios
from vlmdebug.families.idefics3 import Idefics3
from vlmdebug.families.synthesize import BatchSpec
from vlmdebug.tiny.registry import ONE_IMAGE

MASK, RATIOS, TILES = "pixel_attention_mask", "aspect_ratio_ids", "aspect_ratio_mask"
PLACE = "image_embeds_position_mask"
TALL, WIDE = (40, 56), (56, 40)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def plain(width: int, height: int, value: int) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), value, np.uint8))


def processed(family: str, images: list[Image.Image], **options: Any) -> dict[str, Any]:
    """One image per sample, whole."""
    _, processor = built(family)
    if family in ("idefics3", "smolvlm"):
        options["do_image_splitting"] = False
    token = getattr(processor.image_token, "content", processor.image_token)
    texts = [f"{token} question {number}" for number in range(len(images))]
    pictures = [[image] for image in images]
    return dict(
        processor(text=texts, images=pictures, return_tensors="pt", padding=True, **options)
    )


def checked(family: str, inputs: dict[str, Any]) -> vd.Report:
    return vd.check(inputs, processor=built(family)[1])


def logits(family: str, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return built(family)[0](**inputs).logits


@pytest.mark.parametrize("family", ["idefics2", "idefics3", "smolvlm", "mllama"])
@pytest.mark.parametrize("value", [0, 127, 128, 255])
def test_images_of_one_colour_are_no_padding(family, value):
    inputs = processed(family, [plain(*TALL, value), plain(*WIDE, value), noise(*TALL)])

    assert checked(family, inputs).verdict == "OK"


@pytest.mark.parametrize("family", ["idefics2", "mllama"])
def test_black_edges_of_images_that_are_not_normalized_are_no_padding(family):
    image = noise(56, 56)
    image.paste(0, (40, 0, 56, 56))

    assert checked(family, processed(family, [image], do_normalize=False)).verdict == "OK"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, "numpy"])
def test_padding_is_found_in_any_dtype(kind):
    inputs = processed("idefics2", [noise(*TALL), noise(*WIDE)])
    if kind == "numpy":
        inputs = {key: value.numpy() for key, value in inputs.items()}
        other = {**inputs, MASK: inputs[MASK][::-1].copy()}
    else:
        inputs["pixel_values"] = inputs["pixel_values"].to(kind)
        other = {**inputs, MASK: inputs[MASK].flip(0)}

    assert checked("idefics2", inputs).verdict == "OK"
    assert checked("idefics2", other).verdict == "MISMATCH"


@pytest.mark.parametrize(
    ("change", "hides", "shows"),
    [
        pytest.param(lambda mask: mask.transpose(-1, -2).contiguous(), 640, 640, id="transposed"),
        pytest.param(lambda mask: mask.flip(0), 640, 640, id="of the other sample"),
        pytest.param(torch.ones_like, 0, 896, id="of ones"),
        pytest.param(lambda mask: mask * (torch.arange(56) < 28), 672, 0, id="half"),
        pytest.param(lambda mask: mask.roll(5, -1), 280, 280, id="shifted"),
        pytest.param(torch.zeros_like, 2240, 0, id="of zeros"),
    ],
)
def test_mask_of_other_pixels_is_found_and_the_model_runs(change, hides, shows):
    inputs = processed("idefics2", [noise(*TALL), noise(*WIDE)])
    wrong = {**inputs, MASK: change(inputs[MASK])}

    report = checked("idefics2", wrong)
    first = report.mismatches[0]
    said = " and ".join(
        [f"hides {hides} pixels of its images"] * bool(hides)
        + [f"shows {shows} pixels of padding"] * bool(shows)
    )

    assert [m.code for m in report.mismatches] == ["VLM010"] * len(report.mismatches)
    assert first.message.startswith(f"{MASK} of sample 0 {said}.\n")
    assert first.silent is not False  # it runs, as the model itself says
    assert not torch.allclose(logits("idefics2", wrong), logits("idefics2", inputs), atol=1e-3)


def test_aspect_ratio_of_other_tiles_is_found_and_the_model_runs():
    inputs = processed("mllama", [noise(40, 56), noise(112, 40), noise(40, 200)])
    wrong = {**inputs, RATIOS: inputs[RATIOS].flip(0)}

    report = checked("mllama", wrong)

    assert inputs[RATIOS].tolist() == [[1], [2], [8]]
    assert [(m.key, m.samples, m.silent) for m in report.mismatches] == [
        (RATIOS, (0,), True),
        (RATIOS, (2,), True),
    ]
    assert report.mismatches[0].message == (
        "aspect_ratio_ids[0][0] is 8, 4 x 1 tiles (height x width), but aspect_ratio_mask shows 1 "
        "and pixel_values holds 1.\nThe model will not raise, but its answer changes.\n"
        "Pass all keys of images of one call of the processor."
    )
    assert not torch.equal(logits("mllama", wrong), logits("mllama", inputs))


def test_aspect_ratios_and_masks_of_other_images_are_found_by_their_pixels():
    inputs = processed("mllama", [noise(40, 56), noise(40, 200)])
    moved = {key: inputs[key].flip(0) for key in (RATIOS, TILES)}

    assert [m.samples for m in checked("mllama", {**inputs, **moved}).mismatches] == [(1,)]


def test_mask_that_shows_other_tiles_of_the_same_number_is_found():
    inputs = processed("mllama", [noise(40, 56), noise(112, 40)])
    mask = inputs[TILES].clone()
    mask[1, 0] = mask[1, 0].roll(1)
    report = checked("mllama", {**inputs, TILES: mask})

    assert [(m.key, m.samples, m.silent) for m in report.mismatches] == [(RATIOS, (1,), True)]
    assert "aspect_ratio_mask shows 2 of the first 3 and" in report.mismatches[0].message
    assert not torch.equal(logits("mllama", {**inputs, TILES: mask}), logits("mllama", inputs))


def test_id_of_no_aspect_ratio_is_said_to_be_none():
    inputs = processed("mllama", [noise(40, 56)])
    report = checked("mllama", {**inputs, RATIOS: inputs[RATIOS] + 11})

    assert report.mismatches[0].silent is None
    assert "is 12, which is no aspect ratio of so many tiles" in report.mismatches[0].message
    with pytest.raises(IndexError):
        logits("mllama", {**inputs, RATIOS: inputs[RATIOS] + 11})


def test_order_of_sides_of_an_aspect_ratio_is_said_to_be_beyond_comparison():
    report = checked("mllama", processed("mllama", [noise(112, 40)]))

    assert f"order of height and width in {RATIOS}" in [one.what for one in report.compared]


def test_aspect_ratios_are_those_of_transformers():
    from transformers.models.mllama import image_processing_pil_mllama as mllama

    for most in (1, 2, 4, 6):
        assert list(aspect_ratios(most)) == mllama.get_all_supported_aspect_ratios(most)


def test_drawn_batches_hold_padding_where_their_masks_hide_pixels():
    inputs, _ = Idefics3().synthesize(BatchSpec("idefics3", (2, 0, 1), (1, 2, 1)))
    hidden = np.broadcast_to(inputs[MASK][:, :, None] == 0, inputs["pixel_values"].shape)

    assert hidden.any()
    assert not inputs["pixel_values"][hidden].any()


def given(family: str) -> dict[str, Any]:
    images = (1, 1, 1) if family in (*ONE_IMAGE, "idefics") else (2, 0, 1)
    return dict(vd.tiny.batch(family, images))


def known(family: str) -> dict[str, Any]:
    model, processor = built(family)
    return {"processor": processor, "config": model.config, "pictures": False}


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("idefics2", MASK),
        ("mllama", TILES),
        ("mllama", "cross_attention_mask"),
        ("blip-2", "attention_mask"),
        ("qwen3_5", "attention_mask"),
    ],
)
@pytest.mark.parametrize("by", [2, 0.5])
def test_mask_of_other_values_than_0_and_1_is_doubted_as_models_multiply_by_it(family, key, by):
    inputs = given(family)
    odd = {**inputs, key: inputs[key] * by}
    report = vd.check(odd, **known(family))

    assert not torch.allclose(logits(family, odd), logits(family, inputs), atol=1e-4)
    assert (report.verdict, report.mismatches) == ("AMBIGUOUS", ())
    assert report.ambiguities == (
        f"{key} holds values other than 0 and 1: some models multiply by them, and others take "
        f"each that is not 0 for 1, or raise. Pass {key} as the processor returned it.",
    )
    for right in (inputs[key].bool(), inputs[key].float()):
        assert vd.check({**inputs, key: right}, **known(family)).ok


@pytest.mark.parametrize("by", [1, -2])
@pytest.mark.parametrize("family", ["kosmos-2", "kosmos-2.5"])
def test_image_of_kosmos_that_is_put_on_text_is_found_and_the_model_runs(family, by):
    inputs = given(family)
    wrong = {**inputs, PLACE: inputs[PLACE].roll(by, 1)}
    report = vd.check(wrong, **known(family))

    assert not torch.allclose(logits(family, wrong), logits(family, inputs), atol=1e-4)
    assert [(m.code, m.samples, m.silent) for m in report.mismatches] == [
        ("VLM010", (sample,), True) for sample in range(3)
    ]
    assert report.mismatches[0].message == (
        f"{PLACE} puts the image of sample 0 on columns {2 + by}:{6 + by}, but its 4 "
        "placeholder tokens are on columns 2:6 of input_ids.\n"
        "The model will not raise, but its answer changes.\n"
        f"Pad {PLACE} on the side where input_ids is padded, cut both alike, and keep its values "
        "and dtype."
    )
    right = vd.check(inputs, **known(family))
    assert right.ok
    assert f"{PLACE} against tokens of input_ids" in {str(one) for one in right.compared}


@pytest.mark.parametrize("change", [torch.ones_like, torch.zeros_like, torch.Tensor.bool])
def test_image_of_kosmos_with_more_or_fewer_places_is_found_and_the_model_raises(change):
    inputs = given("kosmos-2.5")
    wrong = {**inputs, PLACE: change(inputs[PLACE])}

    assert {m.silent for m in vd.check(wrong, **known("kosmos-2.5")).mismatches} == {False}
    with pytest.raises((RuntimeError, ValueError)):
        logits("kosmos-2.5", wrong)


def test_text_of_kosmos_that_is_cut_behind_its_image_is_right():
    inputs = given("kosmos-2.5")
    end = int((inputs[PLACE] == 1).any(0).nonzero()[-1]) + 1
    cut = {
        key: value[:, :end] if value.shape[:2] == inputs["input_ids"].shape else value
        for key, value in inputs.items()
    }
    moved = logits("kosmos-2.5", cut) - logits("kosmos-2.5", inputs)[:, :end]

    assert moved.abs().max() < 1e-4
    assert vd.check(cut, **known("kosmos-2.5")).ok


def test_place_of_an_image_that_nothing_says_is_named_as_not_compared():
    inputs = given("kosmos-2.5")
    report = vd.check(inputs, config=built("kosmos-2.5")[0].config, pictures=False)

    assert f"Not compared: {PLACE}." in " ".join(str(report).split())


@pytest.mark.parametrize("change", [torch.ones_like, lambda mask: mask | (mask.cumsum(1) == 17)])
def test_tiles_of_padding_that_granite_docling_is_shown_are_found(change):
    inputs = given("granite_docling")
    wrong = {**inputs, MASK: change(inputs[MASK])}
    found = vd.check(wrong, **known("granite_docling")).mismatches

    assert f"{MASK} of sample 2 shows 5 tiles of padding." in [
        one.message.splitlines()[0] for one in found
    ]
    with pytest.raises(ValueError, match="do not match"):
        logits("granite_docling", wrong)


def test_tile_that_granite_docling_is_shown_in_place_of_padding_is_found_and_the_model_runs():
    """As many tiles are chosen as there should be: only their values tell."""
    inputs = given("granite_docling")
    mask = inputs[MASK]
    row = int(mask.sum(1).argmin())
    row = row if mask[row].any() else int((mask.sum(1) + mask.shape[1] * ~mask.any(1)).argmin())
    wrong = mask.clone()
    wrong[row] = wrong[row].roll(1)
    found = vd.check({**inputs, MASK: wrong}, **known("granite_docling")).mismatches

    assert [one.message.splitlines()[0] for one in found] == [
        f"{MASK} of sample {row} hides 1 tile of its images and shows 1 tile of padding."
    ]
    moved = logits("granite_docling", {**inputs, MASK: wrong}) - logits("granite_docling", inputs)
    assert moved[row][inputs["attention_mask"][row] == 1].abs().max() > 1e-4


@pytest.mark.parametrize("normalized", [True, False])
def test_black_tiles_are_tiles_of_an_image_if_their_mask_says_so(normalized):
    model, processor = built("granite_docling")
    images = [[Image.new("RGB", (96, 64))], [Image.new("RGB", (64, 64), (200, 10, 10))]]
    texts = [f"{processor.image_token} on it?"] * 2
    options = {"padding": True, "return_tensors": "pt", "do_normalize": normalized}
    inputs = dict(processor(text=texts, images=images, **options))
    black = inputs["pixel_values"].flatten(2)[:, 0, 0] == 0

    assert black.any() == (not normalized)
    assert vd.check(inputs, **known("granite_docling")).ok
    model(**inputs)  # it compares placeholder tokens with features


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_mask_of_tiles_by_which_the_model_cannot_choose_is_doubted(dtype):
    inputs = given("granite_docling")
    odd = {**inputs, MASK: inputs[MASK].to(dtype)}
    report = vd.check(odd, **known("granite_docling"))

    assert report.ambiguities == (
        f"{MASK} holds {dtype}, but the model takes tiles by truth values: with others it raises, "
        "or takes other tiles. Cast it to bool.",
    )
    with pytest.raises((IndexError, ValueError)):
        logits("granite_docling", odd)


@pytest.mark.parametrize(
    ("family", "key"), [("instructblip", "qformer_attention_mask"), ("aria", "pixel_mask")]
)
def test_mask_that_nothing_in_a_batch_tells_is_named_as_not_compared(family, key):
    said = " ".join(str(vd.check(given(family), **known(family))).split())

    assert f"Not compared: {key}." in said


def test_padding_that_is_shown_between_padding_is_doubted_and_moves_the_logits():
    """A single token next to the text may be its first; one with padding on both sides is none."""
    inputs = given("internvl")
    mask = inputs["attention_mask"]
    hidden = [int((row == 0).sum()) for row in mask]
    sample = hidden.index(max(hidden))
    wrong, edge = mask.clone(), mask.clone()
    wrong[sample, hidden[sample] // 2] = edge[sample, hidden[sample] - 1] = 1
    shown = {**inputs, "attention_mask": wrong}
    moved = logits("internvl", shown)[sample] - logits("internvl", inputs)[sample]

    assert mask[sample, 0] == 0  # it is padded on the left
    assert moved[mask[sample] == 1].abs().max() > 1e-4
    assert (
        vd.check(shown, **known("internvl"))
        .ambiguities[0]
        .startswith(f"attention_mask shows 1 padding token in front of the text of sample {sample}")
    )
    assert vd.check({**inputs, "attention_mask": edge}, **known("internvl")).ok


@pytest.mark.parametrize("family", ["qwen2_5_vl", "glm4v", "gemma3"])
def test_text_that_is_typed_as_an_image_is_found(family):
    inputs = given(family)
    key = "token_type_ids" if family == "gemma3" else "mm_token_type_ids"
    types, mask = inputs[key], inputs["attention_mask"]
    text = ((types == 0) & (mask == 1))[1].nonzero().flatten()  # of the sample without images
    wrong = types.clone()
    wrong[1, text[3:6]] = 1
    report = vd.check({**inputs, key: wrong}, **known(family))

    assert [m.message.splitlines()[0] for m in report.mismatches] == [
        f"sample 1 has 0 placeholder tokens in input_ids, but {key} marks 3."
    ]
    try:
        moved = logits(family, {**inputs, key: wrong}) - logits(family, inputs)
    except RuntimeError:
        return  # M-RoPE looks for as many images
    assert moved[mask == 1].abs().max() > 1e-4


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl", "glm4v", "ernie4_5_vl_moe"])
@pytest.mark.parametrize("side", [-1, 1])
def test_token_next_to_an_image_that_is_typed_as_one_is_found_where_m_rope_raises(family, side):
    inputs = given(family)
    types = inputs["mm_token_type_ids"]
    row = types[0].nonzero().flatten()
    wrong = types.clone()
    wrong[0, int(row[0]) - 1 if side < 0 else int(row[-1]) + 1] = 1
    report = vd.check({**inputs, "mm_token_type_ids": wrong}, **known(family))

    assert [m.message.splitlines()[0] for m in report.mismatches] == [
        f"sample 0 has {len(row)} placeholder tokens in input_ids, but mm_token_type_ids marks "
        f"{len(row) + 1}."
    ]
    with pytest.raises(RuntimeError):
        logits(family, {**inputs, "mm_token_type_ids": wrong})


def test_types_of_padding_that_is_hidden_are_not_compared():
    inputs = given("qwen2_5_vl")
    types = inputs["mm_token_type_ids"] | (inputs["attention_mask"] == 0)

    assert vd.check({**inputs, "mm_token_type_ids": types}, **known("qwen2_5_vl")).ok
    assert torch.equal(
        logits("qwen2_5_vl", {**inputs, "mm_token_type_ids": types}), logits("qwen2_5_vl", inputs)
    )
