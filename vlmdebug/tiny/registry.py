"""Which families can be built, and the module that knows how.

A family's module is imported only when it is asked for, so a family whose upstream classes
are missing from the installed transformers costs the other families nothing.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vlmdebug.errors import BadInput

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.processing_utils import ProcessorMixin

# Family name -> module in this folder, whose RECIPES holds the family's Recipe.
_MODULES = {
    "gemma4": "gemma4",
    "qwen2_5_vl": "qwen2_5_vl",
    "idefics3": "idefics3",
    "smolvlm": "idefics3",
    "internvl": "internvl",
    "llava_next": "llava_next",
    "qwen2_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen2_5_vl",
    "qwen3_5": "qwen2_5_vl",
    "glm4v": "glm4v",
    "llava": "llava",
    "deepseek_vl": "llava",
    "gemma3": "llava",
    "aya_vision": "aya_vision",
    "ovis2": "aya_vision",
    "idefics2": "idefics2",
    "mllama": "idefics2",
}


@dataclass(frozen=True)
class Recipe:
    """How one family is built.

    Attributes:
        placeholder: what a user writes in the text where an image goes.
        processor: makes a processor, its tokenizer trained on the spot.
        model: makes a model that fits such a processor.
    """

    placeholder: str
    processor: Callable[[], ProcessorMixin]
    # Any: each family reads its own processor's tokens and sizes.
    model: Callable[..., PreTrainedModel]


def families() -> tuple[str, ...]:
    """Return the names that `build` and `batch` accept.

    >>> "gemma4" in families()
    True
    """
    return tuple(_MODULES)


def find_recipe(family: str) -> Recipe:
    """Return the recipe of `family`, or raise `BadInput` naming the closest family."""
    if family not in families():  # Compared, not hashed: the answer suits a list too.
        raise BadInput(_unknown(family))
    module = importlib.import_module(f"vlmdebug.tiny.{_MODULES[family]}")
    return module.RECIPES[family]


def _unknown(family: object) -> str:
    close = difflib.get_close_matches(str(family), _MODULES, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return (
        f"There is no tiny model of family {family!r}. {hint}"
        f"Pass one of vlmdebug.tiny.families(): {', '.join(_MODULES)}."
    )
