"""The time that `watch` adds to a forward of a tiny model, and `record` to the slicing code.

Budgets: at most 5 % of a forward of about 20 ms and 0.2 ms a call; the identities in a trace at
most 0.2 ms of CPU time a call; recording at most 3 times the slicing code. The time of `watch` is
measured in a loop and in place: between two hooks around its own, with the caches as a forward
leaves them. A batch is read with its first chunk. For comparison, two other tracers run in turn:
transformers' debugger and torch's `DebugMode`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch

import vlmdebug as vd
from benchmarks.bench_slicing import seconds
from vlmdebug import slicers
from vlmdebug.watching.identity import sampled_media
from vlmdebug.watching.slices import CallChecker
from vlmdebug.watching.watch import metadata_of


def forward(model: torch.nn.Module, chunk: dict[str, torch.Tensor]) -> float:
    """Seconds of one forward."""
    begin = perf_counter()
    with torch.no_grad():
        model(**chunk)
    return perf_counter() - begin


def seconds_of(hook: Any, model: Any, chunk: dict[str, Any]) -> float:
    """Seconds of one call of the hook."""
    begin = perf_counter()
    hook(model, (), chunk)
    return perf_counter() - begin


def kinds_of_chunks(inputs: dict[str, Any], processor: Any) -> dict[str, list[dict[str, Any]]]:
    """Chunks of the kinds that `watch` gets: of a new batch, of a known batch, or copied."""
    batch = vd.read_batch(inputs, processor=processor)
    first, chunk = batch.chunks(8)
    fresh = [{key: value.clone() for key, value in inputs.items()} for _ in range(21)]
    return {
        "first chunk": [next(vd.read_batch(one, processor=processor).chunks(8)) for one in fresh],
        "next chunk": [first, *[chunk] * 40],
        "copy": [{key: value.clone() for key, value in chunk.items()} for _ in range(41)],
    }


def forwards_and_hooks(
    model: Any, processor: Any, chunks: Sequence[dict[str, Any]]
) -> list[tuple[float, float]]:
    """Seconds of each watched forward without the hook of `watch`, and of that hook."""
    times: list[float] = []

    def note(module: Any, args: Any) -> None:
        times.append(perf_counter())

    before = model.register_forward_pre_hook(note)
    with vd.watch(model, processor=processor):
        after = model.register_forward_pre_hook(note)
        wholes = [forward(model, chunk) for chunk in chunks]
    before.remove()
    after.remove()
    hooks = [end - begin for begin, end in zip(times[::2], times[1::2], strict=True)]
    return [(whole - hook, hook) for whole, hook in zip(wholes, hooks, strict=True)]


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
    print("next to other tracers, gemma4, 4 samples (times a bare forward)")
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


def identities_of_calls() -> None:
    """Print what the identities of a trace add to a call: CPU time, the least of several runs."""
    print("identities in a trace: CPU time of a call (ms; budget 0.2)")
    for family in ("gemma4", "qwen2_5_vl", "idefics3", "llava_next", "internvl"):
        model, processor = vd.tiny.build(family)
        inputs = dict(vd.tiny.batch(family, [2, 0, 1, 1] * 2, sizes=(160, 160)))
        batch = vd.read_batch(inputs, processor=processor)
        checker = CallChecker(metadata_of(model, processor))
        for name, call in (("8 samples", inputs), ("chunk of 4", [*batch.chunks(4)][1])):
            checker(partial(dict, call))
            took = min(cpu_time(partial(identify, checker, call)) for _ in range(7))
            print(f"  {family:12} {name:10} {took * 1e3:6.3f}")


def identify(checker: CallChecker, call: dict[str, Any]) -> None:
    """What a trace adds to a call that was judged."""
    checker.identities(call, sampled_media(call))


def cpu_time(call: Callable[[], object], times: int = 50) -> float:
    """Seconds of one call."""
    begin = process_time()
    for _ in range(times):
        call()
    return (process_time() - begin) / times


def main() -> None:
    """Print the tables."""
    print("watch: one call, 8 samples of 16 (ms; budget 5 % of a forward of about 20 ms)")
    for family in ("gemma4", "qwen2_5_vl", "internvl"):
        model, processor = vd.tiny.build(family)
        inputs = dict(vd.tiny.batch(family, [2, 0, 1, 1] * 4, sizes=(160, 160)))
        for name, chunks in kinds_of_chunks(inputs, processor).items():
            with vd.watch(model, processor=processor):
                hook = next(iter(model._forward_pre_hooks.values()))
                looped = median(seconds_of(hook, model, chunk) for chunk in chunks)
            took = forwards_and_hooks(model, processor, chunks)
            plain, extra = (median(column) for column in zip(*took, strict=True))
            print(
                f"  {family:12} {name:12}  forward {plain * 1e3:6.2f}   watch adds "
                f"{looped * 1e3:5.2f} in a loop, {extra * 1e3:5.2f} in place ({extra / plain:.1%})"
            )

    beside_others()
    identities_of_calls()

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
