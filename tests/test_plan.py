"""Offsets, held against the oracle on made and on real batches, and what counts as a number."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import clips_per_sample, owned_by_sample, owned_rows

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.core.presence import expected_rows
from vlmdebug.core.rows import Counts, Rows, as_counts, chunk_bounds, rows_of
from vlmdebug.families import FAMILIES
from vlmdebug.running.cases import cases
from vlmdebug.running.synthetic import make

counts = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@given(counts, st.data())
def test_rows_of_any_samples_are_those_of_each_in_that_order(per_sample, data):
    samples = data.draw(st.lists(st.integers(0, len(per_sample) - 1), max_size=8))
    owned = owned_rows([1] * len(per_sample), per_sample)
    offsets = Counts(per_sample, "test").offsets
    expected = [row for sample in samples for row in owned[sample]]

    assert rows_of(offsets, samples) == expected
    assert rows_of(offsets, Rows.of(samples)) == expected


@given(counts, st.data())
def test_a_range_of_samples_is_cut_as_its_list_is(per_sample, data):
    first = data.draw(st.integers(0, len(per_sample)))
    last = data.draw(st.integers(first, len(per_sample)))
    offsets = Counts(per_sample, "test").offsets

    assert rows_of(offsets, range(first, last)) == rows_of(offsets, list(range(first, last)))


@given(st.integers(1, 9), st.integers(1, 12))
def test_bounds_cover_every_sample_once_and_only_the_last_is_short(samples, chunk_size):
    bounds = chunk_bounds(samples, chunk_size)

    assert [s for start, stop in bounds for s in range(start, stop)] == list(range(samples))
    assert all(stop - start == chunk_size for start, stop in bounds[:-1])


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.sampled_from(sorted(FAMILIES)).flatmap(lambda name: cases(FAMILIES[name])))
def test_planned_rows_are_the_oracles_for_any_samples(case):
    batch, spec = make(case.spec), case.spec
    samples = [*range(len(batch)), *reversed(range(len(batch)))]
    for key in batch.layout.media:
        owned = owned_by_sample(spec, key) or [[s] for s in range(len(batch))]
        if any(spec.images_per_sample) or clips_per_sample(spec, key):
            expected = [row for sample in samples for row in owned[sample]]

            assert expected_rows(batch, key, batch.part(samples)).rows == expected


@pytest.mark.parametrize("family", ["gemma4", "qwen2_5_vl", "internvl", "llava_next"])
def test_real_batches_are_planned_as_each_sample_alone_is_processed(family):
    """The oracle is the processor: a sample alone has as many rows as it owns in the batch."""
    images, (_, processor) = [2, 0, 1], vd.tiny.build(family)
    batch = vd.read_batch(vd.tiny.batch(family, images, sizes=(160, 160)), processor=processor)
    for sample, count in enumerate(images):
        alone = vd.tiny.batch(family, [count], sizes=(160, 160))
        for key in batch.layout.media:
            rows = len(alone[key]) if key in alone else 0

            assert len(expected_rows(batch, key, batch.part([sample])).rows) == rows


# --- numbers -------------------------------------------------------------------------------


WHOLE = {
    "ints": [2, 0, 1],
    "tuple": (2, 0, 1),
    "numpy's ints": list(np.array([2, 0, 1])),
    "array": np.array([2, 0, 1]),
    "tensor": torch.tensor([2, 0, 1]),
    "tensors of one number": list(torch.tensor([2, 0, 1])),
    "generator": (count for count in (2, 0, 1)),
}


@pytest.mark.parametrize("values", WHOLE.values(), ids=WHOLE.keys())
def test_counts_of_every_kind_of_whole_number_are_read(values):
    read = as_counts(values, name="num_images", samples=3)

    assert read == (2, 0, 1)
    assert all(type(count) is int for count in read)


BROKEN = {
    "array of floats": np.array([2.0, 0.0, 1.0]),
    "array of truth values": np.array([True, False, True]),
    "tensor of floats": torch.tensor([2.0, 0.0, 1.0]),
    "numpy's float": [2, 0, np.float64(1)],
    "None inside": [2, None, 1],
    "text": "201",
    "nested": [[2], [0], [1]],
}


@pytest.mark.parametrize("values", BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_whole_number_is_no_count(values):
    with pytest.raises(vd.BadInput, match="whole number"):
        as_counts(values, name="num_images", samples=3)


def test_chunk_size_of_numpy_is_a_number_and_the_report_can_be_saved():
    report = vd.check(slicers.corrected, vd.make_batch("gemma4", [2, 0, 1]), chunk_size=np.int64(2))

    assert report.ok
    assert json.loads(report.to_json())["chunk_size"] == 2
    with pytest.raises(vd.BadInput):
        chunk_bounds(3, np.True_)
