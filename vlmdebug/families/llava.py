"""LLaVA and its likes: pixel values have one row per image, and each image as many tokens.

`pixel_values` is `(image, 3, height, width)`; nothing else describes it. LLaVA, DeepSeek-VL and
Gemma 3 share the layout (read in their processors, transformers 5.23). Gemma 3's pan-and-scan
adds crops to `pixel_values`, one row each with as many tokens as an image: there a row is a
crop, and `num_images` does not count it. A chunk without images must be given no
`pixel_values`: zero rows raise "cannot reshape tensor of 0 elements".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdebug.families.base import (
    BatchSpec,
    Facts,
    Family,
    Hints,
    Reading,
    numbered,
    read_images,
    text,
    with_text,
)
from vlmdebug.layout import Axis, Media

TOKENS = 3  # placeholder tokens per image of synthesized batches


class Llava(Family):
    """One row per image, as many placeholder tokens for each."""

    name = "llava"
    models = ("llava", "deepseek_vl", "gemma3")
    axes = {"pixel_values": Axis("image")}
    media = {"pixel_values": Media("image")}
    shapes = {"pixel_values": "image, channels, height, width"}
    feature_key = "pixel_values"
    sizes = (1,)

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return False  # (row, 3, height, width) alone is also InternVL's, with one row per tile

    def read(self, facts: Facts) -> Reading:
        images = facts.rows("pixel_values")
        each = facts.hints.features_per_tile or _each(facts.placeholders, images)
        features = (each,) * images if each else None
        return read_images(facts, "pixel_values", features)

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], Facts]:
        image = 3
        tokens = [[7, *[image] * TOKENS, 8] for _ in spec.sizes]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        if spec.sizes:
            inputs["pixel_values"] = numbered(len(spec.sizes), 3, 2, 2)
        hints = Hints(model_type="llava", image_token_id=image, features_per_tile=TOKENS)
        return inputs, Facts(inputs, hints, spec.images_per_sample)


def _each(placeholders: tuple[int, ...] | None, images: int) -> int | None:
    """Tokens of one image, where the totals divide; all images have as many."""
    tokens = sum(placeholders or ())
    return tokens // images if images and tokens and tokens % images == 0 else None
