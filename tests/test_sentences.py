"""The first sentence of a report: who sees what instead of what, and the slices that fix it."""

from __future__ import annotations

from dataclasses import replace

import pytest

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.views.sentences import named, opening_sentence, sentence, slices


def of_chunks(change, images=(2, 1, 1, 0, 3), family="gemma4"):
    """The report on right chunks, each changed by `change(chunk, whole batch)`."""
    batch = vd.make_batch(family, list(images))

    def slicer(inputs, chunk_size):
        for chunk in batch.chunks(chunk_size):
            change(chunk, inputs)
            yield chunk

    return vd.check(slicer, batch)


def dropped(chunk, whole):
    chunk.pop("pixel_values", None)


def turned(chunk, whole):
    if "pixel_values" in chunk:
        chunk["pixel_values"] = chunk["pixel_values"].flip(0)


def everything(chunk, whole):
    chunk.update({key: whole[key] for key in ("pixel_values", "image_position_ids")})


def altered(chunk, whole):
    if "pixel_values" in chunk:
        chunk["pixel_values"] = chunk["pixel_values"] * 0 + 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (dropped, "Sample A gets no pixel_values of images A1 and A2"),
        (turned, "Sample A sees images A2 and A1 in another order"),
        (everything, "Sample A also sees images B1, C1 and 3 more"),
        (
            altered,
            "Sample 0 was given pixel_values in float32: its values were destroyed by a cast.",
        ),
    ],
)
def test_sentence_says_what_the_sample_sees(change, said):
    assert opening_sentence(of_chunks(change)).startswith(said)


@pytest.mark.parametrize(
    ("family", "images", "slicer", "said"),
    [
        (
            "gemma4",
            [1, 1, 1],
            slicers.by_sample,
            "All 3 chunks have the rows of their own samples.",
        ),
        ("gemma4", [2, 1], slicers.by_sample, "Sample B sees image A2 instead of B1"),
        ("gemma4", [0, 1], slicers.by_sample, "Sample A has no image, but sees image B1"),
        (
            "gemma4",
            [0, 1],
            slicers.merged_5452,
            "Sample A has no image, but gets pixel_values with",
        ),
        ("qwen2_5_vl", [1, 1], slicers.by_sample, "Sample A sees only 1 of 4 rows of image A1"),
        (
            "idefics3",
            [0, 1],
            slicers.by_sample,
            "Sample A has no image, but gets pixel_values with",
        ),
    ],
)
def test_sentence_of_a_wrong_slicer(family, images, slicer, said):
    batch = vd.make_batch(family, images)

    assert opening_sentence(vd.check(slicer, batch)).startswith(said)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (slice(0, 3), "sees only image A1 and 1 of 2 rows of image A2,"),
        (slice(1, 5), "sees only 1 of 2 rows of image A1, image A2 and 1 of 2 rows of image A3,"),
        (slice(3, 7), "sees 1 of 2 rows of image A2, image A3 and 1 of 2 rows of image C1 instead"),
        (slice(1, 9), "sees 1 of 2 rows of image A1, image A2 and 3 more instead of"),
    ],
)
def test_sentence_says_of_each_image_how_much_of_it_is_seen(rows, said):
    batch = vd.make_batch("internvl", [3, 0, 2], sizes=[2] * 5)  # two tiles per image

    def slicer(inputs, chunk_size):
        for chunk in batch.chunks(chunk_size):
            if len(chunk.get("pixel_values", ())) == 6:
                chunk["pixel_values"] = inputs["pixel_values"][rows]
            yield chunk

    assert opening_sentence(vd.check(slicer, batch)).startswith(f"Sample A {said}")


def test_sentence_says_what_the_model_does_only_where_that_is_known():
    report = vd.check(slicers.by_sample, vd.make_batch("gemma4", [2, 1]))
    worst = report.findings[0].worst

    said = [sentence(report, replace(worst, silent=silent)) for silent in (True, False, None)]
    ends = ["does not notice.", "the model raises.", "image A2 instead of B1."]
    assert [one.endswith(end) for one, end in zip(said, ends, strict=True)] == [True] * 3


def test_rows_without_images_keep_their_message():
    def without_mask(inputs, chunk_size):
        for chunk in vd.read_batch(inputs, layout="gemma4").chunks(chunk_size):
            yield {**chunk, "input_ids": chunk["input_ids"].flip(0)}

    report = vd.check(without_mask, vd.make_batch("gemma4", [1, 1]), chunk_size=2)

    assert opening_sentence(report)[1:] == report.findings[0].message.partition("\n")[0][1:]


def test_without_a_scene_images_of_one_row_are_named_all_the_same():
    report = vd.check(slicers.by_sample, vd.make_batch("gemma4", [2, 1]), pictures=False)

    assert report.scene is None
    assert opening_sentence(report).startswith("Sample B sees image A2 instead of B1")


def test_slices_of_the_worst_chunk_are_a_diff():
    report = vd.check(slicers.by_sample, vd.make_batch("gemma4", [2, 1]))

    assert slices(report, report.findings[0])[:2] == [
        ("-", "pixel_values[1:2]        # image A2"),
        ("+", "pixel_values[2:3]        # image B1"),
    ]
    [left_out] = vd.check(slicers.merged_5452, vd.make_batch("gemma4", [0, 1])).findings
    assert ("-", "pixel_values  # leave it out") in slices(report, left_out)


def test_added_slices_are_the_rows_that_the_chunk_owns():
    batch = vd.make_batch("internvl", [2, 1, 0, 1])
    report = vd.check(slicers.by_sample, batch, chunk_size=2)
    [finding] = report.findings
    right = list(batch.chunks(2))[finding.worst.chunk or 0]
    added = [text.partition("  #")[0] for sign, text in slices(report, finding) if sign == "+"]

    assert added
    for code in added:
        key = code.partition("[")[0]
        assert eval(code, {key: batch.inputs[key]}).equal(right[key])


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ((1,), "Sample B"),
        ((0, 1), "Samples A and B"),
        ((2, 0), "Samples C and A"),
        ((1, 2, 3, 4), "Samples B to E"),
        ((0, 2, 4, 6), "Samples A, C and 2 more"),
        ((26,), "Sample AA"),
    ],
)
def test_samples_are_named_by_letters(samples, said):
    assert named(samples) == said


@pytest.mark.parametrize("code", ["VLM001", "VLM002", "VLM005"])
def test_rows_that_could_not_be_identified_are_not_called_missing(code):
    report = vd.check(slicers.by_sample, vd.make_batch("gemma4", [2, 1]))
    unknown = replace(report.findings[0].worst, code=code, actual=None)

    assert sentence(report, unknown)[1:] == unknown.message.partition("\n")[0][1:]


def test_chunk_of_images_without_samples_can_be_shown():
    processor = vd.tiny.build("qwen3_vl")[1]
    batch = vd.read_batch(vd.tiny.batch("qwen3_vl", [1, 1]), processor=processor)

    def slicer(inputs, chunk_size):
        first, *others = batch.chunks(chunk_size)
        media = {key: first[key] for key in ("pixel_values", "image_grid_thw")}
        return [first, *others, media]

    report = vd.check(slicer, batch, chunk_size=1, pictures=True)

    assert "No sample should see" in vd.Report.to_html(report)
