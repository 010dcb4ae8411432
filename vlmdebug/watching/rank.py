"""Which rank a process is, and its own file where all ranks are given one path."""

from __future__ import annotations

import os
from pathlib import Path


def rank() -> int | None:
    """The number in the variable `RANK`, which launchers set; None without a number."""
    given = os.environ.get("RANK", "")
    return int(given) if given.isdecimal() else None


def file_of_rank(path: Path, *, main: bool, forked: bool = False) -> Path:
    """The file of this process: `.rank0` before its ending, or `.pid1234` without a rank.

    Args:
        path: The file that all processes are given.
        main: The process was started by the user: it has the path as it is, if it has no rank.
        forked: It was forked from a process that may have written its own file: it has both.
    """
    number = rank()
    parts = [] if number is None else [f"rank{number}"]
    if forked or (number is None and not main):
        parts.append(f"pid{os.getpid()}")
    return path.with_name(".".join([path.stem, *parts]) + path.suffix)
