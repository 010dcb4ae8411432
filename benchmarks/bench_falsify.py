"""How fast `falsify` finds an error, and how many batches of a correct slicer it tries a second.

Budget: each wrong slicer of the story fails within 1 s.
"""

from __future__ import annotations

from time import perf_counter

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.slicers import STORY


def main() -> None:
    """Print the tables."""
    vd.falsify(slicers.by_sample, families=["llava"])  # imports and first use
    print("falsify: seconds until the smallest failing batch (budget 1)")
    for slicer in STORY:
        if slicer is slicers.corrected:
            continue
        begin = perf_counter()
        found = vd.falsify(slicer)
        print(f"  {slicer.__name__:16} {perf_counter() - begin:5.2f}   {found}")
    tried: dict[str, int] = {}
    begin = perf_counter()
    assert vd.falsify(slicers.corrected, max_examples=1000, tried=tried) is None
    cases, seconds = sum(tried.values()), perf_counter() - begin
    print(f"  {slicers.corrected.__name__:16} {seconds:5.2f}   survives {cases}")
    print(f"  cases a second   {cases / seconds:5.0f}")


if __name__ == "__main__":
    main()
