"""Other devices than the host, other default devices, and tensors without memory of their own."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.running.collated import tensors_of
from vlmdebug.running.joined import unpacked
from vlmdebug.watching.pending import PendingTransfer

ELSEWHERE = torch.device("meta")
"""A default device on which nothing can be computed: a tensor that is made there is seen."""


def by_index(inputs, chunk_size):
    """Cuts each key by indices that it makes on the default device."""
    samples = len(inputs["input_ids"])
    for start in range(0, samples, chunk_size):
        rows = torch.arange(start, min(start + chunk_size, samples))
        yield {key: value[rows] for key, value in inputs.items() if hasattr(value, "shape")}


# --- another default device ----------------------------------------------------------------


@pytest.mark.parametrize("family", ["llava", "gemma4", "qwen2_5_vl"])
def test_default_device_does_not_get_the_batches_of_tiny_models(family):
    plain = vd.tiny.batch(family, [1, 0])
    with ELSEWHERE:
        there = vd.tiny.batch(family, [1, 0])

    assert {key: value.device.type for key, value in there.items()} == dict.fromkeys(plain, "cpu")
    assert all(torch.equal(there[key], plain[key]) for key in plain)


@pytest.mark.parametrize("family", ["llava", "idefics3"])
def test_default_device_is_no_fault_of_code_that_makes_its_indices(family):
    options = {"families": [family], "text_only": False, "max_examples": 40}
    plain = vd.falsify(by_index, **options)
    with ELSEWHERE:
        there = vd.falsify(by_index, **options)
        every = vd.falsify_all(by_index, **options)

    assert repr(there) == repr(plain)
    assert (plain is None) is (family == "idefics3")
    assert {one.code for example in every for one in example.report.findings} == (
        set() if plain is None else {"VLM001", "VLM002"}
    )


@pytest.mark.parametrize("packed", [False, True])
def test_default_device_does_not_get_what_verifies_exported_code(packed):
    code = vd.export("qwen2_5_vl", packed=packed)
    with ELSEWHERE:
        tried = code.verify(max_examples=20)

    assert int(tried) == int(code.verify(max_examples=20)) > 0


def test_default_device_does_not_get_what_a_collator_listed():
    output = {"input_ids": [[1, 2], [3, 4]], "attention_mask": [torch.ones(2), np.zeros(2)]}
    with ELSEWHERE:
        inputs = tensors_of(output, 2, {}).inputs

    assert inputs["input_ids"].tolist() == [[1, 2], [3, 4]]
    assert inputs["attention_mask"].tolist() == [[1, 1], [0, 0]]


def test_default_device_does_not_get_the_mask_of_packed_rows():
    batch = vd.make_batch("llava", [1, 1])
    row = next(iter(vd.export(batch, packed=True).function(batch.for_slicer(), 2)))
    whole = vd.read_batch(row)
    with ELSEWHERE:
        made = unpacked(whole)

    assert whole.packed is not None
    assert torch.equal(made["attention_mask"], batch.inputs["attention_mask"])


def test_default_device_does_not_get_what_represents_pixels_of_a_call():
    pixels = torch.ones(2, 3, 4, 4)
    with ELSEWHERE:
        away = PendingTransfer({"pixel_values": pixels})

    assert away.tensors()["pixel_values"].device.type == "cpu"


# --- lists of tensors, and tensors that learn ------------------------------------------------

KINDS = {
    "bfloat16": lambda value: value.bfloat16(),
    "float8": lambda value: value.to(torch.float8_e4m3fn),
    "learned": lambda value: value.clone().requires_grad_(),
    "negated": lambda value: torch._neg_view(-value),
}


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())
def test_list_of_tensors_that_numpy_does_not_take_is_read(make, built):
    inputs = dict(vd.tiny.batch("llava", [1, 1]))
    listed = {**inputs, "pixel_values": [make(one) for one in inputs["pixel_values"]]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = vd.check(listed, processor=built["llava"][1])

    assert report.verdict == "OK"


NO_VALUES = {
    "meta": (lambda value: value.to("meta"), "on the meta device"),
    "sparse": (lambda value: value.to_sparse(), "sparse tensor"),
    "several shapes": (lambda value: value[: int(value.sum()) % 2 + 1], "is a list of 2"),
}


@pytest.mark.parametrize(("make", "said"), NO_VALUES.values(), ids=NO_VALUES.keys())
def test_list_of_tensors_that_cannot_be_read_is_refused(make, said, built):
    inputs = dict(vd.tiny.batch("llava", [1, 1]))
    pixels = torch.zeros(2, 3, 56, 56)
    pixels[1, 0, 0, 0] = 1
    listed = {**inputs, "pixel_values": [make(one) for one in pixels]}
    with pytest.raises(vd.BadInput, match=f"pixel_values .*{said}"):
        vd.check(listed, processor=built["llava"][1])


def test_pixels_that_are_learned_are_checked_without_a_warning(built):
    inputs = dict(vd.tiny.batch("llava", [2, 1]))
    inputs["pixel_values"].requires_grad_()
    batch = vd.read_batch(inputs, processor=built["llava"][1], num_images=[2, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        right = vd.check(slicers.corrected, batch, chunk_size=1)
        wrong = vd.check(slicers.by_sample, batch, chunk_size=1)

    assert (right.verdict, wrong.verdict) == ("OK", "MISMATCH")


# --- tensors without memory of their own -------------------------------------------------------


def chunk_of(built):
    inputs = vd.tiny.batch("llava", [1, 1])
    return dict(next(vd.read_batch(inputs, processor=built["llava"][1]).chunks(2)))


def unread_of(model, call):
    """Why a watched call of a program is unread; the program may fail."""
    with vd.watch(model, on_mismatch="raise") as trace:
        try:
            call()
        except Exception as error:
            assert not isinstance(error, vd.VlmDebugError)
    (only,) = trace.calls
    return only.unread


def test_call_of_fake_tensors_is_unread_and_nothing_asks_for_their_memory(built):
    model, chunk = built["llava"][0], chunk_of(built)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = {key: mode.from_tensor(value) for key, value in chunk.items()}

    def call():
        with mode, torch.no_grad():
            model(**fake)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unread = unread_of(model, call)

    assert unread == (
        "The model was called with input_ids as a FakeTensor, a tensor class of its own, but rows "
        "can be identified only in a plain tensor. This call was not judged. Watch a module that "
        "is called with plain tensors."
    )
    assert not [one for one in caught if "data pointer" in str(one.message)]


def test_call_of_distributed_tensors_is_unread(built):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, distribute_tensor

    model, chunk = built["llava"][0], chunk_of(built)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        pixels = distribute_tensor(chunk["pixel_values"], mesh, [Replicate()])
        unread = unread_of(model, lambda: model(**{**chunk, "pixel_values": pixels}))
    finally:
        torch.distributed.destroy_process_group()

    assert unread.startswith("The model was called with pixel_values as a DTensor")


@pytest.mark.parametrize("transform", [torch.func.vmap, torch.func.grad])
def test_call_inside_a_transform_is_unread_and_gives_the_same(transform, built):
    model, chunk = built["llava"][0], chunk_of(built)
    pixels = chunk["pixel_values"]
    given = pixels[None] if transform is torch.func.vmap else pixels

    def program():
        return transform(lambda one: model(**{**chunk, "pixel_values": one}).logits.sum())(given)

    results = [program()]
    unread = unread_of(model, lambda: results.append(program()))

    assert unread.startswith("The model was called inside a transform of torch.func")
    assert torch.equal(*results)


# --- graphs of a device ------------------------------------------------------------------------


class Device:
    """Stands for `torch.cuda`; a question while it records ends the capture, as on a GPU."""

    def __init__(self):
        self.capturing = False

    def is_current_stream_capturing(self):
        return self.capturing

    def current_stream(self, device):
        return SimpleNamespace(record_event=self.event)

    def event(self):
        assert not self.capturing
        return SimpleNamespace(query=self.query, synchronize=lambda: None)

    def query(self):
        assert not self.capturing
        return True


def test_capture_of_a_graph_is_left_alone(built, monkeypatch):
    model, chunk, device = built["llava"][0], chunk_of(built), Device()
    monkeypatch.setattr("vlmdebug.watching.watch.all_on_cpu", lambda tensors: False)
    monkeypatch.setattr("vlmdebug.watching.pending.module_of", lambda kind: device)
    monkeypatch.setattr("vlmdebug.watching.pending.stream_of", device.current_stream)
    with vd.watch(model, on_mismatch="record") as trace, torch.no_grad():
        model(**chunk)
        device.capturing = True
        model(**chunk)  # the first call still waits
        assert [call.number for call in trace.calls] == [1]
        device.capturing = False
        model(**chunk)

    assert [call.ok for call in trace.calls] == [True, False, True]
    assert trace.calls[1].unread == (
        "The model was called while a graph of the device was captured, so nothing could be copied "
        "from there. This call was not judged. Watch the calls before the capture."
    )
