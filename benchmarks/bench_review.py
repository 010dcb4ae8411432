"""How long `review` takes, next to `ast.parse` of the same files. Budget: a trainer in 2 s of CPU.

Files that name nothing of a batch are only searched: they should cost about as much as reading
them.
"""

from __future__ import annotations

import ast
import email
import importlib.util
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import process_time

from vlmdebug import review
from vlmdebug.review.files import files_of

BUDGET = 2.0  # seconds of CPU, for a whole process


def seconds(function: object, *given: object) -> float:
    """CPU time of one call."""
    assert callable(function)
    begin = process_time()
    function(*given)
    return process_time() - begin


def read(folder: Path) -> list[str]:
    """The texts of all files."""
    return [path.read_text(encoding="utf-8") for path, _ in files_of([folder])]


def parse(folder: Path) -> None:
    """Parse all files."""
    for text in read(folder):
        ast.parse(text)


def whole(folder: Path) -> float:
    """CPU time of `vlmdebug review FOLDER`, from start to end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "vlmdebug", "review", str(folder)]
    ended = subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode
    assert ended in (0, 1), ended  # 1: there are findings
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table; the ways of reading take turns, so all have the same noise."""
    spec = importlib.util.find_spec("trl")
    folders = {"email, without media": Path(email.__file__).parent}
    if spec is not None and spec.origin is not None:
        folders = {"trl": Path(spec.origin).parent, **folders}
    for name, folder in folders.items():
        review.paths([folder])  # first use
        runs = [[seconds(one, folder) for one in (read, parse, review.paths)] for _ in range(5)]
        reading, parsing, took = (median(column) for column in zip(*runs, strict=True))
        size = sum(map(len, read(folder))) / 1e6
        print(f"  {name}: {size:.1f} MB")
        print(f"    read    {reading:6.3f} s")
        print(f"    parse   {parsing:6.3f} s")
        beside = f"{took / parsing:5.2f} x parse  {took / reading:5.1f} x read"
        print(f"    review  {took:6.3f} s  {beside}")
        process = whole(folder)
        print(f"    process {process:6.3f} s  {'OK' if process <= BUDGET else 'OVER'} ({BUDGET} s)")


if __name__ == "__main__":
    main()
