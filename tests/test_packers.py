"""Packers on trial: code that joins samples in one row, judged beside the tiny real model."""

from __future__ import annotations

import inspect
from contextlib import contextmanager, suppress
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from architectures import REFUSES_TEXT, architectures
from packers import (
    OF_MROPE,
    ORDER,
    SAME,
    WRONG,
    Lab,
    attending,
    codes,
    flash_arguments,
    labs_of,
)

import vlmdebug as vd
from vlmdebug.families import find_family
from vlmdebug.families.apart import SEPARATES, SHARES_PROCESSOR
from vlmdebug.testing import assert_slices

FAMILIES = [one for one in architectures() if one in SEPARATES and one not in REFUSES_TEXT]
OTHERS = [one for one in architectures() if one not in SEPARATES and one not in REFUSES_TEXT]
OWN_MASKS = {
    *("cohere2_vision", "gemma3n", "gemma4_unified", "hy_v4_vl", "muse_glimmer"),
    "muse_spark",
}
"""Models that do not show all tokens of one mask: it does not stand for flash-attention."""


@pytest.fixture(scope="module")
def labs(built):
    return labs_of(built)


@pytest.mark.parametrize("family", FAMILIES)
def test_right_packers_pass_in_any_order_and_the_model_agrees(family, labs):
    lab = labs[family]
    for order in (ORDER, (0, 1, 2)):
        call = lab.packed(order=order)
        for packer in (lab.packer(order=order), lambda inputs, size, call=call: [call]):
            report = vd.check(packer, lab.batch, chunk_size=3)

            assert report.ok, str(report)
        assert lab.off(lab.run(call), order) < SAME
        if family not in OWN_MASKS:
            assert lab.off(lab.flash(call), order) < SAME


@pytest.mark.parametrize("family", FAMILIES)
def test_each_wrong_packer_falls_with_its_code_and_the_model_agrees(family, labs):
    lab = labs[family]
    for wrong, code in WRONG.items():
        if wrong in OF_MROPE and not lab.mrope:
            continue
        report = vd.check(lab.packer(wrong), lab.batch, chunk_size=3)

        assert code in codes(report), (wrong, str(report))
        assert differs(lab, wrong), wrong
        said = {one.loudness for one in report.findings}
        assert ("silent" if raises(lab, wrong) else "loud") not in said, (wrong, str(report))


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_report_says_which_keys_of_a_packed_row_were_compared(family, labs):
    lab = labs[family]
    call = lab.packed()
    ends = ", ".join(key for key in call if key.startswith(("cu_", "max_")))
    own = len(lab.batch.layout) - 1  # all but attention_mask

    def said(call):
        report = vd.check(lambda inputs, size: [call], lab.batch, chunk_size=3)
        right = str(report).split(": right in every chunk")[0].splitlines()[-1]
        lines = " ".join(str(report).split()).split(": right in every chunk")[0]
        return {one.what: one.against for one in report.compared}, f"{lines} {right}"

    against, right = said(call)
    assert against[f"rows of {own} keys in 1 chunk"] is not None
    assert against["position_ids in 1 chunk"] == "places of the tokens of input_ids"
    assert against["labels in 1 chunk"] == "input_ids"
    assert against[f"{ends} in 1 chunk"] == "the samples of each row"
    assert "attention_mask" not in right and "input_ids" in right

    against, right = said(call | {"attention_mask": torch.ones_like(call["input_ids"])})
    assert against["position_ids, attention_mask in 1 chunk"] is None
    assert f"rows of {own} keys in 1 chunk" in against
    assert "input_ids, attention_mask" not in right

    without = {key: one for key, one in call.items() if not key.startswith(("cu_", "max_"))}
    assert f"{ends} in 1 chunk" not in said(without)[0]


def test_advice_on_packed_rows_is_about_joining_and_works(labs):
    lab = labs["qwen2_5_vl"]
    order = "in the order in which rows of input_ids hold them."
    turned = lab.packed()
    turned["mm_token_type_ids"] = turned["mm_token_type_ids"].flip(1)
    advice = {
        "images in batch order": ("VLM002", f"Join pixel_values of whole samples, {order}"),
        "an image lost": ("VLM001", f"Join pixel_values of whole samples, {order}"),
        "a sample twice": ("VLM006", "Let every sample be in one packed row."),
        "types in another order": (
            "VLM011",
            "Join mm_token_type_ids of the same tokens as input_ids, in the same order.",
        ),
    }
    for wrong, (code, todo) in advice.items():
        packer = lab.packer(wrong) if wrong in WRONG else lambda inputs, size: [turned]
        said = vd.check(packer, lab.batch, chunk_size=3).mismatches

        assert said[0].code == code
        assert todo in said[0].message.splitlines(), said[0].message
        assert not any("Cut " in one.message or "Trim " in one.message for one in said)
    assert vd.check(lab.packer(), lab.batch, chunk_size=3).ok  # which does all of it


def test_mask_of_rows_with_a_sample_each_is_compared(labs):
    lab = labs["llava"]
    parts = [part["input_ids"][0] for part in lab.parts]
    wide = max(map(len, parts)) + 3
    ids = torch.stack([torch.nn.functional.pad(one, (0, wide - len(one))) for one in parts])
    mask = torch.stack([(torch.arange(wide) < len(one)).long() for one in parts])
    places = torch.arange(wide).expand(3, -1)
    pixels = lab.inputs["pixel_values"]
    call = dict(input_ids=ids, attention_mask=mask, position_ids=places, pixel_values=pixels)
    hides = {**call, "attention_mask": mask.clone()}
    hides["attention_mask"][:, 2:4] = 0
    right, wrong = (
        vd.check(lambda *_, one=one: [one], lab.batch, chunk_size=3) for one in (call, hides)
    )
    with torch.no_grad():
        logits = [lab.model(**one, use_cache=False).logits for one in (call, hides)]

    off = [
        max(float((a[: len(b)] - b).abs().max()) for a, b in zip(x, lab.alone, strict=False))
        for x in logits
    ]
    assert off[0] < SAME < off[1]
    assert right.ok, str(right)
    assert codes(wrong) == {"VLM011"}, str(wrong)


def test_doubt_about_the_model_asks_for_a_config_only_where_none_was_given(labs):
    lab, shared = labs["gemma3"], labs["qwen3_5"]
    asked = "Pass config= of the model."
    doubts = {
        name: " ".join(vd.check(packer.packer(), batch, chunk_size=3).ambiguities)
        for name, packer, batch in (
            ("config", lab, lab.batch),
            ("model", lab, vd.read_batch(lab.inputs, processor=lab.processor, model=lab.model)),
            ("its processor", lab, vd.read_batch(lab.inputs, processor=lab.processor)),
            ("nothing", lab, vd.read_batch(lab.inputs, layout="llava")),
            ("shared", shared, vd.read_batch(shared.inputs, processor=shared.processor)),
            ("settled", shared, shared.batch),
        )
    }
    assert all("keeps samples apart" in one for one in doubts.values()), doubts
    assert {name for name, one in doubts.items() if asked in one} == {"nothing", "shared"}
    assert not any("config" in doubts[name] for name in ("config", "model", "its processor"))

    unknown = vd.read_batch(labs["llava"].inputs, layout="llava")
    packer = labs["llava"].packer()
    assert asked in " ".join(vd.check(packer, unknown, chunk_size=3).ambiguities)
    assert vd.check(packer, labs["llava"].batch, chunk_size=3).ok  # with config=


def test_labels_and_positions_of_the_batch_that_are_wrong_at_a_seam_are_not_called_right(labs):
    lab = labs["llava"]
    places = places_of(lab.model, lab.inputs)
    own = {**lab.inputs, "labels": lab.inputs["input_ids"].clone(), "position_ids": places}
    batch = vd.read_batch(own, processor=lab.processor, config=lab.model.config)
    for wrong, key in (("labels across a seam", "labels"), ("seam off by one", "position_ids")):
        call = lab.packed(wrong)
        call["labels"][:] = call["input_ids"]
        report = vd.check(lambda inputs, size, call=call: [call], batch, chunk_size=3)

        assert any(one.key == key for one in report.mismatches), str(report)
        assert report.chunks[0].keys[key].state == "wrong rows"


def raises(lab, wrong):
    """Whether the model raises with a wrong packer's call."""
    try:
        lab.run(lab.packed(wrong))
    except (IndexError, RuntimeError, ValueError):
        return True
    return False


def differs(lab, wrong):
    """Whether the model, or the loss, tells a wrong packer's call from a right one."""
    call = lab.packed(wrong)
    if wrong == "labels across a seam":
        logits = lab.run(call)
        return abs(loss(logits, call) - loss(logits, lab.packed())) > SAME
    if wrong == "ends of the padded row":
        if call.keys() >= {"cu_seq_lens_q"} and lab.model.config.model_type in OWN_MASKS:
            return True
        return lab.off(lab.flash(call)) > SAME
    if wrong == "a sample twice":
        return len(lab.run(call)) > sum(map(len, lab.alone))
    begins = [0, *torch.tensor([len(lab.alone[s]) for s in ORDER]).cumsum(0).tolist()]
    if wrong == "padding left in":
        begins = [begins[0], begins[1] + 3, begins[2] + 3]
    try:
        return lab.off(lab.run(call), at=begins) > SAME
    except (IndexError, RuntimeError, ValueError):
        return True


def loss(logits, call):
    labels = call["labels"][0, 1:]
    return float(torch.nn.functional.cross_entropy(logits[:-1], labels, ignore_index=-100))


@pytest.mark.parametrize("family", OTHERS)
def test_a_family_in_which_nothing_is_known_to_keep_samples_apart_is_never_ok(family, labs):
    lab = labs[family]
    report = vd.check(lab.packer(), lab.batch, chunk_size=3)

    assert not report.ok
    if not report.mismatches:
        assert any("keeps samples apart" in text for text in report.ambiguities)


def with_padding_in_front(inputs):
    """A padded batch with all padding in front of the texts."""
    mask = inputs["attention_mask"]
    return {
        key: torch.stack([torch.cat([r[m == 0], r[m != 0]]) for r, m in zip(v, mask, strict=True)])
        if v.shape[:2] == mask.shape
        else v
        for key, v in inputs.items()
    }


def places_of(model, inputs):
    """Positions that begin at 0 with the text, after padding at 0; M-RoPE's four planes."""
    order = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    base = model if hasattr(model, "get_rope_index") else getattr(model, "model", model)
    index = getattr(base, "get_rope_index", None)
    if index is None:
        return order
    taken = inspect.signature(index).parameters
    planes, _ = index(**{key: one for key, one in inputs.items() if key in taken})
    return torch.cat([order[None].to(planes.dtype), planes])


@contextmanager
def padding_embedded(model, pads):
    """The model with noise as embedding of padding, which is often zero in a new model."""
    weight = model.get_input_embeddings().weight
    with torch.no_grad():
        kept = weight[pads].clone()
        noise = torch.randn(kept.shape, generator=torch.Generator().manual_seed(0))
        weight[pads] = noise * weight.std()
        yield
        weight[pads] = kept


@pytest.mark.parametrize("family", architectures())
def test_positions_keep_padding_in_front_apart_exactly_where_the_model_agrees(family, built):
    model, processor = built[family]
    sets = [[1, 1, 2]] if family in REFUSES_TEXT else [[1, 0, 2], [0, 0]]
    for images in sets:
        inputs = dict(vd.tiny.batch(family, images))
        front = with_padding_in_front(inputs)
        batch = vd.read_batch(front, processor=processor, config=model.config)
        call = {**front, "position_ids": places_of(model, front)}
        mask = call.pop("attention_mask").bool()
        report = vd.check(lambda *_, call=call: [call], batch, chunk_size=3)
        pads = front["input_ids"][~mask].unique()
        with padding_embedded(model, pads):
            alone = model(**inputs, use_cache=False).logits[inputs["attention_mask"].bool()]
            off = float((model(**call, use_cache=False).logits[mask] - alone).abs().max())

        assert report.verdict == ("OK" if off < SAME else "MISMATCH"), (images, off, str(report))
        if off >= SAME:
            assert {(one.code, one.key) for one in report.mismatches} == {
                ("VLM003", "attention_mask")
            }


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_positions_that_start_elsewhere_or_padding_behind_a_sample_change_nothing(family, labs):
    lab = labs[family]

    def later(inputs, chunk_size):
        call = lab.packed()
        yield {**call, "position_ids": call["position_ids"] + 7}

    def padded(inputs, chunk_size):
        call = lab.packed()
        wide = call["input_ids"].shape[1]
        for key, value in call.items():
            if getattr(value, "ndim", 0) in (2, 3) and value.shape[-1] == wide:
                fill = {"labels": -100, "input_ids": 0}.get(key, 0)
                call[key] = torch.nn.functional.pad(value, (0, 2), value=fill)
        yield call

    for slicer in (later, padded):
        (call,) = slicer({}, 3)
        assert lab.off(lab.run(call)) < SAME
        assert vd.check(slicer, lab.batch, chunk_size=3).ok


def padded_row(call, wide, pad=0):
    """A call with padding behind its tokens, `wide` of them in all."""
    have = call["input_ids"].shape[1]
    along = {k: v for k, v in call.items() if getattr(v, "ndim", 0) > 1 and v.shape[-1] == have}
    fill = {"labels": -100, "input_ids": pad}
    return call | {
        key: torch.nn.functional.pad(value, (0, wide - have), value=fill.get(key, 0))
        for key, value in along.items()
    }


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl", "idefics3"])
def test_rows_of_one_sample_and_padding_are_packed_rows(family, labs):
    lab = labs[family]
    hidden = lab.inputs["input_ids"][lab.inputs["attention_mask"] == 0]
    pad = int(hidden[0])

    def rows(inputs, chunk_size):
        for sample in ORDER:
            yield padded_row(lab.packed(order=[sample]), 256, pad)

    for sample, call in zip(ORDER, rows({}, 1), strict=True):
        assert lab.off(lab.run(call), [sample]) < SAME
    assert vd.check(rows, lab.batch, chunk_size=1).ok

    def cut(inputs, chunk_size):
        for call in rows(inputs, chunk_size):
            yield call | {
                "input_ids": call["input_ids"].clone().index_fill_(1, torch.tensor(9), pad)
            }

    assert not vd.check(cut, lab.batch, chunk_size=1).ok


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0], [1]])
@pytest.mark.parametrize("token", [0, 7])
def test_padding_behind_samples_of_a_batch_without_padding_is_no_text(order, token):
    batch = vd.make_batch("llava", [1, 1, 1])
    assert batch.inputs["attention_mask"].all()
    seq = batch.inputs["input_ids"].shape[1]

    def packer(inputs, chunk_size, behind=token):
        for samples in (order, [one for one in (0, 1, 2) if one not in order]):
            call = {
                "input_ids": inputs["input_ids"][samples].reshape(1, -1),
                "position_ids": torch.arange(seq).repeat(len(samples))[None],
                "pixel_values": inputs["pixel_values"][samples],
            }
            if samples:
                yield padded_row(call, 512, behind)

    def with_placeholders(inputs, chunk_size):
        return packer(inputs, chunk_size, batch.image.token_id)

    assert vd.check(packer, batch, chunk_size=3).ok
    assert "VLM009" in codes(vd.check(with_placeholders, batch, chunk_size=3))


def test_tokens_of_no_sample_are_said_not_to_be_compared(labs):
    lab = labs["llava"]
    strange = torch.tensor([[11, 57, 33, 78, 91, 55, 23]])

    def packer(inputs, chunk_size):
        call = lab.packed() | {"labels": None}
        size = strange.shape[1]
        yield call | {
            "input_ids": torch.cat([call["input_ids"], strange], 1),
            "position_ids": torch.cat([call["position_ids"], torch.arange(size)[None]], 1),
            **flash_arguments([*(len(lab.alone[sample]) for sample in ORDER), size]),
        }

    report = vd.check(packer, lab.batch, chunk_size=3)

    assert report.verdict == "AMBIGUOUS"
    assert report.ambiguities == (
        "Rows of input_ids hold 3 samples, but also tokens that are of no sample of the batch and "
        "no padding, so those were not compared. Pack the samples of the batch alone.",
    )


def with_completions(lab, order, size, media):
    """A packed row of prompts, each with tokens of no sample behind it; `media`: whose images."""
    along, noise = dict[str, list[torch.Tensor]](), torch.Generator()
    for sample in order:
        one = lab.packed(order=[sample])
        behind = {
            "input_ids": torch.randint(100, 200, (1, size), generator=noise),
            "position_ids": one["position_ids"][..., -1:] + 1 + torch.arange(size),
        }
        for key, value in one.items():
            if getattr(value, "shape", ())[-1:] == one["input_ids"].shape[1:]:
                blank = value.new_zeros(*value.shape[:-1], size)
                along.setdefault(key, []).extend([value, behind.get(key, blank)])
    rows = lab.packed(order=media)
    images = {key: rows[key] for key in rows if key in lab.batch.layout.media}
    tokens = {key: torch.cat(parts, -1) for key, parts in along.items() if key != "labels"}
    return tokens | images


@pytest.mark.parametrize("size", [15, 100])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_completions_behind_packed_prompts_are_undecided_and_faults_are_found(family, size, labs):
    lab = labs[family]
    right = with_completions(lab, ORDER, size, ORDER)
    lengths = torch.tensor([len(lab.alone[sample]) + size for sample in ORDER])
    begins = (lengths.cumsum(0) - lengths).tolist()

    report = vd.check(lambda inputs, chunk_size: [right], lab.batch, chunk_size=3)

    assert lab.off(lab.run(right), at=begins) < SAME
    assert report.verdict == "AMBIGUOUS"
    assert "also tokens that are of no sample" in report.ambiguities[0]

    moved = right | {"position_ids": right["position_ids"].clone()}
    moved["position_ids"][..., begins[1] + 5 : begins[1] + 9] += 3
    turned = with_completions(lab, ORDER, size, sorted(ORDER))
    for wrong, code in ((moved, "VLM014"), (turned, "VLM002")):
        found = vd.check(lambda inputs, chunk_size, wrong=wrong: [wrong], lab.batch, chunk_size=3)

        assert codes(found) == {code}
        assert lab.off(lab.run(wrong), at=begins) > SAME


@pytest.mark.parametrize("size", [5, 40])
def test_a_sample_next_to_tokens_of_another_batch_is_not_called_out_of_order(size, labs):
    """A bin of one sample and a text of another data set, which positions keep apart."""
    lab, noise = labs["internvl"], torch.Generator()
    call = with_completions(lab, [1], 0, [1])
    text = torch.randint(100, 200, (1, size), generator=noise)
    call["input_ids"] = torch.cat([call["input_ids"], text], 1)
    call["position_ids"] = torch.cat([call["position_ids"], torch.arange(size)[None]], 1)
    calls = [lab.packed(order=[2, 0]), call]

    report = vd.check(lambda inputs, chunk_size: calls, lab.batch, chunk_size=3)

    assert lab.off(lab.run(call), order=[1]) < SAME
    assert report.verdict == "AMBIGUOUS"
    assert "also tokens that are of no sample" in report.ambiguities[0]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("at", [0, 1], ids=["in front", "behind"])
def test_a_bin_without_tokens_is_named_wherever_it_comes(family, at, labs):
    lab = labs[family]
    call = lab.packed()
    empty = {key: call[key][..., :0] for key in ("input_ids", "position_ids")}
    calls = [call]
    calls.insert(at, empty)

    report = vd.check(lambda inputs, chunk_size: calls, lab.batch, chunk_size=3)

    assert [one.message.splitlines()[0] for one in report.findings] == [
        f"Chunk {at} holds no sample."
    ]
    assert report.findings[0].loudness == "loud"
    with pytest.raises(IndexError):
        lab.run(empty)


def test_media_of_a_bin_without_tokens_are_named(labs):
    lab = labs["llava"]
    call = lab.packed()
    empty = {key: call[key][..., :0] for key in ("input_ids", "position_ids")}
    empty["pixel_values"] = call["pixel_values"][:0]

    report = vd.check(lambda inputs, chunk_size: [call, empty], lab.batch, chunk_size=3)

    said = [one.message.splitlines()[0] for one in report.findings]
    assert "A chunk without samples was given pixel_values with zero rows." in said


def with_other_words(lab, call, share):
    """The call with other text tokens in some places."""
    ids, noise = call["input_ids"].clone(), torch.Generator()
    text = ~torch.isin(ids, torch.tensor([*lab.batch.token_ids.values()]))
    ids[text & (torch.rand(ids.shape, generator=noise) < share)] = 150
    return call | {"input_ids": ids, "labels": None}


def test_positions_of_packed_tokens_that_match_no_sample_are_undecided(labs):
    lab = labs["llava"]
    right = lab.packed(order=(0, 1, 2))
    call = with_other_words(lab, lab.packed("no positions", (0, 1, 2)), 0.5)
    call["position_ids"] = right["position_ids"]

    report = vd.check(lambda inputs, chunk_size: [call], lab.batch, chunk_size=3)

    assert report.verdict == "AMBIGUOUS"
    assert "the tokens match no samples, of which one may begin at each 0" in "".join(
        report.ambiguities
    )


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_media_next_to_tokens_of_no_sample_are_as_loud_as_the_model(family, labs):
    """A sample with another word is not recognized, and its images are still in the call."""
    lab = labs[family]
    call = lab.packed(order=[1, 0, 2])
    call["input_ids"][0, -len(lab.alone[2])] = 150

    report = vd.check(lambda inputs, chunk_size: [call], lab.batch, chunk_size=3)

    assert lab.run(call).isfinite().all()
    assert codes(report) >= {"VLM006"}
    assert {one.loudness for one in report.findings} == {"silent"}


@pytest.mark.parametrize(
    ("rewards", "wrong"), [([1.0, 2.0, 4.0, 3.0], set()), ([2.0, 1.0, 3.0, 4.0], {"VLM002"})]
)
def test_equal_samples_are_told_apart_by_what_a_trainer_adds(rewards, wrong, built):
    """Two texts without images may be packed in any order, with their rewards."""
    model, processor = built["llava"]
    texts = ["<image>Describe.", "<image>Describe.", "Name it.", "Name it."]
    inputs = dict(vd.tiny.batch("llava", [1, 1, 0, 0], texts=texts, sizes=(64, 64)))
    lab = Lab(model, processor, inputs | {"rewards": torch.tensor([1.0, 2.0, 3.0, 4.0])})
    call = lab.packed(order=[0, 1, 2, 3]) | {"rewards": torch.tensor(rewards)}

    report = vd.check(lambda inputs, chunk_size: [call], lab.batch, chunk_size=4)

    assert codes(report) == wrong
    assert report.ok == (not wrong)


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_positions_of_a_row_of_one_sample_are_compared(family, labs):
    lab = labs[family]

    def packer(inputs, chunk_size):
        for sample in ORDER:
            call = lab.packed(order=[sample])
            call["position_ids"][0, 5] += 4
            yield call

    (finding,) = vd.check(packer, lab.batch, chunk_size=1).findings

    assert finding.code == "VLM014"
    assert finding.message == (
        "sample 2 has position_ids 9 at column 5 of row 0, but it is 5 if the sample is alone.\n"
        "The model will not raise: it takes the tokens for others in place or time.\n"
        "Compute position_ids of each sample alone, and concatenate them.\nIn chunks 0, 1, 2."
    )


def test_several_rows_may_be_packed(labs):
    lab = labs["llava"]

    def rows(inputs, chunk_size):
        yield lab.packed(order=[2, 0])
        yield lab.packed(order=[1])

    assert vd.check(rows, lab.batch, chunk_size=2).ok


@pytest.mark.parametrize("wrong", ["no positions", "positions run on"])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "idefics3"])
def test_ends_for_flash_attention_are_of_no_use_to_other_attention(family, wrong, labs):
    lab = labs[family]
    call = {**lab.packed(), **lab.packed(wrong)}
    if wrong == "no positions":
        del call["position_ids"]

    def report(name, given=call):
        return vd.check(lambda *_: [given], attending(lab, name), chunk_size=3)

    assert lab.off(lab.run(call)) > SAME
    for name in ("sdpa", "eager", "flex_attention"):
        assert [(f.code, f.loudness) for f in report(name).findings] == [("VLM014", "silent")]
        assert report(name, lab.packed()).ok
    for name in (None, "registered_by_a_user"):
        assert report(name).verdict == "AMBIGUOUS"
        assert "only flash-attention" in str(report(name).ambiguities)
    assert report("flash_attention_2").ok
    if "position_ids" in call:
        assert lab.off(lab.flash(call)) < SAME


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"max_length_q": 3}, "VLM015", "max_length_q is 3, but the longest sample has"),
        ({"cu_seq_lens_q": slice(0, -1)}, "VLM015", "cu_seq_lens_q has an end at token"),
        ({"seq_idx": 0}, "VLM015", "does not tell it from its neighbors"),
    ],
)
def test_ends_that_are_not_those_of_the_samples_are_named(changed, code, said, labs):
    lab = labs["llava"]

    def packer(inputs, chunk_size):
        call = lab.packed()
        ((key, value),) = changed.items()
        if key == "seq_idx":
            value = torch.zeros_like(call["input_ids"])
        elif isinstance(value, slice):
            value = call[key][value]
        yield {**call, key: value}

    (finding,) = vd.check(packer, lab.batch, chunk_size=3).findings

    assert finding.code == code
    assert said in finding.message


def test_a_number_per_token_keeps_samples_apart_if_neighbors_differ(labs):
    lab = labs["llava"]
    lengths = [len(lab.alone[sample]) for sample in ORDER]

    def packer(inputs, chunk_size):
        index = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))[None]
        yield {**lab.packed(), "seq_idx": index}

    assert vd.check(packer, lab.batch, chunk_size=3).ok


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("position_ids", "0 1 2"),
        ("position_ids", [[0, 1, 2]]),
        ("cu_seq_lens_q", torch.zeros(1, 4)),
        ("position_ids", torch.zeros(2, 2).to_sparse()),
        ("position_ids", torch.empty(1, 3, device="meta")),
        ("cu_seq_lens_q", torch.tensor([0.0, float("nan")])),
        ("cu_seq_lens_q", torch.zeros(0)),
        ("max_length_q", "20"),
        ("labels", "none"),
    ],
)
def test_arguments_of_packed_rows_that_cannot_be_read_are_not_ok(key, value, labs):
    lab = labs["llava"]
    report = vd.check(lambda i, n: [{**lab.packed(), key: value}], lab.batch, chunk_size=3)

    assert report.verdict == "AMBIGUOUS"
    assert any("is no tensor of numbers" in one for one in report.ambiguities)


def test_a_mask_in_front_of_packed_rows_is_not_ok(labs):
    lab = labs["llava"]

    def packer(inputs, chunk_size):
        call = lab.packed()
        yield {**call, "attention_mask": torch.ones_like(call["input_ids"])}

    report = vd.check(packer, lab.batch, chunk_size=3)

    assert report.verdict == "AMBIGUOUS"
    assert "with an attention_mask, models ignore" in str(report.ambiguities)


def test_a_sample_that_is_cut_in_its_row_is_named(labs):
    lab = labs["llava"]

    def packer(inputs, chunk_size):
        call = lab.packed()
        keep = call["input_ids"].shape[1] - 2
        along = {k: v for k, v in call.items() if getattr(v, "shape", None) == (1, keep + 2)}
        lengths = [len(lab.alone[sample]) for sample in ORDER]
        lengths[-1] -= 2
        yield call | {k: v[:, :keep] for k, v in along.items()} | flash_arguments(lengths)

    (finding,) = vd.check(packer, lab.batch, chunk_size=3).findings

    assert finding.code == "VLM006"
    assert finding.worst.samples == (ORDER[-1],)


def test_other_keys_along_the_tokens_follow_them(labs):
    lab = labs["qwen2_5_vl"]

    def packer(inputs, chunk_size):
        call = lab.packed()
        types = call["mm_token_type_ids"].clone()
        types[0, -1] = 1
        yield {**call, "mm_token_type_ids": types}

    (finding,) = vd.check(packer, lab.batch, chunk_size=3).findings

    assert (finding.code, finding.worst.key) == ("VLM011", "mm_token_type_ids")


def test_samples_of_the_same_text_are_told_apart_by_their_images():
    batch = vd.make_batch("llava", [1, 1, 1])
    ids = batch.inputs["input_ids"][:1].expand(3, -1).clone()
    alike = vd.read_batch({**batch.inputs, "input_ids": ids}, layout="llava", num_images=[1, 1, 1])
    places = torch.arange(ids.shape[1]).repeat(3)[None]

    def packed(order):
        def packer(inputs, chunk_size):
            rows = [inputs["pixel_values"][sample : sample + 1] for sample in order]
            yield {
                "input_ids": ids.reshape(1, -1).clone(),
                "position_ids": places,
                "pixel_values": torch.cat(rows),
            }

        return packer

    def found(order):
        return vd.check(packed(order), alike, chunk_size=3)

    assert found([2, 0, 1]).mismatches == ()
    assert found([2, 0, 1]).chunks[0].samples == (2, 0, 1)
    assert codes(found([2, 0, 0])) == {"VLM006"}


# --- rows, attention, and models of one processor ----------------------------------------------


def in_rows(lab, rows):
    """Packed rows of these samples as one call without arguments of flash-attention."""
    calls = [lab.packed(order=row) for row in rows]
    wide = max(call["input_ids"].shape[1] for call in calls)
    calls = [padded_row(call, wide) for call in calls]
    found = {}
    for key in dict.fromkeys(key for call in calls for key in call):
        if key.startswith(("cu_", "max_")):
            continue
        dim = -2 if key == "position_ids" else 0
        found[key] = torch.cat([call[key] for call in calls if key in call], dim)
    return found


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "idefics3"])
def test_packed_rows_next_to_each_other_are_apart_but_in_flash_attention(family, labs):
    lab, rows = labs[family], ((0, 1), (2,))
    call, sizes = in_rows(lab, rows), [len(one) for one in lab.alone]
    places = {0: (0, 0), 1: (0, sizes[0]), 2: (1, 0)}
    wide = call["input_ids"].shape[1]
    causal = torch.ones(wide, wide, dtype=torch.bool).tril()[None, None]  # a row is one sample

    def off(**more):
        with torch.no_grad():
            given = {key: one for key, one in call.items() if key != "labels"}
            logits = lab.model(**given, **more, use_cache=False).logits
        return max(
            float((logits[row, at : at + sizes[s]] - lab.alone[s]).abs().max())
            for s, (row, at) in places.items()
        )

    def verdict(name, **more):
        return vd.check(lambda *_: [{**call, **more}], attending(lab, name), chunk_size=3)

    assert off() < SAME
    assert off(attention_mask=causal.expand(2, -1, -1, -1)) > SAME
    for name in ("sdpa", "eager"):
        assert verdict(name).ok
    flash, unknown = verdict("flash_attention_2"), verdict(None)
    assert [(one.code, one.loudness) for one in flash.findings] == [("VLM015", "silent")]
    assert flash.findings[0].message.splitlines()[0] == (
        f"sample 1 begins at column {sizes[0]} of row 0, but flash-attention takes each of 2 rows "
        "for one sample: it reads position_ids of a single row only."
    )
    assert unknown.verdict == "AMBIGUOUS"
    assert "it is not known whether the model has it" in unknown.ambiguities[0]
    ends = torch.tensor([0, sizes[0], sizes[0] + sizes[1], wide + sizes[2]]).int()
    given = {f"cu_seq_lens_{one}": ends for one in "qk"} | {f"max_length_{o}": wide for o in "qk"}
    for name in ("sdpa", "flash_attention_2", None):
        assert verdict(name, **given).ok


def test_arguments_of_flash_attention_alone_are_right_where_the_model_has_it(labs):
    lab = labs["llava"]
    call = {key: one for key, one in lab.packed().items() if key != "position_ids"}
    verdicts = [
        vd.check(lambda *_: [call], attending(lab, name), chunk_size=3).verdict
        for name in ("flash_attention_2", None)
    ]

    assert lab.off(lab.flash(lab.packed())) < SAME < lab.off(lab.run(call))
    assert verdicts == ["OK", "AMBIGUOUS"]


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_5_moe", "qwen4_exp"])
def test_a_processor_that_models_share_does_not_say_that_samples_are_apart(family, labs):
    lab = labs[family]
    bare = vd.read_batch(lab.inputs, processor=lab.processor)
    other = vd.read_batch(
        lab.inputs, processor=lab.processor, config=vd.tiny.build("qwen3_vl")[0].config
    )
    reports = [vd.check(lab.packer(), batch, chunk_size=3) for batch in (bare, lab.batch)]

    assert lab.off(lab.run(lab.packed())) > 0.1
    assert [report.verdict for report in reports] == ["AMBIGUOUS", "AMBIGUOUS"]
    assert all("keeps samples apart in this model" in one.ambiguities[0] for one in reports)
    assert vd.check(lab.packer(), other, chunk_size=3).ok
    for batch in (bare, lab.batch):
        with pytest.raises(vd.BadInput, match="Nothing is known to keep samples"):
            vd.export(batch, packed=True)


def test_processors_that_other_models_share_are_known():
    from transformers import models
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    users, folder = {}, Path(models.__file__).parent
    for model, processor in PROCESSOR_MAPPING_NAMES.items():
        users.setdefault(str(processor), set()).add(model)
    shared = {
        name
        for models in users.values()
        for name in models & SEPARATES
        if (folder / name / f"processing_{name}.py").exists()  # the type that a processor shows
        and any(find_family(other) and other not in SEPARATES for other in models)
    }

    assert shared == SHARES_PROCESSOR


# --- positions of a batch ----------------------------------------------------------------------


def mrope_batch(labs, side="right"):
    """A padded Qwen2.5-VL batch of images that are not square, with the model's own positions."""
    lab = labs["qwen2_5_vl"]
    inputs = dict(
        vd.tiny.batch("qwen2_5_vl", [2, 0, 1], sizes=[(56, 112), (112, 56), (84, 140)], seed=0)
    )
    if side == "left":
        padding = (inputs["attention_mask"] == 0).sum(1)
        for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
            rows = zip(inputs[key], padding.tolist(), strict=True)
            inputs[key] = torch.stack([row.roll(by) for row, by in rows])
    inputs["position_ids"] = lab.model.model.get_rope_index(**inputs)[0]
    return lab, inputs


def on_positions(labs, change, side="right"):
    lab, inputs = mrope_batch(labs, side)
    inputs["position_ids"] = change(inputs["position_ids"], inputs)
    return vd.check(inputs, processor=lab.processor, config=lab.model.config)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p, _: p, id="the model's own"),
        pytest.param(lambda p, _: p + 5, id="behind a prefix"),
        pytest.param(
            lambda p, i: torch.cat([i["attention_mask"].cumsum(1)[None] - 1, p]), id="text plane"
        ),
    ],
)
def test_positions_that_follow_from_the_grids_pass(change, side, labs):
    report = on_positions(labs, change, side)

    assert report.ok, str(report)
    assert "position_ids against places of the tokens" in str(report).replace("\n    ", " ")


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda p, _: p[[0, 2, 1]], "height and width are swapped", id="(y, x)"),
        pytest.param(
            lambda p, i: (i["attention_mask"].cumsum(1) - 1).expand(3, -1, -1),
            "M-RoPE's places in time, height and width",
            id="text positions",
        ),
        pytest.param(
            lambda p, i: p[:, [2, 1, 0]], "sample 0 has position_ids", id="rows in another order"
        ),
        pytest.param(
            lambda p, i: p.clone().index_fill_(2, torch.tensor([12]), 3), "column", id="one token"
        ),
    ],
)
def test_positions_of_other_tokens_are_named(change, said, side, labs):
    report = on_positions(labs, change, side)

    assert "VLM014" in codes(report) or report.verdict == "AMBIGUOUS"
    if report.mismatches:
        assert said in " ".join(finding.message for finding in report.findings)


def test_positions_of_a_slicer_have_a_code_of_their_own(labs):
    lab, inputs = mrope_batch(labs)
    batch = vd.read_batch(
        {key: one for key, one in inputs.items() if key != "position_ids"},
        processor=lab.processor,
        config=lab.model.config,
    )

    def making(positions):
        return lambda _, size: (
            {**chunk, "position_ids": positions[:, at : at + 1]}
            for at, chunk in enumerate(batch.chunks(1))
        )

    assert vd.check(making(inputs["position_ids"]), batch).ok
    swapped = vd.check(making(inputs["position_ids"][[0, 2, 1]]), batch)
    assert codes(swapped) == {"VLM014"}
    assert swapped.findings[0].silent


def test_positions_that_cannot_be_recomputed_are_said_to_be_unchecked():
    inputs = {**vd.make_batch("qwen2_5_vl", [1, 1], position_ids=True).inputs}
    report = vd.check(inputs, num_images=[1, 1])

    assert report.verdict == "AMBIGUOUS"
    assert any("position_ids of the batch were not checked" in one for one in report.ambiguities)
    assert "Not compared: position_ids" in str(report).replace("\n", " ").replace("    ", "") or (
        "position_ids" in str(report)
    )


# --- prove -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "idefics3", "internvl"])
def test_prove_compares_packed_rows_with_each_sample_up_to_rounding(family, labs):
    lab = labs[family]
    right = vd.prove(lab.packer(), lab.batch, lab.model, chunk_size=3)
    wrong = vd.prove(lab.packer("positions run on"), lab.batch, lab.model, chunk_size=3)
    images = vd.prove(lab.packer("images in batch order"), lab.batch, lab.model, chunk_size=3)

    assert right.ok, str(right)
    assert None not in right.per_sample
    assert right.max_abs_diff is not None
    assert 0 < right.max_abs_diff <= right.tolerance < SAME
    assert wrong.silent_samples == (0, 1)  # the first sample of the row sees nothing before it
    assert not images.ok


def test_tolerance_of_prove_follows_from_the_model_and_its_dtype(labs):
    lab = labs["llava"]
    model, _ = vd.tiny.build("llava")
    with torch.no_grad():
        for weight in model.model.language_model.parameters():
            weight *= 3  # rounding grows with it
    other = vd.prove(lab.packer(), lab.batch, model, chunk_size=3)
    hooks = [len(module._forward_hooks) for module in lab.model.modules()]
    plain = vd.prove(lab.packer(), lab.batch, lab.model, chunk_size=3)
    again = vd.prove(lab.packer(), lab.batch, lab.model, chunk_size=3)

    assert plain.tolerance == again.tolerance != other.tolerance
    assert [len(module._forward_hooks) for module in lab.model.modules()] == hooks


def test_a_difference_that_rounding_may_cause_is_no_proof_of_wrong_pixels(labs):
    lab = labs["internvl"]
    model = deepcopy(lab.model).bfloat16()
    with torch.no_grad():
        for weight in model.model.language_model.parameters():
            weight *= 3  # rounding grows with it
    inputs = {**lab.inputs, "pixel_values": lab.inputs["pixel_values"].bfloat16()}
    batch = vd.read_batch(inputs, processor=lab.processor)
    right = vd.prove(lab.packer(), batch, model, chunk_size=3)
    images = vd.prove(lab.packer("images in batch order"), batch, model, chunk_size=3)
    exact = vd.prove(lab.packer(), lab.batch, model.float(), chunk_size=3)

    assert right.tolerance < right.max_abs_diff < right.reach
    assert (right.ok, right.undecided, right.silent_samples) == (False, (1, 2), ())
    assert "samples 1:3 differ by more than 0.24, and" in str(right)
    assert "prove it in float32" in str(right)
    assert (images.ok, images.silent_samples) == (False, (0, 2))
    assert (exact.ok, exact.undecided) == (True, ())


WITHOUT_CACHE = {"granite4_vision"}
"""Models that begin none in a call with positions."""


@pytest.mark.parametrize("family", FAMILIES)
def test_watch_is_not_ok_where_a_packed_call_may_begin_a_cache(family, labs):
    lab = labs[family]
    row = {k: v for k, v in lab.packed().items() if not k.startswith(("cu_", "max_"))}
    del row["labels"]
    text, logits, doubted = lab.model.config.get_text_config(), {}, {}
    for asked in (None, True, False):
        more = {} if asked is None else {"use_cache": asked}
        with (
            vd.watch(lab.model, processor=lab.processor, on_mismatch="record") as trace,
            torch.no_grad(),
        ):
            logits[asked] = lab.model(**row, **more).logits
        report = trace.calls[0].report
        doubted[asked] = [one for one in report.ambiguities if "with a cache" in one]
        assert not report.mismatches
    off = float((logits[None] - logits[False]).abs().max())

    assert text.use_cache
    assert (off > 1e-2) == (family not in WITHOUT_CACHE)
    assert [len(doubted[asked]) for asked in (None, True, False)] == [1, 1, 0]
    assert "Pass use_cache=False." in doubted[None][0]


def test_a_config_without_a_cache_is_enough(built):
    model, processor = built["llava"]
    lab = Lab(deepcopy(model), processor, vd.tiny.batch("llava", [2, 0, 1], seed=0))
    lab.model.config.get_text_config().use_cache = False
    row = {k: v for k, v in lab.packed().items() if not k.startswith(("cu_", "max_"))}
    with vd.watch(lab.model, processor=processor, on_mismatch="record") as trace, torch.no_grad():
        given = lab.model(**row).logits
        assert torch.equal(given, lab.model(**row, use_cache=False).logits)

    assert [call.report.verdict for call in trace.calls] == ["OK", "OK"]


def test_training_with_checkpoints_begins_no_cache(built):
    model, processor = built["llava"]
    lab = Lab(deepcopy(model), processor, vd.tiny.batch("llava", [2, 0, 1], seed=0))
    row = {k: v for k, v in lab.packed().items() if not k.startswith(("cu_", "max_"))}
    lab.model.gradient_checkpointing_enable()
    logits, verdicts = {}, {}
    for training in (True, False):
        lab.model.train(training)
        with vd.watch(lab.model, processor=processor, on_mismatch="record") as trace:
            logits[training] = lab.model(**row).logits
        verdicts[training] = trace.calls[0].report.verdict
    alone = lab.model(**row, use_cache=False).logits

    assert verdicts == {True: "OK", False: "AMBIGUOUS"}
    assert torch.equal(logits[True], alone)
    assert float((logits[False] - alone).abs().max().detach()) > 1


def test_an_exported_row_asks_for_no_cache(labs):
    lab = labs["llava"]
    (row,) = vd.export(lab.batch, packed=True).function(lab.batch.for_slicer(), 3)
    with torch.no_grad():
        given = lab.model(**row).logits
        cached = lab.model(**{**row, "use_cache": True}).logits
        alone = [
            lab.model(**chunk, use_cache=False).logits[0][chunk["attention_mask"][0].bool()]
            for chunk in lab.batch.chunks(1)
        ]

    assert float((given[0] - torch.cat(alone)).abs().max()) < SAME
    assert float((cached[0] - torch.cat(alone)).abs().max()) > 1


def test_a_cache_that_the_packer_asks_for_is_not_ok(labs):
    lab = labs["llava"]

    def packer(inputs, chunk_size):
        yield {**lab.packed(), "use_cache": True}

    report = vd.check(packer, lab.batch, chunk_size=3)
    proof = vd.prove(packer, lab.batch, lab.model, chunk_size=3)

    assert report.verdict == "AMBIGUOUS"
    assert "with a cache" in report.ambiguities[0]
    assert proof.silent_samples == (0, 1)


# --- watch, falsify, export --------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl"])
def test_watch_sees_the_samples_of_packed_calls(family, labs):
    lab = labs[family]

    def watched(wrong):
        call = {k: v for k, v in lab.packed(wrong).items() if torch.is_tensor(v)}
        options = {"processor": lab.processor, "on_mismatch": "record"}
        with vd.watch(lab.model, **options) as trace, torch.no_grad():
            lab.model(**{k: v for k, v in call.items() if "cu_" not in k}, use_cache=False)
        return trace.report()

    report = watched("")
    assert report.ok, str(report)
    assert len(report.chunks[0].samples) == 3
    assert codes(watched("labels across a seam")) == {"VLM013"}
    if lab.mrope:
        moved = lab.packed()
        moved["position_ids"][2:] = moved["position_ids"][2:].flip(0)
        report = vd.check(
            {k: v for k, v in moved.items() if "length" not in k},
            processor=lab.processor,
            config=lab.model.config,
        )
        assert codes(report) == {"VLM014"}
        assert codes(watched("no text plane")) == {"VLM014"}


@pytest.mark.parametrize("family", ["glm4v", "qwen2_5_vl"])
def test_places_of_text_say_where_samples_begin_and_the_others_may_go_on(family, labs):
    lab = labs[family]
    row = {k: v for k, v in lab.packed().items() if not k.startswith(("cu_", "max_"))}
    del row["labels"]
    on, moved = row["position_ids"].clone(), row["position_ids"].clone()
    last, begins = -1, [0, *torch.tensor([len(lab.alone[one]) for one in ORDER]).cumsum(0)]
    for start, stop in pairwise(begins):  # as `get_rope_index` of the row
        on[1:, :, start:stop] += last + 1
        last = int(on[1:, :, start:stop].max())
    moved[2, :, begins[1] : begins[1] + 3] += 1
    right, wrong = {**row, "position_ids": on}, {**row, "position_ids": moved}
    known = {"processor": lab.processor, "config": lab.model.config}

    assert lab.off(lab.run(right)) < SAME < lab.off(lab.run(wrong))
    assert vd.check(right, **known).ok
    assert vd.read_batch(right, **known).packed == vd.read_batch(row, **known).packed
    assert codes(vd.check(wrong, **known)) == {"VLM014"}
    with vd.watch(lab.model, processor=lab.processor, on_mismatch="record") as trace:
        lab.run(right)
        lab.run(wrong)
    assert [call.report.verdict for call in trace.calls] == ["OK", "MISMATCH"]


@pytest.mark.parametrize("family", ["internvl", "llava"])
def test_watch_and_check_agree_where_positions_go_back_but_not_to_0(family, labs):
    lab = labs[family]
    call = {k: v for k, v in lab.packed().items() if not k.startswith(("cu_", "max_"))}
    call["position_ids"] = call["position_ids"] + 5
    del call["labels"]
    masked = {**call, "attention_mask": torch.ones_like(call["input_ids"])}

    def watched(given):
        with vd.watch(lab.model, processor=lab.processor, on_mismatch="record") as trace:
            lab.run(given)
        return trace.report()

    assert lab.off(lab.run(call)) < SAME < lab.off(lab.run(masked))
    alone = vd.check(call, processor=lab.processor, config=lab.model.config)
    for report in (alone, watched(call)):
        assert report.verdict == "AMBIGUOUS"
        assert "but not to 0, so rows may hold several samples" in report.ambiguities[0]
        assert not report.mismatches
    assert codes(watched(masked)) == {"VLM014"}  # then a row is one sample
    assert vd.check(lambda *_: [call], lab.batch, chunk_size=3).ok


SHAPES = {
    "(seq)": lambda text: text[0],
    "(1, 1, seq)": lambda text: text[None],
    "(2, 1, seq)": lambda text: text.expand(2, 1, -1),
    "(3, 1, seq)": lambda text: text.expand(3, 1, -1),
    "(1, 4, seq)": lambda text: text.expand(1, 4, -1),
    "(1, seq - 1)": lambda text: text[:, :-1],
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("family", ["internvl", "llava", "qwen2_5_vl"])
def test_positions_of_a_shape_that_no_model_takes_are_not_said_to_run(family, shape, labs):
    lab = labs[family]
    row = {k: v for k, v in lab.packed().items() if not k.startswith(("cu_", "max_"))}
    text = row["position_ids"].reshape(-1, 1, row["input_ids"].shape[1])[0]
    call = {**row, "position_ids": SHAPES[shape](text)}
    report = vd.check(lambda *_: [call], lab.batch, chunk_size=3)

    (found,) = report.findings
    assert found.code == "VLM014"
    try:
        lab.run(call)
    except (IndexError, RuntimeError, ValueError):
        assert found.loudness != "silent"
    else:
        assert found.loudness == "silent"
        assert lab.off(lab.run(call)) > SAME


@pytest.mark.parametrize("family", ["granite_docling", "idefics2", "idefics3"])
def test_models_that_flatten_rows_of_media_run_with_any_number_that_fits(family, labs):
    lab = labs[family]
    row = {k: v for k, v in lab.packed().items() if not k.startswith(("cu_", "max_"))}
    del row["labels"]
    media = [key for key in lab.batch.layout.media if key in row]
    text = next(at for at, sample in enumerate(ORDER) if not lab.batch.counts["image"][sample])
    if len(row[media[0]]) == len(ORDER):  # the row of the sample without images is left out
        kept = [at for at in range(len(ORDER)) if at != text]
        row |= {key: row[key][kept] for key in media}
    lost = {**row, **{key: row[key][:-1] for key in media}}
    moved = {**row, "position_ids": row["position_ids"] + 5}
    bare = {k: v for k, v in row.items() if k != "position_ids"}
    masked = {**bare, "attention_mask": torch.ones_like(row["input_ids"])}
    known = {"processor": lab.processor, "config": lab.model.config}

    def watched(given):
        with (
            vd.watch(lab.model, processor=lab.processor, on_mismatch="record") as trace,
            suppress(ValueError),
        ):
            lab.run(given)
        return trace.report()

    def found(given):
        checked, seen = vd.check(given, **known), watched(given)
        assert checked.verdict == seen.verdict
        assert checked.verdict != "AMBIGUOUS" or not [*checked.mismatches, *seen.mismatches]
        loud = {one.loudness for report in (checked, seen) for one in report.findings}
        return checked.verdict, loud - {None} if checked.mismatches else set()

    assert lab.off(lab.run(moved)) < SAME
    assert found(moved) == found(bare) == ("AMBIGUOUS", set())
    assert lab.run(masked).ndim == 2
    assert found(masked) == ("MISMATCH", {"silent"})
    others = {key: row[key][[0, 0]] for key in media}  # those of one sample twice
    for given in (lost, {**masked, **{key: lost[key] for key in media}}, {**row, **others}):
        with pytest.raises(ValueError, match="do not match"):
            lab.run(given)
        assert found(given) == ("MISMATCH", {"loud"})


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_watch_reads_the_longest_sample_that_is_a_plain_number(family, built):
    model, processor = built[family]
    lab = Lab(deepcopy(model), processor, vd.tiny.batch(family, [2, 0, 1], seed=0))
    call = {k: v for k, v in lab.packed().items() if k != "labels"}
    bare = {k: v for k, v in call.items() if k != "position_ids"}
    if lab.mrope:
        bare["position_ids"] = call["position_ids"][1:]

    def watched(given):
        options = {"processor": processor, "on_mismatch": "record"}
        with vd.watch(lab.model, **options) as trace, suppress(ImportError), torch.no_grad():
            lab.model(**given, use_cache=False)  # no flash-attention is installed
        return trace.report()

    assert type(call["max_length_q"]) is int
    assert watched(call).ok
    assert codes(watched({**call, "max_length_q": 3})) == {"VLM015"}
    assert lab.off(lab.flash(bare)) < SAME < lab.off(lab.run(bare))
    assert [(f.code, f.loudness) for f in watched(bare).findings] == [("VLM014", "silent")]
    for config in (lab.model.config, lab.model.config.get_text_config()):
        config._attn_implementation_internal = "flash_attention_2"
    assert watched(bare).ok


SYNTHETIC = [
    name for name in ("llava", "qwen2_5_vl", "internvl", "idefics3", "idefics2", "llava_next")
]


@pytest.mark.parametrize(
    "family", [*SYNTHETIC, "granite_docling", "llava_onevision", "deepseek_ocr2"]
)
def test_exported_packer_survives(family):
    code = vd.export(vd.make_batch(family, [1, 0, 2]), packed=True)

    assert code.verify(max_examples=40) == 40


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "idefics3", "qwen2_5_omni_thinker"])
def test_exported_packer_gives_the_logits_of_each_sample(family, labs):
    lab = labs[family]
    code = vd.export(lab.batch, packed=True)

    assert vd.check(code.function, lab.batch, chunk_size=2).ok
    assert vd.prove(code.function, lab.batch, lab.model, chunk_size=2).ok


def test_exported_packers_refuse_a_row_without_tokens(labs):
    for family in ("llava", "qwen2_5_vl"):
        inputs = dict(vd.tiny.batch(family, [1, 0]))
        inputs["attention_mask"][1] = 0  # a sample that only fills the batch
        packer = vd.export(labs[family].batch, packed=True).function
        (both,) = packer(inputs, 2)

        assert both["input_ids"].shape[1] == int(inputs["attention_mask"].sum())
        with pytest.raises(ValueError, match="hides all tokens of these samples"):
            list(packer(inputs, 1))


@pytest.mark.parametrize("family", ["gemma4", "mllama"])
def test_no_packer_is_written_where_nothing_keeps_samples_apart(family):
    with pytest.raises(vd.BadInput, match="Nothing is known to keep samples of a packed row apart"):
        vd.export(vd.make_batch(family, [1, 0]), packed=True)


def own_packer(inputs, chunk_size, *, first_label: int | None = -100):
    """A packer for layouts with a row per image, as trainers write it."""
    real = inputs["attention_mask"].bool()
    images = [0, *torch.tensor(inputs["num_images"]).cumsum(0).tolist()]
    tokens = [key for key, value in inputs.items() if getattr(value, "shape", 0) == real.shape]
    media = [key for key in ("pixel_values", "image_position_ids") if key in inputs]
    for begin in range(0, len(real), chunk_size):
        rows = range(begin, min(begin + chunk_size, len(real)))
        row = {
            key: torch.cat([inputs[key][sample][real[sample]] for sample in rows])[None]
            for key in tokens
            if key != "attention_mask"
        }
        lengths = [int(real[sample].sum()) for sample in rows]
        ends = torch.tensor([0, *lengths]).cumsum(0)
        if "labels" in row and first_label is not None:
            row["labels"][0, ends[:-1]] = first_label
        row["position_ids"] = torch.cat([torch.arange(size) for size in lengths])[None]
        first, last = images[begin], images[rows[-1] + 1]
        yield row | {key: inputs[key][first:last] for key in media if first < last}


def test_falsify_and_assert_slices_take_packers():
    def across(inputs, chunk_size):
        return own_packer(inputs, chunk_size, first_label=None)

    def on(inputs, chunk_size):
        for row in own_packer(inputs, chunk_size):
            yield {**row, "position_ids": torch.arange(row["input_ids"].shape[1])[None]}

    tried = {}
    options = {"max_examples": 60, "clips": False}
    assert vd.falsify(own_packer, families=["llava", "gemma4"], tried=tried, **options) is None
    assert (tried["llava"], tried["gemma4"]) == (60, 0)  # nothing keeps those of Gemma 4 apart
    assert_slices(own_packer, families=["llava"], max_examples=60, clips=False)
    found = vd.falsify(across, families=["llava"], max_examples=200)
    assert found is not None
    assert codes(found.report) == {"VLM013"}
    assert found.case.spec.labels
    found = vd.falsify(on, families=["llava"], max_examples=200)
    assert found is not None
    assert codes(found.report) == {"VLM014"}
    assert len(found.case.spec.images_per_sample) == 2
    with pytest.raises(vd.MismatchError, match="VLM014"):
        assert_slices(on, families=["llava"], max_examples=60)


# --- what else keeps samples apart -------------------------------------------------------------


def block_mask(lengths, total, *, numbers=False):
    """`(1, 1, seq, seq)`: each token sees itself and its sample before it; padding sees itself."""
    index = torch.full((total,), -1)
    index[: sum(lengths)] = torch.repeat_interleave(
        torch.arange(len(lengths)), torch.tensor(lengths)
    )
    same = (index[:, None] == index[None]) & (index >= 0)
    mask = (same & torch.ones(total, total, dtype=torch.bool).tril()) | torch.eye(total).bool()
    if numbers:
        mask = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    return mask[None, None]


def in_blocks(lab, change=lambda mask: mask, *, numbers=False, wide=0, **given):
    """A packed call with such a mask, and without the arguments of flash-attention."""
    call = {k: v for k, v in lab.packed().items() if not k.startswith(("cu_", "max_"))} | given
    call = padded_row(call, call["input_ids"].shape[1] + wide) if wide else call
    lengths = [len(lab.alone[sample]) for sample in ORDER]
    mask = block_mask(lengths, call["input_ids"].shape[1], numbers=numbers)
    return {k: v for k, v in call.items() if v is not None} | {"attention_mask": change(mask)}


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_blocks_keep_samples_apart_where_the_model_says_so(family, labs):
    lab = labs[family]
    calls = [in_blocks(lab), in_blocks(lab, numbers=True, wide=9)]
    if not lab.mrope:
        on = torch.arange(calls[0]["input_ids"].shape[1])[None]
        calls += [in_blocks(lab, position_ids=on), in_blocks(lab, position_ids=None)]
    for call in calls:
        report = vd.check(lambda i, n, call=call: [call], lab.batch, chunk_size=3)

        assert not report.mismatches, str(report)
        assert report.ok == (family not in OWN_MASKS)
        assert not report.ok or lab.off(lab.run(call)) < SAME
    if family in OWN_MASKS:
        assert lab.off(lab.run(calls[0])) > SAME


def shows_the_row(mask):
    return torch.ones_like(mask).tril()


def shows_one_token_more(mask):
    begin = int((mask[0, 0, :, 0] == 0).nonzero()[0])  # of the second sample
    return mask.clone().index_put_((*torch.tensor([0, 0, begin, 2]),), torch.tensor(True))


def hides_one_token(mask):
    return mask.clone().index_put_((*torch.tensor([0, 0, 9, 3]),), torch.tensor(False))


@pytest.mark.parametrize("change", [shows_the_row, shows_one_token_more, hides_one_token])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "internvl", "idefics3"])
def test_masks_that_mix_samples_fall_and_the_model_agrees(family, change, labs):
    lab = labs[family]
    call = in_blocks(lab, change)
    (finding,) = vd.check(lambda i, n: [call], lab.batch, chunk_size=3).findings

    assert (finding.code, finding.worst.key) == ("VLM015", "attention_mask")
    assert finding.silent
    assert lab.off(lab.run(call)) > SAME


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda mask: mask.long(), id="whole numbers"),
        pytest.param(lambda mask: mask.float() - 1, id="numbers that hide little"),
        pytest.param(lambda mask: mask[:, :, None], id="another shape"),
        pytest.param(lambda mask: mask.to_sparse(), id="sparse"),
    ],
)
def test_masks_that_cannot_be_read_are_not_ok(change, labs):
    lab = labs["llava"]
    report = vd.check(lambda i, n: [in_blocks(lab, change)], lab.batch, chunk_size=3)

    assert report.verdict == "AMBIGUOUS"


def test_a_mask_of_another_length_is_named(labs):
    lab = labs["llava"]
    call = in_blocks(lab, lambda mask: torch.nn.functional.pad(mask, (0, 4, 0, 4)))
    (finding,) = vd.check(lambda i, n: [call], lab.batch, chunk_size=3).findings
    cached = call | {"past_key_values": object()}

    assert (finding.code, finding.loudness) == ("VLM015", "loud")
    assert "attention_mask has shape (1, 1, 134, 134), but input_ids has (1, 130)" in str(finding)
    assert vd.check(lambda i, n: [cached], lab.batch, chunk_size=3).verdict == "AMBIGUOUS"
    with pytest.raises(RuntimeError):
        lab.run(call)


def test_a_mask_of_blocks_does_not_excuse_other_positions(labs):
    lab = labs["qwen2_5_vl"]
    right = lab.packed()["position_ids"]
    for positions in (right[1:], right):
        call = in_blocks(lab, position_ids=positions)
        assert vd.check(lambda i, n, call=call: [call], lab.batch, chunk_size=3).ok
        assert lab.off(lab.run(call)) < SAME
    for positions in (right[:1].expand(3, -1, -1), right[0], right[1:, :, None]):
        call = in_blocks(lab, position_ids=positions)
        report = vd.check(lambda i, n, call=call: [call], lab.batch, chunk_size=3)
        assert codes(report) == {"VLM014"}
    call = in_blocks(lab, position_ids=None)
    assert vd.check(lambda i, n: [call], lab.batch, chunk_size=3).verdict == "AMBIGUOUS"


@pytest.fixture(scope="module")
def texts(built):
    """The same as `labs`, with three texts and no image."""
    found = {}

    def lab_of(family):
        if family not in found:
            inputs = vd.tiny.batch(family, images_per_sample=[0, 0, 0], seed=0)
            found[family] = Lab(*built[family], inputs)
        return found[family]

    return lab_of


@pytest.mark.parametrize("family", FAMILIES)
def test_positions_of_two_dimensions_pass_where_the_model_separates_texts_by_them(family, texts):
    lab = texts(family)
    call = lab.packed()
    if lab.mrope:
        call["position_ids"] = call["position_ids"][0]
    bare = {k: v for k, v in call.items() if not k.startswith(("cu_", "max_"))}
    report = vd.check(lambda i, n: [bare], lab.batch, chunk_size=3)
    same = vd.check(lambda i, n: [call], lab.batch, chunk_size=3)
    unknown = vd.check(lambda i, n: [call], attending(lab, None), chunk_size=3)

    assert report.ok == (lab.off(lab.run(bare)) < SAME), str(report)
    assert report.ok or codes(report) == {"VLM014"}
    assert codes(same) == codes(report)
    assert same.verdict == report.verdict
    assert unknown.verdict == ("OK" if report.ok else "AMBIGUOUS")
    if family not in OWN_MASKS:
        assert lab.off(lab.flash(call)) < SAME


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_places_in_time_before_the_others_are_right_in_flash_attention_alone(family, labs):
    lab = labs[family]
    places = lab.packed()["position_ids"][1:]
    call = lab.packed() | {"position_ids": torch.cat([places[:1], places])}
    bare = {k: v for k, v in call.items() if not k.startswith(("cu_", "max_"))}
    wrong = bare | {"position_ids": bare["position_ids"][[0, 1, 3, 2]]}

    def report(name, given):
        return vd.check(lambda i, n: [given], attending(lab, name), chunk_size=3)

    for given in (call, bare):
        assert report(None, given).verdict == "AMBIGUOUS"
        assert "only flash-attention sees where they begin" in report(None, given).ambiguities[0]
        assert report("flash_attention_2", given).ok
        assert codes(report("sdpa", given)) == {"VLM014"}
    for name in (None, "flash_attention_2", "sdpa"):
        assert codes(report(name, wrong)) == {"VLM014"}
    assert lab.off(lab.run(bare)) > SAME
    assert lab.off(lab.flash(call)) < SAME


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("mask", [None, "ones"])
def test_positions_of_padding_behind_a_single_sample_are_of_no_token(family, mask, labs):
    lab = labs[family]
    call = padded_row(lab.packed(order=[2]), 256)
    call["attention_mask"] = mask and torch.ones_like(call["input_ids"])
    others = [lab.packed(order=[0]), lab.packed(order=[1])]
    moved = call | {"position_ids": call["position_ids"].clone()}
    moved["position_ids"][..., 5] += 3

    def pack(*calls):
        return vd.check(lambda i, n: list(calls), lab.batch, chunk_size=1)

    assert pack(*others, call).ok, str(pack(*others, call))
    assert lab.off(lab.run(call), [2]) < SAME
    assert not pack(*others, moved).ok


@pytest.mark.parametrize("placeholders", [0, 16])
def test_a_dummy_image_behind_packed_texts_is_undecided(placeholders, texts, labs):
    lab, image = texts("llava"), labs["llava"].inputs["pixel_values"][:1]
    token = lab.model.config.image_token_id
    call = {k: v for k, v in lab.packed().items() if not k.startswith(("cu_", "max_"))}
    call = padded_row(call, call["input_ids"].shape[1] + 16, 3)
    if placeholders:
        call["input_ids"][0, -placeholders:] = token
    call["pixel_values"] = image
    report = vd.check(lambda i, n: [call], lab.batch, chunk_size=3)

    if placeholders:
        assert report.verdict == "AMBIGUOUS"
        assert "pixel_values was made by the slicer" in str(report.ambiguities)
        assert lab.off(lab.run(call)) < SAME
    else:
        assert codes(report) == {"VLM011"}
        with pytest.raises(ValueError, match="do not match"):
            lab.run(call)


def test_types_that_lack_padding_alone_or_are_blank_are_not_compared(labs, texts):
    lab = labs["qwen2_5_vl"]
    call = lab.packed()
    longer = padded_row(call, call["input_ids"].shape[1] + 7)
    short = longer | {"mm_token_type_ids": call["mm_token_type_ids"]}
    cut = longer | {"mm_token_type_ids": call["mm_token_type_ids"][:, :-1]}
    blank = texts("qwen2_5_vl").packed() | {"mm_token_type_ids": torch.zeros(3, 9).long()}

    assert vd.check(lambda i, n: [longer], lab.batch, chunk_size=3).ok
    assert vd.check(lambda i, n: [short], lab.batch, chunk_size=3).verdict == "AMBIGUOUS"
    assert codes(vd.check(lambda i, n: [cut], lab.batch, chunk_size=3)) == {"VLM011"}
    assert vd.check(lambda i, n: [blank], texts("qwen2_5_vl").batch).verdict == "AMBIGUOUS"


def test_positions_of_another_length_are_loud(labs):
    lab = labs["llava"]
    call = lab.packed()
    call["position_ids"] = call["position_ids"][:, :-2]
    (finding,) = vd.check(lambda i, n: [call], lab.batch, chunk_size=3).findings

    assert (finding.code, finding.loudness) == ("VLM014", "loud")
    with pytest.raises((IndexError, RuntimeError)):
        lab.run(call)
