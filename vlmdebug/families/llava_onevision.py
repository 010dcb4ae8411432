"""LLaVA-OneVision: the layout of LLaVA-NeXT, but tokens depend on the sample's other images.

`pixel_values` is `(image, max_tiles, 3, height, width)` and `image_sizes` `(image, 2)`.
`batch_num_images` has one row per sample *that has images*: `[2, 1]` for images per sample `[2, 0,
1]`. The only image of a sample is cut into tiles, and its tokens follow from its size ("anyres").
If a sample has several images, each becomes `num_image_tokens + 1` tokens. Read in
`processing_llava_onevision.replace_image_token` and `modeling_llava_onevision.get_image_features`
of transformers 5.23.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.layout import SAMPLE_WITH_IMAGES, Axis
from vlmdebug.core.rows import Counts
from vlmdebug.core.tensors import to_numpy
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import ambiguous_images, count_images, read_images
from vlmdebug.families.rules import SURPLUS, USUAL
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

_ZIPPED = replace(SURPLUS, when_no_media="either")
TOKENS = 2  # of an image with siblings in synthesized batches, without the newline


class LlavaOnevision(Family):
    """One row per image, and one count per sample that has images."""

    name = "llava_onevision"
    models = ("llava_onevision",)
    axes = {
        "pixel_values": Axis("image", padded="tile"),
        "image_sizes": Axis("image"),
        "batch_num_images": Axis(SAMPLE_WITH_IMAGES),
    }
    media = dict.fromkeys(axes, "image")
    shapes = {
        "pixel_values": "image, max_tiles, channels, height, width",
        "image_sizes": "image, 2",
        "batch_num_images": "sample with images",
    }
    feature_key = "image_sizes"
    rules = replace(
        USUAL,
        raises_without=frozenset({"image_sizes"}),
        keys={"pixel_values": SURPLUS, "image_sizes": _ZIPPED, "batch_num_images": _ZIPPED},
    )
    videos = "video"

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get("batch_num_images") is not None

    def resolve_variant(self, facts: BatchFacts) -> Family:
        """A flat list of images is counted image by image: `batch_num_images` is all ones."""
        return _FLAT if _is_flat(facts) else self

    def read(self, facts: BatchFacts) -> CountResult:
        owned = to_numpy(facts.inputs["batch_num_images"]).tolist()  # (sample with images,)
        if sum(owned) != facts.rows("image_sizes"):
            raise BadInput(
                f"batch_num_images adds up to {number(sum(owned), 'image')}, but image_sizes has "
                f"{number(facts.rows('image_sizes'), 'row')}, one per image. "
                "The two belong to different batches or one was cut without the other. "
                "Pass both as the processor returned them."
            )
        images = self._images(facts, owned)
        if images is None:
            found = ambiguous_images(facts, "image_sizes", sum(owned))
            found = replace(found, keys=(*found.keys, "batch_num_images"))
            features = self._features(facts, owned)
            return CountResult({}, features, {"feature": features} if features else {}, (found,))
        features = self._features(facts, images)
        counts = {
            "image": images,
            SAMPLE_WITH_IMAGES: Counts([int(n > 0) for n in images], images.evidence),
        }
        return CountResult(counts, features, {"feature": features} if features else {})

    def _images(self, facts: BatchFacts, owned: list[int]) -> Counts | None:
        """Images per sample: the counts in the batch, assigned to the samples with placeholders."""
        if facts.num_images is not None or facts.samples == 1:
            images, _ = count_images(facts, "image_sizes", None)
            if images is not None and [n for n in images if n] != owned:
                raise BadInput(
                    f"num_images is {list(images)}, but batch_num_images says {owned} of the "
                    "samples that have images. Both count the same images of the same samples. "
                    "Give as num_images how many images of each sample are in the batch."
                )
            return images
        if facts.placeholders is None or sum(map(bool, facts.placeholders)) != len(owned):
            return None
        rows = iter(owned)
        found = [next(rows) if tokens else 0 for tokens in facts.placeholders]
        return Counts(found, f"batch_num_images and {facts.placeholder_source}")

    def _features(self, facts: BatchFacts, images: Iterable[int]) -> tuple[int, ...] | None:
        metadata = facts.metadata
        if metadata.tokens_per_image is None or not metadata.features_per_tile:
            return None
        sizes = to_numpy(facts.inputs["image_sizes"]).tolist()  # (image, 2)
        alone = [count == 1 for count in images for _ in range(count)]
        anyres = metadata.tokens_per_image([(height, width) for height, width in sizes])
        return tuple(
            tokens if single else metadata.features_per_tile + 1
            for tokens, single in zip(anyres, alone, strict=True)
        )

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        alone = [count == 1 for count in spec.images_per_sample for _ in range(count)]
        tokens = [
            [image] * (2 + size if single else TOKENS + 1)
            for size, single in zip(spec.sizes, alone, strict=True)
        ]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        if spec.sizes:
            sizes = [(10 * size, 10 + row) for row, size in enumerate(spec.sizes)]
            inputs["pixel_values"] = numbered(len(spec.sizes), max(spec.sizes), 3, 2, 2)
            inputs["image_sizes"] = np.array(sizes, dtype=np.int64)
            owned = [count for count in spec.images_per_sample if count]
            inputs["batch_num_images"] = np.array(owned, dtype=np.int64)
        metadata = ProcessorMetadata(
            model_type="llava_onevision",
            image_token_id=image,
            features_per_tile=TOKENS,
            tokens_per_image=lambda sizes: [2 + height // 10 for height, _ in sizes],
        )
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)


class FlatLlavaOnevision(LlavaOnevision):
    """`batch_num_images` has one row per image, 1 each: the processor was given a flat list.

    Every image is then cut into tiles, as the only one of its sample
    (`image_processing_llava_onevision.preprocess`, transformers 5.23).
    """

    name = "llava_onevision_flat"
    axes = {**LlavaOnevision.axes, "batch_num_images": Axis("image")}
    shapes = {**LlavaOnevision.shapes, "batch_num_images": "image"}

    def resolve_variant(self, facts: BatchFacts) -> Family:
        return self

    def read(self, facts: BatchFacts) -> CountResult:
        return read_images(facts, "image_sizes", self._features(facts, [1] * _images(facts)))


_FLAT = FlatLlavaOnevision()


def _images(facts: BatchFacts) -> int:
    return facts.rows("image_sizes")


def _is_flat(facts: BatchFacts) -> bool:
    """Whether the counts are of single images, because no reading by sample is possible."""
    if not facts.has("image_sizes") or not facts.has("batch_num_images"):
        return False
    owned = to_numpy(facts.inputs["batch_num_images"]).tolist()
    if owned != [1] * _images(facts):
        return False
    if facts.num_images is not None:
        return sum(facts.num_images) == len(owned) and max(facts.num_images) > 1
    owners = None if facts.placeholders is None else sum(map(bool, facts.placeholders))
    return owners is not None and owners < len(owned)
