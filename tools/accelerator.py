"""Judge, watch and prove on an accelerator as on the CPU: `make test-accelerator`.

Every tiny family runs on both: reports of right and wrong slicers, the verdicts and identities of a
watched model, proofs in each dtype, an exported packer. What differs is printed, and the exit
status is 1. Hooks of `watch` must not wait for the device: torch counts what waits. Last comes the
time that `watch` adds to a call. `ARGS="--device cpu gemma4"` tries the tool itself.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
from architectures import architectures, use_torchvision  # noqa: E402

use_torchvision()

import vlmdebug as vd  # noqa: E402
from vlmdebug import slicers  # noqa: E402

SLICERS = (slicers.corrected, slicers.by_sample, slicers.merged_5452, slicers.first_5452_rloo)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WAITS = "called a synchronizing"
"""How torch begins its warning of a call for which the host waits."""

Inputs = dict[str, Any]


def main() -> int:
    """Run every family and print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("family", nargs="*", help="these tiny families only")
    parser.add_argument("--device", default="cuda", help="the accelerator (default cuda)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    options = parser.parse_args()
    device = torch.device(options.device)
    print(f"torch {torch.__version__}, {device}: {_name(device)}", flush=True)
    if not options.family:
        _added_by_watch(device)
    differences = 0
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        families = options.family or architectures()
        all_found = pool.map(_found, families, repeat(device))
        for family, found in zip(families, all_found, strict=True):
            differences += len(found)
            print("\n".join([f"{family}: {len(found)} differences", *found]), flush=True)
    print(f"{differences} differences in {len(families)} families")
    return bool(differences)


def _found(family: str, device: torch.device) -> list[str]:
    """What differs in this family."""
    torch.set_num_threads(1)
    return [*_both(family, device)]


def _both(family: str, device: torch.device) -> Iterator[str]:
    model, processor = vd.tiny.build(family)
    inputs = _batch(family)
    near, far = (_moved(inputs, one) for one in (torch.device("cpu"), device))
    there = _there(model, device)
    for judge in (_reports, _watched, _identified):
        here = judge(model, processor, near)
        across = _tried(lambda judge=judge: judge(there, processor, far))
        if here != across:
            yield f"{judge.__name__}\n  cpu: {here}\n  {device}: {across}"
    if device.type == "cuda":
        yield from _waits(there, processor, far)
    here = _proven(model, processor, near, torch.float32)
    for dtype in DTYPES:
        across: Any = _tried(lambda dtype=dtype: _proven(there, processor, far, dtype))
        if isinstance(across, str) or _decided(here) != _decided(across):
            yield f"proofs in {dtype}\n  cpu: {here}\n  {device}: {across}"


def _there(model: Any, device: torch.device) -> Any:
    return deepcopy(model).to(device)


def _batch(family: str) -> Inputs:
    try:
        return dict(vd.tiny.batch(family, [2, 0, 1, 1]))
    except vd.BadInput:  # one image for each sample
        return dict(vd.tiny.batch(family, [1, 1, 1, 1]))


def _tried(call: Callable[[], object]) -> object:
    """The result, or the exception as text."""
    try:
        return call()
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"


def _moved(inputs: Inputs, device: torch.device) -> Inputs:
    return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}


def _reports(model: Any, processor: Any, inputs: Inputs) -> list[str]:
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    found = [str(vd.check(batch))]
    for slicer in SLICERS:
        for size in (1, 2):
            found.append(
                str(_tried(lambda s=slicer, n=size: str(vd.check(s, batch, chunk_size=n))))
            )
    try:
        code = vd.export(batch, packed=True)
    except vd.BadInput as error:  # nothing keeps its samples apart, or its positions are not known
        return [*found, str(error)]
    proof = vd.prove(code.function, batch, model, chunk_size=4)
    return [*found, str(vd.check(code.function, batch, chunk_size=4)), str(proof.ok)]


def _watched(model: Any, processor: Any, inputs: Inputs) -> list[Any]:
    """What was found; the reports differ: a late verdict on a text alone names no media keys."""
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    with vd.watch(model, processor=processor, on_mismatch="record") as trace:
        for slicer in SLICERS[:2]:
            _run(model, _tried(lambda s=slicer: [*s(batch.for_slicer(), 1)]))
        _run(model, [_own(chunk) for chunk in batch.chunks(2)])
    reports = [call.report for call in trace.calls if call.report is not None]
    return [len(trace.calls), *((one.verdict, *map(str, one.mismatches)) for one in reports)]


def _run(model: Any, chunks: Any) -> None:
    if isinstance(chunks, str):  # the slicer raised
        return
    for chunk in chunks:
        with torch.no_grad():
            _tried(lambda chunk=chunk: model(**chunk))


def _identified(model: Any, processor: Any, inputs: Inputs) -> list[Any]:
    """What a trace says of the samples of each call."""
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "trace.jsonl"
        with vd.watch(model, processor=processor, on_mismatch="record", log=log):
            _run(model, batch.chunks(2))
        lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k in ("verdict", "mismatches", "identities", "media")}
        for line in lines
    ]


def _waits(model: Any, processor: Any, inputs: Inputs) -> Iterator[str]:
    """Calls of the hook of `watch` for which the host waits for the device."""
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    chunks = [*batch.chunks(2), *map(_own, batch.chunks(2))]
    with vd.watch(model, processor=processor, on_mismatch="record"):
        hook = next(iter(model._forward_pre_hooks.values()))
        for chunk in chunks:
            torch.cuda.synchronize()
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                torch.cuda.set_sync_debug_mode("warn")
                try:
                    hook(model, (), chunk)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
            for one in caught:
                if WAITS in str(one.message):
                    yield f"watch waits: {one.message} ({one.filename}:{one.lineno})"


def _proven(model: Any, processor: Any, inputs: Inputs, dtype: torch.dtype) -> list[vd.Proof]:
    """Proofs of a right slicer and of a wrong one, in this dtype."""
    typed = deepcopy(model).to(dtype)
    given = {
        key: value.to(dtype)
        if isinstance(value, torch.Tensor) and value.is_floating_point()
        else value
        for key, value in inputs.items()
    }
    batch = vd.read_batch(given, processor=processor, config=model.config)
    return [vd.prove(slicer, batch, typed, chunk_size=1) for slicer in SLICERS[:2]]


def _decided(proofs: list[vd.Proof]) -> list[tuple[Any, ...]]:
    """What they prove. Where rounding is large, a wrong chunk may be left undecided."""
    return [(one.silent_samples, type(one.error), one.chunk) for one in proofs]


def _added_by_watch(device: torch.device) -> None:
    """Print the time of a call without `watch` and with it, in turn."""
    print("watch: one call of 8 samples of 16, ms")
    for family in ("gemma4", "qwen2_5_vl", "internvl"):
        model, processor = vd.tiny.build(family)
        there = _there(model, device)
        inputs = _moved(dict(vd.tiny.batch(family, [2, 0, 1, 1] * 4, sizes=(160, 160))), device)
        chunks = [*vd.read_batch(inputs, processor=processor).chunks(8)]
        for name, kind in (("views", chunks), ("copies", [_own(c) for c in chunks])):
            bare, watched = [], []
            for _ in range(15):
                bare.append(_seconds(there, kind, device))
                with vd.watch(there, processor=processor):
                    _seconds(there, kind, device)  # reads the batch
                    watched.append(_seconds(there, kind, device))
            print(
                f"  {family:12} {name:7} bare {median(bare) * 1e3:6.2f}, "
                f"watched {median(watched) * 1e3:6.2f}"
            )


def _own(chunk: Any) -> Inputs:
    """The chunk with tensors of its own."""
    return {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in chunk.items()}


def _seconds(model: Any, chunks: list[Any], device: torch.device) -> float:
    """Seconds of a forward, the least of the chunks; the device has ended."""
    took = []
    for chunk in chunks:
        begin = time.perf_counter()
        with torch.no_grad():
            model(**chunk)
        if device.type == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - begin)
    return min(took)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this processor"


if __name__ == "__main__":
    sys.exit(main())
