"""Placeholders against evidence of their own, what a batch lacks, its labels, what was compared."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from architectures import REFUSES_TEXT, architectures
from PIL import Image

import vlmdebug as vd
from vlmdebug.checking import labels as judged
from vlmdebug.core.record import Compared
from vlmdebug.families.assemble import assemble
from vlmdebug.families.facts import BatchFacts
from vlmdebug.families.metadata import anyres_tokens, read_metadata

CONSTANT = ("llava", "vipllava", "video_llava", "gemma3", "paligemma", "janus", "deepseek_vl")
ALSO = ("deepseek_vl_hybrid", "shieldgemma2", "aria", "idefics2")


def real(family, images, **options):
    model, processor = vd.tiny.build(family)
    return model, processor, dict(vd.tiny.batch(family, images, **options))


def ways(model, processor):
    return {"processor": processor}, {"config": model.config}, {"model": model}


def codes(report):
    return [(m.code, m.silent) for m in report.mismatches]


@pytest.mark.parametrize("family", CONSTANT + ALSO)
def test_every_second_placeholder_lost_is_never_ok(family):
    model, processor, inputs = real(family, [1, 1])
    token = vd.read_batch(inputs, processor=processor).image.token_id
    ids = inputs["input_ids"].clone()
    for row in ids:
        row[(row == token).nonzero().flatten()[::2]] = 9

    for known in ways(model, processor):
        assert vd.check(inputs, **known).ok
        assert ("VLM010", False) in codes(vd.check({**inputs, "input_ids": ids}, **known))


def test_features_that_only_placeholders_suggest_are_not_compared():
    _, _, inputs = real("llava", [1, 1])
    ids = {"layout": "llava", "num_images": [1, 1]}
    report = vd.check(inputs, **ids)

    assert report.verdict == "AMBIGUOUS"
    assert any(one.against is None for one in report.compared)


@pytest.mark.parametrize("family", ["llava", "gemma3", "qwen2_5_vl"])
def test_right_slicer_is_ok_only_where_the_batch_is(family):
    _, processor, inputs = real(family, [1, 1])
    known = {"layout": vd.read_batch(inputs, processor=processor).layout.family}
    slicer = vd.slicers.corrected

    assert vd.check(slicer, inputs, processor=processor).ok
    report = vd.check(slicer, inputs, num_images=[1, 1], **known)
    assert report.verdict == "AMBIGUOUS"
    assert report.ambiguities == vd.check(inputs, num_images=[1, 1], **known).ambiguities


@pytest.mark.parametrize(
    ("family", "key", "silent"),
    [
        ("qwen2_5_vl", "mm_token_type_ids", True),
        ("qwen3_vl", "mm_token_type_ids", False),
        ("gemma4", "mm_token_type_ids", True),
        ("gemma3", "token_type_ids", True),
        ("mllama", "cross_attention_mask", True),
        ("deepseek_vl_hybrid", "high_res_pixel_values", False),
    ],
)
def test_key_that_the_whole_batch_lacks_is_as_loud_as_the_model(family, key, silent):
    model, processor, inputs = real(family, [2, 1], sizes=(160, 160))
    del inputs[key]

    for known in ways(model, processor):
        assert codes(vd.check(inputs, **known)) == [("VLM003", silent)]
    if silent:
        model(**inputs)
    else:
        with pytest.raises((RuntimeError, TypeError, ValueError, AttributeError)):
            model(**inputs)


def test_position_ids_of_three_planes_stand_for_token_types():
    model, processor, inputs = real("qwen2_5_vl", [1, 1])
    ids, types = inputs["input_ids"], inputs.pop("mm_token_type_ids")
    grid, mask = inputs["image_grid_thw"], inputs["attention_mask"]
    inputs["position_ids"] = model.model.get_rope_index(ids, types, grid, attention_mask=mask)[0]

    assert vd.check(inputs, processor=processor).ok


@pytest.mark.parametrize(
    ("family", "unit", "typed", "silent"),
    [
        ("gemma4", "audio", None, True),
        ("gemma4", "video", None, True),
        ("qwen2_5_omni_thinker", "audio", None, True),
        ("qwen2_5_vl", "video", None, True),
        ("qwen2_5_vl", "video", 2, False),
    ],
)
def test_stray_token_of_clips_is_as_loud_as_the_model(family, unit, typed, silent):
    model, processor, inputs = real(family, [1, 1], sizes=(160, 160))
    last = int(inputs["attention_mask"][0].nonzero()[-1]) - 1
    inputs["input_ids"][0, last] = getattr(model.config, f"{unit}_token_id")
    if typed is not None:
        inputs["mm_token_type_ids"][0, last] = typed
    report = vd.check(inputs, processor=processor)

    assert codes(report) == [("VLM010", silent)]
    if silent:
        model(**inputs)
    else:
        with pytest.raises(TypeError):
            model(**inputs)


@pytest.mark.parametrize("family", ["paddleocr_vl", "llava", "paligemma", "mllama"])
def test_token_beyond_the_vocabulary_is_found_where_the_model_raises(family):
    model, processor, inputs = real(family, [1, 1])
    inputs["input_ids"][1, -2] = 100296  # PaddleOCR-VL's video token, which its processor has not

    report = vd.check(inputs, processor=processor)
    assert codes(report) == [("VLM010", None)]
    assert "sample 1 holds token 100296" in str(report)
    with pytest.raises(IndexError):
        model(**inputs)


def test_images_that_are_counted_and_not_there_are_found():
    _, processor, inputs = real("qwen2_5_vl", [0, 0])

    assert vd.check(inputs, processor=processor, num_images=[0, 0]).ok
    assert codes(vd.check(inputs, processor=processor, num_images=[2, 1])) == [("VLM010", True)]


def test_images_in_the_row_of_another_sample_are_found_in_mllama():
    model, processor, inputs = real("mllama", [1, 1], sizes=(160, 160))
    inputs["aspect_ratio_ids"][1] = 0

    assert codes(vd.check(inputs, processor=processor)) == [("VLM010", True)]
    model(**inputs)


def test_batch_with_too_few_rows_of_ratios_is_contradictory():
    """Mllama's rows of images are compared with the text only where each sample has one."""
    inputs = dict(vd.make_batch("mllama", images_per_sample=[1, 1, 2]).inputs)
    inputs["aspect_ratio_ids"] = inputs["aspect_ratio_ids"][:2]
    report = vd.check(inputs, num_images=[1, 1, 2])

    assert report.verdict == "MISMATCH"
    assert {m.code for m in report.mismatches} == {"VLM010"}


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "paligemma"])
def test_labels_are_held_against_the_tokens(family):
    _, processor, inputs = real(family, [1, 1])
    token = vd.read_batch(inputs, processor=processor).image.token_id
    ids, seen = inputs["input_ids"], inputs["attention_mask"] == 1
    right = torch.where(seen & (ids != token), ids, -100)
    none = {**inputs, "labels": torch.full_like(ids, -100)}
    if family == "paligemma":  # its prompt sees all of itself
        inputs["token_type_ids"] = (right != -100).long()
    wrong = {
        "shifted": torch.cat([right[:, 1:], torch.full_like(right[:, :1], -100)], 1),
        "short": right[:, :-1],
        "placeholders": torch.where(seen, ids, -100),
        "another text": torch.where(right == -100, -100, right + 1),
    }

    assert vd.check({**inputs, "labels": right}, processor=processor).ok
    assert vd.check(none, processor=processor).ok  # nothing is learned: all of it is prompt
    for labels in wrong.values():
        report = vd.check({**inputs, "labels": labels}, processor=processor)
        assert {m.code for m in report.mismatches} == {"VLM013"}


@pytest.mark.parametrize("key", ["labels", "shift_labels"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "paligemma"])
def test_labels_are_read_sample_by_sample_only_where_one_may_be_wrong(family, key, monkeypatch):
    _, processor, inputs = real(family, [1, 0, 2, 1])
    rng, ids, seen = np.random.default_rng(3), inputs["input_ids"], inputs["attention_mask"] == 1
    own, ahead = judged._suspects, int(key == "shift_labels")
    token = vd.read_batch(inputs, processor=processor).image.token_id
    none = torch.full_like(ids[:, :1], -100)
    right = torch.where(seen & (ids != token), ids, -100)
    right = torch.cat([right[:, 1:], none], 1) if ahead else right
    named = set[tuple[int, ...]]()
    for _ in range(60):
        given = right.clone()
        for sample in rng.choice(4, size=rng.integers(0, 3), replace=False):
            at = rng.integers(0, ids.shape[1], size=3)
            given[sample, at] = torch.where(given[sample, at] == -100, ids[sample, at], -100)
            given[sample, at[0]] += int(rng.integers(0, 2))
        if family == "paligemma":
            types = torch.ones_like(ids)
            types[rng.integers(0, 4)] = int(rng.integers(0, 2))
            inputs["token_type_ids"] = types
        batch = vd.read_batch({**inputs, key: given}, processor=processor)
        found = judged.labels_differences(batch)
        monkeypatch.setattr(judged, "_suspects", lambda batch, *given, **ahead: [*range(4)])
        assert found == judged.labels_differences(batch)
        monkeypatch.setattr(judged, "_suspects", own)
        named.add(tuple(sample for one in found for sample in one.samples))
    assert () in named and len(named) > 4


@pytest.mark.parametrize("family", [name for name in architectures() if name not in REFUSES_TEXT])
def test_ids_of_int32_are_doubted_where_the_model_raises(family, built):
    """M-RoPE of nearly all models that have it writes positions into a tensor of their dtype."""
    model, processor = built[family]
    inputs = dict(vd.tiny.batch(family, [2, 0, 1]))
    ids = inputs["input_ids"]
    report = vd.check({**inputs, "input_ids": ids.int()}, processor=processor, pictures=False)
    try:
        with torch.no_grad():
            logits = model(**{**inputs, "input_ids": ids.int()}).logits
            assert torch.equal(logits, model(**inputs).logits)
    except RuntimeError as error:
        assert "dtypes match, got Int for the destination and Long" in str(error)
        assert (report.verdict, report.mismatches) == ("AMBIGUOUS", ())
        assert report.ambiguities == (
            "input_ids holds torch.int32, but M-RoPE writes positions of int64 into a tensor of "
            "that dtype, and torch raises. Cast it to int64, or pass position_ids.",
        )
    else:
        assert report.ok


@pytest.mark.parametrize("advice", ["int64", "position_ids", "no mask", "text alone"])
def test_ids_of_int32_are_right_where_no_places_are_written_by_a_mask(advice, built):
    model, processor = built["qwen2_5_vl"]
    images = [0, 0] if advice == "text alone" else [1, 1]
    options = {"sizes": (56, 56), "texts": ["What is on it?"] * 2}  # and no padding
    inputs = dict(vd.tiny.batch("qwen2_5_vl", images, **options))
    ids = inputs["input_ids"].int()
    if advice == "position_ids":
        given = ("input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask")
        placed = model.model.get_rope_index(**{key: inputs[key] for key in given})
        inputs["position_ids"] = placed[0]
    elif advice == "no mask":
        inputs.pop("attention_mask")
    short = {**inputs, "input_ids": ids.long() if advice == "int64" else ids}
    with torch.no_grad():
        assert torch.equal(model(**short).logits, model(**inputs).logits)

    assert vd.check(short, processor=processor).ok


@pytest.mark.parametrize("dtype", [torch.int32, torch.float32, torch.int64])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma3"])
def test_labels_of_a_dtype_with_which_the_loss_raises_are_doubted(family, dtype, built):
    model, processor = built[family]
    inputs = dict(vd.tiny.batch(family, [1], texts=["What is on it?"]))
    token = vd.read_batch(inputs, processor=processor).image.token_id
    ids = inputs["input_ids"]
    given = {**inputs, "labels": torch.where(ids == token, -100, ids).to(dtype)}
    report = vd.check(given, processor=processor)
    if dtype == torch.int64:
        assert model(**given).loss is not None
        assert report.ok
        return
    with pytest.raises(RuntimeError, match="Long"):
        model(**given)

    assert report.ambiguities == (
        f"labels holds {dtype}, but the loss of the model takes int64 for tokens, and raises. "
        "Cast it to int64.",
    )


@pytest.mark.parametrize(
    ("lacking", "left"),
    [((), {"labels", "decoder_input_ids"}), (("decoder_input_ids",), {"labels"})],
    ids=["both texts", "labels only"],
)
def test_texts_of_a_decoder_are_said_not_to_be_compared(lacking, left):
    """T5Gemma 2 makes `decoder_input_ids` of labels where it is given none."""
    model, _, inputs = real("t5gemma2", [1, 1])
    inputs |= {"labels": torch.tensor([[5, 6, 7], [8, 9, 10]])}
    inputs |= {"decoder_input_ids": inputs["labels"].roll(1, 1)}
    given = {key: value for key, value in inputs.items() if key not in lacking}
    report = vd.check(given, config=model.config)

    assert model(**given).loss > 0
    assert report.ok
    assert {one.what for one in report.compared if one.against is None} == left


def test_second_text_that_is_left_out_beside_labels_is_silent():
    model, _, inputs = real("t5gemma2", [1, 1])
    batch = vd.read_batch({**inputs, "labels": inputs["input_ids"].clone()}, config=model.config)

    def slicer(_, chunk_size):
        for chunk in batch.chunks(chunk_size):
            yield {key: value for key, value in chunk.items() if key != "decoder_input_ids"}

    report = vd.check(slicer, batch)

    assert codes(report) == [("VLM003", True)] * 2
    assert all(model(**chunk).loss > 0 for chunk in slicer(None, 1))


def test_labels_in_a_prompt_that_sees_all_of_itself_are_found():
    _, processor, inputs = real("paligemma", [1, 1])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[1, -2:] = inputs["input_ids"][1, -2:]
    types = (labels != -100).long()
    report = vd.check({**inputs, "labels": labels}, processor=processor)

    assert [(m.code, m.samples) for m in report.mismatches] == [("VLM013", (1,))]
    assert vd.check({**inputs, "labels": labels, "token_type_ids": types}, processor=processor).ok


def completed(inputs, kind):
    """Three tokens of a completion with that type behind each prompt."""
    more = inputs["input_ids"][:, -2:-1].expand(-1, 3)
    new = {"input_ids": more, "attention_mask": torch.ones_like(more)}
    new["token_type_ids"] = torch.full_like(more, kind)
    return {**inputs, **{key: torch.cat([inputs[key], new[key]], 1) for key in new}}


def labelled(inputs):
    """Labels as the processor makes them, of tokens of type 1."""
    labels = inputs["input_ids"].masked_fill(inputs["token_type_ids"] == 0, -100)
    return {**inputs, "labels": labels}


@pytest.mark.parametrize("change", [dict, labelled], ids=["no labels", "labels of types"])
def test_completion_typed_as_prompt_is_doubted_with_labels_too(change):
    model, processor, _ = real("paligemma", [1, 1])
    given = vd.tiny.batch("paligemma", [1, 1], padding_side="left")
    inputs = {key: value for key, value in given.items() if key != "labels"}
    right, wrong = (change(completed(inputs, kind)) for kind in (1, 0))
    with torch.no_grad():
        ours, theirs = (model(**one).logits for one in (right, wrong))

    assert float((ours - theirs).abs().max()) > 1e-3
    assert vd.check(right, processor=processor).ok
    doubts = vd.check(wrong, processor=processor).ambiguities
    assert [doubt.partition(" with token_type_ids 0")[0] for doubt in doubts] == [
        "sample 0 has 3 tokens",
        "sample 1 has 3 tokens",
    ]
    unknown = "completions in token_type_ids"
    for batch, named in ((wrong, True), (right, False)):
        report = vd.check(batch, config=model.config)
        assert ((unknown, None) in {(one.what, one.against) for one in report.compared}) is named


@pytest.mark.parametrize("side", ["right", "left"])
@torch.no_grad()
def test_no_type_of_a_token_of_a_prompt_or_completion_is_ok_if_the_model_reads_it_otherwise(side):
    model, processor, _ = real("paligemma", [1, 1])
    processor.tokenizer.padding_side = side
    images = [[Image.new("RGB", (56, 56), color)] for color in ("red", "blue")]
    asked = {"text": ["<image>a b", "<image>d"], "images": images}
    asked |= {"padding": True, "return_tensors": "pt"}
    answered = dict(processor(**asked, suffix=["e", "f\ng h"]))
    bare = [
        {k: v for k, v in one.items() if k != "labels"} for one in (answered, processor(**asked))
    ]

    for batch in (answered, *bare):
        given = {key: value for key, value in batch.items() if key != "labels"}
        shown = batch["attention_mask"].bool()
        right = model(**given).logits[shown]
        assert vd.check(batch, processor=processor).ok
        for place in map(
            tuple, (batch["input_ids"] != model.config.image_token_id).nonzero().tolist()
        ):
            types = batch["token_type_ids"].clone()
            types[place] = 1 - types[place]
            off = float(
                (model(**given | {"token_type_ids": types}).logits[shown] - right).abs().max()
            )
            report = vd.check(batch | {"token_type_ids": types}, processor=processor)
            assert report.ok == (off < 1e-4) == (not shown[place]), place


def test_line_break_or_labels_say_where_a_prompt_ends():
    _, processor, _ = real("paligemma", [1, 1])
    images = [[Image.new("RGB", (56, 56))]] * 2
    asked = {"text": ["<image>a b", "<image>d"], "images": images, "padding": True}
    batch = dict(processor(**asked, suffix=["e", "f\ng h"], return_tensors="pt"))
    wrong = batch["token_type_ids"].clone()
    wrong[0, 19:21] = 1  # the last letter of the prompt, and its line break
    bare = {key: value for key, value in batch.items() if key != "labels"}
    all_learned = batch | {"token_type_ids": (batch["input_ids"] != 0).long()}
    all_learned["token_type_ids"][:, :16] = 0
    learned = all_learned["token_type_ids"] == 1
    all_learned["labels"] = batch["input_ids"].where(learned, -100)

    for given in (batch, bare):
        (doubt,) = vd.check(given | {"token_type_ids": wrong}, processor=processor).ambiguities
        assert doubt.startswith(
            "sample 0 has 2 tokens with token_type_ids 1 in front of the end of its prompt: "
        )
    assert vd.check(all_learned, processor=processor).ok


def test_placeholders_outside_the_prompt_are_found():
    _, processor, inputs = real("paligemma", [1, 1])
    inputs["token_type_ids"] = torch.ones_like(inputs["token_type_ids"])

    assert codes(vd.check(inputs, processor=processor)) == [("VLM010", None)] * 2


@pytest.mark.parametrize("family", architectures())
@torch.no_grad()
def test_media_in_doubles_are_doubted_where_the_model_raises(family, built):
    model, processor = built[family]
    inputs = dict(vd.tiny.batch(family, [1, 1]))
    floating = {key for key, value in inputs.items() if torch.is_floating_point(value)}
    for key in floating:
        given = inputs | {key: inputs[key].double()}
        doubts = vd.check(given, processor=processor, config=model.config).ambiguities
        said = f"{key} holds torch.float64, but the model does not cast it"
        try:
            model(**given)
        except RuntimeError:
            assert [one.startswith(said) for one in doubts] == [True]
            assert model(**given | {key: given[key].float()}).logits.isfinite().all()
        else:
            assert not doubts

    assert "pixel_values" in floating


@pytest.mark.parametrize("most", [1, 2, 9])
def test_anyres_tokens_of_the_config_are_those_of_the_processor(most):
    model, processor = vd.tiny.build("llava_onevision")
    config = copy.deepcopy(model.config)
    config.vision_aspect_ratio = processor.vision_aspect_ratio = f"anyres_max_{most}"
    sizes = [(height, width) for height in (7, 60, 300) for width in (5, 64, 113, 400)]
    count = anyres_tokens(config)

    assert count is not None
    assert count(sizes) == read_metadata(processor).tokens_per_image(sizes)


@pytest.mark.parametrize("given", ["config", "model"])
def test_llava_onevision_is_compared_without_its_processor(given):
    model, _, inputs = real("llava_onevision", [2, 0, 1])
    source = {given: model.config if given == "config" else model}
    lost = {**inputs, "input_ids": inputs["input_ids"].clone()}
    lost["input_ids"][0, (lost["input_ids"][0] == model.config.image_token_id).nonzero()[0]] = 7

    assert vd.check(inputs, **source).ok
    assert ("VLM010", False) in codes(vd.check(lost, **source))


def test_report_keeps_what_was_compared():
    _, processor, inputs = real("qwen2_5_vl", [1, 1])
    report = vd.check(inputs, processor=processor)
    older = {key: value for key, value in report.to_dict().items() if key != "compared"}

    assert str(report.compared[0]) == (
        "image placeholders of 2 samples against features of image_grid_thw"
    )
    assert "Compared: image placeholders of 2 samples" in str(report)
    assert vd.Report.from_json(report.to_json()).compared == report.compared
    assert vd.Report.from_dict(older).ok


# --- masks and types of a whole batch --------------------------------------------------------


def shifted(value):
    return torch.nn.functional.pad(value[:, 1:], (0, 1))


@pytest.mark.parametrize("family", ["llava", "gemma4", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_mask_that_hides_text_is_not_ok(family, side):
    model, processor, inputs = real(family, [2, 0, 1], padding_side=side)
    mask = inputs["attention_mask"]

    for known in ways(model, processor):
        assert vd.check(inputs, **known).ok
        for wrong in (shifted(mask), torch.zeros_like(mask)):
            report = vd.check({**inputs, "attention_mask": wrong}, **known)

            assert not report.ok
            assert any("attention_mask hides" in text for text in report.ambiguities)


@pytest.mark.parametrize("family", ["llava", "idefics3"])
def test_mask_that_is_missing_is_not_ok_where_text_attends_to_padding(family):
    model, processor, left = real(family, [2, 0, 1], padding_side="left")
    _, _, right = real(family, [2, 0, 1], padding_side="right")
    without = [{k: v for k, v in one.items() if k != "attention_mask"} for one in (left, right)]

    for known in ways(model, processor):
        assert not vd.check(without[0], **known).ok
        assert vd.check(without[1], **known).ok
    with torch.no_grad():
        off = (model(**without[1]).logits - model(**right).logits)[right["attention_mask"].bool()]

    assert off.abs().max() < 1e-4


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_mask_that_shows_padding_in_front_of_text_is_not_ok(family):
    model, processor, left = real(family, [2, 0, 1], padding_side="left")
    _, _, right = real(family, [2, 0, 1], padding_side="right")
    one_more = left["attention_mask"] | left["attention_mask"].roll(-1, 1)  # one token of padding

    for known in ways(model, processor):
        report = vd.check({**left, "attention_mask": torch.ones_like(one_more)}, **known)

        assert report.verdict == "AMBIGUOUS"
        assert any(
            "shows" in text and "in front of the text" in text for text in report.ambiguities
        )
        assert vd.check({**left, "attention_mask": one_more}, **known).ok
        assert vd.check({**right, "attention_mask": torch.ones_like(one_more)}, **known).ok
        assert vd.check(left, **known).ok


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma4"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_that_are_not_finite_are_not_ok(family, value, dtype):
    _, processor, inputs = real(family, [1, 0, 1])
    pixels = inputs["pixel_values"].to(dtype)
    broken = pixels.clone()
    broken.view(-1)[-1] = value

    assert vd.check({**inputs, "pixel_values": pixels}, processor=processor).ok
    report = vd.check({**inputs, "pixel_values": broken}, processor=processor)

    assert report.verdict == "AMBIGUOUS"
    assert "pixel_values holds NaN or infinity" in report.ambiguities[0]


@pytest.mark.parametrize(
    ("family", "key"), [("gemma3", "token_type_ids"), ("ernie4_5_vl_moe", "moe_mm_token_type_ids")]
)
def test_types_that_mark_no_image_are_found(family, key):
    model, processor, inputs = real(family, [1, 1])

    for known in ways(model, processor):
        for wrong in (torch.zeros_like(inputs[key]), shifted(inputs[key])):
            report = vd.check({**inputs, key: wrong}, **known)

            assert ("VLM010", None) in codes(report)
            assert report.mismatches[0].key == key


@pytest.mark.parametrize(
    ("family", "key"), [("idefics2", "pixel_attention_mask"), ("aria", "pixel_mask")]
)
def test_pixel_mask_that_was_dropped_is_not_ok(family, key):
    model, processor, inputs = real(family, [2, 1])
    less = {name: value for name, value in inputs.items() if name != key}

    for known in ways(model, processor):
        assert vd.check(inputs, **known).ok
        assert any(f"no {key}" in text for text in vd.check(less, **known).ambiguities)


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.uint8], ids=str)
def test_pixels_of_whole_numbers_are_not_ok(dtype):
    model, processor, inputs = real("llava", [1, 1])

    for known in ways(model, processor):
        cast = {**inputs, "pixel_values": inputs["pixel_values"].to(dtype)}

        assert "may have destroyed" in vd.check(cast, **known).ambiguities[0]


def test_lost_row_of_a_padded_key_is_named():
    _, processor, inputs = real("idefics3", [1, 2])
    for key in ("pixel_values", "pixel_attention_mask"):
        report = vd.check({**inputs, key: inputs[key][:-1]}, processor=processor)

        assert report.mismatches[0].message.startswith(f"{key} has 1 row on dim 0")


def test_images_per_sample_that_the_text_does_not_have_are_found():
    """InternVL keeps no count of tiles, so that the runs of the text are the only witness."""
    _, processor, inputs = real("internvl", [2, 0, 1])
    sound = {"processor": processor, "num_images": [2, 0, 1]}
    turned = {**inputs, **{key: inputs[key].flip(0) for key in ("input_ids", "attention_mask")}}

    assert vd.check(inputs, **sound).ok
    assert vd.check(turned, **sound).verdict == "MISMATCH"
    assert vd.check(turned, processor=processor, num_images=[1, 0, 2]).ok


# --- shapes of media, and what lies beside what ----------------------------------------------


@pytest.mark.parametrize("family", ["internvl", "mllama", "llava_next", "idefics3", "llava"])
def test_channels_on_the_last_dimension_are_found(family):
    model, processor, inputs = real(family, [2, 1])
    wrong = {**inputs, "pixel_values": inputs["pixel_values"].movedim(-3, -1)}

    for known in ways(model, processor):
        report = vd.check(wrong, num_images=[2, 1], **known)

        assert vd.check(inputs, num_images=[2, 1], **known).ok
        assert ("VLM010", False) in codes(report)
        assert any("its channels on the last dimension" in m.message for m in report.mismatches)
    with pytest.raises((RuntimeError, ValueError)):
        model(**wrong)


def images_in_one_run(inputs):
    """The first image whose grid can be halved, as two images with nothing between their tokens."""
    grid = inputs["image_grid_thw"]
    first = next(image for image, (_, height, _) in enumerate(grid.tolist()) if height % 4 == 0)
    half = grid[first : first + 1] // torch.tensor([1, 2, 1])
    made = {**inputs, "image_grid_thw": torch.cat([grid[:first], half, half, grid[first + 1 :]])}
    if "image_merge_sizes" in inputs:
        made["image_merge_sizes"] = torch.cat([inputs["image_merge_sizes"][:1]] * (len(grid) + 1))
    return made


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "glm4v", "ernie4_5_vl_moe", "paddleocr_vl"])
def test_images_in_one_run_are_found_where_a_run_is_one_image(family, counted):
    model, processor, inputs = real(family, [1, 1], sizes=(160, 160))
    wrong = images_in_one_run(inputs)
    images = {"num_images": [2, 1]} if counted else {}

    for known in ways(model, processor):
        report = vd.check(wrong, **images, **known)

        assert vd.check(inputs, **known).ok
        assert [(m.code, m.silent, m.samples) for m in report.mismatches] == [
            ("VLM010", False, (0,))
        ]
        assert "in one run" in report.mismatches[0].message
    with pytest.raises(RuntimeError):
        model(**wrong)


def test_images_in_one_run_are_right_where_the_model_takes_rows_in_order():
    model, processor, inputs = real("video_llama_3", [1, 1], sizes=(160, 160))
    joined = images_in_one_run(inputs)

    assert vd.check(joined, processor=processor, num_images=[2, 1]).ok
    assert model(**joined).logits.isfinite().all()


def test_images_that_mllama_never_got_are_found():
    model, processor, inputs = real("mllama", [2, 0, 1])
    media = [key for key in inputs if "aspect" in key or "pixel" in key or "cross" in key]
    without = {key: value for key, value in inputs.items() if key not in media}
    empty = {**inputs, **{key: inputs[key][:0] for key in media}}

    for known in ways(model, processor):
        report = vd.check(without, **known)

        assert vd.check(inputs, **known).ok
        assert [(m.code, m.samples) for m in report.mismatches] == [
            ("VLM010", (0,)),
            ("VLM010", (2,)),
        ]
        assert vd.check(empty, **known).verdict == "MISMATCH"


# --- height and width -------------------------------------------------------------------------


@pytest.mark.parametrize("counted", [{}, {"num_images": [1, 2]}], ids=["", "num_images"])
def test_swapped_height_and_width_are_found_by_the_padding(counted):
    model, processor, inputs = real("lighton_ocr", [1, 2])
    swapped = {**inputs, "image_sizes": inputs["image_sizes"].flip(1)}
    report = vd.check(swapped, processor=processor, **counted)

    assert {(m.code, m.key, m.silent) for m in report.mismatches} == {
        ("VLM010", "image_sizes", True)
    }
    assert [m.samples for m in report.mismatches] == [(0,), (1,)]
    assert "Height and width are swapped" in str(report)
    with torch.no_grad():
        assert not torch.allclose(model(**inputs).logits, model(**swapped).logits, atol=1e-3)


def test_height_and_width_that_the_padding_shows_are_compared():
    _, processor, inputs = real("lighton_ocr", [1, 2])
    report = vd.check(inputs, processor=processor)

    assert report.ok
    assert "order of height and width in image_sizes against padding" in " ".join(
        str(report).split()
    )


def test_height_and_width_that_nothing_shows_are_named():
    _, processor, inputs = real("lighton_ocr", [1, 2])
    inputs["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
    report = vd.check(inputs, processor=processor)

    assert report.verdict == "AMBIGUOUS"
    assert "Which side of images 0, 1 is the height" in report.ambiguities[0]


def test_order_that_no_batch_shows_is_listed_and_changes_no_verdict():
    _, processor, inputs = real("qwen2_5_vl", [1, 2])
    report = vd.check(inputs, processor=processor)

    assert report.ok
    assert Compared("order of height and width in image_grid_thw", beyond=True) in report.compared


# --- dimensions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("paddleocr_vl", lambda pixels: pixels.flatten(1), "lost"),
        ("paddleocr_vl", lambda pixels: pixels[:, 0], "lost"),
        ("paddleocr_vl", lambda pixels: pixels[:, None], "added"),
        ("ernie4_5_vl_moe", lambda pixels: pixels[:, None], "added"),
        ("lfm3_vl", lambda pixels: pixels[..., None], "added"),
        ("cosmos3_edge", lambda pixels: pixels[:, None], "added"),
    ],
)
def test_patches_with_other_dimensions_are_as_loud_as_the_model(family, change, said):
    model, processor, inputs = real(family, [1, 1])
    changed = {**inputs, "pixel_values": change(inputs["pixel_values"])}

    for known in ways(model, processor):
        assert vd.check(inputs, **known).ok
        report = vd.check(changed, **known)
        assert codes(report) == [("VLM010", False)]
        assert f"a dimension was {said}" in str(report)
    with pytest.raises((RuntimeError, ValueError)):
        model(**changed)


def test_patches_that_the_model_reshapes_are_right():
    model, processor, inputs = real("qwen2_5_vl", [1, 1])
    reshaped = {**inputs, "pixel_values": inputs["pixel_values"].unflatten(1, (3, 2, 14, 14))}

    assert vd.check(reshaped, processor=processor).ok
    assert torch.equal(model(**inputs).logits, model(**reshaped).logits)


@pytest.mark.parametrize("family", architectures())
def test_what_follows_from_the_keys_is_the_same_whatever_came_before(family, built):
    """The form of a batch is kept for the next one with its keys; no other may get it."""
    model, processor = built[family]
    inputs = dict(vd.tiny.batch(family, [2, 1, 1] if family in REFUSES_TEXT else [2, 0, 1]))
    batches = [inputs, *({**inputs, key: None} for key in inputs if key != "input_ids")]
    ids = inputs["input_ids"]
    places = torch.arange(ids.shape[1]).expand(ids.shape)
    batches += [{**inputs, "position_ids": places}]
    batches += [{**inputs, "position_ids": places.expand(3, *ids.shape)}]
    batches += [{**inputs, "advantages": torch.zeros(len(ids))}, {**inputs, "other": places}]
    batches += [dict(reversed(inputs.items())), inputs]
    shared = read_metadata(processor, None, model)
    for given in batches:
        alone = read_metadata(processor, None, model)
        assert found(given, shared) == found(given, alone)


def found(inputs, metadata):
    """All that is read of a batch but its tensors; or why it cannot be."""
    try:
        batch = assemble(BatchFacts(inputs, metadata), None)
    except vd.BadInput as error:
        return str(error)
    fields = (one.name for one in dataclasses.fields(batch) if one.name != "inputs")
    return {name: getattr(batch, name) for name in fields}
