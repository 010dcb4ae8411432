"""Granite Docling: the layout of Idefics3, with a mask that has one value per tile.

`pixel_attention_mask` is `(sample, max_tiles)`, true for real tiles, and the model needs it. Every
image begins with a `<row_1_col_1>` token; a `<global-img>` token comes with images of several tiles
only (`processing_granite_docling.replace_image_token` and
`modeling_granite_docling.get_image_features`, transformers 5.23).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vlmdebug.core.rows import Counts
from vlmdebug.core.rules import KeyRules
from vlmdebug.families.facts import BatchFacts
from vlmdebug.families.idefics3 import Idefics3
from vlmdebug.families.rules import USUAL
from vlmdebug.families.synthesize import BatchSpec


class GraniteDocling(Idefics3):
    """One row per sample, padded over tiles."""

    name = "granite_docling"
    models = ("granite_docling",)
    shapes = {**Idefics3.shapes, "pixel_attention_mask": "sample, max_tiles"}
    feature_key = "pixel_attention_mask"  # features are those of the tiles that it marks
    rules = replace(
        USUAL,
        raises_without=frozenset({"pixel_attention_mask"}),
        keys={
            "pixel_values": KeyRules(may_skip_empty_rows=True),
            "pixel_attention_mask": KeyRules("either", may_skip_empty_rows=True, indexes=True),
        },
    )

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        mask = inputs.get("pixel_attention_mask")
        return getattr(inputs.get("pixel_values"), "ndim", 0) == 5 and getattr(mask, "ndim", 0) == 2

    def _images(self, facts: BatchFacts) -> dict[str, Counts]:
        start = facts.metadata.image_start_id
        if facts.num_images is not None or start is None:
            return super()._images(facts)
        counted = (facts.ids == start).sum(axis=1).tolist()
        return {"image": Counts(counted, "<row_1_col_1> tokens in input_ids")}

    def _per_image(self, facts: BatchFacts, tiles: Counts) -> dict[str, tuple[int, ...]]:
        """Tiles of each image: the runs of placeholder tokens up to the start of the next image."""
        start, mask = facts.metadata.image_start_id, facts.placeholder_mask
        if start is None or mask is None:
            return {}
        found: list[int] = []
        for ids, placeholder in zip(facts.ids, mask, strict=True):
            begins = np.flatnonzero(placeholder & ~np.roll(placeholder, 1))
            starts = [*np.flatnonzero(ids == start), len(ids)]
            found += np.diff(np.searchsorted(begins, starts)).tolist()
        return {"tile": tuple(found)} if sum(found) == tiles.total else {}

    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        inputs, facts = super().synthesize(spec)
        if spec.sizes:
            inputs["pixel_attention_mask"] = inputs["pixel_attention_mask"][:, :, 0, 0].astype(bool)
        metadata = replace(facts.metadata, model_type=self.name)
        return inputs, replace(facts, metadata=metadata)
