"""A batch without a slicer: placeholder tokens against the features that its media become.

What a collator or processor got wrong is found here, sample by sample, whoever cuts the batch
later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

from vlmdebug.checking.batch_findings import (
    Contradicted,
    NoFeatures,
    OneRun,
    RunsDiffer,
    ShortColumns,
    TotalsDiffer,
)
from vlmdebug.checking.causes import Fault, RunCause, faults_of, is_another_order
from vlmdebug.checking.chunk import images_of
from vlmdebug.checking.compared import compared, counts_unknown, positions
from vlmdebug.checking.doubts import (
    BeforePromptEnds,
    BehindPrompt,
    Doubt,
    FeaturesUnknown,
    Hidden,
    LostMask,
    MoreColumns,
    NotRecomputed,
    PlacesUnknown,
    Unmasked,
)
from vlmdebug.checking.dtypes import odd_dtypes
from vlmdebug.checking.findings import Difference, PositionsDiffer, made_otherwise, run_cause
from vlmdebug.checking.labels import labels_differences, learns_prompt, padding_learned
from vlmdebug.checking.lacking import lacking, nothing_shown
from vlmdebug.checking.marks import marked_otherwise
from vlmdebug.checking.packed import rows_of_calls, seam_differences, seam_doubts
from vlmdebug.checking.report import Report
from vlmdebug.checking.text import as_mismatch
from vlmdebug.checking.text_doubts import doubt
from vlmdebug.core.alignment import Step, align_runs, fits
from vlmdebug.core.batch import Batch, Contradiction
from vlmdebug.core.mismatch import Mismatch
from vlmdebug.core.modality import Modality
from vlmdebug.core.observed import Made, Seam, SlicerRun
from vlmdebug.core.part import Part
from vlmdebug.core.presence import expected_rows
from vlmdebug.core.record import ChunkReport, KeyReport, KeyState
from vlmdebug.core.runs import Sides, sides_of
from vlmdebug.errors import AmbiguousError
from vlmdebug.outcomes.reasons import DEPENDS, Outcome, Raises, Runs, Unknown, outcome
from vlmdebug.outcomes.whole_batch import (
    lays_out_media,
    runs_side_by_side,
    runs_unchecked,
    runs_with_runs,
)


def check_alone(batch: Batch, *, one_chunk: bool = False, seams: Sequence[Seam] = ()) -> Report:
    """The batch without a slicer: expected rows, placeholders and features.

    A line per sample, or one for all of them. `seams`: what may mix packed samples.
    """
    report = planned_report(batch, one_chunk=one_chunk)
    found = [*batch_differences(batch), *nothing_shown(batch), *padding_learned(batch)]
    found += seam_differences(seams, tuple(range(len(batch))))
    return replace(
        report,
        mismatches=tuple(as_mismatch(one, batch) for one in found),
        ambiguities=(*doubts_alone(batch), *map(doubt, seam_doubts(seams, len(batch)))),
    )


def with_made(report: Report, batch: Batch, made: Mapping[str, Made]) -> Report:
    """The report on a call that has keys which do not follow from it, or by no known rule."""
    samples = report.chunks[0].samples
    wrong, unsure = list[Difference](), list[Doubt]()
    for key, one in made.items():
        if one.right is False and one.why is not None:
            wrong.append(made_otherwise(key, one.why, 0, samples))
        elif one.why is not None:
            unsure.append(NotRecomputed(key, 0, one.why))
    return replace(
        report,
        mismatches=(*report.mismatches, *(as_mismatch(one, batch) for one in wrong)),
        ambiguities=(*report.ambiguities, *map(doubt, unsure)),
    )


def with_positions(report: Report, batch: Batch, key: str, own: Made | None) -> Report:
    """The report with what is known of `position_ids` or `rope_deltas` of the batch itself."""
    if own is None:
        return report
    found, unsure = list[Mismatch](), list[str]()
    if own.right is False and own.why is not None:
        sample = own.why.shapes[0][0]
        found.append(as_mismatch(PositionsDiffer.of(key, sample, own.why), batch))
    elif own.why is not None:
        unsure.append(doubt(PlacesUnknown(key, own.why)))
    return replace(
        report,
        mismatches=(*report.mismatches, *found),
        ambiguities=(*report.ambiguities, *unsure),
        compared=(*report.compared, positions(key, known=own.right is not None)),
    )


def planned_report(batch: Batch, *, one_chunk: bool = False) -> Report:
    """The rows each sample owns, or all of them together; nothing is looked for."""
    every = range(len(batch))
    reports = [
        _planned_chunk(batch, batch.part(samples))
        for samples in ([every] if one_chunk else [[s] for s in every])
    ]
    return report_of(batch, reports, [], [], None)


def unsettled_of(batch: Batch) -> list[str]:
    """What could not be settled when the batch was read."""
    return [one.message for one in batch.ambiguities if not isinstance(one, Contradiction)]


def doubts_alone(batch: Batch) -> list[str]:
    """What is unknown about the batch without a slicer."""
    messages = unsettled_of(batch)
    doubts = list[Doubt]()
    if not messages:
        doubts += _features_unknown(batch)
    wide = batch.inputs["input_ids"].shape[-1]
    columns = batch.columns.items()
    doubts += [MoreColumns(key, width, wide) for key, width in columns if width > wide]
    if any(batch.hidden):
        doubts += [Hidden(sample, count) for sample, count in enumerate(batch.hidden) if count]
    if any(batch.behind_prompt):
        typed = [(s, n) for s, n in enumerate(batch.behind_prompt) if n]
        doubts += [BehindPrompt(*own) for own in typed if not learns_prompt(batch, own[0])]
    if any(batch.before_prompt_ends):
        behind = batch.behind_prompt or (0,) * len(batch)
        typed = [(s, n) for s, n in enumerate(batch.before_prompt_ends) if n and not behind[s]]
        doubts += [BeforePromptEnds(*own) for own in typed]
    if any(batch.unmasked):
        masked, shown = "attention_mask" in batch.inputs, enumerate(batch.unmasked)
        causal = batch.rules.causal
        doubts += [Unmasked(s, count, masked, causal) for s, count in shown if count]
    rule = batch.rules.mrope
    doubts += [LostMask(key, bool(rule and key == rule.timed_by)) for key in batch.lost_masks]
    doubts += odd_dtypes(batch)
    return [*messages, *map(doubt, doubts)]


def _features_unknown(batch: Batch) -> list[FeaturesUnknown]:
    """Modalities with placeholder tokens and features that cannot be compared, and the reason."""
    contradicted = {key for one in batch.contradictions for key in one.keys}
    return [
        FeaturesUnknown(name, "placeholder tokens" if one.placeholders is None else "features")
        for name, one in batch.modalities.items()
        if counts_unknown(batch, one) and contradicted.isdisjoint(one.keys)
    ]


def _planned_chunk(batch: Batch, part: Part) -> ChunkReport:
    keys = {}
    for key, axis in batch.layout.items():
        if axis.unit == "batch":
            continue
        try:
            expected = expected_rows(batch, key, part)
        except AmbiguousError:
            keys[key] = KeyReport(KeyState.CANNOT_TELL, None, None)
        else:
            state = KeyState.ABSENT if expected.presence == "absent" else KeyState.PLANNED
            keys[key] = KeyReport(state, expected.rows, None)
    placeholders = batch.placeholders_of(part)
    features = None if batch.image.inferred else batch.features_of(part)
    return ChunkReport(tuple(part.samples), images_of(batch, part), placeholders, features, keys)


def batch_differences(batch: Batch) -> list[Difference]:
    """What is wrong with the batch, whoever cuts it."""
    found: list[Difference] = [_contradicted(one) for one in batch.contradictions]
    found += _short_columns(batch)
    for modality in batch.modalities.values():
        found += _token_differences(batch, modality)
    found += [*lacking(batch), *labels_differences(batch)]
    seen = {sample for one in found for sample in one.samples}
    return [*found, *marked_otherwise(batch, seen)]


def _contradicted(one: Contradiction) -> Contradicted:
    key = next(iter(one.keys), None)
    return Contradicted(key=key, outcome=outcome(one.silent, Runs.TOTALS_AGREE), said=one.message)


def _token_differences(batch: Batch, modality: Modality) -> Sequence[Difference]:
    """Samples with runs of placeholder tokens that do not match their media."""
    if modality.keys and not batch.rules.checks_totals:
        return []
    sides = sides_of(batch, modality)
    if sides is not None:
        return _runs_differences(batch, sides) or _side_by_side(batch, sides)
    made, written = batch.features_by_sample[modality.name] or (), modality.placeholders or ()
    then = outcome(None if modality.keys else runs_unchecked(batch), Runs.NO_IMAGE)
    return [
        NoFeatures(samples=(sample,), outcome=then, placeholders=tokens)
        for sample, (features, tokens) in enumerate(zip(made, written, strict=False))
        if not features and tokens
    ]


def _runs_differences(batch: Batch, sides: Sides) -> Sequence[Difference]:
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
            told = [Fault(RunCause.ANOTHER_ORDER, sum(lengths[sample]), made)]
        found.append(_runs_differ(batch, sides, sample, made, told))
    return found


def _side_by_side(batch: Batch, sides: Sides) -> list[OneRun]:
    """Samples with one run for several images, where the model takes a run for one image.

    `modeling_qwen2_vl.get_rope_index` and that of its variants takes the next row of image_grid_thw
    for each run of image tokens (transformers 5.23).
    """
    if not lays_out_media(batch) or sides.unit != "image":
        return []
    lengths, found, stop = sides.lengths, list[OneRun](), 0
    if sum(map(len, lengths)) >= len(sides.pieces):
        return []  # as nearly all batches have them
    ends = [*accumulate(sides.features)]
    silent = runs_side_by_side(batch)
    then = Outcome(Unknown.RUN_PER_IMAGE if silent is None else Raises.RUN_PER_IMAGE)
    for sample, own in enumerate(lengths):
        edges = [*accumulate(own, initial=stop)]
        stop = edges[-1]
        for first, last in pairwise(edges):
            images = tuple(image for image, end in enumerate(ends) if first < end <= last)
            if len(images) > 1:
                found.append(
                    OneRun(samples=(sample,), outcome=then, tokens=last - first, images=images)
                )
    return found


def _ends(units: range) -> tuple[int, int]:
    return units.start, units.stop


def _agree(sides: Sides, lengths: Sequence[int], own: Sequence[Sequence[int]]) -> bool:
    """Whether the runs of a sample are what its media become.

    Of clips that may be written in any number of runs, whether the totals are the same.
    """
    if fits(lengths, own):
        return True
    anyhow = sides.noun != "image" and sides.batch.modalities[sides.noun].pieces is None
    return anyhow and sum(lengths) == sum(map(sum, own))


def _moved(units: range, by: int) -> range:
    return range(units.start + by, units.stop + by)


def _unsettled(
    batch: Batch, sides: Sides, lengths: Sequence[Sequence[int]]
) -> Sequence[Difference]:
    """If images are not assigned to samples: what all cheapest alignments of the runs share."""
    if is_another_order(lengths, [[count] for count in sides.features]) and (
        sum(map(len, lengths)) == len(sides.features)
    ):
        units = iter(sides.features)
        due = [sum(next(units) for _ in sample) for sample in lengths]
        return [
            _runs_differ(batch, sides, s, due[s], [Fault(RunCause.ANOTHER_ORDER, sum(own), due[s])])
            for s, own in enumerate(lengths)
            if sum(own) != due[s] or sum(map(len, lengths)) == len(own)
        ]
    laid = align_runs(lengths, sides.pieces, joined=sides.unit == "tile")
    if laid is not None and laid.unique and not laid.faults:
        return []
    ends = (0, *accumulate(map(len, lengths)))
    flat, left = [run for sample in sides.runs for run in sample], list[Step]()
    found = list[Difference]()
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
        found.append(_runs_differ(batch, sides, sample, made, told))
    differ = sum(map(sum, lengths)) != sum(sides.features)
    if left or (not found and differ) or guessed:
        found.append(_totals_differ(batch, sides, left))
    return found


def _totals_differ(batch: Batch, sides: Sides, left: Sequence[Step]) -> TotalsDiffer:
    """The totals of the batch; `left`: images that are in the text of no sample that is named."""
    outside = _outside(batch, sides)
    told = sides.noun == "image" or {*batch.marked.values()} <= {batch.image.placeholders}
    differ = told and sum(sides.placeholders) + outside != sum(sides.features)
    return TotalsDiffer(
        outcome=Outcome(Raises.TOTALS_DIFFER) if differ and batch.rules.predict else DEPENDS,
        noun=sides.noun,
        unit=sides.unit,
        runs=tuple(map(tuple, sides.lengths)),
        features=tuple(sides.features),
        unnamed=tuple(unit for step in left for unit in step.images),
        owned=sides.owned is not None,
        outside=outside,
    )


def _outside(batch: Batch, sides: Sides) -> int:
    """Placeholder tokens that belong to no sample: the boundaries of packed rows leave them out."""
    token = batch.modalities[sides.noun].token_id
    if batch.packed is None or token is None:
        return 0
    return int((batch.inputs["input_ids"] == token).sum()) - sum(sides.placeholders)


def _is_guess(step: Step) -> bool:
    """Whether a run represents several images but has not all of their tokens.

    It may be what is left of one of them, and the others were lost, or are another sample's.
    """
    return step.kind == "changed" and len(step.images) > 1


def _is_within(step: Step, own: range) -> bool:
    """Whether a step is of these runs; an image without a run stands between two of them."""
    if step.runs:
        return step.runs.start in own
    return own.start < step.runs.start < own.stop


def _runs_differ(
    batch: Batch, sides: Sides, sample: int, made: int | None, faults: Sequence[Fault]
) -> RunsDiffer:
    differ = None if made is None else sides.placeholders[sample] != made
    silent = runs_with_runs(batch, sides, differ)
    agree = sum(sides.placeholders) == sum(sides.features)
    runs = Runs.TOTALS_AGREE if agree else Runs.MORE_FEATURES
    return RunsDiffer(
        samples=(sample,),
        outcome=outcome(silent, runs, _raises_because(batch)),
        cause=run_cause(faults),
        noun=sides.noun,
        unit=sides.unit,
        runs=tuple(sides.lengths[sample]),
        features=made,
        faults=tuple(faults),
        before=None if sides.owned is None else sum(sides.owned[:sample]),
    )


def _raises_because(batch: Batch) -> Raises:
    """Why a model raises on samples with runs that differ from their features."""
    features, placeholders = batch.image.features, batch.image.placeholders
    if features is not None and placeholders is not None and sum(features) == sum(placeholders):
        return Raises.PER_SAMPLE
    return Raises.ONLY_TOTALS


def _short_columns(batch: Batch) -> list[ShortColumns]:
    """Keys along the tokens, but not along all of them."""
    wide = batch.inputs["input_ids"].shape[-1]
    return [
        ShortColumns(key=key, columns=width, of_ids=wide)
        for key, width in batch.columns.items()
        if width < wide
    ]


def report_of(
    batch: Batch,
    chunks: Sequence[ChunkReport],
    found: Sequence[Difference],
    ambiguities: Sequence[str],
    run: SlicerRun | None,
) -> Report:
    """The report on `chunks`, with what is known of the batch itself."""
    return Report(
        family=batch.layout.family,
        layout={key: str(axis) for key, axis in batch.layout.items()},
        counts={unit: tuple(count) for unit, count in batch.counts.items()},
        evidence={unit: count.evidence for unit, count in batch.counts.items()},
        chunk_size=run.chunk_size if run else None,
        chunks=tuple(chunks),
        mismatches=tuple(as_mismatch(one, batch) for one in found),
        ambiguities=tuple(ambiguities),
        slicer=run.slicer if run else None,
        compared=compared(batch, run, chunks),
        error=run.error if run else None,
        kinds={key: batch.layout.kind(key) for key in batch.layout},
        axes=dict(batch.layout.axes),
        packed=rows_of_calls(run.chunks) if run else (),
    )
