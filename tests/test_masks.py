"""Pixels beside what a batch says of them, with transformers' own processors and tiny models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from architectures import built
from PIL import Image

import vlmdebug as vd
from vlmdebug.core.tiling import aspect_ratios
from vlmdebug.families.idefics3 import Idefics3
from vlmdebug.families.synthesize import BatchSpec

MASK, RATIOS, TILES = "pixel_attention_mask", "aspect_ratio_ids", "aspect_ratio_mask"
TALL, WIDE = (40, 56), (56, 40)


def noise(width: int, height: int) -> Image.Image:
    values = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def plain(width: int, height: int, value: int) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), value, np.uint8))


def processed(family: str, images: list[Image.Image], **options: Any) -> dict[str, Any]:
    """One image per sample, whole."""
    _, processor = built(family)
    if family in ("idefics3", "smolvlm"):
        options["do_image_splitting"] = False
    token = getattr(processor.image_token, "content", processor.image_token)
    texts = [f"{token} question {number}" for number in range(len(images))]
    pictures = [[image] for image in images]
    return dict(
        processor(text=texts, images=pictures, return_tensors="pt", padding=True, **options)
    )


def checked(family: str, inputs: dict[str, Any]) -> vd.Report:
    return vd.check(inputs, processor=built(family)[1])


def logits(family: str, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return built(family)[0](**inputs).logits


@pytest.mark.parametrize("family", ["idefics2", "idefics3", "smolvlm", "mllama"])
@pytest.mark.parametrize("value", [0, 127, 128, 255])
def test_images_of_one_colour_are_no_padding(family, value):
    inputs = processed(family, [plain(*TALL, value), plain(*WIDE, value), noise(*TALL)])

    assert checked(family, inputs).verdict == "OK"


@pytest.mark.parametrize("family", ["idefics2", "mllama"])
def test_black_edges_of_images_that_are_not_normalized_are_no_padding(family):
    image = noise(56, 56)
    image.paste(0, (40, 0, 56, 56))

    assert checked(family, processed(family, [image], do_normalize=False)).verdict == "OK"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, "numpy"])
def test_padding_is_found_in_any_dtype(kind):
    inputs = processed("idefics2", [noise(*TALL), noise(*WIDE)])
    if kind == "numpy":
        inputs = {key: value.numpy() for key, value in inputs.items()}
        other = {**inputs, MASK: inputs[MASK][::-1].copy()}
    else:
        inputs["pixel_values"] = inputs["pixel_values"].to(kind)
        other = {**inputs, MASK: inputs[MASK].flip(0)}

    assert checked("idefics2", inputs).verdict == "OK"
    assert checked("idefics2", other).verdict == "MISMATCH"


@pytest.mark.parametrize(
    ("change", "hides", "shows"),
    [
        pytest.param(lambda mask: mask.transpose(-1, -2).contiguous(), 640, 640, id="transposed"),
        pytest.param(lambda mask: mask.flip(0), 640, 640, id="of the other sample"),
        pytest.param(torch.ones_like, 0, 896, id="of ones"),
        pytest.param(lambda mask: mask * (torch.arange(56) < 28), 672, 0, id="half"),
        pytest.param(lambda mask: mask.roll(5, -1), 280, 280, id="shifted"),
        pytest.param(torch.zeros_like, 2240, 0, id="of zeros"),
    ],
)
def test_mask_of_other_pixels_is_found_and_the_model_runs(change, hides, shows):
    inputs = processed("idefics2", [noise(*TALL), noise(*WIDE)])
    wrong = {**inputs, MASK: change(inputs[MASK])}

    report = checked("idefics2", wrong)
    first = report.mismatches[0]
    said = " and ".join(
        [f"hides {hides} pixels of its images"] * bool(hides)
        + [f"shows {shows} pixels of padding"] * bool(shows)
    )

    assert [m.code for m in report.mismatches] == ["VLM010"] * len(report.mismatches)
    assert first.message.startswith(f"{MASK} of sample 0 {said}.\n")
    assert first.silent is not False  # it runs, as the model itself says
    assert not torch.allclose(logits("idefics2", wrong), logits("idefics2", inputs), atol=1e-3)


def test_aspect_ratio_of_other_tiles_is_found_and_the_model_runs():
    inputs = processed("mllama", [noise(40, 56), noise(112, 40), noise(40, 200)])
    wrong = {**inputs, RATIOS: inputs[RATIOS].flip(0)}

    report = checked("mllama", wrong)

    assert inputs[RATIOS].tolist() == [[1], [2], [8]]
    assert [(m.key, m.samples, m.silent) for m in report.mismatches] == [
        (RATIOS, (0,), True),
        (RATIOS, (2,), True),
    ]
    assert report.mismatches[0].message == (
        "aspect_ratio_ids[0][0] is 8, 4 x 1 tiles (height x width), but aspect_ratio_mask shows 1 "
        "and pixel_values holds 1.\nThe model will not raise, but its answer changes.\n"
        "Pass all keys of images of one call of the processor."
    )
    assert not torch.equal(logits("mllama", wrong), logits("mllama", inputs))


def test_aspect_ratios_and_masks_of_other_images_are_found_by_their_pixels():
    inputs = processed("mllama", [noise(40, 56), noise(40, 200)])
    moved = {key: inputs[key].flip(0) for key in (RATIOS, TILES)}

    assert [m.samples for m in checked("mllama", {**inputs, **moved}).mismatches] == [(1,)]


def test_id_of_no_aspect_ratio_is_said_to_be_none():
    inputs = processed("mllama", [noise(40, 56)])
    report = checked("mllama", {**inputs, RATIOS: inputs[RATIOS] + 11})

    assert report.mismatches[0].silent is None
    assert "is 12, which is no aspect ratio of so many tiles" in report.mismatches[0].message
    with pytest.raises(IndexError):
        logits("mllama", {**inputs, RATIOS: inputs[RATIOS] + 11})


def test_order_of_sides_of_an_aspect_ratio_is_said_to_be_beyond_comparison():
    report = checked("mllama", processed("mllama", [noise(112, 40)]))

    assert f"order of height and width in {RATIOS}" in [one.what for one in report.compared]


def test_aspect_ratios_are_those_of_transformers():
    from transformers.models.mllama import image_processing_pil_mllama as mllama

    for most in (1, 2, 4, 6):
        assert list(aspect_ratios(most)) == mllama.get_all_supported_aspect_ratios(most)


def test_drawn_batches_hold_padding_where_their_masks_hide_pixels():
    inputs, _ = Idefics3().synthesize(BatchSpec("idefics3", (2, 0, 1), (1, 2, 1)))
    hidden = np.broadcast_to(inputs[MASK][:, :, None] == 0, inputs["pixel_values"].shape)

    assert hidden.any()
    assert not inputs["pixel_values"][hidden].any()
