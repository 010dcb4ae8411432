"""`export`: the corrected slicing code for a batch's layout, as source to paste in a trainer.

The source has only the branches that the layout needs. Offsets are computed once a batch, on
the host, so no chunk waits for a device. It depends on nothing, not on vlmdebug either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlmdebug.batch import Batch
from vlmdebug.errors import BadInput, MismatchError
from vlmdebug.layout import Layout

TOKEN_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "labels")

OFFSETS = {
    "image": ("images", '[0, *accumulate(inputs["num_images"])]'),
    "tile": ("tiles", '[0, *accumulate(inputs["num_tiles"])]'),
    "patch": ("patches", "[rows[image] for image in images]"),
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
        layout = family_named(batch).layout()
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
        layout = family.layout()
    return Code(layout.family, _source(layout))


def _source(layout: Layout) -> str:
    return "\n".join(
        [
            *_head(layout),
            *_function(layout),
            "",
        ]
    )


def _head(layout: Layout) -> list[str]:
    about = [f"    {key}: {axis}" for key, axis in layout.items() if key in layout.media]
    return [
        f'"""Cut a {layout.family} batch into chunks of whole samples.',
        "",
        "What a row counts:",
        "",
        *about,
        "",
        f"Written by vlmdebug for the layout {layout.family}; it needs nothing but the batch.",
        '"""',
        "",
        "from itertools import accumulate",
        "",
        f"TOKEN_KEYS = {_tuple(TOKEN_KEYS)}",
        "",
        "",
    ]


def _function(layout: Layout) -> list[str]:
    units = [layout[key].unit for key in layout.media]
    extra = ' and `inputs["num_tiles"]`' if "tile" in units else ""
    return [
        "def slice_inputs(inputs, chunk_size):",
        '    """Yield the model inputs of each chunk of `chunk_size` samples, in order.',
        "",
        f'    `inputs["num_images"]`{extra} holds one number per sample, 0 for a text-only one.',
        "    A chunk without images is given no media keys.",
        '    """',
        '    samples = len(inputs["input_ids"])',
        "    tokens = {key: inputs[key] for key in TOKEN_KEYS if inputs.get(key) is not None}",
        '    pixel_values = inputs.get("pixel_values")',
        "    if pixel_values is not None:",
        *(f"        {line}" for line in _offsets(layout)),
        "    for start in range(0, samples, chunk_size):",
        "        stop = min(start + chunk_size, samples)",
        "        chunk = {key: value[start:stop] for key, value in tokens.items()}",
        "        if pixel_values is not None and images[start] < images[stop]:",
        *(f"            {line}" for line in _cuts(layout)),
        "        yield chunk",
    ]


def _offsets(layout: Layout) -> list[str]:
    """Lines that compute each unit's offsets once."""
    lines = [f'{key} = inputs["{key}"]' for key in layout.media if key != "pixel_values"]
    lines.append(f"images = {OFFSETS['image'][1]}")
    units = dict.fromkeys(layout[key].unit for key in layout.media)
    if "tile" in units:
        lines.append(f"tiles = {OFFSETS['tile'][1]}")
    if "patch" in units:
        lines.append("rows = [0, *accumulate(image_grid_thw.prod(-1).tolist())]  # per image")
        lines.append(f"patches = {OFFSETS['patch'][1]}")
    return lines


def _cuts(layout: Layout) -> list[str]:
    lines = []
    for key in layout.media:
        unit = layout[key].unit
        name = OFFSETS[unit][0] if unit in OFFSETS else None
        rows = f"{name}[start] : {name}[stop]" if name else "start:stop"
        lines.append(f'chunk["{key}"] = {key}[{rows}]')
    return lines


def _tuple(names: tuple[str, ...]) -> str:
    return "(" + ", ".join(f'"{name}"' for name in names) + ")"
