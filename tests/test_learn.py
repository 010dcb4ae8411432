"""Predictions are explained, right or not."""

from __future__ import annotations

import pytest

import vlmdebug as vd
from vlmdebug.learn import predict


@pytest.fixture
def batch():
    return vd.make_batch("gemma4", [2, 0, 1])


@pytest.mark.parametrize("rows", [slice(2, 3), range(2, 3), (2, 3)])
def test_right_prediction_is_right_however_it_is_written(batch, rows):
    answer = predict(batch, "pixel_values", rows, chunk=2)

    assert answer.right
    assert str(answer) == (
        "✓ Right. pixel_values has one row per image. Before sample 2 come 2 + 0 images, so its "
        "rows begin at 2; it owns 1. That is pixel_values[2:3]."
    )


def test_wrong_prediction_is_told_whose_rows_these_are(batch):
    answer = predict(batch, "pixel_values", slice(1, 2), chunk=2)

    assert not answer.right
    assert str(answer).startswith("→ Rows 1:2 of pixel_values are image A2 of sample 0. pixel_val")


@pytest.mark.parametrize(
    ("rows", "chunk", "right"),
    [("absent", 1, True), ((2, 2), 1, False), ("absent", 0, False), ((0, 9), 0, False)],
)
def test_keys_that_must_be_absent_are_part_of_the_prediction(batch, rows, chunk, right):
    answer = predict(batch, "pixel_values", rows, chunk=chunk)

    assert answer.right is right
    assert ("must not be given pixel_values" in answer.explanation) is (chunk == 1)


def test_chunks_of_several_samples_are_added_up(batch):
    answer = predict(batch, "pixel_values", (0, 2), chunk=0, chunk_size=2)

    assert answer.right
    assert "Samples 0:2 come first, so its rows begin at 0" in answer.explanation
    assert "it owns 2 + 0" in answer.explanation


def test_what_cannot_be_predicted_is_refused(batch):
    with pytest.raises(vd.BadInput, match="in 3 chunks, from 0"):
        predict(batch, "pixel_values", (0, 1), chunk=3)
    with pytest.raises(vd.BadInput, match="in 3 chunks"):
        predict(batch, "pixels", (0, 1), chunk=0)
    with pytest.raises(vd.BadInput, match="rows are a slice"):
        predict(batch, "pixel_values", "two", chunk=0)
