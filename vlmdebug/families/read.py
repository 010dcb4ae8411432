"""`read_batch`: from what a processor returned to a `Batch` that knows its rows."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from math import isqrt
from typing import Any

import numpy as np

from vlmdebug.batch import Ambiguity, Batch, Contradiction, CountsByUnit
from vlmdebug.core.keys import (
    ALONG_TOKENS,
    BOOKKEEPING,
    KNOWN,
    PACKED,
    PROMPT_TYPES,
    ROWLESS,
    TOKEN_KEYS,
    TRAINERS_OWN,
    TYPE_IDS,
)
from vlmdebug.core.tensors import by_sample, to_numpy, unreadable
from vlmdebug.errors import BadInput, naming
from vlmdebug.families import FAMILIES, Family, family_named, find_family
from vlmdebug.families.by_shape import NAME as UNKNOWN
from vlmdebug.families.by_shape import read_by_shape
from vlmdebug.families.facts import Facts, Hints, Reading
from vlmdebug.families.hints import read_hints
from vlmdebug.families.probe import probe
from vlmdebug.families.release import takes
from vlmdebug.families.rules import USUAL
from vlmdebug.families.streams import ClipReading, clip_of, read_clips
from vlmdebug.families.unreadable import (
    items_of,
    refuse_measures,
    refuse_too_many,
    refuse_unreadable,
)
from vlmdebug.given import public
from vlmdebug.layout import UNITS, Axis, Layout, plural
from vlmdebug.modality import Modality
from vlmdebug.plan import Counts, as_counts
from vlmdebug.rules import ModelRules
from vlmdebug.safe import one_line

PER_SAMPLE, WHOLE, PLACES = Axis("sample"), Axis("batch"), Axis("sample", dim=1)


@public
def read_batch(
    inputs: Mapping[str, Any],
    *,
    processor: Any = None,
    config: Any = None,
    model: Any = None,
    num_images: Any = None,
    num_tiles: Any = None,
    num_videos: Any = None,
    num_audios: Any = None,
    layout: str | Layout | Mapping[str, Axis | str] | None = None,
) -> Batch:
    """Read which rows of every tensor belong to which sample.

    Args:
        inputs: What a processor or collator returned: `BatchFeature`, `BatchEncoding` or
            dict of torch or numpy tensors, with `input_ids` of shape `(sample, seq)`. `num_images`
            and `num_tiles`, lists per sample, may lie in it as in TRL's batches.
        processor: The processor that made it; settles family, placeholder token and counts. One
            that no family knows is run on a few noise images to read its layout off (`probe`).
        config: The model's config; settles the same where the processor is not at hand.
        model: The model; its `config` is read, it is not run.
        num_images: Images per sample, 0 for a text-only one.
        num_tiles: Tiles per sample, for layouts with one row per tile.
        num_videos: Videos per sample, 0 for one without.
        num_audios: Audio clips per sample, 0 for one without.
        layout: A family's name, a `Layout`, or `{key: Axis or unit}` for keys that no family
            knows.

    Returns:
        The batch. What cannot be known from what was given stands in `.ambiguities`; it is
        never guessed.

    Raises:
        BadInput: A key is missing, is no tensor, or contradicts another; the message says which.
    """
    given = dict(processor=processor, config=config, model=model, layout=layout)
    counts = dict(
        num_images=num_images, num_tiles=num_tiles, num_videos=num_videos, num_audios=num_audios
    )
    batch = read_as_it_is(inputs, **given, **counts)
    refused = [one.message for one in batch.contradictions if one.refused]
    if refused and batch is not inputs:
        raise BadInput(refused[0])
    return batch


@public
def read_as_it_is(
    inputs: Mapping[str, Any],
    *,
    processor: Any = None,
    config: Any = None,
    model: Any = None,
    num_images: Any = None,
    num_tiles: Any = None,
    num_videos: Any = None,
    num_audios: Any = None,
    layout: str | Layout | Mapping[str, Axis | str] | None = None,
) -> Batch:
    """`read_batch`, of a batch whose keys may contradict each other, as far as it can be read."""
    if isinstance(inputs, Batch):
        _refuse_second_reading(
            processor=processor,
            config=config,
            model=model,
            num_images=num_images,
            num_tiles=num_tiles,
            num_videos=num_videos,
            num_audios=num_audios,
            layout=layout,
        )
        return inputs
    given = items_of(inputs)
    with naming(given):
        return _read(
            given,
            {
                "num_images": num_images,
                "num_tiles": num_tiles,
                "num_videos": num_videos,
                "num_audios": num_audios,
            },
            processor,
            config,
            model,
            layout,
        )


def _read(
    inputs: Mapping[str, Any],
    given: Mapping[str, Any],
    processor: Any,
    config: Any,
    model: Any,
    layout: str | Layout | Mapping[str, Axis | str] | None,
) -> Batch:
    """`read_batch` of a plain dict."""
    tensors = _tensors(inputs)
    samples = len(tensors["input_ids"])
    given = {name: inputs.get(name) if own is None else own for name, own in given.items()}
    counted = {
        name: None if value is None else as_counts(value, name=name, samples=samples)
        for name, value in given.items()
    }
    _refuse_packed(tensors)
    hints = read_hints(processor, config, model)
    clips = {"video": counted["num_videos"], "audio": counted["num_audios"]}
    facts = Facts(tensors, hints, counted["num_images"], counted["num_tiles"], clips)
    if layout is None and processor is not None and _family(facts, None) is None:
        layout = _probed(processor, tensors)
    return assemble(facts, layout)


def _refuse_packed(tensors: Mapping[str, Any]) -> None:
    """Refuse sequences packed into one row, which no cut by rows of `input_ids` can part."""
    ids, positions = tensors["input_ids"], tensors.get("position_ids")
    signs = [key for key in PACKED if key in tensors]
    if not signs and len(ids) == 1 and getattr(positions, "ndim", 0) == 2:
        row = to_numpy(positions)[0]  # (seq,)
        real = to_numpy(tensors["attention_mask"])[0] if "attention_mask" in tensors else row >= 0
        starts = int(((row[1:] == 0) & (real[:-1] != 0)).sum())
        signs = [f"position_ids, which starts anew {starts} times"] if starts else []
    if signs:
        raise BadInput(
            f"The batch is packed: {len(ids)} row of {ids.shape[1]} tokens holds several sequences "
            f"(see {signs[0]}). Samples are rows of input_ids here, so nothing can be cut between "
            "packed ones. Pass the batch before packing (padding_free=False in TRL), or a chunk "
            "of samples at a time."
        )


def _refuse_second_reading(**given: Any) -> None:
    """A batch that is read already would ignore them."""
    names = [f"{name}=" for name, value in given.items() if value is not None]
    if names:
        raise BadInput(
            f"{' and '.join(names)} came with a Batch, which is read already and would ignore it. "
            "Pass what the processor returned, or batch.inputs, to have it read anew."
        )


def _probed(processor: Any, tensors: Mapping[str, Any]) -> dict[str, Axis] | None:
    """Axes read off the output of a processor that no family knows; None where that fails."""
    try:
        axes = probe(processor).axes
    except (BadInput, ImportError):  # no image token, or it takes no such batch: ask the user
        return None
    return {
        key: axis
        for key, axis in axes.items()
        if key in tensors and key not in TOKEN_KEYS and axis.unit != "ambiguous"
    }


def assemble(facts: Facts, layout: str | Layout | Mapping[str, Axis | str] | None = None) -> Batch:
    """The `Batch` of these facts; `read_batch` after the arguments are checked."""
    overrides = _overrides(layout)
    family = _family(facts, layout)
    if family is not None:
        _check_keys(facts, family)
        if any(facts.has(key) for key in family.axes):
            family = family.actual(facts)
    clips = read_clips(facts, facts.clips)
    axes = _token_axes(facts)
    for one in clips:
        axes |= one.axes
    axes = {key: axis for key, axis in axes.items() if key not in overrides}
    strange = [key for key in facts.inputs if key not in axes]
    if family is not None:
        found = family.layout(facts.hints)
        own = {key: axis for key, axis in family.axes.items() if facts.has(key)}
        reading = family.read(facts) if own else _no_media(facts)
    elif strange:
        found, reading = read_by_shape(facts, strange, overrides, axes)
        own = found.axes
    else:
        found, reading, own = Layout("text", axes, rules=USUAL), _no_media(facts), {}
    media = {key: needs for key, needs in found.media.items() if key in own}
    for one in clips:
        media |= one.media
    axes = {**axes, **own, **overrides}
    if any(key in own and own[key] != axis for key, axis in overrides.items()):
        found = replace(found, rules=replace(found.rules, seen=()))  # no model that was seen
    found = replace(
        found,
        axes={key: axes[key] for key in facts.inputs if key in axes},
        media=media,
        feature_key=found.feature_key if found.feature_key in own else None,
    )
    counts = {"sample": Counts([1] * facts.samples, "rows of input_ids"), **reading.counts}
    counts |= {unit: count for one in clips for unit, count in one.counts.items()}
    _refuse_uncounted(overrides, found, counts)
    wrong = _odd_dimensions(facts, own, family) if family is not None else []
    broken = {key for one in wrong for key in one.keys}
    wrong = [replace(one, keys=()) for one in wrong]
    unsettled = tuple(ambiguity for one in clips for ambiguity in one.ambiguities)
    ambiguities = (*reading.ambiguities, *unsettled, *_strangers(facts, found))
    told = [key for one in ambiguities if isinstance(one, Contradiction) for key in one.keys]
    ambiguities = (*ambiguities, *wrong, *_other_rows(facts, found, counts, told))
    ambiguities = (*ambiguities, *_uncounted(found, counts, ambiguities))
    return Batch(
        inputs=facts.inputs,
        layout=found,
        counts=CountsByUnit(counts, ambiguities),
        modalities=_modalities(facts, found, reading, broken, clips),
        per_image=reading.per_image,
        unpadded=_unpadded(facts),
        ambiguities=ambiguities,
        marked=_marked(facts, found.rules),
        hidden=_hidden(facts),
        unmasked=_unmasked(facts, causal=found.rules.causal),
        lost_masks=_lost_masks(facts, found),
        known=KNOWN,
        columns=_columns(facts, found),
        strays=_strays(facts, {one.modality.name for one in clips}),
        promised=_promised(facts, found),
        lacks=_lacks(facts, found),
    )


def _modalities(
    facts: Facts,
    layout: Layout,
    reading: Reading,
    broken: Collection[str],
    clips: Sequence[ClipReading],
) -> dict[str, Modality]:
    """Images, and the video and audio clips that the batch has."""
    key, of_clips = layout.feature_key, {key for one in clips for key in one.media}
    image = Modality(
        "image",
        tuple(name for name in layout.media if name not in of_clips),
        key,
        layout[key].unit if key is not None and key in layout else None,
        None if key in broken else reading.features,
        reading.inferred,
        facts.hints.image_token_id,
        facts.places,
        reading.pieces,
    )
    return {"image": image, **{one.modality.name: one.modality for one in clips}}


def _tensors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that hold something, each checked to be a tensor on one real device."""
    tensors = {
        key: value for key, value in inputs.items() if value is not None and key not in BOOKKEEPING
    }
    if "input_ids" not in tensors:
        raise BadInput(
            f"input_ids is missing or None; the batch has {', '.join(tensors) or 'no keys'}. "
            "Samples are the rows of input_ids, so nothing can be cut without it. "
            "Pass what the processor returned for text and images together."
        )
    ids = tensors["input_ids"]
    _check_tensor("input_ids", ids, -1)
    for key, value in tensors.items():
        _check_tensor(key, value, len(ids))
    _check_devices(tensors)
    refuse_measures(tensors)
    ids = tensors["input_ids"]
    refuse_too_many("input_ids", tuple(ids.shape))
    if "float" in str(ids.dtype) or "bool" in str(ids.dtype):
        raise BadInput(
            f"input_ids holds {ids.dtype}, but token ids are whole numbers. "
            "An embedding would refuse them. Pass input_ids as the tokenizer returned them."
        )
    if ids.ndim != 2 or 0 in ids.shape:
        raise BadInput(
            f"input_ids has shape {tuple(ids.shape)}, but a batch has one row of tokens per "
            "sample: (sample, seq), at least one of each. "
            "Nothing was cut. Pass the batch as the processor returned it, with padding=True."
        )
    return tensors


def _check_tensor(key: str, value: Any, samples: int) -> None:
    refuse_unreadable(key, value)
    listed = isinstance(value, (list, tuple))
    if listed and key not in KNOWN:
        if len(value) == samples or not any(getattr(one, "shape", ()) for one in value):
            return  # a thing per sample, such as its prompt, or a note of the trainer
    if listed:
        raise BadInput(
            f"{key} is a {type(value).__name__} of {len(value)}, but rows can be followed only "
            'in a tensor. Call the processor with return_tensors="pt" and padding=True, '
            "or leave the key out."
        )
    nested = getattr(value, "is_nested", False)  # which has no shape to ask for
    if key in KNOWN and not nested and not getattr(value, "shape", ()):
        raise BadInput(
            f"{key} is {one_line(repr(value), 80)}, but it is a tensor with a row "
            "per sample, image, tile or patch. Pass it as the processor returned it, or leave it "
            "out."
        )
    if getattr(getattr(value, "device", None), "type", None) == "meta" and not nested:
        raise BadInput(
            f"{key} is on the meta device: it has a shape {tuple(value.shape)} but no values, "
            "so rows cannot be told apart. Pass the batch before it is moved to meta."
        )
    reason = unreadable(value) if hasattr(value, "dtype") else None
    if reason is not None and key in KNOWN:
        raise BadInput(
            f"{key} is {reason}, but rows can be followed only in a dense tensor of numbers. "
            "Pass it as the processor returned it."
        )


def _check_devices(tensors: Mapping[str, Any]) -> None:
    devices: dict[str, str] = {}
    for key, value in tensors.items():
        if getattr(value, "shape", ()) and key not in ROWLESS:
            devices.setdefault(str(getattr(value, "device", "cpu")), key)
    if len(devices) > 1:
        where = ", ".join(f"{key} on {device}" for device, key in devices.items())
        raise BadInput(
            f"The tensors lie on {len(devices)} devices: {where}. "
            "A model would refuse such a batch. Move all of it: inputs.to(device)."
        )


def _overrides(layout: Any) -> dict[str, Axis]:
    if layout is None or isinstance(layout, str):
        return {}
    if not isinstance(layout, Mapping):
        raise BadInput(
            f"layout is {layout!r}, but it is a family's name, a Layout, or {{key: unit}}. "
            f'For instance layout="gemma4" or layout={{"pixel_values": "image"}}.'
        )
    axes = {key: Axis(axis) if isinstance(axis, str) else axis for key, axis in layout.items()}
    for key, axis in axes.items():
        if not isinstance(axis, Axis) or axis.unit not in UNITS:
            raise BadInput(
                f"layout[{key!r}] is {axis!r}, but a row counts one of {', '.join(UNITS)}. "
                f'Say what one row of {key} counts, for instance "image".'
            )
    return axes


def _family(facts: Facts, layout: Any) -> Family | None:
    if isinstance(layout, str):
        return family_named(layout)
    if isinstance(layout, Layout):
        return find_family(layout.family)
    if facts.hints.model_type is not None:
        found = find_family(facts.hints.model_type)
        other = find_family(facts.hints.processor_type or facts.hints.model_type)
        if found is not None and other is not None and found is not other:
            raise BadInput(
                f"The config is {facts.hints.model_type}'s (layout {found.name}), the processor "
                f"{facts.hints.processor_type}'s (layout {other.name}). Their tensors differ, so "
                "no batch fits both. Load both from the same checkpoint."
            )
        return found
    return next((family for family in FAMILIES.values() if family.recognises(facts.inputs)), None)


def _check_keys(facts: Facts, family: Family) -> None:
    """All media keys of the family or none, each with as many dimensions as it has there."""
    present = [key for key in family.axes if facts.has(key)]
    needed = [key for key in family.axes if key not in family.rules.sometimes_returned]
    missing = [key for key in needed if key not in present]
    if present and missing:
        raise BadInput(
            f"{missing[0]} is missing or None, but {present[0]} "
            f"{tuple(facts.inputs[present[0]].shape)} is there; layout {family.name} needs both. "
            "A model would raise or, worse, see no images. Keep every key the processor returned."
        )
    for key in present:
        shape = tuple(facts.inputs[key].shape)
        if not _has_dimensions(shape, family.shapes[key]):
            raise BadInput(
                f"{key} has shape {shape}, but in layout {family.name} it is "
                f"({family.shapes[key]}). Rows would be counted on the wrong dimension. "
                "Pass it as the processor returned it."
            )


def _has_dimensions(shape: tuple[int, ...], named: str) -> bool:
    """Whether there is one for each name; `...` stands for one or more."""
    names = named.split(", ")
    return len(shape) >= len(names) if names[-1] == "..." else len(shape) == len(names)


def _token_axes(facts: Facts) -> dict[str, Axis]:
    axes: dict[str, Axis] = {}
    samples = facts.samples
    for key, value in facts.inputs.items():
        shape = getattr(value, "shape", ())
        per_sample = isinstance(value, list) and len(value) == samples
        if per_sample or (key in TRAINERS_OWN and tuple(shape[:1]) == (samples,)):
            axes[key] = PER_SAMPLE
        elif not shape or key in ROWLESS or str(getattr(value, "dtype", "")) == "object":
            axes[key] = WHOLE
        elif key == "position_ids" and len(shape) == 3 and shape[1] == samples:
            axes[key] = PLACES  # M-RoPE: (3 or 4, sample, seq)
        elif key in TOKEN_KEYS:
            if shape[0] != samples:
                raise BadInput(
                    f"{key} has {shape[0]} rows, but input_ids has {samples}, one per sample. "
                    "One of the two was cut or padded without the other. "
                    "Pass both as the processor returned them."
                )
            axes[key] = PER_SAMPLE
    return axes


def _refuse_uncounted(
    overrides: Mapping[str, Axis], layout: Layout, counts: Mapping[str, Counts]
) -> None:
    """Refuse a unit that `layout=` names and that nothing in this family counts."""
    known = find_family(layout.family)
    for key, axis in overrides.items() if known is not None else ():
        if axis.unit not in (*counts, "batch") and key in layout and not _may_count(axis.unit):
            raise BadInput(
                f"layout[{key!r}] is {axis.unit!r}, but nothing counts the {plural(axis.unit)} of "
                f"each sample in layout {layout.family}; it counts {', '.join(counts)}. "
                f"No row of {key} would be anybody's. Name one of these, or leave {key} out."
            )


def _may_count(unit: str) -> bool:
    """Whether an argument of `read_batch` counts it; then the message asks for that one."""
    return unit in BOOKKEEPING.values()


def _other_rows(
    facts: Facts, layout: Layout, counts: Mapping[str, Counts], wrong: Collection[str]
) -> list[Contradiction]:
    """Tensors that are not as long as their counts say; the message names both numbers."""
    found: list[Contradiction] = []
    for key, axis in layout.items():
        value = facts.inputs[key]
        if axis.unit not in counts or isinstance(value, list) or key in wrong:
            continue
        rows = value.shape[axis.dim] if len(value.shape) > axis.dim else 0
        count = counts[axis.unit]
        if rows != count.total:
            takes = key in layout.media and layout.rules.of(key).takes(rows, count.total)
            said = (
                f"{key} has {rows} rows on dim {axis.dim}, but layout {layout.family} has one row "
                f"per {axis.unit} and the batch has {count.total} {plural(axis.unit)} "
                f"({count.evidence}). The tensors belong to different batches, or one was cut. "
                "Pass the batch as the processor returned it."
            )
            silent = None if takes or not layout.rules.predict else False
            found.append(Contradiction((key,), None, said, silent=silent))
    return found


def _odd_dimensions(facts: Facts, keys: Collection[str], family: Family) -> list[Contradiction]:
    """Keys that share a dimension but not its length, or whose rows are no patches."""
    first: dict[str, tuple[str, int]] = {}
    found = []
    for key in keys:
        shape, names = tuple(facts.inputs[key].shape), family.shapes[key].split(", ")
        patch = facts.hints.patch_pixels
        if names[0] == "patch" and len(shape) == 2 and not _is_patch(shape[1], patch):
            due = f"a patch has {max(patch)} values" if patch else "no square patch has as many"
            found.append(_cut_columns(key, shape[1], due))
        if "channels" in names and shape[-1] == 3 != shape[names.index("channels")]:
            found.append(_channels_last(key, shape))
            continue
        for dim, (name, size) in enumerate(zip(names, shape, strict=False)):
            if dim == 0 or name == "..." or name.isdigit():
                continue
            other, length = first.setdefault(name, (key, size))
            if length != size:
                cut, whole = (key, other) if size < length else (other, key)
                least, most = sorted((length, size))
                said = _cut_columns(cut, least, f"{whole} has {most} of them", name)
                found.append(replace(said, keys=(cut, whole)))
    return found


def _is_patch(values: int, known: Collection[int]) -> bool:
    """Whether a flat patch can have so many values: three channels of one or two square frames."""
    if known:
        return values in known
    return any(
        values % (3 * n) == 0 and isqrt(values // (3 * n)) ** 2 * 3 * n == values for n in (1, 2)
    )


def _channels_last(key: str, shape: Sequence[int]) -> Contradiction:
    return Contradiction(
        (key,),
        None,
        f"{key} has shape {tuple(shape)}, its channels on the last dimension, but the model takes "
        f"them on dim {len(shape) - 3}. The model raises. "
        "Move the last dimension there, or call the processor with data_format='channels_first'.",
        refused=False,
        silent=False,
    )


def _cut_columns(key: str, size: int, but: str, name: str = "columns") -> Contradiction:
    return Contradiction(
        (key,),
        None,
        f"{key} was cut to {size} {name}, but {but}. "
        "The model raises, or reads other pixels. "
        "Trim and pad only what lies along the tokens: its second dimension is none of them.",
        refused=False,
        silent=None,
    )


def _no_media(facts: Facts) -> Reading:
    """A batch without media keys: nobody owns an image, whatever the text says."""
    why = "no media key in the batch"
    counts = {"image": Counts([0] * facts.samples, why)}
    return Reading(counts)


NEEDED = (*TYPE_IDS, "cross_attention_mask")
"""Keys beside the media that change what a model makes of them."""


def _strays(facts: Facts, present: Collection[str]) -> dict[str, tuple[int, ...]]:
    """Placeholder tokens of clips that the batch does not have, by sample."""
    found = {}
    for unit, token in facts.hints.token_ids.items():
        if unit not in present and token != facts.hints.image_token_id:
            counted = by_sample(facts.ids == token)
            found |= {unit: counted} if any(counted) else {}
    return found


def _promised(facts: Facts, layout: Layout) -> dict[str, int]:
    """Sums of counts that were given of media without any key in the batch."""
    given = {"image": facts.num_images, "tile": facts.num_tiles, **facts.clips}
    given = {unit: counts for unit, counts in given.items() if counts and any(counts)}
    if not given or any(key not in KNOWN for key in facts.inputs):
        return {}
    present = {clip_of(key) for key in layout.media}  # "" stands for images
    return {
        unit: sum(counts)
        for unit, counts in given.items()
        if (unit if unit in ("video", "audio") else "") not in present
    }


def _lacks(facts: Facts, layout: Layout) -> tuple[str, ...]:
    """Needed keys that the processor names, or the model where no processor is at hand."""
    hints, places = facts.hints, facts.inputs.get("position_ids")
    named = hints.taken_keys if hints.returned_keys is None else hints.returned_keys
    clips = any(clip_of(key) for key in layout.media)
    if not layout.media or named is None or not (clips or any(facts.placeholders or (1,))):
        return ()
    placed, rules = getattr(places, "ndim", 0) == 3, layout.rules
    return tuple(
        key
        for key in (*NEEDED, *(rules.sometimes_returned & rules.raises_without))
        if (key in named or (key in rules.raises_without and _is_taken(hints, key)))
        and (hints.taken_keys is None or key in hints.taken_keys)
        and not facts.has(key)
        and rules.uses(key, positions=placed)
    )


def _is_taken(hints: Hints, key: str) -> bool:
    """Whether the forward names a key: of the model at hand, or of the installed release."""
    if hints.taken_keys is not None:
        return key in hints.taken_keys
    return bool(hints.model_type and takes(hints.model_type, key))


def _lost_masks(facts: Facts, layout: Layout) -> tuple[str, ...]:
    """Masks of pixels that the processor or the model names and the batch lacks.

    Without one, a model takes every pixel for one of an image, padding too.
    """
    hints = facts.hints
    named = hints.taken_keys if hints.returned_keys is None else hints.returned_keys
    if named is None or not layout.media:
        return ()
    masks = sorted(layout.rules.optional_if_all_ones & named)
    return tuple(key for key in masks if not facts.has(key))


def _strangers(facts: Facts, layout: Layout) -> tuple[Ambiguity, ...]:
    """Keys of the batch that the layout says nothing of."""
    return tuple(
        Ambiguity(
            keys=(key,),
            unit=None,
            message=(
                f"{key} {tuple(value.shape)} is not a key that layout {layout.family} knows, so "
                "what its rows count is unknown and it was not cut. "
                f'Leave it out, or say it: layout={{"{key}": "sample"}}.'
            ),
        )
        for key, value in facts.inputs.items()
        if key not in layout
    )


def _uncounted(
    layout: Layout, counts: Mapping[str, Counts], ambiguities: Sequence[Ambiguity]
) -> list[Ambiguity]:
    """Keys whose rows nobody could give to samples, though no family said so."""
    said = {key for ambiguity in ambiguities for key in ambiguity.keys}
    units: dict[str, list[str]] = {}
    for key, axis in layout.items():
        needed = layout.given_with(key)
        missing = [axis.unit] if axis.unit not in (*counts, "batch") else []
        if needed is not None and needed not in counts:
            missing.append(needed)
        if missing and key not in said:
            units.setdefault(missing[0], []).append(key)
    return [
        Ambiguity(
            keys=tuple(keys),
            unit=unit,
            message=(
                f"{' and '.join(keys)} cannot be cut, because nothing says how many "
                f"{plural(unit)} each sample has. Pass processor= or config=."
            ),
        )
        for unit, keys in units.items()
    ]


MARKS_EDGES = "moe_mm_token_type_ids"
"""Types that mark the begin and end tokens of images too."""


def _marked(facts: Facts, rules: ModelRules) -> dict[str, tuple[int, ...]]:
    """Placeholder tokens of each sample that each key of token types marks as such.

    Some processors mark begin and end tokens too; these do not count. ERNIE 4.5 VL marks both in
    `moe_mm_token_type_ids` (`create_moe_mm_token_type_ids` of its processor, 5.23), so that a run
    with one of its neighbours marked and the other not has moved.
    """
    mask = facts.placeholder_mask
    if mask is None or facts.hints.image_token_id is None:
        return {}
    keys = ["mm_token_type_ids", MARKS_EDGES]
    keys += [PROMPT_TYPES] if rules.token_types_mark is not None else []
    prompt = rules.token_types_mark == "completion"
    found = {}
    for key in keys:
        types = facts.inputs.get(key)
        if types is not None and tuple(types.shape) == mask.shape:
            ones = to_numpy(types) == int(not (prompt and key == PROMPT_TYPES))  # (sample, seq)
            marked = by_sample(ones & mask)
            if key == MARKS_EDGES:
                lopsided = _lopsided(ones, facts.places or ())
                marked = tuple(n - few for n, few in zip(marked, lopsided, strict=True))
            found[key] = marked
    return found


def _lopsided(ones: np.ndarray, places: Sequence[Sequence[tuple[int, int]]]) -> list[int]:
    """Runs of each sample that have a mark on one side and none on the other."""
    wide = ones.shape[1]
    return [
        sum(a > 0 and b < wide and bool(row[a - 1] != row[b]) for a, b in own)
        for row, own in zip(ones, places, strict=True)
    ]


def _hidden(facts: Facts) -> tuple[int, ...]:
    """Tokens of each sample that `attention_mask` hides though they are not the padding token."""
    mask, pad = facts.mask, facts.hints.pad_token_id
    if pad is None or mask is None or mask.shape != facts.ids.shape:
        return ()
    return by_sample((mask == 0) & (facts.ids != pad))


def _unmasked(facts: Facts, *, causal: bool) -> tuple[int, ...]:
    """Padding tokens of each sample that its text attends to, where no mask hides them.

    A causal model never looks at those behind the text. A mask that shows one token in front of the
    text may be right: for some tokenizers it is the first token of a text too.
    """
    mask, pad = facts.mask, facts.hints.pad_token_id
    if pad is None or (mask is not None and mask.shape != facts.ids.shape):
        return ()
    padding = facts.ids == pad  # (sample, seq)
    shown = padding if mask is None else padding & (mask != 0)
    if not np.count_nonzero(shown):
        return (0,) * len(shown)
    if causal or mask is not None:
        shown = shown & np.logical_and.accumulate(padding, axis=1)
    shown = shown & ~padding.all(axis=1, keepdims=True)
    return by_sample(shown if mask is None else shown & (shown.sum(axis=1, keepdims=True) > 1))


def _columns(facts: Facts, layout: Layout) -> dict[str, int]:
    """Columns of tokens of the keys that a model lays beside `input_ids` and makes something of.

    Not of labels, which an encoder-decoder has for other tokens, nor of masks of more dimensions.
    """
    dims = {key: 1 for key in ALONG_TOKENS if len(getattr(facts.inputs.get(key), "shape", ())) == 2}
    dims |= {key: axis.dim + 1 for key, axis in layout.items() if axis.columns}
    return {
        key: int(facts.inputs[key].shape[dim])
        for key, dim in dims.items()
        if key in layout and layout.rules.uses(key)
    }


def _unpadded(facts: Facts) -> tuple[bool, ...] | None:
    """Samples whose mask only hides what follows them: causal attention never looks there."""
    mask = facts.mask
    if mask is None or mask.ndim != 2:
        return None
    return tuple(not rises for rises in by_sample(~(mask[:, 1:] <= mask[:, :-1])))


__all__ = ["UNKNOWN", "assemble", "read_batch"]
