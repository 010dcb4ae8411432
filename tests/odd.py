"""A processor of one's own, which no family knows: `<image>` becomes 4 tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image

from vlmdebug.tiny.tokenizer import train_tokenizer

TEXTS = ("a <image> <image>", "text", "c <image>", "d <image>")
SIZES = (((20, 9), (9, 9)), (), ((600, 100),), ((9, 9),))
"""Width and height of the images of each text."""
Samples = list[list[Image.Image]]


class Odd:
    """`media` makes the media keys of the images of each sample."""

    tokenizer = train_tokenizer({"image_token": "<image>"})
    image_token, image_token_id = "<image>", tokenizer.image_token_id

    def __init__(self, media: Callable[[Samples], dict[str, Any]]) -> None:
        self.media = media

    def __call__(self, text, images=None, padding=True, return_tensors="pt"):
        lines = [line.replace("<image>", "<image>" * 4) for line in text]
        inputs = dict(self.tokenizer(lines, padding=True, return_tensors="pt"))
        inputs.pop("token_type_ids", None)
        return inputs | (self.media(images) if images and any(images) else {})


def images(sizes=SIZES) -> Samples:
    noise = np.random.default_rng(0)
    return [
        [
            Image.fromarray(noise.integers(1, 255, (height, width, 3), dtype=np.uint8))
            for width, height in own
        ]
        for own in sizes
    ]


def batch(media, sizes=SIZES, texts=TEXTS) -> tuple[Odd, dict[str, Any]]:
    """The processor, and what it returns for the texts."""
    processor = Odd(media)
    return processor, processor([*texts], images(sizes))


def pixels(image: Image.Image) -> torch.Tensor:
    """`(3, 4, 4)`."""
    values = np.array(image.resize((4, 4))).transpose(2, 0, 1).astype("float32")
    return torch.from_numpy(values / 255)


def tiles(image: Image.Image, above: int = 500) -> list[torch.Tensor]:
    """One tile, one more for a wide image, two more for a large one."""
    count = 1 + (image.width > 1.3 * image.height) + 2 * (max(image.size) > above)
    return [pixels(image) * (tile + 1) for tile in range(count)]


def flat(samples: Samples) -> list[Image.Image]:
    return [image for own in samples for image in own]


def all_tiles(samples: Samples) -> torch.Tensor:
    return torch.stack([tile for image in flat(samples) for tile in tiles(image)])


def one_each(samples: Samples) -> torch.Tensor:
    return torch.stack([*map(pixels, flat(samples))])


def patches(image: Image.Image) -> torch.Tensor:
    """`(width // 9 + 1, 8)`."""
    generator = torch.Generator().manual_seed(image.width * image.height)
    return torch.rand(image.width // 9 + 1, 8, generator=generator)


def all_patches(samples: Samples) -> torch.Tensor:
    return torch.cat([*map(patches, flat(samples))])


def lengths(samples: Samples) -> list[int]:
    return [len(patches(image)) for image in flat(samples)]
