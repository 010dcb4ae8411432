"""Count the images of each sample where a key has one row per image.

Counts come from arguments, from placeholder tokens with known features, or are unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import isqrt

from vlmdebug.core.batch import Ambiguity
from vlmdebug.core.rows import Counts
from vlmdebug.core.rules import ModelRules
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.families.facts import BatchFacts, CountResult


def check_total(name: str, given: Sequence[int], key: str, rows: int, unit: str) -> None:
    """Refuse counts if their sum is not the number of rows of `key`."""
    if sum(given) != rows:
        raise BadInput(
            f"{name} adds up to {number(sum(given), unit)}, but {key} has {number(rows, 'row')}, "
            f"one per {unit}. Every cut after the first wrong count would be shifted. "
            f"{_other_total(name, sum(given) - rows, unit)}"
        )


def _other_total(name: str, more: int, unit: str) -> str:
    """What to do about counts that add up to `more` than there are rows, or to fewer."""
    units = f"{abs(more)} {unit}{'s' if abs(more) > 1 else ''}"
    batch = f"lacks {units}" if more > 0 else f"has {units} too many"
    return (
        f"If {name} is right, the batch {batch}: pass it as the processor returned it. "
        f"Otherwise give as {name} how many {unit}s of each sample are in the batch."
    )


def count_images(
    facts: BatchFacts, key: str, features: Sequence[int] | None
) -> tuple[Counts | None, tuple[Ambiguity, ...]]:
    """Images per sample, where `key` has one row per image.

    Args:
        facts: The batch.
        key: A key with one row per image.
        features: Placeholder tokens that each image asks for, where known.
    """
    images = facts.rows(key)
    if facts.num_images is not None:
        check_total("num_images", facts.num_images, key, images, "image")
        return Counts(facts.num_images, "num_images"), ()
    if facts.samples == 1:
        return Counts([images], "the batch has one sample"), ()
    if facts.placeholders is not None and features is not None:
        found = split_by_placeholders(features, facts.placeholders)
        if found is not None:
            return Counts(found, f"{facts.placeholder_source} against {key}"), ()
    if facts.runs is not None and _one_run_each(facts.runs, features, images):
        return Counts(map(len, facts.runs), f"runs of {facts.placeholder_source}"), ()
    return None, (ambiguous_images(facts, key, images),)


def read_images(
    facts: BatchFacts,
    key: str,
    features: tuple[int, ...] | None,
    pieces: tuple[tuple[int, ...], ...] | None = None,
    *,
    inferred: bool = False,
) -> CountResult:
    """The reading of a layout in which `key` has one row per image, with these features each."""
    counts, ambiguities = count_images(facts, key, features)
    return CountResult(
        {"image": counts} if counts else {},
        features,
        {"feature": features} if features else {},
        ambiguities,
        pieces,
        inferred,
    )


def _one_run_each(
    runs: Sequence[Sequence[int]], features: Sequence[int] | None, images: int
) -> bool:
    """Whether each run of placeholder tokens can be one image, none of them too long for it.

    Images side by side make one run; with a stray token elsewhere, the number of runs would fit.
    """
    flat = [run for sample in runs for run in sample]
    if len(flat) != images:
        return False
    return features is None or all(run <= own for run, own in zip(flat, features, strict=True))


def split_by_placeholders(features: Sequence[int], placeholders: Sequence[int]) -> list[int] | None:
    """Rows per sample such that each sample's rows ask for just its placeholders.

    >>> split_by_placeholders([10, 12, 16], [22, 0, 16])
    [2, 0, 1]
    """
    ends = {total: index for index, total in enumerate((0, *accumulate(features)))}
    stops = [ends.get(total) for total in accumulate(placeholders)]
    if None in stops or stops[-1] != len(features):
        return None
    if 0 in features:  # a row without features fits anywhere
        return None
    found = [stop for stop in stops if stop is not None]
    return [stop - start for start, stop in pairwise([0, *found])]


def ambiguous_images(facts: BatchFacts, key: str, images: int) -> Ambiguity:
    """Images that nothing gives to samples, and what would."""
    why = (
        "nothing says which token is the placeholder"
        if facts.placeholders is None
        else f"the placeholder tokens per sample, {list(facts.placeholders)}, do not match them"
    )
    known = facts.metadata.processor_type is not None or facts.metadata.model_type is not None
    return Ambiguity(
        keys=tuple(name for name in facts.inputs if name in (key, "pixel_values")),
        unit="image",
        message=(
            f"{key} has {number(images, 'image')} for {number(facts.samples, 'sample')}, and "
            f"{why}. Images per sample cannot be known, so no chunk was cut. "
            f"Pass {'' if known else 'processor= or '}num_images=[…], "
            "how many images of each sample are in the batch."
        ),
    )


def features_of_rows(
    facts: BatchFacts, key: str, views: int = 1
) -> tuple[tuple[int, ...] | None, bool]:
    """Features of each row of `key`, all of one size, and whether placeholders only suggest them.

    Each row holds so many `views`: the tiles of an image or the frames of a video.

    Where no rule is known, but all placeholder tokens divide evenly, rows can be counted by that;
    it is no evidence of the placeholders themselves.
    """
    rows, shape, rule = facts.rows(key), facts.inputs[key].shape, facts.metadata.features_of_pixels
    known = rule(*shape[-2:]) if rule is not None else None
    known = known or facts.metadata.features_per_tile
    if known:
        return (known * views,) * rows, False
    tokens = sum(facts.placeholders or ())
    divides = rows and tokens and tokens % rows == 0
    return ((tokens // rows,) * rows if divides else None), True


def infer_merge_size(patches: int, placeholders: Sequence[int] | None) -> int | None:
    """Side of the square of patches that becomes one feature, where the totals settle it.

    Only needed when neither processor nor config gives it.

    >>> infer_merge_size(144, [20, 0, 16])
    2
    """
    tokens = sum(placeholders or ())
    if not tokens or patches % tokens:
        return None
    side = isqrt(patches // tokens)
    return side if side**2 == patches // tokens else None


def refuses_rows(facts: BatchFacts, rules: ModelRules, key: str, expected: int) -> bool:
    """Whether the model is known to raise because the rows of a media key are not `expected`.

    Some models broadcast a single row, drop surplus features, or flatten a dimension that was
    added; without its name, it may be any of the layout.
    """
    shape = tuple(getattr(facts.inputs[key], "shape", ()))
    rows = shape[0] if shape else len(facts.inputs[key])
    if not rules.predict or rules.of(key).takes(rows, expected):
        return False
    if rows == 1 and (facts.metadata.model_type is None or expected in shape[1:2]):
        return False
    return not (rules.ignores_surplus_features and rows > expected)
