"""`probe`: read a processor's layout off its own output, without knowing the model.

The processor is run on each sample alone and on all of them together. If the rows of a tensor for
the whole batch are the samples' own rows, one sample after another, each sample owns as many rows
as it had alone: one per image, or more (tiles, patches). A tensor with one row per sample keeps
that row, perhaps padded. Values are compared, not only shapes; the images are chosen so that no two
units have the same number. This holds for small and for large images, for videos, and with each
option that cuts images into tiles; a key that contradicts itself is ambiguous.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vlmdebug.core.given import public
from vlmdebug.core.layout import Axis
from vlmdebug.errors import BadInput
from vlmdebug.families.probe_axes import Length, Seen, least_rows, lengths_of, seen_in, settle
from vlmdebug.families.probe_runs import FRAMES, LARGE, SMALL, Round, rounds

IMAGES = tuple(map(len, SMALL))


@dataclass(frozen=True)
class Probe:
    """What a processor's output looks like.

    Attributes:
        axes: Axis of each key, read off the values; unit `"ambiguous"` if no interpretation fits.
        rows: Rows of each key that each probing sample has, in the first round with the key.
        images: Images per probing sample.
        reasons: Why a key is ambiguous.
        lengths: Keys that give the rows of another key, image by image.
        least: Fewest rows that an image had, where a key has other than one per image.
        holds: What the processor was run on, in words.
    """

    axes: Mapping[str, Axis]
    rows: Mapping[str, tuple[int, ...]]
    images: tuple[int, ...] = IMAGES
    reasons: Mapping[str, str] = field(default_factory=dict)
    lengths: Mapping[str, Length] = field(default_factory=dict)
    least: Mapping[str, int] = field(default_factory=dict)
    holds: str = ""

    def __str__(self) -> str:
        width = max(map(len, self.axes), default=0)
        lines = [f"{key:<{width}}  {axis}" for key, axis in self.axes.items()]
        return "\n".join([*lines, f"Seen with {self.holds}."] if self.holds else lines)


@public
def probe(processor: Any, *, placeholder: str | None = None, **options: Any) -> Probe:
    """Find what the rows of each tensor of `processor`'s output count.

    The answer holds for what the processor was run on: images of 90 to 1600 pixels a side, videos
    of a few frames if it takes them, and options that cut images into tiles (`Probe.holds`).

    Args:
        processor: A transformers processor for images and text.
        placeholder: The text that represents an image; `processor.image_token` by default.
        **options: Further arguments of every call of the processor.

    Raises:
        BadInput: The processor could not be run on several images, or on none.
    """
    token = placeholder or image_text(processor)
    if token is None:
        raise BadInput(
            f"{type(processor).__name__} names no image token, so no text could be written for it. "
            "Pass placeholder=, the text that represents one image."
        )
    ran = [*rounds(processor, token, options)]
    seen: dict[str, list[Seen]] = {}
    for one in ran:
        for key, value in one.whole.items():
            seen.setdefault(key, []).append(seen_in(one, key, value))
    settled = settle(seen)
    return Probe(
        {key: axis for key, (axis, _) in settled.items()},
        {key: found[0].rows for key, found in seen.items()},
        reasons={key: reason for key, (_, reason) in settled.items() if reason},
        lengths=lengths_of(ran, {key: axis for key, (axis, _) in settled.items()}),
        least=least_rows(seen),
        holds=_holds(ran),
    )


def image_text(processor: Any) -> str | None:
    """The text that represents an image, as the processor names it; None if it does not."""
    token = getattr(processor, "image_placeholder_token", None) or getattr(
        processor, "image_token", None
    )
    return token if isinstance(token, str) else None


def _holds(ran: list[Round]) -> str:
    """The sizes, options and videos of the rounds."""
    large = any(one.medium == "image" for one in ran[1:])
    sides = [side for own in (*SMALL, *(LARGE if large else ())) for size in own for side in size]
    words = [f"images of {min(sides)} to {max(sides)} pixels a side"]
    words += [f"{name}=True" for one in ran for name in one.options]
    if any(one.medium == "video" for one in ran):
        frames = [count for own in FRAMES for count in own]
        words.append(f"videos of {min(frames)} to {max(frames)} frames")
    *others, last = words
    return f"{', '.join(others)} and {last}" if others else last
