"""A chunk as it was observed, with the batch and the run that it is judged by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdebug.checking.cut_causes import Causes, samples_of
from vlmdebug.core.batch import Batch
from vlmdebug.core.lazy import lazy
from vlmdebug.core.observed import ObservedCall, ObservedKey, SlicerRun
from vlmdebug.core.part import Part
from vlmdebug.outcomes.forecast import Forecast


class ObservedChunk:
    """One chunk of a run.

    Attributes:
        batch: The batch that was cut.
        run: The run.
        index: Number of the chunk, from 0.
        used: What it holds.
        part: The samples it holds, in order, and their tokens.
        samples: The same samples as numbers.
        forecast: What the model would make of a fault in it.
        causes: What the wrong rows of the run have in common.
    """

    batch: Batch
    run: SlicerRun
    index: int
    used: ObservedCall
    causes: Causes

    def __init__(
        self, batch: Batch, run: SlicerRun, index: int, used: ObservedCall, causes: Causes
    ) -> None:
        self.batch, self.run, self.index, self.used, self.causes = batch, run, index, used, causes
        self.part: Part = batch.part(samples_of(batch, run, index, used))
        self.samples: tuple[int, ...] = tuple(self.part.samples)
        self.forecast: Forecast = Forecast(batch, used, self.part)

    @property
    def keys(self) -> Mapping[str, ObservedKey]:
        """What each of its keys holds."""
        return self.used.keys

    @property
    def placeholders(self) -> int | None:
        """Placeholder tokens of images, as its `input_ids` has them."""
        return self.used.placeholders.get("image")

    @lazy
    def place(self) -> dict[str, Any]:
        """Chunk and samples, as each difference names them."""
        packed = self.used.spans is not None
        return {"chunk": self.index, "samples": self.samples, "packed": packed}
