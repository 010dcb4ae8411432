"""The cost of packed rows: `check`, the exported packer and `watch`, as ratios within one run.

Budgets: for each real token, `check` of packed rows costs no more than of padded chunks that were
copied, as packed rows are; the exported packer costs at most twice the bare slices of each sample
and their `torch.cat`; `watch` adds no more to a packed call than to a copied chunk of the same
samples with `position_ids`, which a packed call has, too. Chunks that are views of the batch are
recognized by their addresses, at a fraction of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import signature
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
PLACED = "qwen2_5_vl, placed"
"""With `position_ids` in the batch; else the packer computes M-RoPE's from the grids."""
SAMPLES, SIZE = 256, 8


def main() -> None:
    """Print the tables."""
    print(f"check: {SAMPLES} samples, {SIZE} in a chunk or row (ns a token; ratio: budget 1)")
    for family in FAMILIES:
        batch = batch_of(family, SAMPLES)
        packer = vd.export(batch, packed=True).function
        views, padded, packed = per_token(batch, corrected, copied, packer)
        print(
            f"  {family:12} padded {padded:6.0f} (views {views:6.0f})   packed {packed:6.0f}"
            f"   {packed / padded:5.2f}"
        )

    print("export: the same samples (µs a row; ratio to bare slices and cat: budget 2)")
    for family in (*FAMILIES, PLACED):
        batch = batch_of(family.partition(",")[0], SAMPLES)
        if family == PLACED:
            places = torch.zeros(3, *batch.inputs["input_ids"].shape, dtype=torch.long)
            batch = vd.read_batch({**batch.inputs, "position_ids": places}, **counts(batch))
        packer, inputs = vd.export(batch, packed=True).function, batch.for_slicer()
        work = bare_rows(batch, next(iter(packer(inputs, 1))))
        bare, exported = least(work, lambda packer=packer, inputs=inputs: [*packer(inputs, SIZE)])
        each = SIZE / SAMPLES * 1e6
        print(
            f"  {family:24} bare {bare * each:6.1f}   exported {exported * each:6.1f}"
            f"   {exported / bare:5.2f}"
        )

    print(
        "watch: adds to a call of 8 samples (ms; ratio to a copied chunk with positions: budget 1)"
    )
    for family in FAMILIES:
        chunk, placed, row = (min(one) * 1e3 for one in added(family))
        print(
            f"  {family:12} chunk {chunk:5.2f}   with positions {placed:5.2f}   packed {row:5.2f}"
            f"   {row / placed:5.2f} (to the chunk without: {row / chunk:5.2f})"
        )


def copied(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
    """Padded chunks with memory of their own."""
    for chunk in corrected(inputs, chunk_size):
        yield {key: one.clone() for key, one in chunk.items()}


def per_token(batch: Batch, *slicers: Callable[[Inputs, int], Iterable[Inputs]]) -> list[float]:
    """Nanoseconds of `check` for each real token of the batch, without the slicers' own time."""
    made = [[*slicer(batch.for_slicer(), SIZE)] for slicer in slicers]
    trials = [
        lambda calls=calls: vd.check(lambda *_: calls, batch, chunk_size=SIZE) for calls in made
    ]
    tokens = int(batch.inputs["attention_mask"].sum())
    return [whole / tokens * 1e9 for whole in least(*trials)]


def least(*works: Callable[[], Any], repeats: int = 25) -> list[float]:
    """The least seconds of a call of each, in turn, so that other processes weigh on all alike."""
    times = [[seconds(work, 1) for work in works] for _ in range(repeats)]
    return [min(own) for own in zip(*times, strict=True)]


def counts(batch: Batch) -> Inputs:
    """What `read_batch` needs to read its tensors again."""
    return {"num_images": [*batch.counts["image"]], "layout": batch.layout.family}


def bare_rows(batch: Batch, keys: Inputs) -> Callable[[], None]:
    """Only the slices of each sample and `torch.cat` of these keys, with bounds that are known."""
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


def added(family: str) -> list[Sequence[float]]:
    """Seconds that `watch` adds to a copied chunk, to one with positions, to a packed row.

    A packed row has `position_ids`, and these are judged in all of them.
    """
    model, processor = vd.tiny.build(family)
    inputs = dict(vd.tiny.batch(family, [2, 0, 1, 1] * 4, sizes=(160, 160)))
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    packer = vd.export(batch, packed=True).function
    chunk = [*batch.chunks(SIZE)][1]
    row = [*packer(batch.for_slicer(), SIZE)][1]
    row = {key: value for key, value in row.items() if not key.startswith(("cu_", "max_"))}
    placed = {**chunk, "position_ids": places_of(model, chunk)}
    calls = list[Inputs]()
    for _ in range(31):
        for call in (chunk, placed, {**row, "use_cache": False}):
            calls.append({k: v.clone() if hasattr(v, "clone") else v for k, v in call.items()})
    extra = [own for _, own in forwards_and_hooks(model, processor, calls)]
    return [extra[kind::3] for kind in range(3)]


def places_of(model: Any, chunk: Inputs) -> torch.Tensor:
    """The `position_ids` of a padded chunk, by the model's own rule where it has one."""
    if not hasattr(model.model, "get_rope_index"):
        return (chunk["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    asked = signature(model.model.get_rope_index).parameters
    return model.model.get_rope_index(**{k: v for k, v in chunk.items() if k in asked})[0]


if __name__ == "__main__":
    main()
