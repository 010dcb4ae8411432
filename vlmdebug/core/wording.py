"""Numbers, lists and names in words, as messages have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vlmdebug.core.layout import plural
from vlmdebug.core.rows import Rows


class Words(NamedTuple):
    """What a difference says.

    Attributes:
        said: What was given and what belongs there.
        todo: What to do.
        then: What the model will do, where the outcome does not say it.
    """

    said: str
    todo: str
    then: str | None = None


def number(count: int, noun: str) -> str:
    """`1 row`, `2 rows`, `2 patches`.

    >>> number(1, "row"), number(2, "patch")
    ('1 row', '2 patches')
    """
    return f"{count} {noun if count == 1 else plural(noun)}"


def listed(numbers: Sequence[int], most: int = 6) -> str:
    """`0, 1, 2`, and for long lists `0, 1, 2, 3, 4, 5 … 64 in all`."""
    shown = ", ".join(map(str, numbers[:most]))
    return f"{shown} … {len(numbers)} in all" if len(numbers) > most else shown


def name_samples(samples: Sequence[int]) -> str:
    """`sample 1`, `samples 0:2`, `samples 2, 0`."""
    if len(samples) == 1:
        return f"sample {samples[0]}"
    rows = Rows.of(samples)
    named = str(rows) if len(rows.ranges) == 1 else listed(samples)
    return f"samples {named}" if samples else "no sample"
