"""Tensors of one batch that contradict each other or the layout, and keys that nothing counts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import isqrt, prod
from typing import Any

import numpy as np

from vlmdebug.core.batch import Ambiguity, Contradiction
from vlmdebug.core.keys import BOOKKEEPING
from vlmdebug.core.layout import Axis, Layout, plural
from vlmdebug.core.literals import literal
from vlmdebug.core.rows import Counts
from vlmdebug.core.tensors import to_numpy
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.families import find_family
from vlmdebug.families.base import dimensions
from vlmdebug.families.clip_shapes import VIDEO_PATCH_PIXELS, clip_shapes
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.families.form import Form
from vlmdebug.families.given_counts import how_to_count
from vlmdebug.families.image_counts import refuses_rows
from vlmdebug.families.row_sizes import INTERPOLATES, Unlike, said_of, unlike
from vlmdebug.safe import spell_names

PIXELS_OF_IMAGES, PIXELS_OF_PAGES = "pixel_values", "flattened_patches"
PATCH_PIXELS, PLACE_AND_PIXELS = "patch_pixels", "place_and_pixels"


BROADCAST = {("gemma4_unified", "image_position_ids")}
"""Models that take one place of a patch for its row and its column: it is broadcast
(`modeling_gemma4_unified.forward` of the vision embedder, transformers 5.24)."""
OF_SEVERAL = {"llava"}
"""Models with a processor that another has, too, with a tower for any size: FastVLM's."""
MOST_ROWS = 256
"""Sizes of rows that are remembered as right; media are padded to many sizes in some families."""


def refuse_uncounted(
    overrides: Mapping[str, Axis], layout: Layout, counts: Mapping[str, Counts]
) -> None:
    """Refuse a unit that `layout=` names and that nothing in this family counts."""
    if find_family(layout.family) is None:
        return
    for key, axis in overrides.items():
        if axis.unit not in (*counts, "batch") and key in layout and not _may_count(axis.unit):
            raise BadInput(
                f"layout[{key!r}] is {axis.unit!r}, but nothing counts the {plural(axis.unit)} of "
                f"each sample in layout {layout.family}; it counts {', '.join(counts)}. "
                f"No row of {key} would be anybody's. Name one of these, leave {key} out, or "
                f"pass {how_to_count(axis.unit)}, one number per sample."
            )


def _may_count(unit: str) -> bool:
    """Whether an argument of `read_batch` counts it; then the message asks for that one."""
    return unit in BOOKKEEPING.values()


def other_rows(
    facts: BatchFacts, layout: Layout, counts: Mapping[str, Counts], wrong: Collection[str]
) -> list[Ambiguity]:
    """Tensors that are not as long as their counts say; the message names both numbers."""
    found: list[Ambiguity] = []
    for key, axis in layout.items():
        value = facts.inputs[key]
        count = counts.get(axis.unit)
        if count is None or key in wrong or axis.unit == "token":  # its shape is that of input_ids
            continue
        shape = (len(value),) if isinstance(value, list) else value.shape
        rows = shape[axis.dim] if len(shape) > axis.dim else 0
        if rows != sum(count):
            family = find_family(layout.family) if axis.unit == "sample" else None
            made = None if family is None else family.flattened(facts)
            fits = None if made is None else made == sum(facts.placeholders or ())
            if axis.unit == "sample" and fits is not False:
                open_rows = _open_rows(facts, layout, counts, key, rows, fits=bool(fits))
                if open_rows is not None:
                    found.append(open_rows)
                    continue
            said = (
                f"{key} has {number(rows, 'row')} on dim {axis.dim}, but layout {layout.family} "
                f"has one row per {axis.unit} and the batch has {count.total} {plural(axis.unit)} "
                f"({count.evidence}). The tensors belong to different batches, or one was cut. "
                "Pass the batch as the processor returned it."
            )
            media = key in layout.media
            loud = refuses_rows(facts, layout.rules, key, count.total) if media else True
            silent = False if loud and layout.rules.predict else None
            if fits is not None and layout.rules.predict:
                silent = fits
            found.append(Contradiction((key,), None, said, silent=silent))
    return found


def _open_rows(
    facts: BatchFacts,
    layout: Layout,
    counts: Mapping[str, Counts],
    key: str,
    rows: int,
    *,
    fits: bool,
) -> Ambiguity | None:
    """Padded rows that may be right, though they are not one per sample; `fits`: to the text."""
    samples = counts["sample"].total
    if facts.packed is not None:
        return _packed_rows(key, rows, samples)
    if fits and facts.packing.ambiguities:
        return _rows_of_several(key, rows, samples)
    owners = sum(map(bool, counts.get("image", ())))
    if rows == owners and _skips_empty_rows(layout, key):
        return _without_empty_rows(key, rows)
    return None


def _skips_empty_rows(layout: Layout, key: str) -> bool:
    return key in layout.media and layout.rules.of(key).may_skip_empty_rows


def _without_empty_rows(key: str, rows: int) -> Ambiguity:
    """A model that flattens all rows runs without those of samples that have no media."""
    said = (
        f"{key} has {number(rows, 'row')}, one for each sample with images and none for the "
        "others. The model flattens them and may run, but cut by sample they are of other samples. "
        "Pass a row of zeros for each sample without images, as the processor does."
    )
    return Ambiguity((key,), "sample", said)


def _packed_rows(key: str, rows: int, samples: int) -> Ambiguity:
    """A padded row of media may be a sample, a packed row, or a sample that has media."""
    said = (
        f"{key} has {number(rows, 'row')} for {samples} packed samples, so its rows were not "
        "matched to samples and were not checked. Pass one row per sample, or the batch before "
        "packing."
    )
    return Ambiguity((key,), None, said)


def _rows_of_several(key: str, rows: int, samples: int) -> Ambiguity:
    """Media of rows that may hold several samples: a row of theirs may be of any of these."""
    said = (
        f"{key} has {number(rows, 'row')} for {number(samples, 'row')} of input_ids that may hold "
        "several samples, so its rows were not matched to samples and were not checked. Pass what "
        "says where each sample begins, and one row per sample."
    )
    return Ambiguity((key,), None, said)


def odd_dimensions(facts: BatchFacts, form: Form) -> list[Ambiguity]:
    """Keys that share a dimension but not its length, or have rows of another size than theirs."""
    shapes = form.shapes
    found: list[Ambiguity] = [*_lost_tiles(facts, shapes), *_lost_patches(facts, shapes)]
    if form.has_clips or INTERPOLATES in facts.inputs:
        return [*found, *_odd_rows(facts, form)]
    row = tuple([facts.inputs[key].shape[1:] for key in shapes])  # of each key
    if row not in form.right_rows:
        odd = _odd_rows(facts, form)
        found += odd
        if not odd and len(form.right_rows) < MOST_ROWS:
            form.right_rows.add(row)
    return found


def _odd_rows(facts: BatchFacts, form: Form) -> list[Ambiguity]:
    """The same for what each row of a key measures, whatever the other dimensions are."""
    kind, shapes, found = facts.metadata.model_type, form.shapes, list[Ambiguity]()
    asked = facts.inputs.get(INTERPOLATES) is True
    sizes = facts.metadata.row.of_any_side if asked else facts.metadata.row
    first: dict[str, tuple[str, int]] = {}
    clips = clip_shapes(facts, sums=form.family is None) if form.has_clips else {}
    for key, named in [*shapes.items(), *clips.items()] if clips else shapes.items():
        shape = tuple(facts.inputs[key].shape)
        names = dimensions(named)
        if names[-1] != "..." and len(shape) != len(names):
            found.append(_other_dimensions(key, shape, named, kind))
            continue
        found += [] if (cut := _cut_patch(key, shape, names, facts)) is None else [cut]
        if "channels" in names and shape[-1] == 3 != shape[names.index("channels")]:
            found.append(_channels_last(key, shape))
            continue
        if others := unlike(shape, names, sizes.exact):
            found.append(_other_lengths(key, shape, others, facts.metadata))
            continue
        if others := unlike(shape, names, sizes.usual):
            found.append(_unusual_lengths(key, shape, others, kind))
        for dim, name in _shared(named):
            if dim >= len(shape):
                break
            size = int(shape[dim])
            other, length = first.setdefault(name, (key, size))
            if length != size:
                cut, whole = (key, other) if size < length else (other, key)
                least, most = sorted((length, size))
                said = _cut_columns(cut, least, f"{whole} has {most} of them", name)
                found.append(replace(said, keys=(cut, whole)))
    return found


def unknown_tokens(facts: BatchFacts) -> list[Contradiction]:
    """Tokens beyond the vocabulary that are no placeholder, as of media that the batch lacks."""
    size, ids = facts.metadata.vocabulary, facts.ids
    if size is None or not ids.size or np.maximum.reduce(ids, axis=None) < size:
        return []  # as nearly all batches have them
    placeholders = [facts.metadata.image_token_id, *facts.metadata.token_ids.values()]
    known = np.isin(ids, [token for token in placeholders if token is not None])
    return [
        Contradiction(
            (),
            None,
            f"input_ids of sample {sample} holds token {ids[sample, column]}, but the vocabulary "
            f"ends at {size - 1}. The model raises if its embedding is no larger. "
            "Pass the tokens of the tokenizer that belongs to the model.",
            refused=False,
            silent=None,
        )
        for sample, column in np.argwhere((ids >= size) & ~known)[:1].tolist()
    ]


def _cut_patch(
    key: str, shape: Sequence[int], names: Sequence[str], facts: BatchFacts
) -> Contradiction | None:
    """Flat patches with other values than a patch has, which is known or must be some square."""
    videos = VIDEO_PATCH_PIXELS in names
    known = facts.metadata.row.video_patch if videos else facts.metadata.patch_pixels
    if names[0] == "patch" and len(shape) > 2:  # each patch with its own dimensions
        if not known or names[-1] != "..." or prod(shape[1:]) in known or shape[-1] in known:
            return None
        values = prod(shape[1:])
    elif names[-1] in (PATCH_PIXELS, VIDEO_PATCH_PIXELS) or (names[0] == "patch"):
        values = shape[-1]
    elif names[-1] == PLACE_AND_PIXELS:
        values = shape[-1] - 2
    else:
        return None
    if _is_patch(values, known):
        return None
    either = " or ".join(map(str, sorted(known)))
    due = f"a patch has {either} values" if known else "no square patch has as many"
    return _cut_columns(key, shape[-1] if len(shape) < 4 else values, due)


def _lost_tiles(facts: BatchFacts, shapes: Mapping[str, str]) -> list[Contradiction]:
    """Images with more tiles, by their size, than a row of pixels has."""
    count, key = facts.metadata.row.tiles, PIXELS_OF_IMAGES
    if count is None or not facts.has("image_sizes") or "max_tiles" not in shapes.get(key, ""):
        return []
    sizes = to_numpy(facts.inputs["image_sizes"]).tolist()
    owned = facts.inputs.get("batch_num_images")  # several of a sample are not cut into tiles
    alone = [True] * len(sizes)
    if owned is not None:
        alone = [own == 1 for own in to_numpy(owned).tolist() for _ in range(own)]
    shape = tuple(facts.inputs[key].shape)
    if len(alone) != len(sizes) or len(shape) != 5:
        return []  # said elsewhere
    tiles = count([(height, width) for height, width in sizes])
    due = max((own for own, one in zip(tiles, alone, strict=True) if one), default=0)
    if shape[1] >= due:
        return []
    return [_cut_columns(key, shape[1], f"an image of image_sizes has {due} of them", "tiles")]


def _lost_patches(facts: BatchFacts, shapes: Mapping[str, str]) -> list[Contradiction]:
    """Pages with more patches, by their `height` and `width`, than a row of Kosmos-2.5 has."""
    key = PIXELS_OF_PAGES
    if key not in shapes or not facts.has("height") or not facts.has("width"):
        return []
    shape = tuple(facts.inputs[key].shape)
    side = isqrt(max(shape[-1] - 2, 0) // 3)  # in pixels; two values are the place
    if side == 0 or 3 * side**2 + 2 != shape[-1]:
        return []  # said elsewhere
    sides = [to_numpy(facts.inputs[name]).reshape(-1) // side for name in ("height", "width")]
    due = max((int(a * b) for a, b in zip(*sides, strict=False)), default=0)
    if len(shape) != 3 or shape[1] >= due:
        return []
    return [_cut_columns(key, shape[1], f"a page has {due} of them", "patches")]


@cache
def _shared(named: str) -> tuple[tuple[int, str], ...]:
    """The dimensions, other than that of the rows, which may be in several keys of a family."""
    names = enumerate(dimensions(named))
    return tuple((dim, name) for dim, name in names if dim and name != "..." and not name.isdigit())


def _is_patch(values: int, known: Collection[int]) -> bool:
    """Whether a flat patch can have so many values: three channels of one or two square frames."""
    if known or values <= 0:
        return values in known
    return any(
        values % (3 * n) == 0 and isqrt(values // (3 * n)) ** 2 * 3 * n == values for n in (1, 2)
    )


def _other_dimensions(
    key: str, shape: Sequence[int], named: str, model_type: str | None
) -> Contradiction:
    change = "lost" if len(shape) < named.count(",") + 1 else "added"
    return Contradiction(
        (key,),
        None,
        f"{key} has shape {tuple(shape)}, but {model_type} takes ({named}): a dimension was "
        f"{change}. The model raises. Pass {key} as the processor returned it.",
        refused=False,
        silent=False,
    )


def _other_lengths(
    key: str, shape: Sequence[int], found: Sequence[Unlike], metadata: ProcessorMetadata
) -> Contradiction:
    kind, (are, due) = metadata.model_type, said_of(found)
    shared = kind in OF_SEVERAL and not metadata.has_config
    runs = (kind, key) in BROADCAST or (shared and all(one.is_side for one in found))
    return Contradiction(
        (key,),
        None,
        f"{key} has shape {tuple(shape)}: {are}, but {kind} takes {due}. "
        f"The model {'may run with other values' if runs else 'raises'}. Trim and pad only keys "
        "along the tokens, and pass the media as the processor returned them.",
        refused=False,
        silent=None if runs else False,
    )


def _unusual_lengths(
    key: str, shape: Sequence[int], found: Sequence[Unlike], kind: str | None
) -> Ambiguity:
    are, due = said_of(found)
    return Ambiguity(
        (key,),
        None,
        f"{key} has shape {tuple(shape)}: {are}, but the processor or config of {kind} says {due}. "
        "The model runs with some other sizes, too, so it is not known whether pixels were cut "
        "off. Pass the media as the processor returned them, or the processor that makes this "
        "size.",
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
        f"{key} was cut to {size} {name}, but {but}. The model raises, or reads other pixels. "
        "Trim and pad only keys along the tokens: its second dimension does not count tokens.",
        refused=False,
        silent=None,
    )


def _shape(value: Any) -> str:
    return f"list of {len(value)}" if isinstance(value, list) else str(tuple(value.shape))


def _fits(value: Any, counts: Mapping[str, Counts]) -> list[str]:
    """Units with as many rows as a key."""
    return [unit for unit, own in counts.items() if own.total == len(value)]


def _said(key: str, fits: Sequence[str]) -> str:
    """The arguments that say what a row of a key counts, by the units with as many rows."""
    if not fits:
        counted = how_to_count("row")
        return f'layout={{{literal(key)}: "row"}} with {counted}, the rows of each sample'
    said = " or ".join(f"layout={{{literal(key)}: {literal(unit)}}}" for unit in fits)
    return said + (", whichever a row counts" if len(fits) > 1 else "")


def strangers(
    facts: BatchFacts, layout: Layout, counts: Mapping[str, Counts]
) -> tuple[Ambiguity, ...]:
    """Keys of the batch that the layout says nothing of."""
    if facts.inputs.keys() <= layout.axes.keys():
        return ()  # as nearly always
    return tuple(
        Ambiguity(
            keys=(key,),
            unit=None,
            message=spell_names(
                f"{key} {_shape(value)} is not a key that layout {layout.family} knows, so "
                "what its rows count is unknown and it was not cut. "
                f"Leave it out, or say it: {_said(key, _fits(value, counts))}.",
                [key],
            ),
        )
        for key, value in facts.inputs.items()
        if key not in layout
    )


def uncounted(
    form: Form, counts: Mapping[str, Counts], ambiguities: Sequence[Ambiguity]
) -> list[Ambiguity]:
    """Keys with rows that could not be assigned to samples, though no family reported it."""
    if form.units <= counts.keys():
        return []  # as nearly always
    layout = form.layout
    said = {key for ambiguity in ambiguities for key in ambiguity.keys}
    units: dict[str, list[str]] = {}
    for key, axis in layout.items():
        needed = layout.given_with(key)
        missing = [axis.unit] if axis.unit not in counts and axis.unit != "batch" else []
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
                f"{plural(unit)} each sample has. Pass processor= or config=, or "
                f"{how_to_count(unit)}, one number per sample."
            ),
        )
        for unit, keys in units.items()
    ]
