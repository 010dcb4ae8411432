"""What an adapter is: which library it adapts, in which releases it was tried, and its slicers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from vlmdebug.core.keys import BOOKKEEPING
from vlmdebug.core.signature import Slicer
from vlmdebug.slicers import corrected
from vlmdebug.trainers.source import Library

Inputs = dict[str, Any]

TEXT = ("input_ids", "attention_mask")
"""The tensors that every trainer cuts per sample."""


@dataclass(frozen=True)
class Maker:
    """One way of a trainer to cut, join or pass on a batch.

    Attributes:
        functions: The functions of the library that run, for tables and messages.
        make: Makes the slicer from the installed files.
    """

    functions: str
    make: Callable[[Library], Slicer]


@dataclass
class Adapter:
    """The adapter of one library.

    Attributes:
        package: The name that is imported, and the folder of the files.
        distribution: The name that is installed.
        releases: Those in which each slicer ran on the real files of the release.
        needs: Other packages than torch and numpy that a test runs.
        slicers: By name; the first is the default.
    """

    package: str
    distribution: str
    releases: tuple[str, ...]
    needs: tuple[str, ...] = ()
    slicers: dict[str, Maker] = field(default_factory=dict[str, Maker])

    def slicer(self, name: str, functions: str) -> Callable[[Callable[[Library], Slicer]], Any]:
        """Register the decorated maker of a slicer under a name."""

        def register(make: Callable[[Library], Slicer]) -> Callable[[Library], Slicer]:
            self.slicers[name] = Maker(functions, make)
            return make

        return register


def first_logits(logits: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """A replacement for log-probabilities, which are computed after the model."""
    return logits[..., 0]


def per_sample(inputs: Mapping[str, Any], *left_out: str) -> list[Inputs]:
    """The rows of each sample, as trainers keep them that process samples one by one."""
    pieces = corrected(dict(inputs), 1)
    return [{key: value for key, value in one.items() if key not in left_out} for one in pieces]


def without_counts(inputs: Mapping[str, Any]) -> Inputs:
    """The tensors of a batch, without the numbers of images per sample."""
    return {key: value for key, value in inputs.items() if key not in BOOKKEEPING}
