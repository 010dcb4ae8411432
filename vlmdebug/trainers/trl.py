"""The installed TRL's own slicing code, unmodified, as slicers.

Four paths are offered. The chunked log-prob loop (`_get_per_token_logps_and_entropies`) cuts a
batch into chunks and calls the model on each. The generation buffer splits a batch per sample,
shuffles it, cuts it into steps and joins each step's pixels again; the samples are in another order
then, and every image must follow its sample. The loss passes a whole batch to the model, key by
key. Online DPO repeats the batch for its second completion.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from vlmdebug.core.given import described, public
from vlmdebug.core.keys import BOOKKEEPING, CLIP_KEYS
from vlmdebug.core.literals import literal
from vlmdebug.errors import BadInput, VlmDebugError
from vlmdebug.running.record import record
from vlmdebug.trainers.adapter import Adapter, Maker
from vlmdebug.trainers.blame import blaming
from vlmdebug.trainers.source import cannot_import
from vlmdebug.trainers.trl_trainer import Prepared, stop_after_one_call, trainer_of

LOOPS = {"grpo": ("grpo_trainer", "GRPOTrainer"), "rloo": ("rloo_trainer", "RLOOTrainer")}
"""Trainers that compute log-probs in chunks: module and class."""

BUFFERS = {
    "grpo-buffer": "grpo_trainer",
    "rloo-buffer": "rloo_trainer",
    "distillation": "distillation_trainer",
}
"""Trainers that buffer a generation batch and cut it into steps: the module."""

LOSSES = {
    "sft": ("sft_trainer", "SFTTrainer"),
    "dpo": ("dpo_trainer", "DPOTrainer"),
    "kto": ("kto_trainer", "KTOTrainer"),
    "grpo-loss": LOOPS["grpo"],
    "rloo-loss": LOOPS["rloo"],
    "gmpo": ("gmpo_trainer", "GMPOTrainer"),
}
"""Trainers with a loss that passes the whole batch of a step to the model."""

COLLATED: dict[str, tuple[str, ...]] = {
    "sft_trainer": ("labels",),
    "dpo_trainer": ("completion_mask",),
    "kto_trainer": ("completion_mask", "label"),
}
"""Keys that collators add to a batch, for the modules with a collator."""

NOT_BUFFERED = CLIP_KEYS | {"labels", "position_ids"}
"""Keys that a generation batch never has: it has no videos, and its loss takes no labels."""

SLICERS = (*LOOPS, *BUFFERS, *LOSSES, "online-dpo")


@public
def trl_slicer(name: str) -> Callable[[dict[str, Any], int], Iterator[dict[str, Any]]]:
    """The slicing code of one trainer of the installed TRL.

    Args:
        name: `"grpo"` or `"rloo"` (log-prob loop), `"grpo-buffer"`, `"rloo-buffer"` or
            `"distillation"` (generation buffer), `"sft"`, `"dpo"`, `"kto"`, `"grpo-loss"`,
            `"rloo-loss"` or `"gmpo"` (what the loss passes to the model, whatever the chunk size),
            `"online-dpo"` (each prompt twice).

    Raises:
        BadInput: There is no such trainer, or this TRL lacks it or a part that the test needs.
        VlmDebugError: TRL is not installed.
    """
    if not isinstance(name, str):
        raise BadInput(f"name is {described(name)}, but it is one of {', '.join(SLICERS)}.")
    if name not in SLICERS:
        raise BadInput(f"{name!r} is no slicer of TRL. Known are {', '.join(SLICERS)}.")
    try:
        import trl
    except ImportError as error:
        if error.name != "trl":
            raise cannot_import("trl", "a package", error) from error
        raise VlmDebugError(
            "trl is not installed, so its code cannot be run. "
            "Install it: pip install 'vlmdebug[trl]'"
        ) from error
    release = f"trl {trl.__version__} {name}"
    slicer: Any = blaming(_slicer(name), release, trl_slicer)
    slicer.__name__ = release
    slicer._vlmdebug_call = f"vd.trl_slicer({literal(name)})"
    return slicer


def _slicer(name: str) -> Any:
    if name in LOOPS:
        slicer = record(_loop(*LOOPS[name]))
        slicer.expand_size = 1  # type: ignore[attr-defined]  # its loop comes by each sample once
    elif name in BUFFERS:
        slicer = _buffer(BUFFERS[name])
    elif name in LOSSES:
        slicer = record(_loss(*LOSSES[name]))
    else:
        slicer = record(_online_dpo())
    return slicer


def _module(name: str) -> Any:
    """A trainer's module; some are experimental in some releases."""
    places = (f"trl.trainer.{name}", f"trl.experimental.{name.removesuffix('_trainer')}.{name}")
    for place in places:
        try:
            return importlib.import_module(place)
        except ImportError as error:
            if not f"{place}.".startswith(f"{error.name}."):
                raise cannot_import(place, "a module", error) from error
    raise BadInput(f"This TRL has no {name}: neither {' nor '.join(places)}.")


def _loop(module: str, trainer: str) -> Callable[[Any, dict[str, Any], int], None]:
    cls = getattr(_module(module), trainer)
    method = getattr(cls, "_get_per_token_logps_and_entropies", None) or getattr(
        cls, "_get_per_token_logps", None
    )
    if method is None:
        raise BadInput(f"{trainer} of this TRL has no chunked log-prob loop.")
    # Decorators time the call and need a complete trainer; the loop is the function they wrap.
    loop = inspect.unwrap(method)
    takes = set(inspect.signature(loop).parameters)

    def run(model: Any, inputs: dict[str, Any], chunk_size: int) -> None:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        given = {
            key: value
            for key, value in inputs.items()
            if key in takes and key not in ("input_ids", "attention_mask")
        }
        loop(trainer_of(cls, model), model, ids, mask, 1, batch_size=chunk_size, **given)

    return run


def _loss(module: str, trainer: str) -> Callable[[Any, dict[str, Any], int], None]:
    cls = getattr(_module(module), trainer)
    name = "_compute_loss" if hasattr(cls, "_compute_loss") else "compute_loss"
    owner = next(each for each in cls.__mro__ if name in vars(each))  # some are moved elsewhere
    prepared = _collated(owner, COLLATED[module]) if module in COLLATED else _with_completions
    takes = inspect.signature(getattr(cls, name)).parameters

    def run(model: Any, inputs: dict[str, Any], chunk_size: int) -> None:
        own, batch = trainer_of(cls, model), Prepared(prepared(inputs))
        further = {"return_outputs": False} if "return_outputs" in takes else {}
        with stop_after_one_call(model):
            getattr(own, name)(model, batch, **further)

    return run


def _collated(trainer: type, added: Sequence[str]) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
    """Makes a batch as the collator does; all text is completion, all of it desirable."""
    source = importlib.import_module(trainer.__module__)
    if not any(name.startswith("DataCollatorForVision") for name in vars(source)):
        raise BadInput(f"{trainer.__name__} of this TRL takes no images: there is nothing to try.")
    prefix = "completion_" if "completion_input_ids" in inspect.getsource(trainer) else ""

    def make(inputs: Mapping[str, Any]) -> dict[str, Any]:
        ids = inputs["input_ids"]
        every = torch.ones_like(ids)
        answers = {"labels": ids, "completion_mask": every, "label": every[:, 0]}
        renamed = {name: prefix + name for name in ("input_ids", "attention_mask")}
        given = {key: value for key, value in inputs.items() if key not in BOOKKEEPING}
        return {
            **{renamed.get(key, key): value for key, value in given.items()},
            **{name: answers[name] for name in added},
        }

    return make


def _with_completions(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A batch as the generation buffer passes it to the loss; all text is prompt."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    return {
        **{key: inputs[key] for key in inputs if key not in ("input_ids", "attention_mask")},
        "prompt_ids": ids,
        "prompt_mask": mask,
        "completion_ids": ids[:, :0],
        "completion_mask": mask[:, :0],
        "advantages": torch.zeros(len(ids), device=ids.device),
    }


def _online_dpo() -> Callable[[Any, dict[str, Any], int], None]:
    cls = _module("online_dpo_trainer").OnlineDPOTrainer

    def run(model: Any, inputs: dict[str, Any], chunk_size: int) -> None:
        batch = {key: value for key, value in inputs.items() if key not in BOOKKEEPING}
        own = trainer_of(cls, model, processing_class=lambda *_, **__: batch)
        prompts = [""] * len(batch["input_ids"])
        with stop_after_one_call(model):
            own.training_step(model, Prepared(prompt=prompts, image=prompts))
        model.calls = model.calls[-1:]  # before, it was called to generate

    run.expand_size = 2  # type: ignore[attr-defined]
    return run


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
        parts = split({key: value for key, value in inputs.items() if key not in NOT_BUFFERED})
        with torch.random.fork_rng(devices=[]):  # the same order each time
            torch.default_generator.manual_seed(0)
            parts = shuffle(parts)
        for part in cut(parts, samples // size):
            yield {key: value for key, value in join(part).items() if value is not None}

    slicer.any_order = True  # type: ignore[attr-defined]
    return slicer


def _makers() -> dict[str, Maker]:
    """The slicers of this module, for the adapter."""
    functions = {
        **dict.fromkeys(LOOPS, "_get_per_token_logps_and_entropies"),
        **dict.fromkeys(BUFFERS, "split_tensor_dict, unsplit_pixel_values_by_grid"),
        **dict.fromkeys(LOSSES, "compute_loss"),
        "online-dpo": "training_step",
    }

    def maker(name: str) -> Maker:
        return Maker(functions[name], lambda _: trl_slicer(name))

    return {name: maker(name) for name in SLICERS}


ADAPTER = Adapter(
    "trl",
    "trl",
    ("0.29.0", "1.0.0", "1.4.0", "1.6.0", "1.8.0", "1.9.0", "1.12.0", "1.16.0"),
    slicers=_makers(),
)
"""The same slicers for `trainer_slicer`. Their modules are imported, not taken from their files."""
