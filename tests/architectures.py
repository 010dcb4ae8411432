"""Which architectures a run judges, and torchvision for those that need it.

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
from pathlib import Path

FOLDER = Path(sys.prefix) / "torchvision"
VARIABLE = "VLMDEBUG_TORCHVISION"


REFUSES_TEXT = {"paligemma"}
"""Architectures whose processor refuses a batch without a single image."""


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
    from vlmdebug.tiny.registry import NEEDS

    asked = VARIABLE in os.environ
    return tuple(
        name for name in (tiny.families() if names is None else names) if (name in NEEDS) == asked
    )
