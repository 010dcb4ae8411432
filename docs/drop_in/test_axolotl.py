"""axolotl: the chunks of its asynchronous GRPO trainer."""

import pytest

import vlmdebug as vd
from vlmdebug.testing import assert_slices

OPTIONS = {"max_examples": 50, "clips": False, "position_ids": False}


def test_chunks_of_padded_samples_follow_them():
    layouts = ["idefics3", "idefics2"]  # one row per sample

    assert_slices(vd.trainer_slicer("axolotl"), families=layouts, text_only=False, **OPTIONS)


@pytest.mark.xfail(raises=vd.MismatchError, strict=True, reason="VLM001: images are cut by sample")
@pytest.mark.parametrize("layout", ["llava", "internvl"])
def test_chunks_of_images_follow_their_samples(layout):
    slicer = vd.trainer_slicer("axolotl")

    assert_slices(slicer, families=[layout], text_only=False, **OPTIONS)


@pytest.mark.xfail(raises=vd.MismatchError, strict=True, reason="VLM008: short last chunks raise")
def test_chunks_of_patches_follow_their_samples():
    slicer = vd.trainer_slicer("axolotl")

    assert_slices(slicer, families=["qwen2_5_vl"], text_only=False, **OPTIONS)
