"""Names of keys in source: those of texts, counts, and names that are nearly a key."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache, lru_cache

from vlmdebug.core.keys import ALONG_TOKENS, BOOKKEEPING, KEYS, MEDIA_KEYS, Kind
from vlmdebug.families.coverage import read_coverage

TOKEN_KEYS = frozenset({"input_ids", "labels", *ALONG_TOKENS}) | {
    key.name for key in KEYS.values() if key.kind is Kind.TRAINER and key.of
}
"""Keys with one row per sample in every layout, TRL's names among them."""
KNOWN = frozenset({*MEDIA_KEYS, *TOKEN_KEYS, *BOOKKEEPING})
"""Keys of media and texts, and counts."""
ORDINARY = frozenset({"height", "width"})
"""Keys of media that are ordinary words, too."""
_REMOTE = frozenset({"image_grid_hws"})
"""Keys of processors outside of transformers: Kimi-VL's."""
PREFIXES = ("pixel", "image_", "video_", "aspect_", "spatial_")
"""What names begin with that may be meant as a media key."""


@cache
def _elsewhere() -> frozenset[str]:
    """Keys of processors that have no layout."""
    return frozenset(key for axes, _ in read_coverage().probed.values() for key in axes)


@lru_cache(maxsize=10_000)
def nearest(name: str) -> str | None:
    """The media key closest to `name`, which no processor returns; None for any other name."""
    if not name.startswith(PREFIXES) or name in KEYS or name in BOOKKEEPING:
        return None
    near = get_close_matches(name, sorted(MEDIA_KEYS), 3, cutoff=0.75)
    if not near or name in _REMOTE or name in _elsewhere():
        return None
    return min(near, key=lambda key: key.startswith("video"))  # images have priority
