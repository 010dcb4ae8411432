"""Real model classes at small sizes, with weights that depend only on the seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vlmdebug.tiny.registry import find_recipe, release_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.processing_utils import ProcessorMixin


def build(family: str, *, seed: int = 0) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Build a tiny random model of `family` and the processor that feeds it.

    Both are new objects at every call, so one may be trained, patched or broken without changing
    the next. The model is on the CPU and in eval mode. Equal seeds give equal weights, and the
    caller's random state is not changed.
    """
    recipe = find_recipe(family)
    with release_of(family):
        processor = recipe.processor()
    with release_of(family), _seeded(seed):
        model = recipe.model(processor)
        _wake(model)
    return model.eval(), processor


def text_config(tokenizer: PreTrainedTokenizerBase, **special: Any) -> dict[str, Any]:
    """Return the sizes of a two-layer language model, as most text configs name them."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        # With upstream's 0.02, layers this narrow hardly attend, and a wrong position or mask
        # moves the logits by 1e-3. At 0.1 it moves them by about 1, as a wrong image does.
        "initializer_range": 0.1,
        **special,
    }


def vision_config(**special: Any) -> dict[str, Any]:
    """Return the sizes of a two-layer vision tower for 56 x 56 pixels, 16 patches of 14."""
    return {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
        **special,
    }


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` on the CPU, then put the caller's generator back."""
    import torch

    # torch.manual_seed would reseed every accelerator too, and nothing here would undo that.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        yield


def _wake(model: PreTrainedModel) -> None:
    """Give random values to weights that start as zeros.

    In trained checkpoints such projectors and gates are no longer zero. At zero the image has no
    effect on the logits, so swapped images would not be visible there.
    """
    import torch

    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.endswith("bias") and not weight.any():
                weight.normal_(0.0, 0.3)
