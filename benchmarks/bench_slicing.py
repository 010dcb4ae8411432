"""The cost of cutting a batch: `Batch.chunks` and exported code against bare slices and TRL.

Budgets: per chunk at most twice the bare tensor slices; at 1024 samples and chunk size 1 at
least 300 times less slicing time than the installed TRL's loop, which recomputes its offsets for
every chunk. TRL's own time is its loop with images minus the same loop without, with a stub as the
model.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any

import torch

from vlmdebug.core.batch import Batch
from vlmdebug.core.presence import expected_rows
from vlmdebug.core.rows import chunk_bounds
from vlmdebug.families import FAMILIES, BatchSpec
from vlmdebug.running.export import export
from vlmdebug.running.synthetic import make

SAMPLES = 1024


def batch_of(family: str, samples: int = SAMPLES) -> Batch:
    """Images per sample 2, 0, 1, 2, 0, 1 …, sizes mixed."""
    images = tuple((2, 0, 1)[sample % 3] for sample in range(samples))
    sizes = tuple(1 + image % 3 for image in range(sum(images)))
    return make(BatchSpec(family, images, sizes))


def seconds(work: Callable[[], Any], repeats: int = 7) -> float:
    """Median seconds of one call."""
    times = []
    for _ in range(repeats):
        begin = perf_counter()
        work()
        times.append(perf_counter() - begin)
    return median(times)


def bare_slices(batch: Batch, chunk_size: int) -> Callable[[], None]:
    """Only the slices of each chunk, with precomputed bounds."""
    cuts = []
    for start, stop in chunk_bounds(len(batch), chunk_size):
        for key, tensor in batch.inputs.items():
            planned = expected_rows(batch, key, batch.part(range(start, stop)))
            for first, last in planned.rows.ranges:
                cuts.append((tensor, first, last))

    def work() -> None:
        for tensor, first, last in cuts:
            tensor[first:last]

    return work


def trl_loop(batch: Batch) -> float:
    """Seconds that TRL's GRPO loop spends on cutting the images of `batch`, chunk size 1."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    outputs = SimpleNamespace(log_probs=torch.zeros(1, ids.shape[1]))
    trainer = SimpleNamespace(accelerator=SimpleNamespace(autocast=nullcontext))
    media = {key: batch.inputs[key] for key in batch.layout.media}
    media |= {key: value for key, value in batch.for_slicer().items() if key == "num_images"}
    # The decorators time the call; the loop itself is the function they wrap.
    loop = GRPOTrainer._get_per_token_logps_and_entropies
    loop = getattr(loop, "__wrapped__", loop)

    def run(**kwargs: Any) -> None:
        loop(trainer, lambda **_: outputs, ids, mask, 2, batch_size=1, **kwargs)

    return seconds(lambda: run(**media), 3) - seconds(run, 3)


def main() -> None:
    """Print the tables."""
    print(
        f"per chunk, {SAMPLES} samples, chunk size 1 (µs; in brackets: times bare slices, budget 2)"
    )
    for name in FAMILIES:
        batch = batch_of(name)
        inputs, code = batch.for_slicer(), export(batch).function
        bare = seconds(bare_slices(batch, 1))
        chunks = seconds(lambda batch=batch: list(batch.chunks(1)))
        exported = seconds(lambda inputs=inputs, code=code: list(code(inputs, 1)))
        print(
            f"  {name:12} bare {bare / SAMPLES * 1e6:5.2f}"
            f"   Batch.chunks {chunks / SAMPLES * 1e6:5.2f} ({chunks / bare:4.2f})"
            f"   exported {exported / SAMPLES * 1e6:5.2f} ({exported / bare:4.2f})"
        )
    try:
        import trl
    except ImportError:
        print("trl is not installed; its loop was not timed")
        return
    batch = batch_of("qwen2_5_vl")
    theirs = trl_loop(batch)
    ours = seconds(lambda: list(batch.chunks(1)))
    inputs, code = batch.for_slicer(), export(batch).function
    exported = seconds(lambda: list(code(inputs, 1)))
    print(f"TRL {trl.__version__} GRPO loop on qwen2_5_vl: {theirs / SAMPLES * 1e6:.0f} µs a chunk")
    print(
        f"  times Batch.chunks {theirs / ours:.0f}, exported {theirs / exported:.0f} (budget 300)"
    )


if __name__ == "__main__":
    main()
