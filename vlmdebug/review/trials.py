"""Small concrete batches of every known layout, as numpy arrays, for interpreted functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import cycle, islice

from vlmdebug.core.batch import Batch
from vlmdebug.families import FAMILIES, BatchSpec, Family, family_named
from vlmdebug.families.assemble import assemble
from vlmdebug.families.release import as_released
from vlmdebug.families.tokens import with_token_keys
from vlmdebug.families.video_audio import with_clips

IMAGES = ((2, 1), (1, 1), (1, 0, 2), (2, 1))
"""Media per sample of the batches, in the order in which they are tried."""
TEXT_ONLY = 2
"""The batch with a sample without media."""
SIZES = (1, 1, 2, 2)
"""Chunk sizes that go with them. Two samples with media in one chunk show a cut for one sample."""


@dataclass(frozen=True, eq=False)
class Trial:
    """A batch that functions are interpreted with.

    Attributes:
        layout: `gemma4`, or `gemma4 with videos`.
        batch: The batch, of numpy arrays.
        counts: Images, videos or audio clips per sample.
        media: What `counts` counts.
        size: The chunk size.
    """

    layout: str
    batch: Batch
    counts: tuple[int, ...]
    media: str
    size: int

    def __str__(self) -> str:
        return f"{self.media} per sample {list(self.counts)}, chunk size {self.size}"


@cache
def trials(families: tuple[str, ...] | None = None) -> dict[str, tuple[Trial, ...]]:
    """The trials of these families, or of all, by layout.

    Raises:
        BadInput: No family has that name.
    """
    chosen = FAMILIES.values() if families is None else [family_named(name) for name in families]
    found: dict[str, tuple[Trial, ...]] = {}
    for family in dict.fromkeys(chosen):
        found[family.name] = _trials(family, "image")
        for unit, name in (("video", "videos"), ("audio", "audio")):
            if unit in family.clips:
                found[f"{family.name} with {name}"] = _trials(family, unit, name)
    return found


def _trials(family: Family, unit: str, name: str = "") -> tuple[Trial, ...]:
    media = {"image": "images", "video": "videos", "audio": "audio clips"}[unit]
    layout = f"{family.name} with {name}" if name else family.name
    return tuple(
        Trial(layout, _batch(_spec(family, unit, counts)), counts, media, size)
        for counts, size in zip(IMAGES, SIZES, strict=True)
    )


def _spec(family: Family, unit: str, counts: Sequence[int]) -> BatchSpec:
    none, total = (0,) * len(counts), sum(counts)
    if unit == "image":
        sizes = tuple(islice(cycle(family.sizes), total))
        return BatchSpec(family.name, tuple(counts), sizes, labels=True)
    if unit == "video":
        frames = tuple(islice(cycle((1, 2)), total))
        return BatchSpec(family.name, none, (), tuple(counts), frames, labels=True)
    return BatchSpec(family.name, none, (), audios_per_sample=tuple(counts), labels=True)


def _batch(spec: BatchSpec) -> Batch:
    family = family_named(spec.family)
    inputs, facts = family.synthesize(spec)
    if spec.clips:
        inputs, facts = with_clips(family, inputs, facts, spec)
    inputs = with_token_keys(inputs, facts.metadata, spec)
    made = assemble(replace(facts, inputs=inputs), spec.family)
    rules = as_released(made.layout.rules, facts.metadata.model_type, drawn=True)
    return replace(made, layout=replace(made.layout, rules=rules))
