"""The slicing code of trainers other than TRL, each with the adapter that tests it.

Functions are extracted from their source unchanged. Everything else they call (a model, rewards, a
collator) is replaced here; an adapter passes a batch to its function and reads the result.
`tools/trainers.py` runs them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace as Some
from typing import Any
from unittest.mock import MagicMock

import torch

import vlmdebug as vd

Inputs = dict[str, Any]
TEXT = ("input_ids", "attention_mask")
TYPES = ("token_type_ids", "mm_token_type_ids")
COUNTS = ("num_images", "num_tiles", "num_videos", "num_audios")
BESIDE = {"verl==0.9.1": ("tensordict", "pyvers", "cloudpickle")}  # its batches are made of these

TRIALS: dict[str, dict[str, Callable[[Path], Any]]] = {}


def on_trial(requirement: str, function: str) -> Callable[[Any], Any]:
    """Register what makes the slicer of a function, given the folder of its package."""

    def note(adapter: Callable[[Path], Any]) -> Callable[[Path], Any]:
        TRIALS.setdefault(requirement, {})[function] = adapter
        return adapter

    return note


def take(path: Path, *names: str, **world: Any) -> Any:
    """Functions, classes and constants by name from a file that is not imported.

    `Class.method` gives the bare method. Their code is not changed; decorators of functions are
    removed, and annotations are not evaluated, because compile() inherits this file's
    `annotations`. `world` holds the globals they need.
    """
    world |= {"__name__": __name__, "torch": torch}
    for owner, node in _definitions(ast.parse(path.read_text(encoding="utf-8"))):
        called = [target.id for target in getattr(node, "targets", []) if hasattr(target, "id")]
        called += [f"{owner}{node.name}"] if hasattr(node, "name") else []
        if set(called) & set(names):
            if isinstance(node, ast.FunctionDef):
                node.decorator_list = []
            exec(compile(ast.Module([node], []), path, "exec"), world)
    return Some(**{(short := name.rpartition(".")[2]): world[short] for name in names})


def _definitions(tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for node in tree.body:
        yield "", node
        for inner in node.body if isinstance(node, ast.ClassDef) else []:
            yield f"{node.name}.", inner


def stub(*names: str) -> None:
    """Let a package import modules that it does not need for batches."""
    for name in names:
        sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None), __path__=[], __name__=name)


def first_logits(logits: torch.Tensor, *_: Any) -> torch.Tensor:
    """A replacement for log-probabilities, which are computed after the model."""
    return logits[..., 0]


def per_sample(inputs: Inputs, *left_out: str) -> list[Inputs]:
    """The rows of each sample, as trainers keep them that process samples one by one."""
    pieces = vd.slicers.corrected(inputs, 1)
    return [{key: value for key, value in one.items() if key not in left_out} for one in pieces]


def halves(inputs: Inputs) -> Inputs:
    """A batch as GRPO trainers hold it: prompts and completions separately, here of one token."""
    ids, mask = (inputs[key] for key in TEXT)
    held = {"prompt_ids": ids[:, :-1], "completion_ids": ids[:, -1:]}
    held |= {"prompt_mask": mask[:, :-1], "completion_mask": mask[:, -1:]}
    keys = ("pixel_values", "image_grid_thw", "pixel_attention_mask", "image_sizes", "num_images")
    return held | {key: inputs[key] for key in (*keys, *TYPES) if key in inputs}


@on_trial("unsloth_zoo==2026.10.9", "grpo_vision_chunks")
def unsloth(folder: Path) -> Any:
    """It cuts the media of a batch; input_ids are cut by its callers."""
    helpers = (
        "grpo_get_vision_inputs",
        "grpo_companion_vision_keys",
        "grpo_companion_drops_pixels",
    )
    constants = ("GRPO_VISION_KEYS", "_GRPO_COMPANION_VISION_KEYS", "_GRPO_COMPANION_PIXELS_WARNED")
    source = folder / "unsloth_zoo/rl_replacements.py"
    its = take(source, "grpo_vision_chunks", *helpers, *constants, sys=sys)

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        samples = len(inputs["input_ids"])
        media = its.grpo_get_vision_inputs(inputs)
        for i, chunk in enumerate(its.grpo_vision_chunks(media, samples, chunk_size)):
            rows = slice(i * chunk_size, (i + 1) * chunk_size)
            yield {key: inputs[key][rows] for key in TEXT} | chunk

    return slicer


def axolotl(folder: Path) -> tuple[Any, Any]:
    """Its GRPO trainer's methods, and the trainer that they see as `self`."""
    names = ("_score_streaming", "_compute_streaming_group_scores")
    names += ("_get_per_token_logps_and_entropies",)
    its = take(
        folder / "axolotl/core/trainers/grpo/async_trainer.py",
        *(f"AsyncGRPOTrainer.{name}" for name in names),
        selective_log_softmax=first_logits,
        disable_gradient_checkpointing=lambda *_: torch.no_grad(),
    )
    trainer = Some(num_generations=1, num_iterations=1, temperature=1.0, beta=0.0)
    trainer.is_fsdp_enabled = trainer.use_liger_kernel = trainer.use_vllm = False
    trainer.model_kwarg_keys = ()
    trainer.accelerator = Some(unwrap_model=lambda model, **_: model, device="cpu")
    trainer.args = Some(steps_per_generation=2, gradient_accumulation_steps=1)
    trainer.args.gradient_checkpointing_kwargs = None
    return its, trainer


def rollout(inputs: Inputs) -> Inputs:
    """The input of axolotl's streaming: a generated batch that is not scored yet."""
    names = ("inputs", "prompts", "completions", "completion_ids_list")
    deferred = {f"_deferred_{name}": [None] * len(inputs["input_ids"]) for name in names}
    return halves(inputs) | deferred | {"_pending_policy_logps": True}


@on_trial("axolotl==0.19.0", "_get_per_token_logps_and_entropies")
def axolotl_loop(folder: Path) -> Any:
    """The loop over chunks that calls the model."""
    its, trainer = axolotl(folder)

    def loop(model: Any, inputs: Inputs, chunk_size: int) -> None:
        media = {k: v for k, v in halves(inputs).items() if not k.startswith(("prompt", "compl"))}
        ids, mask = (inputs[key] for key in TEXT)
        its._get_per_token_logps_and_entropies(trainer, model, ids, mask, 1, chunk_size, **media)

    return vd.record(loop)


@on_trial("axolotl==0.19.0", "_compute_streaming_group_scores")
def axolotl_groups(folder: Path) -> Any:
    """Groups of chunk_size samples, until their log-probabilities exist and rewards are needed."""
    its, trainer = axolotl(folder)

    class Scored(Exception): ...

    def rewards(*_: Any) -> None:
        raise Scored

    trainer._launch_reward_workers, trainer._collect_reward_workers = (lambda *_: None), rewards

    def loop(model: Any, inputs: Inputs, chunk_size: int) -> None:
        def scores(**group: Any) -> None:
            with suppress(Scored):
                its._compute_streaming_group_scores(trainer, **group)

        def log_probs(*arguments: Any, **named: Any) -> Any:
            return its._get_per_token_logps_and_entropies(trainer, *arguments, **named)

        trainer.model, trainer._compute_streaming_group_scores = model, scores
        trainer._get_per_token_logps_and_entropies = log_probs
        trainer.args.per_device_train_batch_size = trainer.args.streaming_min_groups = chunk_size
        its._score_streaming(trainer, rollout(inputs))

    return vd.record(loop)


@on_trial("axolotl==0.19.0", "_score_streaming")
def axolotl_micro_batches(folder: Path) -> Any:
    """The micro-batches that it makes of a scored batch, in a new random order."""
    its, trainer = axolotl(folder)
    trainer._compute_streaming_group_scores = lambda **_: None

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        trainer.args.per_device_train_batch_size = chunk_size
        trainer.args.streaming_min_groups = len(inputs["input_ids"])
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            micro_batches = its._score_streaming(trainer, rollout(inputs))
        for micro in micro_batches:
            names = ("prompt_ids", "completion_ids", "prompt_mask", "completion_mask")
            parts = [micro.pop(name) for name in names]
            text = {"input_ids": torch.cat(parts[:2], 1), "attention_mask": torch.cat(parts[2:], 1)}
            yield text | {key: value for key, value in micro.items() if key not in COUNTS}

    slicer.any_order = True
    return slicer


@on_trial("openrlhf==0.11.2", "make_experience_batch, Actor.forward")
def openrlhf(folder: Path) -> Any:
    """A batch is split into samples, joined to micro-batches, and passed to the model."""
    import dataclasses
    import itertools

    root = folder / "openrlhf"
    padding = take(root / "utils/utils.py", "zero_pad_sequences", F=torch.nn.functional)
    names = ("Experience", "split_experience_batch", "make_experience_batch", "tensor_field")
    known = {"itertools": itertools, **vars(dataclasses), **vars(padding)}
    its = take(root / "trainer/ppo_utils/experience.py", *names, **known)
    merge = take(root / "utils/vlm_utils.py", "merge_mm_train_inputs").merge_mm_train_inputs
    given = {"log_probs_from_logits": first_logits}
    forward = take(root / "models/actor.py", "Actor.forward", **given).forward

    def loop(model: Any, inputs: Inputs, chunk_size: int) -> None:
        ids, mask = (inputs[key] for key in TEXT)
        actor = Some(model=model, is_vlm=True, packing_samples=False, temperature=1.0)
        actor._vlm_config = model.config
        media = [one or None for one in per_sample(inputs, *TEXT, *TYPES)]
        whole = its.Experience(ids, mask, mask[:, 1:].bool(), mm_train_inputs=media)
        samples = its.split_experience_batch(whole)
        for start in range(0, len(samples), chunk_size):
            micro = its.make_experience_batch(samples[start : start + chunk_size])
            joined = merge(micro.mm_train_inputs, "cpu")
            forward(actor, micro.sequences, micro.action_mask, micro.attention_mask, **joined)

    return vd.record(loop)


@on_trial("ms-swift==4.6.0", "get_chunked_inputs")
def swift(folder: Path) -> Any:
    """A chunk is cut from the batch, then its samples are encoded again and overwrite it."""

    def collate(samples: list[Inputs], **_: Any) -> Inputs:
        keys = dict.fromkeys(key for one in samples for key in one)
        return {key: torch.cat([one[key] for one in samples if key in one]) for key in keys}

    its = take(
        folder / "swift/rlhf_trainers/grpo_trainer.py",
        "GRPOTrainer.get_chunked_inputs",
        GRPOBatch=Some,
        encode_sample=lambda sample, _: dict(sample),
        to_device=lambda value, _: value,
    )
    trainer = Some(is_multimodal=True, accelerator=Some(device="cpu"))
    trainer.template = Some(padding_free=False, data_collator=collate)
    trainer._template_context = lambda _: torch.no_grad()

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        samples = len(inputs["input_ids"])
        signals = dict.fromkeys(("completion_mask", "truncated_mask", "seq_lengths"))
        rows = Some(**dict.fromkeys(signals, torch.ones(samples)), logits_to_keep=1)
        rows.old_per_token_logps = rows.ref_per_token_logps = rows.rollout_per_token_logps = None
        rows.advantages = rows.num_items_in_batch = None
        collated = {key: value for key, value in inputs.items() if key not in COUNTS}
        origin = per_sample(inputs)
        for start in range(0, samples, chunk_size):
            stop = min(start + chunk_size, samples)
            yield its.get_chunked_inputs(trainer, collated, rows, start, stop, origin)[0]

    return slicer


@on_trial("llamafactory==0.9.5", "KTO forward")
def llamafactory(folder: Path) -> Any:
    """Each call gets a correct batch and passes the keys that it selects to the model."""
    root = folder / "llamafactory/train"
    its = take(
        root / "kto/trainer.py",
        "CustomKTOTrainer.forward",
        get_batch_logps=lambda logits, labels: (logits[:, 0, 0], labels[:, 0] + 1),
        **vars(take(root / "trainer_utils.py", "nested_detach", Mapping=Mapping)),
    )

    def loop(model: Any, inputs: Inputs, chunk_size: int) -> None:
        for batch in vd.slicers.corrected(inputs, chunk_size):
            its.forward(None, model, {**batch, "labels": batch["input_ids"]})

    return vd.record(loop)


@on_trial("accelerate==1.15.0", "slice_tensors")
def accelerate(folder: Path) -> Any:
    """As DataLoaderDispatcher gives each process its part of one batch."""
    helpers = ("recursively_apply", "honor_type", "is_torch_tensor", "is_namedtuple")
    source = folder / "accelerate/utils/operations.py"
    its = take(source, "slice_tensors", *helpers, Mapping=Mapping)

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        batch = {key: value for key, value in inputs.items() if key not in COUNTS}
        for start in range(0, len(batch["input_ids"]), chunk_size):
            yield its.slice_tensors(batch, slice(start, start + chunk_size))

    return slicer


def verl(folder: Path) -> tuple[Any, Any]:
    """How a batch is put into verl's DataProto, and a micro-batch passed to the model."""
    import numpy as np

    stub("ray", "omegaconf")
    sys.path.insert(0, str(folder))
    from verl import DataProto
    from verl.utils.model import extract_multi_modal_inputs

    def held(inputs: Inputs) -> Any:
        media = np.array([one or None for one in per_sample(inputs, *TEXT)], dtype=object)
        text = {key: inputs[key] for key in TEXT}
        return DataProto.from_dict(tensors=text, non_tensors={"multi_modal_inputs": media})

    def handed(micro: Any) -> Inputs:
        media = micro.non_tensor_batch["multi_modal_inputs"]
        return {**micro.batch, **extract_multi_modal_inputs(media)}

    return held, handed


@on_trial("verl==0.9.1", "DataProto.split, extract_multi_modal_inputs")
def verl_fixed(folder: Path) -> Any:
    """Micro-batches of chunk_size samples."""
    held, handed = verl(folder)
    return lambda inputs, chunk_size: map(handed, held(inputs).split(chunk_size))


@on_trial("verl==0.9.1", "prepare_dynamic_batch, extract_multi_modal_inputs")
def verl_dynamic(folder: Path) -> Any:
    """Micro-batches of about equal token numbers, in their own order."""
    held, handed = verl(folder)
    from verl.utils.seqlen_balancing import prepare_dynamic_batch

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        tokens = inputs["input_ids"].shape[1] * chunk_size
        return map(handed, prepare_dynamic_batch(held(inputs), max_token_len=tokens)[0])

    slicer.any_order = True
    return slicer
