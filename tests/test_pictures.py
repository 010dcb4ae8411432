"""Images restored from pixel values are those that the real processors were given."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from architectures import architectures

import vlmdebug as vd
from vlmdebug.families.pictures import restore, thumbnail

IMAGES = [2, 0, 1, 1]
SIZES = [(200, 100), (100, 200), (160, 160), (300, 100)]


def batch_of(family):
    model, processor = vd.tiny.build(family)
    inputs = vd.tiny.batch(family, IMAGES, sizes=SIZES, processor=processor)
    return vd.read_batch(inputs, processor=processor, config=model.config, num_images=IMAGES)


def distance(restored, drawn):
    """Mean difference in brightness, 0 to 1, of the middle that every processor keeps."""
    height, width, _ = restored.shape
    drawn = np.asarray(drawn.resize((width, height)), dtype=np.float32) / 255
    return float(np.abs(restored - drawn).mean())


NO_SIDES = {"inkling_mm_model"}
"""Architectures with rows of patches, and no key that gives the width of an image."""


@pytest.mark.parametrize("family", [name for name in architectures() if name not in NO_SIDES])
def test_restored_images_are_those_the_processor_was_given(family):
    batch = batch_of(family)
    drawn = [image for images in vd.tiny.images(IMAGES, SIZES) for image in images]
    restored = [restore(batch, number) for number in range(len(drawn))]
    nearest = [
        min(range(len(drawn)), key=lambda other: distance(found, drawn[other]))
        for found in restored
    ]

    assert nearest == [0, 1, 2, 3]
    # The square one is neither cropped nor padded nor stretched, but by patches that do not fit.
    if family not in ("kimi_k25", "glm5_next"):
        assert distance(restored[2], drawn[2]) < 0.01


@pytest.mark.parametrize("family", [name for name in architectures() if name in NO_SIDES])
def test_image_of_patches_without_its_sides_is_no_picture(family):
    assert restore(batch_of(family), 0) is None


def test_each_image_has_its_own_thumbnail():
    batch = batch_of("gemma4")
    found = [thumbnail(batch, number) for number in range(4)]

    assert len(set(found)) == 4
    assert all(one.startswith("data:image/jpeg;base64,") and len(one) < 4000 for one in found)


def test_what_cannot_be_restored_is_no_picture():
    batch = batch_of("qwen2_5_vl")
    odd = {**batch.inputs, "pixel_values": batch.inputs["pixel_values"][:, :100]}
    ambiguous = vd.read_batch(
        {"input_ids": batch.inputs["input_ids"], "pixel_values": batch.inputs["pixel_values"]}
    )

    assert restore(dataclasses.replace(batch, inputs=odd), 0) is None
    assert restore(ambiguous, 0) is None
    assert restore(batch, 99) is None


@pytest.mark.parametrize("broken", ["nan", "huge", "text"])
def test_no_check_fails_for_a_picture(broken):
    batch = batch_of("llava")
    pixels = batch.inputs["pixel_values"].clone()
    if broken == "nan":
        pixels[:] = float("nan")
    elif broken == "huge":
        pixels[:] = 1e38
    inputs = {**batch.inputs, "pixel_values": pixels if broken != "text" else pixels.bool()}
    report = vd.check(vd.slicers.by_sample, dataclasses.replace(batch, inputs=inputs))

    assert not report.ok
    assert "MISMATCH" in report.to_html()
