"""ms-swift: the chunks of GRPO's loss with a varying number of rollouts."""

import pytest

import vlmdebug as vd
from vlmdebug.testing import assert_slices

LAYOUTS = ["qwen2_5_vl", "gemma4", "internvl", "llava"]  # `vlmdebug families` lists all
OPTIONS = {"max_examples": 50, "clips": False, "position_ids": False}


def test_chunks_follow_their_samples():
    slicer = vd.trainer_slicer("ms-swift")

    assert_slices(slicer, families=LAYOUTS, text_only=False, **OPTIONS)


@pytest.mark.xfail(
    raises=vd.MismatchError,
    strict=True,
    reason="VLM005: a chunk without images keeps rows that were cut per sample",
)
@pytest.mark.parametrize("layout", ["gemma4", "internvl", "llava"])
def test_chunks_without_images(layout):
    assert_slices(vd.trainer_slicer("ms-swift"), families=[layout], **OPTIONS)
