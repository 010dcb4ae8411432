"""verl keeps the media of each sample apart and joins those of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from vlmdebug.core.signature import Slicer
from vlmdebug.trainers.adapter import TEXT, Adapter, Inputs, per_sample
from vlmdebug.trainers.source import Library

ADAPTER = Adapter(
    "verl",
    "verl",
    ("0.7.0", "0.7.1", "0.8.0", "0.9.0", "0.9.1"),
    needs=("tensordict", "pyvers", "cloudpickle", "orjson"),
)


def _held_and_joined(
    library: Library,
) -> tuple[Callable[[Inputs], Any], Callable[[Any], Inputs]]:
    """How a batch is put into a `DataProto`, and what the actor passes to the model of a part."""
    data_proto = library.module("verl.protocol").DataProto
    join = library.module("verl.utils.model").extract_multi_modal_inputs

    def held(inputs: Inputs) -> Any:
        samples = per_sample(inputs, *TEXT)
        media = np.empty(len(samples), dtype=object)
        media[:] = [one or None for one in samples]
        text = {key: inputs[key] for key in TEXT}
        return data_proto.from_dict(tensors=text, non_tensors={"multi_modal_inputs": media})

    def joined(part: Any) -> Inputs:
        return {**part.batch, **join(part.non_tensor_batch["multi_modal_inputs"])}

    return held, joined


@ADAPTER.slicer("fixed", "DataProto.split, extract_multi_modal_inputs")
def fixed(library: Library) -> Slicer:
    """Micro-batches of chunk_size samples."""
    held, joined = _held_and_joined(library)

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        return map(joined, held(inputs).split(chunk_size))

    return slicer


@ADAPTER.slicer("dynamic", "prepare_dynamic_batch, extract_multi_modal_inputs")
def dynamic(library: Library) -> Slicer:
    """Micro-batches of about equal token numbers, in their own order."""
    held, joined = _held_and_joined(library)
    balance = library.module("verl.utils.seqlen_balancing").prepare_dynamic_batch

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        tokens = inputs["input_ids"].shape[1] * chunk_size
        return map(joined, balance(held(inputs), max_token_len=tokens)[0])

    slicer.any_order = True  # type: ignore[attr-defined]  # verl restores the order of the outputs
    return slicer
