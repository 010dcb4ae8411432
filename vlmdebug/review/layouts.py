"""All known layouts, as names of keys and what their rows count."""

from __future__ import annotations

from functools import cache

from vlmdebug.core.keys import AUDIO_KEYS, MEDIA_KEYS
from vlmdebug.core.layout import Axis
from vlmdebug.families import FAMILIES, Family, family_named
from vlmdebug.families.coverage import read_coverage
from vlmdebug.families.video_audio import BESIDE_VIDEOS, VIDEO_UNITS
from vlmdebug.review.keys import Keys

_OPTIONAL = frozenset(AUDIO_KEYS[1:])


@cache
def layouts(families: tuple[str, ...] | None = None) -> tuple[Keys, ...]:
    """The layouts of these families, or of all, with videos and audio if they take them.

    Raises:
        BadInput: No family has that name.
    """
    chosen = FAMILIES.values() if families is None else [family_named(name) for name in families]
    found = []
    for family in dict.fromkeys(chosen):
        optional = family.rules.sometimes_returned
        found.append(Keys(family.name, family.axes, optional, MEDIA_KEYS, _probed_keys()))
        if family.videos is not None:
            axes = {"pixel_values_videos": Axis(family.videos)}
            axes |= {key: Axis(VIDEO_UNITS[key]) for key in BESIDE_VIDEOS[family.videos]}
            found.append(_with(family, "videos", axes))
        if family.audio is not None:
            found.append(_with(family, "audio", {key: Axis("audio") for key in AUDIO_KEYS}))
    return tuple(found)


def _with(family: Family, media: str, axes: dict[str, Axis]) -> Keys:
    """A layout of other media, possibly with images."""
    optional = (_OPTIONAL & axes.keys()) | family.axes.keys()
    name = f"{family.name} with {media}"
    return Keys(name, axes, optional, MEDIA_KEYS, _probed_keys())


@cache
def _probed_keys() -> frozenset[str]:
    return frozenset(key for axes, _ in read_coverage().probed.values() for key in axes)
