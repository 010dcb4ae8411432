"""`trainer_slicer`: the code of an installed trainer, by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from importlib import metadata
from pathlib import Path
from typing import Any

from vlmdebug.core.given import described, public
from vlmdebug.core.literals import literal
from vlmdebug.core.signature import Slicer
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput, NotJudged, VlmDebugError
from vlmdebug.families import FAMILIES
from vlmdebug.running.check import check
from vlmdebug.running.synthetic import make_batch
from vlmdebug.safe import one_line
from vlmdebug.trainers.adapter import Adapter
from vlmdebug.trainers.blame import blaming
from vlmdebug.trainers.source import Library

TRAINERS = {
    "accelerate": "accelerate",
    "automodel": "automodel",
    "axolotl": "axolotl",
    "llamafactory": "llamafactory",
    "ms-swift": "swift",
    "openrlhf": "openrlhf",
    "trl": "trl",
    "unsloth": "unsloth",
    "verl": "verl",
}
"""Names of trainers, and the module of each adapter."""


def adapter_of(trainer: str) -> Adapter:
    """The adapter of a trainer, which need not be installed.

    Raises:
        BadInput: There is no adapter of this name.
    """
    if not isinstance(trainer, str):
        raise BadInput(f"trainer is {described(trainer)}, but it is one of {', '.join(TRAINERS)}.")
    if trainer not in TRAINERS:
        near = get_close_matches(trainer.lower().replace("_", "-"), TRAINERS, 1)
        meant = f" Did you mean {near[0]!r}?" if near else f" Known are {', '.join(TRAINERS)}."
        raise BadInput(
            f"There is no adapter for {one_line(repr(trainer), 80)}.{meant} Nothing was run. "
            "For other code, write a slicer: function(inputs, chunk_size), or vd.record(function)."
        )
    return importlib.import_module(f"vlmdebug.trainers.{TRAINERS[trainer]}").ADAPTER


@public
def trainer_slicer(
    trainer: str, name: str | None = None, *, any_release: bool = False
) -> Callable[[dict[str, Any], int], Iterator[dict[str, Any]]]:
    """The unmodified slicing code of an installed trainer.

    The functions are taken from the installed files; the trainer is not imported (TRL is), so that
    neither a GPU nor its inference engine is needed. Names that an adapter replaces, such as
    rewards, are computed after the model. What the code reads and the test lacks ends the test;
    the trainer is never blamed for it.

    Args:
        trainer: `"accelerate"`, `"automodel"`, `"axolotl"`, `"llamafactory"`, `"ms-swift"`,
            `"openrlhf"`, `"trl"`, `"unsloth"` or `"verl"`.
        name: Which of its ways to cut or pass on a batch, such as `"dynamic"` for verl; by default
            the first in the table of docs/trainers.md.
        any_release: Also run in a release in which the adapter was not tried. If the code then
            raises on a batch of one sample, it is taken that the adapter does not fit.

    Raises:
        BadInput: There is no such trainer or slicer, or the adapter was not tried in this release.
        VlmDebugError: The trainer is not installed.
        NotJudged: The release lacks a function, or the code imports a package that is missing.
    """
    adapter = adapter_of(trainer)
    name = next(iter(adapter.slicers)) if name is None else name
    if not isinstance(name, str) or name not in adapter.slicers:
        raise BadInput(
            f"name is {described(name)}, but the slicers of {trainer} are "
            f"{', '.join(adapter.slicers)}. Nothing was run."
        )
    release = _installed(trainer, adapter)
    tried = release in adapter.releases
    if not tried and not any_release:
        raise BadInput(_not_tried(trainer, adapter, release))
    library = Library(adapter.package, f"{adapter.distribution} {release}", _folder(adapter))
    make = adapter.slicers[name].make
    slicer: Any = make(library)
    if not tried:
        _refuse_misfit(slicer, library.release)
    slicer = blaming(slicer, f"{library.release} {name}", make)
    slicer.__name__ = f"{library.release} {name}"
    further = ", any_release=True" if not tried else ""
    slicer._vlmdebug_call = f"vd.trainer_slicer({literal(trainer)}, {literal(name)}{further})"
    return slicer


def _installed(trainer: str, adapter: Adapter) -> str:
    """The release that is installed."""
    try:
        return metadata.version(adapter.distribution)
    except metadata.PackageNotFoundError:
        raise VlmDebugError(
            f"{adapter.distribution} is not installed, so the code of {trainer} cannot be run. "
            "Run this in the environment in which you train, or "
            f"pip install {adapter.distribution}=={adapter.releases[-1]}"
        ) from None


def _not_tried(trainer: str, adapter: Adapter, release: str) -> str:
    return (
        f"{adapter.distribution} {one_line(release, 40)} is installed, but the adapter of "
        f"vlmdebug for {trainer} was tried in {', '.join(adapter.releases)}. Nothing was run. "
        "Pass any_release=True to run it all the same, or "
        f"pip install {adapter.distribution}=={adapter.releases[-1]}"
    )


def _folder(adapter: Adapter) -> Path:
    """Where the files of the package are; finding them imports nothing."""
    try:
        spec = importlib.util.find_spec(adapter.package)
    except ValueError:  # something without a spec was put into sys.modules
        spec = None
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise VlmDebugError(
            f"{adapter.distribution} is installed, but Python finds no package "
            f"{adapter.package}. Nothing was run. Install it again."
        )
    return Path(places[0])


def _refuse_misfit(slicer: Slicer, release: str) -> None:
    """Refuse to judge an untried release if its code raises on one sample alone."""
    for images in (0, 1):
        error = check(slicer, make_batch(next(iter(FAMILIES)), [images])).error
        if error is not None:
            raise NotJudged(
                f"{release} raised {type(error).__name__}: {one_line(error, 200)}, on a batch of "
                f"one sample with {number(images, 'image')}. The adapter was not tried in this "
                "release and probably does not fit it. Nothing was judged. Watch a training run "
                "instead: vlmdebug.watch(model)."
            ) from error
