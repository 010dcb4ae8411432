"""A sample is the same in every batch, packed row, chunk, process and device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import REFUSES_TEXT, Built, architectures
from packers import ORDER, Lab
from test_watch import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import vlmdebug as vd
from vlmdebug.families.apart import SEPARATES
from vlmdebug.watching.identity import Sampled, sampled_media

FAMILIES = [one for one in architectures() if one not in REFUSES_TEXT]
PER_SAMPLE = {"idefics2", "idefics3", "granite_docling"}
MEDIA = {"smolvlm": [1, 1, 0]}
"""Its rows of images, one per sample, look like videos in a packed row."""
PACKED = [one for one in FAMILIES if one in SEPARATES]


def identities(inputs: Any, processor: Any) -> list[Any]:
    return vd.identities(vd.read_batch(inputs, processor=processor))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def traced(model: Any, processor: Any, log: Path, *calls: Any) -> list[dict[str, Any]]:
    """The lines of a trace of these calls; the model itself does not run."""
    with vd.watch(model, processor=processor, on_mismatch="record", log=log):
        for call in calls:
            for hook in model._forward_pre_hooks.values():
                hook(model, (), dict(call))
    return lines_of(log)


@pytest.mark.parametrize("family", PACKED)
def test_sample_of_a_packed_row_is_the_sample_alone(
    family: str, built: Built, tmp_path: Path
) -> None:
    model, processor = built[family]
    lab = Lab(model, processor, vd.tiny.batch(family, images_per_sample=[2, 0, 1], seed=0))
    alone = [identities(part, processor)[0] for part in lab.parts]
    expected = [alone[sample] for sample in ORDER]
    packed = lab.packed()
    found = identities(packed, processor)
    (line,) = traced(model, processor, tmp_path / "log.jsonl", packed)

    assert [one.media for one in alone] == [2, 0, 1] and len({*alone}) == 3
    assert line["identities"] == [one.digits for one in found]
    assert line["media"] == [one.media for one in found]
    if family in PER_SAMPLE:  # rows of pixels that cannot be matched to samples
        assert line["media"] == [None] * 3
        return
    assert [one.digits for one in found] == [one.digits for one in expected]
    assert line["media"] == MEDIA.get(family, [1, 2, 0])


@pytest.mark.parametrize("family", FAMILIES)
def test_chunk_and_single_sample_have_the_identities_of_the_batch(
    family: str, built: Built, tmp_path: Path
) -> None:
    model, processor = built[family]
    inputs = dict(vd.tiny.batch(family, images_per_sample=[1, 0, 1]))
    batch = vd.read_batch(inputs, processor=processor)
    whole = vd.identities(batch)
    chunks = [*batch.chunks(1), *batch.chunks(2)]
    copies = [{key: value.clone() for key, value in chunk.items()} for chunk in chunks]

    lines = traced(model, processor, tmp_path / "log.jsonl", *chunks, *copies)

    found = [line["identities"] for line in lines]
    digits = [one.digits for one in whole]
    assert found[:3] == [[one] for one in digits] and found[3:5] == [digits[:2], digits[2:]]
    assert found[5:] == found[:5]
    assert {line["verdict"] for line in lines} == {"OK"}


@pytest.mark.parametrize("family", ["gemma4", "qwen3_vl", "idefics3", "llava_next"])
def test_device_is_not_waited_for_and_gives_the_same_identities(
    family: str, built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = built[family]
    inputs = dict(vd.tiny.batch(family, images_per_sample=[2, 0, 1]))
    others = {**inputs, "pixel_values": inputs["pixel_values"].flip(1)}
    here = traced(model, processor, tmp_path / "here.jsonl", inputs, others)
    device = Accelerator(monkeypatch)
    with vd.watch(model, processor=processor, log=tmp_path / "there.jsonl"):
        for call in (inputs, others):
            for hook in model._forward_pre_hooks.values():
                hook(model, (), dict(call))
        assert device.waited == 0
    there = lines_of(tmp_path / "there.jsonl")

    assert [one["identities"] for one in there] == [one["identities"] for one in here]
    assert [one["verdict"] for one in there] == ["OK", here[1]["verdict"]]
    assert here[0]["identities"] != here[1]["identities"]
    assert device.waited > 0  # at the end


class FromHost(TorchDispatchMode):
    """Counts tensors that torch made of values in host memory, such as of a list."""

    def __init__(self, *given: torch.Tensor) -> None:
        super().__init__()
        self.made: list[Any] = [*given]  # kept, so that no other tensor gets the same id
        self.copied = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        self.copied += sum(all(one is not other for other in self.made) for one in tensors)
        self.made += tree_leaves(found := func(*args, **(kwargs or {})))
        return found


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_nothing_is_copied_to_a_device_to_read_media_there(layout: torch.memory_format) -> None:
    pixels = torch.empty(2, 3, 64, 64, device="meta").to(memory_format=layout)
    with FromHost(pixels) as mode:
        sampled = sampled_media({"pixel_values": pixels})

    assert sampled["pixel_values"].table.shape == (2, 64)
    assert mode.copied == 0


def test_sample_with_media_that_cannot_be_read_on_a_device_has_no_identity(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = built["gemma4"]
    call = vd.tiny.batch("gemma4", images_per_sample=[1])

    def refuse(*_: Any) -> None:
        raise RuntimeError("no such operation for this dtype")

    monkeypatch.setattr("vlmdebug.watching.watch.sampled_media", refuse)
    here = traced(model, processor, tmp_path / "here.jsonl", call)
    Accelerator(monkeypatch)
    there = traced(model, processor, tmp_path / "there.jsonl", call)

    assert [line["verdict"] for line in here + there] == ["OK", "OK"]
    assert [line["identities"] for line in here + there] == [None, None]


def test_packed_row_that_contradicts_itself_has_no_identity(built: Built, tmp_path: Path) -> None:
    model, processor = built["qwen2_5_vl"]
    lab = Lab(model, processor, vd.tiny.batch("qwen2_5_vl", images_per_sample=[2, 0, 1]))
    call = lab.packed()
    call["cu_seq_lens_q"] = torch.tensor([0, 3, call["input_ids"].shape[1]])

    (line,) = traced(model, processor, tmp_path / "log.jsonl", call)

    assert (line["identities"], line["media"]) == (None, None)


def test_layout_in_memory_and_gradients_do_not_count(built: Built) -> None:
    processor = built["llava"][1]
    inputs = dict(vd.tiny.batch("llava", images_per_sample=[1, 2]))
    plain = identities(inputs, processor)
    pixels = inputs["pixel_values"]

    for other in (
        pixels.contiguous(memory_format=torch.channels_last),
        pixels.clone().requires_grad_(),
        pixels.flip(3).flip(3),
    ):
        assert identities({**inputs, "pixel_values": other}, processor) == plain
    assert not pixels.contiguous(memory_format=torch.channels_last).is_contiguous()
    half = identities({**inputs, "pixel_values": pixels.bfloat16()}, processor)
    assert len({*half}) == 2 and half != plain


def test_every_image_of_a_sample_counts(built: Built) -> None:
    processor = built["qwen3_vl"][1]
    inputs = dict(vd.tiny.batch("qwen3_vl", images_per_sample=[3, 1]))
    plain = identities(inputs, processor)
    first = 0
    for height, width in inputs["image_grid_thw"][:, 1:].tolist():
        changed = inputs["pixel_values"].clone()
        changed[first : first + height * width] += 1.0
        first += height * width
        other = identities({**inputs, "pixel_values": changed}, processor)
        assert sum(one != two for one, two in zip(plain, other, strict=True)) == 1


def test_large_tensors_are_sampled_as_views() -> None:
    pixels = torch.rand(4, 3, 336, 336)
    sampled = sampled_media({"pixel_values": pixels, "image_sizes": torch.ones(4, 2)})

    assert isinstance(sampled["pixel_values"], Sampled)
    table = sampled["pixel_values"].table
    assert table.untyped_storage().data_ptr() == pixels.untyped_storage().data_ptr()
    assert table.shape == (4, 65) or table.shape == (4, 64)
    assert sampled["image_sizes"].table.shape == (4, 2)
