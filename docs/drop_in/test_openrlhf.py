"""OpenRLHF: the micro-batches of the policy update."""

import pytest

import vlmdebug as vd
from vlmdebug.testing import assert_slices

OPTIONS = {"max_examples": 50, "clips": False, "position_ids": False}


def test_micro_batches_of_patches_follow_their_samples():
    assert_slices(vd.trainer_slicer("openrlhf"), families=["qwen2_5_vl"], **OPTIONS)


@pytest.mark.xfail(
    raises=vd.MismatchError,
    strict=True,
    reason="VLM003: the types of tokens get the name token_type_ids, which Gemma 4 does not read",
)
def test_gemma4_gets_the_types_of_its_tokens():
    assert_slices(vd.trainer_slicer("openrlhf"), families=["gemma4"], **OPTIONS)
