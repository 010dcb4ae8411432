"""Rows are recognised by which they are, through whatever a slicer does to them.

Every route is tried twice: with the chunk's own rows, which must pass, and with its neighbour's,
which must be found and named.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vlmdebug as vd

IMAGES = [1, 1, 1, 1]


@pytest.fixture
def batch():
    """Four samples with one image each, all of the same size: a wrong one is silent."""
    return vd.make_batch("gemma4", IMAGES, [2, 2, 2, 2])


def buffer_filled(x, a, b):
    out = torch.empty(b - a, *x.shape[1:], dtype=x.dtype)
    out[:] = x[a:b]
    return out


def overwritten_clone(x, a, b):
    out = x[: b - a].clone()
    out.copy_(x[a:b])
    return out


def through_out(x, a, b):
    out = torch.empty(0, dtype=x.dtype)
    torch.cat([x[a:b]], out=out)
    return out


ROUTES = {
    "slice": lambda x, a, b: x[a:b],
    "slice with ellipsis": lambda x, a, b: x[a:b, ...],
    "slice from the end": lambda x, a, b: x[a - len(x) :][: b - a],
    "slice of a slice": lambda x, a, b: x[a:][: b - a],
    "narrow": lambda x, a, b: x.narrow(0, a, b - a),
    "split": lambda x, a, b: x.split(1)[a] if b - a == 1 else torch.cat(x.split(1)[a:b]),
    "chunk": lambda x, a, b: torch.cat(x.chunk(len(x))[a:b]),
    "unbind and stack": lambda x, a, b: torch.stack(x.unbind(0)[a:b]),
    "select and stack": lambda x, a, b: torch.stack([x[i] for i in range(a, b)]),
    "select and unsqueeze": lambda x, a, b: torch.cat([x[i].unsqueeze(0) for i in range(a, b)]),
    "index tensor": lambda x, a, b: x[torch.arange(a, b)],
    "index list": lambda x, a, b: x[list(range(a, b))],
    "index array": lambda x, a, b: x[np.arange(a, b)],
    "boolean mask": lambda x, a, b: x[(torch.arange(len(x)) >= a) & (torch.arange(len(x)) < b)],
    "index in a tuple": lambda x, a, b: x[torch.arange(a, b), :],
    "index_select": lambda x, a, b: x.index_select(0, torch.arange(a, b)),
    "take_along_dim": lambda x, a, b: torch.take_along_dim(
        x, torch.arange(a, b).view(-1, *[1] * (x.ndim - 1)), 0
    ),
    "cat of rows": lambda x, a, b: torch.cat([x[i : i + 1] for i in range(a, b)]),
    "cat with an empty part": lambda x, a, b: torch.cat([x[:0], x[a:b]]),
    "repeat": lambda x, a, b: x.repeat(2, *[1] * (x.ndim - 1))[len(x) + a : len(x) + b],
    "tile": lambda x, a, b: x.tile(2, *[1] * (x.ndim - 1))[a:b],
    "repeat_interleave": lambda x, a, b: x.repeat_interleave(2, dim=0)[2 * a : 2 * b : 2],
    "expand": lambda x, a, b: x.unsqueeze(0).expand(2, *x.shape)[1][a:b],
    "flip twice": lambda x, a, b: x.flip(0).flip(0)[a:b],
    "roll": lambda x, a, b: x.roll(-a, 0)[: b - a],
    "clone": lambda x, a, b: x[a:b].clone(),
    "clone, then slice": lambda x, a, b: x.clone()[a:b],
    "contiguous": lambda x, a, b: x[a:b].contiguous(),
    "detach": lambda x, a, b: x.detach()[a:b],
    "double": lambda x, a, b: x[a:b].double(),
    "to another dtype": lambda x, a, b: x.to(torch.float64)[a:b],
    "bfloat16 and back": lambda x, a, b: x[a:b].to(torch.bfloat16).to(x.dtype),
    "half": lambda x, a, b: x[a:b].half(),
    "pad and cut": lambda x, a, b: F.pad(x, [0, 0] * (x.ndim - 1) + [1, 1])[a + 1 : b + 1],
    "filled buffer": buffer_filled,
    "overwritten clone": overwritten_clone,
    "out= argument": through_out,
    "numpy view": lambda x, a, b: torch.from_numpy(x.numpy()[a:b]),
    "numpy copy": lambda x, a, b: torch.from_numpy(x.numpy()[a:b].copy()),
    "lists": lambda x, a, b: torch.tensor(x.tolist()[a:b], dtype=x.dtype),
}


def slicer_by(route, shift):
    """Media through `route`; `shift` 1 hands every sample its neighbour's."""

    def slicer(inputs, chunk_size):
        for start in range(0, len(inputs["input_ids"]), chunk_size):
            stop = start + chunk_size
            media = (start + shift) % len(inputs["input_ids"])
            chunk = {
                key: inputs[key][start:stop]
                for key in ("input_ids", "attention_mask", "mm_token_type_ids")
            }
            for key in ("pixel_values", "image_position_ids"):
                chunk[key] = route(inputs[key], media, media + chunk_size)
            yield chunk

    return slicer


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_own_rows_pass_by_every_route(batch, route, chunk_size):
    report = vd.check(slicer_by(route, 0), batch, chunk_size=chunk_size)

    assert report.ok, [str(m) for m in report.mismatches] + list(report.ambiguities)


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
@pytest.mark.parametrize("chunk_size", [1, 2])
def test_neighbours_rows_are_found_and_named_by_every_route(batch, route, chunk_size):
    report = vd.check(slicer_by(route, chunk_size), batch, chunk_size=chunk_size)
    found = {(m.key, m.chunk): m for m in report.mismatches}

    assert len(found) == 2 * len(report.chunks)
    for index in range(len(report.chunks)):
        own = range(index * chunk_size, (index + 1) * chunk_size)
        neighbour = [(row + chunk_size) % 4 for row in own]
        mismatch = found["pixel_values", index]

        assert (mismatch.code, mismatch.silent) == ("VLM002", True)
        assert mismatch.planned == own
        assert mismatch.used == neighbour


@pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES.keys())
def test_samples_are_recognised_by_every_route(batch, route):
    """`input_ids` are whole numbers: the same routes, and the order of samples they tell."""

    def backwards(inputs, chunk_size):
        for sample in (3, 2, 1, 0):
            yield {
                key: route(inputs[key], sample, sample + 1) if key != "lists" else None
                for key in batch.layout
            }

    report = vd.check(backwards, batch)

    assert [chunk.samples for chunk in report.chunks] == [(3,), (2,), (1,), (0,)]
    assert {mismatch.code for mismatch in report.mismatches} == {"VLM007"}


def test_reversed_rows_are_not_the_same_rows():
    batch = vd.make_batch("gemma4", [2], [1, 1])

    def reverse(inputs, chunk_size):
        chunk = {key: inputs[key] for key in batch.layout}
        yield {**chunk, "pixel_values": inputs["pixel_values"].flip(0)}

    report = vd.check(reverse, batch)

    assert [(m.key, list(m.used)) for m in report.mismatches] == [("pixel_values", [1, 0])]


def test_write_into_a_followed_copy_is_seen(batch):
    """Rows that were known by history are not believed after a write."""

    def slicer(inputs, chunk_size):
        for sample in range(4):
            pixels = inputs["pixel_values"][[sample]]
            pixels[0] = inputs["pixel_values"][(sample + 1) % 4]
            yield {
                **{key: inputs[key][sample : sample + 1] for key in batch.layout},
                "pixel_values": pixels,
            }

    report = vd.check(slicer, batch)

    assert [list(m.used) for m in report.mismatches] == [[1], [2], [3], [0]]


def test_twins_are_told_apart_by_memory_and_not_by_value():
    batch = vd.make_batch("gemma4", [1, 1], [2, 2])
    pixels = batch.inputs["pixel_values"]
    pixels[1] = pixels[0]

    def swapped(inputs, chunk_size):
        for sample in range(2):
            chunk = {key: inputs[key][sample : sample + 1] for key in batch.layout}
            yield {**chunk, "pixel_values": inputs["pixel_values"][1 - sample : 2 - sample]}

    def copied(inputs, chunk_size):
        for sample in range(2):
            chunk = {key: inputs[key][sample : sample + 1] for key in batch.layout}
            twin = torch.from_numpy(inputs["pixel_values"].numpy()[1 - sample : 2 - sample].copy())
            yield {**chunk, "pixel_values": twin}

    assert [list(m.used) for m in vd.check(swapped, batch).mismatches] == [[1], [0]]
    assert vd.check(copied, batch).ok  # the model could not tell either


def test_changed_values_are_rows_of_nobody(batch):
    def brightened(inputs, chunk_size):
        for sample in range(4):
            chunk = {key: inputs[key][sample : sample + 1] for key in batch.layout}
            yield {**chunk, "pixel_values": chunk["pixel_values"] + 100}

    report = vd.check(brightened, batch)

    assert {m.code for m in report.mismatches} == {"VLM011"}
    assert all(list(m.used) == [-1] for m in report.mismatches)


def test_another_keys_tensor_under_this_name_is_seen(batch):
    def mixed_up(inputs, chunk_size):
        for sample in range(4):
            chunk = {key: inputs[key][sample : sample + 1] for key in batch.layout}
            yield {**chunk, "mm_token_type_ids": inputs["attention_mask"][sample : sample + 1]}

    report = vd.check(mixed_up, batch)

    assert {(m.code, m.key) for m in report.mismatches} == {("VLM011", "mm_token_type_ids")}
    assert "of attention_mask" in report.mismatches[0].message


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("change", ["trimmed", "padded"])
@pytest.mark.parametrize("copied", [False, True], ids=["view", "copy"])
def test_padding_columns_may_come_and_go(side, change, copied):
    images = [1, 0, 1]
    real = vd.tiny.batch("gemma4", images, padding_side=side)
    batch = vd.read_batch(real, processor=vd.tiny.build("gemma4")[1])

    def slicer(inputs, chunk_size):
        for chunk in batch.chunks(1):
            length = int(chunk["attention_mask"].sum())
            for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
                if change == "padded":
                    chunk[key] = F.pad(chunk[key], (3, 0) if side == "left" else (0, 3))
                else:
                    chunk[key] = (
                        chunk[key][:, -length:] if side == "left" else chunk[key][:, :length]
                    )
                if copied:
                    chunk[key] = torch.from_numpy(chunk[key].numpy().copy())
            yield chunk

    report = vd.check(slicer, batch)

    assert report.ok, [str(m) for m in report.mismatches] + list(report.ambiguities)
    assert [chunk.samples for chunk in report.chunks] == [(0,), (1,), (2,)]


def test_cut_placeholder_columns_are_seen():
    real = vd.tiny.batch("gemma4", [1, 1])
    batch = vd.read_batch(real, processor=vd.tiny.build("gemma4")[1])

    def slicer(inputs, chunk_size):
        for chunk in batch.chunks(1):
            short = {k: v[:, :30] for k, v in chunk.items() if k in ("input_ids", "attention_mask")}
            yield {**chunk, **short, "mm_token_type_ids": chunk["mm_token_type_ids"][:, :30]}

    report = vd.check(slicer, batch)

    assert {(m.code, m.silent) for m in report.mismatches} == {("VLM009", False)}


def test_mrope_position_ids_are_cut_on_their_own_dimension():
    real = dict(vd.tiny.batch("qwen2_5_vl", [1, 1, 1]))
    samples, seq = real["input_ids"].shape
    real["position_ids"] = torch.arange(3 * samples * seq).view(3, samples, seq)
    batch = vd.read_batch(real, processor=vd.tiny.build("qwen2_5_vl")[1])

    def cut_on_dim_0(inputs, chunk_size):
        for start, chunk in enumerate(batch.chunks(1)):
            yield {**chunk, "position_ids": inputs["position_ids"][start : start + 1]}

    assert batch.layout["position_ids"] == vd.Axis("sample", dim=1)
    assert vd.check(lambda _, size: batch.chunks(size), batch, chunk_size=2).ok
    assert {m.key for m in vd.check(cut_on_dim_0, batch).mismatches} == {"position_ids"}


def test_padded_tiles_may_be_trimmed_to_what_the_chunk_owns():
    batch = vd.make_batch("idefics3", [2, 1], [2, 2, 1])

    def trimmed(keys, tiles):
        def slicer(inputs, chunk_size):
            for sample, chunk in enumerate(batch.chunks(1)):
                own = batch.counts["tile"][sample] if tiles is None else tiles
                yield {k: v[:, :own] if k in keys else v for k, v in chunk.items()}

        return slicer

    both = ("pixel_values", "pixel_attention_mask")

    assert vd.check(trimmed(both, None), batch).ok
    assert not vd.check(trimmed(both, 2), batch).ok
    assert not vd.check(trimmed(("pixel_values",), None), batch).ok


def test_numpy_batches_are_judged_too():
    batch = vd.make_batch("gemma4", [1, 1], [2, 2])
    arrays = {key: value.numpy() for key, value in batch.inputs.items()}
    read = vd.read_batch(arrays, num_images=[1, 1], layout="gemma4")

    def neighbours(inputs, chunk_size):
        for sample in range(2):
            chunk = {key: inputs[key][sample : sample + 1] for key in read.layout}
            yield {**chunk, "pixel_values": inputs["pixel_values"][[1 - sample]]}

    assert vd.check(lambda _, size: read.chunks(size), read).ok
    assert [list(m.used) for m in vd.check(neighbours, read).mismatches] == [[1], [0]]


def test_one_dict_used_again_for_every_chunk_is_judged_as_it_was_yielded(batch):
    def reusing(inputs, chunk_size):
        chunk = {}
        for sample in range(4):
            for key in batch.layout:
                chunk[key] = inputs[key][sample : sample + 1]
            yield chunk

    assert vd.check(reusing, batch).ok
    assert not vd.check(lambda i, c: list(reusing(i, c)), batch).ok  # all four are the last one


def test_slicer_that_closes_over_the_batch_is_judged_all_the_same(batch):
    chunks = list(batch.chunks(1))

    assert vd.check(lambda inputs, size: chunks, batch).ok
    assert not vd.check(lambda inputs, size: chunks[:3], batch).ok
