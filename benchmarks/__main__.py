"""Run all benchmarks, or the given ones: `python -m benchmarks slicing check`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def main(names: list[str]) -> None:
    """Run `bench_NAME.main()` of every name."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))
    for stem in found:
        if names and stem.removeprefix("bench_") not in names:
            continue
        print(f"== {stem.removeprefix('bench_')}")
        importlib.import_module(f"benchmarks.{stem}").main()
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
