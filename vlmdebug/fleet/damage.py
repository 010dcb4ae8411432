"""Lines of a trace that are cut off or damaged, and the steps that they can belong to.

A process that is killed while it writes leaves a line that is cut off. What the rank did in that
step was not written, so it is not known what it did not do.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

LAST = (1 << 63) - 1
"""The last step where no line follows a damaged one: later steps were not written either."""

_END = 1 << 16
"""Bytes at the end of a trace in which its last lines are."""


class Lost(NamedTuple):
    """Steps of a rank, from `first` to `last`, in which its trace lacks lines."""

    rank: int
    first: int
    last: int

    def __str__(self) -> str:
        if self.last == LAST:
            return f"rank {self.rank} from step {self.first} on"
        until = "" if self.first == self.last else f" to {self.last}"
        return f"rank {self.rank} in step {self.first}{until}"


def lines_in(file: Path) -> int:
    """Lines of a trace, with one that is cut off."""
    lines, last = 0, b"\n"
    for read in _pieces(file):
        lines, last = (lines + read.count(b"\n"), read[-1:]) if read else (lines, b"")
    return lines + (last != b"\n")


def _pieces(file: Path) -> Iterator[bytes | None]:
    """The bytes of a trace; None behind those of a gzip stream that cannot be read to its end."""
    with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as opened:
        try:
            while read := opened.read1(1 << 20):
                yield read
        except (EOFError, gzip.BadGzipFile, zlib.error):
            yield None


@contextmanager
def readable(files: Sequence[Path]) -> Iterator[list[Path]]:
    """The traces, with a copy of what can be read in place of each gzip stream."""
    with TemporaryDirectory() as folder:
        found = list[Path]()
        for number, file in enumerate(files):
            if file.suffix == ".gz":
                copy = Path(folder) / str(number) / file.name
                copy.parent.mkdir()
                with gzip.open(copy, "wb", compresslevel=1) as written:
                    written.writelines(filter(None, _pieces(file)))
                file = copy
            found.append(file)
        yield found


def lost_in(file: Path, ranks: Sequence[int], lines: int) -> list[Lost]:
    """The steps that damaged lines of a trace can belong to, for each of its ranks.

    Args:
        file: A trace.
        ranks: Those that its lines name.
        lines: How many of its lines are damaged.
    """
    if lines == len(ranks) == 1 and (step := _before_cut(file)) is not None:
        return [Lost(ranks[0], step, LAST)]
    steps = list(_steps(file))
    if steps.count(None) != lines or len(ranks) > 1:  # it is not known which line is of which rank
        return [Lost(rank, 0, LAST) for rank in ranks]
    found = list[Lost]()
    before = 0
    for damaged, some in groupby(steps, lambda step: step is None):
        numbers = [step for step in some if step is not None]
        if found and not damaged and found[-1].last == LAST:  # what follows the damaged lines
            found[-1] = Lost(ranks[0], *sorted((before, numbers[0])))
        if damaged:
            found.append(Lost(ranks[0], before, LAST))
        before = numbers[-1] if numbers else before
    return found


def _before_cut(file: Path) -> int | None:
    """The step of the last whole line if the line after it is cut off; None where it is not so.

    It takes no time, so that the traces of a thousand ranks that were killed do not, either.
    """
    if file.suffix == ".gz":
        return None
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - _END))
        *_, whole, cut = [b"", b"", *opened.read().splitlines()]
    return None if _step(cut) is not None else _step(whole)


def _steps(file: Path) -> Iterator[int | None]:
    """The step of each line; None where it is damaged."""
    left, cut = b"", False
    for read in _pieces(file):
        cut = read is None
        *whole, left = (left + (read or b"")).split(b"\n")
        yield from map(_step, whole)
    if left or cut:
        yield _step(left)


def _step(line: bytes) -> int | None:
    try:
        read = json.loads(line)
        step = int(read["step"])
        return step if isinstance(read.get("rank"), int) and 0 <= step <= LAST else None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
