"""OpenRLHF splits a batch into samples, joins them to micro-batches and calls the actor."""

from __future__ import annotations

from typing import Any

from vlmdebug.core.keys import TYPE_IDS
from vlmdebug.core.signature import Slicer
from vlmdebug.running.record import record
from vlmdebug.trainers.adapter import TEXT, Adapter, Inputs, first_logits, per_sample
from vlmdebug.trainers.source import Library

ADAPTER = Adapter("openrlhf", "openrlhf", ("0.10.4", "0.11.0", "0.11.1", "0.11.2"))


@ADAPTER.slicer("actor", "make_experience_batch, Actor.forward")
def actor(library: Library) -> Slicer:
    """The micro-batches of the policy update."""
    experience = library.module("openrlhf.trainer.ppo_utils.experience")
    join = library.module("openrlhf.utils.vlm_utils").merge_mm_train_inputs
    module = library.module("openrlhf.models.actor").replace(log_probs_from_logits=first_logits)

    def loop(model: Any, inputs: Inputs, chunk_size: int) -> None:
        ids, mask = (inputs[key] for key in TEXT)
        policy = module.instance(
            "Actor",
            model=model,
            _vlm_config=model.config,
            is_vlm=True,
            packing_samples=False,
            temperature=1.0,
        )
        media = [one or None for one in per_sample(inputs, *TEXT, *TYPE_IDS)]
        whole = experience.Experience(ids, mask, mask[:, 1:].bool(), mm_train_inputs=media)
        samples = experience.split_experience_batch(whole)
        for start in range(0, len(samples), chunk_size):
            micro = experience.make_experience_batch(samples[start : start + chunk_size])
            joined = join(micro.mm_train_inputs, "cpu")
            policy.forward(micro.sequences, micro.action_mask, micro.attention_mask, **joined)

    return record(loop)
