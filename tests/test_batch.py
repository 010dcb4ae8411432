"""Counts, offsets and chunks, held against an oracle that counts on its fingers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from doubts import features_unknown
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import clips_per_sample, owned_by_sample
from transformers import BatchEncoding, BatchFeature

import vlmdebug as vd
from vlmdebug.core.rows import Counts, Rows, chunk_bounds, rows_of
from vlmdebug.families import FAMILIES
from vlmdebug.running.cases import cases
from vlmdebug.running.synthetic import make

any_case = st.sampled_from(sorted(FAMILIES)).flatmap(lambda name: cases(FAMILIES[name]))


# --- plan ----------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(1, 9))
def test_chunks_visit_each_row_once_and_in_order(counts, chunk_size):
    offsets = Counts(counts, "test").offsets
    visited = [
        row
        for start, stop in chunk_bounds(len(counts), chunk_size)
        for row in rows_of(offsets, range(start, stop))
    ]

    assert visited == list(range(sum(counts)))


@given(st.lists(st.integers(-1, 30), max_size=20))
def test_rows_are_the_numbers_they_were_made_of(numbers):
    rows = Rows.of(numbers)

    assert list(rows) == numbers
    assert len(rows) == len(numbers)
    assert rows == numbers
    assert (rows == Rows.of(numbers[::-1])) is (numbers == numbers[::-1])
    assert rows.foreign is (-1 in numbers)


# --- chunks --------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, derandomize=True)
@given(any_case)
def test_every_chunk_holds_the_rows_that_its_samples_own(case):
    batch, spec = make(case.spec), case.spec
    for (start, stop), chunk in zip(
        chunk_bounds(len(batch), case.chunk_size), batch.chunks(case.chunk_size), strict=True
    ):
        samples = range(start, stop)
        for key in batch.layout:
            media = key in batch.layout.media
            counted = clips_per_sample(spec, key) or spec.images_per_sample
            if media and not any(counted[s] for s in samples):
                if spec.family not in ("mllama", "idefics"):
                    assert key not in chunk
                    continue
            by_sample = owned_by_sample(spec, key) if media else None
            owned = list(samples)
            if by_sample is not None:
                owned = [row for sample in samples for row in by_sample[sample]]

            whole = batch.inputs[key].transpose(0, batch.layout[key].dim)
            assert torch.equal(chunk[key].transpose(0, batch.layout[key].dim), whole[owned])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(any_case)
def test_chunks_are_views_and_the_inputs_stay_as_they_are(case):
    batch = make(case.spec)
    before = {key: value.clone() for key, value in batch.inputs.items()}
    for chunk in batch.chunks(case.chunk_size):
        for key, value in chunk.items():
            assert value.untyped_storage().data_ptr() == (
                batch.inputs[key].untyped_storage().data_ptr()
            )
    for key, value in before.items():
        assert torch.equal(value, batch.inputs[key])


def test_numpy_arrays_are_cut_as_tensors_are():
    batch = vd.make_batch("qwen2_5_vl", [2, 0, 1], [1, 2, 3])
    arrays = {key: value.numpy() for key, value in batch.inputs.items()}
    read = vd.read_batch(arrays, num_images=[2, 0, 1], layout="qwen2_5_vl")
    for theirs, ours in zip(read.chunks(2), batch.chunks(2), strict=True):
        assert theirs.keys() == ours.keys()
        for key in ours:
            assert isinstance(theirs[key], np.ndarray)
            assert np.array_equal(theirs[key], ours[key].numpy())


@pytest.mark.parametrize("kind", [dict, BatchFeature, BatchEncoding])
def test_what_processors_and_tokenizers_return_is_accepted(kind):
    inputs, (_, processor) = vd.tiny.batch("gemma4", [1, 0]), vd.tiny.build("gemma4")
    batch = vd.read_batch(kind(dict(inputs)), processor=processor)

    assert batch.layout["pixel_values"] == vd.Axis(unit="image", dim=0)
    assert batch.counts["image"] == (1, 0)


def test_values_that_are_not_cut_go_to_every_chunk():
    inputs = {**vd.tiny.batch("gemma4", [1, 1]), "use_cache": False}
    batch = vd.read_batch(inputs, processor=vd.tiny.build("gemma4")[1])

    assert [chunk["use_cache"] for chunk in batch.chunks(1)] == [False, False]


# --- evidence and ambiguity ----------------------------------------------------------------


def read(family, images, **options):
    return vd.read_batch(vd.tiny.batch(family, images), **options)


def parts(family):
    model, processor = vd.tiny.build(family)
    return {"processor": processor, "config": model.config, "model": model}


EVIDENCE = [
    ("gemma4", "processor", "placeholder tokens in input_ids against image_position_ids"),
    ("gemma4", "config", "placeholder tokens in input_ids against image_position_ids"),
    ("gemma4", None, "mm_token_type_ids against image_position_ids"),
    ("qwen2_5_vl", "model", "placeholder tokens in input_ids against image_grid_thw"),
    ("qwen2_5_vl", None, "mm_token_type_ids against image_grid_thw"),
    ("idefics3", "processor", "<global-img> tokens in input_ids"),
    ("internvl", "processor", "runs of placeholder tokens in input_ids"),
    ("llava_next", "config", "placeholder tokens in input_ids against image_sizes"),
]


@pytest.mark.parametrize(("family", "given_part", "evidence"), EVIDENCE)
def test_each_count_remembers_how_it_is_known(family, given_part, evidence):
    options = {given_part: parts(family)[given_part]} if given_part else {}
    batch = read(family, [2, 0, 1], **options)

    assert batch.counts["image"] == (2, 0, 1)
    assert batch.counts["image"].evidence == evidence


@pytest.mark.parametrize(
    ("family", "remedy"),
    [
        ("internvl", "processor="),
        ("llava_next", "num_images="),
        ("llava", "processor="),
        ("aya_vision", "processor="),
    ],
)
def test_what_the_tensors_cannot_tell_is_ambiguous_and_never_cut(family, remedy):
    batch = read(family, [2, 0, 1])

    assert batch.ambiguities
    assert remedy in batch.ambiguities[0].message
    with pytest.raises(vd.AmbiguousError):
        batch.chunks(1)
    report = vd.check(lambda inputs, size: [dict(inputs)], batch, chunk_size=3)
    assert report.verdict == "AMBIGUOUS"
    with pytest.raises(vd.AmbiguousError):
        report.raise_for_mismatch()


@pytest.mark.parametrize("family", ["internvl", "llava_next", "llava"])
def test_processor_or_config_settles_it(family):
    for part in ("processor", "config"):
        batch = read(family, [2, 0, 1], **{part: parts(family)[part]})

        assert not batch.ambiguities
        assert len(list(batch.chunks(1))) == 3


def test_num_images_settles_images_per_sample():
    batch = read("llava_next", [2, 0, 1], num_images=[2, 0, 1])

    assert not batch.ambiguities
    assert [len(c.get("pixel_values", ())) for c in batch.chunks(1)] == [2, 0, 1]


def test_ambiguous_count_says_what_would_settle_it():
    with pytest.raises(vd.AmbiguousError, match=r"Pass processor= or num_images=\["):
        read("llava_next", [2, 0, 1]).counts["image"]


def test_stray_placeholder_does_not_make_runs_fit_by_chance():
    """Two images side by side are one run; a stray token in sample 1 makes three runs of two."""
    processor = vd.tiny.build("llava_next")[1]
    texts = ["<image><image> a", "<image> what do you see there my friend"]
    options = {"sizes": (160, 160), "padding_side": "left"}
    inputs = vd.tiny.batch("llava_next", [2, 1], texts=texts, **options)
    token = vd.read_batch(inputs, processor=processor).image.token_id
    inputs["input_ids"][1, -1] = token
    batch = vd.read_batch(inputs, processor=processor)
    told = vd.check(vd.read_batch(inputs, processor=processor, num_images=[2, 1]))

    assert batch.ambiguities
    assert [(m.code, m.samples) for m in told.mismatches] == [("VLM010", (1,))]
    assert "1 too many" in told.mismatches[0].message


def unknown(shape, samples=3):
    return {
        "input_ids": torch.arange(6 * samples).view(samples, 6),
        "pixel_values": torch.rand(shape),
    }


def test_padded_by_sample_and_as_many_images_as_samples_cannot_be_told():
    """The trap: images per sample 2, 0, 1 and three rows, which may be samples or images."""
    inputs = unknown((3, 2, 3, 8, 8))

    assert vd.read_batch(inputs).ambiguities
    assert vd.read_batch(inputs, num_images=[2, 0, 1]).ambiguities
    settled = vd.read_batch(inputs, num_images=[2, 0, 1], layout={"pixel_values": "sample"})
    assert not settled.ambiguities
    assert settled.layout["pixel_values"] == vd.Axis("sample")


def test_readings_that_cut_alike_are_not_ambiguous():
    batch = vd.read_batch(unknown((3, 3, 8, 8)), num_images=[1, 1, 1])

    assert not batch.ambiguities
    assert [len(chunk["pixel_values"]) for chunk in batch.chunks(2)] == [2, 1]


def test_number_of_rows_can_rule_readings_out():
    by_image = vd.read_batch(unknown((4, 3, 8, 8)), num_images=[2, 1, 1])
    by_tile = vd.read_batch(unknown((9, 3, 8, 8)), num_images=[2, 1, 1], num_tiles=[4, 3, 2])

    assert by_image.layout["pixel_values"].unit == "image"
    assert by_tile.layout["pixel_values"].unit == "tile"


def test_rows_that_fit_no_count_are_ambiguous():
    batch = vd.read_batch(unknown((7, 3, 8, 8)), num_images=[2, 1, 1])

    assert "no count that was given adds up to its" in batch.ambiguities[0].message


def test_key_that_the_layout_does_not_know_is_not_cut_silently():
    inputs = {**vd.tiny.batch("gemma4", [1, 1]), "novel_key": torch.rand(2, 5)}
    processor = vd.tiny.build("gemma4")[1]
    batch = vd.read_batch(inputs, processor=processor)
    said = vd.read_batch(inputs, processor=processor, layout={"novel_key": "sample"})

    assert [a.keys for a in batch.ambiguities] == [("novel_key",)]
    assert [tuple(c["novel_key"].shape) for c in said.chunks(1)] == [(1, 5), (1, 5)]


def test_unfolded_mllama_keeps_its_padded_row_without_images():
    batch = vd.make_batch("mllama", [1, 0])

    assert "pixel_values" in list(batch.chunks(1))[1]
    assert vd.check(
        lambda i, c: ({k: v for k, v in x.items() if k != "pixel_values"} for x in batch.chunks(c)),
        batch,
    ).mismatches[-1].samples == (1,)


# --- what does not fit rows of samples -------------------------------------------------------


def qwen(**more):
    inputs = dict(vd.tiny.batch("qwen2_5_vl", [1, 0, 1]))
    return {**inputs, **more}, vd.tiny.build("qwen2_5_vl")[1]


def test_things_per_sample_are_cut_with_their_samples():
    prompts, deltas = ["a", "b", "c"], torch.tensor([[-5], [0], [-6]])  # as get_rope_index has them
    inputs, processor = qwen(prompts=prompts, rope_deltas=deltas, use_cache=None)
    batch = vd.read_batch(inputs, processor=processor)
    chunks = list(batch.chunks(2))

    assert [chunk["prompts"] for chunk in chunks] == [["a", "b"], ["c"]]
    assert [chunk["rope_deltas"].tolist() for chunk in chunks] == [[[-5], [0]], [[-6]]]
    assert "use_cache" not in batch.layout
    assert vd.check(lambda _, size: batch.chunks(size), batch, chunk_size=2).ok


def test_things_of_other_samples_are_wrong_rows():
    inputs, processor = qwen(prompts=["a", "b", "c"])
    batch = vd.read_batch(inputs, processor=processor)

    def turned(given, chunk_size):
        for chunk in batch.chunks(chunk_size):
            yield {**chunk, "prompts": given["prompts"][-len(chunk["prompts"]) :]}

    report = vd.check(turned, batch, chunk_size=2)

    assert {(m.code, m.key, m.chunk) for m in report.mismatches} == {("VLM002", "prompts", 0)}


def test_equal_things_cannot_be_told_apart():
    inputs, processor = qwen(prompts=["a", "a", "a"])
    batch = vd.read_batch(inputs, processor=processor)

    def turned(given, chunk_size):
        for chunk in batch.chunks(chunk_size):
            yield {**chunk, "prompts": [*given["prompts"], "x"][-len(chunk["prompts"]) :]}

    report = vd.check(turned, batch, chunk_size=3)

    assert not report.ok
    assert not report.mismatches


@pytest.mark.parametrize("positions", [[0, 1, 2, 3, 4, 5], [1, 1, 0, 1, 2, 3], [0, 0, 0, 1, 2, 3]])
def test_single_sample_is_not_taken_for_a_packed_batch(positions):
    ids = torch.tensor([[0, 0, 1, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1, 1]])
    if positions[1] == 1 and positions[0] == 0:
        mask = torch.ones_like(mask)
    batch = vd.read_batch(
        {"input_ids": ids, "attention_mask": mask, "position_ids": torch.tensor([positions])}
    )

    assert len(batch) == 1


# --- two sources -----------------------------------------------------------------------------


def test_sources_that_disagree_are_a_finding_with_both_numbers():
    """A completion that sampled the placeholder token, its types made before."""
    inputs, processor = qwen()
    inputs["mm_token_type_ids"] = inputs["mm_token_type_ids"].clone()
    first = int((inputs["mm_token_type_ids"][0] == 1).nonzero()[0])
    inputs["mm_token_type_ids"][0, first] = 0
    batch = vd.read_batch(inputs, processor=processor)
    (found,) = vd.check(batch).mismatches

    assert found.code == "VLM010"
    assert found.samples == (0,)
    assert "has 10 placeholder tokens in input_ids, but mm_token_type_ids marks 9" in found.message


def spread(types):
    """The types with one more token at either end of each run."""
    return torch.nn.functional.max_pool1d(types[:, None].float(), 3, 1, 1)[:, 0].long()


def test_types_that_mark_begin_and_end_tokens_too_do_not_disagree():
    """Aya Vision's model, as most, does not look at them."""
    model, processor = vd.tiny.build("aya_vision")
    inputs = vd.tiny.batch("aya_vision", [1, 0, 1])
    types = (inputs["input_ids"] == processor.image_token_id).long()
    batch = vd.read_batch(
        {**inputs, "mm_token_type_ids": spread(types)}, processor=processor, config=model.config
    )

    assert vd.check(batch).ok


def test_types_by_which_positions_are_laid_out_mark_no_other_token():
    inputs, processor = qwen()
    model = vd.tiny.build("qwen2_5_vl")[0]
    wide = {**inputs, "mm_token_type_ids": spread(inputs["mm_token_type_ids"])}

    with pytest.raises(RuntimeError, match="shape mismatch"):
        model(**wide)
    found = vd.check(vd.read_batch(wide, processor=processor, config=model.config)).mismatches
    assert {(m.code, m.key) for m in found} == {("VLM010", "mm_token_type_ids")}


def test_text_that_names_no_image_blames_the_template():
    inputs, processor = qwen()
    texts = ["a b c"] * 3
    bare = processor.tokenizer(texts, padding=True, return_tensors="pt")
    given = {**inputs, **bare}
    del given["mm_token_type_ids"]
    batch = vd.read_batch(given, processor=processor, num_images=[1, 0, 1])
    found = vd.check(batch).mismatches

    assert {m.samples for m in found} == {(0,), (2,)}
    assert all("chat template likely has no image placeholder" in m.message for m in found)


# --- lists ------------------------------------------------------------------------------------


def per_image(value, **more):
    """A list with as many entries as samples, in a batch of images per sample 2, 0, 1."""
    return {"input_ids": torch.arange(18).view(3, 6), "extra": value, **more}


LISTS = {
    "tensors": [torch.rand(3, 4, 4) for _ in range(3)],
    "lists of tensors": [[torch.rand(3)], [torch.rand(3)], [torch.rand(3)]],
    "dicts of tensors": [{"pixels": torch.rand(3)} for _ in range(3)],
    "sizes": [(4, 4), (4, 8), (8, 4)],
}


@pytest.mark.parametrize("value", LISTS.values(), ids=LISTS.keys())
def test_list_of_things_per_image_or_per_sample_is_ambiguous(value):
    unsure = vd.read_batch(per_image(value), num_images=[2, 0, 1])
    settled = {
        unit: vd.read_batch(per_image(value), num_images=[2, 0, 1], layout={"extra": unit})
        for unit in ("image", "sample")
    }

    assert (
        'layout={"extra": "image"} or layout={"extra": "sample"}' in unsure.ambiguities[0].message
    )
    for unit, expected in {"image": [2, 0, 1], "sample": [1, 0, 1]}.items():  # none without images
        batch = settled[unit]
        assert [len(chunk.get("extra", ())) for chunk in batch.chunks(1)] == expected
        report = vd.check(lambda _, size, b=batch: b.chunks(size), batch, chunk_size=1)
        assert features_unknown(report)


def test_rows_of_a_list_are_followed():
    inputs = per_image(LISTS["tensors"])
    batch = vd.read_batch(inputs, num_images=[2, 0, 1], layout={"extra": "image"})

    def by_sample(inputs, chunk_size):
        for sample in range(3):
            yield {key: inputs[key][sample : sample + 1] for key in ("input_ids", "extra")}

    report = vd.check(by_sample, batch, chunk_size=1)

    assert {finding.key for finding in report.mismatches} == {"extra"}


@pytest.mark.parametrize("rows", [2, 4])
def test_list_with_other_entries_than_the_layout_says_is_refused(rows):
    inputs = per_image([torch.rand(2)] * rows)

    with pytest.raises(vd.BadInput, match=f"extra has {rows} rows on dim 0"):
        vd.read_batch(inputs, num_images=[2, 0, 1], layout={"extra": "image"})


def test_name_that_no_model_has_is_not_settled_by_a_total():
    """As many rows as images and as samples, and crops of the first image only."""
    inputs = {**unknown((3, 3, 8, 8)), "pixel_values_nearby": torch.rand(3, 3, 8, 8)}
    batch = vd.read_batch(inputs, num_images=[1, 1, 1])

    assert batch.layout["pixel_values"].unit == "image"
    assert [one.keys for one in batch.ambiguities] == [("pixel_values_nearby",)]


def test_rows_on_another_dimension_can_be_counted():
    """MiniCPM-V concatenates the patches of all images on the last dimension."""
    inputs = unknown((1, 3, 8, 40))
    layout = {"pixel_values": vd.Axis("patch", dim=3)}
    batch = vd.read_batch(inputs, layout=layout, counts={"patch": [10, 0, 30]})

    assert [chunk["pixel_values"].shape[3] for chunk in [*batch.chunks(1)][::2]] == [10, 30]


def test_audio_of_an_unknown_model_may_be_windows():
    inputs = {"input_ids": torch.arange(18).view(3, 6), "input_features": torch.rand(5, 3, 8)}
    unsure = vd.read_batch(inputs, num_audios=[1, 1, 1])
    given = {"layout": {"input_features": "window"}, "counts": {"window": [2, 1, 2]}}
    batch = vd.read_batch(inputs, num_audios=[1, 1, 1], **given)

    assert 'counts={"window": […]}' in unsure.ambiguities[0].message
    assert [len(chunk["input_features"]) for chunk in batch.chunks(1)] == [2, 1, 2]
