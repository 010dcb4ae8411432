"""A batch without a slicer: placeholder tokens beside the features that its media become.

What a collator or processor got wrong is found here, sample by sample, whoever cuts the batch
later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from vlmdebug import wording
from vlmdebug.batch import Batch
from vlmdebug.errors import AmbiguousError
from vlmdebug.judge import images_of
from vlmdebug.mismatch import Mismatch
from vlmdebug.outcome import features_of
from vlmdebug.report import ChunkReport, KeyReport, Report
from vlmdebug.used import Made, Run


def check_alone(batch: Batch, *, one_chunk: bool = False) -> Report:
    """The batch without a slicer: planned rows, placeholders and features.

    A line per sample, or one for all of them.
    """
    report = planned_report(batch, one_chunk=one_chunk)
    return replace(
        report,
        mismatches=tuple(batch_mismatches(batch)),
        ambiguities=tuple(doubts_alone(batch)),
    )


def with_made(report: Report, made: Mapping[str, Made]) -> Report:
    """The report on a call that has keys which do not follow from it, or by no known rule."""
    samples = range(report.samples)
    wrong = [
        Mismatch("VLM011", wording.made_otherwise(key, samples, one.why), key, 0, tuple(samples))
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


def doubts_alone(batch: Batch) -> list[str]:
    """What cannot be told of the batch without a slicer."""
    messages = [ambiguity.message for ambiguity in batch.ambiguities]
    if not messages and _steps_unknown(batch):
        messages = [wording.steps_unknown(batch)]
    messages += [
        wording.more_columns(key, width, batch.inputs["input_ids"].shape[-1])
        for key, width in batch.columns.items()
        if width > batch.inputs["input_ids"].shape[-1]
    ]
    messages += [
        wording.clips_unknown(stream.unit)
        for stream in batch.streams
        if not messages and batch.stream_step(stream, []) is None
    ]
    return messages


def _planned_chunk(batch: Batch, samples: Sequence[int]) -> ChunkReport:
    keys = {}
    for key in batch.layout:
        try:
            planned = batch.planned(key, samples)
        except AmbiguousError:
            keys[key] = KeyReport("cannot tell", None, None)
        else:
            state = "absent" if planned.presence == "absent" else "planned"
            keys[key] = KeyReport(state, planned.rows, None)
    placeholders, features = batch.placeholders_of(samples), features_of(batch, samples)
    return ChunkReport(tuple(samples), images_of(batch, samples), placeholders, features, keys)


def _steps_unknown(batch: Batch) -> bool:
    """Whether placeholders and features of a batch with media cannot be compared."""
    known = batch.features is not None and batch.placeholders is not None
    return bool(batch.image_keys) and batch.layout.checks_counts and not known


def batch_mismatches(batch: Batch) -> list[Mismatch]:
    """Samples whose placeholder tokens are not as many as their images' features."""
    if batch.ambiguities:
        return _totals_mismatch(batch)
    found = _short_columns(batch)
    features, placeholders = batch.features_by_sample or (), batch.placeholders or ()
    for sample, (made, written) in enumerate(zip(features, placeholders, strict=False)):
        if made == written:
            continue
        silent = not batch.image_keys or (
            sum(features) == sum(placeholders) and not batch.layout.strict
        )
        message = wording.out_of_step(batch, sample, written, made)
        found.append(Mismatch("VLM010", message, key="input_ids", samples=(sample,), silent=silent))
    seen = {sample for mismatch in found for sample in mismatch.samples}
    return found + _marked_otherwise(batch, seen) + _clip_mismatches(batch)


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
    if batch.marked is None or batch.placeholders is None:
        return []
    return [
        Mismatch(
            "VLM010",
            wording.marked_otherwise(sample, counted, marked),
            key="mm_token_type_ids",
            samples=(sample,),
        )
        for sample, (counted, marked) in enumerate(
            zip(batch.placeholders, batch.marked, strict=True)
        )
        if counted != marked and sample not in seen
    ]


def _clip_mismatches(batch: Batch) -> list[Mismatch]:
    found = []
    for stream in batch.streams:
        for sample in range(len(batch)):
            step = batch.stream_step(stream, [sample])
            if step is not None and step[0] != step[1]:
                message = wording.clips_out_of_step(stream.unit, sample, *step)
                found.append(Mismatch("VLM010", message, key="input_ids", samples=(sample,)))
    return found


def _totals_mismatch(batch: Batch) -> list[Mismatch]:
    """Where nobody knows which images are whose, the totals can still be out of step."""
    if batch.features is None or batch.placeholders is None or not batch.layout.checks_counts:
        return []
    placeholders, features = sum(batch.placeholders), sum(batch.features)
    if placeholders == features:
        return []
    message = wording.totals_out_of_step(placeholders, features)
    return [Mismatch("VLM010", message, key="input_ids", silent=False)]


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
        error=run.error if run else None,
    )
