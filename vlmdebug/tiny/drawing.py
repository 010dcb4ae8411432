"""Images a person can tell apart at a glance: a name, a colour and a shape.

A wrong slice gives a sample an image of another one. With these pictures the reader sees which: B1
is the first image of the second sample, in every view of a report too.
"""

from __future__ import annotations

import itertools
import math
import operator
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlmdebug.core.wording import image_name, number
from vlmdebug.errors import BadInput

if TYPE_CHECKING:
    from PIL.Image import Image

Size = tuple[int, int]

# Wide, tall, square: if a family counts by size, all three have different counts.
DEFAULT_SIZES: tuple[Size, ...] = ((200, 100), (100, 300), (160, 160))

# Okabe and Ito's palette without black; colour-blind readers can distinguish it.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")


def draw(number: int, size: Size = (160, 160), seed: int = 0, *, name: str | None = None) -> Image:
    """Draw image `number` with its name, by default the number.

    `size` is `(width, height)` in pixels, as in Pillow.
    """
    from PIL import Image, ImageDraw, ImageFont

    width, height = _checked_size(size)
    dice = random.Random(f"{seed}/{number}")
    radius = 0.45 * min(width, height)
    centre = (
        dice.uniform(radius, width - radius),
        dice.uniform(radius, height - radius),
    )
    # Each seed and number has its own background, so even images of one pixel differ.
    paper = (dice.randint(215, 255), dice.randint(215, 255), dice.randint(215, 255))
    picture = Image.new("RGB", (width, height), paper)
    pen = ImageDraw.Draw(picture)
    # 7 colours, 5 shapes, 3 sizes: 105 images before one repeats, with another number.
    colour = _COLOURS[(number + seed) % len(_COLOURS)]
    shape = _SHAPES[(number + seed) % len(_SHAPES)]
    pen.polygon(_placed(shape, centre, radius), fill=colour)
    written = str(number) if name is None else name
    font = ImageFont.load_default(size=max(1.0, radius * min(1.0, 2.2 / len(written))))
    pen.text(centre, written, font=font, anchor="mm", fill="white", stroke_width=2, stroke_fill=0)
    return picture


def images(
    images_per_sample: Sequence[int],
    sizes: Size | Sequence[Size] | None = None,
    seed: int = 0,
) -> list[list[Image]]:
    """Draw the images of a batch: one list per sample, empty for a text-only sample.

    Args:
        images_per_sample: how many images each sample owns.
        sizes: `(width, height)` of all images, or a list with one such pair per image.
            `None` cycles through a wide, a tall and a square size.
        seed: equal seeds give equal pixels, different seeds different ones.
    """
    counts = checked_counts(images_per_sample)
    size_of = _sizes_per_image(sizes, sum(counts))
    names = [image_name(sample, i) for sample, count in enumerate(counts) for i in range(count)]
    named = enumerate(zip(size_of, names, strict=True))
    drawn = iter([draw(number, size, seed, name=name) for number, (size, name) in named])
    return [list(itertools.islice(drawn, count)) for count in counts]


def checked_counts(images_per_sample: Sequence[int]) -> list[int]:
    """Return the counts as plain ints, or raise `BadInput` that names the first invalid one."""
    try:
        given = list(images_per_sample)
    except TypeError:
        raise BadInput(
            f"images_per_sample is {images_per_sample!r}, but it holds one count per sample. "
            "Write [2] for one sample with two images."
        ) from None
    if not given:
        raise BadInput(
            "images_per_sample is empty, but a batch has at least one sample. "
            "Write [0] for one sample without images."
        )
    return [_checked_count(sample, count) for sample, count in enumerate(given)]


def _checked_count(sample: int, count: Any) -> int:
    whole = _whole(count)
    if whole is None or whole < 0:
        raise BadInput(
            f"images_per_sample gives sample {sample} {count!r} images, but a count is a whole "
            "number, 0 or more. Write 0 for a text-only sample."
        )
    return whole


def _sizes_per_image(sizes: Size | Sequence[Size] | None, images: int) -> list[Size]:
    if sizes is None:
        return [DEFAULT_SIZES[image % len(DEFAULT_SIZES)] for image in range(images)]
    try:
        given = list(sizes)
    except TypeError:
        given = [sizes]  # Not a size either, and refused as such below.
    if given and not isinstance(given[0], Sequence):
        return [_checked_size(sizes)] * images
    if len(given) != images:
        raise BadInput(
            f"sizes has {number(len(given), 'entry')}, but images_per_sample adds up to "
            f"{number(images, 'image')}. "
            "Pass one (width, height) per image, or a single pair for all of them."
        )
    return [_checked_size(size) for size in given]


def _checked_size(size: Any) -> Size:
    try:
        width, height = map(_whole, size)
    except (TypeError, ValueError):
        width = height = None
    if width is None or height is None or width < 1 or height < 1:
        raise BadInput(
            f"{size!r} is not an image size, which is (width, height) in whole pixels, "
            "1 or more. For example (200, 100)."
        )
    return width, height


def _whole(value: Any) -> int | None:
    """Return `value` as an int; `None` for floats, bools and everything else."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _ring(corners: int, *, inner: float = 1.0, turn: float = 0.0) -> list[tuple[float, float]]:
    """Corners on the unit circle, first one on top; every second one `inner` from the centre."""
    angles = [(corner / corners + turn) * math.tau for corner in range(corners)]
    return [
        (radius * math.sin(angle), -radius * math.cos(angle))
        for angle, radius in zip(angles, itertools.cycle((1.0, inner)))
    ]


def _placed(
    shape: Sequence[tuple[float, float]], centre: tuple[float, float], radius: float
) -> list[tuple[float, float]]:
    return [(centre[0] + radius * x, centre[1] + radius * y) for x, y in shape]


_SHAPES = (
    _ring(64),  # circle
    _ring(4, turn=0.125),  # square
    _ring(3),  # triangle
    _ring(10, inner=0.5),  # star
    _ring(4),  # diamond
)
