"""What was compared with what, as a report keeps it and its views say it in one line."""

from __future__ import annotations

from vlmdebug.checking.labels import UNTOLD
from vlmdebug.core.batch import Batch
from vlmdebug.core.observed import SlicerRun
from vlmdebug.core.record import Compared
from vlmdebug.core.wording import number


def compared(batch: Batch, run: SlicerRun | None) -> tuple[Compared, ...]:
    """Rows against the batch's own, and placeholder tokens of each modality against features."""
    found = []
    if run is not None:
        rows = f"rows of {number(len(batch.layout), 'key')} in {number(len(run.chunks), 'chunk')}"
        against = "those that the batch's counts give them" if run.chunks else None
        found.append(Compared(rows, against))
    if run is not None and run.partial:
        return tuple(found)
    if batch.image.keys:
        what = f"image placeholders of {number(len(batch), 'sample')}"
        known = not counts_unknown(batch) and batch.image.placeholders is not None
        found.append(Compared(what, _features_of(batch) if known else None))
    elif batch.image.placeholders is not None:
        what = f"image placeholders of {number(len(batch), 'sample')}"
        found.append(Compared(what, "no images in the batch"))
    for name, modality in batch.modalities.items():
        if name != "image":
            known = modality.features is not None and modality.placeholders is not None
            against = f"features of {modality.keys[0]}" if known else None
            found.append(Compared(f"{name} placeholders", against))
    if "labels" in batch.layout:
        against = None if batch.layout.family in UNTOLD else "input_ids"
        found.append(Compared("labels", against))
    return tuple(found)


def _features_of(batch: Batch) -> str:
    key = batch.layout.feature_key
    return f"features of {key}" if batch.rules.checks_totals else f"images in {key}"


def counts_unknown(batch: Batch) -> bool:
    """Whether placeholders and features of a batch with media cannot be compared."""
    image = batch.image
    known = image.features is not None and image.placeholders is not None and not image.inferred
    return bool(image.keys) and batch.rules.checks_totals and not known
