"""`export`: the corrected slicing code for a batch's layout, as source to paste in a trainer.

The source covers every key of its batch and of its family's models, and raises on any other.
Offsets are computed once a batch, on the host, so no chunk waits for a device. It depends on
nothing, not on vlmdebug either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import public
from vlmdebug.core.keys import LENGTHS, TOKEN_KEYS
from vlmdebug.core.layout import Axis, Layout, plural
from vlmdebug.core.literals import literal
from vlmdebug.core.tensors import in_host_memory
from vlmdebug.errors import BadInput, MismatchError
from vlmdebug.families.apart import SEPARATES
from vlmdebug.running.slicer_source import (
    NAMES,
    OFFSETS,
    Packs,
    counted_units,
    groups_of,
    source_of,
)
from vlmdebug.safe import one_line


@dataclass(frozen=True)
class Code:
    """Standalone Python that defines `slice_inputs(inputs, chunk_size)`.

    Attributes:
        family: The layout family it is for.
        source: The source.
        packed: Whether it also defines `pack_inputs(inputs, chunk_size)`, which joins samples.
    """

    family: str
    source: str
    packed: bool = False

    @cached_property
    def function(self) -> Callable[[Mapping[str, Any], int], Iterable[dict[str, Any]]]:
        """`slice_inputs` itself, or `pack_inputs`, compiled from the source."""
        namespace: dict[str, Any] = {}
        exec(compile(self.source, "slice_inputs.py", "exec"), namespace)
        return namespace["pack_inputs" if self.packed else "slice_inputs"]

    @property
    def slices(self) -> Code:
        """The same without its packer."""
        return replace(self, packed=False)

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
            How many cases it survived: evidence, not a proof. It is a `Tried`; its `left_out` says
            what was not tried. 0 where the layout is no family's, so that no batches can be
            drawn: the code was run on its own batch alone.

        Raises:
            MismatchError: The smallest batch that it cuts wrongly.
            AmbiguousError: It cut none wrongly, but on some it could not be judged.
        """
        from vlmdebug.families import find_family
        from vlmdebug.running.check import check
        from vlmdebug.running.counterexample import Tried
        from vlmdebug.running.falsify import survived
        from vlmdebug.running.synthetic import with_every_key

        family = find_family(self.family)
        if family is None:
            return Tried(0, ("other batches than its own",))
        cases = survived(self.function, family.name, max_examples=max_examples, seed=seed)
        batch = with_every_key(family)
        with in_host_memory():
            same = _cuts_alike(self.slices, batch, NAMES)
        if not same:
            report = check(self.slices.function, batch, pictures=False)
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
def export(
    batch: Batch | Layout | Mapping[str, Any] | str, *, packed: bool = False, **reading: Any
) -> Code:
    """Corrected slicing code for the layout of `batch`.

    The code is run on `batch` before it is returned: it cuts it as `Batch.chunks` does. Where
    placeholder tokens say how many images each sample has, it counts them by itself; else the first
    line of its docstring names what it reads, `inputs["num_images"]`.

    Args:
        batch: A `Batch`, what a processor returned, a `Layout`, or the name of a family.
        packed: Whether the code joins `chunk_size` samples in each row, without padding, with
            `position_ids` that start again and the arguments of flash-attention. Only for models
            that were seen to keep such samples apart.
        **reading: Arguments of `read_batch`, where the batch is not read yet.

    Raises:
        BadInput: A key cannot be cut by code: how its offsets follow from the batch is unknown, or
            its name is no text. The message names it.
        AmbiguousError: The batch fits more than one layout.
    """
    from vlmdebug.families import family_named
    from vlmdebug.families.counting import countings
    from vlmdebug.families.read import read_batch

    if isinstance(batch, str | Layout):
        own = batch if isinstance(batch, Layout) else family_named(batch).layout()
        layout, packs = _complete(own), _packs(own, {}) if packed else None
        return Code(layout.family, source_of(layout, packs=packs), packed)
    read = batch if isinstance(batch, Batch) else read_batch(batch, **reading)
    read.refuse_packed()
    read.refuse_ambiguity()
    known, found = _complete(read.layout), countings(read)
    packs = _packs(read.layout, read.token_ids) if packed else None
    units = counted_units(groups_of(known))
    present = {unit for group in groups_of(read.layout) for unit in (group.unit, *group.units)}
    code = Code(known.family, source_of(known, found, present, packs), packed)
    if not _cuts_alike(code.slices, read, [unit for unit in units if unit not in found]):
        # the text counts otherwise where it is cut
        code = Code(known.family, source_of(known, present=present, packs=packs), packed)
        if not _cuts_alike(code.slices, read, units):
            raise BadInput(
                f"The code written for layout {read.layout.family} does not cut this batch as "
                "Batch.chunks does, so it was not handed out. Cut it with batch.chunks."
            )
    return code


def _packs(layout: Layout, tokens: Mapping[str, int]) -> Packs:
    """How the code joins samples.

    Raises:
        BadInput: Nothing is known to keep them apart, or positions do not follow from the batch.
    """
    rules = layout.rules
    known = rules.separates_packed
    if not (layout.family in SEPARATES if known is None else known):
        raise BadInput(
            f"Nothing is known to keep samples of a packed row apart in layout {layout.family}, so "
            "no packer was written. Pass model= or config= of a model that separates them by "
            "position_ids, or export slices."
        )
    if rules.checks_each_sample != "never" and (rules.mrope is None or rules.mrope.newline):
        raise BadInput(
            f"M-RoPE's positions of this model of layout {layout.family} are not written as code, "
            "so no packer was written. Export slices, and join them with get_rope_index of the "
            "model."
        )
    return Packs(None if rules.checks_each_sample == "never" else rules.mrope, tokens)


# --- which keys ----------------------------------------------------------------------------


def _complete(layout: Layout) -> Layout:
    """The layout with all keys that models of its family take, and those of its batch.

    Raises:
        BadInput: How the rows of a key follow from the batch is unknown.
    """
    from vlmdebug.families import find_family
    from vlmdebug.families.video_audio import clip_axes, clip_of

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
    """Refuse a key if exported code could not find its rows."""
    literal(key)
    unit = layout.media.get(key)
    cut = axis.unit in ("sample", "batch")
    if unit is not None:
        counted = unit in NAMES or (unit == axis.unit and unit in LENGTHS)
        cut = axis.unit in ("sample", *OFFSETS) and counted and not axis.dim
    lengths = LENGTHS.get(axis.unit)
    if cut and (lengths is None or any(name in layout for name in lengths)):
        return
    why = f"layout {one_line(layout.family)} has no such key"
    if unit is not None and (unit not in NAMES or axis.unit not in ("sample", *OFFSETS)):
        why = f"exported code cannot count the {one_line(plural(axis.unit))} of each sample"
    raise BadInput(
        f"{one_line(key)} has {one_line(axis)}, but {why}, so no code was written that would drop "
        "it in silence. Leave it out of the batch, and cut it next to the exported code, or cut "
        "the batch with batch.chunks."
    )


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
        expected = list(batch.chunks(chunk_size))
        if len(chunks) != len(expected) or not all(map(_alike, chunks, expected)):
            return False
    return True


def _alike(chunk: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    if chunk.keys() != expected.keys():
        return False
    return all(_same(chunk[key], value) for key, value in expected.items())


def _same(value: Any, expected: Any) -> bool:
    """Whether two values are one, or views of the same memory, or equal."""
    from vlmdebug.core.tensors import to_numpy

    if value is expected or not hasattr(expected, "shape"):
        return value is expected or value == expected
    if tuple(value.shape) != tuple(expected.shape):
        return False
    places = [getattr(one, "data_ptr", int)() for one in (value, expected)]
    if places[0] and places[0] == places[1] and value.stride() == expected.stride():
        return True
    mine, theirs = to_numpy(value), to_numpy(expected)
    return bool(((mine == theirs) | ((mine != mine) & (theirs != theirs))).all())
