"""An unknown model: what its processor's probe or the shapes of its batch determine.

`(row, 3, height, width)` may count images, tiles or samples. The probe of the processor answers
that. Without one, `num_images` or `num_tiles` can rule out all readings but one for keys that
models name alike. If two readings remain and would cut differently, or if the probe found none,
the batch is ambiguous and none is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

from vlmdebug.core.batch import Ambiguity
from vlmdebug.core.keys import KNOWN
from vlmdebug.core.layout import VIDEO_AND_AUDIO, Axis, Layout, plural
from vlmdebug.core.literals import literal
from vlmdebug.core.rows import Counts
from vlmdebug.core.rules import UNKNOWN
from vlmdebug.core.tensors import to_numpy
from vlmdebug.core.wording import number
from vlmdebug.families.facts import BatchFacts, CountResult
from vlmdebug.families.given_counts import how_to_count
from vlmdebug.families.probe import Probe
from vlmdebug.families.rules import DESCRIBES
from vlmdebug.safe import one_line

NAME = "unknown"
ONE_SAMPLE = "the batch has one sample"


def read_by_shape(
    facts: BatchFacts,
    keys: list[str],
    overrides: Mapping[str, Axis],
    token_axes: Mapping[str, Axis],
    probed: Probe | None = None,
) -> tuple[Layout, CountResult]:
    """Layout and counts of media `keys` that belong to no family."""
    given = {"image": facts.num_images, "tile": facts.num_tiles, **facts.clips}
    counts = {
        unit: Counts(own, how_to_count(unit).partition("=")[0])
        for unit, own in {**given, **facts.others}.items()
        if own is not None
    }
    axes, ambiguities = dict(token_axes), list[Ambiguity]()
    read: dict[str, Axis] = {}
    for key in keys:
        axes[key], ambiguity = _axis(facts, key, counts, overrides, probed)
        if ambiguity is None:
            read[key] = axes[key]
        else:
            ambiguities.append(ambiguity)
    for unit, own in _counted(facts, read, counts, probed):
        counts.setdefault(unit, own)
    ambiguities += _not_as_probed(facts, read, counts, overrides, probed)
    uncounted: dict[str, list[str]] = {}
    for key, axis in read.items():
        if axis.unit not in ("sample", "batch", *counts):
            uncounted.setdefault(axis.unit, []).append(key)
    ambiguities += [_missing_count(facts, unit, those) for unit, those in uncounted.items()]
    # What the model needs in a chunk without media is unknown: accept both.
    units = {key: _owned(axes[key], counts) for key in keys}
    media = {key: unit for key, unit in units.items() if unit is not None}
    rules = replace(UNKNOWN, keys=dict.fromkeys(keys, DESCRIBES))
    layout = Layout(NAME, axes, media, rules=rules)
    return layout, CountResult(counts, ambiguities=tuple(ambiguities))


def _owned(axis: Axis, counts: Mapping[str, Counts]) -> str | None:
    """The count that must be above zero for a chunk to be given a key."""
    if axis.unit in counts and axis.unit != "sample":
        return axis.unit
    return next((unit for unit in ("image", "tile") if unit in counts), None)


def _axis(
    facts: BatchFacts,
    key: str,
    counts: Mapping[str, Counts],
    overrides: Mapping[str, Axis],
    probed: Probe | None,
) -> tuple[Axis, Ambiguity | None]:
    if key in overrides:
        return overrides[key], None
    if probed is not None:
        axis = probed.axes.get(key, Axis("ambiguous"))
        if axis.unit != "ambiguous":
            return axis, None
        reason = probed.reasons.get(key)
        return axis, _refused_by_probe(facts, key, counts, probed, reason)
    rows = facts.rows(key)
    fits = {unit: count for unit, count in counts.items() if count.total == rows}
    if rows == facts.samples:
        fits["sample"] = Counts([1] * facts.samples, "rows of input_ids")
    if key in KNOWN and len(set(fits.values())) == 1 and set(fits) != {"sample"}:
        return Axis(next(unit for unit in (*counts, "sample") if unit in fits)), None
    return Axis("ambiguous"), _unsettled(facts, key, sorted(fits))


# --- counts that follow from the batch -----------------------------------------------------------


def _counted(
    facts: BatchFacts, axes: Mapping[str, Axis], counts: Mapping[str, Counts], probed: Probe | None
) -> Iterator[tuple[str, Counts]]:
    """Counts of units that nobody gave: by a key that holds the lengths, or of a single sample."""
    for key, axis in axes.items():
        if axis.unit in ("sample", "batch", *counts):
            continue
        if facts.samples == 1:
            yield axis.unit, Counts([facts.rows(key)], ONE_SAMPLE)
        elif probed is not None:
            found = _by_lengths(facts, key, axes, counts, probed)
            if found is not None:
                yield axis.unit, found


def _by_lengths(
    facts: BatchFacts,
    key: str,
    axes: Mapping[str, Axis],
    counts: Mapping[str, Counts],
    probed: Probe,
) -> Counts | None:
    """Rows of each sample, by the key that holds those of each image; None if they do not fit."""
    length, images = probed.lengths.get(key), counts.get("image")
    rows = facts.rows(key)
    if length is not None and length.key in axes:
        owned = counts.get(axes[length.key].unit)
        each = length.of(to_numpy(facts.inputs[length.key]))
        if owned is not None and owned.total == len(each) and sum(each) == rows:
            ends = owned.offsets
            totals = [sum(each[a:b]) for a, b in pairwise(ends)]
            return Counts(totals, f"{length.key}, {owned.evidence}")
    if images is not None and images.total == rows and probed.least.get(key, 0) >= 1:
        return Counts(images, f"{images.evidence}; as many rows, and each image has one or more")
    return None


def _not_as_probed(
    facts: BatchFacts,
    axes: Mapping[str, Axis],
    counts: Mapping[str, Counts],
    overrides: Mapping[str, Axis],
    probed: Probe | None,
) -> list[Ambiguity]:
    """Keys with other numbers of rows than the probe lets expect: it holds for what it saw."""
    found = []
    for key, axis in axes.items() if probed is not None else ():
        total = facts.samples if axis.unit == "sample" else None
        total = counts[axis.unit].total if axis.unit in counts else total
        rows = _length(facts, key, axis)
        if key in overrides or total is None or rows == total:
            continue
        found.append(
            Ambiguity(
                (key,),
                None,
                f"{one_line(key)} has {number(rows, 'row')}, but the probe of the processor found "
                f"one row per {axis.unit}, and the batch has {total} {plural(axis.unit)}. It was "
                "not cut. Either the batch lacks rows or has too many, or the processor returns "
                f"other rows than for {probed.holds if probed else ''}. Pass the batch as the "
                f"processor returned it, or say it: {_said_with_counts(key, 'tile')}.",
            )
        )
    return found


def _length(facts: BatchFacts, key: str, axis: Axis) -> int:
    """Rows on the dimension of the axis."""
    value: Any = facts.inputs[key]
    return len(value) if not axis.dim else value.shape[axis.dim]


# --- what was not settled ------------------------------------------------------------------------


def _refused_by_probe(
    facts: BatchFacts,
    key: str,
    counts: Mapping[str, Counts],
    probed: Probe,
    reason: str | None,
) -> Ambiguity:
    bounds = _bounds(facts, key)
    if bounds is not None:
        return _leave_bounds_out(facts, key, counts, *bounds, probed)
    why = reason or f"the probe of the processor, with {probed.holds}, never returned it"
    unit = next((one for one in VIDEO_AND_AUDIO if one in key), "tile")
    advice = f"Say what a row counts: {_said_with_counts(key, unit)}"
    if reason is not None:  # no layout describes such rows
        advice = (
            "Leave it out of the batch, and compute it for each chunk, for instance by calling the "
            "processor on the samples of the chunk"
        )
    return Ambiguity(
        (key,),
        None,
        f"{one_line(key)} {_shape(facts, key)} cannot be cut: {why}. "
        f"Cutting it would be a guess, so it was not cut. {advice}.",
    )


def _bounds(facts: BatchFacts, key: str) -> tuple[str, list[int]] | None:
    """The other key of which a key holds the bounds of the rows, and these; None if it does not."""
    value = facts.inputs[key]
    if len(getattr(value, "shape", ())) != 1 or "int" not in str(value.dtype):
        return None
    ends = to_numpy(value).tolist()
    if len(ends) < 2 or ends[0] != 0 or ends != sorted(ends):
        return None
    others = [name for name, one in facts.inputs.items() if hasattr(one, "shape") and name != key]
    rows = [name for name in others if name not in KNOWN or "pixel" in name]
    found = [name for name in rows if facts.inputs[name].shape[:1] == (ends[-1],)]
    return (found[0], ends) if len(found) == 1 else None


def _leave_bounds_out(
    facts: BatchFacts,
    key: str,
    counts: Mapping[str, Counts],
    other: str,
    ends: list[int],
    probed: Probe | None = None,
) -> Ambiguity:
    """Bounds are recomputed for each chunk; the counts that they give are in the message."""
    images, numbers = counts.get("image"), "[…]"
    if images is not None and images.total == len(ends) - 1:
        numbers = str([ends[b] - ends[a] for a, b in pairwise(images.offsets)])
    unit = "patch" if probed is None else probed.axes.get(other, Axis("ambiguous")).unit
    counted = how_to_count(unit if unit != "ambiguous" else "patch").replace("[…]", numbers)
    layout = f'layout={{{literal(other)}: "patch"}} with '
    return Ambiguity(
        (key,),
        None,
        f"{one_line(key)} {_shape(facts, key)} holds the bounds of the rows of {one_line(other)}, "
        "so no slice of it holds those of a slice. It was not cut. Leave it out, compute it for "
        f"each chunk from the rows of {one_line(other)}, and pass "
        f"{'' if probed is not None and unit != 'ambiguous' else layout}{counted}.",
    )


def _unsettled(facts: BatchFacts, key: str, fits: list[str]) -> Ambiguity:
    bounds = _bounds(facts, key)
    if bounds is not None:
        given = {"image": facts.num_images}
        counts = {unit: Counts(own, unit) for unit, own in given.items() if own is not None}
        return _leave_bounds_out(facts, key, counts, *bounds)
    rows = facts.rows(key)
    if len(fits) > 1:
        why = f"its {rows} rows could count {' or '.join(f'{unit}s' for unit in fits)}"
    elif fits == ["sample"]:
        why = f"its {number(rows, 'row')} could count samples, or images or tiles of unknown number"
    elif fits:
        could = f"{number(rows, 'row')} could count {plural(fits[0])}"
        why = f"its name is not known, although its {could}"
    else:
        why = f"no count that was given adds up to its {number(rows, 'row')}"
    return Ambiguity(
        keys=(key,),
        unit=None,
        message=(
            f"{key} has shape {_shape(facts, key)} for {number(facts.samples, 'sample')}, and "
            f"{why}. Cutting it would be a guess, so it was not cut. "
            f"{_other_sources(facts)}: {_said(facts, key, fits)}."
        ),
    )


def _other_sources(facts: BatchFacts) -> str:
    """What to pass other than `layout=`, as far as it was not passed."""
    if facts.unprobed is not None:
        begins = "say" if facts.unprobed.endswith(" or") else "Say"
        return f"The processor was no help: {facts.unprobed} {begins} it"
    return "Pass processor= or config=, or say it"


def _shape(facts: BatchFacts, key: str) -> str:
    value = facts.inputs[key]
    return f"list of {len(value)}" if isinstance(value, list) else str(tuple(value.shape))


def _said(facts: BatchFacts, key: str, fits: list[str]) -> str:
    """The arguments that determine what the rows of `key` count, without those already given."""
    unit = "image"
    if facts.num_images is not None and "image" not in fits:
        unit = "tile"  # they count no images
    given = facts.num_images if unit == "image" else facts.num_tiles
    layout = f'layout={{{literal(key)}: "{unit}"}}'
    if given is None:
        return f"{layout} with num_{unit}s=[…]"
    if "sample" in fits and unit in fits:
        return f'{layout} or layout={{{literal(key)}: "sample"}}, whichever a row counts'
    return layout if unit in fits else f"{layout} with num_{unit}s=[…] that adds up to its rows"


def _said_with_counts(key: str, unit: str) -> str:
    return f'layout={{{literal(key)}: "{unit}"}} with {how_to_count(unit)}, or another unit'


def _missing_count(facts: BatchFacts, unit: str, keys: list[str]) -> Ambiguity:
    *others, last = keys
    named, them = (
        (f"{', '.join(others)} and {last} have", "They were")
        if others
        else (f"{last} has", "It was")
    )
    return Ambiguity(
        keys=tuple(keys),
        unit=unit,
        message=(
            f"{named} one row per {unit}, but nothing says how many {plural(unit)} "
            f"each sample has. {them} not cut. Pass {how_to_count(unit)}, one number per sample."
        ),
    )
