"""The images of a batch, restored from its pixel values.

They show a person which pixels a chunk got. Only the rows of the requested images are read. An
image that cannot be restored gives None, never a picture of something else.

Patches are written into rows in several orders: channels first or last, in raster order or window
by window. The batch does not say which. The order in which neighbouring pixels differ least is
used; the tests compare the result with images that real processors were given. No verdict depends
on it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from math import isqrt
from typing import Any

import numpy as np

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import GRIDS
from vlmdebug.core.rows import Rows
from vlmdebug.core.scene import Scene
from vlmdebug.core.tensors import to_numpy
from vlmdebug.core.tiling import aspect_ratios
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.families.packing import Packing

SIDE = 72
"""Longest side of a thumbnail in pixels."""
LEGIBLE = 48
"""Longest side of a thumbnail below which it is shown enlarged."""
LEAST = 8
"""Fewest pixels on a side of a real image; synthesized batches have fewer."""
KEY = "pixel_values"
# Mean and standard deviation of CLIP's training images; most processors normalise with them.
MEAN, DEVIATION = np.array([0.481, 0.458, 0.408]), np.array([0.269, 0.261, 0.276])


def scene_of(
    batch: Batch,
    images: Iterable[int] = (),
    originals: Sequence[Any] | None = None,
    parts: Mapping[str, tuple[int, Rows]] | None = None,
) -> Scene | None:
    """The contents of the rows of the batch, with thumbnails of the requested images.

    `parts` are images of which some rows were passed, by the name that `Scene.part` gives them.
    All are made of `originals`, all images of the batch in order, if these are given. None if
    images per sample are not known: then rows have no owner.
    """
    if "image" not in batch.counts:
        return None
    known = ProcessorMetadata(image_token_id=batch.image.token_id)
    facts = BatchFacts(batch.inputs, known, packing=Packing(batch.packed))
    found = {image: thumbnail(batch, image, SIDE, originals) for image in dict.fromkeys(images)}
    return Scene(
        units={key: axis.unit for key, axis in batch.layout.items()},
        images=tuple(batch.counts["image"]),
        per_image={
            unit: tuple(rows) for unit, rows in batch.per_image.items() if unit != "feature"
        },
        tokens=max(batch.spans.lengths),
        places=_places(facts.places or (), batch),
        thumbnails={image: uri for image, uri in found.items() if uri is not None},
        parts={
            name: uri
            for name, (image, rows) in (parts or {}).items()
            if (uri := thumbnail(batch, image, SIDE, originals, rows)) is not None
        },
    )


def _places(
    runs: tuple[tuple[tuple[int, int], ...], ...], batch: Batch
) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """The runs of placeholder tokens, cut where one image ends and the next begins."""
    features = _features_per_image(batch)
    ends = list(accumulate(features))
    total = sum(stop - start for sample in runs for start, stop in sample)
    if not ends or ends[-1] != total or 0 in features:
        return tuple(tuple((start, stop, -1) for start, stop in sample) for sample in runs)
    found, seen, image = [], 0, 0
    for sample in runs:
        cut: list[tuple[int, int, int]] = []
        for start, stop in sample:
            while start < stop:
                here = min(stop, start + ends[image] - seen)
                cut.append((start, here, image))
                seen += here - start
                start = here
                image += seen == ends[image]
        found.append(tuple(cut))
    return tuple(found)


def _features_per_image(batch: Batch) -> Sequence[int]:
    """Features of each image; empty if they are not known."""
    tiles, features = batch.per_image.get("tile"), batch.image.features
    if "feature" in batch.per_image:
        return batch.per_image["feature"]
    if tiles is None or features is None or not sum(tiles):
        return ()
    if sum(features) % sum(tiles):
        return ()
    return [count * (sum(features) // sum(tiles)) for count in tiles]  # all tiles have as many


def in_order(given: Any, batch: Batch) -> list[Any]:
    """The images that a person passed to the processor, flat or per sample, as one list.

    Raises:
        BadInput: They are no images, or not as many as the batch has.
    """
    flat: list[Any] = []
    for one in given if isinstance(given, Sequence) else [given]:
        flat += one if isinstance(one, (list, tuple)) else [one]
    strange = [type(one).__name__ for one in flat if not hasattr(one, "thumbnail")]
    if strange:
        raise BadInput(
            f"pictures holds a {strange[0]}, but it takes True, False or the PIL "
            "images that the processor was given, in a list or in a list per sample."
        )
    total = batch.counts["image"].total if "image" in batch.counts else len(flat)
    if len(flat) != total:
        raise BadInput(
            f"pictures has {number(len(flat), 'image')}, but the batch has {total}. "
            "They would be shown in the wrong places. Pass the images that the processor was given."
        )
    return flat


def thumbnail(
    batch: Batch,
    image: int,
    side: int = SIDE,
    originals: Sequence[Any] | None = None,
    rows: Rows | None = None,
) -> str | None:
    """Image number `image` of the whole batch as a data URI; None where it cannot be restored.

    With `rows`, rows of the batch's `pixel_values`, all other pixels of the image are faded.

    Needs Pillow; without it, there are no thumbnails.
    """
    try:
        from PIL import Image
    except ImportError:
        return None
    try:
        if originals is not None:
            picture = originals[image].convert("RGB")  # a copy
        else:
            pixels = restore(batch, image)
            if pixels is None:
                return None
            picture = Image.fromarray((pixels * 255).round().astype(np.uint8))
        if rows is not None:
            shown = Image.fromarray(_passed(batch, image, rows).astype(np.uint8) * 255)
            paper = Image.new("RGB", picture.size, (200, 200, 200))
            faded = Image.blend(picture, paper, 0.85)
            picture = Image.composite(picture, faded, shown.resize(picture.size, 0))
        if max(picture.size) < LEGIBLE:
            times = -(-LEGIBLE // max(picture.size))
            picture = picture.resize((picture.width * times, picture.height * times), 0)
        picture.thumbnail((side, side))
        written = io.BytesIO()
        picture.save(written, "JPEG", quality=80)
    except Exception:  # a picture is optional: no check may fail because of it
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode('ascii')}"


def _passed(batch: Batch, image: int, rows: Rows) -> np.ndarray:
    """Which pixels of the restored image come from `rows`, `(height, width)`.

    Raises:
        ValueError: The image's pixels are not restored from patches, each a row of its own.
    """
    unit = batch.layout[KEY].unit
    start, stop = batch.rows_of_image(unit, image)
    given = np.isin(np.arange(start, stop), list(rows))
    if unit == "patch":
        patches = to_numpy(batch.inputs[KEY][start:stop])
        found = _smoothest(patches.reshape(len(patches), -1), _sides(batch, image), given)
        if found is not None:
            return found[1]
    if unit == "tile":  # one of them is shown
        shown = 0 if batch.layout.overview == "first" else -1
        return np.full((1, 1), bool(given[shown]))
    raise ValueError(f"rows of {unit}")


def restore(batch: Batch, image: int) -> np.ndarray | None:
    """Image number `image` of the whole batch, `(height, width, 3)` in 0 to 1.

    As the model sees it: resized. If it is cut into tiles, the overview tile or, without one, the
    last tile kept.
    """
    if KEY not in batch.layout or "image" not in batch.counts:
        return None
    try:
        pixels = _pixels(batch, image)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None  # a layout with the family's keys but other shapes
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
        return None
    if min(pixels.shape[:2]) < LEAST:
        return None
    return np.clip(_shown(np.broadcast_to(pixels, (*pixels.shape[:2], 3))), 0, 1)


def _pixels(batch: Batch, image: int) -> np.ndarray | None:
    """Values `(height, width, channels)` as the processor left them."""
    values, unit = batch.inputs[KEY], batch.layout[KEY].unit
    if unit == "sample":
        return _of_sample(batch, values, image)
    start, stop = batch.rows_of_image(unit, image)
    block = to_numpy(values[start:stop])
    if unit == "patch":
        return _of_patches(block, _sides(batch, image))
    if unit == "tile":
        if block.ndim == 4:  # (tile, channels, height, width)
            return _channels_last(block[0 if batch.layout.overview == "first" else -1])
        height, width = to_numpy(batch.inputs["spatial_shapes"][stop - 1]).tolist()
        return _of_patches(block[-1][: height * width], (height, width))
    if "image_position_ids" in batch.inputs:
        return _of_positions(block[0], to_numpy(batch.inputs["image_position_ids"][image]))
    if block.ndim == 5:  # (image, tiles, channels, height, width); anyres, the overview first
        return _channels_last(block[0][0])
    found = _channels_last(block[0])
    if "image_sizes" in batch.inputs:
        height, width = to_numpy(batch.inputs["image_sizes"][image]).tolist()
        found = found[:height, :width]
    if "pixel_mask" in batch.inputs:
        found = _seen(found, batch.inputs["pixel_mask"][image])
    return found


def _of_sample(batch: Batch, values: Any, image: int) -> np.ndarray | None:
    """Of a tensor padded by sample: over images (Idefics2, Mllama) or over tiles (Idefics3)."""
    offsets = batch.counts["image"].offsets
    sample = next(s for s in range(len(batch)) if offsets[s] <= image < offsets[s + 1])
    place = image - offsets[sample]
    if batch.layout[KEY].padded == "tile":
        tiles = batch.per_image["tile"][offsets[sample] : image + 1]
        return _channels_last(to_numpy(values[sample][sum(tiles) - 1]))
    block = to_numpy(values[sample][place])
    if block.ndim == 3:  # padded to the largest image of the batch
        mask = batch.inputs.get("pixel_attention_mask")
        if mask is None:
            return _channels_last(block)
        return _seen(_channels_last(block), mask[sample][place])
    ratio = int(to_numpy(batch.inputs["aspect_ratio_ids"][sample][place]))
    rows, columns = aspect_ratios(len(block))[ratio - 1]
    tiles = [_channels_last(tile) for tile in block[: rows * columns]]
    lines = [np.concatenate(tiles[row * columns : (row + 1) * columns], 1) for row in range(rows)]
    return np.concatenate(lines, axis=0)


def _seen(pixels: np.ndarray, mask: Any) -> np.ndarray:
    """Pixels without the rows and columns that are padding."""
    seen = to_numpy(mask).astype(bool)
    return pixels[seen.any(axis=1)][:, seen.any(axis=0)]


def _channels_last(block: np.ndarray) -> np.ndarray:
    return np.moveaxis(block, 0, -1)


def _sides(batch: Batch, image: int) -> tuple[int, int]:
    """Height and width of an image in patches."""
    key = next(key for key in GRIDS if key in batch.inputs)
    height, width = to_numpy(batch.inputs[key][image]).tolist()[-2:]
    return height, width


def _of_positions(block: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
    """Gemma 4: every patch has its column and row, -1 where it is padding."""
    real = positions[:, 0] >= 0
    columns, rows = positions[real].T
    height, width = int(rows.max()) + 1, int(columns.max()) + 1
    if len(rows) != height * width:
        return None
    patches = np.empty((height * width, block.shape[1]), dtype=block.dtype)
    patches[rows * width + columns] = block[real]
    return _of_patches(patches, (height, width))


def _of_patches(patches: np.ndarray, sides: tuple[int, int]) -> np.ndarray | None:
    """Patches `(patch, …)` of an image of `height` by `width` patches, in the smoothest order."""
    given = np.ones(len(patches), dtype=bool)
    found = _smoothest(patches.reshape(len(patches), -1), sides, given)
    return None if found is None else found[0]


def _smoothest(
    patches: np.ndarray, sides: tuple[int, int], given: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """The likeliest image, and which of its pixels are of patches that are `given`."""
    readings = _readings(patches, *sides, given)
    found = [(image, seen) for image, seen in readings if min(image.shape[:2]) >= LEAST]
    return min(found, key=lambda pair: _roughness(pair[0]), default=None)


def _readings(
    patches: np.ndarray, height: int, width: int, given: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All candidate images of the patches, `(height, width, 3)`, each with its pixels `given`."""
    if len(patches) != height * width:
        return
    for frames in (1, 2):  # Qwen writes an image into both frames of a patch
        side = isqrt(patches.shape[1] // (3 * frames))
        if side**2 * 3 * frames != patches.shape[1]:
            continue
        for squares in _squares(patches, frames, side):
            for window in (1, 2, 3, 4):
                if height % window == 0 and width % window == 0:
                    seen = np.broadcast_to(given[:, None, None, None], squares.shape)
                    yield (
                        _laid(squares, height, width, window),
                        _laid(seen, height, width, window)[..., 0],
                    )


def _squares(patches: np.ndarray, frames: int, side: int) -> Iterator[np.ndarray]:
    """Patches `(patch, side, side, 3)`: channels outermost, inside the frames, or innermost.

    An image has the same pixels in every frame, which rules the wrong ones out.
    """
    by_channel = patches.reshape(-1, 3, frames, side, side).transpose(0, 2, 3, 4, 1)
    by_frame = patches.reshape(-1, frames, 3, side, side).transpose(0, 1, 3, 4, 2)
    innermost = patches.reshape(-1, frames, side, side, 3)
    for found in (by_channel, by_frame, innermost):  # (patch, frame, side, side, 3)
        if (found == found[:, :1]).all():
            yield found[:, 0]


def _laid(squares: np.ndarray, height: int, width: int, window: int) -> np.ndarray:
    """Squares in raster order, from an order window by window, `window` squares high and wide."""
    side = squares.shape[1]
    grid = squares.reshape(height // window, width // window, window, window, side, side, 3)
    return grid.transpose(0, 2, 4, 1, 3, 5, 6).reshape(height * side, width * side, 3)


def _roughness(image: np.ndarray) -> float:
    """How much neighbouring pixels differ."""
    return float(np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean())


def _shown(values: np.ndarray) -> np.ndarray:
    """Values as brightness from 0 to 1: as they are, from -1 to 1, or normalised as CLIP does."""
    values = np.nan_to_num(values.astype(np.float32))
    low, high = float(values.min()), float(values.max())
    if low >= -0.01 and high <= 1.01:
        return values
    if low >= 0 and high <= 255.5:
        return values / 255
    if low >= -1.01 and high <= 1.01:
        return (values + 1) / 2
    return values * DEVIATION + MEAN
