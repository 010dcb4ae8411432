"""Watching a live model: every call is judged, and nothing it computes is changed."""

from __future__ import annotations

import gc
import itertools
import json
import weakref

import pytest
import torch

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.tracing.watch import MismatchWarning


@pytest.fixture(scope="module")
def built():
    return {name: vd.tiny.build(name) for name in vd.tiny.families()}


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


@pytest.mark.parametrize("family", vd.tiny.families())
def test_right_chunks_of_every_architecture_are_right(family, built):
    model, processor = built[family]
    batch = batch_of(family, built)
    with vd.watch(model, processor=processor, on_mismatch="raise") as trace:
        for chunk_size in (1, 2, 3, 4):
            assert not [e for e in run(model, batch.chunks(chunk_size)) if isinstance(e, Exception)]

    assert len(trace.calls) == 4 + 2 + 2 + 1
    assert trace.ok
    assert trace.report().ok


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
    assert "sample 1 was given pixel_values[1:2] (1 row: image 1 of sample 0)" in (
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
    assert {m.code for m in trace.calls[2].report.mismatches} == {"VLM010"}


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


def test_no_tensor_is_kept_alive(built):
    model, processor = built["gemma4"]
    chunk = {k: v.clone() for k, v in next(batch_of("gemma4", built).chunks(2)).items()}
    kept = [weakref.ref(value) for value in chunk.values()]
    with vd.watch(model, processor=processor) as trace:
        list(run(model, [chunk]))
        del chunk
        gc.collect()

        assert [ref() for ref in kept] == [None] * len(kept)
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
def test_compiled_models_are_watched(watched):
    model, processor = vd.tiny.build("llava")
    batch = batch_of("llava", {"llava": (model, processor)}, (1, 1, 1, 1))
    compiled = torch.compile(model, backend="eager")
    list(run(compiled, batch.chunks(2)))
    with vd.watch(compiled if watched == "wrapper" else model, on_mismatch="record") as trace:
        list(run(compiled, batch.chunks(2)))
        shifted = list(batch.chunks(1))
        pixels = dict(batch.inputs)["pixel_values"]
        list(run(compiled, [{**shifted[0], "pixel_values": pixels[1:2]}]))

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
