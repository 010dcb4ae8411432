"""What the wrong rows of a slicer have in common, and which finding is told first."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import vlmdebug as vd
from vlmdebug import slicers


def text(inputs, start, stop):
    return {key: inputs[key][start:stop] for key in ("input_ids", "attention_mask")}


def by_counts(counts_of):
    """A slicer of single samples that computes its offsets from `counts_of(num_images)`."""

    def slicer(inputs, chunk_size):
        counts, at = counts_of(inputs["num_images"]), 0
        for index in range(len(inputs["input_ids"])):
            images = sum(counts[index : index + 1])
            pixels = {"pixel_values": inputs["pixel_values"][at : at + images]} if images else {}
            yield {**text(inputs, index, index + 1), **pixels}
            at += images

    return slicer


def test_counts_without_zeros_are_named_in_every_chunk():
    no_zeros = by_counts(lambda counts: [count for count in counts if count])
    report = vd.check(no_zeros, vd.make_batch("llava", [0, 1, 2]))

    assert len(report.findings) == 1
    assert all("computed without the samples" in m.message for m in report.mismatches)
    assert all("keep a 0 in the counts" in m.message for m in report.mismatches)


@pytest.mark.parametrize(
    "counts_of",
    [
        pytest.param(lambda counts: counts[::-1], id="reversed counts"),
        pytest.param(lambda counts: [1] * len(counts), id="one image each"),
        pytest.param(lambda counts: [counts[0] + 1, *counts[1:]], id="off by one"),
    ],
)
def test_zeros_are_not_blamed_for_other_shifts(counts_of):
    report = vd.check(by_counts(counts_of), vd.make_batch("llava", [1, 0, 2, 1]))

    assert report.mismatches
    assert not any("without the samples" in m.message for m in report.mismatches)


def test_unit_that_explains_only_some_chunks_is_not_named():
    def mixed(inputs, chunk_size):  # by sample at first, then one image too far
        pixels = inputs["pixel_values"]
        yield {**text(inputs, 0, 1), "pixel_values": pixels[0:1]}
        yield {**text(inputs, 1, 2), "pixel_values": pixels[3:4]}

    report = vd.check(mixed, vd.make_batch("llava", [2, 2]))

    assert {m.code for m in report.mismatches} == {"VLM001"}
    assert not any("not per" in m.message for m in report.mismatches)


def test_placeholder_that_was_expanded_again_is_named():
    def again(model, inputs, chunk_size):
        for chunk in slicers.corrected(inputs, 1):
            ids = chunk["input_ids"][0]
            first = int((ids == model.config.image_token_id).nonzero()[0])
            ids = torch.cat([ids[:first], ids[first : first + 1].repeat(3), ids[first:]])[None]
            mask = torch.ones_like(ids)
            model.generate(input_ids=ids, attention_mask=mask, pixel_values=chunk["pixel_values"])

    report = vd.check(vd.record(again), vd.make_batch("llava", [1]))
    found = next(m for m in report.mismatches if m.code == "VLM009")

    assert found.message.startswith("chunk 0 has 6 placeholder tokens")
    assert "3 placeholder tokens too many" in found.message
    assert "expanded again" in found.message
    assert found.silent is False


def test_attribute_that_the_stand_in_for_self_lacks_is_not_blamed_on_the_code():
    def loop(model, inputs, chunk_size):
        trainer = SimpleNamespace()
        for chunk in slicers.corrected(inputs, trainer.chunk_size):
            model(**chunk)

    with pytest.raises(vd.BadInput, match=r"has no attribute chunk_size.*was never reached"):
        vd.check(vd.record(loop), vd.make_batch("llava", [1]))


def test_attribute_error_of_the_code_itself_is_a_finding():
    def loop(model, inputs, chunk_size):
        model(**inputs)
        raise AttributeError("mine")

    report = vd.check(vd.record(loop), vd.make_batch("llava", [1]))

    assert "VLM008" in {m.code for m in report.mismatches}


# --- ranking -------------------------------------------------------------------------------


def test_findings_come_worst_first_and_the_exception_of_the_slicer_last():
    def loop(inputs, chunk_size):
        first, second, third, *_ = slicers.corrected(inputs, 1)
        wrong = {**first, "pixel_values": second["pixel_values"]}
        yield {**wrong, "image_position_ids": second["image_position_ids"]}
        yield {key: value for key, value in second.items() if key != "mm_token_type_ids"}
        yield {key: value for key, value in third.items() if key != "image_position_ids"}
        raise RuntimeError("out of memory")

    report = vd.check(loop, vd.make_batch("gemma4", [1, 1, 1, 1]))
    told = [(finding.code, finding.silent) for finding in report.findings]

    assert told[0] == ("VLM002", True)
    assert told[-1] == ("VLM008", False)
    assert [silent for _, silent in told] == sorted(
        (silent for _, silent in told), key=[True, None, False].index
    )


def test_finding_of_several_lengths_does_not_say_the_same_number():
    report = vd.check(slicers.by_sample, vd.make_batch("gemma4", [2, 1, 1]))
    (found,) = report.findings

    assert found.title == "wrong rows"


def test_key_of_another_loudness_is_not_said_to_be_the_same():
    batch = vd.read_batch(vd.tiny.batch("gemma4", [1, 1]), processor=vd.tiny.build("gemma4")[1])

    def bare(inputs, chunk_size):
        yield {key: inputs[key] for key in ("input_ids", "attention_mask", "pixel_values")}

    report = vd.check(bare, batch, chunk_size=2)
    found = next(f for f in report.findings if "mm_token_type_ids" in f.keys)

    assert found.worst.key == "mm_token_type_ids"
    assert "The same with" not in found.message
    assert "Loud with image_position_ids." in found.message


# --- what a person reads -------------------------------------------------------------------


@pytest.mark.parametrize("slicer", slicers.STORY[:-1], ids=lambda slicer: slicer.__name__)
def test_sentence_says_what_the_flag_says(slicer):
    for family in ("gemma4", "llava", "qwen2_5_vl", "llava_next", "mllama"):
        for images in ([0, 2, 1], [1, 1], [2, 0, 1, 1]):
            for m in vd.check(slicer, vd.make_batch(family, images)).mismatches:
                said = m.message
                if m.silent is not False:
                    assert "The model will raise" not in said
                    assert "cannot take" not in said
                if m.silent is not True:
                    assert "not raise" not in said
                if m.silent is not None:
                    assert "raises or" not in said
                    assert "or raises" not in said
