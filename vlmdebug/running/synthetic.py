"""`make_batch`: synthetic batches in a family's layout, without processor or model.

A thousand cases take about half a second to build. Each row of a tensor holds its own number, so
rows are identified by their values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import described, public
from vlmdebug.core.keys import TOKEN_KEYS
from vlmdebug.core.layout import plural
from vlmdebug.core.rows import as_counts
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.families import FAMILIES, BatchSpec, Family, family_named
from vlmdebug.families.assemble import assemble
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.families.release import as_released
from vlmdebug.families.tokens import with_token_keys
from vlmdebug.families.video_audio import clip_axes, with_clips

MOST_SIZE = 4096
"""Largest size number of a synthetic image."""


@public
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
        sizes: One number per image; its meaning depends on the family (grid, tiles or soft tokens).
            All are the family's smallest by default.
        videos_per_sample: One number per sample, if the family's models take videos.
        frames: One number per video; one frame each by default.
        audios_per_sample: One number per sample, if some of the family's models take audio.
        padding_side: Where shorter samples are padded, `"right"` or `"left"`.
        labels: Whether there are `labels`, as a collator makes them.
        position_ids: Whether there are M-RoPE's `position_ids`, `(3, sample, seq)`, as trainers
            compute them ahead; only if the family's models take them.
        second_per_grid_ts: Whether there is `second_per_grid_ts`, `(video,)`, as Qwen2.5-VL's
            processor returns it with videos.

    Raises:
        BadInput: The numbers do not fit together, or the family has no videos, audio or M-RoPE.
    """
    known = family_named(family)
    samples = len(images_per_sample) if hasattr(images_per_sample, "__len__") else 1
    images = as_counts(images_per_sample, name="images_per_sample", samples=samples)
    if not images:
        raise BadInput("images_per_sample is empty, but a batch has at least one sample.")
    given = _sizes("sizes", "image", sizes, sum(images), known.sizes[0])
    videos = _clips(known, "video", videos_per_sample, samples)
    audios = _clips(known, "audio", audios_per_sample, samples)
    lengths = _sizes("frames", "video", frames, sum(videos), 1)
    _check_places(known, position_ids)
    spec = BatchSpec(known.name, images, given, videos, lengths, audios, padding_side or "right")
    if second_per_grid_ts and not (known.timed and videos):
        takers = [other.name for other in FAMILIES.values() if other.timed]
        raise BadInput(
            "second_per_grid_ts was asked for, but it has one row per video, and the batch has no "
            f"videos or {known.name} has no such key. Give videos_per_sample, too, of "
            f"{', '.join(takers)}."
        )
    asked = {"position_ids": position_ids, "second_per_grid_ts": second_per_grid_ts}
    return make(replace(spec, labels=labels, **asked))


def _check_places(family: Family, asked: bool) -> None:
    if asked and not family.mrope:
        takers = [other.name for other in FAMILIES.values() if other.mrope]
        raise BadInput(
            f"position_ids were asked for, but {family.name} is not known to take any of three "
            f"rows per sample (M-RoPE). Families that do: {', '.join(takers)}."
        )


def _clips(family: Family, unit: str, given: Sequence[int] | None, samples: int) -> tuple[int, ...]:
    """Clips of each sample; empty if there are none."""
    if given is None or (hasattr(given, "__len__") and not len(given)):
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
    if given is not None and (isinstance(given, str) or not hasattr(given, "__iter__")):
        raise BadInput(
            f"{name} is {described(given)}, but it has one whole number above 0 per {noun}. "
            f"Give a list of {total}."
        )
    found = (default,) * total if given is None else tuple(given)
    if len(found) != total or not all(_is_size(size) for size in found):
        raise BadInput(
            f"{name} is {list(found)!r}, but the samples have {number(total, noun)}. "
            f"Give one whole number above 0 per {noun}."
        )
    return found


def _is_size(size: Any) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 < size <= MOST_SIZE


def make(spec: BatchSpec) -> Batch:
    """The batch of a specification, with torch tensors."""
    import torch

    family = family_named(spec.family)
    inputs, facts = family.synthesize(spec)
    if spec.clips:
        inputs, facts = with_clips(family, inputs, facts, spec)
    inputs = with_token_keys(inputs, facts.metadata, spec)
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    made = assemble(replace(facts, inputs=tensors), spec.family)
    rules = as_released(made.layout.rules, facts.metadata.model_type, drawn=True)
    if rules is made.layout.rules:
        return made  # as nearly all are
    return replace(made, layout=replace(made.layout, rules=rules))


def with_every_key(family: Family) -> Batch:
    """A batch with each key that some model of the family takes, including rare ones.

    No model takes all of them, so only their rows are meaningful.
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
    inputs.setdefault("mm_token_type_ids", (inputs["input_ids"] == batch.image.token_id).long())
    for key in sorted(TOKEN_KEYS - inputs.keys()):
        inputs[key] = inputs["input_ids"].clone()
    others = {**family.axes, **clip_axes(family)}
    for key in [key for key in others if key not in inputs]:
        rows = batch.counts[others[key].unit].total
        shape = [rows] + [1] * family.shapes.get(key, "").count(",")
        inputs[key] = torch.full(shape, 2, device=inputs["input_ids"].device)
    metadata = ProcessorMetadata(model_type=family.name, image_token_id=batch.image.token_id)
    counts = {unit: tuple(counts) for unit, counts in batch.counts.items()}
    facts = BatchFacts(inputs, metadata, counts.get("image"), counts.get("tile"), counts)
    return assemble(facts, family.name)
