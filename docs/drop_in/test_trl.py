"""TRL: the chunks of GRPO's log-prob loop, and the keys that the losses pass on."""

import pytest

import vlmdebug as vd
from vlmdebug.testing import assert_slices

LAYOUTS = ["qwen2_5_vl", "gemma4", "internvl"]  # `vlmdebug families` lists all
OPTIONS = {"max_examples": 10, "clips": False, "position_ids": False}


@pytest.mark.parametrize("name", ["grpo", "sft"])
def test_chunks_follow_their_samples(name):
    slicer = vd.trainer_slicer("trl", name)

    assert_slices(slicer, families=LAYOUTS, text_only=False, **OPTIONS)


@pytest.mark.xfail(
    raises=vd.MismatchError,
    strict=True,
    reason="VLM005: a chunk without images gets zero rows of pixel_values",
)
@pytest.mark.parametrize("layout", ["gemma4", "internvl"])
def test_chunks_without_images(layout):
    assert_slices(vd.trainer_slicer("trl", "grpo"), families=[layout], **OPTIONS)
