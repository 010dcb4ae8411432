"""LLaMA-Factory's KTO passes the keys that it selects to the model."""

from __future__ import annotations

from typing import Any

from vlmdebug.core.signature import Slicer
from vlmdebug.running.record import record
from vlmdebug.slicers import corrected
from vlmdebug.trainers.adapter import Adapter, Inputs
from vlmdebug.trainers.source import Library

ADAPTER = Adapter("llamafactory", "llamafactory", ("0.9.3", "0.9.4", "0.9.5"))


def _log_probs(logits: Any, labels: Any) -> tuple[Any, Any]:
    """A replacement for what is computed after the model: log-probs and their number."""
    return logits[:, 0, 0], labels[:, 0] + 1


@ADAPTER.slicer("kto", "KTO forward")
def kto(library: Library) -> Slicer:
    """Each call gets a correct batch; what it passes on is judged."""
    module = library.module("llamafactory.train.kto.trainer").replace(get_batch_logps=_log_probs)
    trainer = module.instance("CustomKTOTrainer")

    def loop(model: Any, inputs: Inputs, chunk_size: int) -> None:
        for batch in corrected(inputs, chunk_size):
            trainer.forward(model, {**batch, "labels": batch["input_ids"]})

    return record(loop)
