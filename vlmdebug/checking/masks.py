"""Masks compared with what they are masks of: pixels with padding, tiles, and images for tokens.

Idefics 2 and 3 pad images with 0 after normalization, which makes no real pixel exactly 0, and give
a mask of the same height and width (`image_processing_idefics2.pad`,
`image_processing_idefics3.pad`, transformers 5.24). Mllama gives the id of the aspect ratio of each
image, a mask of its tiles, and tiles of zeros behind them
(`image_processing_mllama.build_aspect_ratio_mask`).

Mllama and Idefics write one token for each image, and a mask says which images each token attends
to: the one before it, with Mllama all of them if they stand side by side
(`processing_mllama.get_cross_attention_token_mask`,
`processing_idefics.image_attention_mask_for_packed_input_ids_pt`). The models compare none of
these.

Kosmos puts its image where `image_embeds_position_mask` is 1, whatever tokens stand there. Its
processors set it on the placeholder tokens: of one id in Kosmos-2.5, which marks the edges of the
image by -1, and of rising ids in Kosmos-2 (`processing_kosmos2_5.Kosmos2_5Processor`,
`processing_kosmos2.Kosmos2Processor`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from vlmdebug.checking.batch_findings import (
    AttendsOtherwise,
    MaskDiffers,
    PlacedOtherwise,
    TilesDiffer,
)
from vlmdebug.checking.doubts import OddMask
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import CLIP_KEYS, KEYS, MEDIA_OF, TOKEN_KEYS
from vlmdebug.core.record import Compared
from vlmdebug.core.tensors import to_numpy, widened
from vlmdebug.core.tiling import aspect_ratios, images_seen
from vlmdebug.outcomes.reasons import DEPENDS, Outcome, Runs, outcome

PIXELS = MEDIA_OF["image"]
MASK = "pixel_attention_mask"
RATIOS, TILES = "aspect_ratio_ids", "aspect_ratio_mask"
GROUPS: Mapping[str, bool] = {"cross_attention_mask": True, "image_attention_mask": False}
"""Masks of images for each token, and whether images side by side are seen together."""

PLACE = "image_embeds_position_mask"
PLACED = {"kosmos-2.5": 1}
"""Tokens on each side of an image that the mask marks by another value, by layout."""
MASKS = tuple(
    name
    for name, key in KEYS.items()
    if key.holds == "mask" and name != PLACE and name not in CLIP_KEYS  # these are read apart
)

UNCOMPARED = ("pixel_mask", "qformer_attention_mask")
"""Masks of which nothing in a batch says what they should be: black edges may be an image's own,
and the padding token of a Q-Former is not that of the text."""
HEARD = tuple(name for name, key in KEYS.items() if key.holds == "mask" and key.modality == "audio")
"""Masks of sounds, which say nothing of the features where a model makes as many of any sound."""


def odd_masks(batch: Batch) -> Iterator[OddMask]:
    """Masks of tokens and images that hold other values than 0 and 1; not of added biases."""
    for key in MASKS:
        mask = batch.inputs.get(key) if key in batch.layout else None
        if (
            mask is None
            or "bool" in str(mask.dtype)
            or (key in TOKEN_KEYS and len(mask.shape) != 2)
        ):
            continue
        values = to_numpy(mask)
        if bool(((values != 0) & (values != 1)).any()):
            yield OddMask(key)


def masks_differ(batch: Batch) -> Iterator[MaskDiffers]:
    """Samples with a mask that hides pixels of an image or a video, or shows padding."""
    pixels, mask = batch.inputs.get(PIXELS), batch.inputs.get(MASK)
    if pixels is None or mask is None or batch.layout[PIXELS].unit not in ("sample", "video"):
        return
    owned = batch.counts.get(batch.layout[PIXELS].unit, ())
    owners = [sample for sample, rows in enumerate(owned) for _ in range(rows)]
    if len(pixels) != len(owners):
        return  # packed samples without images have no row
    if len(pixels.shape) == 5 and tuple(mask.shape) == tuple(pixels.shape[:2]):
        yield from _tiles_differ(batch, to_numpy(mask) != 0, owners)
    if tuple(mask.shape) != (*pixels.shape[:2], *pixels.shape[-2:]):
        return
    for row, sample in enumerate(owners):
        hidden = shown = 0
        plain = True
        for image, seen in zip(pixels[row], mask[row], strict=True):
            values, sees = to_numpy(image), to_numpy(seen) != 0  # (channels, h, w), (h, w)
            padding = _padding(values)
            hidden += int(((values != 0).any(axis=0) & ~sees).sum())
            shown += int((padding & sees).sum())
            plain &= bool((sees == (sees[:, :1] & sees[:1])).all())
        if hidden or shown:
            runs = batch.rules.predict and plain
            then = Outcome(Runs.OTHER_ANSWER) if runs else DEPENDS
            yield MaskDiffers(key=MASK, samples=(sample,), outcome=then, hidden=hidden, shown=shown)


def _tiles_differ(batch: Batch, sees: np.ndarray, owners: Sequence[int]) -> Iterator[MaskDiffers]:
    """Samples with a mask of tiles, `(row, max_tiles)`, that hides tiles, or shows those of zeros.

    Values of which none is negative are not normalized: a tile of zeros may be black there.
    """
    pixels = batch.inputs[PIXELS]
    filled = to_numpy((pixels != 0).any(-1).any(-1).any(-1))  # (row, max_tiles)
    hidden, shown = (filled & ~sees).sum(axis=1), (~filled & sees).sum(axis=1)
    if not bool((pixels < 0).any()):
        shown = shown * 0
    for row in np.flatnonzero(hidden + shown).tolist():
        yield MaskDiffers(
            key=MASK,
            samples=(owners[row],),
            outcome=DEPENDS,
            hidden=int(hidden[row]),
            shown=int(shown[row]),
            of="tile",
        )


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
    """Images with an aspect ratio of more or fewer tiles than are shown, or than they have.

    An image has the first tiles of its row (`modeling_mllama._prepare_aspect_ratio_attention_mask`,
    transformers 5.24, shows those that the mask does).
    """
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
        places = np.flatnonzero(shown[sample, image]).tolist()
        seen, among = len(places), max(places, default=-1) + 1
        if sides is not None and among == seen == sides[0] * sides[1] >= held:
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
            among=among,
            held=held,
        )


def attended(batch: Batch) -> list[Compared]:
    """The masks of the batch, and whether they are compared with its tokens."""
    found = [
        Compared(key, "images in input_ids" if _is_along(batch, key) else None)
        for key in GROUPS
        if key in batch.layout
    ]
    unseen = [*UNCOMPARED, *(HEARD if batch.rules.pads_sounds else ())]
    found += [Compared(key, None) for key in unseen if key in batch.layout]
    if PLACE in batch.layout:
        found.append(Compared(PLACE, None if _places(batch) is None else "tokens of input_ids"))
    return found


def _places(batch: Batch) -> np.ndarray | None:
    """Where the placeholder tokens of images are, `(sample, seq)`; None where nothing says it.

    Those of Kosmos-2 are as many as the features of its image, with ids that rise by 1, in every
    sample from the same one on.
    """
    mask = batch.inputs.get(PLACE) if PLACE in batch.layout else None
    ids = to_numpy(batch.inputs["input_ids"])
    if mask is None or tuple(mask.shape) != ids.shape or batch.packed is not None:
        return None
    if batch.image.token_id is not None:
        return ids == batch.image.token_id
    tokens = {*(batch.image.features or ())}
    if len(tokens) != 1 or not (wide := tokens.pop()) or wide > ids.shape[1]:
        return None
    steps = sliding_window_view(ids, wide, axis=1) - np.arange(wide)  # (sample, start, wide)
    begins = (steps == steps[:, :, :1]).all(axis=2)
    known = set.intersection(
        *(
            {*row[begin].tolist()}
            for row, begin in zip(ids[:, : begins.shape[1]], begins, strict=True)
        )
    )
    if len(known) != 1:
        return None
    first = begins & (ids[:, : begins.shape[1]] == known.pop())
    if (first.sum(axis=1) != 1).any():
        return None
    columns = first.argmax(axis=1)[:, None] + np.arange(wide)
    due = np.zeros(ids.shape, dtype=bool)
    np.put_along_axis(due, columns, True, axis=1)
    return due


def placed_otherwise(batch: Batch) -> list[PlacedOtherwise]:
    """Samples with an image that is not put on its placeholder tokens."""
    due = _places(batch)
    if due is None:
        return []
    mask, edges = to_numpy(batch.inputs[PLACE]), PLACED.get(batch.layout.family, 0)
    at = mask == 1 if edges else mask != 0  # (sample, seq)
    wrong = ((at != due) | ((mask != 0) != widened(due, edges))).any(axis=1)
    then = (
        outcome(bool(at.sum() == due.sum()), Runs.OTHER_ANSWER) if batch.rules.predict else DEPENDS
    )
    return [
        PlacedOtherwise(
            key=PLACE,
            samples=(sample,),
            outcome=then,
            due=tuple(np.flatnonzero(due[sample]).tolist()),
            given=tuple(np.flatnonzero(at[sample]).tolist()),
        )
        for sample in np.flatnonzero(wrong).tolist()
    ]


def _is_along(batch: Batch, key: str) -> bool:
    """Whether a mask has a row for each token, with images that are known by their token."""
    mask, ids = batch.inputs.get(key), batch.inputs["input_ids"]
    if mask is None or batch.image.token_id is None:
        return False
    return tuple(mask.shape[:2]) == tuple(ids.shape)


def attends_otherwise(batch: Batch, *, by_tile: bool) -> Iterator[AttendsOtherwise]:
    """Samples with tokens that attend to other images than those in front of them.

    `by_tile`: whether the tiles of the images are right, so that these are compared too.
    """
    token, ids = batch.image.token_id, batch.inputs["input_ids"]
    for key, groups in GROUPS.items():
        if not _is_along(batch, key):
            continue  # its length is a finding or doubt of its own
        mask = batch.inputs[key]
        for sample in range(len(batch)):
            sees = to_numpy(mask[sample]) != 0  # (seq, max_images) or (seq, max_images, max_tiles)
            due = _due(to_numpy(ids[sample]) == token, sees, groups=groups)
            if due is None:
                continue
            if sees.ndim == 3:
                own = _tiles(batch, sample, sees.shape[1:]) if by_tile else None
                due = due[:, :, None] & (np.logical_or.reduce(sees, axis=0) if own is None else own)
            read = _real(batch, sample)
            wrong = (sees != due).reshape(len(sees), -1).any(axis=1) & read
            if wrong.any():
                yield AttendsOtherwise(
                    key=key,
                    samples=(sample,),
                    outcome=Outcome(Runs.OTHER_ANSWER) if batch.rules.predict else DEPENDS,
                    tokens=int(wrong.sum()),
                    first=int(wrong.argmax()),
                    by=_moved_by(sees, due, read),
                )


def _due(images: np.ndarray, sees: np.ndarray, *, groups: bool) -> np.ndarray | None:
    """Which images each token attends to, `(seq, max_images)`; None if they have no room.

    `images`: where the tokens of images are. Without groups, a text may end before the next image:
    Idefics hides the image behind it.
    """
    if images.sum() > sees.shape[1]:
        return None
    due = images_seen(images, sees.shape[1], groups=groups)
    for number in range(0 if groups else due.shape[1]):
        own = np.flatnonzero(due[:, number])
        shown = sees[own, number]
        length = len(shown) if shown.all() else int(shown.argmin())
        if length and not shown[length:].any():
            due[own[length:], number] = False
    return due


def _tiles(batch: Batch, sample: int, shape: tuple[int, ...]) -> np.ndarray | None:
    """Tiles that are no padding, `(max_images, max_tiles)`, where a mask of that shape says so."""
    tiles = batch.inputs.get(TILES)
    if tiles is None or tuple(tiles.shape) != (len(batch), *shape):
        return None
    return np.not_equal(to_numpy(tiles[sample]), 0)


def _real(batch: Batch, sample: int) -> np.ndarray:
    """Which tokens of a sample are no padding, `(seq,)`."""
    ids, mask = batch.inputs["input_ids"], batch.inputs.get("attention_mask")
    if mask is None or tuple(mask.shape) != tuple(ids.shape):
        return np.ones(ids.shape[1], dtype=bool)
    return to_numpy(mask[sample]) != 0


def _moved_by(sees: np.ndarray, due: np.ndarray, read: np.ndarray) -> int:
    """Columns by which the mask stands to the right of its tokens, 0 where no shift fits."""
    own, theirs = (mask.reshape(len(mask), -1) for mask in (due, sees))  # (seq, tiles)
    first = int(own.any(axis=1).argmax())
    alike = (theirs == own[first]).all(axis=1)
    begins = np.flatnonzero(alike & ~np.roll(alike, 1))
    for by in sorted((begins - first).tolist(), key=abs):
        there = read.copy()
        there[len(there) - by if by > 0 else 0 : len(there) if by > 0 else -by] = False
        if by and there.any() and not (np.roll(theirs, -by, axis=0) != own)[there].any():
            return by
    return 0
