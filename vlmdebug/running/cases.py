"""The batches that a slicer is tested on: the simplest first, then random ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from vlmdebug.core.given import SIDES
from vlmdebug.families import FAMILIES, BatchSpec, Family, family_named
from vlmdebug.families.synthesize import ASKED_FOR
from vlmdebug.running.settings import DEFAULTS, FalsifySettings

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

MAX_SAMPLES, MAX_IMAGES = 5, 3
WIDE_SAMPLES, WIDE_IMAGES = 8, 4
"""Upper limits of samples and images, used in one case of ten."""
MAX_CLIPS = MAX_FRAMES = 2

Pick = Callable[[int, int], int]
"""Draws a whole number between two bounds, both included; lower numbers make simpler cases."""


@dataclass(frozen=True)
class Case:
    """The specification of a batch, and the chunk size."""

    spec: BatchSpec
    chunk_size: int

    def __repr__(self) -> str:
        return f"{self.spec!r}, chunk size {self.chunk_size}"

    @property
    def size(self) -> tuple[int, ...]:
        """Sort key for the size of a case: samples, unusual features, and the rest."""
        spec = self.spec
        sizes = *spec.sizes, *spec.frames
        keys = (spec.padding_side == "left") + sum(getattr(spec, key) for key in ASKED_FOR)
        clips = sum(spec.videos_per_sample) + sum(spec.audios_per_sample)
        unusual = sum(size > 1 for size in sizes) + keys + clips
        samples, images = len(spec.images_per_sample), sum(spec.images_per_sample)
        return samples, unusual, images, sum(sizes), self.chunk_size


def families_of(settings: FalsifySettings) -> list[Family]:
    """The families that are tried, in order.

    Raises:
        BadInput: A family is unknown.
    """
    names = settings.families
    if names is None:
        return list(FAMILIES.values())
    return [family_named(name) for name in ([names] if isinstance(names, str) else names)]


def simplest(family: Family, settings: FalsifySettings = DEFAULTS) -> Iterator[Case]:
    """The first cases, smallest first, with at most two images per sample.

    One or two samples, then three or four with as many images as samples: code that looks only at
    the number of rows assumes one image per sample there.
    """
    side = settings.padding_side or "right"
    for samples in (1, 2, 3, 4):
        counts = product(range(_least(settings), 3), repeat=samples)
        for images in sorted(counts, key=sum):
            if samples <= 2 or sum(images) == samples:
                sizes = (family.sizes[0],) * sum(images)
                yield Case(BatchSpec(family.name, images, sizes, padding_side=side), 1)


def draw(family: Family, pick: Pick, settings: FalsifySettings = DEFAULTS) -> Case:
    """One case of a family.

    Text-only samples, as many images as samples (code may assume one each), equal sizes (which make
    mismatches silent), unequal sizes, short last chunks and one chunk for all are frequent. More
    samples and images, and chunks larger than the batch, are rare.
    """
    wide = pick(0, 9) == 9
    samples = pick(1, WIDE_SAMPLES if wide else MAX_SAMPLES)
    most = WIDE_IMAGES if wide else MAX_IMAGES
    images = _drawn_images(pick, samples, _least(settings), most)
    spec = BatchSpec(family.name, images, _drawn_sizes(family, pick, sum(images)))
    clips = settings.clips_of(family)
    if clips and pick(0, 1):
        spec = _with_drawn_clips(spec, family, clips, pick)
    spec = replace(
        spec,
        padding_side=settings.padding_side or SIDES[pick(0, 3) // 3],
        labels=pick(0, 3) == 3,
        position_ids=settings.position_ids and family.mrope and pick(0, 3) == 3,
    )
    return Case(spec, _drawn_chunk_size(pick, samples))


def cases(family: Family, settings: FalsifySettings = DEFAULTS) -> SearchStrategy[Case]:
    """Hypothesis strategy for batches of one family and chunk sizes."""
    from hypothesis import strategies as st

    @st.composite
    def drawn(choose: Any) -> Case:
        return draw(family, lambda low, high: choose(st.integers(low, high)), settings)

    return drawn()


def _least(settings: FalsifySettings) -> int:
    return 0 if settings.text_only else 1


def _drawn_images(pick: Pick, samples: int, least: int, most: int) -> tuple[int, ...]:
    """Images of each sample; as many as there are samples in one case of three."""
    if pick(0, 2) < 2:
        return tuple(pick(least, most) for _ in range(samples))
    images = [1] * samples
    for at in range(samples):
        to = pick(0, samples - 1)
        if images[at] > least and images[to] < most:
            images[at] -= 1
            images[to] += 1
    return tuple(images)


def _drawn_chunk_size(pick: Pick, samples: int) -> int:
    """One sample per chunk in half of the cases, because no error hides in a larger chunk then."""
    how = pick(0, 9)
    return 1 if how < 5 else samples + 1 if how == 9 else pick(1, samples)


def _drawn_sizes(family: Family, pick: Pick, images: int) -> tuple[int, ...]:
    """A size per image; all equal in half of the cases."""
    last = len(family.sizes) - 1
    if pick(0, 1) == 0:
        return (family.sizes[pick(0, last)],) * images
    return tuple(family.sizes[pick(0, last)] for _ in range(images))


def _with_drawn_clips(
    spec: BatchSpec, family: Family, kinds: Sequence[str], pick: Pick
) -> BatchSpec:
    """The specification with clips of one kind (video or audio)."""
    unit = kinds[pick(0, len(kinds) - 1)]
    clips = tuple(pick(0, MAX_CLIPS) for _ in spec.images_per_sample)
    if not any(clips):
        return spec
    if unit == "audio":
        return replace(spec, audios_per_sample=clips)
    frames = tuple(pick(1, MAX_FRAMES) for _ in range(sum(clips)))
    timed = family.timed and pick(0, 3) == 3
    return replace(spec, videos_per_sample=clips, frames=frames, second_per_grid_ts=timed)
