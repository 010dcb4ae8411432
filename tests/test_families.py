"""The models are the judge of what the families say.

For every architecture that `vlmdebug.tiny` builds: correct chunks change no logit, and for
chunks that are wrong on purpose the model raises where `check` says loud and runs on where it
says silent. Where `check` says neither, it must at least have seen the mismatch.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from architectures import REFUSES_TEXT, UNMARKED, architectures
from hypothesis import given, settings
from hypothesis import strategies as st

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.families import EVERY, find_family
from vlmdebug.tiny import registry

SIZES = [(200, 100), (100, 200), (160, 160), (100, 300)]
# One or two of each layout, where the run has them.
DRAWN = [
    name
    for name in architectures()
    if name
    in (
        *("gemma4", "qwen2_5_vl", "qwen3_vl", "glm4v", "video_llama_3", "idefics3", "smolvlm"),
        *("idefics2", "mllama", "internvl", "ovis2", "llava_next", "llava_onevision", "llava"),
        *("gemma3", "lighton_ocr", "lfm2_vl", "mistral3", "llama4", "kimi_k25", "nemotron_h_omni"),
    )
]
CLOSE = 1e-4  # rounding between a whole batch and a chunk; a wrong image moves logits by 0.1 and up


def batch_of(family, built, images, *, seed=0, side=None):
    """A real batch; images per sample are given where the text cannot tell them."""
    dice = random.Random(seed)
    sizes = [dice.choice(SIZES) for _ in range(sum(images))] or None
    inputs = vd.tiny.batch(family, images, sizes=sizes, seed=seed, padding_side=side)
    model, processor = built[family]
    return vd.read_batch(inputs, processor=processor, config=model.config)


@pytest.fixture(params=architectures())
def family(request):
    return request.param


def test_every_tiny_model_has_a_family_and_every_family_a_tiny_model():
    known = {model for found in EVERY for model in found.models}

    assert known == set(registry.known())


@pytest.mark.parametrize("images", [(2, 0, 1), (1, 2, 1, 0), (0, 3), (1,)], ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_counts_are_those_the_processor_was_given(family, built, images, side):
    batch = batch_of(family, built, images, side=side)

    assert tuple(batch.counts["image"]) == images
    assert not batch.ambiguities
    assert vd.check(batch).ok


@pytest.mark.parametrize("images", [(2, 0, 1), (1, 2, 1, 0), (0, 1), (0, 0)], ids=str)
def test_correct_chunks_leave_the_logits_as_they_are(family, built, images):
    if family in REFUSES_TEXT and not any(images):
        pytest.skip("its processor refuses a batch without images")
    batch, model = batch_of(family, built, images), built[family][0]
    exported = vd.export(batch).function if any(images) else slicers.corrected
    for chunk_size in range(1, len(images) + 1):
        proven = None
        for slicer in (lambda _, size: batch.chunks(size), exported, slicers.corrected):
            chunks = list(slicer(batch.for_slicer(), chunk_size))
            if proven is None or not alike(chunks, proven):  # equal chunks give equal logits
                proof = vd.prove(slicer, batch, model, chunk_size=chunk_size)
                proven = chunks

                assert proof.ok, proof
            assert vd.check(slicer, batch, chunk_size=chunk_size).ok


def alike(chunks, others):
    """Whether two lists of chunks have the same keys and tensors."""
    return len(chunks) == len(others) and all(
        chunk.keys() == other.keys()
        and all(torch.equal(value, other[key]) for key, value in chunk.items())
        for chunk, other in zip(chunks, others, strict=True)
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_exported_code_needs_no_counts_beside_what_the_processor_returned(family, built, side):
    batch = batch_of(family, built, (2, 0, 1), side=side)
    chunks = list(vd.export(batch).function(dict(batch.inputs), 1))

    for chunk, planned in zip(chunks, batch.chunks(1), strict=True):
        assert chunk.keys() == planned.keys()
        assert all(torch.equal(chunk[key], value) for key, value in planned.items())


@pytest.mark.parametrize("images", [(2, 0, 1), (1, 2)], ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_key_is_called_dropped_where_the_model_misses_it(family, built, images, side):
    """Types of tokens come with every batch here, also where the model makes nothing of them."""
    batch, model = batch_of(family, built, images, side=side), built[family][0]
    types = {"mm_token_type_ids": (batch.inputs["input_ids"] == batch.image.token_id).long()}
    batch = vd.read_batch({**types, **batch.inputs}, config=model.config, num_images=images)
    for key in batch.layout:
        if key == "input_ids":
            continue

        def without(inputs, chunk_size, key=key):
            for chunk in batch.chunks(chunk_size):
                yield {name: value for name, value in chunk.items() if name != key}

        report, proof = vd.check(without, batch), vd.prove(without, batch, model)
        said = {mismatch.silent for mismatch in report.mismatches}

        assert report.ok == proof.ok, (key, report, proof)
        assert {m.code for m in report.mismatches} <= {"VLM003"}
        assert None in said or (False in said) == (proof.error is not None), (key, proof)


def trimmed(batch, other=None):
    """Chunks of one sample without its padding; key `other` loses columns of the other end."""
    tokens = [key for key in batch.layout if key not in batch.layout.media]

    def slicer(inputs, chunk_size):
        for chunk in batch.chunks(1):
            places = chunk["attention_mask"][0].nonzero()
            first, stop = int(places[0]), int(places[-1]) + 1
            for key in chunk.keys() & {*tokens, "cross_attention_mask"}:
                width = chunk[key].shape[1]
                ends = (width - stop, width - first) if key == other else (first, stop)
                chunk[key] = chunk[key][:, slice(*ends)]
            yield chunk

    return slicer


@pytest.mark.parametrize("side", ["left", "right"])
def test_columns_are_called_others_where_the_model_misses_its_own(family, built, side):
    images = (2, 1, 1) if family in REFUSES_TEXT else (2, 0, 1)
    texts = ["Look at these two pictures, please.", "No image.", "Hm?"]
    inputs = vd.tiny.batch(family, images, texts=texts, padding_side=side)
    model, processor = built[family]
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    if not vd.prove(trimmed(batch), batch, model).ok:
        pytest.skip("how far a token is from the first column matters to this model")

    assert vd.check(trimmed(batch), batch).ok
    for key in batch.layout.keys() - batch.layout.media.keys() - {"input_ids", "labels"}:
        slicer = trimmed(batch, key)
        report, proof = vd.check(slicer, batch), vd.prove(slicer, batch, model)
        said = {mismatch.silent for mismatch in report.mismatches}

        assert report.ok == proof.ok, key
        assert None in said or (False in said) == (proof.error is not None), (key, proof)


def test_config_alone_counts_as_the_processor_does(family, built):
    model, _ = built[family]
    images = (2, 0, 1)
    batch = batch_of(family, built, images)
    by_config = vd.read_batch(batch.inputs, config=model.config, num_images=images)
    if family in UNMARKED:
        assert vd.check(by_config).verdict == "AMBIGUOUS"
        return

    assert by_config.layout == batch.layout
    assert by_config.image.placeholders == batch.image.placeholders
    assert by_config.counts == batch.counts


@pytest.mark.parametrize("side", ["right", "left"])
def test_synthesized_batch_has_the_layout_of_the_real_one(family, side, built):
    inputs = vd.tiny.batch(family, (2, 0, 1), padding_side=side)
    model, processor = built[family]
    real = vd.read_batch(inputs, processor=processor, config=model.config)
    known = find_family(family)
    assert known is not None
    made = vd.make_batch(
        known.name,
        [2, 0, 1],
        [known.sizes[i % len(known.sizes)] for i in range(3)],
        padding_side=side,
    )

    for key in made.layout.media:
        assert made.layout[key] == real.layout[key]
        assert made.inputs[key].ndim == real.inputs[key].ndim or "..." in known.shapes[key]
        assert made.inputs[key].is_floating_point() == real.inputs[key].is_floating_point()
    sometimes = known.rules.sometimes_returned
    assert set(real.layout.media) - sometimes == set(made.layout.media) - sometimes
    assert set(made.counts) | {"image"} >= set(real.counts)
    assert padded_sides(made) == padded_sides(real)


def padded_sides(batch):
    """Where the keys along the tokens have no token: before a sample's own or after them."""
    mask = batch.inputs["attention_mask"]
    begins, ends = mask[:, 0].eq(0), mask[:, -1].eq(0)
    types = batch.inputs.get("mm_token_type_ids")
    assert types is None or not types[mask == 0].any()
    return bool(begins.any()), bool(ends.any())


@st.composite
def real_batches(draw):
    """What a real processor makes of drawn images: any counts, any sizes, either padding side."""
    family = draw(st.sampled_from(DRAWN))
    images = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4).filter(any))
    side = st.integers(40, 260)
    sizes = draw(st.lists(st.tuples(side, side), min_size=sum(images), max_size=sum(images)))
    padding = draw(st.sampled_from(["left", "right"]))
    return family, images, sizes, padding


@pytest.mark.slow
@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(real_batches())
def test_any_counts_and_sizes_are_read_and_cut_rightly(built, drawn):
    family, images, sizes, side = drawn
    model, processor = built[family]
    inputs = vd.tiny.batch(
        family, images, sizes=sizes, padding_side=side, texts=["Look."] * len(images)
    )
    batch = vd.read_batch(inputs, processor=processor, config=model.config)

    assert list(batch.counts["image"]) == images
    assert vd.check(batch).ok
    for chunk_size in range(1, len(images) + 1):
        proof = vd.prove(lambda _, size: batch.chunks(size), batch, model, chunk_size=chunk_size)
        assert proof.ok, proof


# --- sabotage ------------------------------------------------------------------------------


def rows(batch, key, first, last):
    """The rows that samples `first:last` own."""
    offsets = batch.counts[batch.layout[key].unit].offsets
    return offsets[first], offsets[last]


def all_media(change):
    """A sabotage of every media key: `change(tensor, start, stop, first, last)`."""

    def sabotage(batch, chunk, first, last):
        for key in batch.layout.media:
            if key in chunk:
                tensor = batch.inputs[key]
                chunk[key] = change(tensor, *rows(batch, key, first, last), first, last)
        return chunk

    return sabotage


def only(which, change):
    """A sabotage of the pixels alone, or of all that describes them."""

    def sabotage(batch, chunk, first, last):
        for key in batch.layout.media:
            if key in chunk and (key == "pixel_values") is (which == "pixels"):
                tensor = batch.inputs[key]
                chunk[key] = change(tensor, *rows(batch, key, first, last), first, last)
        return chunk

    return sabotage


def back(tensor, start, stop, *_):
    return tensor[max(0, start - 1) : max(0, start - 1) + stop - start]


def dropping(name):
    def sabotage(batch, chunk, first, last):
        chunk.pop(name, None)
        return chunk

    return sabotage


def no_media(batch, chunk, first, last):
    return {key: value for key, value in chunk.items() if key not in batch.layout.media}


def empty_media(batch, chunk, first, last):
    return {**chunk, **{key: batch.inputs[key][:0] for key in batch.layout.media}}


def other_rows(name):
    def sabotage(batch, chunk, first, last):
        if name in chunk:
            chunk[name] = batch.inputs[name].roll(1, 0)[first:last]
        return chunk

    return sabotage


def stale_key(batch, chunk, first, last):
    return {**chunk, "pixel_position_ids": batch.inputs["attention_mask"][first:last]}


SABOTAGE = {
    "shifted by one row": all_media(lambda t, a, b, *_: t[min(a + 1, len(t)) : min(b + 1, len(t))]),
    "shifted back, same length": all_media(back),
    "one row too many": all_media(lambda t, a, b, *_: torch.cat([t[a:b], t[a : a + 1]])),
    "one row too few": all_media(lambda t, a, b, *_: t[a : b - 1]),
    "rows reversed": all_media(lambda t, a, b, *_: t[a:b].flip(0)),
    "whole batch": all_media(lambda t, *_: t),
    "last rows of the batch": all_media(lambda t, a, b, *_: t[len(t) - (b - a) :]),
    "cut per sample": all_media(lambda t, a, b, first, last: t[first:last]),
    "pixels of a neighbour": only("pixels", back),
    "description of a neighbour": only("description", back),
    "all pixels, own description": only("pixels", lambda t, *_: t),
    "one row of pixels": only("pixels", lambda t, a, *_: t[a : a + 1]),
    "no media": no_media,
    "empty media": empty_media,
    "token types of another": other_rows("mm_token_type_ids"),
    "mask of another": other_rows("attention_mask"),
    "stale key": stale_key,
}


def sabotaged(batch, sabotage):
    def slicer(inputs, chunk_size):
        for index, chunk in enumerate(batch.chunks(chunk_size)):
            first = index * chunk_size
            yield sabotage(batch, dict(chunk), first, min(first + chunk_size, len(batch)))

    return slicer


def what_the_model_does(model, batch, chunk, first, whole):
    """`raises`, `same`, or `differs`: the chunk's logits beside the whole batch's."""
    try:
        with torch.no_grad():
            logits = model(**chunk).logits
    except Exception:
        return "raises"
    for row, of_sample in enumerate(logits):
        real = batch.inputs["attention_mask"][first + row].bool()
        if of_sample.shape != whole[first + row].shape:
            return "differs"
        if (of_sample[real] - whole[first + row][real]).abs().max() > CLOSE:
            return "differs"
    return "same"


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.long)])
def test_model_raises_where_check_says_loud_and_runs_where_it_says_silent(family, built, seed):
    model = built[family][0]
    dice = random.Random(seed)
    judged = Counter()
    for images in [(2, 0, 1), (1, 1, 2), *[tuple(dice.choices((0, 1, 2, 3), k=3))]]:
        batch = batch_of(family, built, images, seed=seed, side=dice.choice(["left", "right"]))
        with torch.no_grad():
            whole = model(**batch.inputs).logits
        drops = {f"no {key}": dropping(key) for key in batch.layout if key != "input_ids"}
        for name, sabotage in {**SABOTAGE, **drops}.items():
            slicer = sabotaged(batch, sabotage)
            chunk_size = dice.randint(1, 3)
            report = vd.check(slicer, batch, chunk_size=chunk_size)
            for index, chunk in enumerate(slicer(None, chunk_size)):
                found = [m for m in report.mismatches if m.chunk == index]
                does = what_the_model_does(model, batch, chunk, index * chunk_size, whole)
                where = (name, images, chunk_size, index, does, [(m.code, m.silent) for m in found])
                said = {m.silent for m in found}
                judged["unknown" if None in said else "told"] += bool(found)

                assert found or does == "same", where
                assert None in said or not found or (False in said) == (does == "raises"), where

    assert judged["told"] > 30
    # LLaVA-OneVision: what an image becomes depends on the very numbers that were cut wrongly.
    most = judged["told"] / (2 if family == "llava_onevision" else 5)
    assert judged["unknown"] < most


def test_what_describes_images_is_not_looked_at_where_there_are_no_pixels(family, built):
    """A text-only chunk may be handed another sample's grids or sizes, if no pixels come along."""
    batch, model = batch_of(family, built, (0, 2)), built[family][0]
    of_images = [key for key in batch.image.keys if batch.layout[key].unit != "sample"]
    rules = batch.layout.rules
    left = [key for key in of_images if rules.of(key).when_no_media == "either"]
    left = [key for key in left if key != "pixel_values"]

    def left_over(inputs, chunk_size):
        text, images = batch.chunks(1)
        yield {**text, **{key: inputs[key][:1] for key in left}}
        yield images

    assert vd.check(left_over, batch).ok
    assert vd.prove(left_over, batch, model).ok
