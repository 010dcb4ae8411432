"""How exported code counts images, tiles and clips: by the placeholder tokens of each sample.

A rule is source code. It is exported only if it reproduces the counts that `read_batch` found for
the batch. If no rule does, the exported code asks for the counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmdebug.core import pasted
from vlmdebug.core.batch import Batch
from vlmdebug.core.layout import SAMPLE_WITH_IMAGES, VIDEO_AND_AUDIO
from vlmdebug.core.literals import literal
from vlmdebug.core.modality import Modality
from vlmdebug.families import find_family
from vlmdebug.families.video_audio import FEATURE_RULES, FRAME_RULES, TYPES

MOST = 64
"""The largest side of a square of patches or pixels that is tried as the size of one feature."""


@dataclass(frozen=True)
class Counting:
    """A function of `inputs` that gives how many of one unit each sample has, or None.

    Attributes:
        name: Its name, `_images`.
        source: Its source, after that of the function that finds the placeholder tokens.
    """

    name: str
    source: str

    def __call__(self, inputs: Mapping[str, Any]) -> list[int] | None:
        space: dict[str, Any] = dict(vars(pasted))
        exec(compile(self.source, "slice_inputs.py", "exec"), space)
        return space[self.name](inputs)


def countings(batch: Batch) -> dict[str, Counting]:
    """A counting function for each unit of the batch's media, if one reproduces its counts."""
    found: dict[str, Counting] = {}
    units = dict.fromkeys(map(batch.layout.given_with, batch.layout.media))
    for unit in filter(None, units):
        tokens = _tokens(batch, unit)
        if tokens is None or unit not in batch.counts:
            continue
        counted = "image" if unit == "tile" and per_sample(batch, unit) else unit
        for body in _bodies(batch, unit):
            tried = _function(counted, _media_of(batch, unit).name, tokens, body)
            if _agrees(tried, batch, unit):
                found[counted] = tried
                break
    return found


def per_sample(batch: Batch, unit: str) -> bool:
    """Whether all keys of these media have one row per sample: the count does not matter."""
    keys = [key for key, needed in batch.layout.media.items() if needed == unit]
    return all(batch.layout[key].unit == "sample" for key in keys)


def _agrees(tried: Counting, batch: Batch, unit: str) -> bool:
    counts = tried(batch.inputs)
    if counts is None:
        return False
    if per_sample(batch, unit):
        return [*map(bool, counts)] == [*map(bool, batch.counts[unit])]
    return counts == [*batch.counts[unit]]


def _media_of(batch: Batch, unit: str) -> Modality:
    """The media that a unit counts; images where it is none of a clip."""
    return next((one for one in batch.modalities.values() if one.unit == unit), batch.image)


def _function(unit: str, media: str, tokens: str, body: str) -> Counting:
    found = f"_{media}_tokens"
    source = (
        f"def _{unit}s(inputs: dict) -> list | None:\n"
        f'    """{unit.capitalize()}s of each sample, by its placeholder tokens."""\n'
        f"    tokens = {found}(inputs)\n"
        f"    return {body}\n\n\n"
        f"def {found}(inputs: dict) -> Any:\n"
        f'    """Where the placeholder tokens are, `(sample, seq)`."""\n{tokens}'
    )
    return Counting(f"_{unit}s", source)


def _tokens(batch: Batch, unit: str) -> str | None:
    """Body of a function that finds the placeholder tokens; None if nothing identifies them."""
    types = 'inputs["mm_token_type_ids"]'
    typed, media = "mm_token_type_ids" in batch.inputs, _media_of(batch, unit).name
    if media not in VIDEO_AND_AUDIO:
        if batch.image.token_id is None:
            return f"    return {types} == 1\n" if typed else None
        marked = f'    found = inputs["input_ids"] == {int(batch.image.token_id)}\n'
        family = find_family(batch.layout.family)
        if family is not None and family.videos is not None:  # GLM has one token for both
            marked += (
                '    if "pixel_values_videos" in inputs and "mm_token_type_ids" in inputs:\n'
                f"        found = found & ({types} != {TYPES['video']})  # those of frames\n"
            )
        return f"{marked}    return found\n"
    token, own = batch.token_ids.get(media), TYPES[media]
    if token is None:
        return f"    return {types} == {own}\n" if typed else None
    return (
        f'    types = inputs.get("mm_token_type_ids")\n'
        f"    if types is not None and bool((types == {own}).any()):\n"
        f"        return types == {own}\n"
        f'    return inputs["input_ids"] == {int(token)}\n'
    )


def _bodies(batch: Batch, unit: str) -> Iterator[str]:
    """Candidate return expressions of such a function, the most reliable first."""
    each = "tokens.sum(-1).tolist()"
    if _media_of(batch, unit) is batch.image and per_sample(batch, unit):
        yield each
        return
    owners = [key for key, axis in batch.layout.items() if axis.unit == SAMPLE_WITH_IMAGES]
    if owners and unit == "image":
        yield f"_dealt(inputs[{literal(owners[0])}].tolist(), {each})"
        return
    for rule in _rules(batch, unit):
        yield f"_shared({rule}, {each})"
    if unit not in ("tile", "window"):  # one run may be several, or one of several in a run
        yield "_runs(tokens)"


def _rules(batch: Batch, unit: str) -> Iterator[str]:
    """Source for the features of each image, tile or clip, with the number that fits the batch."""
    media, family = _media_of(batch, unit), find_family(batch.layout.family)
    features: Sequence[int] | None = media.features
    rules = family.feature_rules if family else ()
    if media is not batch.image or unit in VIDEO_AND_AUDIO:
        rules = FRAME_RULES if media is batch.image else FEATURE_RULES
    if not features:
        return
    for rule in rules:
        numbers = dict.fromkeys([*range(1, MOST + 1), *features[:1]] if "{n}" in rule else [1])
        fits = [n for n in numbers if _gives(rule.format(n=n), batch.inputs, features)]
        if len(fits) == 1:
            yield rule.format(n=fits[0])


def _gives(rule: str, inputs: Mapping[str, Any], features: Sequence[int]) -> bool:
    try:
        return eval(rule, {**vars(pasted), "inputs": inputs}) == [*features]
    except KeyError:  # another rule's key
        return False
