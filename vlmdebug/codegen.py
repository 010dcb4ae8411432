"""`export`: the corrected slicing code for a batch's layout, as source to paste in a trainer.

The source has only the branches that the layout needs. Offsets are computed once a batch, on
the host, so no chunk waits for a device. It depends on nothing, not on vlmdebug either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmdebug.batch import Batch
from vlmdebug.errors import BadInput, MismatchError
from vlmdebug.given import public
from vlmdebug.layout import OWNER, STREAMS, VIDEO_PATCH, Axis, Layout

TOKEN_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")

OFFSETS = {
    "image": ("images", '[0, *accumulate(inputs["num_images"])]'),
    "tile": ("tiles", '[0, *accumulate(inputs["num_tiles"])]'),
    OWNER: ("owners", '[0, *accumulate(min(count, 1) for count in inputs["num_images"])]'),
    "patch": ("patches", "[ends[image] for image in images]"),
}


# Offsets of video and audio clips, and of what a clip has several rows of.
CLIPS = {
    "video": ("videos", '[0, *accumulate(inputs["num_videos"])]'),
    VIDEO_PATCH: ("video_patches", "video_grid_thw.prod(-1)"),
    "frame": ("frames", "num_frames_per_video"),
    "audio": ("audios", '[0, *accumulate(inputs["num_audios"])]'),
}


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

        Returns:
            How many cases it survived: evidence, not a proof.

        Raises:
            MismatchError: The smallest batch that it cuts wrongly.
            AmbiguousError: It cut none wrongly, but on some it could not be judged.
        """
        from vlmdebug.search import falsify

        tried: dict[str, int] = {}
        found = falsify(
            self.function,
            families=[self.family],
            max_examples=max_examples,
            seed=seed,
            tried=tried,
        )
        if found is not None:
            details = "\n".join(finding.message for finding in found.report.findings)
            raise MismatchError(f"{found!r}\n{details}", found.report) from found.error
        return tried[self.family]

    def __str__(self) -> str:
        return self.source


@public
def export(batch: Batch | Layout | Mapping[str, Any] | str, **reading: Any) -> Code:
    """Corrected slicing code for the layout of `batch`.

    Args:
        batch: A `Batch`, what a processor returned, or the name of a family.
        **reading: Arguments of `read_batch`, where the batch is not read yet.

    Raises:
        BadInput: The layout is no family's, so how offsets follow from the tensors is unknown.
        AmbiguousError: The batch fits more than one layout.
    """
    from vlmdebug.families import family_named, find_family
    from vlmdebug.families.read import read_batch

    if isinstance(batch, str):
        layout, own = family_named(batch).layout(), {}
    else:
        read = batch if isinstance(batch, Batch) else read_batch(batch, **reading)
        read.refuse_ambiguity()
        family = find_family(read.layout.family)
        if family is None:
            raise BadInput(
                f"The layout is {read.layout.family!r}, which is no family's, so how offsets "
                "follow from the tensors is unknown and no code was written. "
                "Pass processor= or config= to read_batch."
            )
        layout = _without_absent(family.layout(), read)
        own = {key: read.layout[key] for key in read.layout if key not in layout}
        _refuse_others(own, layout.family)
    return Code(layout.family, _source(layout, own))


def _without_absent(layout: Layout, batch: Batch) -> Layout:
    """The layout without the optional keys that a batch with images lacks."""
    lacks = layout.optional - batch.layout.keys() if batch.layout.media else frozenset()
    if not lacks:
        return layout
    axes = {key: axis for key, axis in layout.items() if key not in lacks}
    media = {key: media for key, media in layout.media.items() if key not in lacks}
    return replace(layout, axes=axes, media=media)


def _refuse_others(own: Mapping[str, Axis], family: str) -> None:
    """Refuse keys of the batch that are neither cut per sample nor passed on whole."""
    for key, axis in own.items():
        if axis.unit not in ("sample", "batch", *CLIPS):
            raise BadInput(
                f"{key} has {axis}, but layout {family} has no such key, so no code was written "
                "that would drop it in silence. Leave it out of the batch, and cut it beside the "
                "exported code."
            )


def _source(layout: Layout, batch_axes: Mapping[str, Axis]) -> str:
    """The whole module.

    Args:
        layout: The family's layout.
        batch_axes: Axes of the batch's own keys, which may be more than the usual ones.
    """
    return "\n".join([*_head(layout, batch_axes), *_function(layout, batch_axes), ""])


def _head(layout: Layout, batch_axes: Mapping[str, Axis]) -> list[str]:
    about = [f"    {key}: {axis}" for key, axis in layout.items()]
    own = (key for key, axis in batch_axes.items() if axis == Axis("sample"))
    keys = dict.fromkeys([*TOKEN_KEYS, *own, *(layout.media if _kept(layout) else ())])
    if not _kept(layout):
        keys = {key: None for key in keys if key not in layout.media}
    return [
        f'"""Cut batches of the layout {layout.family} into chunks of whole samples.',
        "",
        "What a row counts:",
        "",
        *about,
        "",
        "Written by vlmdebug; it needs nothing but the batch.",
        '"""',
        "",
        *(["from itertools import accumulate", ""] if _counts(layout, batch_axes) else []),
        "# One row per sample; those that a batch has.",
        *_assignment("SAMPLE_KEYS", tuple(keys)),
        "",
        "",
    ]


def _counts(layout: Layout, batch_axes: Mapping[str, Axis]) -> bool:
    """Whether offsets are computed at all."""
    return not _kept(layout) or any(axis.unit in CLIPS for axis in batch_axes.values())


def _kept(layout: Layout) -> bool:
    """Whether every media key is one row per sample, with or without images."""
    return all(media.without == "keep" for media in layout.media.values())


def _function(layout: Layout, batch_axes: Mapping[str, Axis]) -> list[str]:
    start = [
        "def slice_inputs(inputs, chunk_size):",
        '    """Yield the model inputs of each chunk of `chunk_size` samples, in order.',
        *_about_counts(layout),
        '    """',
        '    samples = len(inputs["input_ids"])',
        "    rows = {key: inputs[key] for key in SAMPLE_KEYS if inputs.get(key) is not None}",
    ]
    loop = [
        "    for start in range(0, samples, chunk_size):",
        "        stop = min(start + chunk_size, samples)",
        "        chunk = {key: value[start:stop] for key, value in rows.items()}",
        *(line for key, axis in batch_axes.items() for line in _passed_on(key, axis)),
    ]
    clips = [_clips(unit, batch_axes) for unit in STREAMS]
    start += [line for offsets, _ in clips for line in offsets]
    end = [*(line for _, cuts in clips for line in cuts), "        yield chunk"]
    if _kept(layout):
        return [*start, *loop, *end]
    return [
        *start,
        '    pixel_values = inputs.get("pixel_values")',
        "    if pixel_values is not None:",
        *(f"        {line}" for line in _offsets(layout)),
        *loop,
        "        if pixel_values is not None and images[start] < images[stop]:",
        *(f"            {line}" for line in _cuts(layout)),
        *end,
    ]


def _passed_on(key: str, axis: Axis) -> list[str]:
    """Lines for a key that is cut on another dimension than the first, or not at all."""
    if axis.unit == "batch":
        rows = ""
    elif axis.unit == "sample" and axis.dim:
        rows = f"[{':, ' * axis.dim}start:stop]"
    else:
        return []
    return [
        f'        if inputs.get("{key}") is not None:',
        f'            chunk["{key}"] = inputs["{key}"]{rows}',
    ]


def _clips(unit: str, axes: Mapping[str, Axis]) -> tuple[list[str], list[str]]:
    """Lines that compute the offsets of a batch's clips, and lines that cut them."""
    inside = {"video": (VIDEO_PATCH, "frame"), "audio": ()}[unit]
    keys = {key: axis.unit for key, axis in axes.items() if axis.unit in (unit, *inside)}
    if not keys:
        return [], []
    name, counts = CLIPS[unit]
    anchor = next(iter(keys))
    offsets = [f"{key} = inputs.get({key!r})" for key in keys]
    offsets += [f"if {anchor} is not None:", f"    {name} = {counts}"]
    for part in inside:
        if part in keys.values():
            rows, each = CLIPS[part]
            offsets.append(f"    ends = [0, *accumulate({each}.tolist())]  # of each {unit}")
            offsets.append(f"    {rows} = [ends[clip] for clip in {name}]")
    cuts = [f"if {anchor} is not None and {name}[start] < {name}[stop]:"]
    cuts += [
        f'    chunk["{key}"] = {key}[{CLIPS[own][0]}[start] : {CLIPS[own][0]}[stop]]'
        for key, own in keys.items()
    ]
    return [f"    {line}" for line in offsets], [f"        {line}" for line in cuts]


def _about_counts(layout: Layout) -> list[str]:
    if _kept(layout):
        return ["", "    A text-only sample keeps its padded row, which the model attends to."]
    tiles = any(layout[key].unit == "tile" for key in layout.media)
    names = '`inputs["num_images"]`' + (' and `inputs["num_tiles"]`' if tiles else "")
    return [
        "",
        f"    {names} {'hold' if tiles else 'holds'} one number per sample, 0 for a text-only one.",
        "    A chunk without images is given no media keys.",
    ]


def _offsets(layout: Layout) -> list[str]:
    """Lines that compute each unit's offsets once."""
    lines = [f'{key} = inputs.get("{key}")' for key in layout.media if key != "pixel_values"]
    lines.append(f"images = {OFFSETS['image'][1]}")
    units = dict.fromkeys(layout[key].unit for key in layout.media)
    if "tile" in units:
        lines.append(f"tiles = {OFFSETS['tile'][1]}")
    if OWNER in units:
        lines.append(f"owners = {OFFSETS[OWNER][1]}")
    if "patch" in units:
        grid = layout.feature_key
        lines.append(f"ends = [0, *accumulate({grid}.prod(-1).tolist())]  # of each image")
        lines.append(f"patches = {OFFSETS['patch'][1]}")
    return lines


def _cuts(layout: Layout) -> list[str]:
    lines = []
    for key in layout.media:
        unit = layout[key].unit
        name = OFFSETS[unit][0] if unit in OFFSETS else None
        rows = f"{name}[start] : {name}[stop]" if name else "start:stop"
        if key in layout.optional:
            lines += [f"if {key} is not None:", f'    chunk["{key}"] = {key}[{rows}]']
        else:
            lines.append(f'chunk["{key}"] = {key}[{rows}]')
    return lines


def _assignment(name: str, values: tuple[str, ...]) -> list[str]:
    return [f"{name} = (", *(f'    "{value}",' for value in values), ")"]
