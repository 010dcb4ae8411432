"""An unknown model: what the shapes of its batch determine, and what they do not.

`(row, 3, height, width)` may count images, tiles or samples. With `num_images` or `num_tiles`
the number of rows can rule out all readings but one. If two readings remain and would cut
differently, the batch is ambiguous and none is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vlmdebug.core.batch import Ambiguity
from vlmdebug.core.layout import Axis, Layout, plural
from vlmdebug.core.rows import Counts
from vlmdebug.core.rules import UNKNOWN
from vlmdebug.families.facts import BatchFacts, CountResult
from vlmdebug.families.rules import DESCRIBES

NAME = "unknown"


def read_by_shape(
    facts: BatchFacts,
    keys: list[str],
    overrides: Mapping[str, Axis],
    token_axes: Mapping[str, Axis],
) -> tuple[Layout, CountResult]:
    """Layout and counts of media `keys` that belong to no family."""
    counts: dict[str, Counts] = {}
    if facts.num_images is not None:
        counts["image"] = Counts(facts.num_images, "num_images")
    if facts.num_tiles is not None:
        counts["tile"] = Counts(facts.num_tiles, "num_tiles")
    axes, ambiguities = dict(token_axes), list[Ambiguity]()
    uncounted: dict[str, list[str]] = {}
    for key in keys:
        axes[key], ambiguity = _axis(facts, key, counts, overrides)
        if ambiguity is not None:
            ambiguities.append(ambiguity)
        elif axes[key].unit not in ("sample", "batch", *counts):
            uncounted.setdefault(axes[key].unit, []).append(key)
    ambiguities += [_missing_count(unit, those) for unit, those in uncounted.items()]
    # What the model needs in a chunk without media is unknown: accept both.
    unit = "image" if "image" in counts else "tile"
    media = dict.fromkeys(keys if unit in counts else (), unit)
    rules = replace(UNKNOWN, keys=dict.fromkeys(keys, DESCRIBES))
    layout = Layout(NAME, axes, media, rules=rules)
    return layout, CountResult(counts, ambiguities=tuple(ambiguities))


def _axis(
    facts: BatchFacts, key: str, counts: Mapping[str, Counts], overrides: Mapping[str, Axis]
) -> tuple[Axis, Ambiguity | None]:
    if key in overrides:
        return overrides[key], None
    rows = facts.rows(key)
    fits = {unit: count for unit, count in counts.items() if count.total == rows}
    if rows == facts.samples:
        fits["sample"] = Counts([1] * facts.samples, "rows of input_ids")
    if len(set(fits.values())) == 1 and set(fits) != {"sample"}:
        unit = next(unit for unit in ("image", "tile", "sample") if unit in fits)
        return Axis(unit), None
    return Axis("ambiguous"), _unsettled(facts, key, sorted(fits))


def _unsettled(facts: BatchFacts, key: str, fits: list[str]) -> Ambiguity:
    shape = tuple(facts.inputs[key].shape)
    if len(fits) > 1:
        why = f"its {shape[0]} rows could count {' or '.join(f'{unit}s' for unit in fits)}"
    elif fits:
        why = f"its {shape[0]} rows could count samples, or images or tiles of unknown number"
    else:
        why = f"no count that was given adds up to its {shape[0]} rows"
    return Ambiguity(
        keys=(key,),
        unit=None,
        message=(
            f"{key} has shape {shape} for {facts.samples} samples, and {why}. "
            "Cutting it would be a guess, so it was not cut. "
            f"Pass processor= or config=, or say it: {_said(facts, key, fits)}."
        ),
    )


def _said(facts: BatchFacts, key: str, fits: list[str]) -> str:
    """The arguments that determine what the rows of `key` count, without those already given."""
    unit = "image"
    if facts.num_images is not None and "image" not in fits:
        unit = "tile"  # they count no images
    given = facts.num_images if unit == "image" else facts.num_tiles
    layout = f'layout={{"{key}": "{unit}"}}'
    if given is None:
        return f"{layout} with num_{unit}s=[…]"
    return layout if unit in fits else f"{layout} with num_{unit}s=[…] that adds up to its rows"


def _missing_count(unit: str, keys: list[str]) -> Ambiguity:
    argument = "num_tiles" if unit == "tile" else "num_images"
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
            f"each sample has. {them} not cut. Pass {argument}=[…], one number per sample."
        ),
    )
