"""Fuyu: one row per patch, which is one feature, of at most one image per sample.

`pixel_values` is `(tile, values)` over all images, each row with its own placeholder token; tokens
for line ends stand between the rows of an image. By default the processor returns the rows in
`image_patches`, their older name, which the model takes for `pixel_values`
(`processing_fuyu.FuyuProcessor`, `modeling_fuyu.FuyuForCausalLM`, transformers 5.24).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlmdebug.core.layout import Axis
from vlmdebug.core.rows import Counts
from vlmdebug.errors import BadInput
from vlmdebug.families.base import Family
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.image_counts import check_total
from vlmdebug.families.internvl import ambiguous_tiles
from vlmdebug.families.rules import USUAL
from vlmdebug.families.synthesize import BatchSpec, numbered, text, with_text

OLDER = "image_patches"
TOKENS = 3  # placeholder tokens per image of synthesized batches


class Fuyu(Family):
    """One row per patch, counted nowhere in the batch."""

    name = "fuyu"
    models = ("fuyu",)
    axes = {"pixel_values": Axis("tile")}
    media = {"pixel_values": "tile"}
    shapes = {"pixel_values": "patch, values"}
    feature_key = "pixel_values"
    feature_rules = ('[{n}] * len(inputs["pixel_values"])',)
    rules = USUAL
    sizes = (1,)

    def for_keys(self, inputs: Mapping[str, Any]) -> Family:
        """The same with the older name of the key, if the batch has that."""
        older = inputs.get(OLDER) is not None and inputs.get("pixel_values") is None
        return _OLDER if older else self

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return inputs.get(OLDER) is not None

    def read(self, facts: BatchFacts) -> CountResult:
        rows, tokens = facts.rows(self.feature_key), facts.placeholders
        features = (1,) * rows
        images = self._images(facts)
        if facts.num_tiles is not None:
            check_total("num_tiles", facts.num_tiles, self.feature_key, rows, "tile")
            owned = Counts(facts.num_tiles, "num_tiles")
        elif facts.samples == 1:
            owned = Counts([rows], "the batch has one sample")
        elif tokens is not None and sum(tokens) == rows:
            owned = Counts(tokens, facts.placeholder_source)
        else:
            return CountResult(images, features, {}, (ambiguous_tiles(facts, rows, features),))
        flat = tuple(count for count in owned if count)
        if "image" not in images or [*map(bool, owned)] != [*map(bool, images["image"])]:
            return CountResult({**images, "tile": owned}, features)
        return CountResult({**images, "tile": owned}, features, {"tile": flat, "feature": flat})

    def _images(self, facts: BatchFacts) -> dict[str, Counts]:
        given = facts.num_images
        if given is not None and max(given) > 1:
            raise BadInput(
                f"num_images is {list(given)}, but fuyu takes at most one image per sample. "
                "Pass a 0 or a 1 for each, or leave num_images= out."
            )
        if given is not None:
            return {"image": Counts(given, "num_images")}
        if facts.placeholders is None:
            return {}
        one = [min(count, 1) for count in facts.placeholders]
        return {"image": Counts(one, f"one image where there are {facts.placeholder_source}")}

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        if max(spec.images_per_sample) > 1:
            raise BadInput(
                f"images_per_sample is {list(spec.images_per_sample)}, but fuyu takes at most one "
                "image per sample. Pass a 0 or a 1 for every sample."
            )
        image = 3
        tokens = [[image] * TOKENS for _ in spec.sizes]
        inputs = with_text(text(tokens, spec.images_per_sample), placeholder=image, types=False)
        if spec.sizes:
            inputs[self.feature_key] = numbered(TOKENS * len(spec.sizes), 6)
        metadata = ProcessorMetadata(model_type="fuyu", image_token_id=image, features_per_tile=1)
        return inputs, BatchFacts(inputs, metadata, spec.images_per_sample)


class OlderFuyu(Fuyu):
    """Fuyu with `image_patches`."""

    name = "fuyu_older"
    axes = {OLDER: Axis("tile")}
    media = {OLDER: "tile"}
    shapes = {OLDER: "patch, values"}
    feature_key = OLDER
    feature_rules = ()
    rules = replace(USUAL, seen=())  # its calls were compared under the newer name only

    def for_keys(self, inputs: Mapping[str, Any]) -> Family:
        return self


_OLDER = OlderFuyu()
