"""What the pixels and masks of a whole batch show: values that no processor returns, and padding.

All values are read, so no watched call asks for this, and a batch that several slicers are tried on
is read once.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from math import isfinite
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from vlmdebug.checking.batch_findings import OutsideSizes
from vlmdebug.checking.compared import SIZES, is_padded_to_sizes, order_of_sides
from vlmdebug.checking.doubts import NotFinite, OddMask, SidesUnseen
from vlmdebug.checking.findings import Difference
from vlmdebug.checking.masks import (
    MASKS,
    PLACE,
    RATIOS,
    attended,
    attends_otherwise,
    masks_differ,
    odd_masks,
    placed_otherwise,
    tiles_differ,
)
from vlmdebug.checking.report import Report
from vlmdebug.checking.text import as_mismatch
from vlmdebug.checking.text_doubts import doubt
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import MEDIA_OF, PIXELS
from vlmdebug.core.record import Compared
from vlmdebug.core.tensors import version
from vlmdebug.outcomes.reasons import Runs, outcome
from vlmdebug.outcomes.whole_batch import runs_with_sizes

PADDED = MEDIA_OF["image"]
READ = (*PIXELS, SIZES, RATIOS, *MASKS, PLACE, "input_ids")
"""Keys with values that are read."""


def with_pixels(report: Report, batch: Batch) -> Report:
    """The report on a batch, with what its pixels show."""
    shown = _shown(batch)
    doubts = [*shown.infinite, *shown.unseen, *shown.odd]
    if shown.outside or doubts:
        report = replace(
            report,
            mismatches=(*report.mismatches, *(as_mismatch(one, batch) for one in shown.outside)),
            ambiguities=(*report.ambiguities, *map(doubt, doubts)),
        )
    report = replace(report, compared=(*report.compared, *attended(batch)))
    if shown.infinite or not is_padded_to_sizes(batch):
        return report
    order = order_of_sides(SIZES)
    known = Compared(order.what, None if shown.unseen else f"padding of {PADDED}")
    return replace(
        report, compared=tuple(known if one == order else one for one in report.compared)
    )


class _Shown(NamedTuple):
    """What was found, and torch's counts of writes when it was."""

    versions: tuple[int | None, ...]
    infinite: list[NotFinite]
    outside: list[Difference]
    unseen: list[SidesUnseen]
    odd: list[OddMask]


_SEEN: WeakKeyDictionary[Batch, _Shown] = WeakKeyDictionary()


def _shown(batch: Batch) -> _Shown:
    """What the pixels show; read again after a write that torch counts, and always from numpy."""
    values = [batch.inputs[key] for key in READ if key in batch.inputs]
    versions = tuple(map(version, values))
    found = _SEEN.get(batch)
    if found is not None and found.versions == versions and None not in versions:
        return found
    infinite, odd = _not_finite(batch), [*odd_masks(batch)]
    read = not infinite and is_padded_to_sizes(batch)
    outside: list[Difference] = [*_outside_sizes(batch)] if read else []
    unseen = _sides_unseen(batch) if read and not outside else []
    tiles = [] if infinite else [*tiles_differ(batch)]
    outside += [] if infinite else [*masks_differ(batch), *tiles]
    outside += attends_otherwise(batch, by_tile=not (tiles or infinite))
    outside += placed_otherwise(batch)
    _SEEN[batch] = found = _Shown(versions, infinite, outside, unseen, odd)
    return found


def _not_finite(batch: Batch) -> list[NotFinite]:
    """Media that hold NaN or infinity."""
    found = []
    for value, key in ((batch.inputs.get(key), key) for key in PIXELS):
        kind = str(getattr(value, "dtype", ""))
        if value is None or "float" not in kind or "float8" in kind or 0 in value.shape:
            continue
        value = value.detach() if hasattr(value, "detach") else value
        if not (isfinite(float(value.min())) and isfinite(float(value.max()))):
            found.append(NotFinite(key))
    return found


def _outside_sizes(batch: Batch) -> list[OutsideSizes]:
    """Images with other pixels than padding outside their sizes, and images smaller than these."""
    found = []
    for image, (pixels, (height, width)) in enumerate(_images(batch)):
        if not _is_cut(pixels, height, width):
            continue
        whole = tuple(pixels.shape[-2:])
        fits = height <= whole[0] and width <= whole[1]
        silent = runs_with_sizes(batch) if fits else None
        found.append(
            OutsideSizes(
                key=SIZES,
                samples=_sample_of(batch, image),
                outcome=outcome(silent, Runs.TOTALS_AGREE),
                image=image,
                sides=(height, width),
                whole=whole,
                swapped=height != width and not _is_cut(pixels, width, height),
            )
        )
    return found


def _sample_of(batch: Batch, image: int) -> tuple[int, ...]:
    """The sample that owns an image, if that is known."""
    counts = batch.counts.get("image")
    return () if counts is None else (bisect_right(counts.offsets, image) - 1,)


def _sides_unseen(batch: Batch) -> list[SidesUnseen]:
    """Images that would fit in their padding with height and width swapped, too."""
    unseen = [
        image
        for image, (pixels, (height, width)) in enumerate(_images(batch))
        if height != width and not _is_cut(pixels, width, height)
    ]
    return [SidesUnseen(SIZES, tuple(unseen))] if unseen else []


def _images(batch: Batch) -> Any:
    return zip(batch.inputs[PADDED], batch.inputs[SIZES].tolist(), strict=True)


def _is_cut(pixels: Any, height: int, width: int) -> bool:
    """Whether `(channels, height, width)` is smaller, or has more than padding outside."""
    if height > pixels.shape[1] or width > pixels.shape[2]:
        return True
    padding = pixels[:, -1:, -1:]
    outside = pixels[:, height:], pixels[:, :height, width:]
    return any(bool((part != padding).any()) for part in outside)
