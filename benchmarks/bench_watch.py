"""What `watch` and `record` add: to a forward of a tiny model, and to the slicing code.

Budgets: at most 5 % of a forward of about 20 ms; recording at most 3 times the slicing code. The
forwards with and without are run in turn, so that both meet the same noise. Beside `watch` stand
two tracers that people reach for: transformers' debugger and torch's `DebugMode`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median
from time import perf_counter
from typing import Any

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


def tracers(model: Any, processor: Any) -> dict[str, Callable[[], AbstractContextManager]]:
    """Each makes the context in which a forward is traced."""
    from torch.utils._debug_mode import DebugMode
    from transformers.model_debugging_utils import model_addition_debugger_context

    folder = tempfile.mkdtemp()
    return {
        "watch": lambda: vd.watch(model, processor=processor),
        "DebugMode": DebugMode,
        "transformers' debugger": lambda: model_addition_debugger_context(
            model, debug_path=folder, do_prune_layers=False
        ),
    }


def beside_others() -> None:
    """Print forwards under each tracer, in turn, as multiples of a bare one."""
    print("beside other tracers, gemma4, 4 samples (times a bare forward)")
    model, processor = vd.tiny.build("gemma4")
    chunk = dict(vd.tiny.batch("gemma4", [2, 0, 1, 1], sizes=(160, 160)))
    contexts = tracers(model, processor)
    took: dict[str, list[float]] = {name: [] for name in ("bare", *contexts)}
    for _ in range(11):
        took["bare"].append(forward(model, chunk))
        for name, context in contexts.items():
            with context():
                took[name].append(forward(model, chunk))
    bare = median(took["bare"])
    for name in contexts:
        print(f"  {name:24} {median(took[name]) / bare:6.2f}")


def main() -> None:
    """Print the tables."""
    print("watch: one call, 8 samples (ms; budget 5 % of a forward of about 20 ms)")
    for family in ("gemma4", "qwen2_5_vl", "internvl"):
        (model, processor), (twin, _) = vd.tiny.build(family), vd.tiny.build(family)
        inputs = vd.tiny.batch(family, [2, 0, 1, 1] * 4, sizes=(160, 160))
        batch = vd.read_batch(inputs, processor=processor)
        for name, chunk in (
            ("view", list(batch.chunks(8))[1]),
            ("copy", {key: value.clone() for key, value in list(batch.chunks(8))[1].items()}),
        ):
            bare, watched = [], []
            with vd.watch(twin, processor=processor):
                for _ in range(41):
                    bare.append(forward(model, chunk))
                    watched.append(forward(twin, chunk))
            plain, extra = median(bare), median(watched) - median(bare)
            print(
                f"  {family:12} {name}  forward {plain * 1e3:6.2f}   watch adds {extra * 1e3:5.2f}"
                f"  ({extra / plain:.1%})"
            )

    beside_others()

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
