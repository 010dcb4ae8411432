"""What one row of each key counts, from a processor's output for samples alone and together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from vlmdebug.core.keys import TOKEN_KEYS
from vlmdebug.core.layout import SAMPLE_WITH_IMAGES, VIDEO_PATCH, Axis, is_unit
from vlmdebug.families.probe_runs import Round, Value

COUNTED = ("sample", SAMPLE_WITH_IMAGES, "image", "video")
"""Units with at most one row per sample, image or video."""
MORE = "more"
"""Rows that are neither one per sample nor one per image: tiles, patches, frames."""
OTHER_ROWS = (
    "the rows of the whole batch are not those of each sample alone, one sample after another"
)
POSITIONS = (
    "its values count from the start of the batch, so the rows of a later sample hold other values "
    "than the processor returns for that sample alone"
)
BOUNDS = "it holds the bounds of the rows of another key, so no slice of it holds those of a slice"


@dataclass(frozen=True)
class Seen:
    """What one round shows of a key.

    Attributes:
        unit: `"sample"`, `"image"`, `"video"`, `MORE`, … or `"ambiguous"`.
        rows: Rows of each sample alone.
        owned: Images or videos of each sample.
        medium: `"image"` or `"video"`.
        flat: Whether a row is a vector of values.
        padded: As `Axis.padded`.
        reason: Why it is ambiguous.
        alike: Whether all rows are equal, so that their order cannot be seen.
        options: The arguments of the round, in words.
    """

    unit: str
    rows: tuple[int, ...]
    owned: tuple[int, ...]
    medium: str
    flat: bool = False
    padded: str | None = None
    reason: str = ""
    alike: bool = False
    options: str = ""


@dataclass(frozen=True)
class Length:
    """A key with the rows of another key for each image: the number itself, or the product."""

    key: str
    rule: Literal["number", "product"]

    def of(self, value: Any) -> list[int]:
        """Rows of each image, from the values of the key."""
        numbers = np.asarray(value)
        return (numbers if self.rule == "number" else numbers.prod(axis=-1)).astype(int).tolist()


def seen_in(ran: Round, key: str, whole: Value) -> Seen:
    """What the rows of a key count in one round."""
    alone = [one.get(key) for one in ran.alone]
    rows = tuple(0 if one is None else len(one) for one in alone)
    found = Seen(
        "ambiguous",
        rows,
        ran.owned,
        ran.medium,
        flat=isinstance(whole, np.ndarray) and whole.ndim == 2 and whole.dtype.kind == "f",
        alike=all(_same(one, whole[0]) for one in whole[1:]) if len(whole) else True,
        options=", ".join(f"{name}={value}" for name, value in ran.options.items()),
    )
    ones = (1,) * len(rows)
    if key in TOKEN_KEYS and rows == ones:
        return replace(found, unit="sample")
    parts = [one for one in alone if one is not None and len(one)]
    if _is_by_sample(whole, alone):
        return replace(found, unit="sample", rows=ones, padded=_padded_over(whole, alone, ran))
    if len(whole) != sum(rows) or not _same_rows(whole, parts):
        return replace(found, reason=_why(whole, alone))
    if rows == tuple(min(count, 1) for count in ran.owned):
        return replace(found, unit=SAMPLE_WITH_IMAGES if ran.medium == "image" else "ambiguous")
    if rows == ran.owned:
        grows = isinstance(whole, np.ndarray) and whole.ndim >= 5
        grows = grows and any(part.shape[1:] != whole.shape[1:] for part in parts)
        return replace(found, unit=ran.medium, padded="tile" if grows else None)
    return replace(found, unit=MORE)


def _is_by_sample(whole: Value, alone: Sequence[Value | None]) -> bool:
    """One row per sample, perhaps of padding for a text without media."""
    present = [(row, one) for row, one in enumerate(alone) if one is not None]
    return (
        len(whole) == len(alone)
        and all(len(one) == 1 for _, one in present)
        and all(_same_rows(whole[row : row + 1], [one]) for row, one in present)
    )


def _padded_over(whole: Value, alone: Sequence[Value | None], ran: Round) -> str | None:
    """What a row per sample is padded over, if a text alone had no row."""
    if all(one is not None for one in alone) or not isinstance(whole, np.ndarray) or whole.ndim < 2:
        return None
    own = tuple(0 if one is None else one.shape[1] for one in alone)
    return "image" if own == ran.owned else "tile"


def _why(whole: Value, alone: Sequence[Value | None]) -> str:
    """Why the rows fit no reading."""
    parts = [one for one in alone if one is not None and len(one)]
    arrays = [one for one in (whole, *parts) if isinstance(one, np.ndarray)]
    if len(arrays) != len(parts) + 1 or any(one.dtype.kind not in "iu" for one in arrays):
        return OTHER_ROWS
    if all(one.ndim == 1 and one[0] == 0 for one in arrays):
        steps = np.concatenate([np.diff(one) for one in parts])
        if steps.shape == (len(whole) - 1,) and (steps == np.diff(whole)).all():
            return BOUNDS
    if len(whole) == sum(map(len, parts)) and all(
        one.shape[1:] == whole.shape[1:] for one in parts
    ):
        moved = whole - np.concatenate(parts)
        ends = np.cumsum([0, *map(len, parts)])
        blocks = [moved[a:b] for a, b in pairwise(ends)]
        real = [block[part >= 0] for block, part in zip(blocks, parts, strict=True)]
        if all(len({*one.tolist()}) <= 1 for one in real):
            return POSITIONS
    return OTHER_ROWS


def _same_rows(whole: Value, parts: Sequence[Value]) -> bool:
    """Whether the parts, one after another, are the rows of the whole, padding aside."""
    row = 0
    for part in parts:
        ours = whole[row : row + len(part)]
        row += len(part)
        if not _same(ours, part):
            return False
    return True


def _same(ours: Value, part: Value) -> bool:
    """Whether one holds the other, at its start or its end; lists entry by entry."""
    if isinstance(ours, list) or isinstance(part, list):
        if not isinstance(ours, list) or not isinstance(part, list) or len(ours) != len(part):
            return False
        return all(map(_same, ours, part))
    if ours.ndim != part.ndim:
        return False
    if "U" in (ours.dtype.kind, part.dtype.kind):
        return np.array_equal(ours, part)
    sizes = [min(a, b) for a, b in zip(ours.shape, part.shape, strict=True)]
    if 0 in sizes:
        return not ours.any() and not part.any()  # nothing but padding
    start = tuple(slice(0, size) for size in sizes)
    ends = [
        tuple(slice(have - size, None) for have, size in zip(one.shape, sizes, strict=True))
        for one in (ours, part)
    ]
    return np.allclose(ours[start], part[start], atol=1e-5) or np.allclose(
        ours[ends[0]], part[ends[1]], atol=1e-5
    )


# --- all rounds ------------------------------------------------------------------------------


def settle(seen: Mapping[str, Sequence[Seen]]) -> dict[str, tuple[Axis, str]]:
    """The axis of each key in all rounds, and why it is ambiguous."""
    found: dict[str, tuple[Axis, str]] = {}
    names: dict[tuple[Any, ...], str] = {}
    for key, rounds in seen.items():
        unit, reason = _unit(rounds)
        if unit == MORE:
            named = (rounds[0].medium, tuple((one.options, one.rows) for one in rounds))
            unit = names.setdefault(named, _named(key, rounds[0], [*names.values()]))
        padded = next((one.padded for one in rounds if one.padded), None)
        found[key] = (Axis(unit, padded=padded), reason)
    for key, rounds in seen.items():
        if key not in TOKEN_KEYS and all(one.alike for one in rounds):
            found[key] = _with_its_rows(key, seen, found)
    return found


def _unit(rounds: Sequence[Seen]) -> tuple[str, str]:
    """The unit that fits all rounds, and why none does."""
    units = {one.unit: one for one in rounds}
    if "ambiguous" in units:
        return "ambiguous", units["ambiguous"].reason or OTHER_ROWS
    if len({one.medium for one in rounds if one.unit != "sample"}) > 1 or (
        len(units) > 1 and not units.keys() <= {MORE, "image", "video"}
    ):
        first, *others = units.values()
        other = next((one for one in others if one.unit != first.unit), rounds[-1])
        return "ambiguous", f"it has {_said(first)}, but {_said(other)}"
    return (MORE if MORE in units else next(iter(units))), ""


def _said(one: Seen) -> str:
    unit = "more rows than images" if one.unit == MORE else f"one row per {one.unit}"
    return f"{unit} with {one.options or f'{one.medium}s'}"


def _named(key: str, one: Seen, taken: Sequence[str]) -> str:
    """What to call rows of which an image has several, other than those of any other key."""
    if one.medium == "video":
        unit = VIDEO_PATCH if one.flat else "frame"
    else:
        unit = "patch" if one.flat else "tile"
    if unit not in taken:
        return unit
    return f"{key} row" if is_unit(key) else f"row {len(taken)}"


def _with_its_rows(
    key: str, seen: Mapping[str, Sequence[Seen]], found: Mapping[str, tuple[Axis, str]]
) -> tuple[Axis, str]:
    """The axis of a key with equal rows: the probe cannot see their order.

    It is that of the keys with as many rows; if one of these is ambiguous, so is this key.
    """
    rows = [one.rows for one in seen[key]]
    for other, rounds in seen.items():
        if other not in TOKEN_KEYS and [one.rows for one in rounds] == rows:
            if found[other][0].unit == "ambiguous":
                return Axis("ambiguous"), found[other][1]
    return found[key]


def least_rows(seen: Mapping[str, Sequence[Seen]]) -> dict[str, int]:
    """Fewest rows of an image, from the samples with a single one."""
    found = {}
    for key, rounds in seen.items():
        if any(one.unit == MORE and one.medium == "image" for one in rounds):
            pairs = [pair for one in rounds for pair in zip(one.owned, one.rows, strict=True)]
            found[key] = min(rows for owned, rows in pairs if owned == 1)
    return found


def lengths_of(ran: Sequence[Round], axes: Mapping[str, Axis]) -> dict[str, Length]:
    """Keys with one row per image or video that give the rows of another key, in every round."""
    givers = [key for key, axis in axes.items() if axis.unit in ("image", "video")]
    found = {}
    for key, axis in axes.items():
        if axis.unit in (*COUNTED, "ambiguous") or key in TOKEN_KEYS:
            continue
        rules = [Length(giver, rule) for giver in givers for rule in ("number", "product")]
        fits = [one for one in rules if _gives(one, key, ran)]
        plain = [one for one in fits if one.rule == "number"]
        if len(plain or fits) == 1:
            found[key] = (plain or fits)[0]
    return found


def _gives(length: Length, key: str, ran: Sequence[Round]) -> bool:
    """Whether it gives the rows of `key` of each sample alone, and these differ."""
    numbers = set()
    for one in ran:
        for alone in one.alone:
            giver, rows = alone.get(length.key), alone.get(key)
            if giver is None and rows is None:
                continue
            if not isinstance(giver, np.ndarray) or giver.dtype.kind not in "iu":
                return False
            if giver.ndim != (1 if length.rule == "number" else 2):
                return False
            given = length.of(giver)
            if sum(given) != (0 if rows is None else len(rows)):
                return False
            numbers |= {*given}
    return len(numbers) > 1
