"""`record`: any code that calls a model, as a slicer.

The code is given a stand-in for the model. It takes every call, keeps what it was handed, and
answers with outputs of the right shape, so that the code runs on. No weight is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch

from vlmdebug.errors import BadInput

POSITIONAL = ("input_ids", "attention_mask")
"""Names of arguments that a causal model may be handed by position."""


class Outputs:
    """What the stand-in answers, by attribute or by name, as transformers' outputs do.

    Each output is made when it is asked for: recording costs little beside the code recorded.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Any]]) -> None:
        self._makers = makers

    def keys(self) -> list[str]:
        """Names of what can be asked for."""
        return list(self._makers)

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def get(self, name: str, default: Any = None) -> Any:
        """An output, or `default`."""
        return getattr(self, name) if name in self._makers else default

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            value = self._makers[name]()
        except KeyError:
            raise AttributeError(
                f"The recording stand-in for the model gives no {name!r}; "
                f"it gives {', '.join(self._makers)}. "
                "Record code that reads these only, or wrap it."
            ) from None
        setattr(self, name, value)
        return value


class RecordingModel(torch.nn.Module):
    """Stands for a causal language model: keeps every call, computes nothing.

    Attributes:
        calls: The keyword inputs of each call, in order. Slices of the batch are the ones handed
            over; other tensors are copied, for code may fill the same buffer for its next call.
        config: Has the fields that trainers read.
    """

    def __init__(
        self,
        config: Any = None,
        vocab_size: int = 512,
        hidden_size: int = 8,
        batch: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []
        self._memory = {_memory(value) for value in (batch or {}).values()}
        self.config = config or SimpleNamespace(
            model_type="vlmdebug_recording",
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            is_encoder_decoder=False,
            use_cache=False,
            output_router_logits=False,
            router_aux_loss_coef=0.0,
        )
        self.vocab_size, self.hidden_size = vocab_size, hidden_size
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.warnings_issued: dict[str, bool] = {}

    @property
    def device(self) -> torch.device:
        """Where the stand-in says it lies."""
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision it says it has."""
        return self.weight.dtype

    def forward(self, *args: Any, **kwargs: Any) -> Outputs:
        """Keep the inputs; answer with zeros that have the right shape and a gradient."""
        inputs = {**dict(zip(POSITIONAL, args, strict=False)), **kwargs}
        self.calls.append({key: self._kept(value) for key, value in inputs.items()})
        ids = inputs.get("input_ids")
        if ids is None:
            raise TypeError("the model was called without input_ids")
        return self._outputs(ids, inputs)

    def _kept(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or _memory(value) in self._memory:
            return value
        return value.clone()

    def _outputs(self, ids: torch.Tensor, inputs: Mapping[str, Any]) -> Outputs:
        rows, seq = ids.shape
        keep = inputs.get("logits_to_keep") or seq
        keep = len(keep) if isinstance(keep, torch.Tensor) else min(int(keep), seq)

        def zeros(*shape: int) -> torch.Tensor:
            return (self.weight.sum() * 0.0).expand(shape)

        def logits() -> torch.Tensor:
            vocab = max(self.vocab_size, int(ids.max()) + 1) if ids.numel() else self.vocab_size
            return zeros(rows, keep, vocab).clone()

        makers: dict[str, Callable[[], Any]] = {
            "logits": logits,
            "last_hidden_state": lambda: zeros(rows, seq, self.hidden_size),
            "hidden_states": lambda: (zeros(rows, seq, self.hidden_size),),
            "log_probs": lambda: zeros(rows, seq),
            "entropy": lambda: zeros(rows, seq),
            "aux_loss": lambda: zeros(),
            "past_key_values": lambda: None,
            "attentions": lambda: None,
        }
        if inputs.get("labels") is not None:
            makers["loss"] = lambda: zeros()
        return Outputs(makers)

    def get_input_embeddings(self) -> torch.nn.Module:
        """An embedding, for code that only asks whether there is one."""
        return torch.nn.Embedding(1, self.hidden_size)

    def get_output_embeddings(self) -> torch.nn.Module:
        """A head, likewise."""
        return torch.nn.Linear(self.hidden_size, 1)


def _memory(value: Any) -> int | None:
    """Where the memory begins that a tensor is a part of; None for what is no tensor."""
    return value.untyped_storage().data_ptr() if isinstance(value, torch.Tensor) else None


def record(
    function: Callable[[Any, dict[str, Any], int], Any],
) -> Callable[[dict[str, Any], int], Iterator[dict[str, Any]]]:
    """Turn `function(model, inputs, chunk_size)`, which calls `model`, into a slicer.

    Each call of the model is one chunk. An exception inside the function reaches `check` after
    the chunks that were recorded before it, so both are reported.

    Raises:
        BadInput: What was given is no function, or is the model itself.
    """
    if not callable(function) or isinstance(function, torch.nn.Module):
        raise BadInput(
            f"record was given a {type(function).__name__}, but it takes the code that calls a "
            "model: a function of (model, inputs, chunk_size). Nothing was recorded. "
            "Pass your loop; to see a model's own calls, use watch(model)."
        )

    def slicer(inputs: dict[str, Any], chunk_size: int) -> Iterator[dict[str, Any]]:
        model = RecordingModel(batch=inputs)
        error: Exception | None = None
        try:
            function(model, inputs, chunk_size)
        except Exception as raised:  # the function's own; handed on below
            error = raised
        yield from model.calls
        if error is not None:
            raise error

    slicer.__name__ = getattr(function, "__name__", "recorded")
    slicer.__doc__ = getattr(function, "__doc__", None)
    slicer.__wrapped__ = function  # type: ignore[attr-defined]
    return slicer
