"""Code that calls a model, as a slicer; and the installed TRL's own."""

from __future__ import annotations

import copy
import inspect
from types import SimpleNamespace

import pytest
import torch

import vlmdebug as vd
from vlmdebug.running.record import record
from vlmdebug.running.stand_in import RecordingModel
from vlmdebug.trainers.trl_trainer import trainer_of

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
        return model(**chunks[1]).logits[9, 9, 9, 9]

    report = vd.check(vd.record(stops), batch)

    assert [(m.code, m.chunk) for m in report.mismatches] == [("VLM008", 2)]
    assert isinstance(report.error, IndexError)
    assert "test_trl.py:" in report.mismatches[0].message
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


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_trls_loop_is_falsified_in_silence_by_as_many_images_as_samples(seed):
    found = vd.falsify_all(vd.trl_slicer("grpo"), families=["idefics3"], seed=seed)
    kinds = {(m.code, m.loudness) for example in found for m in example.report.mismatches}

    assert kinds >= {("VLM005", "loud"), ("VLM002", "silent")}


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


@pytest.mark.parametrize("name", ["grpo-buffer", "distillation"])
def test_buffers_are_not_blamed_for_keys_that_trl_lays_in_no_batch(name):
    assert vd.falsify(vd.trl_slicer(name), families=["qwen2_5_vl"], text_only=False) is None


@pytest.mark.parametrize("name", ["sft", "dpo", "kto"])
def test_losses_that_hand_on_every_key_survive(name):
    assert vd.falsify(vd.trl_slicer(name), max_examples=50) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family", "missing"),
    [
        ("gmpo", "lfm2_vl", "spatial_shapes"),
        ("grpo-loss", "llava_onevision", "batch_num_images"),
        ("online-dpo", "qwen2_5_vl", "mm_token_type_ids"),
        ("online-dpo", "lfm2_vl", "spatial_shapes"),
    ],
)
def test_losses_that_hand_on_keys_by_name_drop_the_others(name, family, missing):
    found = vd.falsify_all(vd.trl_slicer(name), families=[family])

    assert missing in {m.key for e in found for m in e.report.mismatches if m.code == "VLM003"}


def test_gmpo_cuts_tiles_as_images_and_grpo_does_not():
    """`num_tiles` is handed on by the one and not by the other."""
    batch = vd.make_batch("internvl", [1, 2], [2, 1, 2])

    assert vd.check(vd.trl_slicer("grpo-loss"), batch).ok
    assert {m.code for m in vd.check(vd.trl_slicer("gmpo"), batch).mismatches} == {"VLM001"}


def test_online_dpo_on_a_real_model_moves_the_logits():
    model, processor = vd.tiny.build("qwen2_5_vl")
    batch = vd.read_batch(vd.tiny.batch("qwen2_5_vl", [1, 1]), processor=processor)
    proof = vd.prove(vd.trl_slicer("online-dpo"), batch, model)

    assert proof.error is None
    assert proof.silent_samples == (0, 1)


@pytest.mark.parametrize("family", ["llava", "idefics3", "llava_next"])
def test_online_dpo_repeats_each_image_beside_its_sample(family):
    slicer = vd.trl_slicer("online-dpo")

    assert slicer.expand_size == 2
    assert vd.check(slicer, vd.make_batch(family, [2, 0, 1])).ok


def test_what_is_no_slicer_of_trl_is_refused():
    with pytest.raises(vd.BadInput, match="'ppo' is no slicer of TRL"):
        vd.trl_slicer("ppo")


# --- what the stand-ins lack is never blamed on the code on trial ----------------------------


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda model: model(input_ids=torch.ones(1, 1)).router_probs, "of the model's outputs"),
        (lambda model: model.vision_tower, "model.vision_tower"),
        (lambda model: model.config.vision_config, r"record\(function, config=model.config\)"),
        (lambda model: model(torch.ones(1, 2), torch.ones(1, 3)), "Pass them by name"),
    ],
    ids=["output", "attribute", "config", "by place"],
)
def test_what_the_stand_in_lacks_ends_the_trial(read, said):
    def asks(model, inputs, chunk_size):
        model(**inputs)
        read(model)

    with pytest.raises(vd.BadInput, match=said) as caught:
        vd.falsify(vd.record(asks), families=["llava"])

    assert "Nothing was judged" in str(caught.value)


def test_recorded_loop_that_never_ends_is_left():
    def forever(model, inputs, chunk_size):
        while True:
            model(**inputs)

    with pytest.raises(vd.BadInput, match="did not come to an end"):
        vd.check(vd.record(forever), vd.make_batch("llava", [1]))


def test_code_that_asks_first_whether_there_is_something_runs_on():
    def careful(model, inputs, chunk_size):
        assert not hasattr(model, "vision_tower")
        assert getattr(model.config, "vision_config", None) is None
        assert model.config.image_token_id == batch.image.token_id
        for chunk in batch.chunks(chunk_size):
            model.base_model(**chunk).last_hidden_state @ model.lm_head.weight.T

    batch = vd.make_batch("gemma4", [1, 0])

    assert vd.check(vd.record(careful), batch).ok


def test_config_may_be_the_models_own():
    model, _ = vd.tiny.build("gemma4")
    seen = []

    def looks(stand_in, inputs, chunk_size):
        seen.append(stand_in.config.image_token_id)
        stand_in.generate(**inputs, max_new_tokens=1)

    assert vd.check(vd.record(looks, config=model.config), vd.make_batch("gemma4", [1])).ok
    assert seen == [model.config.image_token_id]


def policy_and_reference(model, inputs, chunk_size):
    for chunk in batch_of(inputs).chunks(chunk_size):
        with torch.no_grad():
            model(**chunk)
        model(**chunk).logits.sum().backward()


def two_epochs(model, inputs, chunk_size):
    for _ in range(2):
        for chunk in batch_of(inputs).chunks(chunk_size):
            model(**chunk)


def copied(model, inputs, chunk_size):
    reference = copy.deepcopy(model).eval()
    for chunk in batch_of(inputs).chunks(chunk_size):
        reference(**chunk)


def batch_of(inputs):
    return vd.read_batch(inputs, config=SimpleNamespace(model_type="llava"))


@pytest.mark.parametrize("loop", [policy_and_reference, two_epochs, copied])
def test_recorded_code_may_call_its_model_and_copies_of_it_as_often_as_it_likes(loop):
    assert vd.falsify(vd.record(loop), families=["llava"]) is None


def test_reference_model_that_is_handed_other_images_is_found():
    def wrong(model, inputs, chunk_size):
        reference = copy.deepcopy(model)
        for chunk in vd.slicers.corrected(inputs, chunk_size):
            model(**chunk)
        for chunk in vd.slicers.by_sample(inputs, chunk_size):
            reference(**chunk)

    report = vd.check(vd.record(wrong), vd.make_batch("llava", [2, 1]))

    assert {m.code for m in report.mismatches} == {"VLM001", "VLM002"}
    assert {m.chunk for m in report.mismatches} == {2, 3}


def test_recorded_code_that_skips_a_sample_once_is_found():
    def last_one_lost(model, inputs, chunk_size):
        chunks = list(vd.slicers.corrected(inputs, 1))
        for chunk in (*chunks, *chunks[:-1]):
            model(**chunk)

    report = vd.check(vd.record(last_one_lost), vd.make_batch("llava", [1, 1, 1]))

    assert [(m.code, m.samples) for m in report.mismatches] == [("VLM006", (2,))]
    assert report.findings[0].message.startswith(
        "sample 2 came once, of 3 samples, while others came 2 times."
    )


def test_outputs_are_read_as_transformers_outputs_are():
    def reads(model, inputs, chunk_size):
        outputs = model(**inputs, labels=inputs["input_ids"])
        loss, logits = outputs[:2]
        assert isinstance(outputs, dict)
        assert outputs["loss"] is outputs.loss is outputs[0] is loss
        assert list(outputs) == ["loss", "logits"] and len(outputs) == 2
        assert [*dict(outputs)] == [*{**outputs}] == [name for name, _ in outputs.items()]
        assert dict(outputs)["logits"] is logits is outputs.to_tuple()[1]
        outputs["logits"] = logits * 2
        outputs.loss = loss + 1
        assert outputs.logits is not logits and outputs["loss"] is not loss
        assert model(**inputs).loss is None
        assert isinstance(model(**inputs, return_dict=False), tuple)
        embedded = model.get_input_embeddings()(inputs["input_ids"] + 99_999)
        assert embedded.shape[:2] == inputs["input_ids"].shape

    batch = vd.make_batch("gemma4", [0])

    assert vd.check(vd.record(reads), batch).ok


def test_code_that_hands_on_what_is_in_the_models_signature_hands_on_everything():
    def filtered(model, inputs, chunk_size):
        known = inspect.signature(model.forward).parameters
        for chunk in vd.slicers.corrected(inputs, chunk_size):
            model(**{key: chunk[key] for key in chunk if key in known})

    assert vd.falsify(vd.record(filtered), max_examples=20) is None


def test_arguments_by_place_are_known_by_their_memory():
    def by_place(model, inputs, chunk_size):
        for chunk in vd.slicers.corrected(inputs, chunk_size):
            model(chunk["input_ids"], chunk.get("pixel_values"), chunk["attention_mask"])

    assert vd.falsify(vd.record(by_place), families=["llava"]) is None


def test_trainer_that_reads_something_else_of_itself_ends_the_trial():
    class Trainer:
        def loss(self):
            return self.secret

    with pytest.raises(vd.BadInput, match="In this TRL Trainer reads secret of itself"):
        trainer_of(Trainer, RecordingModel()).loss()
