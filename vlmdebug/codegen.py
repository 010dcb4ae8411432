"""`export`: the corrected slicing code for a batch's layout, as source to paste in a trainer.

The source covers every key of its batch and of its family's models, and raises on any other.
Offsets are computed once a batch, on the host, so no chunk waits for a device. It depends on
nothing, not on vlmdebug either. Names of keys come from data: they are written as literals, never
as code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdebug import pasted
from vlmdebug.batch import Batch
from vlmdebug.core.keys import BOOKKEEPING, LENGTHS, MEDIA_OF, TOKEN_KEYS
from vlmdebug.errors import BadInput, MismatchError
from vlmdebug.given import public
from vlmdebug.layout import OWNER, VIDEO_PATCH, Axis, Layout, plural
from vlmdebug.literals import in_docstring, literal
from vlmdebug.safe import one_line

if TYPE_CHECKING:
    from vlmdebug.families.counting import Counting

OFFSETS = {
    "image": "images",
    "tile": "tiles",
    OWNER: "owners",
    "patch": "patches",
    "video": "videos",
    VIDEO_PATCH: "video_patches",
    "frame": "frames",
    "audio": "audios",
}
"""Variables of the first row of each sample, by what rows count."""
NAMES = {unit: name for name, unit in BOOKKEEPING.items()}
WIDTH = 92
"""Columns that lists of names in the source fill."""


@dataclass(frozen=True)
class Code:
    """Standalone Python that defines `slice_inputs(inputs, chunk_size)`.

    Attributes:
        family: The layout family it is for.
        source: The source.
    """

    family: str
    source: str

    @cached_property
    def function(self) -> Callable[[Mapping[str, Any], int], Iterable[dict[str, Any]]]:
        """`slice_inputs` itself, compiled from the source."""
        namespace: dict[str, Any] = {}
        exec(compile(self.source, "slice_inputs.py", "exec"), namespace)
        return namespace["slice_inputs"]

    def save(self, path: str | Path) -> Path:
        """Write the source to `path` and return it."""
        path = Path(path)
        path.write_text(self.source, encoding="utf-8")
        return path

    def verify(self, *, max_examples: int = 100, seed: int = 0) -> int:
        """Try to falsify the code on generated batches of its layout.

        Code that leaves out a key which some model of its family takes fails. The counts of each
        batch are given: how the code counts placeholder tokens is not tried here, but was on the
        batch that it was written from.

        Returns:
            How many cases it survived: evidence, not a proof. It is a `Tried`, whose `left_out`
            says what was not tried. 0 where the layout is no family's, so that no batches can be
            drawn: the code was run on its own batch alone.

        Raises:
            MismatchError: The smallest batch that it cuts wrongly.
            AmbiguousError: It cut none wrongly, but on some it could not be judged.
        """
        from vlmdebug.families import find_family
        from vlmdebug.running.counterexample import Tried
        from vlmdebug.running.falsify import survived
        from vlmdebug.running.synthetic import with_every_key
        from vlmdebug.tracing.check import check

        family = find_family(self.family)
        if family is None:
            return Tried(0, ("other batches than its own",))
        cases = survived(self.function, family.name, max_examples=max_examples, seed=seed)
        batch = with_every_key(family)
        if not _cuts_alike(self, batch, NAMES):
            report = check(self.function, batch, pictures=False)
            lost = {*batch.layout} - {key for chunk in report.chunks for key in chunk.keys}
            raise MismatchError(
                f"The code does not cut a batch with every key of {family.name} as "
                f"Batch.chunks does: {', '.join(sorted(lost)) or report.verdict}.",
                report,
            )
        counted = [name for unit, name in NAMES.items() if f"def _{unit}s(" in self.source]
        return Tried(cases, [f"{name} by placeholder tokens" for name in counted])

    def __str__(self) -> str:
        return self.source


@public
def export(batch: Batch | Layout | Mapping[str, Any] | str, **reading: Any) -> Code:
    """Corrected slicing code for the layout of `batch`.

    The code is run on `batch` before it is handed out: it cuts it as `Batch.chunks` does. Where
    placeholder tokens say how many images each sample has, it counts them by itself; else the first
    line of its docstring names what it reads, `inputs["num_images"]`.

    Args:
        batch: A `Batch`, what a processor returned, a `Layout`, or the name of a family.
        **reading: Arguments of `read_batch`, where the batch is not read yet.

    Raises:
        BadInput: A key cannot be cut by code: how its offsets follow from the batch is unknown, or
            its name is no text. The message names it.
        AmbiguousError: The batch fits more than one layout.
    """
    from vlmdebug.families import family_named
    from vlmdebug.families.counting import countings
    from vlmdebug.families.read import read_batch

    if isinstance(batch, str):
        return _written(_complete(family_named(batch).layout()))
    if isinstance(batch, Layout):
        return _written(_complete(batch))
    read = batch if isinstance(batch, Batch) else read_batch(batch, **reading)
    read.refuse_ambiguity()
    known, found = _complete(read.layout), countings(read)
    units = _counted(_groups(known))
    present = {unit for group in _groups(read.layout) for unit in (group.unit, *group.units)}
    code = _written(known, found, present)
    if not _cuts_alike(code, read, [unit for unit in units if unit not in found]):
        code = _written(known, present=present)  # the text counts otherwise where it is cut
        if not _cuts_alike(code, read, units):
            raise BadInput(
                f"The code written for layout {read.layout.family} does not cut this batch as "
                "Batch.chunks does, so it was not handed out. Cut it with batch.chunks."
            )
    return code


# --- which keys ----------------------------------------------------------------------------


def _complete(layout: Layout) -> Layout:
    """The layout with all keys that models of its family take, and those of its batch.

    Raises:
        BadInput: How the rows of a key follow from the batch is unknown.
    """
    from vlmdebug.families import find_family
    from vlmdebug.families.streams import clip_axes, clip_of

    axes: dict[str, Axis] = dict.fromkeys(["input_ids", *sorted(TOKEN_KEYS)], Axis("sample"))
    media: dict[str, str] = {}
    family = find_family(layout.family)
    if family is not None:
        clips = clip_axes(family)
        axes |= {**family.axes, **clips}
        media = dict(family.layout().media)
        media |= {key: clip_of(key) for key in clips}
    whole = replace(layout, axes={**axes, **layout.axes}, media={**media, **layout.media})
    for key, axis in whole.items():
        _refuse(whole, key, axis)
    return whole


def _refuse(layout: Layout, key: str, axis: Axis) -> None:
    """Refuse a key whose rows code could not find."""
    literal(key)
    unit = layout.media.get(key)
    cut = axis.unit in ("sample", "batch")
    if unit is not None:
        cut = axis.unit in ("sample", *OFFSETS) and unit in NAMES and not axis.dim
    lengths = LENGTHS.get(axis.unit)
    if cut and (lengths is None or any(name in layout for name in lengths)):
        return
    raise BadInput(
        f"{one_line(key)} has {one_line(axis)}, but layout {one_line(layout.family)} has no such "
        "key, so no code was written that would drop it in silence. Leave it out of the batch, "
        "and cut it beside the exported code."
    )


@dataclass(frozen=True)
class _Group:
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


def _groups(layout: Layout) -> list[_Group]:
    units: dict[str, dict[str, Axis]] = {}
    for key in layout.media:
        unit = layout.given_with(key)
        if unit is not None:
            units.setdefault(unit, {})[key] = layout[key]
    found = []
    for unit, axes in units.items():
        axes = dict(sorted(axes.items(), key=lambda item: item[0] not in MEDIA_OF.values()))
        if unit == "tile" and all(axis.unit == "sample" for axis in axes.values()):
            unit = "image"  # a sample with images has tiles
        found.append(_Group(unit, axes, _optional(layout, axes)))
    return found


def _optional(layout: Layout, axes: Mapping[str, Axis]) -> frozenset[str]:
    """Keys that some batches lack. Of layouts of no family, all but the first one may."""
    from vlmdebug.families import find_family

    family = find_family(layout.family)
    lengths = {name for axis in axes.values() for name in LENGTHS.get(axis.unit, ())}
    always = {*lengths, *(family.axes.keys() - family.rules.sometimes_returned if family else ())}
    return frozenset(key for key in [*axes][1:] if key not in always)


# --- the source ----------------------------------------------------------------------------


def _written(
    layout: Layout,
    found: Mapping[str, Counting] | None = None,
    present: Container[str] = frozenset(NAMES),
) -> Code:
    """The whole module, as `Code`.

    Args:
        layout: All keys that the code knows.
        found: How units are counted where the counts are not given.
        present: Units that the batch has which the code is written from.
    """
    groups, countings = _groups(layout), dict(found or {})
    parts = ["\n".join(_function(layout, groups, countings, present))]
    parts += [countings[unit].source.rstrip("\n") for unit in _counted(groups) if unit in countings]
    parts += _helpers("\n".join(parts))
    head = "\n".join(_head(layout, groups, "\n".join(parts)))
    return Code(layout.family, "\n\n\n".join([head, *parts, ""]).rstrip("\n") + "\n")


def _counted(groups: Iterable[_Group]) -> list[str]:
    """Units whose numbers per sample the code must know, in order."""
    units = dict.fromkeys(unit for group in groups for unit in (group.unit, *group.units))
    return [unit for unit in units if unit in NAMES]


def _helpers(source: str) -> list[str]:
    """Source of the functions of `pasted` that `source` calls, and of those which these call."""
    written = {
        name: inspect.getsource(function).rstrip("\n")
        for name, function in vars(pasted).items()
        if inspect.isfunction(function)
    }
    used: dict[str, str] = {}
    queue = [source]
    while queue:
        text = queue.pop(0)
        called = [name for name in written if f"{name}(" in text and name not in used]
        used |= {name: written[name] for name in called}
        queue += [written[name] for name in called]
    return [*used.values()]


def _head(layout: Layout, groups: Sequence[_Group], source: str) -> Iterator[str]:
    media = {key: axis for group in groups for key, axis in group.axes.items()}
    plain = [key for key in layout if _is_plain(layout, key) and key not in media]
    moved = [key for key, axis in layout.items() if axis.unit == "sample" and axis.dim]
    whole = [key for key, axis in layout.items() if axis.unit == "batch"]
    imported = [name for name in ("accumulate", "pairwise") if f"{name}(" in source]
    family = in_docstring(layout.family)
    yield f'"""Cut batches of the layout {family} into chunks of whole samples.'
    if media:
        yield from ["", "What a row counts:", ""]
        yield from (f"    {in_docstring(f'{key}: {axis}')}" for key, axis in media.items())
    yield from ["", "Written by vlmdebug; it depends on nothing, not on vlmdebug either."]
    yield from ['"""', "", "from __future__ import annotations", ""]
    if imported:
        yield f"from itertools import {', '.join(imported)}"
    yield from ["from typing import Any", ""]
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
    yield from _tuple("COUNTS", BOOKKEEPING)


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
    groups: Sequence[_Group],
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
    groups: Sequence[_Group], found: Mapping[str, Counting], present: Container[str]
) -> Iterator[str]:
    counted = _counted(groups)
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


def _offsets(group: _Group, found: Mapping[str, Counting]) -> Iterator[str]:
    """Lines that compute the offsets of each unit once."""
    own = OFFSETS[group.unit]
    for unit in _counted([group]):
        name, key = NAMES[unit], group.key_of(unit)
        rows = "None" if key is None else f"inputs[{literal(key)}]"
        function = f", {found[unit].name}" if unit in found else ""
        yield f'inputs["{name}"] = _counts(inputs, "{name}", {rows}{function})'
        yield f'{OFFSETS[unit]} = [0, *accumulate(inputs["{name}"])]'
    if OWNER in group.units:
        yield 'owners = [0, *accumulate(min(count, 1) for count in inputs["num_images"])]'
    for unit in group.units:
        lengths = next((key for key in LENGTHS.get(unit, ()) if key in group.axes), None)
        if lengths is not None:
            rows = f'inputs["{lengths}"]' + (".prod(-1)" if "grid" in lengths else "")
            yield f"ends = [0, *accumulate({rows}.tolist())]  # of each {group.unit}"
            yield f"{OFFSETS[unit]} = [ends[{group.unit}] for {group.unit} in {own}]"
    ends = [
        f"{literal(key)}: {OFFSETS.get(axis.unit, '[samples]')}" for key, axis in group.axes.items()
    ]
    yield from ["_check_rows(inputs, {", *_filled(ends, "    "), "})"]


def _cuts(group: _Group) -> Iterator[str]:
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
        yield f"    for key in ({_listed(keys)}):"
        yield "        if key in inputs:"
        yield f"            {_cut('key', rows)}"


def _cut(key: str, rows: str) -> str:
    return f"chunk[{key}] = inputs[{key}][{rows}]"


# --- the trial -----------------------------------------------------------------------------


def _cuts_alike(code: Code, batch: Batch, given: Iterable[str]) -> bool:
    """Whether the code cuts the batch as `Batch.chunks` does, given the counts of these units."""
    counts = {NAMES[unit]: [*batch.counts[unit]] for unit in given if unit in batch.counts}
    inputs = {**batch.inputs, **counts}
    for chunk_size in {1, 2, len(batch)}:
        try:
            chunks = list(code.function(inputs, chunk_size))
        except (ValueError, KeyError):
            return False
        planned = list(batch.chunks(chunk_size))
        if len(chunks) != len(planned) or not all(map(_alike, chunks, planned)):
            return False
    return True


def _alike(chunk: Mapping[str, Any], planned: Mapping[str, Any]) -> bool:
    if chunk.keys() != planned.keys():
        return False
    return all(_same(chunk[key], value) for key, value in planned.items())


def _same(value: Any, planned: Any) -> bool:
    """Whether two values are one, or views of the same memory, or equal."""
    from vlmdebug.core.tensors import to_numpy

    if value is planned or not hasattr(planned, "shape"):
        return value is planned or value == planned
    if tuple(value.shape) != tuple(planned.shape):
        return False
    places = [getattr(one, "data_ptr", int)() for one in (value, planned)]
    if places[0] and places[0] == places[1] and value.stride() == planned.stride():
        return True
    mine, theirs = to_numpy(value), to_numpy(planned)
    return bool(((mine == theirs) | ((mine != mine) & (theirs != theirs))).all())
