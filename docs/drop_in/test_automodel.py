"""NeMo Automodel: the micro-batches of pipeline parallelism."""

import pytest

import vlmdebug as vd
from vlmdebug.testing import assert_slices

OPTIONS = {"max_examples": 50, "clips": False, "position_ids": False}


def test_micro_batches_of_patches_follow_their_samples():
    assert_slices(vd.trainer_slicer("automodel"), families=["qwen2_5_vl"], **OPTIONS)


@pytest.mark.xfail(
    raises=vd.MismatchError,
    strict=True,
    reason="VLM005: with as many images as samples, each sample gets one, whatever it has",
)
def test_micro_batches_of_gemma4_follow_their_samples():
    assert_slices(vd.trainer_slicer("automodel"), families=["gemma4"], **OPTIONS)
