"""Branches of a slicer that no batch of any family ever reaches.

A branch for a key that no processor returns is how the story of 5452 began. Every case that the
falsifier draws is run with an eye on the slicer's lines; what none of them reaches is dead code,
or code for a layout that vlmdebug does not know.
"""

from __future__ import annotations

import inspect
import linecache
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from vlmdebug.core.given import public
from vlmdebug.core.signature import Slicer
from vlmdebug.errors import AmbiguousError, BadInput
from vlmdebug.running.falsify import falsify
from vlmdebug.slicers import corrected


@dataclass(frozen=True)
class Line:
    """A line of the slicer that was never reached."""

    file: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"{'/'.join(Path(self.file).parts[-2:])}:{self.number}: {self.text}"


@public
def unreached(
    slicer: Slicer,
    *,
    families: Sequence[str] | None = None,
    max_examples: int = 60,
    seed: int = 0,
) -> tuple[Line, ...]:
    """Lines of `slicer` that no generated batch reaches.

    Args:
        slicer: As for `check`; a Python function, or what `record` made of one.
        families: Families to try; all by default. Lines for other families are unreached then.
        max_examples: Cases per family.
        seed: The same seed tries the same cases.

    Raises:
        BadInput: The slicer has no Python source lines to watch.
    """
    function = inspect.unwrap(slicer)
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        raise BadInput(
            f"The slicer is a {type(slicer).__name__} without Python code of its own, so its lines "
            "cannot be watched. Pass the function itself."
        )
    from vlmdebug.running.check import MOST_CHUNKS

    codes = set(_nested(code))
    reached: set[int] = set()

    def watched(inputs: Any, chunk_size: int) -> Iterator[Any]:
        """Run the slicer for its lines and pass correct chunks, so that every case is tried."""
        with _lines_of(codes, reached), suppress(Exception):  # mistakes are `falsify`'s business
            most = MOST_CHUNKS * len(inputs["input_ids"]) * (getattr(slicer, "expand_size", 1) or 1)
            deque(islice(slicer(inputs.copy(), chunk_size), most), maxlen=0)
        yield from corrected(inputs, chunk_size)

    with suppress(AmbiguousError):  # what a slicer writes into the batch is not judged here
        falsify(watched, families=families, max_examples=max_examples, seed=seed)
    lines = {line for part in codes for _, _, line in part.co_lines() if line}
    heads = {part.co_firstlineno for part in codes if not part.co_name.startswith("<")}
    dead = sorted(lines - reached - heads)
    return tuple(
        Line(code.co_filename, line, text)
        for line in dead
        if (text := linecache.getline(code.co_filename, line).strip())
    )


class _lines_of:
    """Notes the lines of some code objects that run inside the block."""

    def __init__(self, codes: set[CodeType], reached: set[int]) -> None:
        self._codes, self._reached = codes, reached

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._call)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        return self._line if frame.f_code in self._codes else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line":
            self._reached.add(frame.f_lineno)
        return self._line


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)
