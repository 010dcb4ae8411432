"""`watch` as a callback of transformers' `Trainer`, and of every trainer made from it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from vlmdebug.core.given import kind_of
from vlmdebug.watching.watch import OnMismatch, Trace, watch


class WatchCallback(TrainerCallback):
    """Judges every call of the model while a trainer trains.

        callback = vlmdebug.WatchCallback(processor=processor, log="trace.jsonl")
        Trainer(..., callbacks=[callback]).train()
        callback.trace.report()

    The hook is registered on the trainer's own model when training begins, so it also sees calls
    through DDP and accelerate. It is removed when training ends. A trainer that fails does not
    notify its callbacks: then call `close()`, or train again, which starts a new trace.

    Args:
        processor, config, on_mismatch, log, coordinates, shards, embedded: As in `vlmdebug.watch`.

    Attributes:
        trace: All calls of the last training run, also if it failed.
    """

    def __init__(
        self,
        *,
        processor: Any = None,
        config: Any = None,
        on_mismatch: OnMismatch = "warn",
        log: str | Path | None = None,
        coordinates: Mapping[str, int] | None = None,
        shards: int | None = None,
        embedded: bool = False,
    ) -> None:
        self.trace: Trace = Trace()
        self._options: dict[str, Any] = {
            "processor": processor,
            "config": config,
            "on_mismatch": on_mismatch,
            "log": log,
            "coordinates": coordinates,
            "shards": shards,
            "embedded": embedded,
        }
        self._watching = ExitStack()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to watch `kwargs["model"]`; without a processor, use the trainer's own."""
        self.close()
        own = kwargs.get("processing_class") if self._options["processor"] is None else None
        if kind_of(own) not in (None, "processor"):
            own = None  # a tokenizer, as for a text trainer: it knows nothing about images
        options = {**self._options, "processor": own} if own is not None else self._options
        self.trace = self._watching.enter_context(watch(kwargs["model"], **options))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop watching."""
        self.close()

    def close(self) -> None:
        """Remove the hook and close the log; does nothing if no model is watched."""
        self._watching.close()
