"""Models that compute tokens behind a cache otherwise than in one call.

Measured: the logits of windows of a prefill and those of the whole, in each tiny model (default
attention, transformers 5.24).
"""

from __future__ import annotations

from vlmdebug.families.facts import ProcessorMetadata

IMAGES = frozenset({"gemma3", "shieldgemma2"})
"""Tokens of an image see each other in the first call alone."""
SAID = frozenset({"gemma4", "gemma4_unified"})
"""The same, unless the config says that images are attended to as text is."""
PROMPT = frozenset({"diffusion_gemma", "ovis2", "paligemma"})
"""All tokens of the prompt see each other (PaliGemma, the encoder of Diffusion Gemma), or other
tokens than placeholders are computed from pixels (Ovis 2)."""


def is_computed_alike(metadata: ProcessorMetadata, *, images: bool) -> bool:
    """Whether tokens behind a cache are computed as in one call, as far as is known.

    `images`: whether placeholder tokens are among them.
    """
    name = metadata.model_type
    if name in SAID:
        return not images or metadata.attends_both_ways is False
    return name not in PROMPT and not (images and name in IMAGES)
