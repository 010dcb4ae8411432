"""Parts of a batch: the tokens of each sample, in whole rows of `input_ids` or in packed ones."""

from __future__ import annotations

import numpy as np
import pytest

import vlmdebug as vd
from vlmdebug.core.part import Part, Span, Spans
from vlmdebug.core.rows import Rows
from vlmdebug.core.tensors import side_by_side

PACKED = Spans([Span(0, 0, 3), Span(0, 3, 5), Span(1, 1, 4)])


def test_each_sample_of_a_padded_batch_owns_its_whole_row():
    batch = vd.make_batch("qwen2_5_vl", [2, 0, 1])
    width = batch.inputs["input_ids"].shape[1]

    assert batch.spans == tuple(Span(sample, 0, width) for sample in range(3))
    assert batch.packed is None
    assert (batch.tokens("input_ids", 2) == batch.inputs["input_ids"][2]).all()


@pytest.mark.parametrize(
    "samples",
    [range(1, 3), [1, 2], Rows([(1, 3)])],
    ids=["range", "list", "rows"],
)
def test_a_part_has_the_span_of_each_of_its_samples(samples):
    assert PACKED.part(samples) == Part(Rows([(1, 3)]), (PACKED[1], PACKED[2]))


def test_a_repeated_sample_comes_with_its_tokens_each_time():
    part = PACKED.part([2, 0, 2])

    assert part.spans == (PACKED[2], PACKED[0], PACKED[2])
    assert part.rows == (1, 0)
    assert part.tokens(6) == [7, 8, 9, 0, 1, 2, 7, 8, 9]


def test_packed_samples_are_set_side_by_side_with_padding_behind_them():
    table = np.arange(12).reshape(2, 6)

    assert side_by_side(table, PACKED, -1).tolist() == [[0, 1, 2], [3, 4, -1], [7, 8, 9]]
