"""Batches as the real processor returns them, with images a person can tell apart."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vlmdebug.core.given import public
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.tiny.drawing import Size, checked_counts, images
from vlmdebug.tiny.registry import Recipe, find_recipe, release_of

if TYPE_CHECKING:
    from transformers import BatchFeature
    from transformers.processing_utils import ProcessorMixin

# Represents one image in `texts`; it is replaced by the family's own placeholder.
MARKER = "<image>"

_PHRASES = (
    "What is in the picture?",
    "Which number do you read, and what colour is the shape around it?",
    "Describe.",
    "Is the circle larger than the square?",
    "Count the corners of each shape.",
    "Name the colour.",
    "Tell a short story about a small cat on a mat.",
)


@public
def batch(
    family: str,
    images_per_sample: Sequence[int] | None = None,
    *,
    sizes: Size | Sequence[Size] | None = None,
    seed: int = 0,
    texts: Sequence[str] | None = None,
    padding_side: str | None = None,
    processor: ProcessorMixin | None = None,
) -> BatchFeature:
    """Return the output of `family`'s real processor for drawn images and short texts.

    A batch without any image holds no media keys, as upstream. The default processor is built
    once per family and reused; it never leaves this function.

    Args:
        family: one of `families()`.
        images_per_sample: one count per sample, 0 for a text-only sample. `None` means
            `(2, 0, 1)`, or `(1, 1, 1)` if every sample of the family has one image.
        sizes: `(width, height)` of all images, or a list with one such pair per image.
            `None` cycles through a wide, a tall and a square size.
        seed: picks the images and the order of the texts.
        texts: one per sample. `<image>` marks where an image goes, once per image and in every
            family; a text without marks gets its images in front.
        padding_side: `"left"` or `"right"`; `None` leaves it to the tokenizer.
        processor: use this one, of the same family.

    Raises:
        BadInput: The family, a count, a size or a text is not one that can be used.
    """
    from vlmdebug.core.tensors import in_host_memory

    recipe = find_recipe(family)
    counts = _counts(family, recipe, images_per_sample)
    marked = _default_texts(counts, seed) if texts is None else _marked(texts, counts)
    pictures = images(counts, sizes, seed)
    padding = {} if padding_side is None else {"padding_side": padding_side}
    # Any: upstream types these options as a TypedDict of TypedDicts, but takes them flat too.
    process: Any = processor or _processor(family)
    with in_host_memory():
        made = process(
            text=[_written(text, recipe) for text in marked],
            # Most processors refuse a list of empty lists, but accept no images at all.
            images=_given(pictures, recipe) if any(counts) else None,
            padding=True,
            return_tensors="pt",
            **padding,
            **recipe.call,
        )
    if recipe.decoder and "input_ids" in made:
        made["decoder_input_ids"] = made["input_ids"].clone()
    return _cast(made) if recipe.cast else made


def _counts(family: str, recipe: Recipe, images_per_sample: Sequence[int] | None) -> list[int]:
    if images_per_sample is None:
        images_per_sample = (1, 1, 1) if recipe.one_image else (2, 0, 1)
    counts = checked_counts(images_per_sample)
    if recipe.one_image and set(counts) != {1}:
        raise BadInput(
            f"images_per_sample is {counts}, but {family} takes exactly one image per sample. "
            "Pass a 1 for every sample."
        )
    return counts


def _given(pictures: list[list[Any]], recipe: Recipe) -> list[Any]:
    """The images as the processor takes them: a list per sample, or one image or video each."""
    if not recipe.one_image:
        return pictures
    flat = [image for own in pictures for image in own]
    return [[image] * recipe.frames for image in flat] if recipe.frames else flat


def _cast(made: BatchFeature) -> BatchFeature:
    for key, value in made.items():
        if hasattr(value, "is_floating_point") and value.is_floating_point():
            made[key] = value.float()
    return made


def _written(text: str, recipe: Recipe) -> str:
    """The text as users of the family write it."""
    if recipe.text is None:
        return text.replace(MARKER, recipe.placeholder)
    marks = text.count(MARKER)
    plain = " ".join(text.replace(MARKER, "").split())
    return recipe.text(recipe.placeholder * marks + plain)


@functools.cache
def _processor(family: str) -> ProcessorMixin:
    recipe = find_recipe(family)
    with release_of(family):
        return recipe.processor()


def _default_texts(counts: Sequence[int], seed: int) -> list[str]:
    phrases = random.Random(seed).sample(_PHRASES, len(_PHRASES))
    return [
        " ".join([f"Sample {sample}:", *[MARKER] * count, phrases[sample % len(phrases)]])
        for sample, count in enumerate(counts)
    ]


def _marked(texts: Sequence[str], counts: Sequence[int]) -> list[str]:
    if isinstance(texts, str) or len(texts) != len(counts):
        given = "is one string" if isinstance(texts, str) else f"has {number(len(texts), 'entry')}"
        raise BadInput(
            f"texts {given}, but images_per_sample has {number(len(counts), 'sample')}. "
            "Pass a list with one text per sample."
        )
    return [_with_marks(sample, texts[sample], count) for sample, count in enumerate(counts)]


def _with_marks(sample: int, text: str, count: int) -> str:
    marks = text.count(MARKER)
    if marks not in (0, count):
        raise BadInput(
            f"The text of sample {sample} holds {MARKER} {number(marks, 'time')}, but the sample "
            f"has {number(count, 'image')}. Write it once per image, or leave it out to put all "
            "images in front."
        )
    return text if marks else " ".join([*[MARKER] * count, text])
