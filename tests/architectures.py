"""Which architectures a run judges, their models, and torchvision for those that need it.

Some image processors of transformers exist for torchvision alone, and timm's vision towers import
it. Its wheel is built for CUDA: beside a CPU build of torch its compiled operators do not load,
and the import fails where Python code is registered for them. Image processors use none of these
operators. So `make` lays the real torchvision, and timm, in a folder of its own, and a run that
is pointed at it declares the names of the operators and goes on with torchvision's own code.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(sys.prefix) / "torchvision"
VARIABLE = "VLMDEBUG_TORCHVISION"
FEW = "VLMDEBUG_FEW"
"""Set by `make fast`: one architecture of each layout instead of all."""

REFUSES_TEXT = {"paligemma", "idefics"}
"""Architectures with a processor that refuses, or joins, texts without a single image."""

UNMARKED = {"idefics"}
"""Architectures with a config that names no image token, and a processor that places images itself:
behind the text, and none for a text-only sample alone."""


def use_torchvision() -> None:
    """Make the torchvision of `make` importable, if the environment asks for it."""
    if VARIABLE not in os.environ:
        return
    import torch

    sys.path.insert(0, str(FOLDER))
    if torch.version.cuda is not None:
        return  # its operators load beside a CUDA build, and must not be declared twice
    source = (FOLDER / "torchvision" / "_meta_registrations.py").read_text(encoding="utf-8")
    names = re.findall(r"torchvision::(\w+)|register_meta\(\"(\w+)\"", source)
    _KEPT.append(torch.library.Library("torchvision", "DEF"))
    for name in sorted({first or second for first, second in names}):
        _KEPT[0].define(f"{name}(Tensor x) -> Tensor")


_KEPT: list = []  # a library forgets its operators when it is collected


def architectures(names: Iterable[str] | None = None) -> tuple[str, ...]:
    """Those that can be built here; those that need torchvision, in the run made for them."""
    from vlmdebug import tiny
    from vlmdebug.tiny.registry import NEEDS, ONE_IMAGE

    asked = VARIABLE in os.environ
    default = [name for name in tiny.families() if name not in ONE_IMAGE]
    found = tuple(
        name for name in (default if names is None else names) if (name in NEEDS) == asked
    )
    return one_of_each_layout(found) if FEW in os.environ and names is None else found


def one_of_each_layout(names: Iterable[str]) -> tuple[str, ...]:
    """The first architecture of each layout."""
    from vlmdebug.families import find_family

    first: dict[str, str] = {}
    for name in names:
        family = find_family(name)
        first.setdefault(family.name if family else name, name)
    return tuple(first.values())


@cache
def built(name: str) -> tuple[Any, Any]:
    """A tiny model and its processor, once per process; nobody changes them."""
    from vlmdebug import tiny

    return tiny.build(name)


class Built:
    """`built` as a mapping that remembers what was asked for."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    def __getitem__(self, name: str) -> tuple[Any, Any]:
        self._asked.add(name)
        return built(name)

    def changed(self) -> list[str]:
        """Architectures of which the shared model is no longer as it was built."""
        from vlmdebug import tiny

        return [
            name for name in sorted(self._asked) if not alike(built(name)[0], tiny.build(name)[0])
        ]


def alike(model: Any, other: Any) -> bool:
    """Whether two models have equal weights and configuration, and the first no trace of use."""
    import torch

    weights, others = model.state_dict(), other.state_dict()
    return (
        weights.keys() == others.keys()
        and all(torch.equal(weights[key], others[key]) for key in weights)
        and model.config.to_dict() == other.config.to_dict()
        and not any(module.training or hooked(module) for module in model.modules())
    )


def hooked(module: Any) -> bool:
    """Whether somebody but transformers, which collects hidden states so, left a hook."""
    hooks = [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]
    return "forward" in vars(module) or not all(
        getattr(hook, "__module__", "").startswith("transformers.") for hook in hooks
    )
