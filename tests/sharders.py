"""Code that splits the tokens of chunks over ranks: three right ways, and wrong ones.

The chunks are `batch.chunks`; positions are those of the model itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

import vlmdebug as vd
from vlmdebug.core.batch import Batch

Inputs = dict[str, Any]
IGNORED = -100
LABELS = ("labels", "shift_labels")
WAYS = ("contiguous", "zigzag", "striped")


@dataclass
class ShardLab:
    """One tiny model, and a batch with labels and positions of three samples: 2, 0 and 1 images."""

    model: Any
    processor: Any
    images: Sequence[int] = (2, 0, 1)
    family: str = "llava"

    @cached_property
    def batch(self) -> Batch:
        inputs = dict(vd.tiny.batch(self.family, images_per_sample=[*self.images], seed=0))
        inputs["position_ids"] = self._places(inputs)
        labels = inputs["input_ids"].clone()
        read = vd.read_batch(inputs, processor=self.processor, config=self.model.config)
        for token in read.token_ids.values():
            labels[labels == token] = IGNORED
        labels[inputs["attention_mask"] == 0] = IGNORED
        labels[:, 0] = IGNORED  # no token is before it
        inputs["labels"] = labels
        return vd.read_batch(inputs, processor=self.processor, config=self.model.config)

    def _places(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        index = getattr(getattr(self.model, "model", self.model), "get_rope_index", None)
        if index is None:
            return (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
        names = inspect.signature(index).parameters
        return index(**{n: inputs.get(n) for n in names if n in inputs or "grid" in n})[0]

    def sharder(
        self,
        ranks: int = 2,
        way: str = "contiguous",
        *,
        shift: bool = True,
        embedded: bool = True,
        change: Callable[[list[Inputs]], list[Inputs]] = lambda calls: calls,
    ) -> Callable[[Inputs, int], Iterator[Inputs]]:
        """A slicer; `change` is applied to the dicts of the ranks of each call."""

        def shard(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
            for chunk in self.batch.chunks(chunk_size):
                call = shifted(chunk) if shift else chunk
                yield from change(split(self.batch, call, ranks, way))

        shard.shards = ranks
        shard.embedded = embedded
        return shard


def shifted(call: Mapping[str, Any]) -> Inputs:
    """The call with labels one ahead, under the name that loss functions take them by."""
    found = dict(call)
    labels = found.pop("labels")
    found["shift_labels"] = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return found


def split(batch: Batch, call: Mapping[str, Any], ranks: int, way: str) -> list[Inputs]:
    """The dicts of the ranks of one call, with padding to a multiple."""
    dims = {key: batch.token_dims.get(key, 1) for key in call if along(batch, key)}
    return [
        {k: part(call[k], k, dims[k], r, ranks, way) if k in dims else call[k] for k in call}
        for r in range(ranks)
    ]


def along(batch: Batch, key: str) -> bool:
    """Whether a key has a value per token."""
    return key in batch.token_dims or key in LABELS


def part(value: Any, key: str, dim: int, rank: int, ranks: int, way: str) -> Any:
    """What one rank gets of a key along the tokens."""
    pieces = 2 * ranks if way == "zigzag" else ranks
    shape = [*value.shape]
    shape[dim] = -shape[dim] % pieces
    value = torch.cat([value, value.new_full(shape, IGNORED if key in LABELS else 0)], dim)
    if way == "striped":
        return value.index_select(dim, torch.arange(rank, value.shape[dim], ranks))
    own = value.chunk(pieces, dim)
    return torch.cat([own[rank], own[pieces - 1 - rank]], dim) if way == "zigzag" else own[rank]


# --- wrong ways, as changes of the dicts of the ranks of one call --------------------------------


def each(change: Callable[[int, Inputs], Inputs]) -> Callable[[list[Inputs]], list[Inputs]]:
    """A change of the dict of each rank, by its number."""
    return lambda calls: [change(rank, dict(call)) for rank, call in enumerate(calls)]


def _cut(calls: list[Inputs], begin: int, end: int | None, rank: int) -> list[Inputs]:
    wide = calls[rank]["input_ids"].shape[1]
    dims = {
        key: [*value.shape].index(wide)
        for key, value in calls[rank].items()
        if getattr(value, "ndim", 0) > 1 and wide in value.shape and "pixel" not in key
    }
    cut = {k: calls[rank][k].narrow(d, begin, (end or wide) - begin) for k, d in dims.items()}
    return [{**one, **cut} if at == rank else one for at, one in enumerate(calls)]


def lose_token(calls: list[Inputs]) -> list[Inputs]:
    """The first token of rank 1 is on no rank."""
    return _cut(calls, 1, None, 1)


def repeat_token(calls: list[Inputs]) -> list[Inputs]:
    """Rank 1 begins with the last token of rank 0, too."""
    first, second = calls[:2]
    wide = first["input_ids"].shape[1]
    more = {}
    for key, value in second.items():
        if getattr(value, "ndim", 0) > 1 and value.shape[-1] == wide and "pixel" not in key:
            more[key] = torch.cat([first[key][..., -1:], value], -1)
    return [first, {**second, **more}, *calls[2:]]


def without_positions(rank: int, call: Inputs) -> Inputs:
    call.pop("position_ids")
    return call


def positions_restart(rank: int, call: Inputs) -> Inputs:
    first = call["position_ids"][..., :1]
    return {**call, "position_ids": call["position_ids"] - first}


def shift_on_rank(rank: int, call: Inputs) -> Inputs:
    labels = call.pop("labels")
    call["shift_labels"] = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    return call


def of_another_rank(key: str) -> Callable[[list[Inputs]], list[Inputs]]:
    """One key of each rank is that of the next one."""

    def change(calls: list[Inputs]) -> list[Inputs]:
        others = [*calls[1:], calls[0]]
        return [{**one, key: other[key]} for one, other in zip(calls, others, strict=True)]

    return change


def whole_on_each(key: str) -> Callable[[list[Inputs]], list[Inputs]]:
    """One key is not split."""

    def change(calls: list[Inputs]) -> list[Inputs]:
        whole = torch.cat([one[key] for one in calls], -1)
        return [{**one, key: whole} for one in calls]

    return change


def halve_pixels(calls: list[Inputs]) -> list[Inputs]:
    """Rows of pixels are divided among ranks, images are not."""
    return [
        {**one, "pixel_values": one["pixel_values"].tensor_split(len(calls))[rank]}
        if "pixel_values" in one
        else one
        for rank, one in enumerate(calls)
    ]


def learn_padding(rank: int, call: Inputs) -> Inputs:
    key = "shift_labels"
    hidden = call["attention_mask"] == 0
    return {**call, key: call[key].masked_fill(hidden, 7)}


WRONG: dict[str, tuple[Callable[[list[Inputs]], list[Inputs]], str, bool]] = {
    "a token lost": (lose_token, "VLM006", True),
    "a token twice": (repeat_token, "VLM006", True),
    "a rank lost": (lambda calls: calls[:-1], "VLM006", True),
    "no positions": (each(without_positions), "VLM014", True),
    "positions restart": (each(positions_restart), "VLM014", True),
    "positions of another rank": (of_another_rank("position_ids"), "VLM014", True),
    "labels shifted on ranks": (each(shift_on_rank), "VLM013", False),
    "labels of another rank": (of_another_rank("shift_labels"), "VLM013", True),
    "padding learned": (each(learn_padding), "VLM013", True),
    "mask of another rank": (of_another_rank("attention_mask"), "VLM011", True),
    "positions not split": (whole_on_each("position_ids"), "VLM011", True),
    "rows of pixels divided": (halve_pixels, "VLM001", True),
}
"""Wrong ways: the change, the code of the finding, and whether labels are shifted before."""
