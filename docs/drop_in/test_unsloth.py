"""unsloth: the chunks of GRPO's log-prob loop."""

import pytest

import vlmdebug as vd
from vlmdebug.testing import assert_slices

LAYOUTS = ["qwen2_5_vl", "gemma4", "internvl", "idefics3", "llava"]  # `vlmdebug families`
OPTIONS = {"max_examples": 50, "clips": False, "position_ids": False}


def test_chunks_follow_their_samples():
    slicer = vd.trainer_slicer("unsloth")

    assert_slices(slicer, families=LAYOUTS, text_only=False, **OPTIONS)


@pytest.mark.xfail(
    raises=vd.MismatchError,
    strict=True,
    reason="VLM005: a chunk without images gets zero rows of pixel_values",
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_chunks_without_images(layout):
    assert_slices(vd.trainer_slicer("unsloth"), families=[layout], **OPTIONS)
