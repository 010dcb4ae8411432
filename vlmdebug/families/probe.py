"""`probe`: read a processor's layout off its own output, without knowing the model.

The processor is run on each sample alone and on all of them together. If the rows of a tensor for
the whole batch are the samples' own rows, one sample after another, each sample owns as many rows
as it had alone: one per image, or more (tiles, patches). A tensor with one row per sample keeps
that row, perhaps padded. Values are compared, not only shapes; the images are chosen so that no two
units have the same number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlmdebug.core.given import public
from vlmdebug.core.layout import SAMPLE_WITH_IMAGES, Axis
from vlmdebug.core.tensors import to_numpy
from vlmdebug.errors import BadInput

IMAGES = (2, 0, 1, 2)
SIZES = ((200, 100), (100, 300), (160, 160), (300, 90), (120, 200))
WORDS = ("Compare", "Only text", "A small", "Two of")


@dataclass(frozen=True)
class Probe:
    """What a processor's output looks like.

    Attributes:
        axes: Axis of each key, read off the values; unit `"ambiguous"` if no interpretation fits.
        rows: Rows of each key that each probing sample has.
        images: Images per probing sample.
    """

    axes: Mapping[str, Axis]
    rows: Mapping[str, tuple[int, ...]]
    images: tuple[int, ...] = IMAGES

    def __str__(self) -> str:
        width = max(map(len, self.axes), default=0)
        return "\n".join(f"{key:<{width}}  {axis}" for key, axis in self.axes.items())


@public
def probe(processor: Any, *, placeholder: str | None = None, **options: Any) -> Probe:
    """Find what the rows of each tensor of `processor`'s output count.

    Args:
        processor: A transformers processor for images and text.
        placeholder: The text that represents an image; `processor.image_token` by default.
        **options: Further arguments of every call of the processor.

    Raises:
        BadInput: The processor could not be run on several images, or on none.
    """
    token = (
        placeholder
        or getattr(processor, "image_placeholder_token", None)
        or getattr(processor, "image_token", None)
    )
    if not isinstance(token, str):
        raise BadInput(
            f"{type(processor).__name__} names no image token, so no text could be written for it. "
            "Pass placeholder=, the text that represents one image."
        )
    images = _images()
    texts = [
        f"{words} {' '.join([token] * len(own))} cat."
        for words, own in zip(WORDS, images, strict=True)
    ]
    whole = _run(processor, texts, images, options)
    alone = [_alone(processor, text, own, options) for text, own in zip(texts, images, strict=True)]
    found = {key: _axis(value, [one.get(key) for one in alone]) for key, value in whole.items()}
    return Probe(
        {key: axis for key, (axis, _) in found.items()},
        {key: rows for key, (_, rows) in found.items()},
    )


def _images() -> list[list[Any]]:
    """Noise, so that no two rows are equal."""
    from PIL import Image

    noise = np.random.default_rng(0)
    drawn = iter(
        Image.fromarray(noise.integers(1, 255, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    )
    return [[next(drawn) for _ in range(count)] for count in IMAGES]


def _alone(
    processor: Any, text: str, images: list[Any], options: dict[str, Any]
) -> dict[str, np.ndarray]:
    """One sample's output; empty for a text-only sample that the processor refuses alone."""
    try:
        return _run(processor, [text], [images], options)
    except BadInput:
        if images:
            raise
        return {}


def _run(
    processor: Any, texts: list[str], images: list[list[Any]], options: dict[str, Any]
) -> dict[str, np.ndarray]:
    try:
        out = processor(
            text=texts,
            images=images if any(images) else None,
            padding=True,
            return_tensors="pt",
            **options,
        )
    except Exception as error:
        raise BadInput(
            f"{type(processor).__name__} could not be probed: for {len(texts)} texts with "
            f"{[len(own) for own in images]} images it raised {type(error).__name__}: {error}. "
            "Pass placeholder= if the text is at fault."
        ) from error
    return {key: to_numpy(value) for key, value in out.items() if hasattr(value, "shape")}


def _axis(whole: np.ndarray, alone: Sequence[np.ndarray | None]) -> tuple[Axis, tuple[int, ...]]:
    rows = tuple(0 if one is None else len(one) for one in alone)
    if rows == (1,) * len(IMAGES) or _is_padded_by_sample(whole, alone):
        return _sample_axis(whole, alone), (1,) * len(IMAGES)
    parts = [one for one in alone if one is not None and len(one)]
    if len(whole) != sum(rows) or not _same_rows(whole, parts):
        return Axis("ambiguous"), rows
    if rows == tuple(min(count, 1) for count in IMAGES):
        return Axis(SAMPLE_WITH_IMAGES), rows
    if rows == IMAGES:
        padded = "tile" if _grows(whole, parts) and whole.ndim >= 5 else None
        return Axis("image", padded=padded), rows
    return Axis("patch" if whole.ndim == 2 else "tile"), rows


def _is_padded_by_sample(whole: np.ndarray, alone: Sequence[np.ndarray | None]) -> bool:
    present = [(row, one) for row, one in enumerate(alone) if one is not None]
    return (
        len(whole) == len(IMAGES)
        and all(len(one) == 1 for _, one in present)
        and all(_same_rows(whole[row : row + 1], [one]) for row, one in present)
    )


def _sample_axis(whole: np.ndarray, alone: Sequence[np.ndarray | None]) -> Axis:
    """One row per sample; padded over something if the text-only sample had no row of its own."""
    if all(one is not None for one in alone) or whole.ndim < 2:
        return Axis("sample")
    own = [0 if one is None else one.shape[1] for one in alone]
    return Axis("sample", padded="image" if own == list(IMAGES) else "tile")


def _same_rows(whole: np.ndarray, parts: Sequence[np.ndarray]) -> bool:
    """Whether the parts, one after another, are the rows of the whole, padding aside."""
    row = 0
    for part in parts:
        ours = whole[row : row + len(part)]
        row += len(part)
        if ours.ndim != part.ndim:
            return False
        start = tuple(slice(0, min(a, b)) for a, b in zip(ours.shape, part.shape, strict=True))
        end = tuple(slice(a - min(a, b), None) for a, b in zip(ours.shape, part.shape, strict=True))
        end_of_part = tuple(
            slice(b - min(a, b), None) for a, b in zip(ours.shape, part.shape, strict=True)
        )
        if not (
            np.allclose(ours[start], part[start], atol=1e-5)
            or np.allclose(ours[end], part[end_of_part], atol=1e-5)
        ):
            return False
    return True


def _grows(whole: np.ndarray, parts: Sequence[np.ndarray]) -> bool:
    """Whether a dimension behind the rows is padded to the largest of the batch."""
    return any(part.shape[1:] != whole.shape[1:] for part in parts)
