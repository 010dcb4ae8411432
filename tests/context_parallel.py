"""What two real processes do whose calls are shards: torch's context parallelism over gloo.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python tests/context_parallel.py FOLDER

`context_parallel` makes the tensors of each rank smaller in place. Its attention across ranks has
no kernel for a CPU, so the model attends on each rank alone; that is what the calls are judged by.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.experimental import context_parallel

import vlmdebug as vd

Tensors = dict[str, torch.Tensor]
FAMILY = "llava"
WORDS = 64
DIMS = {"input_ids": 1, "position_ids": 1, "shift_labels": 1}


def batch_of(seed: int) -> Tensors:
    """One row of text, its positions, and labels one ahead."""
    drawn = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, 300, (1, WORDS), generator=drawn)
    labels = torch.nn.functional.pad(ids[:, 1:], (0, 1), value=-100)
    return {
        "input_ids": ids,
        "position_ids": torch.arange(WORDS)[None].clone(),
        "shift_labels": labels,
    }


def restart(rank: int, call: Tensors) -> Tensors:
    """Positions that each rank counts by itself."""
    return {**call, "position_ids": torch.arange(WORDS // 2)[None]}


def other_labels(rank: int, call: Tensors) -> Tensors:
    """Labels that were turned after the split."""
    return {**call, "shift_labels": call["shift_labels"].roll(1, 1)}


WAYS: dict[str, tuple[Callable[[int, Tensors], Tensors], bool]] = {
    "right": (lambda rank, call: call, True),
    "restart": (restart, True),
    "other_labels": (other_labels, True),
    "labels_not_split": (lambda rank, call: call, False),
}
"""What is done with the call of a rank, and whether labels are among the buffers."""


def call_in(way: str, folder: Path, model: torch.nn.Module, processor: object) -> None:
    """One call of each rank, with its trace."""
    rank, (change, split) = int(os.environ["RANK"]), WAYS[way]
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("cp",))
    whole = batch_of(0)
    names = [key for key in whole if split or key != "shift_labels"]
    (folder / way).mkdir(parents=True, exist_ok=True)
    watched = vd.watch(
        model,
        processor=processor,
        on_mismatch="record",
        shards=2,
        coordinates={"dp": 0, "cp": rank},
        log=folder / way / "run.jsonl",
    )
    buffers, dims = [whole[key] for key in names], [DIMS[key] for key in names]
    with context_parallel(mesh, buffers=buffers, buffer_seq_dims=dims), watched:
        call = change(rank, whole)
        labels = call.pop("shift_labels")
        with torch.no_grad():
            model(**call, shift_labels=labels)


def main(folder: Path) -> None:
    """Call in every way."""
    torch.distributed.init_process_group("gloo")
    model, processor = vd.tiny.build(FAMILY)
    model.set_attn_implementation("eager")
    for way in WAYS:
        call_in(way, folder, model, processor)
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
