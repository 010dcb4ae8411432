"""The batches that a slicer is tried on: what they are made of, drawn by Hypothesis or asked for.

Tensors are made in the family's layout without a processor, so that a thousand cases take about a
second. Each row of a tensor holds its own number: rows are told apart by what they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from vlmdebug.batch import Batch
from vlmdebug.errors import BadInput
from vlmdebug.families import FAMILIES, BatchSpec, Family, family_named
from vlmdebug.families.read import assemble
from vlmdebug.families.streams import with_clips
from vlmdebug.families.tokens import with_token_keys
from vlmdebug.layout import plural
from vlmdebug.plan import as_counts

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

MAX_SAMPLES = 5
MAX_IMAGES = 3
MAX_CLIPS = 2
SIDES = ("right", "left")


@dataclass(frozen=True)
class Case:
    """What to make a batch of, and how to cut it."""

    spec: BatchSpec
    chunk_size: int

    def __repr__(self) -> str:
        return f"{self.spec!r}, chunk size {self.chunk_size}"


def make_batch(
    family: str,
    images_per_sample: Sequence[int],
    sizes: Sequence[int] | None = None,
    *,
    videos_per_sample: Sequence[int] | None = None,
    frames: Sequence[int] | None = None,
    audios_per_sample: Sequence[int] | None = None,
    padding_side: str = "right",
    labels: bool = False,
    position_ids: bool = False,
) -> Batch:
    """A synthetic batch in `family`'s layout, made without processor or model.

    Args:
        family: Name of a layout family.
        images_per_sample: One number per sample, 0 for a text-only one.
        sizes: One number per image: what it means is the family's (grid, tiles or soft
            tokens). All are the family's smallest by default.
        videos_per_sample: One number per sample, where the family's models take videos.
        frames: One number per video; one frame each by default.
        audios_per_sample: One number per sample, where some of the family's models take audio.
        padding_side: Where shorter samples are padded, `"right"` or `"left"`.
        labels: Whether there are `labels`, as a collator makes them.
        position_ids: Whether there are M-RoPE's `position_ids`, `(3, sample, seq)`, as trainers
            compute them ahead; where the family's models take them.

    Raises:
        BadInput: The numbers do not fit together, or the family has no videos, audio or M-RoPE.
    """
    known, samples = family_named(family), len(images_per_sample)
    images = as_counts(images_per_sample, name="images_per_sample", samples=samples)
    if not images:
        raise BadInput("images_per_sample is empty, but a batch has at least one sample.")
    given = _sizes("sizes", "image", sizes, sum(images), known.sizes[0])
    videos = _clips(known, "video", videos_per_sample, samples)
    audios = _clips(known, "audio", audios_per_sample, samples)
    lengths = _sizes("frames", "video", frames, sum(videos), 1)
    _check_side(padding_side)
    _check_places(known, position_ids)
    spec = BatchSpec(known.name, images, given, videos, lengths, audios, padding_side)
    return make(replace(spec, labels=labels, position_ids=position_ids))


def _check_side(side: object) -> None:
    if side not in SIDES:
        raise BadInput(
            f"padding_side is {side!r}, but shorter samples are padded on the right or on the "
            'left. Nothing was made. Give "right" or "left".'
        )


def _check_places(family: Family, asked: bool) -> None:
    if asked and not family.mrope:
        takers = [other.name for other in FAMILIES.values() if other.mrope]
        raise BadInput(
            f"position_ids were asked for, but {family.name} is not known to take any of three "
            f"rows per sample (M-RoPE). Families that do: {', '.join(takers)}."
        )


def _clips(family: Family, unit: str, given: Sequence[int] | None, samples: int) -> tuple[int, ...]:
    """Clips of each sample; nothing where there are none."""
    if not given:
        return ()
    takers = [other.name for other in FAMILIES.values() if unit in other.clips]
    if unit not in family.clips:
        raise BadInput(
            f"{unit}s_per_sample was given, but {family.name} is not known to take {plural(unit)}. "
            f"Families that do: {', '.join(takers)}."
        )
    counts = as_counts(given, name=f"{unit}s_per_sample", samples=samples)
    return counts if any(counts) else ()


def _sizes(
    name: str, noun: str, given: Sequence[int] | None, total: int, default: int
) -> tuple[int, ...]:
    found = (default,) * total if given is None else tuple(given)
    if len(found) != total or not all(isinstance(size, int) and size > 0 for size in found):
        raise BadInput(
            f"{name} is {list(found)!r}, but the samples have {total} {noun}s. "
            f"Give one whole number above 0 per {noun}."
        )
    return found


def make(spec: BatchSpec) -> Batch:
    """The batch of a specification, with torch tensors."""
    import torch

    family = family_named(spec.family)
    inputs, facts = family.synthesize(spec)
    if spec.clips:
        inputs, facts = with_clips(family, inputs, facts, spec)
    inputs = with_token_keys(inputs, facts.hints, spec)
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    return assemble(replace(facts, inputs=tensors), spec.family)


def cases(family: Family, *, text_only: bool = True, clips: bool = True) -> SearchStrategy[Case]:
    """Hypothesis strategy of batches of one family and chunk sizes to cut them by.

    Text-only samples, equal sizes (which make mismatches silent), unequal ones, short last
    chunks and one chunk for all are drawn often.

    Args:
        family: The layout.
        text_only: Whether samples without images are drawn.
        clips: Whether videos and audio clips are drawn, where the family's models take them.
    """
    from hypothesis import strategies as st

    least = 0 if text_only else 1

    @st.composite
    def draw_case(draw: Any) -> Case:
        counts = st.lists(st.integers(least, MAX_IMAGES), min_size=1, max_size=MAX_SAMPLES)
        images = tuple(draw(counts))
        size = st.sampled_from(family.sizes)
        total = sum(images)
        alike = st.builds(lambda one: (one,) * total, size)
        mixed = st.lists(size, min_size=total, max_size=total).map(tuple)
        sizes = draw(st.one_of(alike, mixed))
        spec = BatchSpec(family.name, images, sizes)
        if clips and family.clips and draw(st.booleans()):
            unit = draw(st.sampled_from(family.clips))
            count = st.lists(st.integers(0, MAX_CLIPS), min_size=len(images), max_size=len(images))
            given = tuple(draw(count))
            if unit == "audio" and any(given):
                spec = replace(spec, audios_per_sample=given)
            elif any(given):
                length = st.lists(st.integers(1, 2), min_size=sum(given), max_size=sum(given))
                spec = replace(spec, videos_per_sample=given, frames=tuple(draw(length)))
        return Case(spec, draw(st.integers(1, len(images))))

    return draw_case()


class _Sample(NamedTuple):
    """What one sample of a case holds: a size per image, frames per video, audio clips."""

    images: tuple[int, ...]
    videos: tuple[int, ...]
    audios: int


def smaller(case: Case, *, text_only: bool = True) -> Iterator[Case]:
    """Cases with one thing less, the largest steps first: a sample, a clip, an image, a size.

    Where none of them fails as the case does, it is the smallest around.
    """
    samples = _samples(case.spec)
    fewer = [samples[:at] + samples[at + 1 :] for at in range(len(samples)) if len(samples) > 1]
    less = [
        [*samples[:at], one, *samples[at + 1 :]]
        for shrink in (_fewer_clips, _fewer_images, _smaller_things)
        for at, sample in enumerate(samples)
        for one in shrink(sample)
    ]
    for found in (*fewer, *less):
        if text_only or all(sample.images for sample in found):
            yield Case(_spec(case.spec.family, found), min(case.chunk_size, len(found)))
    if case.chunk_size > 1:
        yield Case(case.spec, case.chunk_size - 1)


def _fewer_clips(sample: _Sample) -> Iterator[_Sample]:
    for at in range(len(sample.videos)):
        yield sample._replace(videos=sample.videos[:at] + sample.videos[at + 1 :])
    if sample.audios:
        yield sample._replace(audios=sample.audios - 1)


def _fewer_images(sample: _Sample) -> Iterator[_Sample]:
    for at in range(len(sample.images)):
        yield sample._replace(images=sample.images[:at] + sample.images[at + 1 :])


def _smaller_things(sample: _Sample) -> Iterator[_Sample]:
    for name in ("images", "videos"):
        sizes = getattr(sample, name)
        for at, size in enumerate(sizes):
            if size > 1:
                yield sample._replace(**{name: (*sizes[:at], 1, *sizes[at + 1 :])})


def _samples(spec: BatchSpec) -> list[_Sample]:
    sizes, frames = iter(spec.sizes), iter(spec.frames)
    nothing = (0,) * len(spec.images_per_sample)
    return [
        _Sample(
            tuple(next(sizes) for _ in range(images)),
            tuple(next(frames) for _ in range(videos)),
            audios,
        )
        for images, videos, audios in zip(
            spec.images_per_sample,
            spec.videos_per_sample or nothing,
            spec.audios_per_sample or nothing,
            strict=True,
        )
    ]


def _spec(family: str, samples: Sequence[_Sample]) -> BatchSpec:
    frames = tuple(frame for sample in samples for frame in sample.videos)
    audios = tuple(sample.audios for sample in samples)
    return BatchSpec(
        family,
        tuple(len(sample.images) for sample in samples),
        tuple(size for sample in samples for size in sample.images),
        tuple(len(sample.videos) for sample in samples) if frames else (),
        frames,
        audios if any(audios) else (),
    )
