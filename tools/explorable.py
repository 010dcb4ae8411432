"""Write the explorer of the docs, which needs no kernel: `python tools/explorable.py [path]`.

All of it comes from the package: a tiny batch, slicers and packers, right and wrong, and what
`vd.explore` shows of each of them with each chunk size. `docs/conf.py` puts the same into the docs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

import vlmdebug as vd
from vlmdebug.exploring import PACKED, LiveSession
from vlmdebug.views.explorer import Explorer
from vlmdebug.views.without_kernel import page

TITLE = "Explore how a batch splits"
SIZES = [(112, 112), (56, 112), (84, 140), (112, 56)]
INTO = Path("explorable.html")
Inputs = dict[str, Any]
Packer = Callable[[Inputs, int], Iterable[Inputs]]
SHOWN = ("by_sample", "before_5452", "merged_5452", "corrected", PACKED)
"""Slicers and a packer that every explorer has."""


def running_on(packer: Packer) -> Packer:
    """Its rows, with the position of each token in its row, not in its sample."""

    def positions_run_on(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        for row in packer(inputs, chunk_size):
            planes = row["position_ids"].clone()  # (4, row, seq)
            planes[0] = torch.arange(planes.shape[-1])
            yield without_ends(row) | {"position_ids": planes}

    return positions_run_on


def shortest_first(packer: Packer) -> Packer:
    """Its rows, with the shortest sample first, but images in the order of the batch."""

    def images_not_sorted(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        every = list(packer(inputs, 1))
        for start in range(0, len(every), chunk_size):
            own = every[start : start + chunk_size]
            yield joined(sorted(own, key=lambda row: row["input_ids"].shape[1]), own)

    return images_not_sorted


def without_ends(row: Inputs) -> Inputs:
    """A row without what flash-attention alone reads."""
    return {key: row[key] for key in row if not key.startswith(("cu_", "max_"))}


def joined(rows: list[Inputs], images: list[Inputs]) -> Inputs:
    """One row of these, and the images of those."""
    found: Inputs = {}
    for key in dict.fromkeys(key for row in rows for key in without_ends(row)):
        one = next(row[key] for row in rows if key in row)
        if not hasattr(one, "shape"):
            found[key] = one  # an option: use_cache
        elif one.shape[-1:] == rows[0]["input_ids"].shape[-1:]:
            found[key] = torch.cat([row[key] for row in rows], -1)
        else:
            found[key] = torch.cat([row[key] for row in images if key in row])
    return found


def explorer() -> Explorer:
    """The explorer of the page: four samples, one of them without an image."""
    processor = vd.tiny.build("qwen2_5_vl")[1]
    inputs = vd.tiny.batch("qwen2_5_vl", [2, 0, 1, 1], sizes=SIZES, processor=processor)
    session = LiveSession(inputs, None, {"processor": processor})
    session.slicers = {name: session.slicers[name] for name in SHOWN}
    packer = vd.export(session.batch, packed=True).function
    for wrong, said in (
        (running_on, "Packed rows, but positions run on over the seams."),
        (shortest_first, "Packed rows, shortest sample first, but images in the batch's order."),
    ):
        made = wrong(packer)
        session.add(f"{PACKED}, {made.__name__}", lambda made=made: made, said)
    return Explorer(session)


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else INTO
    path.write_text(page(explorer(), TITLE), encoding="utf-8")
    print(f"{path}: {path.stat().st_size // 1024} KB")
