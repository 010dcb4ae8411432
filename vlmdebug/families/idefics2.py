"""Idefics2: the layout of Idefics3, padded over whole images instead of tiles.

Each image becomes `image_seq_len` placeholder tokens in a run of its own between
`<fake_token_around_image>` tokens (`processing_idefics2.Idefics2Processor`, transformers 5.23), so
that runs count images. With `do_image_splitting=True` each image is five rows and five runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdebug.core.layout import Axis
from vlmdebug.core.rows import Counts
from vlmdebug.families.facts import BatchFacts
from vlmdebug.families.idefics3 import Idefics3


class Idefics2(Idefics3):
    """One row per sample, padded over its images."""

    axes = {
        "pixel_values": Axis("sample", padded="image"),
        "pixel_attention_mask": Axis("sample", padded="image"),
    }
    name = "idefics2"
    models = ("idefics2",)
    sizes = (1,)

    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        return False  # by shape alone it is read as Idefics3, which is cut alike

    def _images(self, facts: BatchFacts) -> dict[str, Counts]:
        if facts.num_images is not None:
            return {"image": Counts(facts.num_images, "num_images")}
        if facts.runs is not None and not facts.metadata.splits_images:
            return {"image": Counts(map(len, facts.runs), f"runs of {facts.placeholder_source}")}
        return {}
