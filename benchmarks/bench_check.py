"""The cost of `check` beyond the slicer itself, at 64 samples and 104 images.

Budget: 5 ms. The pixel values are large on purpose: a pass over them would be visible.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.bench_slicing import seconds
from vlmdebug.families import FAMILIES, BatchSpec
from vlmdebug.running.check import check
from vlmdebug.running.synthetic import make
from vlmdebug.slicers import by_sample, corrected

IMAGES = (*((2, 0, 3, 1, 2)[sample % 5] for sample in range(63)), 3)
WIDE = 200_000  # numbers per row of pixel_values, as many as a 256 x 256 RGB image


def main() -> None:
    """Print the table."""
    assert (len(IMAGES), sum(IMAGES)) == (64, 104), (len(IMAGES), sum(IMAGES))
    print("check beyond the slicer itself, 64 samples, 104 images (ms; budget 5)")
    for name in FAMILIES:
        batch = make(BatchSpec(name, IMAGES, tuple(1 + image % 3 for image in range(104))))
        pixels = batch.inputs["pixel_values"]
        if name in ("gemma4", "internvl", "llava_next"):  # one row per image or tile
            wide = torch.rand(len(pixels), *pixels.shape[1:-1], WIDE // pixels[0, ..., 0].numel())
            batch = replace(batch, inputs={**batch.inputs, "pixel_values": wide})
        cells = []
        for slicer in (corrected, by_sample):
            for chunk_size in (1, 8):
                inputs = batch.for_slicer()
                alone = seconds(lambda s=slicer, i=inputs, c=chunk_size: list(s(i, c)), 15)
                whole = seconds(
                    lambda s=slicer, b=batch, c=chunk_size: check(s, b, chunk_size=c), 15
                )
                cells.append(f"{slicer.__name__}/{chunk_size} {(whole - alone) * 1e3:5.2f}")
        print(f"  {name:12} " + "   ".join(cells))


if __name__ == "__main__":
    main()
