"""Keys that a slicer makes are recomputed where a rule is known, and never passed unseen.

The judge is the tiny real model: what is called right gives the same logits, what is called wrong
does not.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from doubts import features_unknown
from PIL import Image

import vlmdebug as vd
from vlmdebug.core.presence import expected_rows
from vlmdebug.testing import assert_slices

ALONG = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids", "labels")


def real(family, images, without=(), **options):
    model, processor = vd.tiny.build(family)
    inputs = vd.tiny.batch(family, images, sizes=(160, 160), **options)
    inputs = {key: value for key, value in inputs.items() if key not in without}
    return vd.read_batch(inputs, processor=processor, num_images=images), model


def cut(change):
    """The corrected slicer, with `change` applied to each chunk."""

    def slicer(inputs, chunk_size):
        for chunk in vd.slicers.corrected(inputs, chunk_size):
            yield change(chunk)

    return slicer


def making(**keys):
    return cut(lambda chunk: {**chunk, **{key: make(chunk) for key, make in keys.items()}})


def order(chunk):
    return torch.arange(chunk["input_ids"].shape[1]).expand(chunk["input_ids"].shape)


def counted(chunk):
    return chunk["attention_mask"].cumsum(1) - 1


def three(chunk):
    return order(chunk).expand(3, *chunk["input_ids"].shape)


def zeros(chunk):
    return torch.zeros_like(chunk["input_ids"])


# --- position_ids --------------------------------------------------------------------------

RIGHT_PLACES = {
    "0, 1, 2 …": order,
    "one row for all": lambda chunk: order(chunk)[:1],
    "counted by the mask": counted,
    "from another number": lambda chunk: counted(chunk) + 7,
    "1 where there is padding": lambda c: counted(c).masked_fill(c["attention_mask"] == 0, 1),
}
WRONG_PLACES = {
    "zeros": zeros,
    "backwards": lambda chunk: order(chunk).flip(1),
    "every second": lambda chunk: 2 * order(chunk),
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", ["llava", "gemma4", "idefics3", "mllama", "internvl"])
def test_places_of_text_are_compared_as_the_model_counts_them(family, side):
    batch, model = real(family, [1, 2, 0], padding_side=side)

    for name, make in {**RIGHT_PLACES, **WRONG_PLACES}.items():
        slicer = making(position_ids=make)
        report, proof = vd.check(slicer, batch, chunk_size=2), vd.prove(slicer, batch, model)

        assert (report.ok, proof.ok) == (name in RIGHT_PLACES,) * 2, name
        assert {m.code for m in report.mismatches} <= {"VLM014"}


MROPE = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v", "paddleocr_vl", "ernie4_5_vl_moe"]


@pytest.mark.parametrize("family", MROPE)
def test_places_of_mrope_are_recomputed_for_images(family):
    batch, model = real(family, [2, 0, 1], padding_side="left")

    def places(chunk):
        types = chunk.get("mm_token_type_ids")
        mask, grid = chunk["attention_mask"], chunk.get("image_grid_thw")
        return model.model.get_rope_index(chunk["input_ids"], types, grid, attention_mask=mask)[0]

    kinds = {
        "as the model": places,
        "from another number": lambda chunk: places(chunk) + 3,
        "behind a plane of text": lambda chunk: torch.cat([counted(chunk)[None], places(chunk)]),
        "of text": three,
        "of text, one plane": order,
        "height and width swapped": lambda chunk: places(chunk)[[0, 2, 1]],
    }
    for name, make in kinds.items():
        slicer = making(position_ids=make)
        report, proof = vd.check(slicer, batch, chunk_size=2), vd.prove(slicer, batch, model)

        assert report.ok == ("text" not in name.replace("plane of text", "") and "swap" not in name)
        assert proof.ok or not report.ok, name


def test_places_of_text_are_right_in_a_text_only_chunk_of_mrope():
    batch, model = real("qwen2_5_vl", [0, 0])
    slicer = making(position_ids=three)

    assert vd.check(slicer, batch).ok
    assert vd.prove(slicer, batch, model).ok


def test_places_of_videos_are_not_judged_and_named():
    batch = vd.make_batch("qwen2_5_vl", [0], videos_per_sample=[1], frames=[2])
    report = vd.check(making(position_ids=three), batch)

    assert report.verdict == "AMBIGUOUS"
    assert report.ambiguities == (
        "position_ids was made by the slicer (first in chunk 0) and was not checked: M-RoPE's "
        "places of videos, audio and this model are not recomputed. Ask the model, "
        "vlmdebug.prove, or put position_ids into the batch that is cut.",
    )


def test_made_places_are_seen_by_watch_falsify_and_assert_slices():
    batch, model = real("qwen2_5_vl", [1, 1])
    _, processor = vd.tiny.build("qwen2_5_vl")
    verdicts = []
    for make in (three, lambda chunk: chunk["attention_mask"].cumsum(1)[:, :, None]):
        with vd.watch(model, processor=processor, on_mismatch="record") as trace:
            for chunk in batch.chunks(1):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(model, "forward", lambda **inputs: None)
                    model(**chunk, position_ids=make(chunk))
        verdicts.append(trace.report().verdict)

    assert verdicts == ["MISMATCH", "AMBIGUOUS"]
    assert vd.falsify(making(position_ids=three), families=["qwen2_5_vl"]) is not None
    with pytest.raises(vd.AmbiguousError, match="seq_idx was made by the slicer"):
        assert_slices(making(seq_idx=zeros), families=["llava"], max_examples=9)


def test_right_places_are_right_under_watch():
    batch, model = real("llava", [1, 2, 0])
    _, processor = vd.tiny.build("llava")
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace, torch.no_grad():
        for chunk in batch.chunks(1):
            model(**chunk, position_ids=counted(chunk))

    assert trace.ok


# --- masks, types, labels ------------------------------------------------------------------


def masked(chunk):
    """Labels of the last tokens alone."""
    return chunk["input_ids"].where(order(chunk) >= order(chunk).amax() - 3, -100)


@pytest.mark.parametrize(
    ("key", "make", "verdict"),
    [
        pytest.param("attention_mask", lambda c: zeros(c) + 1, "OK", id="mask of ones"),
        pytest.param("attention_mask", lambda c: (order(c) > 8).long(), "AMBIGUOUS", id="hides"),
        pytest.param("token_type_ids", zeros, "AMBIGUOUS", id="types of another meaning"),
        pytest.param("token_type_ids", lambda c: (c["input_ids"] == 3).int(), "OK", id="images"),
        pytest.param("token_type_ids", lambda c: order(c) % 2, "AMBIGUOUS", id="types of no image"),
        pytest.param("mm_token_type_ids", lambda c: (c["input_ids"] == 3).long(), "OK", id="types"),
        pytest.param("mm_token_type_ids", lambda c: zeros(c) + 1, "AMBIGUOUS", id="all images"),
        pytest.param("mm_token_type_ids", zeros, "AMBIGUOUS", id="as if left out"),
        pytest.param("mm_token_type_ids", lambda c: order(c) % 2, "MISMATCH", id="other tokens"),
        pytest.param("labels", lambda c: c["input_ids"].clone(), "OK", id="labels"),
        pytest.param("labels", lambda c: c["input_ids"] + 1, "MISMATCH", id="other labels"),
        pytest.param("labels", lambda c: masked(c), "OK", id="labels without the prompt"),
        pytest.param("labels", lambda c: masked(c).roll(1, 1), "MISMATCH", id="shifted labels"),
        pytest.param("labels", lambda c: torch.ones(len(zeros(c))), "AMBIGUOUS", id="classes"),
        pytest.param("shift_labels", lambda c: masked(c), "AMBIGUOUS", id="labels not shifted"),
        pytest.param("cache_position", lambda c: order(c)[0], "OK", id="cache_position"),
        pytest.param("cache_position", lambda c: order(c)[0] + 1, "AMBIGUOUS", id="a later one"),
        pytest.param("cu_seqlens", lambda c: torch.tensor([0, 4]), "AMBIGUOUS", id="packing"),
        pytest.param("image_sizes", lambda c: torch.ones(1, 2), "AMBIGUOUS", id="sizes"),
        pytest.param("use_cache", lambda c: False, "OK", id="an option"),
        pytest.param("past_key_values", lambda c: None, "OK", id="no cache"),
        pytest.param("past_key_values", lambda c: object(), "AMBIGUOUS", id="a cache"),
        pytest.param("cache", lambda c: object(), "AMBIGUOUS", id="a cache, by its newer name"),
    ],
)
def test_made_key_is_compared_or_named(key, make, verdict):
    made = vd.make_batch("llava", [1, 1])
    inputs = {name: value for name, value in made.inputs.items() if name != key}
    config = type("Config", (), {"model_type": "llava", "image_token_id": 3, "image_seq_length": 3})
    batch = vd.read_batch(inputs, config=config(), num_images=[1, 1])
    report = vd.check(making(**{key: make}), batch)

    assert report.verdict == verdict
    assert verdict == "OK" or key in str(report)


@pytest.mark.parametrize(
    ("family", "verdict"),
    [
        *((name, "OK") for name in ("llava", "llava_next", "internvl", "idefics3", "idefics2")),
        ("gemma3", "OK"),  # takes them, for this
        ("paligemma", "MISMATCH"),  # takes them, for something else
    ],
)
def test_types_of_images_are_judged_as_the_model_takes_them(family, verdict, built):
    """As OpenRLHF's actor passes them to each model without a grid."""
    model, processor = built[family]
    inputs = dict(vd.tiny.batch(family, [1, 1]))
    batch = vd.read_batch(inputs, processor=processor, config=model.config)

    def types(chunk):
        return (chunk["input_ids"] == batch.image.token_id).int()

    with torch.no_grad():
        plain = model(**inputs).logits
        given = model(**{**inputs, "token_type_ids": types(inputs)}).logits

    assert types(inputs).any()
    assert torch.equal(plain, given) is (verdict == "OK")
    assert vd.check(making(token_type_ids=types), batch).verdict == verdict


TRAINERS_OWN = ["advantages", "old_per_token_logps", "completion_mask", "returns", "loss_scale"]


def test_keys_of_a_trainer_are_no_finding():
    kept = {key: lambda chunk: torch.ones(len(chunk["input_ids"])) for key in TRAINERS_OWN}
    slicer = making(prompt_ids=lambda chunk: chunk["input_ids"], **kept)

    assert vd.check(slicer, vd.make_batch("qwen2_5_vl", [1, 1])).ok


def test_key_that_describes_no_media_of_the_chunk_is_no_finding():
    slicer = making(second_per_grid_ts=lambda chunk: torch.ones(1))

    assert vd.check(slicer, vd.make_batch("qwen2_5_vl", [1, 1])).ok
    clips = vd.make_batch("qwen2_5_vl", [0], videos_per_sample=[1])
    assert vd.check(slicer, clips).verdict == "AMBIGUOUS"


def test_key_of_no_model_may_be_left_out_and_one_of_media_may_not():
    inputs = {**vd.make_batch("qwen2_5_vl", [2, 1]).inputs, "num_img_tokens": torch.tensor([2, 1])}
    batch = vd.read_batch(inputs, num_images=[2, 1], layout={"num_img_tokens": "sample"})
    marks = vd.read_batch(
        {**inputs, "marks": torch.ones(3)},
        num_images=[2, 1],
        layout={"num_img_tokens": "sample", "marks": "image"},
    )

    def without(inputs, chunk_size):
        known = {k: v for k, v in inputs.items() if k not in ("num_img_tokens", "marks")}
        return vd.slicers.corrected(known, chunk_size)

    assert features_unknown(vd.check(without, batch))
    assert {m.key for m in vd.check(without, marks).mismatches} == {"marks"}


# --- a mask left out -----------------------------------------------------------------------


def without_mask(chunk):
    return {key: value for key, value in chunk.items() if key != "attention_mask"}


def trimmed(chunk):
    keep = chunk["attention_mask"].bool().any(0)
    return {key: value[:, keep] if key in ALONG else value for key, value in chunk.items()}


def padded(*widths):
    return lambda chunk: {
        key: F.pad(value, widths) if key in ALONG else value for key, value in chunk.items()
    }


@pytest.mark.parametrize(
    ("family", "side", "change", "ok"),
    [
        pytest.param("llava", "right", lambda c: without_mask(trimmed(c)), True, id="unpadded"),
        pytest.param("llava", "left", lambda c: without_mask(trimmed(c)), True, id="unpadded left"),
        pytest.param("llava", "right", without_mask, True, id="padding behind the text"),
        pytest.param("llava", "left", without_mask, False, id="padding before the text"),
        pytest.param("llava", "right", lambda c: without_mask(padded(2, 0)(c)), False, id="more"),
        pytest.param("llava", "right", lambda c: without_mask(padded(0, 2)(c)), True, id="behind"),
        pytest.param(
            "paligemma", "right", lambda c: without_mask(trimmed(c)), True, id="both ways"
        ),
        pytest.param("paligemma", "right", without_mask, False, id="both ways, padded"),
    ],
)
def test_mask_is_missed_where_the_columns_of_the_chunk_need_it(family, side, change, ok):
    batch, model = real(family, [2, 1], padding_side=side)
    report, proof = vd.check(cut(change), batch), vd.prove(cut(change), batch, model)

    assert (report.ok, proof.ok) == (ok, ok)
    assert ok or {m.key for m in report.mismatches} == {"attention_mask"}


PLACES = {
    "0, 0, 1": (lambda mask: (mask.cumsum(1) - 1).clamp(min=0), True),
    "1, 1, 0": (lambda mask: (mask.cumsum(1) - 1).masked_fill(mask == 0, 1), True),
    "-1, -1, 0": (lambda mask: mask.cumsum(1) - 1, False),
    "0, 1, 2": (lambda mask: torch.arange(mask.shape[1]).expand_as(mask), False),
}
"""Positions of padding and the tokens behind it, and whether they keep both apart."""


def placed(places, **more):
    """A slicer that gives positions in place of the mask."""

    def change(chunk):
        return {**without_mask(chunk), "position_ids": places(chunk["attention_mask"]), **more}

    return cut(change)


@pytest.mark.parametrize("given", PLACES)
def test_positions_keep_padding_apart_without_a_mask(given):
    batch, model = real("llava", [2, 0, 1], padding_side="left")
    places, apart = PLACES[given]
    slicer = placed(places)
    each, all_rows = (vd.check(slicer, batch, chunk_size=size) for size in (1, 3))

    for size in (1, 3):
        assert vd.prove(slicer, batch, model, chunk_size=size).ok == apart
    assert each.ok == apart
    assert all_rows.verdict == ("AMBIGUOUS" if apart else "MISMATCH")  # flash-attention
    assert apart or {(m.code, m.key) for m in each.mismatches} == {("VLM003", "attention_mask")}
    assert not apart or "flash-attention of several rows does not" in all_rows.ambiguities[0]


@pytest.mark.parametrize("given", PLACES)
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_positions_of_a_batch_without_a_mask_may_leave_padding_out(given, family, built):
    _, processor = built[family]
    inputs = vd.tiny.batch(family, [0, 0], texts=["one two three", "one"], padding_side="left")
    mask = inputs.pop("attention_mask")
    right = PLACES[given][0](mask)
    wrong = right.clone()
    wrong[1, -1] += 1
    of_right, of_wrong = (
        vd.check({**inputs, "position_ids": one}, processor=processor) for one in (right, wrong)
    )

    assert (mask[1] == 0).sum() > 1
    assert of_right.verdict == "AMBIGUOUS"  # nothing else hides the padding
    assert "no attention_mask" in of_right.ambiguities[0]
    assert {one.code for one in of_wrong.mismatches} == {"VLM014"}


def test_positions_that_a_cache_overrides_keep_no_padding_apart():
    batch, _ = real("llava", [2, 0, 1], padding_side="left")
    report = vd.check(placed(PLACES["0, 0, 1"][0], use_cache=True), batch)

    assert {m.key for m in report.mismatches} == {"attention_mask"}


def test_state_that_runs_along_the_row_needs_the_mask():
    model, processor = vd.tiny.build("qwen3_5")
    model = deepcopy(model)
    inputs = vd.tiny.batch("qwen3_5", [0, 0], texts=["one two three", "one"], padding_side="left")
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    with torch.no_grad():
        model.get_input_embeddings().weight[inputs["input_ids"][1, 0]] = 1.0  # padding
    slicer = placed(PLACES["0, 0, 1"][0])

    assert {m.key for m in vd.check(slicer, batch).mismatches} == {"attention_mask"}
    assert not vd.prove(slicer, batch, model).ok


@pytest.mark.parametrize("planes", [3, 4])
def test_m_rope_keeps_padding_apart_by_the_plane_of_text(planes):
    batch, model = real("qwen2_5_vl", [2, 0, 1], padding_side="left")
    inputs = {k: batch.inputs.get(k) for k in ("input_ids", "attention_mask", "mm_token_type_ids")}
    grids = {"image_grid_thw": batch.inputs["image_grid_thw"], "video_grid_thw": None}
    index = model.model.get_rope_index(**inputs, **grids)[0]  # (3, sample, seq)
    text = PLACES["0, 0, 1"][0](batch.inputs["attention_mask"])
    every = torch.cat([text[None], index])[-planes:]

    def slicer(inputs, chunk_size):
        for sample, chunk in enumerate(batch.chunks(1)):
            own = every[:, sample : sample + 1]
            yield {**without_mask(chunk), "position_ids": own}

    report = vd.check(slicer, batch)

    assert report.ok == vd.prove(slicer, batch, model).ok == (planes == 4), str(report)


@pytest.mark.parametrize("key", ["mm_token_type_ids", "moe_mm_token_type_ids"])
@pytest.mark.parametrize("images", [[2, 0], [2, 1]], ids=["of text", "of images"])
def test_types_may_be_left_out_where_all_is_text(key, images):
    batch, model = real("ernie4_5_vl_moe", images)

    def typeless(inputs, chunk_size):
        for index, chunk in enumerate(batch.chunks(chunk_size)):
            yield {name: value for name, value in chunk.items() if name != key or not index}

    report = vd.check(typeless, batch)

    assert report.ok == vd.prove(typeless, batch, model).ok == (images == [2, 0])


# --- prove ---------------------------------------------------------------------------------


def appended(chunk):
    more = torch.full((len(chunk["input_ids"]), 3), 9)
    fill = {"input_ids": more, "attention_mask": torch.ones_like(more)}
    return {
        key: torch.cat([value, fill.get(key, torch.zeros_like(more))], 1) if key in ALONG else value
        for key, value in chunk.items()
    }


@pytest.mark.parametrize("value", [0, 1])
def test_completion_behind_a_prompt_that_sees_all_of_itself_has_type_1(value):
    batch, model = real("paligemma", [1, 2])

    def typed(chunk):
        types = F.pad(chunk["token_type_ids"], (0, 3), value=value)
        labels = F.pad(chunk["labels"], (0, 3), value=-100)
        return {**appended(chunk), "token_type_ids": types, "labels": labels}

    report = vd.check(cut(typed), batch)

    assert report.ok == vd.prove(cut(typed), batch, model).ok == (value == 1)
    assert {m.key for m in report.mismatches} == ({"token_type_ids"} if not value else set())


@pytest.mark.parametrize("value", [0, 1])
@torch.no_grad()
def test_batch_with_completions_says_that_they_are_typed_as_prompts(value, built):
    model, processor = built["paligemma"]
    prompts = {k: v for k, v in vd.tiny.batch("paligemma", [1, 2]).items() if k != "labels"}
    whole = {
        **appended(prompts),
        "token_type_ids": F.pad(prompts["token_type_ids"], (0, 3), value=value),
    }
    report, wide = vd.check(whole, processor=processor), prompts["input_ids"].shape[1]
    off = (model(**whole).logits[:, :wide] - model(**prompts).logits).abs().max()

    assert vd.check(prompts, processor=processor).ok
    assert report.verdict == ("OK" if value else "AMBIGUOUS")
    assert (off < 1e-4) == (value == 1)
    if not value:
        assert "sample 0 has 3 tokens with token_type_ids 0 behind" in report.ambiguities[0]


def test_prompt_of_several_lines_and_a_suffix_of_the_processor_are_right(built):
    processor = built["paligemma"][1]
    text, images = ["<image>a\n\nb\nc", "<image>d"], [Image.new("RGB", (56, 56))] * 2
    given = {"images": [[one] for one in images], "return_tensors": "pt", "padding": True}

    assert vd.check(processor(text=text, **given), processor=processor).ok
    assert vd.check(processor(text=text, suffix=["e", "f\ng"], **given), processor=processor).ok


def test_prove_compares_the_tokens_that_both_have():
    batch, model = real("qwen2_5_vl", [1, 1])
    cut_off = cut(lambda c: {k: v[:, :-2] if k in ALONG else v for k, v in c.items()})

    assert vd.prove(cut(appended), batch, model).ok
    assert vd.prove(cut_off, batch, model).ok


def test_prove_says_that_other_tokens_cannot_be_compared():
    batch, model = real("llava", [1, 0])
    turn = lambda x: torch.cat([x[:, 1:], x[:, :1]], 1)  # noqa: E731
    proof = vd.prove(cut(lambda c: {**c, "input_ids": turn(c["input_ids"])}), batch, model)

    assert not proof.ok
    assert proof.other_tokens == (0, 1)
    assert str(proof) == (
        "the tokens of samples 0:2 are not those of the batch, so their logits could not be "
        "compared"
    )


# --- equal prompts -------------------------------------------------------------------------


def same_text(family="llava", images=(1, 1, 1, 1, 1)):
    """A batch of visual questions: other images, the same text."""
    made = vd.make_batch(family, list(images))
    for key in ALONG:
        if key in made.inputs:
            made.inputs[key][:] = made.inputs[key][:1].clone()
    return made


def copied(batch, groups, media=None, **attributes):
    """A slicer of copies that nothing follows; `media`: of which sample the media are."""

    def slicer(inputs, chunk_size):
        for samples in groups:
            chunk = {}
            for key, axis in batch.layout.items():
                own = samples if media is None or key in ALONG else [media[s] for s in samples]
                rows = [*expected_rows(batch, key, batch.part(own)).rows]
                chunk[key] = torch.from_numpy(batch.inputs[key].numpy().take(rows, axis.dim))
            yield chunk

    for name, value in attributes.items():
        setattr(slicer, name, value)
    return slicer


@pytest.mark.parametrize("family", ["llava", "gemma4", "qwen2_5_vl", "idefics3", "mllama"])
def test_samples_of_equal_text_are_told_apart_by_their_media(family):
    batch = same_text(family)
    uneven, turned = [[0], [1, 2], [3, 4]], [1, 2, 3, 4, 0]

    def codes(slicer, chunk_size=2):
        return {m.code for m in vd.check(slicer, batch, chunk_size=chunk_size).mismatches}

    assert codes(copied(batch, uneven)) == set()
    assert codes(copied(batch, [[s, s] for s in range(5)], expand_size=2), 1) == set()
    assert codes(copied(batch, [[3], [0, 4], [1, 2]], any_order=True)) == set()
    assert codes(copied(batch, [[3], [0, 4], [1, 2]])) == {"VLM007"}
    assert codes(copied(batch, [[0], [1, 2], [4]])) == {"VLM006"}
    assert codes(copied(batch, uneven, media=turned)) == {"VLM007"}


def test_samples_that_are_equal_in_all_are_each_other():
    batch = same_text()
    batch.inputs["pixel_values"][:] = 1

    assert vd.check(copied(batch, [[0], [1, 2], [3, 4]]), batch, chunk_size=2).ok
    assert vd.check(copied(batch, [[s, s] for s in range(5)], expand_size=2), batch).ok


def test_prove_compares_with_the_sample_that_the_media_name():
    model, processor = vd.tiny.build("llava")
    texts = ["<image> What is it?"] * 4
    inputs = dict(vd.tiny.batch("llava", [1] * 4, sizes=(160, 160), texts=texts))
    batch = vd.read_batch(inputs, processor=processor)

    assert vd.prove(copied(batch, [[0], [1, 2], [3]]), batch, model, chunk_size=2).ok
    assert vd.prove(copied(batch, [[3], [0, 1], [2]]), batch, model, chunk_size=2).ok


# --- what is not a finding of its own ------------------------------------------------------


def without_features(batch, clips):
    """The batch, as if nothing said how many features its clips become."""
    modalities = dict(batch.modalities)
    modalities[clips] = replace(modalities[clips], features=None, pieces=None)
    return replace(batch, modalities=modalities)


@pytest.mark.parametrize("known", [True, False], ids=["features known", "features unknown"])
@pytest.mark.parametrize(("family", "clips"), [("gemma4", "audio"), ("llava_next", "video")])
def test_clips_whose_placeholders_were_cut_are_found(family, clips, known):
    batch = vd.make_batch(family, [0, 0], **{f"{clips}s_per_sample": [1, 2]})
    if not known:
        batch = without_features(batch, clips)
    slicer = cut(lambda c: {k: v[:, 1:2] if k in ALONG else v for k, v in c.items()})
    report = vd.check(slicer, batch)

    assert [m.code for m in report.mismatches] == ["VLM009", "VLM009"]
    counted = f"sample 0 has 0 {clips} placeholder tokens in this chunk"
    none = f"sample 0 has no {clips} placeholder token in this chunk's input_ids but"
    assert report.mismatches[0].message.startswith(counted if known else none)


def test_embeddings_are_not_given_samples_by_their_place():
    def halves(model, inputs, chunk_size):
        hidden = model.get_input_embeddings()(inputs["input_ids"])
        for part, mask in zip(
            hidden.chunk(2, 1), inputs["attention_mask"].chunk(2, 1), strict=True
        ):
            model(inputs_embeds=part, attention_mask=mask)

    report = vd.check(vd.record(halves), vd.make_batch("llava", [1, 0]))

    assert (report.verdict, report.mismatches) == ("AMBIGUOUS", ())


def test_loop_keeps_the_logits_of_a_completion_in_the_smallest_batch():
    def loop(model, inputs, chunk_size):
        for chunk in vd.slicers.corrected(dict(inputs), chunk_size):
            logits = model(**chunk, logits_to_keep=8).logits[:, :-1]
            torch.gather(logits.log_softmax(-1), 2, chunk["input_ids"][:, -7:, None])

    assert vd.falsify(vd.record(loop), families=["gemma4"], max_examples=60) is None


def test_refusal_of_the_whole_batch_is_said_and_comes_last():
    def long_texts(cutter):
        def slicer(inputs, chunk_size):
            if inputs["input_ids"].shape[1] < 12:
                raise ValueError("the text is too short")
            yield from cutter(inputs, chunk_size)

        return slicer

    right = vd.falsify(long_texts(vd.slicers.corrected), families=["llava"], max_examples=20)
    wrong = vd.falsify(long_texts(vd.slicers.by_sample), families=["llava"])

    assert right is not None and isinstance(right.error, ValueError)
    assert "It raises the same where the whole batch is one chunk" in str(right.report)
    assert wrong is not None and wrong.error is None


def test_labels_that_a_slicer_shifts_are_silent():
    batch, _ = real("llava", [1, 1])
    report = vd.check(making(labels=lambda chunk: chunk["input_ids"].roll(-1, 1)), batch)

    assert {(m.code, m.key, m.silent) for m in report.mismatches} == {("VLM013", "labels", True)}
    assert "unshifted: the model shifts them" in str(report)


def test_types_of_zeros_are_named_as_such_and_not_as_rows_of_other_samples():
    _, processor = vd.tiny.build("qwen2_5_vl")
    inputs = dict(vd.tiny.batch("qwen2_5_vl", [1, 0, 2]))
    slicer = making(mm_token_type_ids=zeros)
    report = vd.check(slicer, inputs, processor=processor)

    assert [(m.code, m.chunk) for m in report.mismatches] == [("VLM011", 0), ("VLM011", 2)]
    assert "mm_token_type_ids of zeros" in report.mismatches[0].message
    text = dict(vd.tiny.batch("qwen2_5_vl", [0, 0]))
    assert vd.check(slicer, text, processor=processor).ok
