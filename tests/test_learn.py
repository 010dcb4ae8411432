"""Predictions: right or not, and what a reader sees after each answer."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import vlmdebug as vd
from vlmdebug import learn
from vlmdebug.families import FAMILIES
from vlmdebug.families.lessons import TOPICS
from vlmdebug.learn import exercise, predict

ROOT = Path(__file__).parent.parent
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(autouse=True)
def nothing_was_asked_before(monkeypatch):
    monkeypatch.setattr(learn, "_wrong_answers", {})


@pytest.fixture
def batch():
    return vd.make_batch("gemma4", [2, 0, 1])


@pytest.mark.parametrize(
    "rows", [slice(2, 3), range(2, 3), (2, 3), (np.int64(2), 3), slice(2, 9)], ids=repr
)
def test_right_prediction_is_right_however_it_is_written(batch, rows):
    answer = predict(batch, "pixel_values", rows, chunk=2)

    assert answer.right
    assert str(answer) == (
        "✓ Right.\n  One row of pixel_values is one image. The samples before have 2 + 0 = 2 "
        "images, so the rows begin at 2. Sample 2 has 1 image. That is pixel_values[2:3]."
    )


def test_wrong_answers_show_owners_then_a_hint_then_the_rule(batch):
    def said(rows):
        return str(predict(batch, "pixel_values", rows, chunk=2))

    owners = "✗ Not yet.\n  Rows {} of pixel_values belong to {}. This chunk holds sample 2."
    hint = (
        "\n  Hint: one row of pixel_values is one image. The chunk begins after the images of all "
        "samples before it."
    )
    first = owners.format("1:2", "image A2 of sample 0")
    assert said((1, 2)) == f"{first}\n  Try again. After another wrong answer you get a hint."
    assert said((0, 1)) == (
        f"{owners.format('0:1', 'image A1 of sample 0')}{hint}"
        "\n  Try again. After another wrong answer you get the rule."
    )
    assert said((0, 2)).endswith(
        f"{hint}\n  Rule: One row of pixel_values is one image. The samples before have 2 + 0 = 2 "
        "images, so the rows begin at 2. Sample 2 has 1 image. That is pixel_values[2:3]."
    )


def test_answer_that_is_given_again_says_the_same_again(batch):
    first, second = (predict(batch, "pixel_values", (1, 2), chunk=2) for _ in range(2))

    assert first == second
    assert not first.hint


def test_each_question_counts_its_own_answers(batch):
    predict(batch, "pixel_values", (1, 2), chunk=2)

    assert not predict(batch, "pixel_values", (1, 2), chunk=0).hint
    assert not predict(batch, "image_position_ids", (0, 2), chunk=2).hint
    assert not predict(batch, "pixel_values", (0, 2), chunk=0, chunk_size=2).hint
    assert not predict(vd.make_batch("gemma4", [2, 1, 1]), "pixel_values", (0, 2), chunk=2).hint
    assert predict(batch, "pixel_values", (0, 2), chunk=2).hint


def test_cell_that_makes_its_batch_again_asks_the_same_question():
    for rows, hint in (((1, 2), False), ((0, 1), True)):
        made = vd.make_batch("gemma4", [2, 0, 1])
        assert bool(predict(made, "pixel_values", rows, chunk=2).hint) == hint


def test_old_questions_are_forgotten(batch, monkeypatch):
    monkeypatch.setattr(learn, "MOST_QUESTIONS", 2)
    for images in ([2, 1], [2, 2], [2, 3], [2, 4]):
        predict(vd.make_batch("llava", images), "pixel_values", (1, 2), chunk=1)

    assert len(learn._wrong_answers) == 2
    assert predict(vd.make_batch("llava", [2, 4]), "pixel_values", (0, 2), chunk=1).hint


@pytest.mark.parametrize(
    ("rows", "chunk", "right"),
    [("absent", 1, True), ((2, 2), 1, False), ("absent", 0, False), ((0, 9), 0, False)],
)
def test_keys_that_must_be_absent_are_part_of_the_prediction(batch, rows, chunk, right):
    answer = predict(batch, "pixel_values", rows, chunk=chunk)

    assert answer.right is right
    assert bool(answer.rule) == right


@pytest.mark.parametrize(
    ("rows", "chunk", "said"),
    [
        (None, 0, "Without pixel_values, the chunk would lose its images. This chunk holds"),
        ((2, 2), 1, "You predicted zero rows. This chunk holds sample 1. The number is right, but"),
        ((1, 1), 0, "You predicted zero rows. This chunk holds sample 0."),
        ((0, 9), 0, "pixel_values has 3 rows in the whole batch. Rows 0:3 of pixel_values belong"),
        ((0, 3), 0, "image A2 of sample 0 and 1 more. This chunk holds sample 0. Its rows are amo"),
        ((0, 1), 0, "This chunk holds sample 0. These rows are its own, but some are missing."),
        ((7, 9), 0, "pixel_values has 3 rows in the whole batch. This chunk holds sample 0."),
    ],
)
def test_first_answer_says_what_is_wrong_with_it(batch, rows, chunk, said):
    answer = predict(batch, "pixel_values", rows, chunk=chunk)

    assert not answer.right
    assert said in answer.owners
    assert not answer.hint


def test_rows_of_others_are_not_too_many_where_the_chunk_has_none(batch):
    assert predict(batch, "pixel_values", (2, 3), chunk=1).owners == (
        "Rows 2:3 of pixel_values belong to image C1 of sample 2. This chunk holds sample 1."
    )


def test_no_key_is_explained(batch):
    assert predict(batch, "pixel_values", None, chunk=1).rule == (
        "Sample 1 has no image, so the chunk must not have pixel_values at all: None. A key with "
        "zero rows is not the same as no key."
    )
    predict(batch, "pixel_values", (2, 2), chunk=1)
    assert predict(batch, "pixel_values", (2, 3), chunk=1).hint == (
        "Hint: count the images of sample 1. What does a chunk without any get?"
    )


def test_image_without_tiles_of_its_own_is_not_called_missing():
    inputs = dict(vd.make_batch("deepseek_ocr2", [1, 1, 0], [1, 1]).inputs)
    inputs["num_local_patches"] = torch.tensor([0, 1])
    inputs["pixel_values_local"] = inputs["pixel_values_local"][:1]
    batch = vd.read_batch(inputs, num_images=[1, 1, 0], layout="deepseek_ocr2")

    rules = [predict(batch, "pixel_values_local", None, chunk=chunk).rule for chunk in (0, 2)]
    assert [rule.partition(",")[0] for rule in rules] == [
        "Sample 0 has no patch",
        "The chunk holds sample 2 without any image: no key",
    ]


def test_key_that_may_be_left_out_or_empty_is_right_either_way():
    batch = vd.make_batch("llava_next", [1, 0])

    for rows in (None, (1, 1)):
        answer = predict(batch, "pixel_values", rows, chunk=1)
        assert answer.right
        assert answer.rule == "The chunk holds sample 1 without any image: no key, or no rows."


def test_key_with_a_padded_row_per_sample_is_kept_where_the_model_wants_it():
    padded, kept = vd.make_batch("idefics3", [1, 0]), vd.make_batch("mllama", [1, 0])

    assert predict(padded, "pixel_values", None, chunk=1).right
    assert not predict(kept, "pixel_values", None, chunk=1).right
    assert predict(kept, "pixel_values", (1, 2), chunk=1).rule == (
        "One row of pixel_values is one sample, so the chunk gets sample 1. This model needs it "
        "with and without images. That is pixel_values[1:2]."
    )


def test_chunks_of_several_samples_are_added_up(batch):
    answer = predict(batch, "pixel_values", (0, 2), chunk=0, chunk_size=2)

    assert answer.right
    assert "No sample comes before, so the rows begin at 0." in answer.rule
    assert "Samples 0 and 1 have 2 + 0 = 2 images." in answer.rule


def test_long_sums_are_not_written_out():
    batch = vd.make_batch("llava", [1] * 64)

    rule = predict(batch, "pixel_values", (32, 64), chunk=1, chunk_size=32).rule
    assert "The samples before have 32 images, so the rows begin at 32." in rule
    assert "Samples 32 to 63 have 32 images." in rule


def test_what_cannot_be_predicted_is_refused(batch):
    with pytest.raises(vd.BadInput, match="in 3 chunks, from 0"):
        predict(batch, "pixel_values", (0, 1), chunk=3)
    with pytest.raises(vd.BadInput, match="in 3 chunks"):
        predict(batch, "pixels", (0, 1), chunk=0)
    with pytest.raises(vd.BadInput, match="in chunk None was asked for"):
        predict(batch, "pixel_values", (0, 1), chunk=None)
    for rows in (
        "two",
        2,
        (0, 10**30),
        slice(0, 4, 2),
        range(4, 0, -1),
        slice(1, None),
        (True, 2),
        (-1, 1),
    ):
        with pytest.raises(vd.BadInput, match="rows are a slice"):
            predict(batch, "pixel_values", rows, chunk=0)


def test_key_that_could_not_be_counted_says_what_to_pass():
    batch = vd.read_batch(
        {"input_ids": torch.ones(2, 4, dtype=int), "pixel_values": torch.rand(3, 3, 8, 8)}
    )

    with pytest.raises(vd.AmbiguousError, match="num_images"):
        predict(batch, "pixel_values", (0, 1), chunk=0)


def test_packed_rows_have_columns_of_tokens():
    inputs = {
        "input_ids": torch.tensor([[5, 9, 6, 5, 9, 6, 7]]),
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]]),
        "pixel_values": torch.rand(2, 3, 8, 8),
    }
    batch = vd.read_batch(inputs, layout="llava", num_images=[1, 1])

    assert predict(batch, "input_ids", (0, 1), chunk=1).owners == (
        "Columns 0:1 of input_ids belong to sample 0. This chunk holds sample 1."
    )
    assert predict(batch, "input_ids", (3, 7), chunk=1).rule == (
        "One column of input_ids is one token. The samples before have 3 tokens, so the columns "
        "begin at 3. Sample 1 has 4 tokens. That is input_ids[3:7]."
    )


def test_key_that_is_not_cut_has_no_rows_to_predict():
    inputs = {**vd.make_batch("llava", [1, 1]).inputs, "seed": torch.tensor([3])}
    batch = vd.read_batch(inputs, layout={"seed": "batch"}, num_images=[1, 1])

    with pytest.raises(vd.BadInput, match="but the batch has input_ids, attention_mask, pixel_val"):
        predict(batch, "seed", (0, 1), chunk=0)


# --- HTML ------------------------------------------------------------------------------------


def test_html_has_verdict_and_all_that_is_said(batch):
    for rows in ((0, 1), (1, 2), (0, 3)):
        answer = predict(batch, "pixel_values", rows, chunk=2)

    shown = answer._repr_html_()
    assert "<strong>✗ Not yet.</strong>" in shown
    for said in (answer.owners, answer.hint, answer.rule):
        assert said in shown
    assert answer.picture in shown and answer.picture.startswith("<img alt=")
    assert (
        "<strong>✓ Right.</strong>" in predict(batch, "pixel_values", (2, 3), chunk=2)._repr_html_()
    )


def test_picture_comes_with_the_rule_alone(batch):
    answers = [predict(batch, "pixel_values", (0, n), chunk=2) for n in (1, 2, 3)]

    assert [bool(one.picture) for one in answers] == [False, False, True]


def test_names_from_data_are_no_html_and_no_command():
    name = f"{HOSTILE}\n::error::x"
    inputs = {**vd.make_batch("gemma4", [2, 0, 1]).inputs, name: torch.zeros(3, 2)}
    batch = vd.read_batch(inputs, layout={name: "sample"}, num_images=[2, 0, 1])

    for rows in ((0, 1), (1, 3), (0, 3), (2, 3), None):
        answer = predict(batch, name, rows, chunk=2)
        tags = re.findall(r"<[^>]*>", answer._repr_html_())

        assert {re.match(r"</?(\w+)", tag)[1] for tag in tags} <= {"div", "strong", "br", "img"}
        assert not any(" onerror" in re.sub(r'"[^"]*"', "", tag) for tag in tags)
        assert not any(line.strip().startswith("::") for line in str(answer).splitlines())


# --- exercises -------------------------------------------------------------------------------


def right_answer(question):
    """What the library itself cuts: the rows, or None for a key that it leaves out."""
    chunks = list(question.batch.chunks(question.chunk_size))
    chunk = chunks[question.chunk].get(question.key)
    if chunk is None:
        return None
    before = sum(len(one.get(question.key, ())) for one in chunks[: question.chunk])
    return before, before + len(chunk)


def rows_where_samples_without_images_keep_one(question):
    """As `right_answer`, of padded rows: a chunk before it may lack the key, but not its rows."""
    rows = right_answer(question)
    if rows is None:
        return None
    start = question.chunk * question.chunk_size
    return start, start + rows[1] - rows[0]


@pytest.mark.parametrize("topic", [None, *TOPICS])
@pytest.mark.parametrize("seed", range(12))
def test_exercise_takes_what_the_library_cuts_and_nothing_else(topic, seed):
    question = exercise(topic, seed=seed)
    padded = question.batch.layout[question.key].unit == "sample"
    rows = rows_where_samples_without_images_keep_one if padded else right_answer
    answer = rows(question)

    assert question.predict(answer).right
    if answer is not None:
        assert not question.predict((answer[0], answer[1] + 1)).right or answer[1] == sum(
            question.batch.counts[question.batch.layout[question.key].unit]
        )
        assert not question.predict((answer[0] + 1, answer[1] + 1)).right or padded
    assert not question.predict((0, 0)).right


def as_a_student_reads_it(question):
    """The answer by arithmetic on what the question says, and on nothing else."""
    said = str(question)
    family = said.partition(":")[0]
    owned = re.findall(r"^  sample \d+ \(\w+\): (.*)$", said, re.MULTILINE)
    images = [0 if line == "no image" else len(line.split(", ")) for line in owned]
    tiles = [sum(map(int, re.findall(r"\((\d+) tiles?\)", line))) for line in owned]
    unit = re.search(rf"^{question.key}: one row per (\w+)", said, re.MULTILINE).group(1)
    counts = {"image": images, "tile": tiles, "sample": [1] * len(images)}.get(unit)
    if unit == "patch":
        grid = json.loads(re.search(r"^image_grid_thw: (\[\[.*)$", said, re.MULTILINE).group(1))
        patches = iter([t * height * width for t, height, width in grid])
        counts = [sum(next(patches) for _ in range(count)) for count in images]
    chunk = int(re.search(r"does chunk (\d+) get", said).group(1))
    size = int((re.search(r"up to (\d+) samples", said) or [0, 1])[1])
    start, stop = chunk * size, min((chunk + 1) * size, len(images))
    if not any(images[start:stop]) and family != "mllama":
        return None
    return sum(counts[:start]), sum(counts[:stop])


def as_corrected_cuts_it(batch, key, chunk, size):
    """The rows that the corrected slicer passes, by their address in the whole tensor."""
    numbers = {
        f"num_{unit}s": [*batch.counts[unit]] for unit in ("image", "tile") if unit in batch.counts
    }
    whole = {name: torch.as_tensor(value) for name, value in batch.inputs.items()}
    passed = [*vd.slicers.corrected({**whole, **numbers}, size)][chunk].get(key)
    if passed is None:
        return None
    step = whole[key].stride(0) * whole[key].element_size()
    first = (passed.data_ptr() - whole[key].data_ptr()) // step
    return first, first + len(passed)


def wrong_answers(question, answer):
    """Answers that are off by a row at either end, or hold nothing.

    Of padded rows only those that take or leave an image: models skip the rows of other samples.
    """
    if answer is None:
        return [(0, 1), (1, 2)]
    start, stop = answer
    near = [(start + 1, stop), (start, stop - 1), (max(start - 1, 0), stop)]
    near = [rows for rows in near if rows[0] < rows[1] and rows != answer]
    if question.batch.layout[question.key].unit == "sample":
        images = [*question.batch.counts["image"]]
        near = [rows for rows in near if sum(images[slice(*rows)]) != sum(images[slice(*answer)])]
    return near if question.batch.layout.family == "mllama" else [None, *near]


@pytest.mark.parametrize("topic", TOPICS)
def test_answers_are_those_of_the_page_and_of_the_corrected_slicer(topic):
    """Seeds that no other test draws: the answer is worked out twice without `learn`."""
    answers = []
    for seed in range(1000, 1030):
        question = exercise(topic, seed=seed)
        answer = as_a_student_reads_it(question)
        where = question.batch, question.key, question.chunk, question.chunk_size
        answers.append(answer)

        assert as_corrected_cuts_it(*where) == answer, (topic, seed)
        assert question.predict(answer).right, (topic, seed)
        for rows in wrong_answers(question, answer):
            assert not question.predict(rows).right, (topic, seed, rows)
    assert len({*answers}) > 3


FAMILIES_OF_TOPICS = sorted({name for names in TOPICS.values() for name in names})


@pytest.mark.parametrize("family", [n for n in FAMILIES_OF_TOPICS if n in vd.tiny.families()])
def test_answers_hold_for_batches_of_real_processors(family):
    processor = vd.tiny.build(family)[1]
    for seed in range(3):
        question = exercise("text-only" if family in TOPICS["text-only"] else None, seed=seed)
        images = [*question.batch.counts["image"]]
        inputs = vd.tiny.batch(family, images, sizes=(64, 48), seed=seed, processor=processor)
        batch = vd.read_batch(inputs, processor=processor, num_images=images)
        for chunk in range(-(-len(images) // 2)):
            for key in batch.layout.media:
                rows = as_corrected_cuts_it(batch, key, chunk, 2)
                assert predict(batch, key, rows, chunk=chunk, chunk_size=2).right, (key, chunk)


def test_seed_decides_the_question_and_other_seeds_draw_others():
    def drawn(seed):
        return str(exercise("tiles", seed=seed))

    assert drawn(1) == drawn(1)
    assert len({drawn(seed) for seed in range(20)}) > 15


def test_questions_without_a_topic_come_from_all_of_them():
    families = {exercise(seed=seed).batch.layout.family for seed in range(30)}

    assert families >= {"qwen2_5_vl", "internvl", "idefics3", "idefics2", "gemma4"}
    assert families <= set(FAMILIES)


def test_exercises_ask_for_larger_chunks_and_for_no_key_and_for_rows():
    questions = [exercise("text-only", seed=seed) for seed in range(12)]

    assert {question.chunk_size for question in questions} == {1, 2, 3}
    assert {right_answer(question) is None for question in questions} == {True, False}


def test_rows_of_samples_are_rarely_the_answer_where_rows_are_no_samples():
    draw = random.Random(0)
    lucky = 0
    for topic in ("images", "patches", "tiles"):
        for _ in range(40):
            question = exercise(topic, seed=draw.randrange(10_000))
            start = question.chunk * question.chunk_size
            lucky += question.predict((start, start + question.chunk_size)).right

    assert lucky < 12


def test_question_says_all_that_is_needed_in_text_and_in_html():
    question = exercise("tiles", seed=3)

    assert str(question) == (
        "internvl: 5 samples\n"
        "  sample 0 (A): A1 (2 tiles), A2 (1 tile)\n"
        "  sample 1 (B): B1 (4 tiles)\n"
        "  sample 2 (C): no image\n"
        "  sample 3 (D): D1 (3 tiles), D2 (2 tiles)\n"
        "  sample 4 (E): E1 (3 tiles), E2 (4 tiles), E3 (1 tile)\n"
        "pixel_values: one row per tile, shape (20, 3, 2, 2)\n"
        "Each chunk has 1 sample. Which rows of pixel_values does chunk 3 get?\n"
        "Samples, chunks and rows are numbered from 0. Answer with predict(slice(start, stop)), or "
        "predict(None) if the chunk must not have this key."
    )
    for said in ("3 (D)", "D1 (3 tiles), D2 (2 tiles)", "one row per tile", "does chunk 3 get?"):
        assert said in question._repr_html_()
    assert question.predict((7, 12)).right


def test_sizes_of_images_are_given_as_the_batch_has_them():
    assert "image_grid_thw: [[1, 2, " in str(exercise("patches", seed=0))


@pytest.mark.parametrize(
    ("topic", "seed", "belief", "truth"),
    [
        pytest.param("images", 7, (2, 4), (4, 9), id="the first dimension is the batch"),
        pytest.param("images", 7, (1, 3), (4, 9), id="chunk 1 begins at row 1"),
        pytest.param("text-only", 20, (3, 3), None, id="no image, no rows, but the key"),
        pytest.param("text-only", 35, None, (3, 5), id="one sample without images, no key"),
        pytest.param("tiles", 1, (5, 8), (8, 16), id="one image is one row, of tiles"),
        pytest.param("patches", 0, (4, 7), (28, 60), id="one image is one row, of patches"),
        pytest.param("padded", 4, (6, 9), (2, 4), id="more images are more rows"),
    ],
)
def test_exercise_of_the_lesson_shows_a_belief_to_be_wrong(topic, seed, belief, truth):
    page = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    question = exercise(topic, seed=seed)

    assert f'exercise("{topic}", seed={seed})' in page
    assert not question.predict(belief).right
    assert question.predict(truth).right


def test_unknown_topic_is_refused():
    with pytest.raises(vd.BadInput, match="exercises are about images, patches, tiles"):
        exercise("videos")
    with pytest.raises(vd.BadInput, match="exercises are about"):
        exercise([])
    with pytest.raises(vd.BadInput, match="seed is 'a'"):
        exercise(seed="a")
