"""axolotl's asynchronous GRPO trainer: its loop, and its streaming of groups and micro-batches."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from typing import Any

import torch

from vlmdebug.core.signature import Slicer
from vlmdebug.running.record import record
from vlmdebug.trainers.adapter import (
    TEXT,
    Adapter,
    Inputs,
    first_logits,
    without_counts,
)
from vlmdebug.trainers.source import Library, Part

ADAPTER = Adapter("axolotl", "axolotl", ("0.16.1", "0.17.0", "0.18.0", "0.19.0"))

HALVES = tuple(f"{half}_{kind}" for kind in ("ids", "mask") for half in ("prompt", "completion"))
"""The batch is kept as prompts and completions: ids of both, then masks of both."""
DEFERRED = ("inputs", "prompts", "completions", "completion_ids_list")


def _trainer(library: Library, **more: Any) -> Any:
    """Its GRPO trainer, one generation per prompt; after the logits, nothing is computed."""
    module = library.module("axolotl.core.trainers.grpo.async_trainer").replace(
        selective_log_softmax=first_logits,
        disable_gradient_checkpointing=lambda *_: nullcontext(),
    )
    accelerator = Part(
        "self.accelerator", unwrap_model=lambda model, **_: model, device=torch.device("cpu")
    )
    args = Part(
        "self.args",
        steps_per_generation=2,
        gradient_accumulation_steps=1,
        gradient_checkpointing_kwargs=None,
        gradient_checkpointing=False,
    )
    switched_off = ("is_fsdp_enabled", "use_liger_kernel", "use_vllm")
    given = {"num_generations": 1, "num_iterations": 1, "temperature": 1.0, "beta": 0.0}
    given |= dict.fromkeys(switched_off, False) | {"model_kwarg_keys": ()}
    return module.instance("AsyncGRPOTrainer", accelerator=accelerator, args=args, **given, **more)


def _media(trainer: Any, inputs: Inputs) -> Inputs:
    """The keys that its GRPO batch holds next to the tokens: those that its loop takes."""
    takes = inspect.signature(trainer._get_per_token_logps_and_entropies).parameters
    return {key: inputs[key] for key in takes if key in inputs and key not in TEXT}


def _rollout(trainer: Any, inputs: Inputs) -> Inputs:
    """A generated batch that is not scored yet; its completions have one token."""
    ids, mask = (inputs[key] for key in TEXT)
    halves = (ids[:, :-1], ids[:, -1:], mask[:, :-1], mask[:, -1:])
    deferred = {f"_deferred_{name}": [None] * len(ids) for name in DEFERRED}
    held = dict(zip(HALVES, halves, strict=True)) | _media(trainer, inputs)
    return held | deferred | {"_pending_policy_logps": True}


@ADAPTER.slicer("grpo", "_get_per_token_logps_and_entropies")
def grpo(library: Library) -> Slicer:
    """The loop over chunks that calls the model."""
    trainer = _trainer(library)

    def loop(model: Any, inputs: Inputs, chunk_size: int) -> None:
        ids, mask = (inputs[key] for key in TEXT)
        trainer._get_per_token_logps_and_entropies(
            model, ids, mask, 1, chunk_size, **_media(trainer, inputs)
        )

    return record(loop)


class _Scored(Exception):
    """The log-probabilities exist; rewards come next."""


@ADAPTER.slicer("streaming-groups", "_compute_streaming_group_scores")
def streaming_groups(library: Library) -> Slicer:
    """Groups of chunk_size samples, until their log-probabilities exist and rewards are needed."""

    def rewards(*_: Any) -> None:
        raise _Scored

    def loop(model: Any, inputs: Inputs, chunk_size: int) -> None:
        trainer = _trainer(
            library,
            model=model,
            _launch_reward_workers=lambda *_: None,
            _collect_reward_workers=rewards,
        )
        score = trainer._compute_streaming_group_scores

        def scores(**group: Any) -> None:
            with suppress(_Scored):
                score(**group)

        trainer._compute_streaming_group_scores = scores
        trainer.args.per_device_train_batch_size = trainer.args.streaming_min_groups = chunk_size
        trainer._score_streaming(_rollout(trainer, inputs))

    return record(loop)


@ADAPTER.slicer("streaming", "_score_streaming")
def streaming(library: Library) -> Slicer:
    """The micro-batches that it makes of a scored batch, in a new random order."""
    trainer = _trainer(library, _compute_streaming_group_scores=lambda **_: None)

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        trainer.args.per_device_train_batch_size = chunk_size
        trainer.args.streaming_min_groups = len(inputs["input_ids"])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            micro_batches = trainer._score_streaming(_rollout(trainer, inputs))
        for micro in micro_batches:
            ids, answer, mask, answered = (micro.pop(name) for name in HALVES)
            text = (torch.cat((ids, answer), 1), torch.cat((mask, answered), 1))
            yield dict(zip(TEXT, text, strict=True)) | without_counts(micro)

    slicer.any_order = True  # type: ignore[attr-defined]
    return slicer
