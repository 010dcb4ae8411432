"""LLaMA-Factory: the keys that KTO's forward passes to the model."""

import pytest

import vlmdebug as vd
from vlmdebug.testing import assert_slices

OPTIONS = {"max_examples": 50, "clips": False, "position_ids": False}


def test_all_keys_reach_the_model():
    layouts = ["llava", "llava_next", "internvl", "mistral3"]

    assert_slices(vd.trainer_slicer("llamafactory"), families=layouts, **OPTIONS)


@pytest.mark.xfail(
    raises=vd.MismatchError, strict=True, reason="VLM003: keys missing from its list are dropped"
)
@pytest.mark.parametrize("layout", ["qwen2_5_vl", "gemma4", "idefics3"])
def test_all_keys_of_newer_models_reach_the_model(layout):
    assert_slices(vd.trainer_slicer("llamafactory"), families=[layout], **OPTIONS)
