"""What a trainer's own test-suite uses, and lines of a slicer that nothing reaches."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given, settings

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.testing import assert_slices, batches

pytest_plugins = ["pytester"]


def test_right_slicer_is_asserted_right():
    assert_slices(slicers.corrected)


def test_wrong_slicer_fails_with_the_smallest_batch_and_its_test():
    with pytest.raises(vd.MismatchError) as caught:
        assert_slices(slicers.merged_5452, families=["llava_next"])
    text = str(caught.value)

    assert text.splitlines()[0] == "llava_next: images per sample [2], chunk size 1"
    assert "VLM001 wrong rows" in text
    assert "def test_merged_5452_cuts_llava_next_images_2" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "kinds", "advice"),
    [
        (("feature",), "audio clips", ["video"]),
        (("video", "second"), "videos", ["audio"]),
        (("feature", "video", "second"), "videos and audio clips", False),
    ],
    ids=["audio", "videos", "both"],
)
def test_clips_that_were_never_passed_are_warned_of_and_the_advice_works(words, kinds, advice):
    def slicer(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            yield {k: v for k, v in chunk.items() if not any(word in k for word in words)}

    with pytest.warns(UserWarning) as caught:
        assert_slices(slicer, families=["gemma4", "qwen2_5_vl"])
    text = str(caught[0].message)

    assert text.startswith(f"No chunk was passed any of the {kinds} of the batches")
    assert f"pass clips={advice!r}" in text
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_slices(slicer, families=["gemma4", "qwen2_5_vl"], clips=advice)
        assert_slices(slicers.corrected, families=["gemma4", "qwen2_5_vl"])


def test_slicers_own_exception_is_chained():
    with pytest.raises(vd.MismatchError) as caught:
        assert_slices(slicers.first_5452_rloo)

    assert isinstance(caught.value.__cause__, UnboundLocalError)


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(batches(["gemma4", "internvl"]))
def test_strategy_draws_batches_of_the_families_asked_for(batch):
    assert batch.layout.family in ("gemma4", "internvl")
    assert not vd.check(batch).mismatches
    assert not batch.ambiguities


@pytest.mark.slow
def test_plugin_gives_its_fixtures_to_any_test_suite(pytester):
    pytester.makepyfile(
        """
        def test_mine(assert_slices, tiny_vlm):
            from vlmdebug.slicers import corrected
            assert_slices(corrected, families=["gemma4"], max_examples=20)
            assert type(tiny_vlm("gemma4")[0]).__name__ == "Gemma4ForConditionalGeneration"
            assert tiny_vlm("gemma4") is tiny_vlm("gemma4")
        """
    )

    pytester.runpytest_subprocess("-q").assert_outcomes(passed=1)


# --- lines -------------------------------------------------------------------------------


def test_branch_for_a_key_that_never_shipped_is_unreached():
    dead = vd.unreached(slicers.before_5452)

    assert [line.text for line in dead] == ['chunk["pixel_position_ids"] = positions[start:stop]']
    assert str(dead[0]).startswith("vlmdebug/slicers.py:")


def test_slicer_without_dead_branches_has_none():
    assert vd.unreached(slicers.corrected) == ()


def test_branches_of_other_families_are_unreached_where_these_are_not_tried():
    dead = vd.unreached(slicers.merged_5452, families=["gemma4"])

    assert any("_grid_offsets" in line.text for line in dead)


def test_recorded_function_is_looked_at_itself():
    def loop(model, inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            if "no_such_key" in chunk:
                chunk["no_such_key"] = None
            model(**chunk)

    assert [line.text for line in vd.unreached(vd.record(loop), families=["gemma4"])] == [
        'chunk["no_such_key"] = None'
    ]


@pytest.mark.parametrize("families", [["llava"], ["qwen2_5_vl"]])
def test_slicer_that_never_ends_is_left_after_some_chunks(families):
    def endless(inputs, chunk_size):
        while True:
            yield dict(inputs)
            if len(inputs) < 0:
                return

    dead = vd.unreached(endless, families=families, max_examples=5)

    assert [line.text for line in dead] == ["return"]


def test_what_a_slicer_does_to_its_inputs_ends_no_search_for_lines():
    def careless(inputs, chunk_size):
        inputs["input_ids"].add_(1)
        if inputs.pop("pixel_values", None) is None:
            return []
        return [inputs]

    assert vd.unreached(careless, families=["llava"], max_examples=20) == ()


def test_slicer_without_source_is_refused():
    with pytest.raises(vd.BadInput, match="its lines cannot be watched"):
        vd.unreached(zip)
