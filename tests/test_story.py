"""Each slicer of the 5452 story on every family, and the real model's word for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.errors import NotJudged

FAMILIES = ("gemma4", "qwen2_5_vl", "idefics3", "smolvlm", "internvl", "llava_next")

# Codes by slicer and family, chunk size 1: every sample has an image / sample 1 has none.
EXPECTED = {
    "by_sample": {
        "gemma4": ("VLM001 VLM002", "VLM001 VLM005"),
        "qwen2_5_vl": ("VLM001 VLM002", "VLM001 VLM005"),
        "idefics3": ("", "VLM005"),
        "smolvlm": ("", "VLM005"),
        "internvl": ("VLM001", "VLM001 VLM005"),
        "llava_next": ("VLM001 VLM002", "VLM001"),
    },
    "before_5452": {
        "gemma4": ("VLM001 VLM002 VLM003 VLM004", "VLM001 VLM003 VLM004 VLM005"),
        "qwen2_5_vl": ("", "VLM005"),
        "idefics3": ("", "VLM005"),
        "smolvlm": ("", "VLM005"),
        "internvl": ("VLM001", "VLM001 VLM005"),
        "llava_next": ("VLM001 VLM002", "VLM001"),
    },
    "first_5452_rloo": {
        "gemma4": ("VLM008", "VLM008"),
        "qwen2_5_vl": ("", "VLM005"),
        "idefics3": ("", "VLM005"),
        "smolvlm": ("", "VLM005"),
        "internvl": ("VLM001", "VLM001 VLM005"),
        "llava_next": ("VLM001 VLM002", "VLM001"),
    },
    "merged_5452": {
        "gemma4": ("", "VLM005"),
        "qwen2_5_vl": ("", "VLM005"),
        "idefics3": ("", "VLM005"),
        "smolvlm": ("", "VLM005"),
        "internvl": ("VLM001", "VLM001 VLM005"),
        "llava_next": ("VLM001 VLM002", "VLM001"),
    },
    "corrected": dict.fromkeys(FAMILIES, ("", "")),
}


# The same for the other batches and chunk sizes; what is not listed is right.
AS_MANY_IMAGES_AS_SAMPLES = {
    "by_sample": {"qwen2_5_vl": "VLM001"},
    "before_5452": {"gemma4": "VLM003 VLM004"},
    "first_5452_rloo": {"gemma4": "VLM008"},
    "merged_5452": {},
    "corrected": {},
}
OTHERS = {
    ((2, 1, 1), 2): {
        "by_sample": {"gemma4": "VLM001", "qwen2_5_vl": "VLM001", "llava_next": "VLM001"},
        "before_5452": {"gemma4": "VLM001 VLM003 VLM004", "llava_next": "VLM001"},
        "first_5452_rloo": {"gemma4": "VLM008", "llava_next": "VLM001"},
        "merged_5452": {"llava_next": "VLM001 VLM002"},
        "corrected": {},
    },
    ((2, 0, 1), 2): AS_MANY_IMAGES_AS_SAMPLES,
    ((1, 1, 1), 1): AS_MANY_IMAGES_AS_SAMPLES,
    ((1, 1, 1), 2): AS_MANY_IMAGES_AS_SAMPLES,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("slicer", slicers.STORY, ids=lambda slicer: slicer.__name__)
@pytest.mark.parametrize("images", [(2, 1, 1), (2, 0, 1)], ids=["all with images", "one without"])
def test_verdict_is_the_expected_one_and_the_model_agrees(built, family, slicer, images):
    model, processor = built[family]
    batch = vd.read_batch(vd.tiny.batch(family, images), processor=processor)
    report = vd.check(slicer, batch)
    expected = EXPECTED[slicer.__name__][family][images == (2, 0, 1)]

    assert " ".join(sorted({m.code for m in report.mismatches})) == expected
    assert report.ok == vd.prove(slicer, batch, model).ok


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("slicer", slicers.STORY, ids=lambda slicer: slicer.__name__)
@pytest.mark.parametrize(("images", "chunk_size"), OTHERS, ids=str)
def test_batches_that_hide_the_mistake_are_called_right_and_are(
    built, family, slicer, images, chunk_size
):
    """Cut by sample is right where chunks happen to own as many images as samples."""
    model, processor = built[family]
    batch = vd.read_batch(vd.tiny.batch(family, images), processor=processor)
    report = vd.check(slicer, batch, chunk_size=chunk_size)
    tiles = "VLM001" if family == "internvl" and slicer is not slicers.corrected else ""
    expected = OTHERS[images, chunk_size][slicer.__name__].get(family, tiles)

    assert " ".join(sorted({m.code for m in report.mismatches})) == expected
    assert report.ok == vd.prove(slicer, batch, model, chunk_size=chunk_size).ok


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("slicer", slicers.STORY, ids=lambda slicer: slicer.__name__)
def test_short_last_chunk_is_judged_as_the_model_does(built, family, slicer):
    model, processor = built[family]
    batch = vd.read_batch(vd.tiny.batch(family, (1, 2, 0)), processor=processor)
    report = vd.check(slicer, batch, chunk_size=2)

    assert report.ok == vd.prove(slicer, batch, model, chunk_size=2).ok


def test_reasons_are_those_of_the_story(built):
    _, processor = built["gemma4"]
    batch = vd.read_batch(vd.tiny.batch("gemma4", (2, 1, 1), sizes=(160, 160)), processor=processor)
    cut, stale, unbound, merged, _ = (vd.check(slicer, batch) for slicer in slicers.STORY)

    assert {m.cause for m in cut.mismatches} == {"cut per sample"}
    assert [m.silent for m in cut.mismatches if m.key == "pixel_values"] == [False, True, True]
    assert "looks for pixel_position_ids" in {m.cause for m in stale.mismatches}
    assert isinstance(unbound.error, UnboundLocalError)
    assert "img_start" in unbound.mismatches[0].message
    assert merged.ok


def test_silent_verdict_is_proven_by_moved_logits_and_no_exception(built):
    model, processor = built["gemma4"]
    batch = vd.read_batch(vd.tiny.batch("gemma4", (2, 1, 1), sizes=(160, 160)), processor=processor)
    proof = vd.prove(slicers.by_sample, batch, model)

    assert isinstance(proof.error, ValueError)
    assert proof.chunk == 0
    assert proof.silent_samples == (1, 2)
    assert proof.max_abs_diff > 0.1


def test_proof_in_sixteen_bits_allows_for_their_rounding(built):
    model, processor = vd.tiny.build("gemma4")
    model = model.bfloat16()
    inputs = vd.tiny.batch("gemma4", (2, 1, 1), sizes=(160, 160))
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    batch = vd.read_batch(inputs, processor=processor)

    assert vd.prove(slicers.corrected, batch, model).ok
    assert vd.prove(slicers.by_sample, batch, model).silent_samples == (1, 2)


def test_logits_in_another_dtype_are_rounded_as_the_model_computes():
    model, processor = vd.tiny.build("diffusion_gemma")
    model = model.bfloat16()
    inputs = vd.tiny.batch("diffusion_gemma", [1, 0, 1])
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with torch.no_grad():
        assert model(**inputs).logits.dtype == torch.float32
    proof = vd.prove(slicers.corrected, vd.read_batch(inputs, processor=processor), model)

    assert proof.ok
    assert proof.tolerance >= torch.finfo(torch.bfloat16).eps


def precision():
    """How torch multiplies on a GPU."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    sums = ("allow_bf16_reduced_precision_reduction", "allow_fp16_reduced_precision_reduction")
    own = [getattr(matmul, name) for name in ("fp32_precision", *sums)]
    return (cudnn.conv.fp32_precision, *own)


@pytest.fixture(params=["as torch begins", "set for all", "set for each"])
def asked(request):
    """What a program may have asked for before."""
    matmul, before = torch.backends.cuda.matmul, torch.get_float32_matmul_precision()
    if request.param == "set for all":
        torch.set_float32_matmul_precision("medium")
    elif request.param == "set for each":  # then torch refuses to say it for all
        matmul.fp32_precision = "tf32"
    yield precision()
    matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision(before)


def test_proof_multiplies_in_full_precision_and_restores_the_settings(asked, built):
    model, processor = built["llava"]
    batch = vd.read_batch(vd.tiny.batch("llava", [1, 0]), processor=processor)
    within = set()
    with model.register_forward_pre_hook(lambda *given: within.add(precision())):
        assert vd.prove(slicers.corrected, batch, model).ok

    assert within == {("ieee", "ieee", False, False)}
    assert precision() == asked
    assert (asked[0], *asked[2:]) == ("tf32", True, True)


@pytest.mark.parametrize("asked", ["none", "tf32", "bf16"])
def test_proof_leaves_the_precision_on_the_host_as_it_was(asked, built):
    """To say it for all kinds of products says it for these, too."""
    model, processor = built["llava"]
    batch = vd.read_batch(vd.tiny.batch("llava", [1]), processor=processor)
    host, within = torch.backends.mkldnn.matmul, set()
    kept = host.fp32_precision
    host.fp32_precision = asked
    with model.register_forward_pre_hook(lambda *given: within.add(host.fp32_precision)):
        vd.prove(slicers.corrected, batch, model)
    left, host.fp32_precision = host.fp32_precision, kept

    assert (within, left) == ({"ieee"}, asked)


class Elsewhere(torch.Tensor):
    """A tensor that says it is on an accelerator."""

    device = torch.device("cuda", 0)


def test_report_on_an_accelerator_says_what_happened_and_shows_it(built):
    _, processor = built["qwen2_5_vl"]
    inputs = vd.tiny.batch("qwen2_5_vl", (2, 0, 1), sizes=(160, 160))
    there = {key: value.as_subclass(Elsewhere) for key, value in inputs.items()}
    reports = [
        vd.check(slicers.by_sample, vd.read_batch(given, processor=processor))
        for given in (inputs, there)
    ]

    assert str(reports[1]) == str(reports[0])
    assert "Sample A sees only 1 of 64 rows of image A1" in str(reports[1])
    assert reports[1].scene.thumbnails == reports[0].scene.thumbnails != {}


def test_mask_left_out_where_it_hides_nothing_is_proven_harmless(built):
    model, processor = built["gemma4"]
    inputs = vd.tiny.batch("gemma4", (1, 0, 1), padding_side="right")
    batch = vd.read_batch(inputs, processor=processor)

    def maskless(inputs, chunk_size):
        for chunk in batch.chunks(chunk_size):
            yield {key: value for key, value in chunk.items() if key != "attention_mask"}

    assert vd.check(maskless, batch).ok
    assert vd.prove(maskless, batch, model).ok


def test_proof_leaves_the_model_as_it_was(built):
    model, processor = vd.tiny.build("gemma4")
    model.train()
    batch = vd.read_batch(vd.tiny.batch("gemma4", (1, 1)), processor=processor)

    assert vd.prove(slicers.corrected, batch, model).max_abs_diff == 0
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_proof_asks_the_model_when_the_chunk_is_given(built):
    """One dict, or one buffer, may serve every chunk: later it holds another one."""
    model, processor = built["gemma4"]
    batch = vd.read_batch(vd.tiny.batch("gemma4", (1, 1), sizes=(160, 160)), processor=processor)

    def one_dict(inputs, chunk_size):
        chunk = {}
        for own in batch.chunks(1):
            chunk.clear()
            chunk.update(own)
            yield chunk

    def one_buffer(inputs, chunk_size):
        buffers = {key: value[:1].clone() for key, value in batch.inputs.items()}
        for own in batch.chunks(1):
            for key, buffer in buffers.items():
                buffer.copy_(own[key])
            yield buffers

    for slicer in (one_dict, one_buffer):
        assert vd.check(slicer, batch).ok
        assert vd.prove(slicer, batch, model).ok


def test_proof_compares_all_logits_though_the_slicer_keeps_few(built):
    model, processor = built["gemma4"]
    batch = vd.read_batch(vd.tiny.batch("gemma4", (1, 1)), processor=processor)

    def trl_like(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            yield {**chunk, "logits_to_keep": 3}

    assert vd.prove(trl_like, batch, model).ok


@pytest.mark.parametrize("change", [lambda m: m[:1], lambda m: m[:, :-2]], ids=["row", "columns"])
def test_proof_survives_a_mask_of_another_shape(built, change):
    model, processor = built["internvl"]
    batch = vd.read_batch(vd.tiny.batch("internvl", (1, 1, 0)), processor=processor)

    def odd(inputs, chunk_size):
        for chunk in batch.chunks(chunk_size):
            yield {**chunk, "attention_mask": change(chunk["attention_mask"])}

    assert not vd.check(odd, batch, chunk_size=3).ok
    assert isinstance(vd.prove(odd, batch, model, chunk_size=3), vd.Proof)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl", "llava_next", "idefics3"])
def test_corrected_slicer_refuses_media_whose_counts_it_is_not_given(name):
    """It left them out of every chunk, and the model ran on placeholders alone or raised."""
    _, processor = vd.tiny.build(name)
    inputs = dict(vd.tiny.batch(name, (2, 0, 1)))
    rows = len(inputs["pixel_values"])
    with pytest.raises(NotJudged) as refused:
        list(slicers.corrected(inputs, 2))

    assert str(refused.value) == (
        f"pixel_values has {rows} rows and no num_images is given, so the rows of each sample are "
        "not known. Nothing was cut. Read the batch: batch = vlmdebug.read_batch(inputs, "
        "processor=processor). Then use batch.chunks(n), or the code that vlmdebug.export(batch) "
        "writes: both count the rows of each sample."
    )
    batch = vd.read_batch(inputs, processor=processor)
    advised = [list(batch.chunks(2)), list(vd.export(batch).function(dict(inputs), 2))]
    for chunks in (*advised, list(slicers.corrected(batch.for_slicer(), 2))):
        assert vd.check(lambda *_, chunks=chunks: iter(chunks), batch, chunk_size=2).ok


@pytest.mark.parametrize("count", [[2, 0, 0], [2, 0, 2]])
def test_corrected_slicer_refuses_counts_that_do_not_add_up_to_the_rows(count):
    inputs = {**vd.tiny.batch("qwen2_5_vl", (2, 0, 1)), "num_images": count}

    with pytest.raises(NotJudged, match=rf"rows and num_images adds up to {sum(count)}"):
        list(slicers.corrected(inputs, 2))


@pytest.mark.parametrize("as_given", [torch.tensor, np.array, tuple])
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
def test_corrected_slicer_takes_counts_of_any_kind(name, as_given):
    _, processor = vd.tiny.build(name)
    inputs = dict(vd.tiny.batch(name, (2, 0, 1)))
    batch = vd.read_batch(inputs, processor=processor)
    counts = {key: one for key, one in batch.for_slicer().items() if key.startswith("num_")}
    given = {**inputs, **{key: as_given(one) for key, one in counts.items()}}
    chunks = list(slicers.corrected(given, 2))

    assert counts
    assert vd.check(lambda *_: iter(chunks), batch, chunk_size=2).ok


@pytest.mark.parametrize("count", [[3], [2, 0, 1, 0]])
def test_corrected_slicer_refuses_counts_of_other_samples(count):
    inputs = {**vd.tiny.batch("llava", (2, 0, 1)), "num_images": count}

    with pytest.raises(
        NotJudged, match=rf"^num_images has {len(count)} entr.*input_ids has 3 rows"
    ):
        list(slicers.corrected(inputs, 2))


def test_corrected_slicer_needs_no_counts_where_each_sample_keeps_its_row():
    inputs = dict(vd.tiny.batch("mllama", (2, 0, 1)))
    chunks = list(slicers.corrected(inputs, 2))

    assert torch.equal(torch.cat([one["pixel_values"] for one in chunks]), inputs["pixel_values"])


def test_corrected_slicer_loses_no_tensor():
    batch = vd.make_batch("gemma4", [2, 0, 1])
    inputs, shifted = batch.for_slicer(), batch.inputs["input_ids"].roll(-1, 1)
    chunks = list(slicers.corrected({**inputs, "shift_labels": shifted}, 2))

    assert torch.equal(torch.cat([one["shift_labels"] for one in chunks]), shifted)
    with pytest.raises(NotJudged, match=r"^speaker is a tensor, .* Leave it out, or pass layout="):
        list(slicers.corrected({**inputs, "speaker": shifted[:1]}, 2))
    read = vd.read_batch({**batch.inputs, "speaker": shifted}, layout={"speaker": "sample"})
    assert torch.equal(torch.cat([one["speaker"] for one in read.chunks(2)]), shifted)
