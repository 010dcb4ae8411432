"""What two real processes do: trained by DDP or FSDP over gloo, each way of giving data in turn.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29500 python tests/ranks.py FOLDER
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

import vlmdebug as vd

FAMILY, OF_PACKED = "gemma4", "llava"
IMAGES = [1, 1, 2, 1, 1, 1, 1, 1]
"""Images of each sample; the words of each differ, too."""


class Samples(Dataset[Any]):
    """The samples, each with its own text and images."""

    def __init__(self, images: list[int]) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[int, int]:
        return number, self.images[number]


class Stream(IterableDataset[Any]):
    """The samples as a stream, which does not ask which worker reads it: each reads all."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(enumerate(IMAGES)))


class Collate:
    """Two samples become one batch of the real processor."""

    def __init__(self, processor: Any) -> None:
        self.processor = processor

    def __call__(self, samples: list[tuple[int, int]]) -> dict[str, Any]:
        mark = self.processor.image_token
        texts = [f"{mark * images} {'very ' * number}nice" for number, images in samples]
        pictures = [vd.tiny.images([images], seed=number)[0] for number, images in samples]
        given = {"images": pictures} if any(pictures) else {}
        made = self.processor(text=texts, padding=True, return_tensors="pt", **given)
        return {**made}


class Pack(Collate):
    """Two samples become one packed row, as a trainer without padding joins them."""

    def __call__(self, samples: list[tuple[int, int]]) -> dict[str, Any]:
        alone = [super(Pack, self).__call__([sample]) for sample in samples]
        lengths = [one["input_ids"].shape[1] for one in alone]
        return {
            "input_ids": torch.cat([one["input_ids"] for one in alone], 1),
            "position_ids": torch.cat([*map(torch.arange, lengths)])[None],
            "pixel_values": torch.cat([one["pixel_values"] for one in alone]),
            "use_cache": False,  # with one, the model would mix both
        }


def loaders(collate: Any) -> dict[str, Callable[[], Any]]:
    """Each way of giving data to two ranks."""
    rank = int(os.environ["RANK"])

    def loader(data: Any, **options: Any) -> Any:
        return DataLoader(data, **{"collate_fn": collate, "batch_size": 2, **options})

    def sharded(images: list[int], join: Any = collate) -> Any:
        data = Samples(images)
        own = DistributedSampler(data, 2, rank, shuffle=False)
        return loader(data, sampler=own, collate_fn=join)

    def dispatched() -> Any:
        config = DataLoaderConfiguration(dispatch_batches=True, split_batches=True)
        accelerator = Accelerator(cpu=True, dataloader_config=config)
        return accelerator.prepare(loader(Samples([1] * 8), batch_size=4))

    return {
        "sharded": lambda: sharded(IMAGES),
        "fsdp": lambda: sharded(IMAGES),
        "packed": lambda: sharded(IMAGES, Pack(vd.tiny.build(OF_PACKED)[1])),
        "everything": lambda: loader(Samples(IMAGES)),
        "dispatched": dispatched,
        "one_without_images": lambda: sharded([1, 1, 1, 1, 1, 0, 1, 0]),
        "workers": lambda: sharded_stream(rank, collate),
    }


def sharded_stream(rank: int, collate: Any) -> Any:
    """A stream for each rank alone, which two workers read whole."""
    return (
        DataLoader(Stream(), batch_size=2, collate_fn=collate, num_workers=2) if rank == 0 else []
    )


def wrapped(model: Any, way: str) -> Any:
    """The model as two processes call it."""
    if way == "fsdp":
        return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    return model if way == "workers" else DistributedDataParallel(model)


def train(way: str, make: Callable[[], Any], folder: Path) -> None:
    """One epoch, with a trace; the tower has no gradient, so that a rank without images runs."""
    model, processor = vd.tiny.build(OF_PACKED if way == "packed" else FAMILY)
    model.requires_grad_(False).get_input_embeddings().requires_grad_(True)
    called = wrapped(model, way)
    optimizer = torch.optim.SGD(model.get_input_embeddings().parameters(), lr=0.0)
    (folder / way).mkdir(parents=True, exist_ok=True)
    with vd.watch(called, processor=processor, log=folder / way / "run.jsonl"):
        for batch in make():
            out = called(**batch)
            out.logits.float().mean().backward()
            optimizer.step()
            optimizer.zero_grad()


def main(folder: Path) -> None:
    """Train in every way."""
    torch.distributed.init_process_group("gloo")
    processor = vd.tiny.build(FAMILY)[1]
    for way, make in loaders(Collate(processor)).items():
        train(way, make, folder)
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
