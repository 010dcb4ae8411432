"""The arguments of a model call, by name.

Models do not agree on the order of their arguments: `pixel_values` comes second in LLaVA and
InternVL, `attention_mask` in Idefics3. So the signature of `forward` is read. If a wrapper (DDP,
PEFT, torch.compile) only forwards its arguments, the signature of the inner model is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from typing import Any
from weakref import ref

import torch

from vlmdebug.core.keys import KNOWN, MEDIA_KEYS
from vlmdebug.errors import BadInput
from vlmdebug.families.unreadable import dispatches

CHECKPOINTS = "gradient_checkpointing"
"""The attribute of modules that compute their activations again."""
Parameters = Mapping[str, inspect.Parameter]
Mode = tuple[int, ...]
"""Which model is run and how, by `mode_of`: the same in all calls that share a batch."""


class Arguments:
    """The arguments of one model by name; its signature is read once.

    Attributes:
        own: Names in the signature of the model or of a model inside it.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        signatures = [_parameters(module) for module in _within(model)]
        self.own: frozenset[str] = frozenset(name for found in signatures for name in found)
        self._places = next(filter(None, map(_places, signatures)), ())
        self._configs, texts = _configs(model)
        self._checkpointed = [
            ref(one)
            for one in model.modules()
            if hasattr(one, CHECKPOINTS) and any(getattr(one, "config", None) is of for of in texts)
        ]

    def named(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The inputs of a call with these arguments; a single mapping is read as its content.

        Raises:
            BadInput: A tensor was passed by position, and no signature gives its name.
        """
        if not args:
            return kwargs
        if len(args) == 1 and isinstance(args[0], Mapping):
            return {**args[0], **kwargs}
        nameless = [one for one in args[len(self._places) :] if isinstance(one, torch.Tensor)]
        if nameless:
            raise BadInput(
                f"The model was called with {len(args)} arguments by place, but the signature of "
                f"its forward names {len(self._places)}. This call was not judged. "
                "Pass them by name: model(input_ids=…, pixel_values=…)."
            )
        return {**dict(zip(self._places, args, strict=False)), **kwargs}

    def makes_cache(self, inputs: Mapping[str, Any]) -> bool:
        """Whether the model may begin a cache in a call, by the call, else by its config.

        Most models read the config of their text, some their own (`modeling_llama.forward`,
        `modeling_idefics3.forward`, transformers 5.24). None does while it trains with gradient
        checkpointing (`utils/generic.merge_with_config_defaults`).
        """
        asked = inputs.get("use_cache")
        if asked is None:
            asked = any(getattr(one, "use_cache", None) is True for one in self._configs)
        return bool(asked) and not (torch.is_grad_enabled() and self._is_checkpointed)

    @property
    def _is_checkpointed(self) -> bool:
        texts = filter(None, (one() for one in self._checkpointed))
        return any(one.training and getattr(one, CHECKPOINTS) is True for one in texts)


def mode_of(model: torch.nn.Module) -> Mode:
    """The model, whether it trains, and whether with gradients or in inference mode."""
    grads, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    return id(model), getattr(model, "training", False), grads, inference


def _configs(model: torch.nn.Module) -> tuple[list[Any], list[Any]]:
    """The configs in a model and its wrappers that may ask for a cache, and those of text."""
    found = [config for one in _within(model) if (config := getattr(one, "config", None))]
    texts = [one.get_text_config() for one in found if hasattr(one, "get_text_config")]
    return [*found, *texts], texts


def refuse_unreadable(inputs: Mapping[str, Any], dense: Collection[str]) -> None:
    """Raise if rows of the inputs cannot be identified.

    Args:
        inputs: The arguments of the call, by name.
        dense: Names of the tensors with rows stored in memory.

    Raises:
        BadInput: There are no `input_ids`, or no samples or tokens in them; or an argument with
            rows is not a tensor, or a tensor without rows in memory, such as a sparse one.
    """
    ids = inputs.get("input_ids")
    if ids is None:
        raise BadInput("The model was called without input_ids, so samples cannot be identified.")
    for key, value in inputs.items():
        if key not in dense and key in KNOWN:
            _refuse(key, value)
    if ids.ndim != 2:
        raise BadInput(
            f"The model was called with input_ids of shape {tuple(ids.shape)}, but a call is "
            "judged by rows of tokens, one per sample: (sample, seq). This call was not judged."
        )
    if 0 in ids.shape:
        what = "no sample" if not len(ids) else "no token"
        raise BadInput(
            f"The model was called with {what}: input_ids has shape {tuple(ids.shape)}. There was "
            "nothing to judge. End the loop with the batch."
        )


def is_dense(value: Any) -> bool:
    """Whether it is a tensor with rows stored in memory."""
    kind = type(value)
    if kind is not torch.Tensor and (not isinstance(value, torch.Tensor) or dispatches(kind)):
        return False
    return value.layout is torch.strided and not value.is_nested


def _refuse(key: str, value: Any) -> None:
    """Refuse a key that is not a dense tensor if its rows would be judged."""
    if not isinstance(value, torch.Tensor):
        if value is None or not (key == "input_ids" or key in MEDIA_KEYS):
            return
        many = f" of {len(value)}" if hasattr(value, "__len__") else ""
        raise BadInput(
            f"The model was called with {key} as a {type(value).__name__}{many}, but rows can be "
            "identified only in a tensor. This call was not judged. Pass the tensor."
        )
    if dispatches(type(value)):
        raise BadInput(
            f"The model was called with {key} as a {type(value).__name__}, a tensor class of its "
            "own, but rows can be identified only in a plain tensor. This call was not judged. "
            "Watch a module that is called with plain tensors."
        )
    raise BadInput(
        f"The model was called with a {'nested' if value.is_nested else 'sparse'} {key}, but "
        "rows can be identified only if they are consecutive in memory. This call was not "
        "judged. Pass a dense tensor."
    )


def _within(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The model and, if its forward passes on arguments that it does not name, the inner model."""
    module: Any = model
    while isinstance(module, torch.nn.Module):
        yield module
        kinds = {parameter.kind for parameter in _parameters(module, every=True).values()}
        if not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}:
            return
        module = _wrapped(module)


def _wrapped(module: Any) -> Any:
    """The one module that this module wraps; None if there is none."""
    for name in ("_orig_mod", "module"):  # torch.compile; DDP, FSDP, DataParallel, DeepSpeed
        if isinstance(getattr(module, name, None), torch.nn.Module):
            return getattr(module, name)
    if hasattr(module, "get_base_model"):  # PEFT
        return module.get_base_model()
    children = list(module.children())
    return children[0] if len(children) == 1 else None


def _parameters(module: torch.nn.Module, *, every: bool = False) -> Parameters:
    """Parameters of its forward that have a name of their own, or `every` one."""
    try:
        found = inspect.signature(module.forward).parameters
    except (TypeError, ValueError):  # scripted modules and other built-ins have no signature
        return {}
    starred = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: one for name, one in found.items() if every or one.kind not in starred}


def _places(parameters: Parameters) -> tuple[str, ...]:
    """Names of the parameters that can be passed by position, in order."""
    return tuple(
        name
        for name, parameter in parameters.items()
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY
    )
