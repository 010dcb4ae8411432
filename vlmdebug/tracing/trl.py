"""The installed TRL's own slicing code, unmodified, as slicers.

Two paths are offered. The chunked log-prob loop (`_get_per_token_logps_and_entropies`) cuts a
batch into chunks and calls the model on each. The generation buffer splits a batch per sample,
shuffles it, cuts it into steps and joins each step's pixels again; there samples come in
another order, and every image must follow its sample.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from vlmdebug.errors import BadInput, VlmDebugError
from vlmdebug.families.streams import KEYS
from vlmdebug.tracing.record import record

LOOPS = {"grpo": ("grpo_trainer", "GRPOTrainer"), "rloo": ("rloo_trainer", "RLOOTrainer")}
"""Trainers whose log-prob pass runs in chunks: module and class."""

BUFFERS = {
    "grpo-buffer": "grpo_trainer",
    "rloo-buffer": "rloo_trainer",
    "distillation": "distillation_trainer",
}
"""Trainers that buffer a generation batch and cut it into steps: the module."""

UNCUT = {
    "dpo": "its collator's batch goes to the model whole",
    "sft": "its collator's batch goes to the model whole",
    "kto": "its collator's batch goes to the model whole",
    "online-dpo": "the batch goes to the model whole, each prompt twice",
}
"""Trainers that do not cut a batch themselves, and what they do instead."""


def trl_slicer(name: str) -> Callable[[dict[str, Any], int], Iterator[dict[str, Any]]]:
    """The slicing code of one trainer of the installed TRL.

    Args:
        name: `"grpo"` or `"rloo"` (log-prob loop), `"grpo-buffer"`, `"rloo-buffer"` or
            `"distillation"` (generation buffer).

    Raises:
        BadInput: There is no such trainer, it does not cut batches, or this TRL lacks it.
        VlmDebugError: TRL is not installed.
    """
    try:
        import trl
    except ImportError as error:
        raise VlmDebugError(
            "trl is not installed, so its code cannot be run. "
            "Install it: pip install 'vlmdebug[trl]'"
        ) from error
    if name in LOOPS:
        slicer = record(_loop(*LOOPS[name]))
    elif name in BUFFERS:
        slicer = _buffer(BUFFERS[name])
    elif name in UNCUT:
        raise BadInput(
            f"TRL's {name} trainer cuts no batch: {UNCUT[name]}. There is nothing to try."
        )
    else:
        raise BadInput(f"{name!r} is no slicer of TRL. Known are {', '.join([*LOOPS, *BUFFERS])}.")
    slicer.__name__ = f"trl {trl.__version__} {name}"
    return slicer


def _module(name: str) -> Any:
    try:
        return importlib.import_module(f"trl.trainer.{name}")
    except ImportError as error:
        raise BadInput(f"This TRL has no trl.trainer.{name}: {error}.") from error


def _loop(module: str, trainer: str) -> Callable[[Any, dict[str, Any], int], None]:
    cls = getattr(_module(module), trainer)
    method = getattr(cls, "_get_per_token_logps_and_entropies", None) or getattr(
        cls, "_get_per_token_logps", None
    )
    if method is None:
        raise BadInput(f"{trainer} of this TRL has no chunked log-prob loop.")
    # Decorators time the call and want a whole trainer; the loop is the function they wrap.
    loop = inspect.unwrap(method)
    takes = set(inspect.signature(loop).parameters)

    def run(model: Any, inputs: dict[str, Any], chunk_size: int) -> None:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        given = {
            key: value
            for key, value in inputs.items()
            if key in takes and key not in ("input_ids", "attention_mask")
        }
        loop(_trainer(model), model, ids, mask, 1, batch_size=chunk_size, **given)

    return run


def _trainer(model: Any) -> SimpleNamespace:
    """What the loops read of the trainer."""
    return SimpleNamespace(
        accelerator=SimpleNamespace(
            autocast=nullcontext,
            unwrap_model=lambda wrapped, *_, **__: wrapped,
            device=model.device,
        ),
        model=model,
        temperature=1.0,
        model_kwarg_keys=set(),
        is_fsdp_enabled=False,
        args=SimpleNamespace(),
    )


def _buffer(module: str) -> Callable[[dict[str, Any], int], Iterator[dict[str, Any]]]:
    source = _module(module)
    names = ("split_pixel_values_by_grid", "split_tensor_dict", "unsplit_pixel_values_by_grid")
    missing = [name for name in names if not hasattr(source, name)]
    if missing:
        raise BadInput(f"trl.trainer.{module} of this TRL has no {', '.join(missing)}.")
    split, cut, join = (getattr(source, name) for name in names)
    # Older releases shuffle with another function.
    shuffle = getattr(source, "shuffle_sequence_dict", None) or source.shuffle_tensor_dict

    def slicer(inputs: dict[str, Any], chunk_size: int) -> Iterator[dict[str, Any]]:
        samples = len(inputs["input_ids"])
        # The trainer's buffer always holds whole steps.
        size = max(size for size in range(1, chunk_size + 1) if samples % size == 0)
        # Its datasets hold no videos, so its buffer is handed none.
        parts = split({key: value for key, value in inputs.items() if key not in KEYS})
        with torch.random.fork_rng(devices=[]):  # the same order each time
            torch.default_generator.manual_seed(0)
            parts = shuffle(parts)
        for part in cut(parts, samples // size):
            yield {key: value for key, value in join(part).items() if value is not None}

    slicer.any_order = True  # type: ignore[attr-defined]
    return slicer
