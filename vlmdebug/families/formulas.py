"""How many features a row of media becomes, by the model's and the processor's own rule.

This evidence does not depend on placeholder tokens: shapes of pixels, frames of videos, lengths of
audio. The config is read first, because the model computes its features from it; then the
processor. The rules come from transformers 5.23, from the file that each names, and the tests
compare them with the real models. If no rule applies, the answer is None; nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import ceil
from typing import Any

PixelRule = Callable[[int, int], int | None]
"""Features of one row of `pixel_values`, from its height and width."""
VideoRule = Callable[[int, int, int], int | None]
"""Features of one video, from its frames, height and width."""
AudioRule = Callable[[int], int]
"""Features of one row of audio, from the number of its frames without padding."""

GRIDS = ("chameleon", "paligemma", "janus", "deepseek_vl", "deepseek_vl_hybrid", "vipllava")
"""A feature per patch, as `modeling_paligemma.get_image_features` and that of each other model."""
CLASS_TOKENS = {"clip_vision_model": 1, "siglip_vision_model": 0}
"""Features in addition to those of the patches (class tokens), by the model type of the tower."""
LAYERS_OF_STRIDE_2 = ("gemma4", "gemma4_unified")
QWEN3_CHUNK = 50  # n_window is half the frames of a chunk of audio


def features_of_pixels(model_type: str | None, processor: Any, config: Any) -> PixelRule | None:
    """Features of a row, if its height and width determine them."""
    by_processor = _pixels_by_processor(model_type, processor)
    return _pixels_by_config(model_type, config) or by_processor


def _pixels_by_config(model_type: str | None, config: Any) -> PixelRule | None:
    vision = getattr(config, "vision_config", None)
    patch = getattr(vision, "patch_size", None)
    if model_type == "florence2" and vision is not None:
        return _squares_and_mean(vision)
    if model_type == "deepseek_ocr2" and vision is not None:
        return _queries(vision.sam_config.patch_size)
    if model_type == "chameleon":
        patch = squares_of_vq(config)
    if model_type == "perception_lm":
        patch = _patch_by_name(vision)
    if not isinstance(patch, int):
        return None
    if model_type == "perception_lm":  # modeling_perception_lm.PerceptionLMMultiModalProjector
        return _pooled(patch, config.projector_pooling_ratio)
    if model_type == "step3p7":  # modeling_step3p7.Step3p7VisionModel halves the sides twice
        return lambda height, width: ceil(height // patch / 4) * ceil(width // patch / 4)
    shuffle = getattr(vision, "pixel_shuffle_ratio", None)
    if model_type == "llama4" and shuffle:  # modeling_llama4.pixel_shuffle
        return _shuffled(patch, round(1 / shuffle**2))
    if model_type in GRIDS:
        return lambda height, width: (height // patch) * (width // patch)
    queries = getattr(config, "projector_patch_to_query_dict", None)
    if isinstance(queries, dict):  # modeling_aria.AriaProjector
        return lambda height, width: queries.get((height // patch) * (width // patch))
    tokens = CLASS_TOKENS.get(getattr(vision, "model_type", ""))
    if model_type in ("llava", "video_llava") and tokens is not None:
        # modeling_llava.get_image_features, modeling_video_llava.get_image_features
        more = tokens - (getattr(config, "vision_feature_select_strategy", None) == "default")
        return lambda height, width: (height // patch) * (width // patch) + more
    return None


def _queries(patch: int) -> PixelRule:
    """144 or 256, by the size of the view (`modeling_deepseek_ocr2.DeepseekOcr2VisionModel`)."""
    side = 4 * patch  # two convolutions halve the sides
    return lambda height, width: 144 if (height // side) * (width // side) <= 144 else 256


def _squares_and_mean(vision: Any) -> PixelRule:
    """Squares of several convolutions, and their mean (`modeling_florence2.get_image_features`)."""

    def side(pixels: int) -> int:
        layers = zip(vision.patch_size, vision.patch_stride, vision.patch_padding, strict=True)
        for size, stride, padding in layers:
            pixels = (pixels + 2 * padding - size) // stride + 1
        return pixels

    return lambda height, width: side(height) * side(width) + 1


def squares_of_vq(config: Any) -> int | None:
    """Side in pixels of the square that becomes one code of a VQ model.

    Chameleon and Emu3 have a `vq_config`; the vision tower of Apertus 1.5 is such a model.
    """
    model = getattr(config, "vq_config", None) or getattr(config, "vision_config", None)
    levels = getattr(model, "channel_multiplier", None)
    return 2 ** (len(levels) - 1) if levels else None


def _patch_by_name(tower: Any) -> int | None:
    """Side of a patch of a timm tower, of which its config gives only the name."""
    found = re.search(r"_patch(\d{1,3})_", getattr(tower, "architecture", ""))
    return int(found[1]) if found else None


def _pooled(patch: int, side: int) -> PixelRule:
    """One feature for every square of `side` patches."""
    return lambda height, width: (height // patch // side) * (width // patch // side)


def _shuffled(patch: int, merged: int) -> PixelRule:
    """One feature for every `merged` patches of a row."""
    return lambda height, width: (height // patch) * (width // patch) // merged


def _pixels_by_processor(model_type: str | None, processor: Any) -> PixelRule | None:
    """As `processing_llava.replace_image_token` counts, and that of the other processors.

    `processing_aria.replace_image_token` has a table of sizes. In
    `processing_llama4.replace_image_token`, `downsample_ratio` patches are one feature. In
    `processing_cohere2_vision.replace_image_token`, `patch_size` is a side in features.
    `processing_step3p7.Step3p7Processor` (transformers 5.24) takes the side of a feature from its
    image processor.
    """
    sizes = getattr(processor, "size_conversion", None)
    if isinstance(sizes, dict):
        return lambda height, width: sizes.get(height)
    patch = getattr(processor, "patch_size", None)
    merged = getattr(processor, "downsample_ratio", None)
    if model_type == "perception_lm" and isinstance(patch, int):
        return _pooled(patch, processor.pooling_ratio)
    if model_type == "step3p7" and processor is not None:
        images = processor.image_processor
        stride = images.vision_patch_size * images.downsampler_stride
        return lambda height, width: (height // stride) * (width // stride)
    if model_type == "deepseek_ocr2" and isinstance(patch, int) and isinstance(merged, int):
        side = patch * merged
        return lambda height, width: ceil(height / side) * ceil(width / side)
    if model_type == "llama4" and isinstance(patch, int) and isinstance(merged, int):
        return _shuffled(patch, merged)
    if model_type == "cohere2_vision" and isinstance(patch, int):
        return lambda height, width: patch**2
    more = getattr(processor, "num_additional_image_tokens", None)
    if not isinstance(patch, int) or not isinstance(more, int):
        return None
    more -= getattr(processor, "vision_feature_select_strategy", None) == "default"
    return lambda height, width: (height // patch) * (width // patch) + more


UNMERGED = {"inkling2": 1, "inkling2_loop": 1}
"""Model types in which every patch is a feature (`modeling_inkling2.get_image_features`, 5.23)."""
NEWLINES = ("hy_v4_vl",)
"""Model types with one more feature per row of merged patches, in images and in each frame of a
video (`processing_hy_v4_vl._num_frame_tokens`, transformers 5.24)."""


def with_newlines(height: int, width: int, merge: int) -> int:
    """Features of one image or frame of `height` x `width` patches, for a model of `NEWLINES`."""
    return height // merge * (width // merge + 1)


def features_of_video(model_type: str | None, processor: Any, config: Any) -> VideoRule | None:
    """Features of a video with a row of shape `(frames, channels, height, width)`."""
    vision = getattr(config, "vision_config", None)
    patch = getattr(vision, "patch_size", None) or getattr(processor, "patch_size", None)
    if model_type == "perception_lm":
        frame = features_of_pixels(model_type, processor, config)
        return frame and (lambda frames, height, width: frames * (frame(height, width) or 0))
    if model_type == "llava_onevision":  # modeling_llava_onevision.apply_pooling
        side = tower_side(processor, config)
        if side is None:
            return None
        return lambda frames, height, width: frames * ceil(side / 2) ** 2 + 1
    if not isinstance(patch, int):
        return None
    if model_type == "llava_next_video":
        # modeling_llava_next_video.LlavaNextVideoPooler
        return lambda frames, height, width: frames * (height // patch // 2) * (width // patch // 2)
    if model_type == "video_llava":
        # modeling_video_llava.get_video_features keeps the class token.
        return lambda frames, height, width: frames * ((height // patch) * (width // patch) + 1)
    return None


def tower_side(processor: Any, config: Any) -> int | None:
    """Features per side of a LLaVA-OneVision tile; its vision tower has no class token."""
    vision = getattr(config, "vision_config", None)
    size, patch = getattr(vision, "image_size", None), getattr(vision, "patch_size", None)
    if isinstance(size, int) and isinstance(patch, int):
        return size // patch
    tokens = getattr(processor, "num_image_tokens", None)
    return int(tokens**0.5) if isinstance(tokens, int) else None


def features_of_audio(model_type: str | None, processor: Any, config: Any) -> AudioRule | None:
    """Features of an audio clip."""
    if model_type in LAYERS_OF_STRIDE_2:
        # modeling_gemma4.Gemma4AudioSubSampleConvProjection
        return lambda frames: ceil(ceil(frames / 2) / 2)
    if model_type in ("qwen2_5_omni", "qwen2_5_omni_thinker"):
        # processing_qwen2_5_omni._get_feat_extract_output_lengths
        return lambda frames: ((frames - 1) // 2 - 1) // 2 + 1
    if model_type in ("qwen3_omni_moe", "qwen3_omni_moe_thinker"):
        # processing_qwen3_omni_moe._get_feat_extract_output_lengths
        window = getattr(getattr(config, "audio_config", None), "n_window", None) or QWEN3_CHUNK
        return lambda frames: _of_chunks(frames, 2 * window)
    if model_type in ("qwen2_audio", "audioflamingo3", "musicflamingo"):
        # modeling_qwen2_audio._get_feat_extract_output_lengths, and that of the others
        return lambda frames: ((frames - 1) // 2 + 1 - 2) // 2 + 1
    if model_type == "voxtral":  # modeling_voxtral.get_audio_features; its rows have no padding
        audio = getattr(config, "audio_config", None)
        wide, most = getattr(audio, "intermediate_size", 4), getattr(audio, "hidden_size", 1)
        return lambda frames: frames // 2 * most // wide
    if model_type == "glmasr":  # modeling_glmasr.get_audio_features
        return lambda frames: ((frames - 1) // 2 + 1 - 4) // 4 + 1
    if model_type == "gemma3n":  # modeling_gemma3n.forward pads them to as many
        tokens = getattr(config, "audio_soft_tokens_per_image", None) or getattr(
            processor, "audio_seq_length", None
        )
        return tokens and (lambda frames: tokens)
    return None


def _of_chunks(frames: int, chunk: int) -> int:
    """Three halvings of the last chunk, and 13 features of each whole one."""
    rest = (frames % chunk - 1) // 2 + 1
    return ((rest - 1) // 2 + 1 - 1) // 2 + 1 + frames // chunk * 13
