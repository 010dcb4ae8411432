"""Models with the tiles of all images in a tensor of their own, and PerceptionLM's tiles."""

from __future__ import annotations

import pytest
import torch
from architectures import architectures

import vlmdebug as vd

pytest.importorskip("transformers")

NAMES = architectures(["deepseek_ocr2", "step3p7"])
MIXED = [(40, 40), (200, 100), (40, 40)]
"""Images of which only the second has tiles."""


def read(name, built, sizes):
    model, processor = built[name]
    inputs = vd.tiny.batch(name, [2, 0, 1], sizes=sizes)
    return vd.read_batch(inputs, processor=processor, config=model.config), model


def planned(batch):
    return lambda _, chunk_size: batch.chunks(chunk_size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sizes", [(40, 40), MIXED], ids=["no tiles", "some"])
def test_images_without_tiles_are_right_without_them(name, sizes, built):
    batch, model = read(name, built, sizes)
    code = vd.export(batch).function

    assert vd.check(batch).ok
    for chunk_size in (1, 2, 3):
        for slicer in (planned(batch), vd.slicers.corrected, code):
            assert vd.check(slicer, batch, chunk_size=chunk_size).ok
            assert vd.prove(slicer, batch, model, chunk_size=chunk_size).ok


@pytest.mark.parametrize("name", NAMES)
def test_tiles_that_a_batch_lost_are_found(name, built):
    batch, model = read(name, built, MIXED)
    inputs = {key: value for key, value in batch.inputs.items() if key != "pixel_values_local"}
    report = vd.check(inputs, processor=built[name][1], config=model.config)

    with pytest.raises((TypeError, ValueError)):
        model(**inputs)
    assert ("VLM003", False) in {(one.code, one.silent) for one in report.mismatches}


@pytest.mark.parametrize("name", NAMES)
def test_only_chunks_with_tiles_need_the_counts_of_tiles(name, built):
    batch, model = read(name, built, MIXED)

    def without(*, zeros_only):
        for chunk in batch.chunks(1):
            counts = chunk.pop("num_local_patches", None)
            if zeros_only and counts is not None and counts.any():
                chunk["num_local_patches"] = counts
            yield chunk

    assert vd.check(lambda *_: without(zeros_only=True), batch).ok
    assert vd.prove(lambda *_: without(zeros_only=True), batch, model).ok
    report = vd.check(lambda *_: without(zeros_only=False), batch)
    assert [(one.chunk, one.code, one.silent) for one in report.mismatches] == [
        (0, "VLM003", False)
    ]
    assert not vd.prove(lambda *_: without(zeros_only=False), batch, model).ok


WRONG_ROWS = [
    ("pixel_values", slice(0, 1)),
    ("pixel_values", slice(0, 2)),
    ("pixel_values", slice(0, 0)),
    ("pixel_values_local", slice(0, 1)),
    ("pixel_values_local", slice(None)),
    ("pixel_values_local", slice(0, 0)),
    ("num_local_patches", slice(0, 2)),
    ("num_local_patches", slice(1, 2)),
    ("num_local_patches", slice(0, 0)),
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("key", "rows"), WRONG_ROWS)
def test_wrong_rows_of_a_chunk_without_tiles_are_as_loud_as_the_model(name, key, rows, built):
    batch, model = read(name, built, MIXED)
    chunks = [dict(chunk) for chunk in batch.chunks(1)]
    chunks[2][key] = batch.inputs[key][rows]
    report = vd.check(lambda *_: iter(chunks), batch)
    try:
        model(**chunks[2])
    except Exception:
        runs = False
    else:
        runs = True

    assert {(one.chunk, one.key, one.silent) for one in report.mismatches} == {(2, key, runs)}


@pytest.mark.parametrize("name", NAMES)
def test_counts_with_a_dimension_more_are_loud_only_where_the_model_raises(name, built):
    batch, model = read(name, built, MIXED)
    first = dict(next(batch.chunks(1)))
    first["num_local_patches"] = first["num_local_patches"][:, None]
    chunks = [first, *list(batch.chunks(1))[1:]]
    (found,) = vd.check(lambda *_: iter(chunks), batch).mismatches
    try:
        model(**first)
    except Exception:
        silent = False
    else:
        silent = None

    assert (found.code, found.key, found.silent) == ("VLM011", "num_local_patches", silent)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "change",
    [torch.Tensor.float, torch.neg, lambda counts: counts * 2**40],
    ids=["float", "-", "*"],
)
def test_counts_that_cannot_be_are_refused_by_name(name, change, built):
    batch, model = read(name, built, MIXED)
    inputs = {**batch.inputs, "num_local_patches": change(batch.inputs["num_local_patches"])}

    with pytest.raises(
        vd.BadInput, match=r"num_local_patches\[[01]\] is .* whole numbers, 0 or more"
    ):
        vd.read_batch(inputs, config=model.config)


@pytest.mark.parametrize("name", architectures(["perception_lm"]))
def test_images_with_as_many_tiles_each_are_right(name):
    model, processor = vd.tiny.build(name)
    processor.image_processor.vision_input_type = "thumb+tile"
    inputs = vd.tiny.batch(name, [2, 0, 1], sizes=(200, 100), processor=processor)
    batch = vd.read_batch(inputs, processor=processor, config=model.config)

    assert inputs["pixel_values"].shape[1] > 1
    assert vd.check(batch).ok
    for chunk_size in (1, 2, 3):
        assert vd.prove(planned(batch), batch, model, chunk_size=chunk_size).ok
