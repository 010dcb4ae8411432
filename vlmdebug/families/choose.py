"""The family of a batch: the one that is given, that of the config, or the one its keys fit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from vlmdebug.core.layout import UNITS, Axis, Layout
from vlmdebug.errors import BadInput
from vlmdebug.families import FAMILIES, Family, family_named, find_family
from vlmdebug.families.base import dimensions
from vlmdebug.families.facts import BatchFacts
from vlmdebug.families.given_counts import how_to_count
from vlmdebug.families.probe import Probe


def axes_given(layout: Any, counted: Collection[str] = ()) -> dict[str, Axis]:
    """The axes that `layout=` gives by key; none where it names a family.

    `counted` are units that `counts=` counts; they may have any name.

    Raises:
        BadInput: It is neither, or a row counts nothing that is known.
    """
    if layout is None or isinstance(layout, str):
        return {}
    if not isinstance(layout, Mapping):
        raise BadInput(
            f"layout is {layout!r}, but it is a family's name, a Layout, or {{key: unit}}. "
            f'For instance layout="gemma4" or layout={{"pixel_values": "image"}}.'
        )
    axes = {key: Axis(axis) if isinstance(axis, str) else axis for key, axis in layout.items()}
    for key, axis in axes.items():
        if not isinstance(axis, Axis) or axis.unit not in (*UNITS, *counted):
            own = axis.unit if isinstance(axis, Axis) else "patch"
            raise BadInput(
                f"layout[{key!r}] is {axis!r}, but a row counts one of {', '.join(UNITS)}. "
                f'Say what one row of {key} counts, for instance "image". '
                f"Another unit needs its numbers per sample: {how_to_count(own)}."
            )
    return axes


def family_of(facts: BatchFacts, layout: Any, probed: Probe | None = None) -> Family | None:
    """The family that `layout=` or the config names, otherwise the one with the batch's keys.

    `probed` is the output of a processor that no family knows; it overrules the names of keys.

    Raises:
        BadInput: Config and processor belong to different families.
    """
    if isinstance(layout, str):
        return family_named(layout)
    if layout is not None and isinstance(layout, Layout):
        return find_family(layout.family)
    name, made = facts.metadata.model_type, facts.metadata.processor_type
    if name is not None:
        found, other = find_family(name), find_family(made or name)
        if found is not None and other is not None and found is not other:
            raise BadInput(
                f"The config is {name}'s (layout {found.name}), the processor "
                f"{made}'s (layout {other.name}). Their tensors differ, "
                "so no batch fits both. Load both from the same checkpoint."
            )
        return found
    named = next((family for family in FAMILIES.values() if family.recognises(facts.inputs)), None)
    return None if named is not None and not _agrees(named, facts, probed) else named


def _agrees(family: Family, facts: BatchFacts, probed: Probe | None) -> bool:
    """Whether the probe reads each key as the family does; names of keys alone decide nothing.

    Whether a row is a tile or a patch, no number can tell.
    """
    if probed is None:
        return True
    pairs = [
        {probed.axes[key].unit, axis.unit}
        for key, axis in family.axes.items()
        if facts.has(key) and key in probed.axes
    ]
    return all(len(units) == 1 or units == {"tile", "patch"} for units in pairs)


def present_keys(facts: BatchFacts, family: Family) -> list[str]:
    """The media keys of the family that the batch has.

    Raises:
        BadInput: Some that the family needs are missing, or one has other dimensions than there.
    """
    present = facts.present(family.axes)
    sometimes = family.rules.sometimes_returned
    missing = [key for key in family.axes if key not in present and key not in sometimes]
    if present and missing:
        raise BadInput(
            f"{missing[0]} is missing or None, but {present[0]} "
            f"{tuple(facts.inputs[present[0]].shape)} is there; layout {family.name} needs both. "
            "A model would raise or, worse, see no images. Keep every key the processor returned."
        )
    for key in present:
        if not _has_dimensions(facts.inputs[key].ndim, family.shapes[key]):
            shape = tuple(facts.inputs[key].shape)
            raise BadInput(
                f"{key} has shape {shape}, but in layout {family.name} it is "
                f"({family.shapes[key]}). Rows would be counted on the wrong dimension. "
                "Pass it as the processor returned it."
            )
    return present


def _has_dimensions(count: int, named: str) -> bool:
    """Whether there is one for each name; `...` represents one or more."""
    names = dimensions(named)
    return count >= len(names) if names[-1] == "..." else count == len(names)
