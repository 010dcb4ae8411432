"""Rows are recognised by which they are, through whatever a slicer does to them.

Every route is tried twice: with the chunk's own rows, which must pass, and with its neighbour's,
which must be found and named.
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from doubts import features_unknown
from torch.utils.data import default_collate

import vlmdebug as vd
from vlmdebug.families import FAMILIES
from vlmdebug.tracking.memory import parent, view_rows, whole_rows

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


def pixels_as(tensor, dtype):
    """Pixels in another precision; positions stay whole numbers, which models look up."""
    return tensor.to(dtype) if tensor.is_floating_point() else tensor.clone()


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
    "index by an empty list": lambda x, a, b: torch.cat([x[[]], x[a:b]]),
    "index_select by keywords": lambda x, a, b: torch.index_select(
        input=x, dim=0, index=torch.arange(a, b)
    ),
    "clone by keyword": lambda x, a, b: torch.clone(input=x)[a:b],
    "pickled": lambda x, a, b: pickle.loads(pickle.dumps(x[a:b])),
    "collated": lambda x, a, b: default_collate([x[i] for i in range(a, b)]),
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
    "double": lambda x, a, b: pixels_as(x[a:b], torch.float64),
    "to another dtype": lambda x, a, b: pixels_as(x, torch.float64)[a:b],
    "bfloat16 and back": lambda x, a, b: x[a:b].to(torch.bfloat16).to(x.dtype),
    "half": lambda x, a, b: pixels_as(x[a:b], torch.half),
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
    assert {m.code for m in report.mismatches if m.key is None} == {"VLM007"}
    assert {m.key for m in report.mismatches} <= {None, "input_ids"}  # ids as floats are loud


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


@pytest.fixture(scope="module", params=["left", "right"])
def padded(request):
    """A real Gemma 4 batch whose samples have as many tokens as they like, and its model."""
    model, processor = vd.tiny.build("gemma4")
    texts = ["What is in these two pictures?", "Nothing.", "And here?"]
    real = vd.tiny.batch("gemma4", [2, 0, 1], texts=texts, padding_side=request.param)
    return vd.read_batch(real, processor=processor), model


def columns_cut(batch, key, how):
    """Chunks of one sample without its padding; `how` cuts `key` in another way."""

    def slicer(inputs, chunk_size):
        for chunk in batch.chunks(1):
            real = chunk["attention_mask"][0].nonzero()
            own = slice(int(real[0]), int(real[-1]) + 1)
            for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
                cut = how(chunk[name], own) if name == key else chunk[name][:, own]
                copied = how is copied_other_end
                chunk[name] = cut.new_tensor(cut.tolist()) if copied else cut
            yield chunk

    return slicer


def other_end(rows, own):
    size = own.stop - own.start
    return rows[:, :size] if own.start else rows[:, rows.shape[1] - size :]


def copied_other_end(rows, own):
    return other_end(rows, own)


@pytest.mark.parametrize("key", ["attention_mask", "mm_token_type_ids"])
@pytest.mark.parametrize("how", [other_end, copied_other_end])
def test_columns_of_another_place_are_not_called_right(padded, key, how):
    """The right rows, and as many columns: nothing raises, and the answer is another."""
    batch, model = padded
    slicer = columns_cut(batch, key, how)
    report = vd.check(slicer, batch)

    assert {(m.code, m.key, m.silent) for m in report.mismatches} == {("VLM011", key, True)}
    assert "with other columns than its input_ids" in report.findings[0].message
    assert vd.prove(slicer, batch, model).silent_samples


def test_columns_cut_alike_are_right(padded):
    batch, model = padded
    slicer = columns_cut(batch, None, None)

    assert vd.check(slicer, batch).ok
    assert vd.prove(slicer, batch, model).ok


@pytest.mark.parametrize("key", ["attention_mask", "mm_token_type_ids"])
def test_fewer_columns_than_tokens_are_not_called_right(padded, key):
    batch, model = padded
    slicer = columns_cut(batch, key, lambda rows, own: rows[:, own][:, 3:])
    report = vd.check(slicer, batch)

    assert {(m.code, m.key, m.silent) for m in report.mismatches} == {("VLM011", key, None)}
    assert " columns for " in report.findings[0].message
    assert not vd.prove(slicer, batch, model).ok


@pytest.mark.parametrize("key", ["attention_mask", "mm_token_type_ids"])
def test_more_columns_are_judged_by_those_that_a_model_may_look_at(padded, key):
    batch, model = padded
    slicer = columns_cut(batch, key, lambda rows, own: rows)
    report = vd.check(slicer, batch)
    begins_with_padding = not batch.inputs["attention_mask"][:, 0].all()

    assert report.verdict == ("MISMATCH" if begins_with_padding else "AMBIGUOUS")
    if begins_with_padding:
        assert not vd.prove(slicer, batch, model).ok


def test_columns_of_equal_values_are_as_good_as_the_own():
    """A mask that hides nothing is the same at either end."""
    batch = vd.make_batch("gemma4", [1, 1])

    def halves(inputs, chunk_size):
        for chunk in batch.chunks(1):
            chunk["attention_mask"] = chunk["attention_mask"][:, :5]
            chunk["mm_token_type_ids"] = chunk["mm_token_type_ids"][:, :5]
            yield {**chunk, "input_ids": chunk["input_ids"][:, :5]}

    def other(inputs, chunk_size):
        for chunk, whole in zip(halves(inputs, chunk_size), batch.chunks(1), strict=True):
            yield {**chunk, "attention_mask": whole["attention_mask"][:, -5:]}

    assert batch.inputs["attention_mask"].all()
    assert vd.check(other, batch).verdict == vd.check(halves, batch).verdict


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("cut", ["both", "ids alone", "images alone"])
def test_cross_attention_mask_goes_along_tokens_and_images(side, cut):
    model, processor = vd.tiny.build("mllama")
    texts = ["What is in these two pictures?", "Nothing.", "And here?"]
    real = vd.tiny.batch("mllama", [2, 0, 1], texts=texts, padding_side=side)
    batch = vd.read_batch(real, processor=processor)

    def slicer(inputs, chunk_size):
        for sample, chunk in enumerate(batch.chunks(1)):
            places = chunk["attention_mask"][0].nonzero()
            own = slice(int(places[0]), int(places[-1]) + 1)
            if cut == "images alone":
                images = max(batch.counts["image"][sample], 1)
                for key in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask"):
                    chunk[key] = chunk[key][:, :images]
            else:
                along = ["cross_attention_mask"] if cut == "both" else []
                for key in ("input_ids", "attention_mask", *along):
                    chunk[key] = chunk[key][:, own]
            yield chunk

    report, proof = vd.check(slicer, batch), vd.prove(slicer, batch, model)

    assert report.ok == proof.ok == (cut == "both" or (cut, side) == ("ids alone", "right"))
    assert report.ok or {m.key for m in report.mismatches} == {"cross_attention_mask"}


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
    model, processor = vd.tiny.build("qwen2_5_vl")
    real["position_ids"] = model.model.get_rope_index(**real)[0]
    batch = vd.read_batch(real, processor=processor)

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


# --- where memory misleads -----------------------------------------------------------------


def handing(batch, change):
    """A right slicer of one sample each, whose chunk is changed: `change(chunk, sample)`."""

    def slicer(inputs, chunk_size):
        for sample, chunk in enumerate(batch.chunks(1)):
            yield change(dict(chunk), sample)

    return slicer


def read(inputs, family="gemma4", images=IMAGES):
    return vd.read_batch(inputs, num_images=images, layout=family)


def by_index(batch):
    """Every key copied by an index tensor: rows are known by history, not by memory."""

    def slicer(inputs, chunk_size):
        for sample in range(len(batch)):
            yield {key: inputs[key][torch.tensor([sample])] for key in batch.layout}

    return slicer


def neighbours_by_index(batch, key):
    def slicer(inputs, chunk_size):
        for sample, chunk in enumerate(by_index(batch)(inputs, chunk_size)):
            other = (sample + 1) % len(batch)
            yield {**chunk, key: inputs[key][torch.tensor([other])]}

    return slicer


def one_tensor_under_two_names(inputs):
    return {**inputs, "token_type_ids": inputs["input_ids"]}


def equal_tensors(inputs):
    return {**inputs, "token_type_ids": inputs["input_ids"].clone()}


def halves_of_one_buffer(inputs):
    ids = inputs["input_ids"]
    seq = ids.shape[1]
    buffer = torch.cat([ids, ids + 1], dim=1)
    return {**inputs, "input_ids": buffer[:, :seq], "token_type_ids": buffer[:, seq:]}


def every_other_row(inputs):
    return {
        key: value.repeat_interleave(2, 0)[::2] if key == "input_ids" else value
        for key, value in {**inputs, "token_type_ids": inputs["input_ids"] + 1}.items()
    }


def transposed(inputs):
    wide = torch.zeros(inputs["input_ids"].shape[1], 9, dtype=torch.long)
    wide[:, :4] = inputs["input_ids"].T + 1
    return {**inputs, "token_type_ids": wide[:, :4].T}


SHARED = [
    one_tensor_under_two_names,
    equal_tensors,
    halves_of_one_buffer,
    every_other_row,
    transposed,
]


@pytest.mark.parametrize("share", SHARED, ids=lambda share: share.__name__)
def test_keys_that_share_memory_or_values_are_told_apart(batch, share):
    shared = read(share(dict(batch.inputs)))
    for slicer in (lambda inputs, size: shared.chunks(size), by_index(shared)):
        assert vd.check(slicer, shared).ok

    report = vd.check(neighbours_by_index(shared, "token_type_ids"), shared)

    assert [(m.key, list(m.used)) for m in report.mismatches] == [
        ("token_type_ids", [(sample + 1) % 4]) for sample in range(4)
    ]


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_expanded_tensors_have_one_row_and_it_is_everyones(chunk_size):
    gemma = vd.make_batch("gemma4", [1, 1, 1])
    mask = torch.ones(1, gemma.inputs["input_ids"].shape[1], dtype=torch.long)
    expanded = read({**gemma.inputs, "attention_mask": mask.expand(3, -1)}, images=[1, 1, 1])
    qwen = vd.make_batch("qwen2_5_vl", [1, 1, 1])
    positions = torch.arange(qwen.inputs["input_ids"].shape[1]).view(1, 1, -1).expand(3, 3, -1)
    mrope = read({**qwen.inputs, "position_ids": positions}, "qwen2_5_vl", [1, 1, 1])
    for batch in (expanded, mrope):
        report = vd.check(lambda _, size, b=batch: b.chunks(size), batch, chunk_size=chunk_size)
        unknown = "M-RoPE's places" in "".join(report.ambiguities)  # nor are they without its id
        assert features_unknown(report) or report.ok or (batch is mrope and unknown)


def test_view_that_begins_inside_a_row_is_no_row(batch):
    def straddling(chunk, sample):
        pixels = batch.inputs["pixel_values"]
        start = min(sample, 2) * pixels[0].numel() + 5
        chunk["pixel_values"] = pixels.view(-1)[start:][: pixels[0].numel()].view(
            1, *pixels.shape[1:]
        )
        return chunk

    report = vd.check(handing(batch, straddling), batch)

    assert {(m.code, m.chunk) for m in report.mismatches} == {("VLM011", c) for c in range(4)}


@pytest.mark.parametrize("key", ["pixel_values", "image_position_ids", "input_ids"])
def test_row_without_its_dimension_is_not_the_row(batch, key):
    """`x[i]` for `x[i : i + 1]`: a model may raise or, worse, broadcast it."""
    selected = handing(batch, lambda chunk, sample: {**chunk, key: chunk[key][0]})
    report = vd.check(selected, batch)

    assert {m.key for m in report.mismatches} == {key}
    assert {m.silent for m in report.mismatches} <= {None, False}


def test_rows_of_two_keys_in_one_copy_are_not_rows_of_the_last():
    batch = vd.make_batch("gemma4", [1, 1], [2, 2])
    types, mask = batch.inputs["mm_token_type_ids"], batch.inputs["attention_mask"]

    def mixed(inputs, chunk_size):
        yield {**inputs, "mm_token_type_ids": torch.cat([mask[:1], types[1:]])}

    report = vd.check(mixed, batch, chunk_size=2)

    assert [(m.key, list(m.used)) for m in report.mismatches] == [("mm_token_type_ids", [-1, 1])]


# --- where history misleads ----------------------------------------------------------------


def test_copy_is_not_called_wrong_before_its_values_are_read(batch):
    """numpy writes past torch's count of writes: history says the neighbour, values say right."""

    def corrected_by_numpy(chunk, sample):
        pixels = batch.inputs["pixel_values"][[(sample + 1) % 4]]
        pixels.numpy()[:] = chunk["pixel_values"].numpy()
        return {**chunk, "pixel_values": pixels}

    assert vd.check(handing(batch, corrected_by_numpy), batch).ok


def test_writes_in_inference_mode_are_seen(batch):
    def overwritten(chunk, sample):
        with torch.inference_mode():
            pixels = batch.inputs["pixel_values"][[sample]]
            pixels[0] = batch.inputs["pixel_values"][(sample + 1) % 4]
        return {**chunk, "pixel_values": pixels}

    report = vd.check(handing(batch, overwritten), batch)

    assert [list(m.used) for m in report.mismatches] == [[1], [2], [3], [0]]


def test_slicer_that_writes_into_the_batch_is_not_called_right():
    batch = vd.make_batch("gemma4", IMAGES, [2, 2, 2, 2])

    def vandal(inputs, chunk_size):
        inputs["pixel_values"][0] = inputs["pixel_values"][1]
        yield from batch.chunks(1)

    report = vd.check(vandal, batch)

    assert report.verdict == "AMBIGUOUS"
    assert "pixel_values" in report.ambiguities[0]


def test_buffer_refilled_for_every_call_is_judged_as_it_was_then(batch):
    """As a CUDA graph wants it: one static buffer per input, overwritten for each call."""

    def static(model, inputs, chunk_size, shift=0):
        buffers = {key: value[:1].clone() for key, value in inputs.items() if key in batch.layout}
        for sample in range(4):
            for key, buffer in buffers.items():
                row = (sample + shift) % 4 if key in batch.layout.media else sample
                buffer.copy_(inputs[key][row : row + 1])
            model(**buffers)

    report = vd.check(vd.record(lambda m, i, c: static(m, i, c, shift=1)), batch)

    assert vd.check(vd.record(static), batch).ok
    assert [list(m.used) for m in report.mismatches if m.key == "pixel_values"] == [
        [1],
        [2],
        [3],
        [0],
    ]


# --- shapes and kinds that rows do not explain ---------------------------------------------


@pytest.mark.parametrize(
    ("family", "key", "cut"),
    [
        ("gemma4", "pixel_values", lambda x: x[:, :3]),
        ("gemma4", "pixel_values", lambda x: x[..., :2]),
        ("qwen2_5_vl", "pixel_values", lambda x: x[:, :3]),
        ("llava_next", "pixel_values", lambda x: x[:, :1]),
        ("internvl", "pixel_values", lambda x: x[:, :, :1]),
    ],
    ids=["patches", "pixels of a patch", "channels", "tiles", "height"],
)
def test_tensor_cut_on_another_dimension_is_not_called_right(family, key, cut):
    batch = vd.make_batch(family, [1, 1], [FAMILIES[family].sizes[-1]] * 2)
    report = vd.check(handing(batch, lambda c, _: {**c, key: cut(c[key])}), batch)

    assert {(m.code, m.key) for m in report.mismatches} == {("VLM011", key)}
    assert f"columns of {key} were cut: " in report.findings[0].message


def test_numbers_in_a_list_are_rows_too():
    batch = vd.make_batch("llava_next", [1, 1], [1, 2])
    sizes = batch.inputs["image_sizes"].tolist()

    def listed(order):
        return handing(batch, lambda c, sample: {**c, "image_sizes": [sizes[order[sample]]]})

    report = vd.check(listed([1, 0]), batch)

    assert vd.check(listed([0, 1]), batch).ok
    assert [(m.key, list(m.used)) for m in report.mismatches] == [
        ("image_sizes", [1]),
        ("image_sizes", [0]),
    ]


def test_list_of_tensors_is_not_called_dropped(batch):
    report = vd.check(
        handing(batch, lambda c, _: {**c, "pixel_values": [*c["pixel_values"]]}), batch
    )

    assert report.verdict == "AMBIGUOUS"


def test_no_columns_are_no_rows():
    batch = vd.make_batch("gemma4", [0, 0])

    assert not vd.check(handing(batch, lambda c, _: {k: v[:, :0] for k, v in c.items()}), batch).ok


def turned_through_numpy(inputs):
    values = inputs["pixel_values"].numpy()
    values[:] = values[::-1].copy()


def turned_through_data(inputs):
    inputs["pixel_values"].data.copy_(inputs["pixel_values"].flip(0))


def copied_and_turned_through_numpy(inputs):
    inputs["pixel_values"] = inputs["pixel_values"].clone()
    turned_through_numpy(inputs)


def test_copy_written_where_torch_does_not_count_is_told_by_value(batch):
    def slicer(inputs, chunk_size):
        copied_and_turned_through_numpy(inputs)
        yield from vd.slicers.corrected(inputs, chunk_size)

    assert [list(m.used) for m in vd.check(slicer, batch).mismatches] == [[3], [2], [1], [0]]


@pytest.mark.parametrize("write", [turned_through_numpy, turned_through_data])
def test_values_written_where_torch_does_not_count_cannot_be_told(batch, write):
    def slicer(inputs, chunk_size):
        write(inputs)
        yield from vd.slicers.corrected(inputs, chunk_size)

    report = vd.check(slicer, batch, pictures=False)

    assert report.verdict == "AMBIGUOUS"
    assert "pixel_values" in report.ambiguities[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.half])
def test_copy_in_another_dtype_is_not_taken_for_other_values(batch, dtype):
    def slicer(inputs, chunk_size):
        inputs["pixel_values"] = inputs["pixel_values"].clone().to(dtype)
        yield from vd.slicers.corrected(inputs, chunk_size)

    assert vd.check(slicer, batch).ok


def test_values_that_are_no_number_are_not_taken_for_other_values(batch):
    batch.inputs["pixel_values"][1] = float("nan")
    report = vd.check(vd.slicers.corrected, batch)

    assert report.mismatches == ()
    assert report.verdict == "AMBIGUOUS"


# --- values and shapes: what rows alone do not say -----------------------------------------


@pytest.fixture(scope="module", params=["llava", "gemma4"])
def real(request):
    """A real batch of small and one of large media, padded on the left."""
    inputs = vd.tiny.batch(request.param, [2, 0, 1])
    processor = vd.tiny.build(request.param)[1]
    return vd.read_batch(inputs, processor=processor, num_images=[2, 0, 1])


def changing(keys, change):
    """The corrected slicer, with these keys of each chunk changed."""

    def slicer(inputs, chunk_size):
        for chunk in vd.slicers.corrected(inputs, chunk_size):
            yield {key: change(value) if key in keys else value for key, value in chunk.items()}

    return slicer


HARMLESS = {
    "half and back": lambda x: x.half().float(),
    "bfloat16": lambda x: x.to(torch.bfloat16),
    "bfloat16 through half": lambda x: x.half().bfloat16(),
    "contiguous": lambda x: x.clone().contiguous(),
    "requires grad": lambda x: x.clone().requires_grad_(),
    "numpy": lambda x: torch.from_numpy(x.numpy().copy()),
    "negated twice": lambda x: torch._neg_view(-x),
}
HARMFUL = {
    "long": lambda x: x.long(),
    "long and back": lambda x: x.long().float(),
    "byte": lambda x: x.byte(),
    "8 bits": lambda x: x.to(torch.float8_e4m3fn),
    "bool": lambda x: x.bool(),
    "overflow": lambda x: (x * 1e6).half(),
    "normalised twice": lambda x: (x - 0.5) / 0.5,
    "noise": lambda x: x + 1e-4 * torch.randn_like(x),
    "bits of another dtype": lambda x: x.view(torch.int32),
    "negated": torch._neg_view,
    "halves swapped by cat": lambda x: torch.cat(x.chunk(2, -1)[::-1], -1),
    "halves swapped by index": lambda x: x[..., torch.arange(x.shape[-1]).roll(1)],
    "shifted by pad": lambda x: F.pad(x[..., 1:], (0, 1)),
    "turned": lambda x: x.flip(-1),
    "columns cut": lambda x: x[..., 1:],
    "columns added": lambda x: F.pad(x, (0, 1)),
    "a dimension lost": lambda x: x[0],
    "a dimension added": lambda x: x[None],
    "repeated in a new dimension": lambda x: x.expand(2, *x.shape),
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS.keys())
def test_rounding_and_copies_are_the_rows_themselves(real, change):
    assert vd.check(changing(["pixel_values"], change), real, pictures=False).ok


@pytest.mark.parametrize("change", HARMFUL.values(), ids=HARMFUL.keys())
def test_other_values_and_shapes_are_found_at_any_size(real, change):
    report = vd.check(changing(["pixel_values"], change), real, pictures=False)

    assert {(m.code, m.key) for m in report.mismatches} == {("VLM011", "pixel_values")}


@pytest.mark.parametrize(
    ("change", "said", "silent"),
    [
        (lambda x: x[..., 5:], "columns of pixel_values were cut: 51 of 56", None),
        (lambda x: x[0], "a dimension was lost", False),
        (lambda x: x[None], "a dimension was added", False),
        (lambda x: x.long(), "its values were destroyed by a cast", None),
    ],
)
def test_what_was_done_to_media_is_named_with_its_loudness(change, said, silent):
    batch = vd.read_batch(vd.tiny.batch("llava", [1, 1]), processor=vd.tiny.build("llava")[1])
    report = vd.check(changing(["pixel_values"], change), batch, pictures=False)

    assert {m.silent for m in report.mismatches} == {silent}
    assert said in report.findings[0].message


TOKENS = ["input_ids", "attention_mask", "mm_token_type_ids"]


@pytest.mark.parametrize("key", TOKENS)
@pytest.mark.parametrize("by", ["cat", "pad", "roll"])
def test_columns_of_tokens_that_moved_are_found_however_they_did(padded, key, by):
    move = {
        "cat": lambda x: torch.cat([x[:, 1:], x[:, :1]], 1),
        "pad": lambda x: F.pad(x[:, 1:], (0, 1)),
        "roll": lambda x: x.roll(-1, 1),
    }[by]
    batch, model = padded
    slicer = changing([key], move)
    report = vd.check(slicer, batch, pictures=False)

    assert report.verdict == "MISMATCH" or vd.prove(slicer, batch, model).ok


def test_token_types_left_whole_beside_truncated_ids_are_loud():
    processor = vd.tiny.build("qwen2_5_vl")[1]
    batch = vd.read_batch(vd.tiny.batch("qwen2_5_vl", [1, 2]), processor=processor)
    report = vd.check(changing(TOKENS[:2], lambda x: x[:, :-1]), batch)

    assert {(m.code, m.key, m.silent) for m in report.mismatches} == {
        ("VLM011", "mm_token_type_ids", False)
    }
    assert vd.check(changing(TOKENS, lambda x: x[:, :-1]), batch).ok


def test_one_plane_of_positions_is_named():
    batch = vd.make_batch("qwen2_5_vl", [1, 1], position_ids=True)
    one = lambda c, _: {**c, "position_ids": c["position_ids"][0]}  # noqa: E731
    report = vd.check(handing(batch, one), batch)

    assert "one plane of three was passed" in report.findings[0].message


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int16, torch.bool])
def test_token_ids_that_no_embedding_takes_are_loud(batch, dtype):
    report = vd.check(changing(["input_ids"], lambda x: x.to(dtype)), batch)

    assert ("input_ids", False) in {(m.key, m.silent) for m in report.mismatches}


def test_mask_made_by_the_slicer_is_no_other_samples():
    batch = vd.make_batch("mllama", [1, 2])
    report = vd.check(changing(["aspect_ratio_mask"], torch.ones_like), batch)

    assert [(m.code, list(m.used)) for m in report.mismatches] == [("VLM011", [-1])]


def test_copy_that_gave_its_memory_up_is_not_known_by_it(batch):
    kept = []

    def slicer(inputs, chunk_size):
        for chunk in batch.chunks(chunk_size):
            kept.append(chunk["attention_mask"].clone().share_memory_())
            chunk["attention_mask"] = 1 - chunk["attention_mask"]
            kept.append(chunk)
            yield chunk

    assert {m.key for m in vd.check(slicer, batch).mismatches} == {"attention_mask"}


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.to("meta"),
        lambda x: x.to_sparse(),
        lambda x: torch.nested.nested_tensor([row.float() for row in x]),
        lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8),
        lambda x: torch.complex(x.float(), x.float()).conj(),
        lambda x: np.array([*x.tolist(), [0]], dtype=object),
    ],
    ids=["meta", "sparse", "nested", "quantized", "conjugate", "objects"],
)
@pytest.mark.parametrize("key", ["input_ids", "pixel_values"])
def test_tensor_that_cannot_be_read_is_said_to_be_so(batch, make, key):
    report = vd.check(changing([key], make), batch)

    assert any(f"Could not match {key} to rows" in text for text in report.ambiguities)
    with pytest.raises(vd.BadInput, match=key):
        read({**batch.inputs, key: make(batch.inputs[key])})


def test_columns_of_media_that_were_trimmed_with_the_tokens_are_falsified():
    def trim(inputs, chunk_size):
        for chunk in vd.slicers.corrected(inputs, chunk_size):
            longest = int(chunk["attention_mask"].sum(1).max())
            yield {k: v[:, :longest] if v.ndim == 2 else v for k, v in chunk.items()}

    assert vd.falsify(trim, families=["qwen2_5_vl"], clips=False) is not None


@pytest.mark.parametrize("dtype", [torch.int8, torch.float64, torch.half], ids=str)
def test_sizes_in_a_dtype_that_models_refuse_are_not_ok(dtype):
    """As the tiny Qwen2.5-VL does; int32 is taken as int64 is."""
    model, processor = vd.tiny.build("qwen2_5_vl")
    inputs = vd.tiny.batch("qwen2_5_vl", [1, 1], sizes=(64, 64))
    batch = vd.read_batch(inputs, processor=processor)

    def cast(to):
        return changing(["image_grid_thw"], lambda value: value.to(to))

    assert vd.check(cast(torch.int32), batch).ok
    report = vd.check(cast(dtype), batch)

    assert report.verdict == "AMBIGUOUS"
    assert "image_grid_thw was passed as" in report.ambiguities[0]
    assert vd.prove(cast(dtype), batch, model).error is not None


# --- masks that the model takes rows by ------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "right"),
    [(torch.bool, True), (torch.uint8, True), (torch.int8, False), (torch.int64, False)],
    ids=str,
)
def test_mask_that_chooses_tiles_stays_a_mask(dtype, right):
    """Granite Docling takes `pixel_values[pixel_attention_mask]`, which int8 and int64 change."""
    model, processor = vd.tiny.build("granite_docling")
    inputs = vd.tiny.batch("granite_docling", [1, 2], processor=processor)
    batch = vd.read_batch(inputs, processor=processor, config=model.config)

    def slicer(_, chunk_size):
        for chunk in batch.chunks(chunk_size):
            mask = chunk["pixel_attention_mask"].to(dtype)
            yield {**chunk, "pixel_attention_mask": mask}

    report = vd.check(slicer, batch, chunk_size=2)

    assert report.ok == right
    assert vd.prove(slicer, batch, model, chunk_size=2).ok == right
    assert all(found.silent is None for found in report.mismatches)


def test_number_in_place_of_a_row_has_lost_a_dimension():
    model, processor = vd.tiny.build("deepseek_ocr2")
    inputs = vd.tiny.batch("deepseek_ocr2", [1, 1], processor=processor)
    batch = vd.read_batch(inputs, processor=processor, config=model.config)

    def slicer(_, chunk_size):
        for chunk in batch.chunks(chunk_size):
            yield {**chunk, "num_local_patches": chunk["num_local_patches"][0]}

    found = vd.check(slicer, batch, chunk_size=1).mismatches[0]

    assert (found.code, found.silent) == ("VLM011", None)
    assert "a dimension was lost" in found.message


@pytest.mark.parametrize(("start", "stop"), [(0, 6), (1, 3), (5, 6)])
@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_whole_rows_in_a_slice_are_those_of_its_memory(kind, start, stop):
    whole = torch.arange(24.0).view(6, 4)
    own = parent("pixel_values", whole if kind == "torch" else whole.numpy(), 0)
    part = own.tensor[start:stop]
    by_memory = view_rows(part, own)

    assert by_memory is not None
    assert whole_rows(part, own) == [*by_memory[0]] == [*range(start, stop)]


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[3:3],
        lambda x: x[1],
        lambda x: x[::2],
        lambda x: x[:, :2],
        lambda x: x[:, 1:],
        lambda x: x.T,
        lambda x: x.flatten()[1:9].view(2, 4),
        lambda x: x[1:3].clone(),
        lambda x: x[1:3].view(torch.int32),
        lambda x: x[1:3].numpy(),
        lambda x: torch._neg_view(x[1:3]),
        lambda x: torch.nn.Parameter(x[1:3]),
        lambda x: x[1:3].to("meta"),
    ],
    ids=[
        *("no rows", "one row", "every other row", "first columns", "last columns", "turned"),
        *("begins inside a row", "copy", "other dtype", "array", "negated", "parameter", "meta"),
    ],
)
def test_other_views_are_left_to_a_closer_look(view):
    whole = torch.arange(24.0).view(6, 4)

    assert whole_rows(view(whole), parent("pixel_values", whole, 0)) is None


def test_whole_rows_are_nobodys_after_a_write():
    whole = torch.arange(24.0).view(6, 4)
    own = parent("pixel_values", whole, 0)
    whole[0] = 0

    assert whole_rows(whole[1:3], own) is None


def test_field_of_records_is_known_by_its_values():
    """Its rows are no whole number of elements apart, so addresses would name other rows."""
    whole = vd.make_batch("llava", [0] * 6).inputs["input_ids"].numpy()
    records = np.zeros(whole.shape, dtype=[("ids", "i8"), ("type", "i4")])
    records["ids"] = whole
    own = parent("input_ids", records["ids"], 0)

    for row in range(6):
        part = own.tensor[row : row + 1]
        assert whole_rows(part, own) is view_rows(part, own) is None
