"""Code that calls a model, as a slicer; and the installed TRL's own."""

from __future__ import annotations

import pytest
import torch

import vlmdebug as vd
from vlmdebug.tracing.record import record

trl = pytest.importorskip("trl")


def log_probs(model, inputs, chunk_size):
    """A trainer's loop, right for one row per image."""
    images = [0]
    for count in inputs["num_images"]:
        images.append(images[-1] + count)
    total = []
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        stop = min(start + chunk_size, len(inputs["input_ids"]))
        chunk = {k: inputs[k][start:stop] for k in ("input_ids", "attention_mask")}
        chunk["mm_token_type_ids"] = inputs["mm_token_type_ids"][start:stop]
        if images[start] < images[stop]:
            for key in ("pixel_values", "image_position_ids"):
                chunk[key] = inputs[key][images[start] : images[stop]]
        logits = model(**chunk, logits_to_keep=3).logits
        total.append(logits.log_softmax(-1).sum())
    return torch.stack(total).sum().backward()


def test_code_that_calls_a_model_is_judged_by_its_calls():
    batch = vd.make_batch("gemma4", [2, 0, 1], [1, 2, 2])

    def by_sample(model, inputs, chunk_size):
        for start in range(0, 3, chunk_size):
            stop = start + chunk_size
            model(**{k: inputs[k][start:stop] for k in batch.layout})

    for chunk_size in (1, 2, 3):
        assert vd.check(vd.record(log_probs), batch, chunk_size=chunk_size).ok
    assert {m.code for m in vd.check(vd.record(by_sample), batch).mismatches} == {
        "VLM001",
        "VLM005",
    }


def test_exception_after_some_calls_is_kept_with_what_was_recorded():
    batch = vd.make_batch("gemma4", [1, 1, 1])

    def stops(model, inputs, chunk_size):
        chunks = list(batch.chunks(1))
        model(**chunks[0])
        return model(**chunks[1]).no_such_output

    report = vd.check(vd.record(stops), batch)

    assert [(m.code, m.chunk) for m in report.mismatches] == [("VLM008", 2)]
    assert isinstance(report.error, AttributeError)
    assert "stops" not in str(report.error)
    assert [chunk.samples for chunk in report.chunks] == [(0,), (1,)]


def test_stand_in_is_a_model_as_far_as_trainers_look():
    seen = {}

    def looks(model, inputs, chunk_size):
        seen.update(device=model.device, dtype=model.dtype, training=model.training)
        seen["parameters"] = len(list(model.parameters()))
        seen["config"] = model.config.is_encoder_decoder
        out = model(
            inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=inputs["input_ids"]
        )
        seen["loss"], seen["item"] = out.loss.item(), out["logits"].shape

    batch = vd.make_batch("gemma4", [0, 0])

    assert vd.check(record(looks), batch, chunk_size=2).ok
    assert seen["loss"] == 0
    assert seen["item"][:2] == batch.inputs["input_ids"].shape


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_trls_loop_hands_empty_pixels_to_chunks_without_images(name):
    found = vd.falsify(vd.trl_slicer(name), families=["gemma4"])

    assert repr(found) == "gemma4: images per sample [0, 1], chunk size 1"
    assert [m.code for m in found.report.mismatches] == ["VLM005"]


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_trls_loop_takes_padded_samples_for_images_when_the_numbers_agree(name):
    """`pixel_values.size(0) == sum(num_images)` is no sign of one row per image."""
    batch = vd.make_batch("idefics3", [2, 1, 0], [1, 1, 1])
    report = vd.check(vd.trl_slicer(name), batch)
    first = report.mismatches[0]

    assert (first.key, first.chunk, list(first.used)) == ("pixel_values", 0, [0, 1])
    assert report.chunks[0].keys["pixel_attention_mask"].used == [0]


@pytest.mark.parametrize("family", ["idefics3", "smolvlm"])
def test_real_models_bear_that_out(family):
    model, processor = vd.tiny.build(family)
    batch = vd.read_batch(vd.tiny.batch(family, [2, 1, 0]), processor=processor)
    proof = vd.prove(vd.trl_slicer("grpo"), batch, model)

    assert not vd.check(vd.trl_slicer("grpo"), batch).ok
    assert not proof.ok


@pytest.mark.parametrize("name", ["grpo", "rloo", "grpo-buffer", "rloo-buffer", "distillation"])
@pytest.mark.parametrize("family", ["gemma4", "qwen2_5_vl", "internvl", "llava_next"])
def test_trl_is_right_where_every_sample_has_images(name, family):
    batch = vd.make_batch(family, [2, 1, 1, 3], None)

    for chunk_size in (1, 2, 4):
        assert vd.check(vd.trl_slicer(name), batch, chunk_size=chunk_size).ok


def test_trainers_that_cut_nothing_are_refused_with_the_reason():
    with pytest.raises(vd.BadInput, match="TRL's dpo trainer cuts no batch"):
        vd.trl_slicer("dpo")
    with pytest.raises(vd.BadInput, match="'ppo' is no slicer of TRL"):
        vd.trl_slicer("ppo")
