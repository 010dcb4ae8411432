"""BatchFacts about a model from the attributes of its transformers processor and config.

Both are read by attribute name only; transformers itself is never imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from inspect import signature
from math import sqrt
from pathlib import PurePath
from typing import Any

from vlmdebug.core.given import refuse_other_kind
from vlmdebug.core.layout import VIDEO_AND_AUDIO
from vlmdebug.errors import BadInput
from vlmdebug.families import find_family
from vlmdebug.families.facts import ProcessorMetadata
from vlmdebug.families.formulas import (
    UNMERGED,
    features_of_audio,
    features_of_pixels,
    features_of_video,
    squares_of_vq,
    tower_side,
)
from vlmdebug.families.mistral3 import PIXTRAL_12B
from vlmdebug.families.row_sizes import best_canvas, patch_values, row_sizes

PLACEHOLDERS = {"ovis2": "<IMG_ATOM>", "llama4": "<|patch|>", "instructblipvideo": "<video>"}
"""Placeholder tokens that no attribute of the processor names, by model type."""

ANYRES = ("llava_next", "llava_next_video", "llava_onevision", "granite4_vision")
"""Model types that compute placeholder tokens from image sizes as `anyres_tokens` does."""

ROWS_ARE_FEATURES = ("inkling", "inkling_mm_model", "fuyu")
"""Model types with one feature for each row of `pixel_values`."""
VIDEOS_AS_IMAGES = ("instructblipvideo",)
"""Model types with a video in the place of each image, in `pixel_values`."""

EDGES = {
    "aya_vision": ("<|START_OF_IMG|>", "<|END_OF_IMG|>"),
    "cohere2_vision": ("<|START_OF_IMG|>", "<|END_OF_IMG|>"),
    "lfm2_vl": ("<|image_start|>", "<|image_end|>"),
    "llama4": ("<|image_start|>", "<|image_end|>"),
    "ovis2": ("<IMG_START>", "<IMG_END>"),
}
"""Tokens that the processor itself writes around each image, by model type, where runs of
placeholder tokens are tiles. Read in the processors of transformers 5.23."""

STARTS = {"granite_docling": "<row_1_col_1>"}
"""Tokens that begin an image that no token ends, by model type."""

BY_MASK = ("sdpa", "eager", "flex_attention")
"""Kinds of attention that read masks alone; of other names, a kernel that a user registers."""
TOWERS = {("llava", "pixtral"): PIXTRAL_12B}
"""The layout's name where a model type has several, by the type of the vision tower. Pixtral-12B is
a LLaVA model (`modeling_llava.get_image_features` passes `image_sizes` to the tower) with a
PixtralProcessor (transformers 5.23)."""

Sizes = list[tuple[int, int]]


def read_metadata(
    processor: Any = None, config: Any = None, model: Any = None
) -> ProcessorMetadata:
    """Collect metadata; the processor takes precedence over the config.

    Raises:
        BadInput: Processor and config name different placeholder tokens, or one of the three is a
            name or a dict.
    """
    _refuse_names(processor=processor, config=config, model=model)
    config = getattr(model, "config", None) if config is None else config
    tokenizer = getattr(processor, "tokenizer", None)
    images = getattr(processor, "image_processor", None)
    vision = getattr(config, "vision_config", None)
    kind, other = _model_type(config, processor)
    return ProcessorMetadata(
        model_type=kind,
        other_model=other,
        processor_type=_processor_type(processor),
        image_token_id=_image_token_id(processor, tokenizer, config),
        image_edges=_image_edges(processor, tokenizer),
        image_start_id=_image_start_id(processor, tokenizer),
        **_of_config(config),
        token_ids=_stream_token_ids(processor, config),
        global_image_id=_global_image_id(processor, tokenizer),
        **_of_text(processor, tokenizer, config),
        features_per_tile=1
        if kind in ROWS_ARE_FEATURES
        else _features_per_tile(processor, config, vision),
        merge_size=UNMERGED.get(kind or "") or _merge_size(images, config, vision),
        pooling_size=_first(images, "pooling_kernel_size") or _first(vision, "pooling_kernel_size"),
        downsample_factor=_first(images, "downsample_factor")
        or _first(config, "downsample_factor"),
        **_steps(config, vision),
        pixels_per_feature=_pixels_per_feature(processor, config, vision),
        patch_pixels=patch_values(kind, images, config),
        row=row_sizes(kind, processor, config),
        splits_images=any(
            getattr(images, name, False)
            for name in ("do_image_splitting", "do_pan_and_scan", "split_image")
        ),
        tokens_per_image=_tokens_per_image(processor, config),
        returned_keys=_returned_keys(processor),
        taken_keys=_taken_keys(config, model),
        features_of_pixels=features_of_pixels(kind, processor, config),
        features_of_video=features_of_video(kind, processor, config),
        features_of_audio=features_of_audio(kind, processor, config),
    )


def _steps(config: Any, vision: Any) -> dict[str, Any]:
    """Steps of time in a second, and in a stretch after which a video and its sound take turns."""
    steps, seconds = _first(config, "position_id_per_seconds"), _first(config, "seconds_per_chunk")
    return {
        "steps_per_second": steps or _first(vision, "tokens_per_second"),
        "steps_per_chunk": int(steps * seconds) if steps and seconds else None,
    }


def _model_type(config: Any, processor: Any) -> tuple[str | None, str | None]:
    """The type of the model, and that of a model that no family knows next to a known processor."""
    said, made = getattr(config, "model_type", None), _processor_type(processor)
    tower = getattr(getattr(config, "vision_config", None), "model_type", None)
    said = TOWERS.get((str(said), str(tower)), said)
    if said and made and find_family(said) is None and find_family(made) is not None:
        return made, said
    return said or made, None


def _refuse_names(**sources: Any) -> None:
    """Refuse what only names a processor, config or model, or is of another kind."""
    for name, given in sources.items():
        if isinstance(given, (str, PurePath, Mapping)):
            raise BadInput(
                f"{name} is a {type(given).__name__}, but nothing is loaded or downloaded here. "
                f"It would be ignored. Pass the {name} itself."
            )
        if given is not None:
            refuse_other_kind(name, given)


def _returned_keys(processor: Any) -> frozenset[str] | None:
    """`model_input_names`, which also reflects what the installed release returns by default."""
    try:
        return frozenset(processor.model_input_names)
    except (AttributeError, TypeError):  # no processor, or one with missing parts
        return None


def _taken_keys(config: Any, model: Any) -> frozenset[str] | None:
    """Arguments of the model's forward, or of the installed class that has such a config."""
    forward = getattr(model, "forward", None)
    if forward is None and config is not None:
        mapping = getattr(
            sys.modules.get("transformers"), "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING", {}
        )
        with suppress(Exception):  # a class that cannot be imported here
            forward = mapping[type(config)].forward
    return frozenset(signature(forward).parameters) if forward is not None else None


def _first(holder: Any, *names: str) -> Any:
    for name in names:
        value = getattr(holder, name, None)
        if value is not None:
            return value
    return None


def _processor_type(processor: Any) -> str | None:
    """The model type of the module that defines the processor's class.

    transformers keeps each architecture in `transformers.models.<model_type>`. Base classes of the
    processor are looked up too, so a user's subclass is still recognised.
    """
    return None if processor is None else _model_of(type(processor))


@lru_cache(maxsize=256)
def _model_of(kind: type) -> str | None:
    for cls in kind.__mro__:
        parts = cls.__module__.split(".")
        if parts[:2] == ["transformers", "models"] and len(parts) > 3:
            return parts[2]
    return None


def _image_token_id(processor: Any, tokenizer: Any, config: Any) -> int | None:
    """The id that the processor repeats where features go and that the model looks for.

    `image_token_ids` holds the tokens that transformers marks as image tokens, which may include
    begin and end tokens. `processor.image_token_id` is the token that the *user* writes; in Gemma 3
    (the begin token) and Ovis 2 it is a different one.
    """
    known = PLACEHOLDERS.get(_processor_type(processor) or "")
    ids = getattr(processor, "image_token_ids", None)
    token = getattr(processor, "image_token", None)
    token = getattr(token, "content", token)  # an AddedToken in BLIP-2
    if known is not None and tokenizer is not None:
        said = tokenizer.convert_tokens_to_ids(known)
    elif isinstance(ids, (list, tuple)) and len(ids) == 1:
        said = ids[0]
    else:
        said = _first(processor, "image_token_id")
    if said is None and isinstance(token, str) and tokenizer is not None:
        said = tokenizer.convert_tokens_to_ids(token)
    configured = _first(config, "image_token_id", "image_token_index")
    if getattr(config, "model_type", None) in VIDEOS_AS_IMAGES:
        configured = _first(config, "video_token_id")
    if configured is None:  # Chameleon and Emu3 look for it by its text
        configured = (_first(config, "vocabulary_map") or {}).get("<image>")
    if said is not None and configured is not None and said != configured:
        raise BadInput(
            f"The processor's placeholder token has id {said}, the config's has id {configured}. "
            "Processor and model do not belong together: no placeholder would be found. "
            "Load both from the same checkpoint."
        )
    return said if said is not None else configured


def _image_edges(processor: Any, tokenizer: Any) -> tuple[int, int] | None:
    """Begin and end token of an image, if the processor writes one of each around it."""
    begin, end = EDGES.get(_processor_type(processor) or "", (None, None))
    if begin is None:
        return None
    ids = tokenizer.convert_tokens_to_ids([begin, end])
    return (ids[0], ids[1]) if all(isinstance(one, int) for one in ids) else None


def _image_start_id(processor: Any, tokenizer: Any) -> int | None:
    start = STARTS.get(_processor_type(processor) or "")
    return None if start is None else tokenizer.convert_tokens_to_ids(start)


def _of_config(config: Any) -> dict[str, bool | None]:
    """How the text model attends, if a config says so; it names a kernel once a model has it.

    Gemma 4 says whether placeholder tokens attend to each other.
    """
    text = getattr(config, "text_config", None)
    name = getattr(config if text is None else text, "_attn_implementation", None)
    both = getattr(text, "use_bidirectional_attention", "unsaid")
    return {
        "has_config": getattr(config, "model_type", None) is not None,
        "flash_attention": False if name in BY_MASK else "flash" in str(name) or None,
        "attends_both_ways": None if both == "unsaid" else both == "vision",
    }


def _stream_token_ids(processor: Any, config: Any) -> dict[str, int]:
    """Placeholder tokens of videos and audio clips."""
    found: dict[str, int] = {}
    if getattr(config, "model_type", None) in VIDEOS_AS_IMAGES:
        return found
    for unit in VIDEO_AND_AUDIO:
        said = _first(processor, f"{unit}_token_id")
        said = said if said is not None else _first(config, f"{unit}_token_id")
        said = said if said is not None else _first(config, f"{unit}_token_index")
        if isinstance(said, int):
            found[unit] = said
    return found


def _of_text(processor: Any, tokenizer: Any, config: Any) -> dict[str, Any]:
    """What is known of the tokens of text."""
    return {
        "pad_token_id": _pad_token_id(tokenizer, config),
        "vocabulary": _vocabulary(tokenizer, config),
        "prompt_ends": _prompt_ends(processor, tokenizer),
    }


def _pad_token_id(tokenizer: Any, config: Any) -> int | None:
    """The padding token, from the tokenizer or the text config."""
    said = _first(tokenizer, "pad_token_id")
    if said is None:  # transformers warns if a config with a text config of its own is read
        said = _first(getattr(config, "text_config", None) or config, "pad_token_id")
    return said if isinstance(said, int) else None


def _vocabulary(tokenizer: Any, config: Any) -> int | None:
    """The smallest token id that neither the tokenizer nor the config has."""
    sizes = [_first(getattr(config, "text_config", None) or config, "vocab_size")]
    with suppress(TypeError, ValueError):  # no tokenizer, or one without added tokens
        sizes += [len(tokenizer), max(tokenizer.added_tokens_decoder, default=-1) + 1]
    return max((size for size in sizes if isinstance(size, int)), default=None)


def _prompt_ends(processor: Any, tokenizer: Any) -> frozenset[int]:
    """Line breaks, which end each prompt (`processing_paligemma.prepare_inputs_layout`, 5.24)."""
    if _processor_type(processor) != "paligemma" or tokenizer is None:
        return frozenset()
    breaks = (tokenizer.encode("\n" * n, add_special_tokens=False) for n in (1, 2, 3))
    return frozenset(ids[-1] for ids in breaks if ids)


def _global_image_id(processor: Any, tokenizer: Any) -> int | None:
    found = _first(processor, "global_image_token_id")
    tag = getattr(processor, "global_image_tag", None) or getattr(
        processor, "global_image_token", None
    )
    if found is None and isinstance(tag, str) and tokenizer is not None:
        found = tokenizer.convert_tokens_to_ids(tag)
    return found


def _features_per_tile(processor: Any, config: Any, vision: Any) -> int | None:
    """Placeholder tokens per tile: `image_seq_length` in InternVL, `image_seq_len` in Idefics3.

    Idefics3's config gives it as `(image_size / patch_size / scale_factor) ** 2`. Aya Vision uses
    `downsample_factor` and Ovis 2 `hidden_stride` in place of `scale_factor`.
    """
    said = _first(
        processor, "image_seq_length", "image_seq_len", "num_image_tokens", "num_query_tokens"
    ) or _first(
        config,
        "image_seq_length",
        "num_query_tokens",
        "mm_tokens_per_image",
        "vision_soft_tokens_per_image",
    )
    said = said or _first(getattr(config, "perceiver_config", None), "resampler_n_latents")
    said = said or _first(getattr(config, "encoder", None), "mm_tokens_per_image")  # T5Gemma 2
    if said is None and getattr(config, "model_type", None) == "llava_onevision":
        side = tower_side(processor, config)
        said = side and side**2
    if said is not None:
        return said
    side, square = _first(processor, "img_size"), _first(processor, "patch_size")
    if isinstance(side, int) and isinstance(square, int):
        return (side // square) ** 2  # Aya Vision: its patch_size is already the merged one
    factor = _first(config, "downsample_factor") or _first(vision, "hidden_stride")
    side, square = _first(vision, "image_size"), _first(vision, "patch_size")
    if isinstance(factor, int) and isinstance(side, int) and isinstance(square, int):
        return (side // (square * factor)) ** 2
    scale = _first(config, "scale_factor") or _first(vision, "scale_factor")
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if isinstance(scale, int) and isinstance(size, int) and isinstance(patch, int):
        return (size // patch // scale) ** 2
    return None


def _merge_size(images: Any, config: Any, vision: Any) -> int | None:
    """Side of the square of patches that becomes one feature; Nemotron stores it as a ratio."""
    said = _first(images, "merge_size") or _first(vision, "spatial_merge_size", "merge_size")
    sides = _first(vision, "merge_kernel_size")  # Kimi's
    if said is None and isinstance(sides, (list, tuple)) and len(set(sides)) == 1:
        said = sides[0]
    ratio = _first(images, "downsample_ratio") or _first(config, "downsample_ratio")
    return said if said is not None or not ratio else round(1 / ratio)


def _pixels_per_feature(processor: Any, config: Any, vision: Any) -> int | None:
    """Side in pixels of the square that becomes one feature: `patch_size * spatial_merge_size`."""
    side = _first(processor, "patch_size") or _first(vision, "patch_size")
    merge = _first(processor, "spatial_merge_size") or _first(config, "spatial_merge_size")
    if merge is None and getattr(vision, "model_type", None) == "pixtral":
        merge = 1  # a LLaVA model merges nothing: modeling_llava.get_image_features
    if side is None:  # squares of Emu3 and Apertus 1.5
        images = getattr(processor, "image_processor", None)
        said = _first(processor, "downsample_ratio") or _first(images, "spatial_factor")
        return said or squares_of_vq(config)
    return side * merge if isinstance(side, int) and isinstance(merge, int) else None


def _tokens_per_image(processor: Any, config: Any) -> Callable[[Sizes], list[int]] | None:
    """The processor's own count of placeholder tokens from image sizes, `(height, width)`.

    The method is private in transformers, so its absence is not an error.
    """
    hook = getattr(processor, "_get_num_multimodal_tokens", None)
    if hook is None:
        known = getattr(config, "model_type", None) in ANYRES
        return anyres_tokens(config) if known else None

    def count(sizes: Sizes) -> list[int]:
        return list(hook(image_sizes=[list(size) for size in sizes])["num_image_tokens"])

    return count


def anyres_tokens(config: Any) -> Callable[[Sizes], list[int]] | None:
    """Placeholder tokens of "anyres" images, from the config alone.

    The image is placed on the best of the pinpoint canvases, padding rows or columns are removed,
    each row of patches gets a newline feature, and one overview tile is added. LLaVA-OneVision
    scales images with too many features down (`modeling_llava_next.pack_image_features` and
    `modeling_llava_onevision.pack_image_features`, transformers 5.23). None if a LLaVA-OneVision
    config does not give the maximum.
    """
    vision, most = config.vision_config, None
    side = vision.image_size // vision.patch_size
    base = side**2 + (config.vision_feature_select_strategy == "full")
    if config.model_type == "granite4_vision":
        side = int(side * Fraction(config.downsample_rate))
        base = side**2
    if config.model_type == "llava_onevision":
        ratio = str(getattr(config, "vision_aspect_ratio", ""))
        if not ratio.startswith("anyres_max_") or not ratio[11:].isdecimal():
            return None
        base, most = side**2, int(ratio[11:]) * side**2  # its vision tower has no class token

    def count(sizes: Sizes) -> list[int]:
        return [
            base + _packed(size, best_canvas(size, config.image_grid_pinpoints)) for size in sizes
        ]

    def _packed(size: tuple[int, int], canvas: tuple[int, int]) -> int:
        height, width = size
        rows, columns = (side * (edge // vision.image_size) for edge in canvas)
        if width / height > columns / rows:
            used = int(round(height * (columns / width), 7))
            rows -= (rows - used) // 2 * 2
        else:
            used = int(round(width * (rows / height), 7))
            columns -= (columns - used) // 2 * 2
        scale = sqrt(rows * columns / most) if most else 1.0
        if scale > 1.1:
            rows, columns = int(rows // scale), int(columns // scale)
        return rows * columns + rows

    return count
