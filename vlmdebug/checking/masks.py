"""Pixels compared with keys that describe them: masks of padding, and aspect ratios of tiles.

Idefics 2 and 3 pad images with 0 after normalization, which makes no real pixel exactly 0, and give
a mask of the same height and width (`image_processing_idefics2.pad`,
`image_processing_idefics3.pad`, transformers 5.24). Mllama gives the id of the aspect ratio of each
image, a mask of its tiles, and tiles of zeros behind them
(`image_processing_mllama.build_aspect_ratio_mask`). The models compare none of these.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vlmdebug.checking.batch_findings import MaskDiffers, TilesDiffer
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import MEDIA_OF
from vlmdebug.core.tensors import to_numpy
from vlmdebug.core.tiling import aspect_ratios
from vlmdebug.outcomes.reasons import DEPENDS, Outcome, Runs

PIXELS = MEDIA_OF["image"]
MASK = "pixel_attention_mask"
RATIOS, TILES = "aspect_ratio_ids", "aspect_ratio_mask"


def masks_differ(batch: Batch) -> Iterator[MaskDiffers]:
    """Samples with a mask that hides pixels of an image, or shows padding."""
    pixels, mask = batch.inputs.get(PIXELS), batch.inputs.get(MASK)
    if pixels is None or mask is None or batch.layout[PIXELS].unit != "sample":
        return
    if tuple(mask.shape) != (*pixels.shape[:2], *pixels.shape[-2:]) or len(pixels) != len(batch):
        return  # packed samples without images have no row
    for sample in range(len(batch)):
        hidden = shown = 0
        plain = True
        for image, seen in zip(pixels[sample], mask[sample], strict=True):
            values, sees = to_numpy(image), to_numpy(seen) != 0  # (channels, h, w), (h, w)
            padding = _padding(values)
            hidden += int(((values != 0).any(axis=0) & ~sees).sum())
            shown += int((padding & sees).sum())
            plain &= bool((sees == (sees[:, :1] & sees[:1])).all())
        if hidden or shown:
            runs = batch.rules.predict and plain
            then = Outcome(Runs.OTHER_ANSWER) if runs else DEPENDS
            yield MaskDiffers(key=MASK, samples=(sample,), outcome=then, hidden=hidden, shown=shown)


def _padding(values: np.ndarray) -> np.ndarray:
    """Pixels below and to the right of an image that are padding, `(h, w)`.

    Values of which none is negative are not normalized: 0 may be black there. An image of zeros is
    padding as a whole, whatever its mask says.
    """
    real = (values != 0).any(axis=0)
    if not real.any() or not (values < 0).any():
        return np.zeros(real.shape, dtype=bool)
    height, width = (int(np.flatnonzero(real.any(axis=dim))[-1]) + 1 for dim in (1, 0))
    outside = np.ones(real.shape, dtype=bool)
    outside[:height, :width] = False
    return outside


def tiles_differ(batch: Batch) -> Iterator[TilesDiffer]:
    """Images with an aspect ratio of more or fewer tiles than are shown, or than they have."""
    pixels, ids, mask = map(batch.inputs.get, (PIXELS, RATIOS, TILES))
    if pixels is None or ids is None or mask is None or len(pixels.shape) != 6:
        return
    if tuple(mask.shape) != tuple(pixels.shape[:3]) or tuple(ids.shape) != tuple(mask.shape[:2]):
        return
    ratios, shown = aspect_ratios(int(mask.shape[2])), to_numpy(mask) != 0
    for sample, image in np.argwhere(to_numpy(ids) != 0).tolist():
        number = int(ids[sample, image])
        sides = ratios[number - 1] if 0 < number <= len(ratios) else None
        filled = [bool((tile != 0).any()) for tile in pixels[sample, image]]
        held = max((place + 1 for place, full in enumerate(filled) if full), default=0)
        seen = int(shown[sample, image].sum())
        if sides is not None and seen == sides[0] * sides[1] >= held:
            continue
        known = sides is not None and batch.rules.predict
        yield TilesDiffer(
            key=RATIOS,
            samples=(sample,),
            outcome=Outcome(Runs.OTHER_ANSWER) if known else DEPENDS,
            image=image,
            ratio=number,
            sides=sides,
            shown=seen,
            held=held,
        )
