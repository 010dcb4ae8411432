"""The stand-in for a model while code that calls one is recorded.

It accepts every call, keeps the arguments, and returns outputs of the right shape, so that the code
continues. It has no weights. Features that it lacks are never blamed on the code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from functools import cached_property
from inspect import Parameter, Signature
from types import SimpleNamespace
from typing import Any

import torch

from vlmdebug.core.keys import CACHES, EXTRAS, KNOWN
from vlmdebug.errors import NotJudged

VOCAB_SIZE, HIDDEN_SIZE = 512, 8
MOST_CALLS = 2000
"""Calls after which the recorded code is stopped."""


class Lacks(NotJudged, AttributeError):
    """The code read something that only a real model has."""


class Outputs(dict[str, Any]):
    """The stand-in's outputs: a dict with attributes and indices, as transformers' outputs.

    Each output is made when it is read: recording costs little compared to the recorded code.
    Outputs that are only read by attribute, such as `log_probs`, are not among the items.
    """

    def __init__(self, makers: Mapping[str, Callable[[], Any]], items: Iterable[str]) -> None:
        super().__init__(dict.fromkeys(items))
        self.__dict__["_makers"] = makers

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        makers = self.__dict__["_makers"]
        if name not in makers:
            raise Lacks(
                f"The code read {name!r} of the model's outputs, but the recording stand-in gives "
                f"{', '.join(makers)}. Nothing was judged. "
                "Record code that reads these only, or watch the real model: vlmdebug.watch(model)."
            )
        value = makers[name]()
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(name, None)
        self.__dict__[name] = value

    def __getitem__(self, name: Any) -> Any:
        return getattr(self, name) if isinstance(name, str) else self.to_tuple()[name]

    def __iter__(self) -> Iterator[str]:  # with it, dict(outputs) reads the values
        return super().__iter__()

    def get(self, name: str, default: Any = None) -> Any:
        """An output, or `default`."""
        return self[name] if name in self or name in self._makers else default

    def to_tuple(self) -> tuple[Any, ...]:
        """The loss, if labels were given, and the logits."""
        return tuple(self[name] for name in self)

    def values(self) -> Any:
        return self.to_tuple()

    def items(self) -> Any:
        return tuple((name, self[name]) for name in self)


class _Config(SimpleNamespace):
    """The fields of a config that trainers read."""

    def get_text_config(self, *_: Any, **__: Any) -> _Config:
        return self

    def to_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Lacks(
            f"The code read config.{name}, which the recording stand-in for the model has not. "
            "Nothing was judged. Give it a config: vlmdebug.record(function, config=model.config)."
        )


def signature_of(names: Iterable[str]) -> Signature:
    """`(self, *args, input_ids=None, …, **kwargs)`."""
    kinds = Parameter
    named = [Parameter(name, kinds.KEYWORD_ONLY, default=None) for name in sorted(names)]
    return Signature(
        [
            Parameter("self", kinds.POSITIONAL_OR_KEYWORD),
            Parameter("args", kinds.VAR_POSITIONAL),
            *named,
            Parameter("kwargs", kinds.VAR_KEYWORD),
        ]
    )


class RecordingModel(torch.nn.Module):
    """Represents a causal language model: keeps every call, computes nothing.

    Attributes:
        calls: The inputs of each call by name, in order. Slices of the batch are kept as passed;
            other tensors are copied, because the code may reuse a buffer for its next call.
        config: Has the fields that trainers read.
    """

    base_model_prefix = "model"
    is_gradient_checkpointing = supports_gradient_checkpointing = False
    main_input_name = "input_ids"
    name_or_path = "vlmdebug-recording"

    def __init__(self, config: Any = None, batch: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.calls: list[dict[str, Any]] = []
        self._memory = {
            _memory(value): key for key, value in (batch or {}).items() if _is_tensor(value)
        }
        ids = getattr(batch, "token_ids", {})
        self.config = config or _Config(
            model_type="vlmdebug_recording",
            vocab_size=VOCAB_SIZE,
            hidden_size=HIDDEN_SIZE,
            is_encoder_decoder=False,
            use_cache=False,
            output_router_logits=False,
            router_aux_loss_coef=0.0,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
            **{f"{kind}_token_id": token for kind, token in ids.items()},
        )
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.warnings_issued: dict[str, bool] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> RecordingModel:
        """A copy, such as a reference model; its calls are recorded with the model's own."""
        other = RecordingModel(self.config)
        other.calls, other._memory = self.calls, self._memory
        return other

    @property
    def device(self) -> torch.device:
        """The device that the stand-in reports."""
        return self.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that it reports."""
        return self.weight.dtype

    @cached_property
    def generation_config(self) -> SimpleNamespace:
        """Options of generation, which are ignored."""
        return SimpleNamespace(bos_token_id=None, eos_token_id=None, pad_token_id=None)

    @cached_property
    def base_model(self) -> Callable[..., Outputs]:
        """The model without its head; calls of it are calls of the model."""
        return _Backbone(self.__call__)

    @property
    def model(self) -> Callable[..., Outputs]:
        """The same, by the name that most models use."""
        return self.base_model

    @cached_property
    def lm_head(self) -> torch.nn.Module:
        """The head, `(…, hidden)` to `(…, vocab)`."""
        return torch.nn.Linear(HIDDEN_SIZE, VOCAB_SIZE, bias=False)

    def get_decoder(self) -> Callable[..., Outputs]:
        """The same again."""
        return self.base_model

    def get_base_model(self) -> RecordingModel:
        """Itself, as inside PEFT's wrapper."""
        return self

    def get_input_embeddings(self) -> torch.nn.Module:
        """The embeddings, `(…)` to `(…, hidden)`; they accept any token."""
        return self._embeddings

    @cached_property
    def _embeddings(self) -> torch.nn.Module:
        return _Embeddings(VOCAB_SIZE, HIDDEN_SIZE)

    def get_output_embeddings(self) -> torch.nn.Module:
        """The head."""
        return self.lm_head

    def disable_adapter(self) -> Any:
        """A context without adapters; there are none."""
        return nullcontext()

    def can_generate(self) -> bool:
        return True

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Methods that trainers call for their effect on a real model."""

    add_model_tags = enable_input_require_grads = resize_token_embeddings = tie_weights = _nothing
    gradient_checkpointing_enable = gradient_checkpointing_disable = _nothing

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise Lacks(
                f"The code read model.{name}, which the recording stand-in for the model has not. "
                "Nothing was judged. "
                "Record less of the code, or watch the real model: vlmdebug.watch(model)."
            ) from None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the inputs; return zeros with the right shape and a gradient."""
        inputs = {**self._named(args), **kwargs}
        self._keep(inputs)
        tokens = inputs.get("input_ids")
        tokens = inputs.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:
            raise ValueError("the model was called with neither input_ids nor inputs_embeds")
        outputs = self._outputs(tokens, inputs)
        return outputs if inputs.get("return_dict") is not False else outputs.to_tuple()

    # Code that filters keys by a model's signature passes every key that any model takes.
    forward.__signature__ = signature_of(KNOWN | EXTRAS)  # type: ignore[attr-defined]

    def _named(self, args: tuple[Any, ...]) -> dict[str, Any]:
        """Names of positional arguments; models agree only on the first."""
        found: dict[str, Any] = dict(zip(("input_ids",), args, strict=False))
        for value in args[1:]:
            key = self._memory.get(_memory(value)) if _is_tensor(value) else None
            if key is None and value is not None:
                alike = "attention_mask" not in found and _shape(value) == _shape(args[0])
                key = "attention_mask" if alike else None
            if key is None and value is not None:
                raise NotJudged(BY_PLACE)
            if key is not None:
                found[key] = value
        return found

    def generate(self, inputs: Any = None, **kwargs: Any) -> Any:
        """Keep the inputs; return each sample's tokens and one more, a 0."""
        given = kwargs if inputs is None else {"input_ids": inputs, **kwargs}
        self._keep(given)
        ids = given["input_ids"].repeat_interleave(kwargs.get("num_return_sequences") or 1, 0)
        sequences = torch.cat([ids, ids.new_zeros(len(ids), 1)], 1)  # (sample, seq + 1)
        if not kwargs.get("return_dict_in_generate"):
            return sequences
        return Outputs({"sequences": lambda: sequences}, ["sequences"])

    def _keep(self, inputs: Mapping[str, Any]) -> None:
        if len(self.calls) >= MOST_CALLS:
            raise NotJudged(
                f"The code called the model {MOST_CALLS:,} times and did not come to an end, so it "
                "was stopped. Nothing was judged. Record a loop that ends with its batch."
            )
        self.calls.append({key: self._kept(value) for key, value in inputs.items()})

    def _kept(self, value: Any) -> Any:
        return value.clone() if _is_tensor(value) and _memory(value) not in self._memory else value

    def _outputs(self, tokens: torch.Tensor, inputs: Mapping[str, Any]) -> Outputs:
        rows, seq = tokens.shape[:2]
        keep = inputs.get("logits_to_keep") or seq
        keep = len(keep) if isinstance(keep, torch.Tensor) else min(int(keep), seq)

        def zeros(*shape: int) -> torch.Tensor:
            return (self.weight.sum() * 0.0).expand(shape)

        def logits() -> torch.Tensor:
            known = getattr(self.config, "vocab_size", VOCAB_SIZE)
            whole = tokens.numel() and not tokens.is_floating_point()
            vocab = max(known, int(tokens.max()) + 1) if whole else known
            return zeros(rows, keep, vocab).clone()

        makers: dict[str, Callable[[], Any]] = {
            "logits": logits,
            "last_hidden_state": lambda: zeros(rows, seq, HIDDEN_SIZE),
            "hidden_states": lambda: (zeros(rows, seq, HIDDEN_SIZE),),
            "log_probs": lambda: zeros(rows, seq),
            "entropy": lambda: zeros(rows, seq),
            "aux_loss": lambda: zeros(),
            **dict.fromkeys(CACHES, lambda: None),
            "attentions": lambda: None,
            "rope_deltas": lambda: None,
        }
        if inputs.get("labels") is None:
            return Outputs({**makers, "loss": lambda: None}, ["logits"])
        return Outputs({**makers, "loss": lambda: zeros()}, ["loss", "logits"])


class _Backbone:
    """Calls of it are calls of the model. It is not a module: a module has only one parent."""

    def __init__(self, call: Callable[..., Outputs]) -> None:
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Outputs:
        return self._call(*args, **kwargs)

    forward = __call__


class _Embeddings(torch.nn.Embedding):
    """Embeddings of any token, whatever the vocabulary of the batch."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input % self.num_embeddings)


BY_PLACE = (
    "The model was called with arguments by place, but models do not agree on their order, and the "
    "recording stand-in is any model. Nothing was judged. "
    "Pass them by name: model(input_ids=…, pixel_values=…)."
)


def _memory(value: torch.Tensor) -> int:
    """The start of the memory that a tensor is part of."""
    return value.untyped_storage().data_ptr()


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _shape(value: Any) -> Any:
    return getattr(value, "shape", None)
