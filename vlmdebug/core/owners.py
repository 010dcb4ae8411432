"""The samples and images that own rows of a tensor, in words."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from vlmdebug.core.batch import Batch
from vlmdebug.core.rows import Rows
from vlmdebug.core.wording import image_name


def owners_of(batch: Batch, key: str, rows: Rows, *, most: int = 2) -> str:
    """`image A2 of sample 0`: at most `most` owners are named, the others counted."""
    found: dict[tuple[int, int], None] = {}
    for start, stop in rows.ranges:
        if start >= 0:
            found.update(dict.fromkeys(_owners(batch, batch.layout[key].unit, start, stop)))
    names = [
        f"sample {sample}" if image < 0 else f"image {image_name(sample, image)} of sample {sample}"
        for sample, image in list(found)[:most]
    ]
    return ", ".join(names) + (f" and {len(found) - most} more" if len(found) > most else "")


def _owners(batch: Batch, unit: str, start: int, stop: int) -> list[tuple[int, int]]:
    """Sample and image (within the sample; -1 where unknown) of rows `start:stop`."""
    if unit not in batch.counts:
        return []
    images = batch.image_offsets(unit)
    if images is None:
        offsets = batch.counts[unit].offsets
        first, last = bisect_right(offsets, start) - 1, bisect_left(offsets, stop)
        return [(sample, -1) for sample in range(first, min(last, len(batch)))]
    offsets = batch.counts["image"].offsets
    first, last = bisect_right(images, start) - 1, bisect_left(images, stop)
    owned = []
    for image in range(first, min(last, offsets[-1])):
        sample = bisect_right(offsets, image) - 1
        owned.append((sample, image - offsets[sample]))
    return owned
