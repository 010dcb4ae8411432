"""accelerate's DataLoaderDispatcher gives each process its part of one batch."""

from __future__ import annotations

from collections.abc import Iterator

from vlmdebug.core.signature import Slicer
from vlmdebug.trainers.adapter import Adapter, Inputs, without_counts
from vlmdebug.trainers.source import Library

ADAPTER = Adapter(
    "accelerate",
    "accelerate",
    ("1.0.1", "1.10.1", "1.11.0", "1.12.0", "1.13.0", "1.14.0", "1.15.0"),
)


@ADAPTER.slicer("dispatch", "slice_tensors")
def dispatch(library: Library) -> Slicer:
    """The parts of a batch, in the order of the processes."""
    cut = library.module("accelerate.utils.operations").slice_tensors

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        batch = without_counts(inputs)
        for start in range(0, len(batch["input_ids"]), chunk_size):
            yield cut(batch, slice(start, start + chunk_size))

    return slicer
