"""verl: micro-batches follow their samples, of fixed size and balanced by length."""

import pytest

import vlmdebug as vd
from vlmdebug.testing import assert_slices

LAYOUTS = ["qwen2_5_vl", "gemma4", "internvl", "llava_next"]  # `vlmdebug families` lists all


@pytest.mark.parametrize("name", ["fixed", "dynamic"])
def test_micro_batches_follow_their_samples(name):
    slicer = vd.trainer_slicer("verl", name)

    assert_slices(slicer, families=LAYOUTS, max_examples=20, clips=False, position_ids=False)
