"""The source of `slice_inputs` for one layout: its constants, its loop and the helpers it calls.

Offsets are computed once a batch, on the host, so no chunk waits for a device. Names of keys come
from data: they are written as literals, never as code.
"""

from __future__ import annotations

import inspect
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from vlmdebug.core import pasted
from vlmdebug.core.keys import BOOKKEEPING, LENGTHS, MEDIA_OF
from vlmdebug.core.layout import (
    HANGS_ON,
    SAMPLE_WITH_IMAGES,
    VIDEO_FEATURE,
    VIDEO_PATCH,
    Axis,
    Layout,
    plural,
)
from vlmdebug.core.literals import in_docstring, literal
from vlmdebug.core.rules import MRope
from vlmdebug.families.video_audio import ROWS_OF_EACH, TYPES

if TYPE_CHECKING:
    from vlmdebug.families.counting import Counting

OFFSETS = {
    "image": "images",
    "tile": "tiles",
    SAMPLE_WITH_IMAGES: "owners",
    "patch": "patches",
    "video": "videos",
    VIDEO_PATCH: "video_patches",
    "frame": "frames",
    VIDEO_FEATURE: "video_features",
    "audio": "audios",
    "window": "windows",
}
"""Variables of the first row of each sample, by what rows count."""
NAMES = {**{unit: name for name, unit in BOOKKEEPING.items()}, "window": "num_windows"}
"""Keys that hold the number per sample, by what is counted."""
WIDTH = 92
"""Columns that lists of names in the source fill."""


@dataclass(frozen=True)
class Group:
    """Media keys that are there together, and the count that a chunk needs to be given them.

    Attributes:
        unit: What is counted: images, tiles, videos or audio clips.
        axes: Axis of every key, the one that must be there first.
        optional: Keys that a batch may lack.
    """

    unit: str
    axes: Mapping[str, Axis]
    optional: frozenset[str]

    @property
    def first(self) -> str:
        return next(iter(self.axes))

    @property
    def units(self) -> list[str]:
        """What the rows of its keys count."""
        return [*dict.fromkeys(axis.unit for axis in self.axes.values())]

    def key_of(self, unit: str) -> str | None:
        """A key that a batch has with one row per `unit`."""
        keys = [key for key, axis in self.axes.items() if axis.unit == unit]
        return min(keys, key=lambda key: key in self.optional, default=None)


class Packs(NamedTuple):
    """How exported code joins samples.

    Attributes:
        mrope: How M-RoPE's positions follow from grids; None where the model has none.
        tokens: Ids of placeholder tokens by modality, where they are known.
    """

    mrope: MRope | None
    tokens: Mapping[str, int]

    @property
    def videos(self) -> str:
        """The function of `pasted_packer` that lays out videos."""
        rule = self.mrope
        kind = None if rule is None else rule.videos
        if rule is not None and kind == "seconds":
            if rule.per_second is None:
                return "_videos_unknown"
            return "_videos_among_sounds" if rule.sounds else "_videos_in_seconds"
        return {"frames": "_videos_by_frame", "whole": "_videos_whole"}.get(
            kind or "", "_videos_unknown"
        )


def groups_of(layout: Layout) -> list[Group]:
    """The media keys of a layout, by the count that a chunk needs."""
    units: dict[str, dict[str, Axis]] = {}
    for key in layout.media:
        unit = layout.given_with(key)
        if unit is not None:
            units.setdefault(HANGS_ON.get(unit, unit), {})[key] = layout[key]
    found = []
    for unit, axes in units.items():
        axes = dict(sorted(axes.items(), key=lambda item: item[0] not in MEDIA_OF.values()))
        if unit == "tile" and all(axis.unit == "sample" for axis in axes.values()):
            unit = "image"  # a sample with images has tiles
        found.append(Group(unit, axes, _optional(layout, axes)))
    return found


def _optional(layout: Layout, axes: Mapping[str, Axis]) -> frozenset[str]:
    """Keys that some batches lack. Of layouts of no family, all but the first one may."""
    from vlmdebug.families import find_family

    family = find_family(layout.family)
    lengths = {name for axis in axes.values() for name in LENGTHS.get(axis.unit, ())}
    always = {*lengths, *(family.axes.keys() - family.rules.sometimes_returned if family else ())}
    return frozenset(key for key in [*axes][1:] if key not in always)


def source_of(
    layout: Layout,
    found: Mapping[str, Counting] | None = None,
    present: Container[str] = frozenset(NAMES),
    packs: Packs | None = None,
) -> str:
    """The source of the whole module.

    Args:
        layout: All keys that the code knows.
        found: How units are counted where the counts are not given.
        present: Units that the batch has which the code is written from.
        packs: How it joins samples in rows; None where it does not.
    """
    groups, countings = groups_of(layout), dict(found or {})
    parts = ["\n".join(_function(layout, groups, countings, present))]
    counted = [unit for unit in counted_units(groups) if unit in countings]
    parts += [countings[unit].source.rstrip("\n") for unit in counted]
    parts += _helpers("\n".join(parts))
    parts += [] if packs is None else _packing(packs)
    head = "\n".join(_head(layout, groups, "\n".join(parts), packs))
    return "\n\n\n".join([head, *parts, ""]).rstrip("\n") + "\n"


def counted_units(groups: Iterable[Group]) -> list[str]:
    """Units that the code must count per sample, in order."""
    units = dict.fromkeys(unit for group in groups for unit in (group.unit, *group.units))
    return [unit for unit in units if unit in NAMES]


def _helpers(source: str) -> list[str]:
    """Source of the functions of `pasted` that `source` calls, and of those which these call."""
    written = _pasted()
    used: dict[str, str] = {}
    queue = [source]
    while queue:
        text = queue.pop(0)
        called = [name for name in written if f"{name}(" in text and name not in used]
        used |= {name: written[name] for name in called}
        queue += [written[name] for name in called]
    return [*used.values()]


@cache
def _pasted() -> Mapping[str, str]:
    """Source of each function of `pasted`, by name."""
    return {
        name: inspect.getsource(function).rstrip("\n")
        for name, function in vars(pasted).items()
        if inspect.isfunction(function)
    }


def _packing(packs: Packs) -> list[str]:
    """Source of the functions that join samples."""
    from vlmdebug.running import pasted_packer as own

    positions = [own._positions]
    if packs.mrope:
        positions = [own._positions_in_grids, own._mrope, own._types, own._blocks]
        positions += [getattr(own, packs.videos), own._unknown]
    used = [own.pack_inputs, own._joined, *positions, own._is_along_tokens]
    sources = [inspect.getsource(function).rstrip("\n") for function in used]
    names = {"_positions_in_grids(": "_positions(", f"{packs.videos}(": "_video_blocks("}
    for written, name in names.items():
        sources = [source.replace(written, name) for source in sources]
    return sources


def _imports(source: str, packs: Packs | None) -> Iterator[str]:
    if "array(" in source:
        yield "from array import array"
    if packs:
        yield "from collections.abc import Iterator"
    imported = [name for name in ("accumulate", "pairwise", "repeat") if f"{name}(" in source]
    if imported:
        yield f"from itertools import {', '.join(imported)}"
    if "isqrt(" in source:
        yield "from math import isqrt"


def _head(
    layout: Layout, groups: Sequence[Group], source: str, packs: Packs | None
) -> Iterator[str]:
    media = {key: axis for group in groups for key, axis in group.axes.items()}
    plain = [key for key in layout if _is_plain(layout, key) and key not in media]
    moved = [key for key, axis in layout.items() if axis.unit == "sample" and axis.dim]
    whole = [key for key, axis in layout.items() if axis.unit == "batch"]
    family = in_docstring(layout.family)
    does = "Join samples of batches" if packs else "Cut batches"
    into = "in rows without padding" if packs else "into chunks of whole samples"
    yield f'"""{does} of the layout {family} {into}.'
    if media:
        yield from ["", "What a row counts:", ""]
        yield from (f"    {in_docstring(f'{key}: {axis}')}" for key, axis in media.items())
    needs = "torch" if packs else "nothing"
    yield from ["", f"Written by vlmdebug; it depends on {needs}, not on vlmdebug either."]
    yield from ['"""', "", "from __future__ import annotations", ""]
    yield from _imports(source, packs)
    yield from ["from typing import Any", ""]
    if packs:
        yield from ["import torch", ""]
        if packs.mrope:
            yield from _of_mrope(packs.mrope, packs.tokens, source)
    yield "# One row per sample; those that a batch has."
    yield from _tuple("SAMPLE_KEYS", plain)
    yield "# Samples on another dimension: M-RoPE's position_ids are (3, sample, seq)."
    yield from _tuple("MOVED_KEYS", dict.fromkeys(["position_ids", *moved]))
    yield "# Not cut: each chunk gets all of it."
    yield from _tuple("WHOLE_KEYS", whole)
    yield "# Media, and what comes beside each of them."
    yield "MEDIA_KEYS = {"
    for group in groups:
        yield from _tuple(literal(group.first), [*group.axes][1:], indent="    ")
    yield "}"
    yield "# Lists per sample that a trainer may keep in its batch; no model takes them."
    yield from _tuple("COUNTS", NAMES.values())


def _of_mrope(rule: MRope, tokens: Mapping[str, int], source: str) -> Iterator[str]:
    """What the code knows of positions in time, height and width."""
    codes = {token: code for name, code in TYPES.items() if (token := tokens.get(name)) is not None}
    if tokens.get("image") is not None:  # the token of videos, too, in some models
        codes[tokens["image"]] = 1
    listed = ", ".join(f"{token!r}: {code}" for token, code in codes.items())
    yield f"MEDIA_TOKENS = {{{listed}}}"
    yield f"POSITIONS = torch.{'float32' if rule.sounds == 'times' else 'int64'}"
    if "STEPS_PER_SECOND" in source:
        yield f"STEPS_PER_SECOND = {rule.per_second!r}"


def _is_plain(layout: Layout, key: str) -> bool:
    """Whether the key is cut on dim 0, by samples, in every chunk."""
    axis = layout[key]
    return axis.unit == "sample" and not axis.dim and key != "position_ids"


def _tuple(name: str, values: Iterable[str], indent: str = "") -> list[str]:
    """An assignment, or an entry of a dictionary where `indent` is given."""
    given = [literal(value) for value in values]
    begin, end = (f"{indent}{name}: (", "),") if indent else (f"{name} = (", ")")
    short = f"{begin}{_listed(given)}{end}"
    return (
        [short] if len(short) < WIDTH else [begin, *_filled(given, f"{indent}    "), indent + end]
    )


def _listed(items: Sequence[str]) -> str:
    """What stands between the brackets of a tuple of these."""
    return f"{items[0]}," if len(items) == 1 else ", ".join(items)


def _filled(items: Iterable[str], indent: str) -> list[str]:
    """Lines of items, each with a comma, as many as fit."""
    lines = [indent.rstrip()]
    for item in items:
        if len(lines[-1]) + len(item) + 2 > WIDTH or not lines[-1]:
            lines.append(f"{indent}{item},")
        else:
            lines[-1] += f" {item},"
    return lines[1:]


def _function(
    layout: Layout,
    groups: Sequence[Group],
    found: Mapping[str, Counting],
    present: Container[str],
) -> Iterator[str]:
    yield "def slice_inputs(inputs, chunk_size):"
    yield from _docstring(groups, found, present)
    yield "    inputs = _known(inputs)"
    yield '    samples = len(inputs["input_ids"])'
    yield "    rows = {key: inputs[key] for key in SAMPLE_KEYS if key in inputs}"
    yield "    whole = {key: inputs[key] for key in inputs if _is_whole(key, inputs[key])}"
    yield '    places = inputs.get("position_ids")'
    yield "    by_row = _is_by_row(places, samples)"
    for group in groups:
        yield f"    if {literal(group.first)} in inputs:"
        yield from (f"        {line}" for line in _offsets(group, found))
    yield "    for start in range(0, samples, chunk_size):"
    yield "        stop = min(start + chunk_size, samples)"
    yield "        chunk = {key: value[start:stop] for key, value in rows.items()}"
    yield "        if places is not None:"
    yield "            own = places[start:stop] if by_row else places[:, start:stop]"
    yield '            chunk["position_ids"] = own'
    for key, axis in layout.items():
        if axis.unit == "sample" and axis.dim and key != "position_ids":
            yield f"        if {literal(key)} in inputs:"
            yield f"            {_cut(literal(key), ':, ' * axis.dim + 'start:stop')}"
    for group in groups:
        yield from (f"        {line}" for line in _cuts(group))
    yield "        yield {**chunk, **whole} if whole else chunk"


def _docstring(
    groups: Sequence[Group], found: Mapping[str, Counting], present: Container[str]
) -> Iterator[str]:
    counted = counted_units(groups)
    asked = [unit for unit in counted if unit not in found]
    first = [f'["{NAMES[unit]}"]' for unit in asked if unit in present]
    if first:
        *others, last = [f"`inputs{first[0]}`", *(f"`{name}`" for name in first[1:])]
        names = f"{', '.join(others)} and {last}" if others else last
        yield f'    """Yield chunks of `chunk_size` samples; reads {names}.'
    else:
        yield '    """Yield the model inputs of each chunk of `chunk_size` samples, in order.'
    yield ""
    for unit in counted:
        name = f'inputs["{NAMES[unit]}"]'
        if unit in found:
            yield f"    `{name}` is used where given, else placeholder tokens are counted."
        else:
            yield f"    Where there are {plural(unit)}, `{name}` holds their number per sample."
    if groups:
        yield "    A chunk without media of a kind is given no keys of that kind."
    yield "    A key with rows that is not known raises ValueError; all else is passed on."
    yield '    """'


def _offsets(group: Group, found: Mapping[str, Counting]) -> Iterator[str]:
    """Lines that compute the offsets of each unit once."""
    own = OFFSETS[group.unit]
    for unit in counted_units([group]):
        name, key = NAMES[unit], group.key_of(unit)
        rows = "None" if key is None else f"inputs[{literal(key)}]"
        function = f", {found[unit].name}" if unit in found else ""
        yield f'inputs["{name}"] = _counts(inputs, "{name}", {rows}{function})'
        yield f'{OFFSETS[unit]} = [0, *accumulate(inputs["{name}"])]'
    if SAMPLE_WITH_IMAGES in group.units:
        yield 'owners = [0, *accumulate(min(count, 1) for count in inputs["num_images"])]'
    for unit in group.units:
        rows = _lengths(group, unit)
        if rows is not None:
            yield f"ends = [0, *accumulate({rows}.tolist())]  # of each {group.unit}"
            yield f"{OFFSETS[unit]} = [ends[{group.unit}] for {group.unit} in {own}]"
    ends = [
        f"{literal(key)}: {OFFSETS.get(axis.unit, '[samples]')}" for key, axis in group.axes.items()
    ]
    yield from ["_check_rows(inputs, {", *_filled(ends, "    "), "})"]


def _lengths(group: Group, unit: str) -> str | None:
    """Source of the rows of each image or video, where a key of the group gives them."""
    if unit in ROWS_OF_EACH:
        return ROWS_OF_EACH[unit]
    lengths = next((key for key in LENGTHS.get(unit, ()) if key in group.axes), None)
    if lengths is None:
        return None
    return f'inputs["{lengths}"]' + (".prod(-1)" if "grid" in lengths else "")


def _cuts(group: Group) -> Iterator[str]:
    """Lines that give a chunk the rows of its samples."""
    own = OFFSETS[group.unit]
    yield f"if {literal(group.first)} in inputs and {own}[start] < {own}[stop]:"
    optional: dict[str, list[str]] = {}
    for key, axis in group.axes.items():
        name = OFFSETS.get(axis.unit)
        rows = f"{name}[start] : {name}[stop]" if name else "start:stop"
        if key in group.optional:
            optional.setdefault(rows, []).append(literal(key))
        else:
            yield f"    {_cut(literal(key), rows)}"
    for rows, keys in optional.items():
        if rows.startswith(f"{OFFSETS['patch']}["):  # some images have none
            for key in keys:
                yield f"    if {key} in inputs and {rows.replace(' : ', ' < ')}:"
                yield f"        {_cut(key, rows)}"
            continue
        yield f"    for key in ({_listed(keys)}):"
        yield "        if key in inputs:"
        yield f"            {_cut('key', rows)}"


def _cut(key: str, rows: str) -> str:
    return f"chunk[{key}] = inputs[{key}][{rows}]"
