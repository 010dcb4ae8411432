"""Models that take exactly one image per sample: their models are the judge, as of all others.

Text and pixels have the same rows there, so that a slice by sample is right. Wrong are rows of
other samples, and more or fewer than the samples of a chunk.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from architectures import architectures, built
from test_loudness import ROWS, bounds, judged, runs

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.core.keys import pixels_of
from vlmdebug.families import ONE_IMAGE, find_family
from vlmdebug.tiny import registry

OWN_LAYOUT = {"kosmos-2.5", "instructblipvideo", "fuyu"}
ALIKE = (160, 160)
"""A size of all images, so that those of another sample have as many features."""
TILES = {"got_ocr2", "pp_chart2table"}
"""Models with one row per tile, of which each image is one here."""


@pytest.fixture(params=architectures(registry.ONE_IMAGE))
def family(request):
    return request.param


def batch_of(family, samples=3, *, seed=0, side="right", sizes=None):
    model, processor = built(family)
    images = [1] * samples
    given = {"num_images": images} if family in TILES else {}
    inputs = vd.tiny.batch(family, images, sizes=sizes, seed=seed, padding_side=side)
    return vd.read_batch(inputs, processor=processor, config=model.config, **given)


def by_plan(batch):
    return lambda _, chunk_size: batch.chunks(chunk_size)


def rows_of(batch, key, first, last):
    """The rows that samples `first:last` own: one each, or Fuyu's patches."""
    start, stop = bounds(batch, key, first, last)
    return batch.inputs[key][start:stop]


def shifted(batch, key):
    """Right chunks, but for one key with the rows of the next sample."""

    def slicer(inputs, chunk_size):
        for index, chunk in enumerate(batch.chunks(1)):
            other = (index + 1) % len(batch)
            yield {**chunk, key: rows_of(batch, key, other, other + 1)}

    return slicer


def test_each_has_the_layout_of_one_image_or_of_tiles(family):
    expected = "internvl" if family in TILES else ONE_IMAGE.name
    expected = family if family in OWN_LAYOUT else expected

    assert batch_of(family).layout.family == expected


@pytest.mark.parametrize("side", ["left", "right"])
def test_correct_chunks_leave_the_logits_as_they_are(family, side):
    if family.startswith("kosmos") and side == "left":
        pytest.skip("its processor places the image for padding on the right")
    batch, model = batch_of(family, side=side), built(family)[0]
    assert vd.check(batch).ok
    for chunk_size in (1, 2, 3):
        for slicer in (by_plan(batch), slicers.corrected, vd.export(batch).function):
            assert vd.prove(slicer, batch, model, chunk_size=chunk_size).ok
            assert vd.check(slicer, batch, chunk_size=chunk_size).ok


def test_rows_of_another_sample_are_a_mismatch_and_change_the_logits(family):
    batch, model = batch_of(family, sizes=ALIKE), built(family)[0]
    slicer = shifted(batch, pixels_of(batch.layout.media))
    report, proof = vd.check(slicer, batch), vd.prove(slicer, batch, model)

    assert {(m.key, m.silent) for m in report.mismatches} == {(pixels_of(batch.layout.media), True)}
    assert proof.error is None
    assert proof.silent_samples == (0, 1, 2)


def test_key_is_needed_where_the_model_misses_it(family):
    batch, model = batch_of(family), built(family)[0]
    for key in batch.layout.keys() - {"input_ids"}:

        def without(inputs, chunk_size, key=key):
            for chunk in batch.chunks(chunk_size):
                yield {name: value for name, value in chunk.items() if name != key}

        report, proof = vd.check(without, batch), vd.prove(without, batch, model)
        said = {mismatch.silent for mismatch in report.mismatches}

        assert report.ok == proof.ok, (key, report, proof)
        assert None in said or (False in said) == (proof.error is not None), (key, proof)


def test_each_mistake_is_as_loud_as_the_model_or_not_known(family):
    model, dice = built(family)[0], random.Random(family)
    said, wrong = Counter(), []
    for _ in range(5):
        batch = batch_of(family, dice.choice([2, 3, 4]), seed=dice.randint(0, 9))
        size = dice.randint(1, 3)
        chunks = [dict(chunk) for chunk in batch.chunks(size)]
        for _ in range(8):
            index, name = dice.randrange(len(chunks)), dice.choice([*ROWS])
            key = dice.choice([key for key in batch.layout if key != "input_ids"])
            first, last = index * size, min((index + 1) * size, len(batch))
            ends = bounds(batch, key, first, last)
            call = {**chunks[index], key: ROWS[name](batch.inputs[key], *ends, dice)}
            does = runs(model, call)
            for m in judged(batch, chunks, index, call):
                said[m.silent] += 1
                if m.silent is not None and m.silent is not does:
                    wrong.append((key, name, size, m.code, m.silent, m.message.split("\n")[0]))

    assert not wrong
    assert said[None] <= sum(said.values()) / 3, said


def test_watch_accepts_right_calls_and_finds_a_wrong_one(family):
    batch, (model, processor) = batch_of(family, sizes=ALIKE), built(family)
    with vd.watch(model, processor=processor, on_mismatch="record") as right, torch.no_grad():
        for chunk in batch.chunks(1):
            model(**chunk)
    with vd.watch(model, processor=processor, on_mismatch="record") as wrong, torch.no_grad():
        for chunk in shifted(batch, pixels_of(batch.layout.media))(None, 1):
            model(**chunk)

    assert right.ok
    assert not wrong.ok


@pytest.mark.parametrize("counts", [[2, 0, 1], [0], [1, 2]], ids=str)
def test_other_numbers_of_images_are_refused(family, counts):
    with pytest.raises(vd.BadInput, match="exactly one image per sample"):
        vd.tiny.batch(family, counts)


def test_weights_are_tiny_and_a_swapped_image_shows(family):
    model, key = built(family)[0], pixels_of(batch_of(family).layout.media)
    inputs = dict(batch_of(family).inputs)
    with torch.no_grad():
        moved = model(**{**inputs, key: inputs[key].flip(0)}).logits
        assert (moved - model(**inputs).logits).abs().max() > 0.1

    assert sum(weight.numel() for weight in model.parameters()) < 1_500_000
    assert type(model).__module__.startswith("transformers.models.")


@pytest.mark.parametrize("name", architectures(["fuyu"]))
def test_fuyu_takes_texts_without_an_image_and_its_older_key(name):
    """Its processor returns `image_patches` by default, which its model takes for the pixels."""
    model, processor = built(name)
    first, _, last = vd.tiny.images([1, 1, 1], ALIKE)
    given = {"images": [first, [], last], "text": ["A cat.", "No.", "What?"], "padding": True}
    inputs = dict(processor(**given, return_tensors="pt", return_legacy_image_output=False))
    older = {"image_patches" if key == "pixel_values" else key: inputs[key] for key in inputs}
    for made in (inputs, older):
        batch = vd.read_batch(made, processor=processor, config=model.config)

        assert batch.counts["image"] == (1, 0, 1)
        assert vd.check(batch).ok
        for size in (1, 2, 3):
            assert vd.prove(by_plan(batch), batch, model, chunk_size=size).ok
            assert not vd.check(slicers.by_sample, batch, chunk_size=size).ok or size == 3
    with pytest.raises(vd.BadInput, match="at most one image per sample"):
        vd.read_batch(inputs, processor=processor, num_images=[2, 0, 0])


def test_num_images_other_than_one_is_refused():
    processor = built("blip")[1]
    inputs = vd.tiny.batch("blip", processor=processor)
    with pytest.raises(vd.BadInput, match="exactly one image per sample"):
        vd.read_batch(inputs, processor=processor, num_images=[2, 0, 1])


def test_made_batch_has_one_image_per_sample():
    batch = vd.make_batch("blip", [1, 1])

    assert batch.layout.family == "one_image"
    assert find_family("blip_2") is ONE_IMAGE
    with pytest.raises(vd.BadInput, match="exactly one image per sample"):
        vd.make_batch("blip", [2, 0])


def test_lost_images_are_doubted_where_nothing_names_their_placeholder():
    if "pp_chart2table" not in architectures(["pp_chart2table"]):
        return
    model, processor = built("pp_chart2table")
    inputs = dict(vd.tiny.batch("pp_chart2table", [1, 1]))
    lost = {key: inputs[key] for key in ("input_ids", "attention_mask")}

    (doubt,) = vd.check(lost, processor=processor).ambiguities
    assert doubt.startswith("The batch has no images, and the processor does not say which token")
    assert vd.check(lost, processor=processor, config=model.config).verdict == "MISMATCH"
    (advice,) = vd.check(inputs, processor=processor).ambiguities
    assert "Pass config= or num_tiles=[" in advice
    assert vd.check(inputs, processor=processor, config=model.config).ok


@pytest.mark.parametrize("family", architectures(["blip-2", "instructblip"]))
@pytest.mark.parametrize("more", [1, 3])
def test_surplus_rows_of_a_whole_batch_are_not_called_loud(family, more):
    model, processor = built(family)
    inputs = dict(vd.tiny.batch(family, [1, 1, 1]))
    pixels = inputs["pixel_values"]
    wrong = {**inputs, "pixel_values": torch.cat([pixels, pixels[:more]])}
    runs = family == "blip-2"  # InstructBLIP's Q-Former pairs its text with the images

    report = vd.check(wrong, processor=processor, config=model.config)
    assert [(one.code, one.key, one.silent) for one in report.mismatches] == [
        ("VLM010", "pixel_values", None)
    ]
    if runs:
        with torch.no_grad():
            assert model(**wrong).logits.shape[0] == 3
    else:
        with pytest.raises((ValueError, RuntimeError)):
            model(**wrong)


def passed(batch, **changes):
    """The first chunk of one sample with these keys, and the report on it."""

    def slicer(_, chunk_size):
        for index, chunk in enumerate(batch.chunks(chunk_size)):
            yield {**chunk, **changes} if index == 0 else chunk

    return next(iter(slicer(None, 1))), vd.check(slicer, batch)


@pytest.mark.parametrize("key", ["qformer_input_ids", "qformer_attention_mask", "input_ids"])
def test_shapes_that_a_q_former_takes_are_not_called_loud(key):
    batch, (model, _) = batch_of("instructblip"), built("instructblip")
    value = batch.inputs[key][:1]
    chunk, report = passed(batch, **{key: value[0] if key == "input_ids" else value[:, :-1]})

    with torch.no_grad():
        assert len(model(**chunk).logits) == 1
    assert report.verdict == "MISMATCH"
    assert False not in {one.silent for one in report.mismatches}
