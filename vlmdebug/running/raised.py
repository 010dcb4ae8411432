"""Where code under test raised."""

from __future__ import annotations

import traceback
from pathlib import Path

from vlmdebug.core.wording import short_name
from vlmdebug.safe import one_line

OURS = {
    Path(__file__).parents[1] / name for name in ("running", "tracking", "trainers", "watching")
}
"""Folders of the code that runs and follows what is under test."""


def place_of(error: BaseException) -> str | None:
    """`folder/file.py:12`: the last line outside torch and numpy that the exception passed.

    None if there is no such line, as where a function of torch is under test.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not _is_plumbing(Path(frame.filename))]
    if not own:
        return None
    return one_line(f"{short_name(own[-1].filename)}:{own[-1].lineno}", 200)


def _is_plumbing(file: Path) -> bool:
    """Whether a file is torch's or numpy's, or one of those that run the code under test."""
    return file.parent in OURS or not {"torch", "numpy", "functools.py"}.isdisjoint(file.parts)
