"""Assemble a `Batch` from the facts: its layout, its counts and what cannot be settled.

`watch` calls this for each forward pass; the values of its tensors are checked in
`vlmdebug.families.checked`, for `read_batch` alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from vlmdebug.core.batch import Ambiguity, Batch, Contradiction, CountsByUnit, Reshaped
from vlmdebug.core.keys import (
    ALONG_TOKENS,
    CLIP_KEYS,
    IMAGE_KEYS,
    KEYS,
    KNOWN,
    MEDIA_KEYS,
    PACKED,
    PIXELS,
    ROWLESS,
    TOKEN_KEYS,
    TRAINERS_OWN,
)
from vlmdebug.core.layout import Axis, Layout, plural
from vlmdebug.core.literals import literal
from vlmdebug.core.modality import Modality
from vlmdebug.core.rows import Counts
from vlmdebug.core.rules import ModelRules, MRope
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.families.apart import (
    HIDES_PADDING,
    HIDES_PADDING_OF_TEXT,
    OWN_MASK,
    REPEATS,
    SEPARATES,
    SHARES_PROCESSOR,
)
from vlmdebug.families.base import Family
from vlmdebug.families.by_shape import NAME, read_by_shape
from vlmdebug.families.checked import holds_tensors
from vlmdebug.families.choose import axes_given, family_of, present_keys
from vlmdebug.families.contradictions import (
    odd_dimensions,
    other_rows,
    refuse_uncounted,
    strangers,
    uncounted,
    unknown_tokens,
)
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.form import Form
from vlmdebug.families.given_counts import how_to_count
from vlmdebug.families.missing import lacks, promised, strays
from vlmdebug.families.probe import Probe
from vlmdebug.families.probe_runs import plain
from vlmdebug.families.rules import USUAL
from vlmdebug.families.token_masks import (
    before_prompt_ends,
    behind_prompt,
    columns,
    marked,
    masked_otherwise,
    padding_behind,
    unpadded,
)
from vlmdebug.families.video_audio import ClipReading, read_clips

PER_SAMPLE, WHOLE, PLACES = Axis("sample"), Axis("batch"), Axis("sample", dim=1)


def assemble(
    facts: BatchFacts,
    layout: str | Layout | Mapping[str, Axis | str] | None = None,
    probed: Probe | None = None,
) -> Batch:
    """The `Batch` of these facts; `read_batch` after the arguments are checked."""
    overrides = axes_given(layout, facts.others)
    family = _family(facts, layout, probed)
    clips: Sequence[ClipReading] = ()
    if not CLIP_KEYS.isdisjoint(facts.inputs):
        clips = read_clips(facts, overrides, probed if family is None else None)
    form, reading = _read(facts, family, clips, overrides, probed)
    found = form.layout
    counts = {"sample": Counts([1] * facts.samples, facts.packing.source), **reading.counts}
    if facts.packed is not None:
        counts["token"] = Counts(facts.packed.lengths, facts.packing.source)
    for one in clips:
        counts |= one.counts
    if overrides or facts.others:
        counts |= _given(facts, counts, {axis.unit for axis in overrides.values()})
        refuse_uncounted(overrides, found, counts)
    odd = odd_dimensions(facts, form)
    ambiguities = _ambiguities(facts, form, counts, reading, clips, odd)
    hidden, unmasked = masked_otherwise(facts, causal=found.rules.causal)
    return Batch(
        inputs=facts.inputs,
        layout=found,
        counts=CountsByUnit(counts, ambiguities),
        spans=facts.spans,
        modalities=_modalities(facts, found, reading, odd, clips),
        per_image=reading.per_image,
        unpadded=unpadded(facts),
        ambiguities=ambiguities,
        marked=marked(facts, found.rules),
        hidden=hidden,
        unmasked=unmasked,
        behind=padding_behind(facts),
        behind_prompt=behind_prompt(facts, found.rules),
        before_prompt_ends=before_prompt_ends(facts, found.rules),
        lost_masks=form.lost_masks,
        known=KNOWN,
        columns=columns(facts, form),
        strays=strays(facts, form),
        promised=promised(facts, found),
        lacks=lacks(facts, form),
    )


def _given(
    facts: BatchFacts, counts: Mapping[str, Counts], named: Collection[str]
) -> dict[str, Counts]:
    """The counts of `counts=`, and those of units that `layout=` names.

    Raises:
        BadInput: The batch itself says otherwise.
    """
    for unit, given in facts.others.items():
        own = counts.get(unit)
        if own is not None and tuple(own) != given:
            raise BadInput(
                f"counts[{literal(unit)}] is {list(given)}, but {own.evidence} says {list(own)}. "
                f"Both count the {plural(unit)} of each sample. Leave counts= out, or pass those "
                "of this batch."
            )
    others = {"image": facts.num_images, "tile": facts.num_tiles, **facts.clips}
    given = {unit: own for unit, own in others.items() if own is not None and unit in named}
    return {
        unit: Counts(own, how_to_count(unit).partition("=")[0])
        for unit, own in {**given, **facts.others}.items()
        if unit not in counts
    }


def _family(facts: BatchFacts, layout: Any, probed: Probe | None) -> Family | None:
    """The family of the batch, with its keys checked; None if no family fits."""
    family = family_of(facts, layout, probed)
    if family is None:
        return None
    family = family.for_keys(facts.inputs)
    return family.resolve_variant(facts) if present_keys(facts, family) else family


def _read(
    facts: BatchFacts,
    family: Family | None,
    clips: Sequence[ClipReading],
    overrides: Mapping[str, Axis],
    probed: Probe | None,
) -> tuple[Form, CountResult]:
    """The form of the batch, and what its family counted."""
    axes = _token_axes(facts, probed, known=family is not None)
    if family is None or clips or overrides:
        return _in_parts(facts, family, clips, overrides, axes, probed)
    given = (*facts.present(facts.inputs),)
    mark = family, given, *axes.items()
    form = facts.metadata.forms.get(mark)
    if form is None:
        form, reading = _in_parts(facts, family, clips, overrides, axes, probed)
        facts.metadata.forms[mark] = form
        return form, reading
    rules = form.layout.rules
    return form, family.read(facts) if form.shapes else _no_media(facts, rules)


def _in_parts(
    facts: BatchFacts,
    family: Family | None,
    clips: Sequence[ClipReading],
    overrides: Mapping[str, Axis],
    axes: dict[str, Axis],
    probed: Probe | None,
) -> tuple[Form, CountResult]:
    """The same for keys that did not come before; `axes`: of those that are no media."""
    for one in clips:
        axes |= one.axes
    if overrides:
        axes = {key: axis for key, axis in axes.items() if key not in overrides}
    if family is not None:
        found = family.layout(facts.metadata)
        own = {key: family.axes[key] for key in facts.present(family.axes)}
        reading = family.read(facts) if own else _no_media(facts, found.rules)
    elif strange := [key for key in facts.inputs if key not in axes]:
        found, reading = read_by_shape(facts, strange, overrides, axes, probed)
        own = found.axes
    else:
        found, reading, own = Layout("text", axes, rules=USUAL), _no_media(facts, USUAL), {}
    media = {key: needs for key, needs in found.media.items() if key in own}
    for one in clips:
        media |= one.media
    axes = {**axes, **own, **overrides}
    changed = any(key in own and own[key] != axis for key, axis in overrides.items())
    present = {key: axes[key] for key in facts.inputs if key in axes}
    feature_key = found.feature_key if found.feature_key in own else None
    rules = _rules(found.rules, facts.metadata, changed=changed)
    layout = Layout(found.family, present, media, feature_key, rules, found.overview)
    given = frozenset(facts.present(facts.inputs))
    of_clips = frozenset(one.modality.name for one in clips)
    return Form(facts.metadata, layout, given, family, of_clips), reading


def _rules(rules: ModelRules, metadata: ProcessorMetadata, *, changed: bool) -> ModelRules:
    """The rules with what only the metadata say; `changed`: the layout is that of no model."""
    differ: dict[str, Any] = {}
    if changed or metadata.other_model is not None:
        differ["seen"] = ()  # no model that was seen
    if rules.mrope is not None and metadata.steps_per_second is not None:
        steps = float(metadata.steps_per_second), metadata.steps_per_chunk
        differ["mrope"] = _timed(rules.mrope, *steps)
    if metadata.flash_attention is not None:
        differ["flash_attention"] = metadata.flash_attention
    name = metadata.model_type
    if name is None:
        return rules.but(**differ) if differ else rules
    shared = name in SHARES_PROCESSOR and not metadata.has_config
    differ["names_model"] = not shared
    differ["separates_packed"] = name in SEPARATES and not shared
    if shared:
        return rules.but(**differ)
    if name in SEPARATES:
        differ["repeats_positions"] = name in REPEATS
        differ["takes_block_mask"] = name not in OWN_MASK
    if name in HIDES_PADDING or name in HIDES_PADDING_OF_TEXT:
        differ["hides_padding"] = "all" if name in HIDES_PADDING else "texts"
    return rules.but(**differ) if differ else rules


@lru_cache
def _timed(mrope: MRope, steps: float, in_chunk: int | None) -> MRope:
    return replace(mrope, per_second=steps, per_chunk=in_chunk)


def _ambiguities(
    facts: BatchFacts,
    form: Form,
    counts: Mapping[str, Counts],
    reading: CountResult,
    clips: Sequence[ClipReading],
    odd: Sequence[Ambiguity],
) -> tuple[Ambiguity, ...]:
    """All that cannot be settled or cannot all be right; keys of `odd` can be cut all the same."""
    layout = form.layout
    unsettled = [ambiguity for one in clips for ambiguity in one.ambiguities]
    found = [*facts.packing.ambiguities, *reading.ambiguities, *unsettled]
    found += strangers(facts, layout, counts)
    probed = layout.family == NAME  # what it expects may not hold for these images
    said = Contradiction, Reshaped
    named = [key for one in found if probed or isinstance(one, said) for key in one.keys]
    found += [replace(one, keys=()) for one in odd]
    found += other_rows(facts, layout, counts, named)
    return (*found, *uncounted(form, counts, found), *unknown_tokens(facts))


def _modalities(
    facts: BatchFacts,
    layout: Layout,
    reading: CountResult,
    odd: Sequence[Ambiguity],
    clips: Sequence[ClipReading],
) -> dict[str, Modality]:
    """Images, and the video and audio clips that the batch has."""
    key, keys = layout.feature_key, [*layout.media]
    for one in clips:
        keys = [name for name in keys if name not in one.media]
    broken = odd and key in {name for one in odd for name in one.keys}
    if any(not isinstance(one, Contradiction) for one in odd):
        broken = True  # what a model makes of images of other sizes is open
    image = Modality(
        "image",
        tuple(keys),
        key,
        layout[key].unit if key is not None and key in layout else None,
        None if broken else reading.features,
        reading.inferred,
        facts.metadata.image_token_id,
        facts.places,
        reading.pieces,
    )
    return {"image": image, **{one.modality.name: one.modality for one in clips}}


def _may_be_media(facts: BatchFacts, key: str, value: list[Any], probed: Probe | None) -> bool:
    """Whether a list may have one entry per image, although it has as many as there are samples."""
    if key in TRAINERS_OWN:
        return False
    if holds_tensors(value) or (probed is not None and key in probed.axes):
        return True
    images = facts.num_images
    other = images is not None and sum(images) == len(value) and {*images} != {1}
    return other and isinstance(plain(value), list)  # sizes; a text or number is a sample's own


def _token_axes(facts: BatchFacts, probed: Probe | None, *, known: bool) -> dict[str, Axis]:
    """Axes of keys with a row per sample or none; `known`: the layout of the batch is."""
    if facts.packed is not None:
        return _packed_axes(facts)
    axes: dict[str, Axis] = {}
    samples = facts.samples
    for key, value in facts.inputs.items():
        if isinstance(value, list):
            if not _may_be_media(facts, key, value, probed):
                axes[key] = PER_SAMPLE if len(value) == samples else WHOLE
            continue
        shape = getattr(value, "shape", ())
        if shape and shape[0] == samples and key not in KNOWN and _is_trainers(facts, key, known):
            axes[key] = PER_SAMPLE
        elif not shape or key in ROWLESS or _holds_objects(value):
            axes[key] = WHOLE
        elif key == "position_ids" and len(shape) == 3 and shape[1] == samples:
            axes[key] = PLACES  # M-RoPE: (3 or 4, sample, seq)
        elif key in TOKEN_KEYS:
            if shape[0] != samples:
                raise BadInput(
                    f"{key} has {number(shape[0], 'row')}, but input_ids has {samples}, one per "
                    "sample. One of the two was cut or padded without the other. "
                    "Pass both as the processor returned them."
                )
            axes[key] = PER_SAMPLE
    return axes


def _is_trainers(facts: BatchFacts, key: str, known: bool) -> bool:
    """Whether a key with a row per sample is a trainer's own, that no model takes.

    Without the model's forward method, a name that neither the processor nor this package knows
    says so only of one number per sample, in a known layout.
    """
    if key in TRAINERS_OWN:
        return True
    taken, returned = facts.metadata.taken_keys, facts.metadata.returned_keys or ()
    if key in KEYS or key in returned:
        return False
    if taken is not None:
        return key not in taken
    return known and bool(returned) and len(facts.inputs[key].shape) == 1


def _packed_axes(facts: BatchFacts) -> dict[str, Axis]:
    """Axes of the keys that are no media, if rows of `input_ids` hold several samples."""
    shape, axes = tuple(facts.inputs["input_ids"].shape), dict[str, Axis]()
    for key, value in facts.inputs.items():
        own = tuple(getattr(value, "shape", ()))
        if own[-2:] == shape and len(own) <= len(shape) + 1 and key not in MEDIA_KEYS:
            axes[key] = Axis("token", dim=len(own) - 1)
        elif isinstance(value, list) and len(value) == facts.samples:
            axes[key] = PER_SAMPLE
        elif not own or key in ROWLESS or key in PACKED or key in ALONG_TOKENS:
            axes[key] = WHOLE
        elif key in TOKEN_KEYS and own[0] == facts.samples and len(own) <= 2:
            axes[key] = PER_SAMPLE
        elif key in TOKEN_KEYS:
            raise BadInput(
                f"{key} has shape {own}, but the packed input_ids has {shape}. "
                "One of the two was cut, padded or packed without the other. "
                "Pass both as the packing returned them."
            )
    return axes


def _holds_objects(value: Any) -> bool:
    """Whether it is a numpy array of Python objects."""
    return isinstance(value, np.ndarray) and value.dtype.kind == "O"


def _no_media(facts: BatchFacts, rules: ModelRules) -> CountResult:
    """A batch without media keys: nobody owns an image, whatever the text says.

    Whether the text does say so is not known if nothing names the placeholder token.
    """
    counts = {"image": Counts([0] * facts.samples, "no media key in the batch")}
    metadata = facts.metadata
    takes = not {*PIXELS}.intersection(IMAGE_KEYS).isdisjoint(metadata.returned_keys or ())
    if not takes or metadata.image_token_id is not None or not rules.checks_totals:
        return CountResult(counts)
    said = (
        "The batch has no images, and the processor does not say which token is their placeholder, "
        "so it is not known whether the text has images that the batch lacks. Pass config= or "
        "model=, too."
    )
    return CountResult(counts, ambiguities=(Ambiguity((), None, said),))
