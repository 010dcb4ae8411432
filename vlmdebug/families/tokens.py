"""Keys along the tokens of a synthesized batch: left padding, labels, M-RoPE's positions.

They have the same layout in every family.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vlmdebug.core.keys import ALONG_TOKENS, IGNORED, IMAGES_SEEN
from vlmdebug.families.facts import ProcessorMetadata
from vlmdebug.families.synthesize import BatchSpec


def with_token_keys(
    inputs: Mapping[str, np.ndarray], metadata: ProcessorMetadata, spec: BatchSpec
) -> dict[str, np.ndarray]:
    """The batch, padded and with the token keys that its specification asks for."""
    made = dict(inputs)
    if spec.padding_side == "left":
        made |= _padded_left(made)
    if spec.labels:
        made["labels"] = _labels(made, metadata)
    if spec.position_ids:
        made["position_ids"] = _places(made, metadata)
    return made


def _padded_left(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The keys along the tokens, each row moved to the right by its own padding."""
    padding = (inputs["attention_mask"] == 0).sum(axis=1)  # (sample,)
    width = inputs["attention_mask"].shape[1]
    columns = (np.arange(width) - padding[:, None]) % width  # (sample, seq)
    rows = np.arange(len(columns))[:, None]
    along = ("input_ids", *ALONG_TOKENS, *IMAGES_SEEN)
    return {key: inputs[key][rows, columns] for key in along if key in inputs}


def _labels(inputs: Mapping[str, np.ndarray], metadata: ProcessorMetadata) -> np.ndarray:
    """The ids themselves for text tokens, as collators make them, `(sample, seq)`."""
    ids = inputs["input_ids"]
    tokens = {metadata.image_token_id, *metadata.token_ids.values()} - {None}
    media = np.isin(ids, [*tokens])
    return np.where((inputs["attention_mask"] == 0) | media, IGNORED, ids)


def _places(inputs: Mapping[str, np.ndarray], metadata: ProcessorMetadata) -> np.ndarray:
    """M-RoPE's positions in time, height and width, `(3, sample, seq)`; 0 for padding.

    Synthesized images are one row of tokens, and each frame of a video is one token, so only one of
    the three positions advances within them.
    """
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    order = mask.cumsum(axis=1) - 1  # (sample, seq)
    image, video = ids == metadata.image_token_id, ids == metadata.token_ids.get("video")
    text = np.where(image | video, -1, order)
    begin = np.maximum.accumulate(text, axis=1) + 1  # of the image or video of a token
    places = np.stack(
        [
            np.where(image, begin, order),
            np.where(image | video, begin, order),
            np.where(video, begin, order),
        ]
    )
    return places * mask
