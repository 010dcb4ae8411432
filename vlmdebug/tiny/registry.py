"""Which families can be built, and the module with the recipe of each.

A family's module is imported only when it is needed. A family with classes that the installed
transformers lacks does not affect the others.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.processing_utils import ProcessorMixin

OLDEST, NEWEST = "5.20", "5.24"
"""Releases of transformers that have the parts of most families, and all of them."""

# Module in this folder -> the families with recipes in its RECIPES.
_RECIPES = {
    "gemma4": ("gemma4",),
    "qwen2_5_vl": ("qwen2_5_vl", "qwen2_vl", "qwen3_vl", "qwen3_5"),
    "idefics3": ("idefics3", "smolvlm", "granite_docling"),
    "internvl": ("internvl",),
    "llava_next": ("llava_next",),
    "glm4v": ("glm4v",),
    "llava": ("llava", "deepseek_vl", "gemma3"),
    "aya_vision": ("aya_vision", "ovis2"),
    "idefics2": ("idefics2", "mllama", "idefics"),
    "grids": (
        "qwen3_vl_moe",
        "qwen3_5_moe",
        "qwen4_exp",
        "qwen2_5_omni_thinker",
        "qwen3_omni_moe_thinker",
        "cosmos3_omni",
        "cosmos3_edge",
        "exaone4_5",
        "hyperclovax_vision_v2",
        "lfm3_vl",
        "dots3_note",
        "cohere_compass",
        "ernie4_5_vl_moe",
        "glm4v_moe",
        "glm46v",
        "glmga",
        "glm_ocr",
        "glm5_next",
        "kimi_k25",
        "minimax_m3_vl",
        "muse_glimmer",
        "muse_spark",
        "nemotron_h_omni",
        "paddleocr_vl",
        "video_llama_3",
        "inkling2",
        "inkling2_loop",
        "hy_v4_vl",
    ),
    "image_rows": (
        "vipllava",
        "paligemma",
        "janus",
        "deepseek_vl_hybrid",
        "shieldgemma2",
        "mistral3",
        "mistral_large4",
        "lighton_ocr",
        "gemma4_unified",
        "llava_next_video",
        "llava_onevision",
        "video_llava",
        "chameleon",
        "emu3",
        "apertus1p5",
        "granite4_vision",
        "t5gemma2",
        "diffusion_gemma",
    ),
    "tile_rows": ("qianfan_ocr", "cohere2_vision", "llama4", "lfm2_vl", "aria", "inkling_mm_model"),
    "timm_towers": ("gemma3n", "fast_vlm", "perception_lm"),
    "local_tiles": ("deepseek_ocr2", "step3p7"),
    "one_image": (
        "blip",
        "blip-2",
        "instructblip",
        "git",
        "kosmos-2",
        "kosmos-2.5",
        "florence2",
        "got_ocr2",
        "pp_chart2table",
        "instructblipvideo",
        "fuyu",
    ),
}
STORY_FAMILY, OTHER_FAMILY = "gemma4", "llava_next"
"""The demo's families: that of TRL's pull request 5452, and another with one row per image."""
ONE_IMAGE: tuple[str, ...] = _RECIPES["one_image"]
"""Families with exactly one image in every sample."""
_MODULES = {family: module for module, families in _RECIPES.items() for family in families}
# Packages that a family needs besides torch and transformers: image processors
# that upstream implements only with torchvision, and timm's vision towers.
NEEDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        [
            "cohere2_vision",
            "gemma4_unified",
            "inkling2",
            "inkling2_loop",
            "inkling_mm_model",
            "kimi_k25",
            "lfm2_vl",
            "llama4",
            "minimax_m3_vl",
            "mistral3",
            "mistral_large4",
            "muse_glimmer",
            "muse_spark",
            "nemotron_h_omni",
            "apertus1p5",
            "step3p7",
            "instructblipvideo",
            "fuyu",
            # Not proven, but probed.
            "minicpm_ocr",
            "minicpmv4_6",
            "minicpmv4_7",
            "molmo2",
            "phi4_multimodal",
            "unlimited_ocr",
        ],
        ("torchvision",),
    ),
    **dict.fromkeys(["gemma3n", "fast_vlm", "perception_lm"], ("timm", "torchvision")),
}
NEEDS_IN: dict[str, dict[str, tuple[str, ...]]] = {
    "5.20": dict.fromkeys(["gemma4", "diffusion_gemma"], ("torchvision",)),
}
"""The same, of families with processors that need packages in one release alone."""
_BEFORE_5_23 = ("5.20", "5.21", "5.22")
_ABSENT = "it has no such model"
BROKEN: dict[str, dict[str, str]] = {
    **dict.fromkeys(
        ["granite_docling", "lfm3_vl", "dots3_note"], dict.fromkeys(_BEFORE_5_23, _ABSENT)
    ),
    "hy_v4_vl": dict.fromkeys([*_BEFORE_5_23, "5.23"], _ABSENT),
    "mllama": dict.fromkeys(_BEFORE_5_23, "its processor refuses a sample without images"),
    **dict.fromkeys(
        ["qwen2_5_omni_thinker", "qwen3_omni_moe_thinker"],
        dict.fromkeys(_BEFORE_5_23, "its processor takes no images without a video processor"),
    ),
    "llama4": {
        "5.24": "its forward raises AttributeError on every call (it reads `image_outputs` of a "
        "text model's output in modeling_llama4)"
    },
}
"""Releases in which a model cannot be called, by family, and why."""


@dataclass(frozen=True)
class Recipe:
    """How one family is built.

    Attributes:
        placeholder: what a user writes in the text where an image goes.
        processor: makes a processor, its tokenizer trained on the spot.
        model: makes a model that fits such a processor.
        call: further arguments of every call of the processor.
        text: rewrites a sample's text, which begins with its placeholders, for a model that needs
            another form.
        cast: whether the pixels are cast to float32, the dtype of the tiny model, as a trainer
            casts them to the dtype of its model; Llama 4's processor returns bfloat16.
        one_image: whether every sample has exactly one image.
        decoder: whether the model also needs `decoder_input_ids`, which repeat the text.
        frames: frames of the video that shows a sample's image, for a model that takes one video
            per sample; 0 for models of images.
    """

    placeholder: str
    processor: Callable[[], ProcessorMixin]
    # Any: each family reads its own processor's tokens and sizes.
    model: Callable[..., PreTrainedModel]
    call: Mapping[str, Any] = field(default_factory=dict)
    text: Callable[[str], str] | None = None
    cast: bool = False
    one_image: bool = False
    decoder: bool = False
    frames: int = 0


def families() -> tuple[str, ...]:
    """Return the names that `build` and `batch` accept here.

    Some image processors of transformers need torchvision, some models timm. Without these packages
    their families are left out; so are models that cannot be called in the installed release.

    >>> "gemma4" in families()
    True
    """
    return tuple(family for family in _MODULES if not _missing(family) and not broken(family))


def broken(family: str) -> str | None:
    """Why the model cannot be called in the installed release; None if it can."""
    return BROKEN[family].get(_release()) if family in BROKEN else None


def _release() -> str:
    """`5.24`, of transformers; empty without it."""
    try:
        return ".".join(importlib.metadata.version("transformers").split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        return ""


def _is_older() -> bool:
    """Whether the installed release is older than those for which tiny models are made."""
    installed = _release()
    return bool(installed) and _numbers(installed) < _numbers(OLDEST)


def _numbers(release: str) -> list[int]:
    return [*map(int, release.split("."))]


@contextmanager
def release_of(family: str) -> Iterator[None]:
    """Report the transformers release that a family needs if the installed one lacks a part.

    Of a release before `OLDEST` every failure is one: it may have a part in another form.

    Raises:
        BadInput: The installed release lacks a part. The message does not ask for another release
            in this environment, which may be a trainer's.
    """
    try:
        yield
    except BadInput:
        raise
    except Exception as error:
        part = (error.name or "") if isinstance(error, ImportError) else ""
        lacks = part.startswith("transformers") and importlib.util.find_spec("transformers")
        if not lacks and not _is_older():
            raise
        installed = importlib.metadata.version("transformers")
        raise BadInput(
            f"The tiny model of {family!r} needs transformers {OLDEST} or newer ({NEWEST} was "
            f"tried), but {installed} is installed, which lacks a part of it ({one_line(error)}). "
            "Nothing was built. check, falsify, export and review need no tiny model and work with "
            "the installed release; for tiny models, make an environment of their own."
        ) from error


def known() -> tuple[str, ...]:
    """All names that have recipes, whatever is installed."""
    return tuple(_MODULES)


def find_recipe(family: str) -> Recipe:
    """Return the recipe of `family`, or raise `BadInput` naming the closest family."""
    if family not in families():  # compared, not hashed: a list is refused with the same message
        raise BadInput(_unknown(family))
    with release_of(family):
        return recipe_of(family)


def recipe_of(family: str) -> Recipe:
    """The recipe of a known family, whatever is installed."""
    return importlib.import_module(f"vlmdebug.tiny.{_MODULES[family]}").RECIPES[family]


def _missing(family: str) -> list[str]:
    needs = NEEDS.get(family, ())
    if any(family in those for those in NEEDS_IN.values()):
        needs = (*needs, *NEEDS_IN.get(_release(), {}).get(family, ()))
    return [name for name in needs if importlib.util.find_spec(name) is None]


def _unknown(family: object) -> str:
    if family in tuple(_MODULES):
        missing = " and ".join(_missing(str(family)))
        if not missing:
            return (
                f"The tiny model of {family!r} cannot be called in transformers "
                f"{importlib.metadata.version('transformers')}: {broken(str(family))}. "
                f"Pass another one of vlmdebug.tiny.families(): {', '.join(families())}."
            )
        return (
            f"{family!r} needs {missing}, not installed here. "
            f"Without it transformers cannot build the model and its processor. Install {missing}."
        )
    close = difflib.get_close_matches(str(family), families(), n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return (
        f"There is no tiny model of family {family!r}. {hint}"
        f"Pass one of vlmdebug.tiny.families(): {', '.join(families())}."
    )
