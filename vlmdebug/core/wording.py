"""Numbers, lists and names in words, as messages have them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from vlmdebug.core.layout import plural
from vlmdebug.core.rows import Rows

CELL = re.compile(r"<ipython-input-\d+-\w+>|(?:.*[/\\\\])?ipykernel_\d+[/\\\\]\d+\.py")
"""Names that IPython gives to the code of a cell: numbers of a process and of a text."""


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


def many(count: int, noun: str) -> str:
    """Like `number`, for counts that can be long: `1,024 rows`.

    >>> many(1, "row"), many(1024, "row")
    ('1 row', '1,024 rows')
    """
    return f"{count:,} {noun if count == 1 else plural(noun)}"


def listed(numbers: Sequence[int], most: int = 6) -> str:
    """`0, 1, 2`, and for long lists `0, 1, 2, 3, 4, 5 … 64 in all`."""
    shown = ", ".join(map(str, numbers[:most]))
    return f"{shown} … {len(numbers)} in all" if len(numbers) > most else shown


@cache
def short_name(filename: str) -> str:
    """A file of code with its folder: `train/loop.py`; `notebook cell` for the code of a cell.

    >>> short_name("/home/me/train/loop.py"), short_name("/tmp/ipykernel_17/3053.py")
    ('train/loop.py', 'notebook cell')
    """
    return "notebook cell" if CELL.fullmatch(filename) else "/".join(Path(filename).parts[-2:])


@lru_cache(maxsize=4096)
def letter(sample: int) -> str:
    """Name of a sample in pictures: A to Z, then AA.

    >>> letter(0), letter(25), letter(26), letter(701)
    ('A', 'Z', 'AA', 'ZZ')
    """
    before, last = divmod(sample, 26)
    return (letter(before - 1) if before else "") + chr(ord("A") + last)


def image_name(sample: int, image: int) -> str:
    """Name of an image by its place in its sample, from 0.

    >>> image_name(0, 0), image_name(1, 2)
    ('A1', 'B3')
    """
    return f"{letter(sample)}{image + 1}"


def name_samples(samples: Sequence[int]) -> str:
    """`sample 1`, `samples 0:2`, `samples 2, 0`."""
    if len(samples) == 1:
        return f"sample {samples[0]}"
    rows = Rows.of(samples)
    named = str(rows) if len(rows.ranges) == 1 else listed(samples)
    return f"samples {named}" if samples else "no sample"
