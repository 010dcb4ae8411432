"""The cost of packed rows: `check`, the exported packer and `watch`, as ratios within one run.

Budgets: for each real token, `check` of packed rows costs no more than of chunks of the padded
batch; the exported packer costs at most twice the bare slices of each sample and their `torch.cat`;
`watch` adds no more to a packed call than to a copied chunk of the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import Any

import torch

import vlmdebug as vd
from benchmarks.bench_slicing import batch_of, seconds
from benchmarks.bench_watch import forwards_and_hooks
from vlmdebug.core.batch import Batch
from vlmdebug.core.presence import expected_rows
from vlmdebug.slicers import corrected

Inputs = dict[str, Any]
FAMILIES = ("llava", "internvl", "idefics3", "qwen2_5_vl")
SAMPLES, SIZE = 256, 8


def main() -> None:
    """Print the tables."""
    print(f"check: {SAMPLES} samples, {SIZE} in a chunk or row (ns a token; ratio: budget 1)")
    for family in FAMILIES:
        batch = batch_of(family, SAMPLES)
        packer = vd.export(batch, packed=True).function
        padded, packed = (per_token(batch, slicer) for slicer in (corrected, packer))
        print(f"  {family:12} padded {padded:6.0f}   packed {packed:6.0f}   {packed / padded:5.2f}")

    print("export: the same samples (µs a row; ratio to bare slices and cat: budget 2)")
    for family in FAMILIES:
        batch = batch_of(family, SAMPLES)
        packer, inputs = vd.export(batch, packed=True).function, batch.for_slicer()
        bare = seconds(bare_rows(batch, next(packer(inputs, 1))), 15)
        exported = seconds(lambda packer=packer, inputs=inputs: [*packer(inputs, SIZE)], 15)
        each = SIZE / SAMPLES * 1e6
        print(
            f"  {family:12} bare {bare * each:6.1f}   exported {exported * each:6.1f}"
            f"   {exported / bare:5.2f}"
        )

    print("watch: adds to a call of 8 samples (ms; ratio to a copied chunk: budget 1)")
    for family in FAMILIES:
        chunk, row = (median(one) for one in added(family))
        print(
            f"  {family:12} chunk {chunk * 1e3:5.2f}   packed {row * 1e3:5.2f}   {row / chunk:5.2f}"
        )


def per_token(batch: Batch, slicer: Callable[[Inputs, int], Iterator[Inputs]]) -> float:
    """Nanoseconds of `check` for each real token of the batch, without the slicer's own time."""
    calls = [*slicer(batch.for_slicer(), SIZE)]
    whole = seconds(lambda: vd.check(lambda *_: calls, batch, chunk_size=SIZE), 15)
    return whole / int(batch.inputs["attention_mask"].sum()) * 1e9


def bare_rows(batch: Batch, keys: Inputs) -> Callable[[], None]:
    """Only the slices of each sample and `torch.cat`, for these keys, with bounds that are known."""
    shape, mask = batch.inputs["input_ids"].shape, batch.inputs["attention_mask"]
    rows = list[list[tuple[int, list[tuple[torch.Tensor, Any]]]]]()
    for first in range(0, len(batch), SIZE):
        samples = range(first, min(first + SIZE, len(batch)))
        row = list[tuple[int, list[tuple[torch.Tensor, Any]]]]()
        for key in keys.keys() & batch.inputs.keys():
            tensor, cuts = batch.inputs[key], list[tuple[torch.Tensor, Any]]()
            along = tensor.shape == shape
            for sample in samples:
                begin, own = int(mask[sample].argmax()), int(mask[sample].sum())
                place = (slice(sample, sample + 1), slice(begin, begin + own))
                media = expected_rows(batch, key, batch.part([sample])).rows.ranges
                cuts += [(tensor, place)] if along else [(tensor, slice(*one)) for one in media]
            if cuts:
                row.append((1 if along else 0, cuts))
        order = torch.arange(shape[1]).expand(keys["position_ids"].shape[:-1] + shape[1:])
        lengths = [int(mask[sample].sum()) for sample in samples]
        row.append((-1, [(order, (..., slice(length))) for length in lengths]))
        rows.append(row)

    def work() -> None:
        for row in rows:
            for dim, cuts in row:
                torch.cat([tensor[place] for tensor, place in cuts], dim)

    return work


def added(family: str) -> tuple[Sequence[float], Sequence[float]]:
    """Seconds that `watch` adds to copied chunks and to packed rows of the same samples."""
    model, processor = vd.tiny.build(family)
    inputs = dict(vd.tiny.batch(family, [2, 0, 1, 1] * 4, sizes=(160, 160)))
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    packer = vd.export(batch, packed=True).function
    chunk = [*batch.chunks(SIZE)][1]
    row = [*packer(batch.for_slicer(), SIZE)][1]
    row = {key: value for key, value in row.items() if not key.startswith(("cu_", "max_"))}
    kinds = list[Sequence[float]]()
    for call in (chunk, {**row, "use_cache": False}):
        copies = [
            {key: one.clone() if hasattr(one, "clone") else one for key, one in call.items()}
            for _ in range(31)
        ]
        kinds.append([extra for _, extra in forwards_and_hooks(model, processor, copies)])
    return kinds[0], kinds[1]


if __name__ == "__main__":
    main()
