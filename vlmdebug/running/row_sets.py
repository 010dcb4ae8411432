"""Sets of rows that a collator is tried on: the simplest, random ones, and smaller ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from vlmdebug.running.dataset_rows import SIZES, VIDEOS, RowSpec

MOST_ROWS, MOST_IMAGES, MOST_VIDEOS = 4, 3, 2
FIRST = (
    *(("i",), ("",), ("i", "i"), ("ii",), ("", "i"), ("i", ""), ("ii", "i"), ("i", "ii"), ("", "")),
)
WITH_VIDEOS = (
    *(("v",), ("v", "v"), ("vv",), ("", "v"), ("v", ""), ("vv", "v"), ("v", "vv")),
    *(("iv",), ("i", "v"), ("v", "i"), ("iv", "v"), ("v", "iv")),
)
"""Images and videos of each row of the first sets."""
Rows = tuple[RowSpec, ...]


def simplest(least: int, *, videos: bool) -> Iterator[Rows]:
    """The first sets; `least`: of media in each row."""
    for letters in (*FIRST, *(WITH_VIDEOS if videos else ())):
        if min(map(len, letters)) >= least:
            yield tuple(_spec(one, videos=videos) for one in letters)
    if videos:  # as many patches, in another shape
        yield RowSpec(videos=(1,)), RowSpec(videos=(2,))


def _spec(letters: str, *, videos: bool) -> RowSpec:
    shown = (0,) * letters.count("v") if videos else None
    return RowSpec((0,) * letters.count("i"), 0, shown)


def drawn(dice: Random, least: int, *, videos: bool) -> Rows:
    """Equal sizes in half of the sets, which make mismatches silent; a long text in some.

    With videos, half of the sets have some.
    """
    rows, equal = dice.randint(1, MOST_ROWS), dice.random() < 0.5
    size, length = dice.randrange(len(SIZES)), dice.randrange(len(VIDEOS))
    both = videos and dice.random() < 0.5

    def sizes(most: int, own: int, kinds: Sequence[object], fewest: int) -> tuple[int, ...]:
        return tuple(
            own if equal else dice.randrange(len(kinds)) for _ in range(dice.randint(fewest, most))
        )

    def row() -> RowSpec:
        shown = sizes(MOST_VIDEOS, length, VIDEOS, 0) if both else ()
        images = sizes(MOST_IMAGES, size, SIZES, max(least - len(shown), 0))
        return RowSpec(images, dice.choice((0, 0, 1, 1, 2)), shown if videos else None)

    return tuple(row() for _ in range(rows))


def smaller(specs: Rows, least: int) -> Iterator[Rows]:
    """Sets with a row less, an image or video less, a smaller one or a shorter text."""
    if len(specs) > 1:
        for at in range(len(specs)):
            yield specs[:at] + specs[at + 1 :]
    for at, spec in enumerate(specs):
        for one in _smaller_rows(spec, least):
            yield (*specs[:at], one, *specs[at + 1 :])


def _smaller_rows(spec: RowSpec, least: int) -> Iterator[RowSpec]:
    fewer = len(spec.images) + len(spec.videos or ()) > least
    for videos in _less(spec.videos or (), fewer=fewer):
        yield replace(spec, videos=videos)
    for images in _less(spec.images, fewer=fewer):
        yield replace(spec, images=images)
    for words in range(spec.words):
        yield replace(spec, words=words)


def _less(sizes: tuple[int, ...], *, fewer: bool) -> Iterator[tuple[int, ...]]:
    """One size left out, or a smaller one."""
    for at in range(len(sizes) if fewer else 0):
        yield sizes[:at] + sizes[at + 1 :]
    for at, size in enumerate(sizes):
        for less in range(size):
            yield (*sizes[:at], less, *sizes[at + 1 :])


def size_of(specs: Rows) -> tuple[int, ...]:
    """By what sets are sorted, smallest first."""
    sizes = [size for spec in specs for size in (*spec.images, *(spec.videos or ()))]
    clips = sum(len(spec.videos or ()) for spec in specs)
    return len(specs), len(sizes), clips, sum(sizes) + sum(spec.words for spec in specs)
