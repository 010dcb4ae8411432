"""Make a failing case smaller, one thing at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from vlmdebug.families import BatchSpec
from vlmdebug.running.cases import Case
from vlmdebug.running.settings import DEFAULTS, FalsifySettings


class _Sample(NamedTuple):
    """The contents of one sample of a case: a size per image, frames per video, audio clips."""

    images: tuple[int, ...]
    videos: tuple[int, ...]
    audios: int


def smaller(case: Case, settings: FalsifySettings = DEFAULTS) -> Iterator[Case]:
    """Cases with one thing less, the largest steps first: samples, a clip, an image, a size.

    If none of them fails in the same way, the case is the smallest.
    """
    samples = _samples(case.spec)
    fewer = [
        samples[:at] + samples[at + gone :]
        for gone in range(len(samples) - 1, 0, -1)
        for at in range(len(samples) - gone + 1)
    ]
    less = [
        [*samples[:at], one, *samples[at + 1 :]]
        for shrink in (_fewer_clips, _fewer_images, _smaller_things)
        for at, sample in enumerate(samples)
        for one in shrink(sample)
    ]
    for found in (*fewer, *_fewer_of_both(samples), *less):
        if settings.text_only or all(sample.images for sample in found):
            yield Case(_spec(case.spec, found), _chunk_size(case, len(found)))
    for spec in _plainer(case.spec, settings):
        yield Case(spec, case.chunk_size)
    for size in range(1, case.chunk_size):
        yield Case(case.spec, size)


def _fewer_of_both(samples: Sequence[_Sample]) -> Iterator[list[_Sample]]:
    """The samples without one text-only sample and one image, so that their numbers still agree."""
    for gone, sample in enumerate(samples):
        for at, other in enumerate(samples):
            if not sample.images and other.images:
                less = [*samples[:at], other._replace(images=other.images[1:]), *samples[at + 1 :]]
                yield less[:gone] + less[gone + 1 :]


def _chunk_size(case: Case, samples: int) -> int:
    """The chunk size for this many samples; larger than the batch if it was before."""
    if case.chunk_size > len(case.spec.images_per_sample):
        return samples + 1
    return min(case.chunk_size, samples)


def _plainer(spec: BatchSpec, settings: FalsifySettings) -> Iterator[BatchSpec]:
    """The specification without one of the token keys, or padded as usual."""
    if spec.labels:
        yield replace(spec, labels=False)
    if spec.position_ids:
        yield replace(spec, position_ids=False)
    if spec.second_per_grid_ts:
        yield replace(spec, second_per_grid_ts=False)
    if spec.padding_side == "left" and settings.padding_side is None:
        yield replace(spec, padding_side="right")


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
            for less in range(1, size):
                yield sample._replace(**{name: (*sizes[:at], less, *sizes[at + 1 :])})


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


def _spec(like: BatchSpec, samples: Sequence[_Sample]) -> BatchSpec:
    """A specification of these samples; the other fields do not change."""
    frames = tuple(frame for sample in samples for frame in sample.videos)
    audios = tuple(sample.audios for sample in samples)
    return replace(
        like,
        images_per_sample=tuple(len(sample.images) for sample in samples),
        sizes=tuple(size for sample in samples for size in sample.images),
        videos_per_sample=tuple(len(sample.videos) for sample in samples) if frames else (),
        frames=frames,
        audios_per_sample=audios if any(audios) else (),
        second_per_grid_ts=like.second_per_grid_ts and bool(frames),
    )
