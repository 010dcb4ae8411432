"""`import vlmdebug` next to a bare interpreter and numpy. Budget: 0.3 s beyond the interpreter."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

PROGRAMS = ("pass", "import numpy", "import vlmdebug", "import vlmdebug; vlmdebug.read_batch")
BUDGET = 0.3  # seconds


def seconds(program: str) -> float:
    """Wall time of one interpreter."""
    begin = perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return perf_counter() - begin


def main() -> None:
    """Print the table; the programs run in turn, so all have the same noise."""
    runs = [[seconds(program) for program in PROGRAMS] for _ in range(10)]
    bare = median(run[0] for run in runs)
    for column, program in enumerate(PROGRAMS):
        took = median(run[column] for run in runs)
        verdict = "OK" if took - bare <= BUDGET else "OVER"
        if "vlmdebug" not in program:
            verdict = ""
        print(
            f"  {took:6.3f} s  {took / bare:5.2f} x  {took - bare:6.3f} s beyond the interpreter"
            f"  {program:38} {verdict}".rstrip()
        )


if __name__ == "__main__":
    main()
