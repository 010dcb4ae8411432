"""A TRL trainer without its parts, to run the methods under test.

It is an instance of TRL's own class, never initialised: it has the attributes that its methods read
before they call the model. Reading anything else ends the test; it is never blamed on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from vlmdebug.running.stand_in import Lacks
from vlmdebug.trainers.source import Part


class _Done(BaseException):
    """The one call was recorded; no `except Exception` of the trainer can catch this."""


@contextmanager
def stop_after_one_call(model: Any) -> Iterator[None]:
    """Leave the block once the model was called."""

    def stop(*_: Any) -> None:
        raise _Done

    handle = model.register_forward_hook(stop)
    try:
        yield
    except _Done:
        pass
    finally:
        handle.remove()


class Prepared(dict[str, Any]):
    """A batch as a step of a trainer expects it, as far as the test needs it."""

    def __missing__(self, key: str) -> Any:
        raise Lacks(_lacks("a trainer", key, "the batch"))


def trainer_of(cls: type, model: Any, **more: Any) -> Any:
    """An instance of `cls`, never initialised, with the attributes that its methods read."""

    def missing(self: Any, name: str) -> Any:
        raise Lacks(_lacks(cls.__name__, name, "itself"))

    trainer = object.__new__(type(cls.__name__, (cls,), {"__getattr__": missing}))
    trainer.__dict__.update(_parts(model), **more)
    return trainer


def _lacks(who: str, what: str, where: str) -> str:
    return (
        f"In this TRL {who} reads {what} of {where} before it calls the model, which the trial "
        "does not have. Nothing was judged. "
        "Watch a training run instead: callbacks=[vlmdebug.WatchCallback()]."
    )


def _parts(model: Any) -> dict[str, Any]:
    """The attributes that the methods under test read, in any release of TRL."""
    return {
        "accelerator": Part(
            "self.accelerator",
            autocast=nullcontext,
            unwrap_model=lambda wrapped, *_, **__: wrapped,
            device=model.device,
            is_main_process=False,
            num_processes=1,
            parallelism_config=None,
            state=Part("self.accelerator.state", deepspeed_plugin=None),
        ),
        "args": Part(
            "self.args",
            report_to=[],
            use_liger_kernel=False,
            loss_type="nll",
            max_length=None,
            use_vllm=False,
            cache_implementation=None,
            ds3_gather_for_generation=False,
        ),
        "state": Part("self.state", global_step=0),
        "model": model,
        "model_kwarg_keys": set(),
        "temperature": 1.0,
        "is_fsdp_enabled": False,
        "aux_loss_enabled": False,
        "use_liger_kernel": False,
        "calculate_KL": False,
        "compute_loss_func": None,
        "label_smoother": None,
        "model_accepts_loss_kwargs": False,
        # Online DPO: prompts are not searched for image tokens and not truncated.
        "_tokenizer": Part("self._tokenizer", pad_token_id=0, eos_token_id=0),
        "eos_token_ids": [0],
        "eos_token_id": 0,
        "pad_token_id": 0,
        "image_token": None,
        "is_vision_model": True,
        "use_transformers_paged": False,
        "max_length": 1 << 30,
        "generation_kwargs": {},
        "generation_config": None,
    }
