"""Run a processor on noise: each sample alone and all samples together, for `probe`.

A round is one such comparison. The first has small images, the second large ones, next to small
ones. Further rounds switch on each option that cuts images into tiles, and pass videos.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vlmdebug.core.tensors import to_numpy
from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

SMALL = (((200, 90), (100, 300)), (), ((160, 160),), ((200, 90), (120, 200)))
"""Width and height of each image of each sample, in no order, and one size in two samples: some
processors sort images by size or group those of one size."""
LARGE = (((1600, 1200),), (), ((160, 160),), ((640, 1400), (160, 160)))
FRAMES = ((3, 5), (), (4,))
"""Frames of each video of each sample."""
SIDE = 128
"""Height and width of a frame."""
WORDS = ("Compare", "Only text", "A small", "Two of")
TILING = (
    *("do_image_splitting", "do_pan_and_scan", "split_image", "crop_to_patches"),
    *("do_split_image", "do_slice", "slice_mode"),
)
"""Options of image processors that cut an image into tiles."""

Value = Any
"""What a key holds: an array, or a list of arrays, which may be lists again."""


@dataclass(frozen=True)
class Round:
    """What a processor returned for several samples, and for each of them alone.

    Attributes:
        medium: `"image"` or `"video"`.
        owned: Images or videos of each sample.
        whole: Each key of all samples together.
        alone: Each key of one sample; empty for a text that the processor refuses alone.
        options: Arguments that were switched on.
    """

    medium: str
    owned: tuple[int, ...]
    whole: Mapping[str, Value]
    alone: tuple[Mapping[str, Value], ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def rounds(processor: Any, token: str, options: Mapping[str, Any]) -> Iterator[Round]:
    """All rounds; only the first must succeed.

    Raises:
        BadInput: The processor takes no batch of several small images and a text.
    """
    yield _images(processor, token, SMALL, options)
    with suppress(BadInput):
        yield _images(processor, token, LARGE, options)
    for name in _switched_off(processor, options):
        with suppress(BadInput):
            found = _images(processor, token, LARGE, {**options, name: True})
            yield Round(**{**vars(found), "options": {name: True}})
    video = getattr(processor, "video_token", None)
    if isinstance(video, str) and getattr(processor, "video_processor", None) is not None:
        with suppress(BadInput):
            yield _videos(processor, video, options)


def _switched_off(processor: Any, options: Mapping[str, Any]) -> list[str]:
    images = getattr(processor, "image_processor", None)
    return [name for name in TILING if name not in options and getattr(images, name, 0) is False]


def _images(
    processor: Any,
    token: str,
    sizes: Sequence[Sequence[tuple[int, int]]],
    options: Mapping[str, Any],
) -> Round:
    from PIL import Image

    noise = np.random.default_rng(0)  # no two rows are equal
    drawn = [
        [
            Image.fromarray(noise.integers(1, 255, (height, width, 3), np.uint8))
            for width, height in own
        ]
        for own in sizes
    ]
    return _round(processor, "image", token, drawn, options)


def _videos(processor: Any, token: str, options: Mapping[str, Any]) -> Round:
    noise = np.random.default_rng(1)
    drawn = [
        [noise.integers(1, 255, (count, SIDE, SIDE, 3), dtype=np.uint8) for count in own]
        for own in FRAMES
    ]
    try:
        given = {**options, "do_sample_frames": False}
        return _round(processor, "video", token, drawn, given)
    except BadInput:  # it does not take the option
        return _round(processor, "video", token, drawn, options)


def _round(
    processor: Any,
    medium: str,
    token: str,
    drawn: Sequence[Sequence[Any]],
    options: Mapping[str, Any],
) -> Round:
    texts = [
        f"{words} {' '.join([token] * len(own))} cat."
        for words, own in zip(WORDS, drawn, strict=False)
    ]
    whole = _run(processor, medium, texts, drawn, options)
    alone = [
        _alone(processor, medium, text, own, options)
        for text, own in zip(texts, drawn, strict=True)
    ]
    return Round(medium, tuple(map(len, drawn)), whole, tuple(alone))


def _alone(
    processor: Any, medium: str, text: str, own: Sequence[Any], options: Mapping[str, Any]
) -> Mapping[str, Value]:
    """One sample's output; empty for a text-only sample that the processor refuses alone."""
    try:
        return _run(processor, medium, [text], [own], options)
    except BadInput:
        if own:
            raise
        return {}


def _run(
    processor: Any,
    medium: str,
    texts: Sequence[str],
    drawn: Sequence[Sequence[Any]],
    options: Mapping[str, Any],
) -> dict[str, Value]:
    media: Any = None
    if any(drawn):
        media = [*map(list, drawn)] if medium == "image" else [one for own in drawn for one in own]
    try:
        out = processor(
            text=[*texts], **{f"{medium}s": media}, padding=True, return_tensors="pt", **options
        )
        return {key: found for key in out if (found := plain(out[key])) is not None}
    except Exception as error:
        raise BadInput(
            f"{type(processor).__name__} could not be probed: for {len(texts)} texts with "
            f"{[len(own) for own in drawn]} {medium}s it raised {type(error).__name__}: "
            f"{one_line(error, 300)}. Pass placeholder= if the text is at fault."
        ) from error


def plain(value: Any) -> Value | None:
    """A tensor as an array, a nested tensor and a list as lists of these; None for anything else.

    >>> plain([1, 2]).tolist(), plain("text"), plain(["a", "b"]).tolist()
    ([1, 2], None, ['a', 'b'])
    """
    if getattr(value, "is_nested", False):
        return [plain(one) for one in value.unbind()]
    if hasattr(value, "shape"):
        return to_numpy(value) if len(value.shape) else None
    if not isinstance(value, (list, tuple)) or isinstance(value, str):
        return None
    if value and any(all(isinstance(one, kind) for one in value) for kind in ((int, float), str)):
        return np.asarray(value)
    parts = [_part(one) for one in value]
    return None if any(one is None for one in parts) or not parts else parts


def _part(value: Any) -> Value | None:
    """An entry of a list; an empty list is one too, for a sample without images."""
    if isinstance(value, (list, tuple)) and not value:
        return []
    if isinstance(value, (int, float)):
        return np.asarray([value])
    return plain(value)
