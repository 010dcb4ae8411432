"""Watching a live model: every call is judged, and nothing it computes is changed."""

from __future__ import annotations

import copy
import gc
import inspect
import itertools
import json
import re
import sys
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from architectures import architectures

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.families.assemble import assemble
from vlmdebug.watching.watch import MismatchWarning


def batch_of(family, built, images=(2, 1, 1, 0)):
    inputs = vd.tiny.batch(family, images, sizes=(160, 160))
    return vd.read_batch(inputs, processor=built[family][1], num_images=images)


def run(model, chunks):
    """Every chunk that the model takes."""
    for chunk in chunks:
        try:
            with torch.no_grad():
                yield model(**chunk).logits
        except Exception as error:
            yield error


@pytest.mark.parametrize("family", architectures())
def test_right_chunks_of_every_architecture_are_right(family, built):
    model, processor = built[family]
    batch = batch_of(family, built)
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        for chunk_size in (1, 2, 3, 4):
            assert not [e for e in run(model, batch.chunks(chunk_size)) if isinstance(e, Exception)]

    assert len(trace.calls) == 4 + 2 + 2 + 1
    assert trace.ok
    assert trace.report().ok


@pytest.mark.parametrize(
    ("key", "make", "verdict"),
    [
        pytest.param("attention_mask", lambda c: c["attention_mask"].clone(), "OK", id="a copy"),
        pytest.param(
            "attention_mask",
            lambda c: torch.ones_like(c["attention_mask"]),
            "AMBIGUOUS",
            id="padding shown",
        ),
        pytest.param(
            "attention_mask",
            lambda c: c["attention_mask"] * (torch.arange(c["attention_mask"].shape[1]) % 2),
            "AMBIGUOUS",
            id="text hidden",
        ),
        pytest.param(
            "mm_token_type_ids", lambda c: c["mm_token_type_ids"].clone(), "OK", id="types copied"
        ),
        pytest.param(
            "mm_token_type_ids",
            lambda c: torch.zeros_like(c["mm_token_type_ids"]),
            "MISMATCH",
            id="no token marked",
        ),
        pytest.param(
            "mm_token_type_ids",
            lambda c: torch.ones_like(c["mm_token_type_ids"]),
            "MISMATCH",  # the model raises: text is no image
            id="text marked",
        ),
    ],
)
def test_mask_and_types_that_the_loop_made_are_compared_or_named(built, key, make, verdict):
    model, processor = built["qwen2_5_vl"]
    batch = batch_of("qwen2_5_vl", built, images=(2, 1, 1))
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        list(run(model, ({**chunk, key: make(chunk)} for chunk in batch.chunks(1))))
    report = trace.calls[1].report
    said = [*report.ambiguities, *(mismatch.message for mismatch in report.mismatches)]

    assert report.verdict == verdict
    assert all(key in text for text in said) and bool(said) == (verdict != "OK")


def test_wrong_images_are_found_where_the_model_says_nothing(built):
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        ran = list(run(model, slicers.by_sample(batch.for_slicer(), 1)))
    silent = trace.calls[1]

    assert isinstance(ran[1], torch.Tensor)
    assert next((m.code, m.key, m.silent) for m in silent.report.mismatches) == (
        "VLM002",
        "pixel_values",
        True,
    )
    assert silent.report.mismatches[0].samples == (1,)
    assert "sample 1 was given pixel_values[1:2] (1 row: image A2 of sample 0)" in (
        silent.report.mismatches[0].message
    )
    assert silent.site.startswith("tests/test_watch.py:")
    assert {m.chunk for m in trace.report().mismatches} == {0, 1, 2, 3}


def test_mismatch_can_be_raised_before_the_model_runs(built):
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    with (
        pytest.raises(vd.MismatchError, match=r"call 1 at tests/test_watch\.py"),
        vd.watch(model, processor=processor, on_mismatch="raise") as trace,
    ):
        chunks = list(slicers.by_sample(batch.for_slicer(), 1))
        with torch.no_grad():
            model(**next(batch.chunks(1)))
            model(**chunks[1])

    assert len(trace.calls) == 2


def test_mismatch_is_warned_of_by_default(built):
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    with pytest.warns(MismatchWarning, match="VLM002"), vd.watch(model, processor=processor):
        list(run(model, list(slicers.by_sample(batch.for_slicer(), 1))[1:]))


def test_copied_chunks_are_judged_by_themselves(built):
    """Nothing tells whose rows copies are, but too few placeholders show."""
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    right = [{k: v.clone() for k, v in chunk.items()} for chunk in batch.chunks(2)]
    short = {k: v[:, :40] if v.ndim == 2 else v for k, v in right[0].items()}
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        list(run(model, [*right, short]))

    assert [call.ok for call in trace.calls] == [True, True, False]
    assert {m.code for m in trace.calls[2].report.mismatches} == {"VLM009"}


def dealt(inputs, first):
    """Every second sample and image, from `first` on, as a batch is dealt out to two workers."""
    return {key: value[first::2] for key, value in inputs.items()}


def test_rows_that_were_dealt_out_are_told_from_their_neighbours(built):
    model, processor = built["gemma4"]
    inputs = dict(batch_of("gemma4", built, (1, 1, 1, 1)).inputs)
    right = [dealt(inputs, 0), dealt(inputs, 1)]
    wrong = {**right[0], "pixel_values": right[1]["pixel_values"]}
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        outputs = list(run(model, [*right, wrong]))

    assert isinstance(outputs[2], torch.Tensor)
    assert [call.ok for call in trace.calls] == [True, True, False]
    assert {(m.code, m.key) for m in trace.calls[2].report.mismatches} == {
        ("VLM002", "pixel_values")
    }


def test_one_row_of_a_dealt_batch_is_read(built):
    """A single row is contiguous, however far apart the rows of its parent lie."""
    model, processor = built["gemma4"]
    inputs = dict(batch_of("gemma4", built, (1, 1, 1, 1)).inputs)
    second = {key: value[::2][1:2] for key, value in inputs.items()}
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        list(run(model, [second]))

    assert trace.ok
    assert trace.calls[0].report.chunks[0].samples == (2,)


def test_columns_that_were_trimmed_in_step_are_right_and_others_are_wrong(built):
    model, processor = built["gemma4"]
    chunk = {k: v.clone() for k, v in next(batch_of("gemma4", built).chunks(2)).items()}
    width = chunk["input_ids"].shape[1]
    tokens = {k: v for k, v in chunk.items() if v.ndim == 2}
    trimmed = {**chunk, **{k: v[:, : width - 1] for k, v in tokens.items()}}
    shifted = {**trimmed, "attention_mask": chunk["attention_mask"][:, 1:]}
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        list(run(model, [trimmed, shifted]))

    assert [call.ok for call in trace.calls] == [True, False]
    assert {m.code for m in trace.calls[1].report.mismatches} == {"VLM011"}


def test_keys_that_a_later_chunk_lacks_are_missed_where_they_are_needed(built):
    model, processor = built["gemma4"]
    first, second, _, text = batch_of("gemma4", built).chunks(1)
    dropped = {k: v for k, v in second.items() if k not in ("pixel_values", "image_position_ids")}
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        list(run(model, [first, text, dropped]))

    assert "pixel_values" not in text
    assert [call.ok for call in trace.calls] == [True, True, False]
    assert {(m.code, m.key) for m in trace.calls[2].report.mismatches} == {
        ("VLM003", "pixel_values"),
        ("VLM003", "image_position_ids"),
    }


def test_columns_that_hold_no_image_need_none(built):
    """As answers are scored behind a cache, or by themselves."""
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    whole = next(batch.chunks(2))
    image = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    begin = int((whole["input_ids"] == image).nonzero()[:, 1].max()) + 1
    answers = {k: v[:, begin:] for k, v in whole.items() if k in ("input_ids", "attention_mask")}
    with vd.watch(model, processor=processor, on_mismatch="record") as trace, torch.no_grad():
        cache = model(**whole, use_cache=True).past_key_values
        list(run(model, [answers, {"input_ids": answers["input_ids"], "past_key_values": cache}]))

    assert answers["input_ids"].shape[1] > 0
    assert [call.ok for call in trace.calls] == [True] * 3


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("how", ["one buffer", "stacked"])
def test_keys_that_share_one_memory_are_no_rows_of_each_other(how, away, built, monkeypatch):
    """Megatron broadcasts all tensors of a dtype in one buffer and gives views of it."""
    model, processor = built["gemma4"]
    inputs = dict(vd.tiny.batch("gemma4", [1, 1, 0, 1], sizes=(160, 160)))
    names = [key for key, value in inputs.items() if value.ndim == 2]
    stacked = torch.stack([inputs[key] for key in names])
    if how == "one buffer":
        pieces = stacked.reshape(-1).split(inputs["input_ids"].numel())
        shared = [piece.view(inputs["input_ids"].shape) for piece in pieces]
    else:
        shared = stacked.unbind()
    inputs.update(zip(names, shared, strict=True))
    if away:
        Accelerator(monkeypatch)
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        list(run(model, [inputs, *vd.read_batch(inputs, processor=processor).chunks(1)]))

    assert [call.ok for call in trace.calls] == [True] * 5


def next_batch(into, batch, how):
    """Write another batch of the same shapes over the tensors of `into`."""
    for key, value in batch.items():
        if how == "copy_":
            into[key].copy_(value)
        elif how == "data":
            into[key].data.copy_(value)
        elif how == "numpy":
            into[key].numpy()[...] = value.numpy()
        else:
            into[key] = value


@pytest.mark.parametrize("how", ["copy_", "data", "numpy", "new tensors"])
def test_the_next_batch_is_read_anew_wherever_it_lies(how, built):
    """Counts of the batch before would call right chunks wrong, and wrong ones right."""
    model, processor = built["gemma4"]
    first = vd.tiny.batch("gemma4", [2, 0], sizes=(160, 160))
    second = {k: v.flip(0) if v.ndim == 2 else v for k, v in first.items()}
    inputs = {key: value.clone() for key, value in first.items()}

    def chunks():
        return [*vd.read_batch(inputs, processor=processor).chunks(1)]

    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        list(run(model, chunks()))
        next_batch(inputs, second, how)
        list(run(model, chunks()))
        without, owning = chunks()
        list(run(model, [{**owning, **without}, {**without, "input_ids": owning["input_ids"]}]))

    assert [call.ok for call in trace.calls] == [True] * 4 + [False] * 2


def test_batch_is_read_once_for_all_its_chunks(built, monkeypatch):
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    read = []
    monkeypatch.setattr(
        "vlmdebug.watching.known_batch.assemble",
        lambda facts, layout: read.append(facts) or assemble(facts, layout),
    )
    with vd.watch(model, processor=processor, on_mismatch="raise"):
        list(run(model, batch.chunks(1)))

    assert len(read) == 1


def test_inference_mode_is_watched_too(built):
    """torch counts no writes there, so that nothing is taken for known."""
    model, processor = built["gemma4"]
    with torch.inference_mode():
        inputs = {k: v.clone() for k, v in batch_of("gemma4", built).inputs.items()}
        batch = vd.read_batch(inputs, processor=processor, num_images=(2, 1, 1, 0))
        with vd.watch(model, processor=processor, on_mismatch="record") as trace:
            list(run(model, batch.chunks(1)))
            list(run(model, slicers.by_sample(batch.for_slicer(), 1)))

    assert [call.ok for call in trace.calls] == [True] * 4 + [False] * 4


def test_outputs_are_bit_identical_and_the_hook_is_gone_afterwards(built):
    model, processor = built["qwen2_5_vl"]
    batch = batch_of("qwen2_5_vl", built)
    before = list(run(model, batch.chunks(2)))
    with vd.watch(model, processor=processor) as trace:
        during = list(run(model, batch.chunks(2)))
    after = list(run(model, batch.chunks(2)))

    assert all(torch.equal(a, b) for a, b in zip(before, during, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert len(trace.calls) == 2
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("cut", [False, True])
def test_no_tensor_is_kept_alive(cut, built):
    model, processor = built["gemma4"]
    inputs = {k: v.clone() for k, v in batch_of("gemma4", built).inputs.items()}
    kept = [weakref.ref(value) for value in inputs.values()]
    memory = {value.untyped_storage().data_ptr() for value in inputs.values()}
    with vd.watch(model, processor=processor) as trace:
        chunks = [inputs]
        if cut:
            chunks = vd.read_batch(inputs, num_images=(2, 1, 1, 0)).chunks(2)
        list(run(model, chunks))
        del chunks, inputs
        gc.collect()

        assert [ref() for ref in kept] == [None] * len(kept)
        assert memory.isdisjoint(
            one.untyped_storage().data_ptr()
            for one in gc.get_objects()
            if type(one) is torch.Tensor and one.is_cpu and one.layout is torch.strided
        )
    assert trace.ok


def test_programs_own_exception_passes_and_the_trace_survives_it(built, tmp_path):
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    log = tmp_path / "trace.jsonl"
    with (
        pytest.raises(ValueError, match="Image features and image tokens do not match"),
        vd.watch(model, processor=processor, on_mismatch="record", log=log) as trace,
        torch.no_grad(),
    ):
        model(**next(slicers.by_sample(batch.for_slicer(), 1)))
    lines = [json.loads(line) for line in log.read_text().splitlines()]

    assert [line["verdict"] for line in lines] == ["MISMATCH"]
    assert lines[0]["mismatches"][0]["code"] == "VLM001"
    assert not trace.ok
    assert not model._forward_pre_hooks


def test_each_rank_writes_its_own_log(built, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")
    model, processor = built["gemma4"]
    with vd.watch(model, processor=processor, log=tmp_path / "trace.jsonl"):
        list(run(model, batch_of("gemma4", built).chunks(4)))

    assert len((tmp_path / "trace.rank3.jsonl").read_text().splitlines()) == 1


class Accelerator:
    """Calls look as on an accelerator that has done nothing yet; the host may not read them."""

    def __init__(self, monkeypatch):
        self.done, self.waited = False, 0
        monkeypatch.setattr("vlmdebug.watching.watch.all_on_cpu", lambda tensors: False)
        monkeypatch.setattr("vlmdebug.watching.pending.stream_of", lambda device: self)

    def record_event(self):
        return self

    def query(self):
        return self.done

    def synchronize(self):
        self.waited += not self.done


def test_verdict_on_an_accelerator_comes_late_and_nobody_waits(built, monkeypatch):
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    device = Accelerator(monkeypatch)
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        list(run(model, batch.chunks(1)))
        assert trace.calls == []
        assert device.waited == 0

        device.done = True
        list(run(model, slicers.by_sample(batch.for_slicer(), 1)))
        assert len(trace.calls) == 7  # the last one waits for the next

    assert [call.number for call in trace.calls] == [*range(8)]
    assert [call.ok for call in trace.calls] == [True] * 4 + [False] * 4
    assert {m.key for m in trace.calls[5].report.mismatches} >= {"pixel_values"}


def test_copies_from_an_accelerator_are_waited_for_at_the_end(built, monkeypatch):
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    device = Accelerator(monkeypatch)
    with (
        pytest.raises(vd.MismatchError, match="call 1 at"),
        vd.watch(model, processor=processor, on_mismatch="raise") as trace,
    ):
        chunks = [next(batch.chunks(1)), [*slicers.by_sample(batch.for_slicer(), 1)][1]]
        list(run(model, chunks))

    assert device.waited > 0
    assert [call.ok for call in trace.calls] == [True, False]


def test_late_verdict_does_not_hide_the_programs_own_exception(built, monkeypatch, tmp_path):
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    Accelerator(monkeypatch)
    log = tmp_path / "trace.jsonl"
    with (
        pytest.raises(ValueError, match="Image features and image tokens do not match"),
        pytest.warns(MismatchWarning, match="VLM001"),
        vd.watch(model, processor=processor, on_mismatch="raise", log=log) as trace,
        torch.no_grad(),
    ):
        model(**next(slicers.by_sample(batch.for_slicer(), 1)))

    assert [call.ok for call in trace.calls] == [False]
    assert json.loads(log.read_text())["verdict"] == "MISMATCH"


def test_tensors_without_values_are_unread_and_never_raised(built):
    model, processor = built["gemma4"]
    inputs = {key: value.to("meta") for key, value in batch_of("gemma4", built).inputs.items()}
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        list(run(model, [inputs]))

    assert "on the meta device" in trace.calls[0].unread


def in_peft(model):
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(
        model, peft.LoraConfig(target_modules=r".*language_model.*q_proj", r=2)
    )


def in_accelerate(model):
    return pytest.importorskip("accelerate").Accelerator(cpu=True).prepare_model(model)


@pytest.fixture
def in_ddp(monkeypatch):
    """One process that is all of its group."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield torch.nn.parallel.DistributedDataParallel
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("wrapped", "watched"),
    [
        *itertools.product(["ddp", "accelerate"], ["wrapper", "model"]),
        ("peft", "wrapper"),  # it calls `forward` of the model within, past every hook
    ],
)
def test_wrapped_models_are_watched_from_outside_and_from_within(wrapped, watched, in_ddp):
    model, processor = vd.tiny.build("gemma4")
    batch = batch_of("gemma4", {"gemma4": (model, processor)})
    wrapper = {"ddp": in_ddp, "accelerate": in_accelerate, "peft": in_peft}[wrapped](model)
    seen = wrapper if watched == "wrapper" else model
    with vd.watch(seen, on_mismatch="record") as right:
        outputs = list(run(wrapper, batch.chunks(1)))
    with vd.watch(seen, on_mismatch="record") as wrong:
        list(run(wrapper, slicers.by_sample(batch.for_slicer(), 1)))

    assert not [one for one in outputs if isinstance(one, Exception)]
    assert [call.ok for call in right.calls] == [True] * 4
    assert [call.ok for call in wrong.calls] == [False] * 4
    assert wrong.calls[0].site.startswith("tests/test_watch.py:")


@pytest.mark.slow
@pytest.mark.parametrize("watched", ["wrapper", "model"])
def test_compiled_models_are_watched(watched, compiled):
    model, processor = vd.tiny.build("llava")
    batch = batch_of("llava", {"llava": (model, processor)}, (1, 1, 1, 1))
    wrapper = compiled(model)
    list(run(wrapper, batch.chunks(2)))
    with vd.watch(wrapper if watched == "wrapper" else model, on_mismatch="record") as trace:
        list(run(wrapper, batch.chunks(2)))
        shifted = list(batch.chunks(1))
        pixels = dict(batch.inputs)["pixel_values"]
        list(run(wrapper, [{**shifted[0], "pixel_values": pixels[1:2]}]))

    assert [call.ok for call in trace.calls] == [True, True, False]
    assert trace.calls[2].report.mismatches[0].silent


def test_model_that_was_never_called_is_not_called_right(built):
    with vd.watch(built["gemma4"][0]) as trace:
        pass

    assert not trace.ok
    with pytest.raises(vd.VlmDebugError, match=r"not called\. Watch the module that is"):
        trace.report()


def test_generation_is_watched_without_false_alarms(built):
    model, processor = built["gemma4"]
    inputs = vd.tiny.batch("gemma4", [1, 1], padding_side="left")
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        model.generate(**inputs, max_new_tokens=3, do_sample=False)

    assert len(trace.calls) >= 3
    assert trace.calls[0].unread.startswith("Media came already encoded")
    assert all(call.ok for call in trace.calls[1:])
    assert trace.calls[0].site.startswith("tests/test_watch.py:")


def test_what_cannot_be_read_is_said_and_never_raised(built):
    model, _ = built["gemma4"]
    with vd.watch(model, on_mismatch="raise") as trace, torch.no_grad():
        model(inputs_embeds=torch.zeros(1, 2, 32))

    assert trace.calls[0].unread.startswith("The model was called without input_ids")
    with pytest.raises(vd.VlmDebugError, match="nothing to report"):
        trace.report()


def test_what_cannot_be_watched_is_refused():
    with pytest.raises(vd.BadInput, match="hangs a hook on a torch module"), vd.watch("model"):
        pass
    with (
        pytest.raises(vd.BadInput, match="on_mismatch is 'shout'"),
        vd.watch(torch.nn.Linear(1, 1), on_mismatch="shout"),
    ):
        pass


POSITIONAL = {"gemma4": "pixel_values", "llava": "pixel_values", "idefics3": "attention_mask"}


def by_place(model, chunk, wrong=()):
    """Call with the first three arguments by place, in the order of the model's own signature."""
    names = list(inspect.signature(model.forward).parameters)[:3]
    given = {**chunk, **dict(wrong)}
    with torch.no_grad():
        args = [given.pop(name, None) for name in names]
        model(*args, **given)


@pytest.mark.parametrize("family", POSITIONAL)
def test_arguments_by_place_have_the_names_of_the_models_signature(family, built):
    model, processor = built[family]
    assert list(inspect.signature(model.forward).parameters)[1] == POSITIONAL[family]

    right, other = [*batch_of(family, built, (1, 1)).chunks(1)]
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        by_place(model, right)
        by_place(model, right, [("pixel_values", other["pixel_values"])])

    assert [call.ok for call in trace.calls] == [True, False]
    assert trace.calls[1].report.mismatches[0].key == "pixel_values"


class Shell(torch.nn.Module):
    """Passes everything on."""

    def __init__(self, model):
        super().__init__()
        self.inner = model

    def forward(self, *args, **kwargs):
        return self.inner(*args, **kwargs)


def test_arguments_by_place_are_named_through_shells(built):
    model, processor = built["llava"]
    shell = Shell(torch.nn.DataParallel(Shell(model)))
    chunks = [*batch_of("llava", built, (1, 1)).chunks(1)]
    with vd.watch(shell, processor=processor, on_mismatch="raise") as trace, torch.no_grad():
        for chunk in chunks:
            shell(chunk["input_ids"], chunk["pixel_values"], chunk["attention_mask"])

    assert trace.ok
    assert set(trace.calls[0].shapes) == {"input_ids", "pixel_values", "attention_mask"}


class Opaque(torch.nn.Module):
    """Takes anything, and nothing tells what."""

    def __init__(self, config=None):
        super().__init__()
        self.config = config

    def forward(self, *args, **kwargs):
        pass


def test_arguments_by_place_without_a_name_are_not_guessed(built):
    _, processor = built["llava"]
    chunk = next(batch_of("llava", built).chunks(1))
    model = Opaque()
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        model(chunk["input_ids"], chunk["pixel_values"])

    assert trace.calls[0].unread == (
        "The model was called with 2 arguments by place, but the signature of its forward names "
        "0. This call was not judged. Pass them by name: model(input_ids=…, pixel_values=…)."
    )


def test_mapping_given_by_place_is_its_content(built):
    _, processor = built["llava"]
    model = Opaque()
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        for chunk in batch_of("llava", built).chunks(2):
            model(chunk)
        model({**chunk, "pixel_values": chunk["pixel_values"][:0]})

    assert [call.ok for call in trace.calls] == [True, True, False]


class WithAdvantages(torch.nn.Module):
    """A model in its trainer's own module, which takes more than the model."""

    def __init__(self, model):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, advantages=None, **kwargs):
        return self.model(**kwargs)


def test_argument_that_the_watched_module_names_is_no_unknown_key(built):
    model, processor = built["llava"]
    own, batch = WithAdvantages(model), batch_of("llava", built)
    advantages = torch.randn(4)
    with vd.watch(own, processor=processor, on_mismatch="record") as trace:
        for index, chunk in enumerate(batch.chunks(1)):
            own(**chunk, advantages=advantages[index : index + 1])
        list(run(own, [{**chunk, "pixel_positions": advantages[:1]}]))

    assert [call.ok for call in trace.calls] == [True] * 4 + [False]
    assert [m.code for m in trace.calls[4].report.mismatches] == ["VLM004"]
    assert "advantages" in trace.calls[0].shapes


def with_copies(chunk, keys):
    return {key: value.clone() if key in keys else value for key, value in chunk.items()}


@pytest.mark.parametrize("images", [(2, 1, 0, 1), (1, 1, 1, 1), (2, 0), (0, 2)])
@pytest.mark.parametrize("family", ["gemma4", "idefics3", "internvl", "llava", "qwen2_5_vl"])
def test_right_chunks_are_right_whichever_of_their_keys_are_copies(family, images, built):
    _, processor = built[family]
    batch, model = batch_of(family, built, images), Opaque(built[family][0].config)
    every = [*batch.inputs]
    choices = [keys for n in range(len(every) + 1) for keys in itertools.combinations(every, n)]
    for size in (1, 2, 3):
        for keys in choices:
            with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
                for chunk in batch.chunks(size):
                    model(**with_copies(chunk, keys))

            assert trace.ok, keys


def lower(chunk):
    """A mask of more dimensions, as made of it for attention."""
    width = chunk["input_ids"].shape[1]
    return {"attention_mask": torch.ones(1, 1, width, width).tril().bool()}


def continued(chunk):
    """A prompt and its completion in new tensors, beside slices of pixels."""
    more = torch.full((len(chunk["input_ids"]), 3), 7)
    return {
        "input_ids": torch.cat([chunk["input_ids"], more], 1),
        "attention_mask": torch.cat([chunk["attention_mask"], torch.ones_like(more)], 1),
    }


def unpadded(chunk):
    """The columns that the mask leaves, of one row."""
    kept = chunk["attention_mask"][0].nonzero()[:, 0]
    begin, end = int(kept[0]), int(kept[-1]) + 1
    return {key: chunk[key][:, begin:end] for key in ("input_ids", "attention_mask")}


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda c: {"attention_mask": c["attention_mask"].bool()}, id="mask as bool"),
        pytest.param(continued, id="prompt and completion"),
        pytest.param(unpadded, id="padding cut off"),
    ],
)
def test_tokens_in_new_tensors_beside_slices_of_pixels_raise_no_false_alarm(changed, built):
    model, processor = built["llava"]
    batch = batch_of("llava", built, (1, 2, 1, 1))
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        outputs = list(run(model, ({**chunk, **changed(chunk)} for chunk in batch.chunks(1))))

    assert not [one for one in outputs if isinstance(one, Exception)]
    assert trace.ok


def test_mask_of_four_dimensions_is_named_and_no_mismatch(built):
    (model, processor), batch = built["llava"], batch_of("llava", built)
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace, torch.no_grad():
        for chunk in batch.chunks(1):
            model(**chunk)
            model(**{**chunk, **lower(chunk)})

    assert [call.report.verdict for call in trace.calls] == ["OK", "AMBIGUOUS"] * 4
    assert all("attention_mask" in call.report.ambiguities[-1] for call in trace.calls[1::2])


def test_wrong_rows_beside_a_mask_that_is_a_copy_are_found(built):
    model, processor = built["llava"]
    batch = batch_of("llava", built, (1, 1, 1, 1))
    first, second, *_ = batch.chunks(1)
    wrong = {**first, "pixel_values": second["pixel_values"]}
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        list(run(model, [with_copies(wrong, ["attention_mask"])]))

    assert [(m.code, m.key) for m in trace.calls[0].report.mismatches] == [
        ("VLM002", "pixel_values")
    ]


def test_wrong_rows_beside_the_whole_of_another_kind_are_found():
    """All videos are the first sample's, so that its chunk holds the whole tensor of them."""
    batch = vd.make_batch("qwen2_5_vl", [1, 1], videos_per_sample=[1, 0])
    ids = {f"{name}_token_id": token for name, token in batch.token_ids.items()}
    vision = SimpleNamespace(spatial_merge_size=2)
    model = Opaque(SimpleNamespace(model_type="qwen2_5_vl", vision_config=vision, **ids))
    first, second = batch.chunks(1)
    names = ("pixel_values", "image_grid_thw")
    with vd.watch(model, on_mismatch="record") as trace:
        for chunk in (first, second, {**first, **{key: second[key] for key in names}}):
            model(**chunk)

    assert [call.ok for call in trace.calls] == [True, True, False]
    assert {m.code for m in trace.calls[2].report.mismatches} == {"VLM002"}


def test_all_pixels_beside_a_slice_of_tokens_are_told_by_the_batch(built):
    model, processor = built["llava"]
    batch = batch_of("llava", built, (1, 2))
    first, _ = batch.chunks(1)
    every = {**first, "pixel_values": dict(batch.inputs)["pixel_values"]}
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        list(run(model, [every]))

    (found,) = trace.calls[0].report.mismatches
    assert (found.code, found.planned, found.used) == ("VLM001", range(1), range(3))


def test_start_of_a_larger_buffer_is_no_slice_of_a_batch(built):
    model, processor = built["gemma4"]
    inputs = dict(batch_of("gemma4", built, (2, 1)).inputs)
    buffers = {key: torch.cat([inputs[key]] * 2) for key in ("pixel_values", "image_position_ids")}
    first = {key: value[:1].clone() for key, value in inputs.items() if value.ndim == 2}
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        list(run(model, [{**inputs, **{key: value[:3] for key, value in buffers.items()}}]))
        list(run(model, [{**first, **{key: value[:2] for key, value in buffers.items()}}]))
        for value in buffers.values():
            value[2:] = 0
        list(run(model, [{**first, **{key: value[:2] for key, value in buffers.items()}}]))

    assert [call.ok for call in trace.calls] == [True] * 3


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_batches_packed_in_one_memory_raise_no_false_alarm(order, built):
    model, processor = built["llava"]
    batches = [dict(vd.tiny.batch("llava", n, sizes=(160, 160))) for n in ([1, 2], [2, 0, 1])]
    packed = [{} for _ in batches]
    for key in batches[0]:
        memory = torch.cat([batches[index][key].reshape(-1) for index in order])
        sizes = [batches[index][key].numel() for index in order]
        for index, piece in zip(order, memory.split(sizes), strict=True):
            packed[index][key] = piece.view(batches[index][key].shape)
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        for inputs in packed:
            list(run(model, [inputs, *vd.read_batch(inputs, processor=processor).chunks(1)]))

    assert trace.ok
    assert len(trace.calls) == 7


@pytest.mark.parametrize("masked", [True, False])
def test_images_that_are_copied_to_one_place_chunk_by_chunk_are_not_taken_for_others(masked, built):
    """The place says the first image, the values any; a wrong slice there is not called right."""
    model, processor = built["llava"]
    batch = batch_of("llava", built, (1, 1, 1))
    if not masked:
        inputs = {key: value for key, value in batch.inputs.items() if key != "attention_mask"}
        batch = vd.read_batch(inputs, processor=processor)
    images = dict(batch.inputs)["pixel_values"]
    buffer = torch.zeros_like(images)
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        for index, chunk in enumerate(batch.chunks(1)):
            buffer[:1].copy_(images[index : index + 1])
            list(run(model, [{**chunk, "pixel_values": buffer[:1]}]))
        list(run(model, [{**chunk, "pixel_values": buffer[:1]}]))

    assert [call.report.verdict for call in trace.calls] == ["OK", *["AMBIGUOUS"] * 3]
    assert (
        trace.calls[1]
        .report.ambiguities[0]
        .startswith("pixel_values was modified in place between two chunks of the same input_ids")
    )


def test_answers_to_one_question_may_share_its_memory(built):
    """Repeated by `expand`, a sample comes several times in a call: that is no mistake."""
    model, processor = built["llava"]
    inputs = dict(batch_of("llava", built, (1, 1)).inputs)
    four = {key: value[:1].expand(4, *value.shape[1:]) for key, value in inputs.items()}
    other = {**four, "pixel_values": inputs["pixel_values"][1:].expand(4, -1, -1, -1)}
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        list(run(model, [four, other]))

    assert [call.ok for call in trace.calls] == [True, False]
    assert {m.code for m in trace.calls[1].report.mismatches} == {"VLM002"}


def test_answers_to_one_question_may_have_copies_of_its_images(built):
    """As many as the batch has by chance: they are not all of the batch's for that."""
    model, processor = built["llava"]
    inputs = dict(batch_of("llava", built, (2, 1, 1)).inputs)
    two = {key: value[:1].expand(2, -1) for key, value in inputs.items() if value.ndim == 2}
    pixels = inputs["pixel_values"][:2].repeat(2, 1, 1, 1)
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        list(run(model, [{**two, "pixel_values": pixels}]))

    assert trace.ok


def test_copy_of_a_watched_model_is_not_watched(built):
    """A frozen reference model, or an average of weights, is made while a trainer runs."""
    _, processor = built["llava"]
    model, chunks = Opaque(built["llava"][0].config), [*batch_of("llava", built).chunks(1)]
    with vd.watch(model, processor=processor) as trace:
        model(**chunks[0])
        reference = copy.deepcopy(model)
        reference(**chunks[1])
    reference(**chunks[2])

    assert len(trace.calls) == 1


def test_watched_model_can_be_saved_and_loads_without_this_package(tmp_path):
    model = torch.nn.Linear(2, 2)
    with vd.watch(model, log=tmp_path / "trace.jsonl"):
        model(torch.zeros(1, 2))
        torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)

    assert torch.equal(loaded(torch.ones(1, 2)), model(torch.ones(1, 2)))
    assert b"vlmdebug" not in (tmp_path / "model.pt").read_bytes()


def full(path):
    """A log on a disk that has no room left."""
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    path.symlink_to("/dev/full")
    return path


def test_log_on_a_full_disk_ends_and_the_program_does_not(built, tmp_path):
    model, processor = built["llava"]
    log = full(tmp_path / "trace.jsonl")
    with (
        pytest.warns(RuntimeWarning, match="ends here: No space left on device") as warned,
        vd.watch(model, processor=processor, on_mismatch="record", log=log) as trace,
    ):
        outputs = list(run(model, batch_of("llava", built).chunks(1)))

    assert len(warned) == 1
    assert len(trace.calls) == 4
    assert trace.ok
    assert not [one for one in outputs if isinstance(one, Exception)]


@pytest.mark.filterwarnings("error")
def test_full_disk_does_not_take_the_place_of_the_programs_own_exception(built, tmp_path):
    model, processor = built["llava"]
    chunk = next(batch_of("llava", built).chunks(1))
    log = full(tmp_path / "trace.jsonl")
    with (
        pytest.raises(KeyError, match="the program's own"),
        vd.watch(model, processor=processor, on_mismatch="record", log=log),
    ):
        list(run(model, [chunk]))
        raise KeyError("the program's own")


def test_log_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    model, log = torch.nn.Linear(2, 2), tmp_path / "missing" / "trace.jsonl"
    with pytest.raises(vd.BadInput) as refused, vd.watch(model, log=log):
        pytest.fail("the block ran")

    assert str(refused.value) == (
        f"log is {str(log)!r}, which cannot be written: No such file or directory. Nothing was "
        "watched. Pass a file in an existing folder, or leave log out."
    )
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("how", ["log", "hook", "block", "coordinates"])
def test_counting_of_steps_ends_however_the_block_ends(how, built, tmp_path, monkeypatch):
    from torch.optim.optimizer import _global_optimizer_post_hooks

    model, _ = built["llava"]
    log = tmp_path / "trace.jsonl"
    before = dict(_global_optimizer_post_hooks)
    coordinates = {"dp": "one"} if how == "coordinates" else None
    if how == "log":
        log = tmp_path / "missing" / "trace.jsonl"
    if how == "hook":
        monkeypatch.setattr(model, "register_forward_pre_hook", None)
    refused = pytest.raises((vd.BadInput, KeyError, TypeError))
    with refused, vd.watch(model, log=log, coordinates=coordinates):
        assert how == "block"
        assert len(_global_optimizer_post_hooks) == len(before) + 1
        raise KeyError

    assert dict(_global_optimizer_post_hooks) == before
    assert log.exists() == (how in ("hook", "block"))


def test_rank_that_is_no_number_is_none(built, tmp_path, monkeypatch):
    model, processor = built["llava"]
    monkeypatch.setenv("RANK", "")
    log = tmp_path / "trace.jsonl"
    with vd.watch(model, processor=processor, log=log) as trace:
        list(run(model, [next(batch_of("llava", built).chunks(1))]))

    assert trace.ok
    assert json.loads(log.read_text())["rank"] == 0


def test_threads_are_judged_one_after_another(built):
    _, processor = built["llava"]
    model = Opaque(built["llava"][0].config)
    loops = [[*batch_of("llava", built, n).chunks(1)] for n in ((1, 2, 1, 0), (2, 1, 1, 0, 1))]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with vd.watch(model, processor=processor, on_mismatch="record") as trace:
            threads = [
                threading.Thread(target=lambda own=own: [model(**c) for c in own * 25])
                for own in loops * 2
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert [call.number for call in trace.calls] == [*range(2 * 25 * (4 + 5))]
    assert trace.ok


@pytest.mark.filterwarnings("error")
def test_warning_that_is_an_error_loses_no_call(built, tmp_path):
    """With `python -W error` it is raised in the program, as it asked for."""
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    wrong, right = [*slicers.by_sample(batch.for_slicer(), 1)][1], [*batch.chunks(1)][1]
    log = tmp_path / "trace.jsonl"
    with vd.watch(model, processor=processor, log=log) as trace:
        outputs = list(run(model, [right, wrong, right, wrong, right]))

    assert [isinstance(one, MismatchWarning) for one in outputs] == [False, True] * 2 + [False]
    assert [call.ok for call in trace.calls] == [True, False] * 2 + [True]
    assert len(log.read_text().splitlines()) == 5


@pytest.mark.filterwarnings("error")
def test_late_verdict_that_is_an_error_loses_no_call(built, monkeypatch):
    model, processor = built["gemma4"]
    batch = batch_of("gemma4", built)
    wrong, right = [*slicers.by_sample(batch.for_slicer(), 1)][1], [*batch.chunks(1)][1]
    device = Accelerator(monkeypatch)
    with vd.watch(model, processor=processor) as trace:
        list(run(model, [wrong]))
        device.done = True
        (output,) = run(model, [right])
        list(run(model, [right]))

    assert isinstance(output, MismatchWarning)
    assert [(call.number, call.ok) for call in trace.calls] == [(0, False), (1, True), (2, True)]


def test_device_that_failed_leaves_the_programs_exception_alone(built, monkeypatch):
    model, processor = built["gemma4"]
    device = Accelerator(monkeypatch)

    def fail(self):
        raise RuntimeError("device-side assert triggered")

    monkeypatch.setattr(Accelerator, "query", fail)
    monkeypatch.setattr(Accelerator, "synchronize", fail)
    with (
        pytest.raises(KeyError, match="the program's own"),
        vd.watch(model, processor=processor) as trace,
    ):
        outputs = list(run(model, batch_of("gemma4", built).chunks(2)))
        raise KeyError("the program's own")

    assert not [one for one in outputs if isinstance(one, Exception)]
    assert len(trace.calls) == 2
    assert device.waited == 0
    assert {call.unread for call in trace.calls} == {
        "vlmdebug failed: RuntimeError: device-side assert triggered"
    }


@pytest.mark.parametrize(
    ("changed", "unread"),
    [
        pytest.param(
            lambda c: {"input_ids": c["input_ids"][0]},
            r"with input_ids of shape \(\d+,\), but a call is judged by rows of tokens",
            id="one row without its dimension",
        ),
        pytest.param(
            lambda c: {key: value[:0] for key, value in c.items()},
            r"with no sample: input_ids has shape \(0, \d+\)\. There was nothing to judge",
            id="no sample",
        ),
        pytest.param(
            lambda c: {"input_ids": c["input_ids"][:, :0]},
            r"with no token: input_ids has shape \(1, 0\)\.",
            id="no token",
        ),
        pytest.param(
            lambda c: {"attention_mask": c["attention_mask"].to_sparse()},
            "with a sparse attention_mask, but rows can be identified only if they are consecutive",
            id="sparse mask",
        ),
        pytest.param(
            lambda c: {"attention_mask": torch.nested.nested_tensor([c["attention_mask"][0]])},
            "with a nested attention_mask, but rows",
            id="nested mask",
        ),
        pytest.param(
            lambda c: {"pixel_values": list(c["pixel_values"])},
            "with pixel_values as a list of 2, but rows can be identified only in a tensor",
            id="list of pixels",
        ),
        pytest.param(
            lambda c: {"input_ids": c["input_ids"].tolist()},
            "with input_ids as a list of 1, but rows",
            id="list of tokens",
        ),
    ],
)
def test_what_has_no_rows_is_said_plainly(changed, unread, built):
    model = Opaque(built["gemma4"][0].config)
    chunk = next(batch_of("gemma4", built).chunks(1))
    with vd.watch(model, on_mismatch="raise") as trace:
        model(**{**chunk, **changed(chunk)})

    assert re.match(f"The model was called {unread}", trace.calls[0].unread)


def watched(model, processor, chunks):
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        for chunk in chunks:
            model(**chunk)
    return trace


def closer_look(*_):
    raise AssertionError("a chunk that is plainly right was looked at closer")


@pytest.mark.parametrize("family", architectures())
def test_plainly_right_chunk_has_the_report_of_a_closer_look(family, built, monkeypatch):
    batch, processor = batch_of(family, built), built[family][1]
    model = Opaque(built[family][0].config)
    chunks = [chunk for size in (1, 2, 3) for chunk in batch.chunks(size)]
    with monkeypatch.context() as patched:
        patched.setattr("vlmdebug.watching.known_batch.used_chunk", closer_look)
        plain = watched(model, processor, chunks)
    monkeypatch.setattr("vlmdebug.watching.fast_path.FastPath.samples", lambda *_: None)
    closer = watched(model, processor, chunks)

    assert plain.ok
    assert [call.report for call in plain.calls] == [call.report for call in closer.calls]


def test_batches_that_take_turns_are_read_once_each(built, monkeypatch):
    """As chosen and rejected answers do, or two threads."""
    _, processor = built["gemma4"]
    model, read = Opaque(built["gemma4"][0].config), []
    monkeypatch.setattr(
        "vlmdebug.watching.known_batch.assemble",
        lambda facts, layout: read.append(facts) or assemble(facts, layout),
    )
    batches = [batch_of("gemma4", built, images) for images in ((2, 1, 0), (1, 0, 2))]
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        for chunks in zip(*(batch.chunks(1) for batch in batches), strict=True):
            for chunk in chunks:
                model(**chunk)

    assert trace.ok
    assert len(read) == 2


@pytest.mark.parametrize("family", architectures())
def test_chunk_with_a_key_of_another_is_never_plainly_right(family, built, monkeypatch):
    batch, processor = batch_of(family, built), built[family][1]
    model = Opaque(built[family][0].config)
    right = [*batch.chunks(1)]
    mixed = [
        {**one, key: other[key]} for one, other in itertools.permutations(right, 2) for key in other
    ]
    mixed += [{k: v for k, v in one.items() if k != key} for one in right for key in [*one][2:]]
    plain = watched(model, processor, [right[0], *mixed])
    monkeypatch.setattr("vlmdebug.watching.fast_path.FastPath.samples", lambda *_: None)
    closer = watched(model, processor, [right[0], *mixed])

    assert [call.ok for call in plain.calls] == [call.ok for call in closer.calls]
    assert not all(call.ok for call in plain.calls)
