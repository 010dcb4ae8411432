"""ms-swift's GRPO cuts a chunk from the batch, then encodes its samples again over it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

from vlmdebug.core.signature import Slicer
from vlmdebug.trainers.adapter import Adapter, Inputs, per_sample, without_counts
from vlmdebug.trainers.source import Library, Part

ADAPTER = Adapter("swift", "ms-swift", ("4.5.3", "4.6.0"))


def _collate(samples: list[Inputs], **_: Any) -> Inputs:
    """The samples of a chunk joined again; they are padded alike."""
    keys = dict.fromkeys(key for one in samples for key in one)
    return {key: torch.cat([one[key] for one in samples if key in one]) for key in keys}


def _answers(samples: int) -> Any:
    """What a GRPO batch holds next to the inputs of the model."""
    rows = torch.ones(samples)
    given = dict.fromkeys(("completion_mask", "truncated_mask", "seq_lengths"), rows)
    optional = ("old_per_token_logps", "ref_per_token_logps", "rollout_per_token_logps")
    absent = dict.fromkeys((*optional, "advantages", "num_items_in_batch"))
    return Part("A GRPO batch of ms-swift", **given, **absent, logits_to_keep=1)


@ADAPTER.slicer("grpo", "get_chunked_inputs")
def grpo(library: Library) -> Slicer:
    """The chunks of a loss with a varying number of rollouts (`dynamic_num_samples`)."""
    module = library.module("swift.rlhf_trainers.grpo_trainer").replace(
        GRPOBatch=SimpleNamespace,
        encode_sample=lambda sample, _: dict(sample),
        to_device=lambda value, _: value,
    )
    trainer = module.instance(
        "GRPOTrainer",
        is_multimodal=True,
        accelerator=Part("self.accelerator", device="cpu"),
        template=Part("self.template", padding_free=False, data_collator=_collate),
        _template_context=lambda _: nullcontext(),
    )

    def slicer(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
        samples = len(inputs["input_ids"])
        batch, answers, origin = without_counts(inputs), _answers(samples), per_sample(inputs)
        for start in range(0, samples, chunk_size):
            stop = min(start + chunk_size, samples)
            yield trainer.get_chunked_inputs(batch, answers, start, stop, origin)[0]

    return slicer
