"""Retrieval models: cut as the advice says, held to their embeddings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from retrieval import RETRIEVERS, built, inputs_of

import vlmdebug as vd
from vlmdebug.core.keys import pixels_of

pytest.importorskip("transformers")


@pytest.fixture(params=RETRIEVERS)
def name(request):
    return request.param


def read(name: str) -> vd.Batch:
    inputs, processor = inputs_of(name), built(name)[1]
    given = {"inputs": inputs, "processor": processor, "num_images": [1, 1, 1]}
    return eval(RETRIEVERS[name].reading, {"read_batch": vd.read_batch, **given})


def test_right_chunks_leave_the_embeddings_as_they_are(name):
    batch, model = read(name), built(name)[0]

    assert not batch.ambiguities
    for chunk_size in (1, 2, 3):
        right: Any = lambda _, size: batch.chunks(size)  # noqa: E731
        assert vd.prove(right, batch, model, chunk_size=chunk_size).ok
        assert not vd.check(right, batch, chunk_size=chunk_size).mismatches


def test_pixels_of_another_sample_are_a_mismatch_and_change_the_embeddings(name):
    batch, model = read(name), built(name)[0]
    key = pixels_of(batch.inputs)

    def shifted(inputs, chunk_size):
        for index, chunk in enumerate(batch.chunks(1)):
            other = (index + 1) % len(batch)
            yield {**chunk, key: batch.inputs[key][other : other + 1]}

    report, proof = vd.check(shifted, batch), vd.prove(shifted, batch, model)

    assert {one.key for one in report.mismatches} == {key}
    assert not proof.ok


def test_whole_batch_gives_each_pair_its_own_embedding(name):
    inputs, model = inputs_of(name), built(name)[0]
    key = pixels_of(inputs)
    with torch.no_grad():
        moved = model(**{**inputs, key: inputs[key].roll(1, 0)}).logits - model(**inputs).logits

    assert moved.flatten(1).abs().amax(1).min() > 1e-3
