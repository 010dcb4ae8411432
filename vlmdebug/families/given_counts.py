"""Counts per sample from the user: `num_images=`, …, `counts={unit: …}`, or keys of the batch.

Every unit has one argument that counts it; messages name it by `how_to_count`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdebug.core.keys import BOOKKEEPING
from vlmdebug.core.layout import is_unit
from vlmdebug.core.literals import literal
from vlmdebug.core.rows import as_counts
from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

NAMES = {unit: name for name, unit in BOOKKEEPING.items()}
"""Arguments of `read_batch` by the unit that they count."""


def how_to_count(unit: str) -> str:
    """The argument that gives the counts of a unit.

    >>> how_to_count("image"), how_to_count("patch")
    ('num_images=[…]', 'counts={"patch": […]}')
    """
    named = NAMES.get(unit)
    return f"counts={{{literal(unit)}: […]}}" if named is None else f"{named}=[…]"


def counts_given(
    inputs: Mapping[str, Any],
    named: Mapping[str, Any],
    counts: Mapping[str, Any] | None,
    samples: int,
) -> dict[str, tuple[int, ...]]:
    """Counts per sample by unit; arguments take precedence over the keys of the batch.

    Raises:
        BadInput: One holds no counts, a unit is no name, or two arguments count it differently.
    """
    given = {name: inputs.get(name) if own is None else own for name, own in named.items()}
    found = {
        BOOKKEEPING[name]: as_counts(value, name=name, samples=samples)
        for name, value in given.items()
        if value is not None
    }
    if counts is not None and not isinstance(counts, Mapping):
        raise BadInput(
            f"counts is {one_line(repr(counts), 80)}, but it holds counts per sample by unit. "
            'Pass a dict, such as counts={"patch": [16, 0, 8]}.'
        )
    for unit, value in (counts or {}).items():
        if not is_unit(unit) or unit in ("sample", "batch", "ambiguous"):
            raise BadInput(
                f"counts names the unit {one_line(repr(unit), 80)}, which cannot be counted per "
                "sample, or is no short name. "
                'Name what a row counts, such as counts={"patch": [16, 0, 8]}.'
            )
        numbers = as_counts(value, name=f"counts[{literal(unit)}]", samples=samples)
        named_too = NAMES.get(unit, "")
        if found.get(unit, numbers) != numbers and named.get(named_too) is not None:
            raise BadInput(
                f"counts[{literal(unit)}] is {list(numbers)}, but {named_too} is "
                f"{list(found[unit])}. Both count the {unit}s of each sample. Pass one of them."
            )
        found[unit] = numbers
    return found
