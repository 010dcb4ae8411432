"""The batches that a slicer is tried on: what they are made of, drawn at random or asked for.

Tensors are made in the family's layout without a processor, so that a thousand cases take about
half a second. Each row of a tensor holds its own number: rows are told apart by what they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

from vlmdebug.batch import Batch
from vlmdebug.errors import BadInput
from vlmdebug.families import FAMILIES, BatchSpec, Family, family_named
from vlmdebug.families.base import ASKED_FOR, Facts, Hints
from vlmdebug.families.read import TOKEN_KEYS, assemble
from vlmdebug.families.release import as_released
from vlmdebug.families.streams import clip_axes, with_clips
from vlmdebug.families.tokens import with_token_keys
from vlmdebug.layout import STREAMS, plural
from vlmdebug.plan import as_counts

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

MAX_SAMPLES, MAX_IMAGES = 5, 3
WIDE_SAMPLES, WIDE_IMAGES = 8, 4
"""At most as many, in one case of ten."""
MAX_CLIPS = MAX_FRAMES = 2
SIDES = ("right", "left")

Pick = Callable[[int, int], int]
"""Gives a whole number between two, both of them included; the lower ones make simpler cases."""


@dataclass(frozen=True)
class Case:
    """What to make a batch of, and how to cut it."""

    spec: BatchSpec
    chunk_size: int

    def __repr__(self) -> str:
        return f"{self.spec!r}, chunk size {self.chunk_size}"

    @property
    def size(self) -> tuple[int, ...]:
        """How much there is to read, to sort cases by: samples, what is unusual, and the rest."""
        spec = self.spec
        sizes = *spec.sizes, *spec.frames
        keys = (spec.padding_side == "left") + sum(getattr(spec, key) for key in ASKED_FOR)
        clips = sum(spec.videos_per_sample) + sum(spec.audios_per_sample)
        unusual = sum(size > 1 for size in sizes) + keys + clips
        samples, images = len(spec.images_per_sample), sum(spec.images_per_sample)
        return samples, unusual, images, sum(sizes), self.chunk_size


@dataclass(frozen=True)
class Limits:
    """What the cases that are drawn may hold.

    Attributes:
        text_only: Whether there are samples without images.
        clips: Whether there are videos and audio clips, where the family's models take them; or
            which of the two.
        position_ids: Whether there are M-RoPE's `position_ids`, where its models take them.
        padding_side: Where shorter samples are padded, `"right"` or `"left"`; either if None.
    """

    text_only: bool = True
    clips: bool | Collection[str] = True
    position_ids: bool = True
    padding_side: str | None = None

    def clips_of(self, family: Family) -> list[str]:
        """Kinds of clips that are tried on a family."""
        if isinstance(self.clips, bool):
            return family.clips if self.clips else []
        return [unit for unit in family.clips if unit in self.clips]

    def __post_init__(self) -> None:
        if self.padding_side is not None:
            _check_side(self.padding_side)
        if isinstance(self.clips, str) or not (
            isinstance(self.clips, bool) or {*self.clips} <= {*STREAMS}
        ):
            raise BadInput(
                f"clips is {self.clips!r}, but it says whether videos and audio clips are tried, "
                'or which. Nothing was tried. Give True, False, ["video"] or ["audio"].'
            )


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
    second_per_grid_ts: bool = False,
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
        second_per_grid_ts: Whether there is `second_per_grid_ts`, `(video,)`, as Qwen2.5-VL's
            processor gives it beside videos.

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
    if second_per_grid_ts and not (known.timed and videos):
        raise BadInput(
            "second_per_grid_ts was asked for, but it has one row per video, and the batch has no "
            f"videos or {known.name} has no such key. Give videos_per_sample, too, of qwen2_5_vl."
        )
    asked = {"position_ids": position_ids, "second_per_grid_ts": second_per_grid_ts}
    return make(replace(spec, labels=labels, **asked))


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
    made = assemble(replace(facts, inputs=tensors), spec.family)
    released = as_released(made.layout, facts.hints.model_type, drawn=True)
    return made if released is made.layout else replace(made, layout=released)


def with_every_key(family: Family) -> Batch:
    """A batch with each key that some model of the family takes, the rare ones too.

    No model takes all of them, so only their rows mean something.
    """
    import torch

    clips = family.clips
    spec = BatchSpec(
        family.name,
        images_per_sample=(1, 0, 2),
        sizes=(family.sizes[0],) * 3,
        videos_per_sample=(0, 1, 1) if "video" in clips else (),
        frames=(1, 1) if "video" in clips else (),
        audios_per_sample=(2, 1, 0) if "audio" in clips else (),
        labels=True,
        position_ids=family.mrope,
    )
    batch = make(spec)
    inputs = dict(batch.inputs)
    inputs.setdefault("mm_token_type_ids", (inputs["input_ids"] == batch.image_token_id).long())
    for key in sorted(TOKEN_KEYS - inputs.keys()):
        inputs[key] = inputs["input_ids"].clone()
    others = {**family.axes, **clip_axes(family)}
    for key in [key for key in others if key not in inputs]:
        rows = batch.counts[others[key].unit].total
        inputs[key] = torch.full([rows] + [1] * family.shapes.get(key, "").count(","), 2)
    hints = Hints(model_type=family.name, image_token_id=batch.image_token_id)
    counts = {unit: tuple(counts) for unit, counts in batch.counts.items()}
    facts = Facts(inputs, hints, counts.get("image"), counts.get("tile"), counts)
    return assemble(facts, family.name)


# --- drawing -------------------------------------------------------------------------------


def simplest(family: Family, limits: Limits = Limits()) -> Iterator[Case]:
    """The cases to begin with, smallest first, of no more than two images per sample.

    One sample or two, then three or four that have as many images as there are samples: code that
    goes by the number of rows takes these for one image each.
    """
    side = limits.padding_side or "right"
    for samples in (1, 2, 3, 4):
        counts = product(range(_least(limits), 3), repeat=samples)
        for images in sorted(counts, key=sum):
            if samples <= 2 or sum(images) == samples:
                sizes = (family.sizes[0],) * sum(images)
                yield Case(BatchSpec(family.name, images, sizes, padding_side=side), 1)


def draw(family: Family, pick: Pick, limits: Limits = Limits()) -> Case:
    """One case of a family.

    Text-only samples, as many images as samples (which code takes for one each), equal sizes (which
    make mismatches silent), unequal ones, short last chunks and one chunk for all come often; more
    samples and images, and chunks larger than the batch, come now and then.
    """
    wide = pick(0, 9) == 9
    samples = pick(1, WIDE_SAMPLES if wide else MAX_SAMPLES)
    most = WIDE_IMAGES if wide else MAX_IMAGES
    images = _drawn_images(pick, samples, _least(limits), most)
    spec = BatchSpec(family.name, images, _drawn_sizes(family, pick, sum(images)))
    clips = limits.clips_of(family)
    if clips and pick(0, 1):
        spec = _with_drawn_clips(spec, family, clips, pick)
    spec = replace(
        spec,
        padding_side=limits.padding_side or SIDES[pick(0, 3) // 3],
        labels=pick(0, 3) == 3,
        position_ids=limits.position_ids and family.mrope and pick(0, 3) == 3,
    )
    return Case(spec, _drawn_chunk_size(pick, samples))


def cases(family: Family, limits: Limits = Limits()) -> SearchStrategy[Case]:
    """Hypothesis strategy of batches of one family and chunk sizes to cut them by."""
    from hypothesis import strategies as st

    @st.composite
    def drawn(choose: Any) -> Case:
        return draw(family, lambda low, high: choose(st.integers(low, high)), limits)

    return drawn()


def _least(limits: Limits) -> int:
    return 0 if limits.text_only else 1


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
    """One sample a chunk in half of the cases, for then no mistake hides behind its neighbour."""
    how = pick(0, 9)
    return 1 if how < 5 else samples + 1 if how == 9 else pick(1, samples)


def _drawn_sizes(family: Family, pick: Pick, images: int) -> tuple[int, ...]:
    """A size per image; all alike in every second case."""
    last = len(family.sizes) - 1
    if pick(0, 1) == 0:
        return (family.sizes[pick(0, last)],) * images
    return tuple(family.sizes[pick(0, last)] for _ in range(images))


def _with_drawn_clips(
    spec: BatchSpec, family: Family, kinds: Sequence[str], pick: Pick
) -> BatchSpec:
    """The specification with clips of one kind."""
    unit = kinds[pick(0, len(kinds) - 1)]
    clips = tuple(pick(0, MAX_CLIPS) for _ in spec.images_per_sample)
    if not any(clips):
        return spec
    if unit == "audio":
        return replace(spec, audios_per_sample=clips)
    frames = tuple(pick(1, MAX_FRAMES) for _ in range(sum(clips)))
    timed = family.timed and pick(0, 3) == 3
    return replace(spec, videos_per_sample=clips, frames=frames, second_per_grid_ts=timed)


# --- leaving out ---------------------------------------------------------------------------


class _Sample(NamedTuple):
    """What one sample of a case holds: a size per image, frames per video, audio clips."""

    images: tuple[int, ...]
    videos: tuple[int, ...]
    audios: int


def smaller(case: Case, limits: Limits = Limits()) -> Iterator[Case]:
    """Cases with one thing less, the largest steps first: samples, a clip, an image, a size.

    Where none of them fails as the case does, it is the smallest around.
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
        if limits.text_only or all(sample.images for sample in found):
            yield Case(_spec(case.spec, found), _chunk_size(case, len(found)))
    for spec in _plainer(case.spec, limits):
        yield Case(spec, case.chunk_size)
    for size in range(1, case.chunk_size):
        yield Case(case.spec, size)


def _fewer_of_both(samples: Sequence[_Sample]) -> Iterator[list[_Sample]]:
    """The samples without a text-only one and an image, so that their numbers still agree."""
    for gone, sample in enumerate(samples):
        for at, other in enumerate(samples):
            if not sample.images and other.images:
                less = [*samples[:at], other._replace(images=other.images[1:]), *samples[at + 1 :]]
                yield less[:gone] + less[gone + 1 :]


def _chunk_size(case: Case, samples: int) -> int:
    """The chunk size for so many samples: larger than the batch if it was that."""
    if case.chunk_size > len(case.spec.images_per_sample):
        return samples + 1
    return min(case.chunk_size, samples)


def _plainer(spec: BatchSpec, limits: Limits) -> Iterator[BatchSpec]:
    """The specification without one of the token keys, or padded as usual."""
    if spec.labels:
        yield replace(spec, labels=False)
    if spec.position_ids:
        yield replace(spec, position_ids=False)
    if spec.second_per_grid_ts:
        yield replace(spec, second_per_grid_ts=False)
    if spec.padding_side == "left" and limits.padding_side is None:
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
    """A specification of these samples; what is not theirs stays as it was."""
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
