"""Idefics3 and SmolVLM: pixel values have one row per sample, padded over its tiles.

`pixel_values` is `(sample, max_tiles, 3, height, width)` and `pixel_attention_mask`
`(sample, max_tiles, height, width)`. Padding tiles are all zero, in pixels and mask; the model
itself drops tiles with only zero pixels (`modeling_idefics3.get_image_features`, transformers
5.23). A real tile's mask begins with 1 at its first pixel, so one pixel of each mask tells real
tiles from padding. Each tile becomes `image_seq_len` placeholder tokens, and each image ends with
one global tile, marked by a `<global-img>` token.

A chunk without images must be given no `pixel_values`: with its padded row Idefics3 raises
"cannot reshape tensor of 0 elements" and SmolVLM makes features of the padding ("tokens: 0,
features: 4"). Next to a sample with images, the padded row of a text-only sample is harmless; so is
    leaving it out of both keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.layout import Axis
from vlmdebug.core.rows import Counts
from vlmdebug.core.rules import KeyRules
from vlmdebug.core.tensors import to_numpy
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import check_total, split_by_placeholders
from vlmdebug.families.rules import DESCRIBES, USUAL
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

TOKENS = 2  # placeholder tokens per tile of synthesized batches


class Idefics3(Family):
    """One row per sample, padded over tiles."""

    name = "idefics3"
    models = ("idefics3", "smolvlm")
    axes = {
        "pixel_values": Axis("sample", padded="tile"),
        "pixel_attention_mask": Axis("sample", padded="tile"),
    }
    media = dict.fromkeys(axes, "tile")
    shapes = {
        "pixel_values": "sample, max_tiles, channels, height, width",
        "pixel_attention_mask": "sample, max_tiles, height, width",
    }
    feature_key = "pixel_values"
    rules = replace(
        USUAL,
        optional_if_all_ones=frozenset({"pixel_attention_mask"}),
        sometimes_returned=frozenset({"pixel_attention_mask"}),
        keys={
            "pixel_values": KeyRules(may_skip_empty_rows=True),
            "pixel_attention_mask": replace(DESCRIBES, may_skip_empty_rows=True),
        },
    )

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        pixels, mask = inputs.get("pixel_values"), inputs.get("pixel_attention_mask")
        shapes = getattr(pixels, "ndim", 0) == 5 and getattr(mask, "ndim", 0) == 4
        return shapes and len(inputs["pixel_values"]) == len(inputs["input_ids"])

    def read(self, facts: BatchFacts) -> CountResult:
        images = self._images(facts)
        tiles = self._tiles(facts, images)
        if tiles is None:
            return CountResult(images)
        per_tile = facts.metadata.features_per_tile
        features = tuple(count * per_tile for count in tiles) if per_tile else None
        return CountResult({**images, "tile": tiles}, features, self._per_image(facts, tiles))

    def flattened(self, facts: BatchFacts) -> int | None:
        """See `modeling_idefics3.get_image_features`, and that of Idefics 2 (transformers 5.24)."""
        per_tile, rows = (
            facts.metadata.features_per_tile,
            {*map(facts.rows, facts.present(self.axes))},
        )
        known = per_tile and len(rows) == 1 and facts.inputs["pixel_values"].ndim == 5
        return sum(_real_rows(facts)) * per_tile if per_tile and known else None

    def resolve_variant(self, facts: BatchFacts) -> Family:
        """SmolVLM returns one row per video, flat over the samples."""
        return _VIDEOS if _are_videos(facts) else self

    def _per_image(self, facts: BatchFacts, tiles: Counts) -> dict[str, tuple[int, ...]]:
        """Tiles of each image: the runs of placeholder tokens up to the run of its global tile."""
        marker, mask = facts.metadata.global_image_id, facts.placeholder_mask
        if marker is None or mask is None:
            return {}
        found: list[int] = []
        for ids, placeholder in zip(facts.ids, mask, strict=True):
            begins = np.flatnonzero(placeholder & ~np.roll(placeholder, 1))
            ends = np.searchsorted(begins, np.flatnonzero(ids == marker) + 1, side="right")
            found += np.diff(ends, prepend=0).tolist()
        return {"tile": tuple(found)} if sum(found) == tiles.total else {}

    def _tiles(self, facts: BatchFacts, images: dict[str, Counts]) -> Counts | None:
        if any(facts.rows(key) != facts.samples for key in self.axes if facts.has(key)):
            return None  # rows of samples are missing: the samples of these tiles are unknown
        if facts.has("pixel_attention_mask"):
            return Counts(_real_rows(facts), "pixel_attention_mask")
        per_tile = facts.metadata.features_per_tile
        if facts.placeholders is not None and per_tile:
            return Counts(
                [count // per_tile for count in facts.placeholders], facts.placeholder_source
            )
        return images.get("image")

    def _images(self, facts: BatchFacts) -> dict[str, Counts]:
        if facts.num_images is not None:
            return {"image": Counts(facts.num_images, "num_images")}
        marker = facts.metadata.global_image_id
        if marker is not None:
            counted = (facts.ids == marker).sum(axis=1).tolist()
            return {"image": Counts(counted, "<global-img> tokens in input_ids")}
        return {}

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image, marker = 3, 9
        tokens = [
            [*[7, *[image] * TOKENS] * (size - 1), marker, *[image] * TOKENS] for size in spec.sizes
        ]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        sizes = iter(spec.sizes)
        tiles = [sum(next(sizes) for _ in range(count)) for count in spec.images_per_sample]
        if spec.sizes:
            pixels = numbered(len(tiles), max(tiles), 3, 2, 2)
            mask = np.ones((len(tiles), max(tiles), 2, 2), dtype=np.int64)
            mask[..., 1] = pixels[..., 1] = 0  # each image is narrower than its frame
            for row, count in enumerate(tiles):
                pixels[row, count:] = 0
                mask[row, count:] = 0
            inputs["pixel_values"], inputs["pixel_attention_mask"] = pixels, mask
        metadata = ProcessorMetadata(
            model_type="idefics3",
            image_token_id=image,
            global_image_id=marker,
            features_per_tile=TOKENS,
        )
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)


class SmolVLMVideos(Idefics3):
    """One row per video, padded over frames; each frame becomes the features of a tile.

    `video_processing_smolvlm._preprocess` returns them under the keys of images. The model flattens
    all rows and drops frames of zeros (`modeling_smolvlm.get_image_features`), although their mask
    is 1. Read in transformers 5.23.
    """

    name = "smolvlm_videos"
    axes = dict.fromkeys(Idefics3.axes, Axis("video", padded="frame"))
    media = dict.fromkeys(axes, "video")
    shapes = {key: names.replace("sample", "video") for key, names in Idefics3.shapes.items()}

    def resolve_variant(self, facts: BatchFacts) -> Family:
        return self

    def read(self, facts: BatchFacts) -> CountResult:
        frames, per_tile = _real_rows(facts), facts.metadata.features_per_tile
        features = tuple(count * per_tile for count in frames) if per_tile else None
        given = facts.clips.get("video")
        if given is not None:
            check_total("num_videos", given, "pixel_values", len(frames), "video")
            counts = Counts(given, "num_videos")
        else:
            found = split_by_placeholders(features or (), facts.placeholders or ())
            assert found is not None  # or else it is not read as videos
            counts = Counts(found, f"{facts.placeholder_source} against pixel_values")
        pieces = tuple((per_tile,) * count for count in frames) if per_tile else None
        return CountResult({"video": counts}, features, pieces=pieces)


_VIDEOS = SmolVLMVideos()


def _are_videos(facts: BatchFacts) -> bool:
    """Whether the rows are videos: as many as given, or as the text has frames where and only where
    they are not read as samples.
    """
    names = {facts.metadata.model_type, facts.metadata.processor_type}
    rows, given = facts.rows("pixel_values"), facts.clips.get("video")
    if "smolvlm" not in names:
        return False
    if given is not None and any(given):
        return sum(given) == rows
    per_tile, placeholders = facts.metadata.features_per_tile, facts.placeholders
    if not per_tile or placeholders is None:
        return False
    features = [count * per_tile for count in _real_rows(facts)]
    by_sample = features == [*placeholders]
    return not by_sample and split_by_placeholders(features, placeholders) is not None


def _real_rows(facts: BatchFacts) -> list[int]:
    """Tiles or frames of each row without padding: those that are not all zero.

    One value of each decides nearly always; the mask of a padded frame of a video is 1. A mask of
    tiles, `(row, max_tiles)`, chooses them whatever they hold
    (`modeling_granite_docling.get_image_features`, transformers 5.24); one of pixels does not.
    """
    pixels, mask = facts.inputs["pixel_values"], facts.inputs.get("pixel_attention_mask")
    if mask is not None and mask.ndim == 2:
        return (to_numpy(mask) != 0).sum(axis=1).tolist()
    real = to_numpy(pixels[:, :, 0, 0, 0]) != 0  # (row, max_tiles)
    masked = real | True if mask is None else to_numpy(mask[:, :, 0, 0]).astype(bool)
    if masked.shape != real.shape:
        return masked.sum(axis=1).tolist()
    for row, tile in np.argwhere(masked & ~real).tolist():
        real[row, tile] = bool((pixels[row, tile] != 0).any())
    return real.sum(axis=1).tolist()
