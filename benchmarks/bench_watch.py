"""What `watch` and `record` add: to a forward of a tiny model, and to the slicing code.

Budgets: at most 5 % of a forward of about 20 ms; recording at most 3 times the slicing code. The
forwards with and without are run in turn, so that both meet the same noise.
"""

from __future__ import annotations

from statistics import median
from time import perf_counter

import torch

import vlmdebug as vd
from benchmarks.bench_slicing import seconds
from vlmdebug import slicers


def forward(model: torch.nn.Module, chunk: dict[str, torch.Tensor]) -> float:
    """Seconds of one forward."""
    begin = perf_counter()
    with torch.no_grad():
        model(**chunk)
    return perf_counter() - begin


def main() -> None:
    """Print the tables."""
    print("watch: one call, 8 samples (ms; budget 5 % of a forward of about 20 ms)")
    for family in ("gemma4", "qwen2_5_vl", "internvl"):
        model, processor = vd.tiny.build(family)
        inputs = vd.tiny.batch(family, [2, 0, 1, 1] * 4, sizes=(160, 160))
        batch = vd.read_batch(inputs, processor=processor)
        for name, chunk in (
            ("view", list(batch.chunks(8))[1]),
            ("copy", {key: value.clone() for key, value in list(batch.chunks(8))[1].items()}),
        ):
            bare, watched = [], []
            for _ in range(21):
                bare.append(forward(model, chunk))
                with vd.watch(model, processor=processor):
                    watched.append(forward(model, chunk))
            plain, extra = median(bare), median(watched) - median(bare)
            print(
                f"  {family:12} {name}  forward {plain * 1e3:6.2f}   watch adds {extra * 1e3:5.2f}"
                f"  ({extra / plain:.1%})"
            )

    def loop(model, inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            model(**chunk)

    print("record: 64 samples, chunk size 8, the slicing code and a stand-in model (ms)")
    batch = vd.make_batch("qwen2_5_vl", [2, 0, 1, 1] * 16)
    inputs = batch.for_slicer()
    plain = seconds(lambda: list(slicers.corrected(inputs, 8)), 21)
    recorded = seconds(lambda: list(vd.record(loop)(inputs, 8)), 21)
    ratio = recorded / plain
    print(f"  slicing {plain * 1e3:.2f}   recorded {recorded * 1e3:.2f}   times {ratio:.1f}")


if __name__ == "__main__":
    main()
