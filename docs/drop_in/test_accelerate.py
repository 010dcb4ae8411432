"""accelerate: the parts of a dispatched batch (`dispatch_batches=True`)."""

import pytest

import vlmdebug as vd
from vlmdebug.testing import assert_slices

PER_SAMPLE = ["idefics3", "idefics2", "mllama"]  # one row per sample
PER_IMAGE = ["llava", "gemma4", "qwen2_5_vl"]  # one row per image, or several


def test_rows_of_samples_are_sent_with_their_sample():
    slicer = vd.trainer_slicer("accelerate")

    assert_slices(slicer, families=PER_SAMPLE, max_examples=50, text_only=False, clips=False)


@pytest.mark.xfail(raises=vd.MismatchError, strict=True, reason="VLM001: all is cut by sample")
@pytest.mark.parametrize("layout", PER_IMAGE)
def test_rows_of_images_are_sent_with_their_sample(layout):
    slicer = vd.trainer_slicer("accelerate")

    assert_slices(slicer, families=[layout], max_examples=50, text_only=False, clips=False)
