"""A model and a batch of which anything may be read: what they lack is invented and listed."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from vlmdebug.core.keys import KEYS, Kind
from vlmdebug.review.calls import PASSED
from vlmdebug.running.check import TrackedInputs
from vlmdebug.running.invented import Ledger, invented_in, is_invented
from vlmdebug.running.stand_in import Lacks, RecordingModel


class OpenModel(RecordingModel):
    """The recording stand-in; what it lacks is invented, too."""

    def __init__(self, batch: Any, ledger: Ledger) -> None:
        super().__init__(None, batch)
        self.__dict__["_ledger"] = ledger
        fields = vars(self.config)
        self.config: Any = _Open("model.config", ledger, fields)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the inputs; what the model would return is invented."""
        self._keep({**self._named(args), **kwargs})
        return self.__dict__["_ledger"].read("outputs")

    def generate(self, inputs: Any = None, **kwargs: Any) -> Any:
        """The same."""
        self._keep(kwargs if inputs is None else {"input_ids": inputs, **kwargs})
        return self.__dict__["_ledger"].read("outputs")

    forward.__signature__ = RecordingModel.forward.__signature__  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except Lacks:
            if name.startswith("__") or "_ledger" not in self.__dict__:
                raise AttributeError(name) from None
            return self.__dict__["_ledger"].read(f"model.{name}")

    def _keep(self, inputs: Mapping[str, Any]) -> None:
        super()._keep(without_invented(inputs, self.__dict__["_ledger"]))


class OpenBatch(TrackedInputs):
    """The batch; entries that trainers add to one are invented."""

    def __init__(self, inputs: Any = (), ledger: Ledger | None = None) -> None:
        super().__init__(inputs, getattr(inputs, "token_ids", None))
        if isinstance(inputs, TrackedInputs):
            self.__dict__["missing_lookups"] = inputs.missing_lookups
        self.__dict__["_ledger"] = ledger  # None: code made another batch of this class

    def _with(self, inputs: Mapping[str, Any]) -> TrackedInputs:
        return OpenBatch(super()._with(inputs), self.__dict__["_ledger"])

    def __missing__(self, key: str) -> Any:
        ledger: Ledger | None = self.__dict__["_ledger"]
        known = key in KEYS and KEYS[key].kind is not Kind.TRAINER
        if known or ledger is None or not isinstance(key, str):
            return super().__missing__(key)
        return ledger.read(f"inputs.{key}")


class _Open(types.SimpleNamespace):
    """Known fields; others are invented."""

    def __init__(self, path: str, ledger: Ledger, fields: Mapping[str, Any]) -> None:
        super().__init__(**fields)
        self.__dict__["_read"] = lambda name: ledger.read(f"{path}.{name}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self.__dict__["_read"](name)


def without_invented(inputs: Mapping[str, Any], ledger: Ledger) -> dict[str, Any]:
    """The inputs of a call without invented options.

    Raises:
        Gap: A key of the batch has invented rows.
    """
    kept = {}
    for key, value in inputs.items():
        if not is_invented(value):
            kept[key] = value
        elif key in KEYS and KEYS[key].kind in PASSED:
            raise ledger.lacks(invented_in(value), f"the rows of {key}, and so the value")
    return kept
