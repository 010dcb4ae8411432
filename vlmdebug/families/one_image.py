"""Models that take exactly one image per sample: every key has one row per sample.

Text and pixels have the same rows, so that a slice by sample is right for all keys, and rows of
different samples are the only mistake. BLIP, GIT and Kosmos attend to the image or put it where
`image_embeds_position_mask` says; BLIP-2, InstructBLIP and Florence-2 replace placeholder tokens.
InstructBLIP also returns the text for its Q-Former. Read in transformers 5.23:
`modeling_blip_2.get_placeholder_mask`, `modeling_git.GitForCausalLM`,
`modeling_kosmos2.Kosmos2ForConditionalGeneration` and those of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.batch import Ambiguity
from vlmdebug.core.layout import Axis
from vlmdebug.core.rows import Counts
from vlmdebug.core.rules import KeyRules
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import features_of_rows
from vlmdebug.families.rules import (
    DECODER,
    INDEXED,
    INDEXED_UNEQUAL,
    MULTIPLIED,
    UNEQUAL,
    USUAL,
    with_mask,
)
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

_QFORMER = ("qformer_input_ids", "qformer_attention_mask")
_SOMETIMES = ("image_embeds_position_mask", *_QFORMER)
_PIXELS = frozenset({"pixel_values"})
_USUAL = replace(USUAL, sometimes_returned=frozenset(_SOMETIMES), raises_without=_PIXELS)
_ATTENDS = replace(_USUAL, checks_totals=False, no_placeholders=True)
"""The model attends to the images of a call, or puts them at a place of its own."""
_REPEATED = KeyRules(runs_with=frozenset({"one", "repeated"}))
"""GIT repeats its images until each row of the text has one (`modeling_git.GitModel`, 5.24)."""
_BLIP2 = replace(
    with_mask(_USUAL, MULTIPLIED),
    ignores_surplus_features=True,
    keys={"input_ids": KeyRules(runs_with=frozenset({"unbatched"}))},  # of a single sample
)
_INSTRUCTED = replace(
    _BLIP2,
    raises_without=_PIXELS | {"qformer_input_ids"},
    optional_if_all_ones=frozenset({"qformer_attention_mask"}),
)


class OneImage(Family):
    """One row per sample in every key, one image for each sample."""

    name = "one_image"
    models = ("blip", "blip-2", "instructblip", "git", "kosmos-2", "florence2")
    processors = ("blip_2", "kosmos2")
    axes = {
        "pixel_values": Axis("sample"),
        "image_embeds_position_mask": Axis("sample", columns=True),
        "qformer_input_ids": Axis("sample"),
        "qformer_attention_mask": Axis("sample"),
    }
    media = dict.fromkeys(axes, "image")
    shapes = {
        "pixel_values": "sample, channels, height, width",
        "image_embeds_position_mask": "sample, seq",
        "qformer_input_ids": "sample, qformer_seq",
        "qformer_attention_mask": "sample, qformer_seq",
    }
    feature_key = "pixel_values"
    rules = with_mask(
        replace(_ATTENDS, keys={"pixel_values": KeyRules(runs_with=frozenset({"one", "several"}))}),
        INDEXED,
    )
    variants = {
        **dict.fromkeys(["blip-2", "blip_2"], _BLIP2),  # by its config, and by its processor
        "instructblip": _INSTRUCTED,
        "git": with_mask(
            replace(_ATTENDS, raises_without=frozenset(), keys={"pixel_values": _REPEATED}),
            INDEXED_UNEQUAL,
        ),
        **dict.fromkeys(
            ["kosmos-2", "kosmos2"],
            with_mask(
                replace(_ATTENDS, raises_without=_PIXELS | {"image_embeds_position_mask"}), UNEQUAL
            ),
        ),
        "florence2": replace(
            _USUAL,
            causal=False,
            raises_without=frozenset(),
            tokens={**_USUAL.tokens, "decoder_input_ids": DECODER},
        ),
    }
    sizes = (1,)

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return False  # (row, 3, height, width) alone could also be one row per image or per tile

    def read(self, facts: BatchFacts) -> CountResult:
        key, samples = self.feature_key, facts.samples
        rows = facts.rows(key)
        given = facts.num_images
        if given is not None and set(given) != {1}:
            raise BadInput(
                f"num_images is {list(given)}, but {facts.metadata.model_type or self.name} takes "
                "exactly one image per sample. Pass one image with every text, or leave "
                "num_images= out."
            )
        if rows != samples:
            return CountResult({}, ambiguities=(_other_rows(key, rows, samples),))
        features, inferred = None, False
        if key == "pixel_values":
            features, inferred = features_of_rows(facts, key, self._views(facts))
        counts = {"image": Counts([1] * samples, "one image per sample")}
        return CountResult(counts, features, inferred=inferred)

    def _views(self, facts: BatchFacts) -> int:
        """Images in a row."""
        return 1

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        if set(spec.images_per_sample) != {1}:
            raise BadInput(
                f"images_per_sample is {list(spec.images_per_sample)}, but models of layout "
                f"{self.name} take exactly one image per sample. Pass a 1 for every sample."
            )
        samples = len(spec.images_per_sample)
        inputs = with_text(text([[]] * samples, spec.images_per_sample), placeholder=3, types=False)
        inputs["pixel_values"] = numbered(samples, 3, 2, 2)
        metadata = ProcessorMetadata(model_type=self.models[0])
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)


class OnePage(OneImage):
    """Kosmos-2.5: one row of flat patches per sample, padded to the largest page."""

    name = "kosmos-2.5"
    models = ("kosmos-2.5",)
    processors = ("kosmos2_5",)
    axes = {
        "flattened_patches": Axis("sample"),
        "width": Axis("sample"),
        "height": Axis("sample"),
        "image_embeds_position_mask": Axis("sample", columns=True),
    }
    media = dict.fromkeys(axes, "image")
    shapes = {
        "flattened_patches": "sample, patches, place_and_pixels",
        "width": "sample",
        "height": "sample",
        "image_embeds_position_mask": "sample, seq",
    }
    feature_key = "flattened_patches"
    rules = replace(
        _ATTENDS,
        ignored=_ATTENDS.ignored | {"width", "height"},
        raises_without=frozenset(),
        sometimes_returned=frozenset(),
        keys=dict.fromkeys(["width", "height"], KeyRules(runs_with=frozenset({"any"}))),
    )
    variants = {}

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get("flattened_patches") is not None

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        inputs, facts = super().synthesize(spec)
        samples = len(spec.images_per_sample)
        del inputs["pixel_values"]
        inputs["flattened_patches"] = numbered(samples, 4, 8)
        inputs["width"] = inputs["height"] = np.full(samples, 2, dtype=np.int64)
        inputs["image_embeds_position_mask"] = np.zeros_like(inputs["input_ids"])
        return inputs, replace(facts, metadata=ProcessorMetadata(model_type=self.name))


class OneVideo(OneImage):
    """InstructBLIP-Video: one video per sample, of as many frames each.

    The Q-Former reads the text of a sample with each of its frames
    (`modeling_instructblipvideo.get_video_features`, transformers 5.24).
    """

    name = "instructblipvideo"
    models = ("instructblipvideo",)
    processors = ()
    axes = {key: OneImage.axes[key] for key in ("pixel_values", *_QFORMER)}
    media = dict.fromkeys(axes, "image")
    shapes = {**OneImage.shapes, "pixel_values": "sample, frames, channels, height, width"}
    rules = replace(_INSTRUCTED, sometimes_returned=frozenset())
    variants = {}

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        pixels = inputs.get("pixel_values")
        return inputs.get("qformer_input_ids") is not None and getattr(pixels, "ndim", 0) == 5

    def _views(self, facts: BatchFacts) -> int:
        return int(facts.inputs["pixel_values"].shape[1])

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        inputs, facts = super().synthesize(spec)
        samples = len(spec.images_per_sample)
        inputs["pixel_values"] = numbered(samples, 4, 3, 2, 2)
        inputs["qformer_input_ids"] = inputs["input_ids"].copy()
        inputs["qformer_attention_mask"] = inputs["attention_mask"].copy()
        return inputs, replace(facts, metadata=ProcessorMetadata(model_type=self.name))


def _other_rows(key: str, rows: int, samples: int) -> Ambiguity:
    return Ambiguity(
        keys=(key,),
        unit="image",
        message=(
            f"{key} has {number(rows, 'row')} for {number(samples, 'sample')}, but the model "
            "takes one image per sample. Cutting it would be a guess, so it was not cut. Pass one "
            "image with each "
            f'text, or say what a row counts: layout={{"{key}": "image"}} with num_images=[…].'
        ),
    )
