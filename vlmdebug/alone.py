"""A batch without a slicer: placeholder tokens beside the features that its media become.

What a collator or processor got wrong is found here, sample by sample, whoever cuts the batch
later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from math import isfinite

from vlmdebug import batch_wording, wording
from vlmdebug.alignment import Step, align_runs, fits
from vlmdebug.batch import Batch, Contradiction
from vlmdebug.causes import Fault, faults_of, is_another_order
from vlmdebug.compared import Compared
from vlmdebug.core.keys import PIXELS
from vlmdebug.errors import AmbiguousError
from vlmdebug.forward_batch import runs_side_by_side, runs_unchecked, runs_with_runs
from vlmdebug.judge import images_of
from vlmdebug.labels import UNTOLD, labels_mismatches
from vlmdebug.lacking import lacking
from vlmdebug.mismatch import Mismatch
from vlmdebug.presence import planned_rows
from vlmdebug.report import ChunkReport, KeyReport, Report
from vlmdebug.runs import Sides, sides_of
from vlmdebug.used import Made, Run
from vlmdebug.wording import number


def check_alone(batch: Batch, *, one_chunk: bool = False) -> Report:
    """The batch without a slicer: planned rows, placeholders and features.

    A line per sample, or one for all of them.
    """
    report = planned_report(batch, one_chunk=one_chunk)
    return replace(
        report,
        mismatches=tuple(batch_mismatches(batch)),
        ambiguities=(*doubts_alone(batch), *_not_finite(batch)),
    )


def with_made(report: Report, made: Mapping[str, Made]) -> Report:
    """The report on a call that has keys which do not follow from it, or by no known rule."""
    samples = report.chunks[0].samples
    wrong = [
        Mismatch("VLM011", wording.made_otherwise(key, samples, one), key, 0, tuple(samples))
        for key, one in made.items()
        if one.right is False
    ]
    unsure = [
        wording.not_recomputed(key, 0, one.why) for key, one in made.items() if one.right is None
    ]
    return replace(
        report,
        mismatches=(*report.mismatches, *wrong),
        ambiguities=(*report.ambiguities, *unsure),
    )


def planned_report(batch: Batch, *, one_chunk: bool = False) -> Report:
    """The rows each sample owns, or all of them together; nothing is looked for."""
    every = range(len(batch))
    reports = [
        _planned_chunk(batch, samples)
        for samples in ([every] if one_chunk else [[s] for s in every])
    ]
    return report_of(batch, reports, [], [], None)


def unsettled_of(batch: Batch) -> list[str]:
    """What could not be settled when the batch was read."""
    return [one.message for one in batch.ambiguities if not isinstance(one, Contradiction)]


def doubts_alone(batch: Batch) -> list[str]:
    """What cannot be told of the batch without a slicer."""
    messages = unsettled_of(batch)
    if not messages and not batch.contradictions and _steps_unknown(batch):
        messages = [wording.steps_unknown(batch)]
    messages += [
        wording.more_columns(key, width, batch.inputs["input_ids"].shape[-1])
        for key, width in batch.columns.items()
        if width > batch.inputs["input_ids"].shape[-1]
    ]
    messages += [
        wording.clips_unknown(name)
        for name in batch.modalities
        if name != "image" and not messages and batch.balance_of([], name) is None
    ]
    messages += [wording.hides(sample, count) for sample, count in enumerate(batch.hidden) if count]
    masked = "attention_mask" in batch.inputs
    messages += [
        wording.unmasked(sample, count, masked=masked)
        for sample, count in enumerate(batch.unmasked)
        if count
    ]
    messages += [wording.lost_mask(key) for key in batch.lost_masks]
    return messages + [wording.pixels_cast(key, kind) for key, kind in _whole_pixels(batch)]


def _whole_pixels(batch: Batch) -> list[tuple[str, str]]:
    """Media that hold whole numbers or truth values, and their dtype."""
    kinds = {
        key: str(getattr(batch.inputs[key], "dtype", "")) for key in PIXELS if key in batch.inputs
    }
    return [(key, kind) for key, kind in kinds.items() if "int" in kind or "bool" in kind]


def _not_finite(batch: Batch) -> list[str]:
    """Media that hold NaN or infinity. All values are read, so no watched call asks for this."""
    found = []
    for value, key in ((batch.inputs.get(key), key) for key in PIXELS):
        kind = str(getattr(value, "dtype", ""))
        if value is None or "float" not in kind or "float8" in kind or 0 in value.shape:
            continue
        if not (isfinite(float(value.min())) and isfinite(float(value.max()))):
            found.append(wording.not_finite(key))
    return found


def _planned_chunk(batch: Batch, samples: Sequence[int]) -> ChunkReport:
    keys = {}
    for key, axis in batch.layout.items():
        if axis.unit == "batch":
            continue
        try:
            planned = planned_rows(batch, key, samples)
        except AmbiguousError:
            keys[key] = KeyReport("cannot tell", None, None)
        else:
            state = "absent" if planned.presence == "absent" else "planned"
            keys[key] = KeyReport(state, planned.rows, None)
    placeholders = batch.placeholders_of(samples)
    features = None if batch.image.inferred else batch.features_of(samples)
    return ChunkReport(tuple(samples), images_of(batch, samples), placeholders, features, keys)


def _steps_unknown(batch: Batch) -> bool:
    """Whether placeholders and features of a batch with media cannot be compared."""
    known = (
        batch.image.features is not None
        and batch.image.placeholders is not None
        and not batch.image.inferred
    )
    return bool(batch.image.keys) and batch.rules.checks_totals and not known


def batch_mismatches(batch: Batch) -> list[Mismatch]:
    """What is wrong with the batch, whoever cuts it."""
    found = [_contradicted(one) for one in batch.contradictions]
    found += _short_columns(batch) + _image_mismatches(batch)
    found += lacking(batch) + labels_mismatches(batch)
    seen = {sample for mismatch in found for sample in mismatch.samples}
    found += _marked_otherwise(batch, seen)
    for name, modality in batch.modalities.items():
        sides = sides_of(batch, modality) if name != "image" else None
        found += [] if sides is None else _out_of_step(batch, sides)
    return found


def _contradicted(one: Contradiction) -> Mismatch:
    first, *rest = one.message.split(". ")
    message = f"{first}.\n" + ". ".join(rest)
    return Mismatch("VLM010", message, key=next(iter(one.keys), None), silent=one.silent)


def _image_mismatches(batch: Batch) -> list[Mismatch]:
    """Samples whose runs of placeholder tokens are not what their images become."""
    if batch.image.keys and not batch.rules.checks_totals:
        return []
    sides = sides_of(batch, batch.image)
    if sides is not None:
        return _out_of_step(batch, sides) or _side_by_side(batch, sides)
    made, written = batch.features_by_sample["image"] or (), batch.image.placeholders or ()
    return [
        Mismatch(
            "VLM010",
            batch_wording.without_media(sample, tokens, runs_unchecked(batch)),
            key="input_ids",
            samples=(sample,),
            silent=runs_unchecked(batch),
        )
        for sample, (features, tokens) in enumerate(zip(made, written, strict=False))
        if not features and tokens
    ]


def _out_of_step(batch: Batch, sides: Sides) -> list[Mismatch]:
    """A mismatch for each sample that is known to be wrong, and one for what no sample is known."""
    lengths = sides.lengths
    if sides.one_each:  # as nearly all batches have them
        return []
    if sides.owned is None:
        return _unsettled(batch, sides, lengths)
    every = [sides.pieces[slice(*_ends(sides.units_of(s)))] for s in range(len(batch))]
    wrong = [s for s, own in enumerate(every) if not _agree(sides, lengths[s], own)]
    order = wrong and is_another_order(lengths, [[sum(piece) for piece in own] for own in every])
    found = []
    for sample in wrong:
        own = every[sample]
        made = sum(map(sum, own))
        joined = sides.unit == "tile"
        laid = align_runs([lengths[sample]], own, joined=joined)
        shift, runs = sides.units_of(sample).start, sides.runs[sample]
        told = [] if laid is None else faults_of(laid.faults, laid.steps, runs, own)
        told = [replace(fault, images=_moved(fault.images, shift)) for fault in told]
        if order:
            told = [Fault("another order", sum(lengths[sample]), made)]
        found.append(_mismatch(batch, sides, sample, made, told))
    return found


def _side_by_side(batch: Batch, sides: Sides) -> list[Mismatch]:
    """Samples with one run for several images, where the model takes a run for one image.

    `get_rope_index` of Qwen2-VL and its variants takes the next row of image_grid_thw for each run
    of image tokens (transformers 5.23).
    """
    if batch.rules.checks_each_sample == "never" or sides.unit != "image":
        return []
    lengths, found, stop = sides.lengths, [], 0
    ends = [*accumulate(sides.features)]
    if sum(map(len, lengths)) >= len(ends):
        return []  # as nearly all batches have them
    for sample, own in enumerate(lengths):
        edges = [*accumulate(own, initial=stop)]
        stop = edges[-1]
        for first, last in pairwise(edges):
            images = [image for image, end in enumerate(ends) if first < end <= last]
            if len(images) > 1:
                silent = runs_side_by_side(batch)
                message = batch_wording.side_by_side(
                    sample, last - first, images, raises=silent is False
                )
                found.append(
                    Mismatch(
                        "VLM010",
                        message,
                        key="input_ids",
                        samples=(sample,),
                        silent=silent,
                        cause="images in one run",
                    )
                )
    return found


def _ends(units: range) -> tuple[int, int]:
    return units.start, units.stop


def _agree(sides: Sides, lengths: Sequence[int], own: Sequence[Sequence[int]]) -> bool:
    """Whether the runs of a sample are what its media become; of clips, whether the totals are."""
    return fits(lengths, own) or (sides.noun != "image" and sum(lengths) == sum(map(sum, own)))


def _moved(units: range, by: int) -> range:
    return range(units.start + by, units.stop + by)


def _unsettled(batch: Batch, sides: Sides, lengths: Sequence[Sequence[int]]) -> list[Mismatch]:
    """Where nobody said which images are whose: what every cheapest story of the runs shares."""
    if is_another_order(lengths, [[count] for count in sides.features]) and (
        sum(map(len, lengths)) == len(sides.features)
    ):
        units = iter(sides.features)
        due = [sum(next(units) for _ in sample) for sample in lengths]
        return [
            _mismatch(batch, sides, s, due[s], [Fault("another order", sum(own), due[s])])
            for s, own in enumerate(lengths)
            if sum(own) != due[s] or sum(map(len, lengths)) == len(own)
        ]
    laid = align_runs(lengths, sides.pieces, joined=sides.unit == "tile")
    if laid is not None and laid.unique and not laid.faults:
        return []
    ends = (0, *accumulate(map(len, lengths)))
    flat, found, left = [run for sample in sides.runs for run in sample], [], []
    guessed = False
    if laid is not None:
        left = [step for step in laid.faults if step.kind == "missing"]
    for sample in sorted(laid.faulty) if laid is not None else []:
        assert laid is not None
        own = range(ends[sample], ends[sample + 1])
        steps = [step for step in laid.steps if _is_within(step, own)]
        left = [step for step in left if step not in steps]
        faults = [step for step in steps if step.kind != "whole"]
        units = [unit for step in steps for unit in step.images]
        sure = laid.unique and not any(map(_is_guess, steps))
        guessed |= not sure
        made = sum(sides.features[unit] for unit in units) if sure else None
        told = faults_of(faults, laid.steps, flat, sides.pieces, own) if sure else []
        found.append(_mismatch(batch, sides, sample, made, told))
    differ = sum(map(sum, lengths)) != sum(sides.features)
    if left or (not found and differ) or guessed:
        named = [unit for step in left for unit in step.images]
        message = batch_wording.totals(batch, sides, named)
        silent = False if differ and batch.rules.predict else None
        found.append(Mismatch("VLM010", message, key="input_ids", silent=silent, cause="totals"))
    return found


def _is_guess(step: Step) -> bool:
    """Whether a run stands for several images of which it has not all tokens.

    It may be what is left of one of them, and the others were lost, or are another sample's.
    """
    return step.kind == "changed" and len(step.images) > 1


def _is_within(step: Step, own: range) -> bool:
    """Whether a step is of these runs; an image without a run stands between two of them."""
    if step.runs:
        return step.runs.start in own
    return own.start < step.runs.start < own.stop


def _mismatch(
    batch: Batch, sides: Sides, sample: int, made: int | None, faults: Sequence[Fault]
) -> Mismatch:
    differ = None if made is None else sides.placeholders[sample] != made
    silent = runs_with_runs(batch, sides, differ)
    message = batch_wording.out_of_step(batch, sides, sample, made, faults, silent)
    causes = {fault.cause for fault in faults}
    cause = next(iter(causes)) if len(causes) == 1 else None
    return Mismatch(
        "VLM010", message, key="input_ids", samples=(sample,), silent=silent, cause=cause
    )


def _short_columns(batch: Batch) -> list[Mismatch]:
    """Keys that lie along the tokens, but not along all of them."""
    wide = batch.inputs["input_ids"].shape[-1]
    return [
        Mismatch("VLM011", wording.short_columns(key, width, wide), key=key, cause="columns")
        for key, width in batch.columns.items()
        if width < wide
    ]


def _marked_otherwise(batch: Batch, seen: Collection[int]) -> list[Mismatch]:
    """Samples whose placeholder tokens two sources count differently."""
    if batch.image.placeholders is None:
        return []
    return [
        Mismatch(
            "VLM010",
            wording.marked_otherwise(key, sample, counted, marked),
            key=key,
            samples=(sample,),
        )
        for key, marks in batch.marked.items()
        for sample, (counted, marked) in enumerate(
            zip(batch.image.placeholders, marks, strict=True)
        )
        if counted != marked and sample not in seen
    ]


def report_of(
    batch: Batch,
    chunks: Sequence[ChunkReport],
    mismatches: Sequence[Mismatch],
    ambiguities: Sequence[str],
    run: Run | None,
) -> Report:
    """The report on `chunks`, with what is known of the batch itself."""
    return Report(
        family=batch.layout.family,
        layout={key: str(axis) for key, axis in batch.layout.items()},
        counts={unit: tuple(count) for unit, count in batch.counts.items()},
        evidence={unit: count.evidence for unit, count in batch.counts.items()},
        chunk_size=run.chunk_size if run else None,
        chunks=tuple(chunks),
        mismatches=tuple(mismatches),
        ambiguities=tuple(ambiguities),
        slicer=run.slicer if run else None,
        compared=_compared(batch, run),
        error=run.error if run else None,
        kinds={key: batch.layout.kind(key) for key in batch.layout},
    )


def _compared(batch: Batch, run: Run | None) -> tuple[Compared, ...]:
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
        known = not _steps_unknown(batch) and batch.image.placeholders is not None
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
