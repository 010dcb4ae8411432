"""What `check` finds, each with a slicer that it must find and a twin that it must pass."""

from __future__ import annotations

import pytest
import torch
from architectures import architectures
from transformers import BatchFeature

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.running.check import TrackedInputs
from vlmdebug.slicers import STORY

IMAGES_104 = [*((2, 0, 3, 1, 2)[sample % 5] for sample in range(63)), 3]


@pytest.fixture
def batch():
    return vd.make_batch("gemma4", [1, 2, 0, 1], [2, 1, 1, 2])


def changing(batch, change):
    """A right slicer, each of whose chunks is changed: `change(chunk, index)`."""

    def slicer(inputs, chunk_size):
        for index, chunk in enumerate(batch.chunks(chunk_size)):
            yield change(chunk, index)

    return slicer


def codes(report):
    return {mismatch.code for mismatch in report.mismatches}


def test_right_slicer_is_right_in_every_chunk_size(batch):
    for chunk_size in range(1, 6):
        report = vd.check(slicers.corrected, batch, chunk_size=chunk_size)

        assert report.ok
        assert report.verdict == "OK"
        report.raise_for_mismatch()


@pytest.mark.parametrize(
    "as_used",
    [
        lambda inputs: inputs,
        lambda inputs: inputs.to("cpu"),
        lambda inputs: inputs.to(torch.device("cpu"), torch.bfloat16),
        lambda inputs: inputs.to(torch.float64),
        lambda inputs: inputs.to(device="cpu", non_blocking=True),
        lambda inputs: inputs.data,
        lambda inputs: inputs.copy(),
        lambda inputs: {**inputs},
    ],
)
def test_inputs_are_used_as_what_a_processor_returns_is(batch, as_used):
    real = BatchFeature({**batch.inputs})

    def by_sample(inputs, chunk_size):
        inputs = as_used(inputs)
        for start in range(0, len(inputs["input_ids"]), chunk_size):
            yield {key: inputs[key][start : start + chunk_size] for key in batch.layout}

    def corrected(inputs, chunk_size):
        return slicers.corrected(as_used(inputs), chunk_size)

    assert vd.check(corrected, batch).ok
    assert {m.key for m in vd.check(by_sample, batch).mismatches} == set(batch.layout.media)
    used, given = as_used(TrackedInputs(real)), as_used(real)
    assert {key: used[key].dtype for key in real} == {key: given[key].dtype for key in real}


def test_names_asked_for_in_vain_are_known_whatever_they_are_asked_of(batch):
    asked = TrackedInputs(batch.inputs)

    assert asked.copy().to("cpu").get("pixel_position_ids") is None
    assert not hasattr(asked.data, "stale")
    assert [*asked.missing_lookups] == ["pixel_position_ids", "stale"]


# --- one code each -------------------------------------------------------------------------


def test_wrong_rows_of_another_number_are_loud(batch):
    more = changing(batch, lambda c, i: {**c, "pixel_values": batch.inputs["pixel_values"]})
    report = vd.check(more, batch, chunk_size=2)
    first = report.mismatches[0]

    assert (first.code, first.key, first.chunk, first.samples) == (
        "VLM001",
        "pixel_values",
        0,
        (0, 1),
    )
    assert (first.planned, first.used, first.silent) == (range(3), range(4), False)


def test_wrong_rows_of_tokens_are_not_called_pixels(batch):
    masks = batch.inputs["attention_mask"]
    masks[3, 0] = 0
    other = changing(batch, lambda c, i: {**c, "attention_mask": masks[[3]]} if i == 0 else c)
    (finding,) = vd.check(other, batch).findings

    assert "the model will not raise: it reads the wrong tokens.\n" in finding.message


def test_wrong_rows_of_the_same_number_are_silent(batch):
    pixels = batch.inputs["pixel_values"]
    swapped = changing(
        batch,
        lambda c, i: {**c, "pixel_values": pixels[[3]]} if i == 0 else c,
    )
    report = vd.check(swapped, batch)

    assert [(m.code, m.chunk, m.silent) for m in report.mismatches] == [("VLM002", 0, True)]
    assert report.mismatches[0].message == (
        "sample 0 was given pixel_values[3:4] (1 row: image D1 of sample 3) "
        "but owns pixel_values[0:1] (1 row: image A1 of sample 0).\n"
        "Both are the same length, so the model will not raise: it sees the wrong pixels.\n"
        "Cut pixel_values per image; vlmdebug.export(batch) writes that code."
    )


@pytest.mark.parametrize(
    ("key", "silent"),
    [("pixel_values", True), ("image_position_ids", False), ("mm_token_type_ids", True)],
)
def test_dropped_key_is_found(batch, key, silent):
    report = vd.check(
        changing(batch, lambda c, i: {k: v for k, v in c.items() if k != key}), batch, chunk_size=4
    )

    assert [(m.code, m.key, m.silent) for m in report.mismatches] == [("VLM003", key, silent)]


def test_none_is_as_good_as_no_key_where_no_image_is(batch):
    none = {"pixel_values": None, "image_position_ids": None}
    padded = changing(batch, lambda c, i: {**none, **c})

    assert vd.check(padded, batch).ok


def test_mask_that_hides_nothing_may_be_left_out():
    real = vd.tiny.batch("gemma4", [1, 1], padding_side="left")
    batch = vd.read_batch(real, processor=vd.tiny.build("gemma4")[1])
    lengths = batch.inputs["attention_mask"].sum(dim=1)
    report = vd.check(
        changing(batch, lambda c, i: {k: v for k, v in c.items() if k != "attention_mask"}), batch
    )

    assert lengths[0] != lengths[1]
    assert [(m.key, m.chunk) for m in report.mismatches] == [
        ("attention_mask", int(lengths.argmin()))
    ]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "glm4v"])
@pytest.mark.parametrize(("kind", "right"), [("places of M-RoPE", True), ("of text", False)])
def test_types_are_not_missed_beside_the_places_they_are_for(family, kind, right):
    """verl and others work position_ids out themselves and pass no types on."""
    model, processor = vd.tiny.build(family)
    batch = vd.read_batch(vd.tiny.batch(family, [2, 0, 1]), processor=processor)

    def placed(chunk, index):
        types, ids = chunk.pop("mm_token_type_ids"), chunk["input_ids"]
        grid, mask = chunk.get("image_grid_thw"), chunk["attention_mask"]
        places, _ = model.model.get_rope_index(ids, types, grid, attention_mask=mask)
        return {**chunk, "position_ids": places if right else mask.cumsum(1) - 1}

    slicer = changing(batch, placed)
    report, proof = vd.check(slicer, batch), vd.prove(slicer, batch, model)

    assert (report.ok, proof.ok) == (right, right)
    if not right:
        assert [(m.key, m.code) for m in report.mismatches[:2]] == [
            ("mm_token_type_ids", "VLM003"),
            ("position_ids", "VLM014"),
        ]
        assert proof.error is None


@pytest.mark.parametrize("both_ways", [True, False])
def test_types_are_missed_where_the_config_makes_something_of_them(both_ways):
    model, processor = vd.tiny.build("gemma4")
    if not both_ways:  # as the smaller released checkpoints
        model.config.text_config.use_bidirectional_attention = None
    inputs = vd.tiny.batch("gemma4", [2, 0, 1])
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    untyped = changing(batch, lambda c, i: {k: v for k, v in c.items() if "type" not in k})

    assert vd.check(untyped, batch).ok == vd.prove(untyped, batch, model).ok == (not both_ways)


@pytest.mark.parametrize("family", ["idefics2", "aria"])
@pytest.mark.parametrize(("sizes", "full"), [((160, 160), True), ((200, 100), False)])
def test_mask_of_pixels_is_missed_where_it_hides_some(family, sizes, full):
    model, processor = vd.tiny.build(family)
    inputs = vd.tiny.batch(family, [2, 0, 1], sizes=[(160, 160), sizes, (160, 160)])
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    masks = {"pixel_attention_mask", "pixel_mask"}
    unmasked = changing(batch, lambda c, i: {k: c[k] for k in c.keys() - masks})

    assert vd.check(unmasked, batch, chunk_size=3).ok == full
    assert vd.prove(unmasked, batch, model, chunk_size=3).ok == full


@pytest.mark.parametrize("family", ["idefics2", "idefics3", "smolvlm"])
@pytest.mark.parametrize("lean", [2, 1], ids=["both keys", "pixels alone"])
def test_padding_of_samples_without_images_may_be_left_out_of_both_keys(family, lean):
    """verl keeps what each sample owns and puts it together again: nothing for text alone."""
    model, processor = vd.tiny.build(family)
    batch = vd.read_batch(vd.tiny.batch(family, [0, 2, 0, 1]), processor=processor)
    keys = ["pixel_values", "pixel_attention_mask"][:lean]

    def without_padding(chunk, index):
        return {**chunk, **{key: chunk[key][1:] for key in keys}}

    slicer = changing(batch, without_padding)
    report = vd.check(slicer, batch, chunk_size=2)
    proof = vd.prove(slicer, batch, model, chunk_size=2)

    assert (report.ok, proof.ok) == (lean == 2, lean == 2)
    if lean == 1:
        assert {(m.key, m.silent) for m in report.mismatches} == {("pixel_values", False)}
        assert proof.error is not None


@pytest.mark.parametrize("family", ["idefics3", "mllama"])
def test_padding_that_is_needed_or_is_no_padding_may_not_be_left_out(family):
    model, processor = vd.tiny.build(family)
    batch = vd.read_batch(vd.tiny.batch(family, [0, 2, 1, 1]), processor=processor)
    first = 0 if family == "idefics3" else 1  # the row that stays: padding, or not all of it

    def shortened(chunk, index):
        media = [key for key in chunk if key in batch.layout.media]
        return {**chunk, **{key: chunk[key][first : first + 1] for key in media}}

    slicer = changing(batch, shortened)
    assert not vd.check(slicer, batch, chunk_size=2).ok
    assert not vd.prove(slicer, batch, model, chunk_size=2).ok


@pytest.mark.parametrize("family", architectures(["diffusion_gemma"]))
@pytest.mark.parametrize("hide", [False, True], ids=["shown", "hidden"])
def test_padding_that_tokens_attend_to_is_compared(family, hide, built):
    """Its canvas attends to padding of the prompt, but for a mask of its own."""
    model, processor = built[family]
    inputs = dict(vd.tiny.batch(family, [0, 2, 1]))
    if hide:
        padding = inputs["attention_mask"]
        inputs["decoder_attention_mask"] = torch.cat([padding, torch.ones_like(padding)], 1)
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    spoilt, short = inputs["input_ids"].clone(), int(inputs["attention_mask"][0].sum())
    spoilt[0, inputs["attention_mask"][0] == 0] += 1

    def other_padding(chunk, index):
        return {**chunk, "input_ids": spoilt[index : index + 1]}

    def trimmed(chunk, index):
        shown = chunk["attention_mask"][0].bool()
        of_text = {key: chunk[key][:, shown] for key in chunk if key in OF_TEXT}
        return {**chunk, **of_text} if index == 0 else chunk

    assert 0 < short < len(spoilt[0])
    report = vd.check(changing(batch, other_padding), batch)
    assert report.ok == vd.prove(changing(batch, other_padding), batch, model).ok == hide
    if not hide:
        assert [m.code for m in report.mismatches] == ["VLM011"]
        cut = vd.check(changing(batch, trimmed), batch)
        assert cut.verdict == "AMBIGUOUS"
        assert "Without decoder_attention_mask" in str(cut.ambiguities[0])


OF_TEXT = {"input_ids", "attention_mask", "mm_token_type_ids", "decoder_input_ids"}


def test_what_no_model_looks_at_may_be_left_out():
    made = vd.make_batch("gemma4", [1, 2, 0])
    ids = made.inputs["input_ids"]
    batch = vd.read_batch(
        {**made.inputs, "labels": ids.clone(), "prompt": ["a", "b", "c"]}, num_images=[1, 2, 0]
    )
    lean = changing(batch, lambda c, i: {k: v for k, v in c.items() if k in made.layout})
    mixed = changing(batch, lambda c, i: {**c, "labels": batch.inputs["labels"][:1]})

    assert vd.check(lean, batch).ok
    assert {m.key for m in vd.check(mixed, batch).mismatches} == {"labels"}


def test_key_that_the_model_does_not_know_is_named_with_the_nearest(batch):
    def stale(chunk, index):
        chunk["pixel_position_ids"] = chunk.pop("image_position_ids", None)
        return {key: value for key, value in chunk.items() if value is not None}

    report = vd.check(changing(batch, stale), batch)
    found = [m for m in report.mismatches if m.code == "VLM004"]

    assert codes(report) == {"VLM003", "VLM004"}
    assert "image_position_ids is the name it knows" in found[0].message


@pytest.mark.parametrize("extra", ["num_images", "output_router_logits", "advantages"])
def test_keys_that_models_know_may_be_added(batch, extra):
    added = changing(batch, lambda c, i: {**c, extra: torch.zeros(len(c["input_ids"]))})

    assert vd.check(added, batch).ok


@pytest.mark.parametrize("rows", [slice(0, 0), slice(0, 1)], ids=["no rows", "a row"])
def test_media_for_a_chunk_without_images_is_found(batch, rows):
    def given(chunk, index):
        return (
            {**chunk, "pixel_values": batch.inputs["pixel_values"][rows]} if index == 2 else chunk
        )

    report = vd.check(changing(batch, given), batch)

    assert [(m.code, m.chunk, m.silent) for m in report.mismatches][:1] == [("VLM005", 2, False)]


@pytest.mark.parametrize("family", ["gemma4", "qwen2_5_vl", "idefics3"])
def test_empty_description_without_pixels_is_no_mismatch(family):
    batch = vd.make_batch(family, [0, 1])
    key = next(key for key in batch.layout.media if key != "pixel_values")
    rows = slice(0, 1) if family == "idefics3" else slice(0, 0)
    given = changing(batch, lambda c, i: c if i else {**c, key: batch.inputs[key][rows]})

    assert vd.check(given, batch).ok


def test_llava_next_takes_empty_media_and_none():
    batch = vd.make_batch("llava_next", [0, 1])
    empty = {key: batch.inputs[key][:0] for key in batch.layout.media}

    assert vd.check(changing(batch, lambda c, i: c if i else {**c, **empty}), batch).ok
    assert vd.check(lambda _, size: batch.chunks(size), batch).ok


def test_skipped_sample_is_found(batch):
    def off_by_one(inputs, chunk_size):
        for start in range(0, len(inputs["input_ids"]) - 1, chunk_size):
            yield list(batch.chunks(1))[start]

    report = vd.check(off_by_one, batch)

    assert [(m.code, m.samples, m.silent) for m in report.mismatches] == [("VLM006", (3,), True)]
    assert report.mismatches[0].message.startswith("sample 3 is in no chunk, of 4 samples.")


def test_repeated_sample_is_found(batch):
    def twice(inputs, chunk_size):
        yield from batch.chunks(1)
        yield next(batch.chunks(1))

    report = vd.check(twice, batch)

    assert [(m.code, m.samples) for m in report.mismatches] == [("VLM006", (0,))]


def shuffled(batch, *, follow):
    order = [2, 0, 3, 1]

    def slicer(inputs, chunk_size):
        chunks = list(batch.chunks(1))
        for sample in order:
            media = sample if follow else (sample + 1) % 4
            tokens = {k: v for k, v in chunks[sample].items() if k not in batch.layout.media}
            pixels = {k: v for k, v in chunks[media].items() if k in batch.layout.media}
            yield {**tokens, **pixels}

    return slicer


def test_shuffled_samples_with_their_images_are_only_out_of_order(batch):
    report = vd.check(shuffled(batch, follow=True), batch)

    assert [(m.code, m.samples) for m in report.mismatches] == [("VLM007", (2, 0, 3, 1))]


def test_shuffled_samples_without_their_images_are_wrong_rows_too(batch):
    assert codes(vd.check(shuffled(batch, follow=False), batch)) >= {"VLM007", "VLM001"}


def test_slicer_that_says_it_shuffles_may_do_so(batch):
    follow, lose = shuffled(batch, follow=True), shuffled(batch, follow=False)
    follow.any_order = lose.any_order = True

    assert vd.check(follow, batch).ok
    assert "VLM001" in codes(vd.check(lose, batch))


@pytest.mark.parametrize("whole", [True, False], ids=["batch after batch", "copies side by side"])
@pytest.mark.parametrize("family", ["gemma4", "qwen2_5_vl", "internvl", "idefics3"])
def test_slicer_that_says_it_repeats_each_sample_may_do_so(family, whole):
    batch = vd.make_batch(family, [2, 0, 1])

    def repeated(inputs, chunk_size):
        (every,), chunks = batch.chunks(3), list(batch.chunks(1))
        parts = [every, every] if whole else [chunk for chunk in chunks for _ in "ab"]
        keys = dict.fromkeys(key for part in parts for key in part)
        yield {key: torch.cat([part[key] for part in parts if key in part]) for key in keys}

    def thrice_one(inputs, chunk_size):
        yield from (*repeated(inputs, chunk_size), next(batch.chunks(1)))

    def mixed_up(inputs, chunk_size):  # as repeat_interleave of everything
        (every,) = batch.chunks(3)
        yield {key: value.repeat_interleave(2, 0) for key, value in every.items()}

    assert codes(vd.check(repeated, batch)) == {"VLM006"}
    assert "slicer.expand_size = 2" in vd.check(repeated, batch).findings[0].message
    repeated.expand_size = thrice_one.expand_size = mixed_up.expand_size = 2

    assert vd.check(repeated, batch).ok
    assert vd.check(thrice_one, batch).findings[0].message.startswith("sample 0 came 3 times, of 3")
    assert vd.check(mixed_up, batch).ok == (family == "idefics3")


def test_copies_in_another_order_are_reordered(batch):
    def backwards(inputs, chunk_size):
        yield from [*batch.chunks(1), *reversed(list(batch.chunks(1)))]

    backwards.expand_size = 2

    assert codes(vd.check(backwards, batch)) == {"VLM007"}


@pytest.mark.parametrize("size", [0, True, 1.5, "2"])
def test_expand_size_that_is_no_count_is_refused(batch, size):
    def slicer(inputs, chunk_size):
        return batch.chunks(1)

    slicer.expand_size = size
    with pytest.raises(vd.BadInput, match="whole number, at least 1"):
        vd.check(slicer, batch)


def test_keys_along_the_tokens_that_are_shorter_are_found_without_a_slicer():
    """A collator forgot to extend them by the completion."""
    for family, key in (("qwen2_5_vl", "mm_token_type_ids"), ("mllama", "cross_attention_mask")):
        inputs = dict(vd.tiny.batch(family, [1, 1]))
        right = vd.check(inputs, processor=vd.tiny.build(family)[1])
        report = vd.check({**inputs, key: inputs[key][:, :-3]}, processor=vd.tiny.build(family)[1])

        assert right.ok
        assert [(m.code, m.key) for m in report.mismatches] == [("VLM011", key)]


def test_mask_that_is_longer_than_the_tokens_cannot_be_told_without_a_model():
    inputs = dict(vd.tiny.batch("llava", [1, 1]))
    inputs["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 2))
    report = vd.check(inputs, processor=vd.tiny.build("llava")[1])

    assert report.verdict == "AMBIGUOUS"
    assert "attention_mask has" in report.ambiguities[0]


@pytest.mark.parametrize(
    ("family", "silent"),
    [("gemma4", {"mm_token_type_ids"}), ("mllama", set()), ("qwen3_vl", set())],
)
def test_key_dropped_beside_one_that_the_model_must_have_keeps_its_own_loudness(family, silent):
    model, processor = vd.tiny.build(family)
    batch = vd.read_batch(vd.tiny.batch(family, [1, 1]), processor=processor)

    def bare(inputs, chunk_size):
        yield {key: inputs[key] for key in ("input_ids", "attention_mask", "pixel_values")}

    report, proof = vd.check(bare, batch, chunk_size=2), vd.prove(bare, batch, model, chunk_size=2)

    assert proof.error is not None
    assert len(report.mismatches) > 1
    assert {m.key for m in report.mismatches if m.silent} == silent
    assert any(m.silent is False for m in report.mismatches)


LOST = [("pixel_values", "pixel_attention_mask"), ("pixel_values",), ("pixel_attention_mask",)]


@pytest.mark.parametrize("keys", LOST, ids=" and ".join)
@pytest.mark.parametrize("family", ["idefics3", "idefics2", "smolvlm"])
def test_what_is_cut_off_the_padded_dimension_is_named_and_loud(family, keys):
    model, processor = vd.tiny.build(family)
    inputs = vd.tiny.batch(family, [2, 1], sizes=(160, 160))
    batch = vd.read_batch(inputs, processor=processor)

    def trimmed(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            yield {**chunk, **{key: chunk[key][:, :-1].contiguous() for key in keys}}

    report, proof = vd.check(trimmed, batch), vd.prove(trimmed, batch, model)
    first = [m for m in report.mismatches if m.chunk == 0]

    assert proof.error is not None and proof.chunk == 0
    assert {m.key for m in first} == set(keys)
    assert {m.loudness for m in first} == {"loud"}
    assert f"on dim 0 only: dim 1 is padded over {batch.layout[keys[0]].padded}" in first[0].message


def repadded(chunk, side, keys):
    """Each row's real tokens at one side, in as many columns as the longest has."""
    shown = chunk["attention_mask"].bool()
    width = int(shown.sum(1).max())
    for key in keys:
        rows = [row[own] for row, own in zip(chunk[key], shown, strict=True)]
        pads = [(0, width - len(row))[:: 1 if side == "right" else -1] for row in rows]
        rows = [torch.nn.functional.pad(row, pad) for row, pad in zip(rows, pads, strict=True)]
        chunk[key] = torch.stack(rows)
    return chunk


@pytest.mark.parametrize(("given", "made"), [("right", "left"), ("left", "right")])
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma4"])
def test_padding_may_be_moved_to_the_other_side(family, given, made):
    model, processor = vd.tiny.build(family)
    inputs = vd.tiny.batch(family, [1, 0, 2], padding_side=given)
    batch = vd.read_batch(inputs, processor=processor)
    keys = [*batch.token_dims]
    moved = changing(batch, lambda chunk, index: repadded(chunk, made, keys))
    others = changing(batch, lambda c, i: repadded({**c, **images_turned(c)}, made, keys))

    for chunk_size in (1, 2, 3):
        assert vd.check(moved, batch, chunk_size=chunk_size).ok
        assert vd.prove(moved, batch, model, chunk_size=chunk_size).ok
    assert not vd.check(others, batch, chunk_size=3).ok


def images_turned(chunk):
    return {key: value.flip(0) for key, value in chunk.items() if "pixel" in key or "grid" in key}


@pytest.mark.parametrize("left_behind", ["mm_token_type_ids", "attention_mask"])
def test_key_whose_padding_was_not_moved_with_the_tokens_is_found(left_behind):
    batch = vd.read_batch(
        vd.tiny.batch("gemma4", [1, 0, 2], padding_side="right"),
        processor=vd.tiny.build("gemma4")[1],
    )
    keys = [key for key in batch.token_dims if key != left_behind]

    def moved(chunk, index):
        kept = chunk[left_behind]
        return {**repadded(chunk, "left", keys), left_behind: kept}

    assert not vd.check(changing(batch, moved), batch, chunk_size=3).ok


def test_token_that_was_changed_is_none_of_the_batch_however_it_is_padded():
    batch = vd.make_batch("llava", [1, 0, 2])

    def altered(chunk, index):
        chunk = repadded(chunk, "left", ["input_ids", "attention_mask"])
        chunk["input_ids"][0, -1] += 1
        return chunk

    assert "VLM011" in codes(vd.check(changing(batch, altered), batch, chunk_size=3))


def test_trimmed_chunk_without_a_mask_is_proven_by_its_own_tokens():
    model, processor = vd.tiny.build("llava")
    inputs = vd.tiny.batch("llava", [0, 1, 2], padding_side="right")
    batch = vd.read_batch(inputs, processor=processor)

    def trimmed(chunk, other=0):
        width = int(chunk.pop("attention_mask").sum(1).max())
        return {**chunk, "input_ids": chunk["input_ids"][:, other : width + other]}

    right = changing(batch, lambda chunk, index: trimmed(chunk))
    wrong = changing(batch, lambda chunk, index: trimmed(chunk, 1))

    assert vd.check(right, batch, chunk_size=2).ok
    assert vd.prove(right, batch, model, chunk_size=2).ok
    assert not vd.prove(wrong, batch, model, chunk_size=2).ok


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "gemma4"])
def test_text_that_a_slicer_cuts_off_in_front_is_not_ok(family):
    """What is left attends to it; what is cut off behind changes nothing before it."""
    model, processor = vd.tiny.build(family)
    inputs = vd.tiny.batch(family, [1, 0], padding_side="left")
    batch = vd.read_batch(inputs, processor=processor)
    pad = int((inputs["attention_mask"][1] == 0).sum())

    def columns(*span):
        own = slice(*span)
        cut = lambda c, i: c | {k: c[k][:, own] for k in batch.token_dims}  # noqa: E731
        return changing(batch, lambda c, i: cut(c, i) if i else c)

    report = vd.check(columns(pad + 2, None), batch)

    assert report.verdict == "AMBIGUOUS"
    assert "chunk 1 lacks tokens" in report.ambiguities[0]
    assert "2 of sample 1" in report.ambiguities[0]
    assert vd.prove(columns(pad + 2, None), batch, model).silent_samples
    for right in (columns(pad, None), columns(0, -2)):
        assert vd.check(right, batch).ok
        assert vd.prove(right, batch, model).ok


def test_exception_of_the_slicer_is_kept_with_chunk_and_line(batch):
    def raising(inputs, chunk_size):
        for index, chunk in enumerate(batch.chunks(1)):
            if index == 2:
                inputs["input_ids"][:, None, 9, 9, 9]
            yield chunk

    report = vd.check(raising, batch)
    mismatch = report.mismatches[0]

    assert [(m.code, m.chunk, m.silent) for m in report.mismatches] == [("VLM008", 2, False)]
    assert isinstance(report.error, IndexError)
    assert "IndexError at tests/test_check.py:" in mismatch.message
    assert "after 2 chunks" in mismatch.message
    assert len(report.chunks) == 2


def test_exception_of_a_slicer_that_returns_a_list_is_kept_too(batch):
    def raising(inputs, chunk_size):
        return [chunk["nothing"] for chunk in batch.chunks(1)]

    report = vd.check(raising, batch)

    assert [m.code for m in report.mismatches] == ["VLM008"]
    assert isinstance(report.error, KeyError)


def test_key_that_a_slicer_looks_for_in_vain_is_followed_by_those_of_the_batch(batch):
    def raising(inputs, chunk_size):
        yield {"pixels": inputs["pixels"]}

    report = vd.check(raising, batch)
    elsewhere = vd.check(lambda inputs, chunk_size: [{}["pixels"]], batch)

    assert report.mismatches[0].message.splitlines()[-1] == (
        f"The batch has the keys {', '.join(batch.layout)}."
    )
    assert f"Not compared: rows of {len(batch.layout)} keys in 0 chunks" in " ".join(
        str(report).split()
    )
    assert "The batch has" not in elsewhere.mismatches[0].message


# --- the batch alone -----------------------------------------------------------------------


def real(family, images, **options):
    _, processor = vd.tiny.build(family)
    return vd.tiny.batch(family, images, **options), processor


def cut(inputs, columns):
    return {
        key: value[:, columns]
        if key in ("input_ids", "attention_mask", "mm_token_type_ids")
        else value
        for key, value in inputs.items()
    }


@pytest.mark.parametrize("family", ["gemma4", "qwen2_5_vl", "internvl", "llava_next"])
def test_truncation_names_sample_image_and_how_many_tokens_were_cut(family):
    inputs, processor = real(family, [1, 2], sizes=(160, 160), padding_side="right")
    whole = vd.read_batch(inputs, processor=processor)
    width = inputs["input_ids"].shape[1]
    placeholder = inputs["input_ids"][1] == whole.image.token_id
    columns = slice(0, int(placeholder.nonzero().max()) - 2)  # three tokens of the last image
    report = vd.check(vd.read_batch(cut(inputs, columns), processor=processor, num_images=[1, 2]))
    each = whole.per_image["feature"][2]

    assert columns.stop < width
    assert [(m.code, m.samples, m.silent) for m in report.mismatches] == [("VLM010", (1,), False)]
    assert f"3 were cut from image B2 ({each - 3} of {each} left)" in report.mismatches[0].message


def test_truncation_from_the_left_names_the_first_image():
    inputs, processor = real("gemma4", [2, 1], sizes=(160, 160), padding_side="left")
    batch = vd.read_batch(inputs, processor=processor)
    placeholder = inputs["input_ids"][0] == batch.image.token_id
    columns = slice(int(placeholder.nonzero().min()) + 5, None)
    report = vd.check(vd.read_batch(cut(inputs, columns), processor=processor, num_images=[2, 1]))

    assert [m.samples for m in report.mismatches] == [(0,)]
    assert "5 were cut from image A1 (59 of 64 left)" in report.mismatches[0].message


def test_sampled_placeholder_is_named_as_the_likely_cause():
    inputs, processor = real("gemma4", [1, 1], padding_side="left")
    batch = vd.read_batch(inputs, processor=processor)
    inputs["input_ids"][0, -1] = batch.image.token_id
    report = vd.check(vd.read_batch(inputs, processor=processor, num_images=[1, 1]))

    assert [(m.code, m.samples) for m in report.mismatches] == [("VLM010", (0,))]
    assert "1 too many" in report.mismatches[0].message
    assert "sampled by a model in its completion" in report.mismatches[0].message


@pytest.mark.parametrize(
    ("family", "silent"), [("gemma4", True), ("llava", True), ("qwen2_5_vl", False)]
)
def test_placeholder_that_moved_to_another_sample_is_as_loud_as_the_model(family, silent):
    """The totals agree; M-RoPE alone looks at each sample."""
    model, processor = vd.tiny.build(family)
    inputs = dict(vd.tiny.batch(family, [1, 1], sizes=(160, 160)))
    token = vd.read_batch(inputs, processor=processor).image.token_id
    ids = inputs["input_ids"].clone()
    at = int((ids[0] == token).nonzero()[-1])
    ids[0, at], ids[1, -1] = 9, token  # 9 is text
    inputs["input_ids"] = ids
    if "mm_token_type_ids" in inputs:
        inputs["mm_token_type_ids"] = (ids == token).long()
    batch = vd.read_batch(inputs, processor=processor, num_images=[1, 1])
    report = vd.check(batch)

    assert [(m.code, m.samples, m.silent) for m in report.mismatches] == [
        ("VLM010", (0,), silent),
        ("VLM010", (1,), silent),
    ]
    assert (vd.prove(slicers.corrected, batch, model, chunk_size=2).error is None) is silent


def test_placeholders_without_any_media_key_are_found():
    inputs, processor = real("gemma4", [1, 0])
    for key in ("pixel_values", "image_position_ids"):
        del inputs[key]
    report = vd.check(vd.read_batch(inputs, processor=processor))

    assert [(m.code, m.samples, m.silent) for m in report.mismatches] == [("VLM010", (0,), True)]
    assert "without pixels it compares nothing" in report.mismatches[0].message


def test_truncation_names_samples_and_totals_where_images_per_sample_are_unknown():
    inputs, processor = real("gemma4", [2, 1], sizes=(160, 160), padding_side="right")
    batch = vd.read_batch(cut(inputs, slice(0, 40)), processor=processor)
    report = vd.check(batch)

    assert batch.ambiguities
    assert report.verdict == "MISMATCH"
    assert [(m.code, m.samples) for m in report.mismatches] == [
        ("VLM010", (0,)),
        ("VLM010", (1,)),
        ("VLM010", ()),
    ]
    assert "but its images become 192 features." in report.mismatches[2].message


def test_truncated_batch_is_not_blamed_on_a_right_slicer_twice():
    inputs, processor = real("gemma4", [1, 1], sizes=(160, 160), padding_side="right")
    batch = vd.read_batch(cut(inputs, slice(0, 40)), processor=processor, num_images=[1, 1])
    report = vd.check(slicers.corrected, batch)

    assert codes(report) == {"VLM010"}


def test_placeholders_pushed_out_by_padding_are_missed_by_no_copy():
    """As wide as before: padded on the left, cut on the right, where the image was."""
    texts = ["a b c <image>", "d e f <image>"]
    inputs = vd.tiny.batch("gemma4", [1, 1], texts=texts, padding_side="right")
    batch = vd.read_batch(inputs, processor=vd.tiny.build("gemma4")[1], num_images=[1, 1])

    def pushed(chunk, index):
        for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
            chunk[key] = torch.nn.functional.pad(chunk[key], (30, 0))[:, :-30]
        return chunk

    report = vd.check(changing(batch, pushed), batch)

    assert ("VLM009", False) in {(m.code, m.silent) for m in report.mismatches}


# --- one cause, one finding ----------------------------------------------------------------


@pytest.mark.parametrize("slicer", STORY[:-1], ids=lambda slicer: slicer.__name__)
@pytest.mark.parametrize("family", ["gemma4", "qwen2_5_vl", "idefics3", "internvl", "llava_next"])
def test_report_on_64_samples_is_readable_at_a_glance(slicer, family):
    sizes = [1 + image % 2 for image in range(sum(IMAGES_104))]
    batch = vd.make_batch(family, IMAGES_104, sizes)
    report = vd.check(slicer, batch)

    assert len(report.findings) <= 3
    assert sum(len(finding.mismatches) for finding in report.findings) == len(report.mismatches)
    assert len(str(report).splitlines()) < 60


def test_every_unit_that_the_rows_may_have_been_cut_by_is_named():
    """Rows 0:1 of patches are what one gets by samples and by images alike."""
    alike = vd.check(slicers.by_sample, vd.make_batch("qwen2_5_vl", [1, 1])).findings[0]
    told_apart = vd.check(slicers.by_sample, vd.make_batch("llava", [2, 1])).findings[0]

    assert "Cut pixel_values per patch, not per sample or image;" in alike.message
    assert "Cut pixel_values per image, not per sample;" in told_apart.message


def test_key_of_another_layout_asked_for_in_vain_is_no_misspelling():
    def for_every_layout(inputs, chunk_size):
        inputs.get("token_type_ids")
        for chunk in slicers.corrected(inputs, chunk_size):
            chunk.pop("mm_token_type_ids", None)
            yield chunk

    report = vd.check(for_every_layout, vd.make_batch("qwen2_5_vl", [1, 1]))

    assert codes(report) == {"VLM003"}


def test_stale_lookup_and_the_key_it_drops_are_one_finding():
    report = vd.check(slicers.before_5452, vd.make_batch("gemma4", [1, 1]))

    assert [(f.code, f.loudness) for f in report.findings] == [("VLM004", "loud")]
    assert report.findings[0].message.splitlines()[0] == (
        "The slicer looks for pixel_position_ids, which the batch does not have, "
        "and drops image_position_ids, which it has."
    )


def test_raise_for_mismatch_carries_the_report():
    batch = vd.make_batch("gemma4", [2, 1])
    report = vd.check(slicers.by_sample, batch)

    with pytest.raises(vd.MismatchError, match="VLM002 wrong rows") as caught:
        report.raise_for_mismatch()

    assert caught.value.report is report


def test_user_tensors_are_neither_changed_nor_replaced(batch):
    before = {key: (id(value), value.clone()) for key, value in batch.inputs.items()}

    def greedy(inputs, chunk_size):
        chunks = list(batch.chunks(1))
        inputs.clear()
        return chunks

    vd.check(greedy, batch)
    for slicer in STORY:
        vd.check(slicer, batch)

    for key, value in batch.inputs.items():
        assert (id(value), True) == (before[key][0], torch.equal(value, before[key][1]))


# --- chunks that are none ------------------------------------------------------------------


@pytest.mark.parametrize("media", [True, False], ids=["with empty media", "tokens only"])
def test_chunk_of_no_samples_is_loud(batch, media):
    keys = [key for key in batch.layout if media or key not in batch.layout.media]

    def one_too_many(inputs, chunk_size):
        yield from batch.chunks(chunk_size)
        yield {key: batch.inputs[key][:0] for key in keys}

    report = vd.check(one_too_many, batch)
    found = [m for m in report.mismatches if m.code == "VLM006"]

    assert [(m.chunk, m.silent) for m in found] == [(4, False)]
    assert found[0].message.startswith("Chunk 4 holds no sample.\nThe model will raise.")


def test_slicer_that_never_ends_is_left_and_found(batch):
    def endless(inputs, chunk_size):
        while True:
            yield next(batch.chunks(chunk_size))

    report = vd.check(endless, batch)

    assert codes(report) == {"VLM006"}
    assert "sample 0 came " in report.mismatches[0].message


def test_embeddings_in_place_of_ids_are_not_called_dropped(batch):
    def embedded(chunk, index):
        ids = chunk.pop("input_ids")
        return {**chunk, "inputs_embeds": torch.zeros(*ids.shape, 4)}

    report = vd.check(changing(batch, embedded), batch)

    assert report.verdict == "AMBIGUOUS"
    assert report.ambiguities[0].startswith("The chunks hold inputs_embeds in place of input_ids")
    assert report.compared[0].what.startswith("rows of ")
    assert report.compared[0].against is None


# --- loud, silent, or not known ------------------------------------------------------------


def prediction(batch, change, chunk_size=2):
    report = vd.check(changing(batch, change), batch, chunk_size=chunk_size)
    return {m.silent for m in report.mismatches if m.chunk == 0}


def test_lost_placeholders_beside_pixels_are_loud(batch):
    lost = lambda c, i: {**c, "input_ids": torch.where(c["input_ids"] == 3, 50, c["input_ids"])}  # noqa: E731

    assert prediction(batch, lost) == {False}


def test_sampled_placeholder_without_pixels_is_silent():
    batch = vd.make_batch("gemma4", [0, 0, 1])

    def sampled(chunk, index):
        ids = chunk["input_ids"].clone()
        ids[0, -1] = 3
        return {**chunk, "input_ids": ids}

    assert prediction(batch, sampled) == {True}


def test_another_tensor_in_place_of_pixels_is_not_predicted(batch):
    other_tensor = lambda c, i: {**c, "pixel_values": c["image_position_ids"]}  # noqa: E731

    assert prediction(batch, other_tensor) == {None}
