"""Real batches of the tiny families, and right chunks of them by counting what each sample owns.

Processing a sample alone shows what it owns: rows of its own, one after another, or one padded row
per sample. That is the whole oracle; no layout, grid or count of the package is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate
from typing import Any

import torch
from architectures import built

from vlmdebug import tiny
from vlmdebug.tiny.registry import ONE_IMAGE

KEPT_WITHOUT_IMAGES = {"mllama", "idefics"}
"""Families whose text-only samples keep a padded row of media (`modeling_mllama`, 5.23)."""
IMAGES = ((2, 0, 1), (1, 1), (1, 2, 1), (0, 1, 1, 2), (1, 1, 1))
ONE_EACH = ((1, 1, 1), (1, 1), (1, 1, 1, 1))
SIZES = (None, (160, 160))
SIDES = ("right", "left")
RIGHT_ONLY = {"kosmos-2", "kosmos-2.5"}
"""Families with a processor that places the image for padding on the right."""


@dataclass(frozen=True, eq=False)
class Sound:
    """One batch as the real processor returns it.

    Attributes:
        owned: Rows of each media key that each sample owns; None for one row per sample.
    """

    family: str
    images: tuple[int, ...]
    inputs: Mapping[str, Any]
    owned: Mapping[str, tuple[int, ...] | None]

    @property
    def model(self) -> Any:
        return built(self.family)[0]

    @property
    def processor(self) -> Any:
        return built(self.family)[1]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Keys of its tokens with values that follow by no rule which is known."""
        return ()

    @property
    def media(self) -> list[str]:
        return [key for key in self.inputs if key in self.owned]

    @property
    def tokens(self) -> list[str]:
        return [key for key in self.inputs if key not in self.owned]

    @cached_property
    def real(self) -> torch.Tensor:
        return self.inputs["attention_mask"].bool()  # (sample, seq)

    @cached_property
    def logits(self) -> torch.Tensor:
        """Of the whole batch, `(sample, seq, vocab)`."""
        return run(self.model, self.inputs)

    def chunk(self, samples: range, of: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What a chunk of these samples should get, as views of `of` (the batch's own tensors)."""
        inputs = self.inputs if of is None else of
        rows = slice(samples.start, samples.stop)
        chunk = {
            key: inputs[key][:, rows] if key == "position_ids" else inputs[key][rows]
            for key in self.tokens
        }
        for key in self.media:
            if any(self.needs(key, sample) for sample in samples):
                ends = [0, *accumulate(self.owned[key] or [1] * len(self.images))]
                chunk[key] = inputs[key][ends[samples.start] : ends[samples.stop]]
        return chunk

    def needs(self, key: str, sample: int) -> bool:
        """Whether a chunk with this sample must have that media key."""
        return self.images[sample] > 0 or self.family in KEPT_WITHOUT_IMAGES

    def chunks(self, size: int) -> list[range]:
        total = len(self.images)
        return [range(start, min(start + size, total)) for start in range(0, total, size)]


def run(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
    """Logits of the tokens of the text, which GIT makes after those of its image."""
    with torch.no_grad():
        return model(**inputs).logits[:, -inputs["input_ids"].shape[1] :]


@cache
def sound(family: str, images: tuple[int, ...], size: Any, side: str, seed: int) -> Sound:
    """A batch of so many images per sample."""
    options: dict[str, Any] = {"sizes": size, "padding_side": side, "seed": seed}
    inputs = dict(tiny.batch(family, images, **options))
    media = _media_keys(family)
    owned = {key: _owned(family, key, images, size, seed) for key in inputs if key in media}
    return Sound(family, images, inputs, owned)


@cache
def _media_keys(family: str) -> frozenset[str]:
    """Keys that a batch has because it has images."""
    per_sample = _per_sample(family)
    return frozenset(per_sample)


@cache
def _per_sample(family: str) -> dict[str, bool]:
    """Each media key, and whether it has one padded row per sample.

    In a batch of two samples and three images, with two in the first, no other unit has two rows.
    With one image in each sample, all keys of images have a row for each.
    """
    if family in ONE_IMAGE:
        both = dict(tiny.batch(family, [1, 1], sizes=(96, 64)))
        text = ("input_ids", "attention_mask", "decoder_input_ids")
        return {key: len(value) == 2 for key, value in both.items() if key not in text}
    one, other = (dict(tiny.batch(family, [count], sizes=(96, 64))) for count in (2, 1))
    both = dict(tiny.batch(family, [2, 1], sizes=(96, 64)))
    tokens = tuple(both["input_ids"].shape)
    found = {}
    for key, value in both.items():
        if tuple(value.shape) == tokens or key in ("labels", "position_ids"):
            continue
        found[key] = len(one[key]) == len(other[key]) == 1 and key != "batch_num_images"
    return found


def _owned(
    family: str, key: str, images: tuple[int, ...], size: Any, seed: int
) -> tuple[int, ...] | None:
    if _per_sample(family)[key]:
        return None
    return _alone(family, images, size, seed)[key]


@cache
def _alone(
    family: str, images: tuple[int, ...], size: Any, seed: int
) -> Mapping[str, tuple[int, ...]]:
    """Rows of each key that each sample has when it is processed alone, with its own sizes."""
    from vlmdebug.tiny.drawing import DEFAULT_SIZES

    every = [
        DEFAULT_SIZES[n % len(DEFAULT_SIZES)] if size is None else size for n in range(sum(images))
    ]
    sizes, rows = iter(every), {key: list[int]() for key in _media_keys(family)}
    for count in images:
        own = [next(sizes) for _ in range(count)]
        made = dict(tiny.batch(family, [count], sizes=own, seed=seed)) if count else {}
        for key, found in rows.items():
            found.append(len(made[key]) if key in made else 0)
    return {key: tuple(found) for key, found in rows.items()}


def pool(family: str, seeds: int = 1) -> Iterator[Sound]:
    """Batches of a family: equal images and unequal ones, padded on either side."""
    for seed in range(seeds):
        for images in ONE_EACH if family in ONE_IMAGE else IMAGES:
            for number, size in enumerate(SIZES):
                side = SIDES[(number + len(images) + seed) % 2]
                side = "right" if family in RIGHT_ONLY else side
                yield sound(family, images, size, side, seed)
