"""InternVL: pixel values have one row per tile, and no key of the batch holds the counts.

`pixel_values` is `(tile, 3, height, width)` over all images; the processor drops `num_patches`.
Each tile becomes `image_seq_length` placeholder tokens, so the runs of these tokens in `input_ids`
give the counts. In InternVL the tiles of an image are one run between its begin and end tokens. Aya
Vision, Ovis 2, Cohere 2 Vision and Llama 4 separate tiles by markers, so a run is a tile and the
begin and end tokens mark images (`spans`). Gemma 3 with pan-and-scan puts begin and end tokens
around each crop, so images per sample must be given; so must they for Aria with split images, which
also returns `pixel_mask`, one row per tile. Read in `processing_internvl.replace_image_token` of
transformers 5.23. A chunk without images must be given no `pixel_values`: zero rows raise "cannot
reshape tensor of 0 elements".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

from vlmdebug.core.batch import Ambiguity, Contradiction
from vlmdebug.core.layout import Axis
from vlmdebug.core.rows import Counts
from vlmdebug.core.wording import number
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import check_total, features_of_rows
from vlmdebug.families.rules import DESCRIBES, INDEXED, UNEQUAL, USUAL, with_mask
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

ONE_RUN_PER_IMAGE = (None, "internvl", "qianfan_ocr", "inkling_mm_model")
TOKENS = 2  # placeholder tokens per tile of synthesized batches


class InternVL(Family):
    """One row per tile, counted nowhere in the batch."""

    name = "internvl"
    models = (
        "internvl",
        "aya_vision",
        "ovis2",
        "qianfan_ocr",
        "cohere2_vision",
        "llama4",
        "got_ocr2",
        "pp_chart2table",
    )
    axes = {"pixel_values": Axis("tile"), "pixel_mask": Axis("tile")}
    media = dict.fromkeys(axes, "tile")
    shapes = {
        "pixel_values": "tile, channels, height, width",
        "pixel_mask": "tile, height, width",
    }
    also_takes = ("image_sizes",)  # modeling_internvl.forward, modeling_aya_vision.forward; 5.23
    feature_key = "pixel_values"
    feature_rules = ('[{n}] * len(inputs["pixel_values"])',)
    rules = replace(
        USUAL, sometimes_returned=frozenset({"pixel_mask"}), keys={"pixel_mask": DESCRIBES}
    )
    variants = {
        **dict.fromkeys(  # with pan-and-scan
            ["gemma3", "shieldgemma2"],
            with_mask(replace(rules, token_types_mark="images"), INDEXED),
        ),
        "llama4": replace(rules, seen=("5.23",)),  # 5.24 raises on every image
    }
    overview_first = ("ovis2",)

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return False  # (row, 3, height, width) alone could also be LLaVA, with one row per image

    def read(self, facts: BatchFacts) -> CountResult:
        tiles = facts.rows("pixel_values")
        features, inferred = features_of_rows(facts, "pixel_values")
        per_tile = features[0] if features else None
        images = self._images(facts)
        per_image = _tiles_per_image(facts.between_edges or facts.runs, per_tile, tiles)
        if facts.num_tiles is not None:
            check_total("num_tiles", facts.num_tiles, "pixel_values", tiles, "tile")
            counts = {"tile": Counts(facts.num_tiles, "num_tiles")}
        elif facts.samples == 1:
            counts = {"tile": Counts([tiles], "the batch has one sample")}
        elif per_image is not None:
            owned = [sum(sample) for sample in per_image]
            counts = {"tile": Counts(owned, f"runs of {facts.placeholder_source}")}
        else:
            doubt = ambiguous_tiles(facts, tiles, features)
            wrong = _other_images(facts)
            return CountResult(images, features, {}, (*wrong, doubt), inferred=inferred)
        flat: dict[str, tuple[int, ...]] = {}
        if per_image is not None and images and [sum(s) for s in per_image] == [*counts["tile"]]:
            flat["tile"] = tuple(chain.from_iterable(per_image))
            flat["feature"] = tuple([count * (per_tile or 0) for count in flat["tile"]])
            if "image" in images and [*map(len, per_image)] != list(images["image"]):
                flat = {}
        wrong = _other_images(facts)
        return CountResult({**images, **counts}, features, flat, wrong, inferred=inferred)

    def _images(self, facts: BatchFacts) -> dict[str, Counts]:
        if facts.num_images is not None:
            return {"image": Counts(facts.num_images, "num_images")}
        if facts.runs is not None and facts.metadata.model_type in ONE_RUN_PER_IMAGE:
            return {"image": Counts(map(len, facts.runs), f"runs of {facts.placeholder_source}")}
        return images_by_edges(facts)

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        image = 3
        tokens = [[7, *[image] * (TOKENS * tiles), 8] for tiles in spec.sizes]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        if spec.sizes:
            inputs["pixel_values"] = numbered(sum(spec.sizes), 3, 2, 2)
        metadata = ProcessorMetadata(
            model_type="internvl", image_token_id=image, features_per_tile=TOKENS
        )
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)


class Patches(InternVL):
    """Inkling: one row per patch, which is one feature, counted nowhere in the batch.

    `pixel_values` is `(tile, frames, height, width, channels)` over all images, each tile with its
    own placeholder token; the processor drops `num_patches`
    (`image_processing_inkling.InklingImageProcessor`, `modeling_inkling.get_image_features`,
    transformers 5.24).
    """

    name = "inkling_mm_model"
    models = ("inkling_mm_model",)
    processors = ("inkling",)
    axes = {"pixel_values": Axis("tile")}
    media = {"pixel_values": "tile"}
    shapes = {"pixel_values": "tile, frames_of_patch, patch_side, patch_side, channels"}
    also_takes = ()
    rules = with_mask(USUAL, UNEQUAL)
    variants = {}
    overview_first = ()

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        inputs, facts = super().synthesize(spec)
        if spec.sizes:
            inputs["pixel_values"] = numbered(TOKENS * sum(spec.sizes), 2, 2, 2, 3)
        known = replace(facts.metadata, model_type=self.name, features_per_tile=1)
        return inputs, replace(facts, inputs=inputs, metadata=known)


def _other_images(facts: BatchFacts) -> tuple[Contradiction, ...]:
    """Samples with a different number of images in the text than in `num_images`."""
    runs, given = facts.runs, facts.num_images
    if runs is None or given is None or facts.metadata.model_type not in ONE_RUN_PER_IMAGE[1:]:
        return ()
    if sum(given) != sum(map(len, runs)):
        return ()  # a run was lost or added, which is reported where runs are compared
    return tuple(
        Contradiction(
            (),
            None,
            f"num_images[{sample}] is {count}, but the text of sample {sample} has {len(own)} runs "
            "of placeholder tokens, one per image. Texts and images come in different orders, or "
            "num_images belongs to another batch. Pass the images in the order of the texts.",
            refused=False,
            silent=None,
        )
        for sample, (count, own) in enumerate(zip(given, runs, strict=True))
        if count != len(own)
    )


def images_by_edges(facts: BatchFacts) -> dict[str, Counts]:
    """Images per sample, where begin and end tokens pair up."""
    if facts.between_edges is None:
        return {}
    return {
        "image": Counts(
            map(len, facts.between_edges), "begin and end tokens of images in input_ids"
        )
    }


def _tiles_per_image(
    runs: tuple[tuple[int, ...], ...] | None, per_tile: int | None, tiles: int
) -> list[list[int]] | None:
    """Tiles of each image of each sample, from the runs; None if the runs do not determine them.

    A single truncated run gets the tiles that the other runs do not own.
    """
    if runs is None or not per_tile:
        return None
    found = [[run // per_tile for run in sample] for sample in runs]
    missing = tiles - sum(map(sum, found))
    if not missing and sum(map(sum, runs)) == tiles * per_tile:
        return found  # as nearly always: no run is short
    short = [
        (row, image)
        for row, sample in enumerate(runs)
        for image, run in enumerate(sample)
        if run % per_tile
    ]
    if len(short) == 1 and missing > 0:
        row, image = short[0]
        found[row][image] += missing
        return found
    return None


def ambiguous_tiles(facts: BatchFacts, tiles: int, features: tuple[int, ...] | None) -> Ambiguity:
    """Explain why tiles cannot be assigned to samples, and what to pass."""
    if facts.placeholders is None or not features:
        why = "nothing says how many placeholder tokens a tile becomes"
    else:
        tokens = sorted(set(features))
        at = str(tokens[0]) if len(tokens) == 1 else f"{tokens[0]} to {tokens[-1]}"
        why = (
            f"placeholder tokens per sample {list(facts.placeholders)} at "
            f"{at} per tile do not match them"
        )
    return Ambiguity(
        keys=("pixel_values",),
        unit="tile",
        message=(
            f"pixel_values has {number(tiles, 'tile')} for {number(facts.samples, 'sample')}, and "
            f"{why}. Tiles per sample cannot be known, so no chunk was cut. "
            f"Pass {_other_source(facts, features)}num_tiles=[…], "
            "how many tiles of each sample are in the batch."
        ),
    )


def _other_source(facts: BatchFacts, features: tuple[int, ...] | None) -> str:
    """What to pass to learn the tokens of a tile, where it was not passed."""
    if features:
        return ""
    return "config= or " if facts.metadata.processor_type is not None else "processor= or "
