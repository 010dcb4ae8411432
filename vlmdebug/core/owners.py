"""The samples and images that own rows of a tensor, in words."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import islice

from vlmdebug.core.batch import Batch
from vlmdebug.core.rows import Rows
from vlmdebug.core.wording import image_name


def owners_of(batch: Batch, key: str, rows: Rows, *, most: int = 2) -> str:
    """`image A2 of sample 0`: at most `most` owners are named, the others counted."""
    unit = batch.layout[key].unit
    if unit not in batch.counts:
        return ""
    found = dict[int, None]()
    images = batch.image_offsets(unit)
    offsets = batch.counts[unit].offsets if images is None else images
    last = len(batch) if images is None else batch.counts["image"].total
    for start, stop in rows.ranges:
        if start >= 0:
            first, end = bisect_right(offsets, start) - 1, bisect_left(offsets, stop)
            found.update(dict.fromkeys(range(first, min(end, last))))
    names = [_name(batch, owner, images is not None) for owner in islice(found, most)]
    return ", ".join(names) + (f" and {len(found) - most} more" if len(found) > most else "")


def _name(batch: Batch, owner: int, is_image: bool) -> str:
    """`sample 1`, or `image A2 of sample 0`."""
    if not is_image:
        return f"sample {owner}"
    firsts = batch.counts["image"].offsets
    sample = bisect_right(firsts, owner) - 1
    return f"image {image_name(sample, owner - firsts[sample])} of sample {sample}"
