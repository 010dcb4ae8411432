"""The keys of a layout's batches: which they have, which they cannot have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property, lru_cache

from vlmdebug.core.keys import ALONG_TOKENS, BOOKKEEPING, KEYS, Kind
from vlmdebug.core.layout import Axis

TOKEN_KEYS = frozenset({"input_ids", "labels", *ALONG_TOKENS}) | {
    key.name for key in KEYS.values() if key.kind is Kind.TRAINER and key.of
}
"""Keys with one row per sample in every layout, TRL's names among them."""
COUNTS = {name: unit for name, unit in BOOKKEEPING.items() if KEYS[name].modality == "image"}
"""Lists per sample that go with a batch, and the unit they count."""
_PREFIXES = ("pixel", "image_", "video_", "aspect_", "spatial_")


@dataclass(frozen=True, eq=False)
class Keys:
    """The keys that batches with images have in one layout.

    Attributes:
        name: The layout, such as `gemma4` or `gemma4 with videos`.
        axes: Axis of every media key.
        optional: Keys that a batch may lack.
        everywhere: The keys of all layouts.
        elsewhere: Keys of processors that have no layout yet.
    """

    name: str
    axes: Mapping[str, Axis]
    optional: frozenset[str]
    everywhere: frozenset[str]
    elsewhere: frozenset[str] = frozenset()

    @cached_property
    def sure(self) -> frozenset[str]:
        tiles = any(axis.unit == "tile" for axis in self.axes.values())
        counts = {"num_images", *(["num_tiles"] if tiles else [])}
        return frozenset({*self.axes, *counts, "input_ids", "attention_mask"} - self.optional)

    def has(self, name: str) -> bool | None:
        """Whether a batch has the key; None if it may or may not, or if the key is unknown."""
        if name in self.sure:
            return True
        if name in self.optional or name in TOKEN_KEYS:
            return None
        if name in self.everywhere or name in COUNTS or self.nearest(name):
            return False
        return None

    def nearest(self, name: str) -> str | None:
        """The key closest to `name`, which no processor returns; None for any other name."""
        if name in self.elsewhere or name in self.everywhere or not name.startswith(_PREFIXES):
            return None
        return _nearest(name, self.everywhere)


@lru_cache(maxsize=10_000)
def _nearest(name: str, known: frozenset[str]) -> str | None:
    near = get_close_matches(name, sorted(known), 3, cutoff=0.75)
    return min(near, key=lambda key: key.startswith("video"), default=None)  # images have priority
