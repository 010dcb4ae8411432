"""The dimensions of the keys of videos and audio clips, named as `Family.shapes` names them.

Keys that count are refused with other dimensions, before anything is counted. Others are compared:
frames of audio with the frames of its mask, patches with their positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vlmdebug.core.batch import Ambiguity, Contradiction
from vlmdebug.core.keys import AUDIO_KEYS, KEYS
from vlmdebug.core.tensors import to_numpy
from vlmdebug.errors import BadInput
from vlmdebug.families.base import dimensions
from vlmdebug.families.facts import BatchFacts
from vlmdebug.families.row_sizes import FIXED

COUNT = {
    "video_grid_thw": "video, 3",
    "num_frames_per_video": "video",
    "video_position_ids": "frame, frame_patches, 2",
}
"""Keys from which the rows and features of videos follow."""
VIDEOS, VIDEO_PATCH_PIXELS = "pixel_values_videos", "video_patch_pixels"
PIXELS_OF_VIDEOS = "video, video_frames, channels, video_height, video_width"
PIXELS_OF_FRAMES = f"frame, frame_patches, {VIDEO_PATCH_PIXELS}"
"""Next to `video_position_ids` (`modeling_gemma4.get_video_features`, transformers 5.24)."""
SOUND, MASKS = AUDIO_KEYS[0], AUDIO_KEYS[1:]
MEL_FIRST = "feature_attention_mask"
"""The mask of models that always have mel before frames: Qwen's."""


def refuse_other_dimensions(inputs: Mapping[str, Any]) -> None:
    """Refuse keys of videos that cannot be counted.

    Raises:
        BadInput: One has a dimension too many or too few.
    """
    for key, named in COUNT.items():
        shape = tuple(getattr(inputs.get(key), "shape", ()))
        if shape and len(shape) != len(dimensions(named)):
            raise BadInput(
                f"{key} has shape {shape}, but it is ({named}). Rows would be counted on the "
                "wrong dimension. Pass it as the processor returned it."
            )


def clip_shapes(facts: BatchFacts, *, sums: bool) -> dict[str, str]:
    """The dimensions of the clip keys of a batch, as far as all models agree on them.

    Args:
        facts: The batch.
        sums: Whether the model may use no more of a mask of sounds than its sum, so that the
            mask may be shorter (`modeling_qwen2_audio.forward`, transformers 5.24).
    """
    found = _of_videos(facts)
    mask = next((key for key in MASKS if facts.has(key)), None)
    if facts.metadata.model_type == "voxtral" and facts.has(SOUND):  # which has no mask
        return {**found, SOUND: "window, mel, frames"}
    if mask is None or not facts.has(SOUND) or facts.metadata.features_of_audio is None:
        return found
    shape, heard = facts.inputs[SOUND].shape, facts.inputs[mask].shape
    if len(heard) != 2:
        return found
    wide = heard[1]  # models differ in the order of frames and mel
    mel_first = mask == MEL_FIRST if wide not in shape[1:] else shape[1] != wide
    named = "clip, mel, frames" if mel_first else "clip, frames, mel"
    frames = shape[-1] if mel_first else shape[1] if len(shape) > 1 else wide
    beside = {} if sums and wide < frames else {mask: "clip, frames"}
    return {**found, **beside, SOUND: named}


def _of_videos(facts: BatchFacts) -> dict[str, str]:
    """The dimensions of the pixels of videos, and of what belongs to each of their rows."""
    if not facts.has(VIDEOS):
        return {}
    if facts.has("video_position_ids"):
        return {
            "video_position_ids": COUNT["video_position_ids"],
            VIDEOS: PIXELS_OF_FRAMES,
        }
    dims = len(facts.inputs[VIDEOS].shape)
    if facts.has("video_grid_thw"):
        return {VIDEOS: f"video_patch, {VIDEO_PATCH_PIXELS}"} if dims == 2 else {}
    fixed = facts.metadata.model_type in FIXED and dims == 5
    return {VIDEOS: PIXELS_OF_VIDEOS} if fixed else {}


def _has_holes(shown: np.ndarray) -> bool:
    """Whether a row of `(row, frame)` has hidden frames between shown ones."""
    begins = shown & ~np.pad(shown, ((0, 0), (1, 0)))[:, :-1]
    return bool((begins.sum(axis=1) > 1).any())


def odd_mask(mask: Any, key: str) -> Ambiguity | None:
    """A mask of clips with holes, with other values than 0 and 1, or with these in floating point.

    Models sum such masks, or take rows by them (`modeling_qwen2_5_omni.get_audio_features`,
    `modeling_video_llama_3.get_video_features`, transformers 5.24).
    """
    kind, values = str(getattr(mask, "dtype", "")), to_numpy(mask)
    if KEYS[key].modality == "audio" and values.ndim == 2 and _has_holes(values != 0):
        said = (
            f"{key} hides frames between others that it shows, but a sound is one stretch of "
            "frames. Some models read other frames. Pass it as the processor returned it."
        )
        return Ambiguity((), None, said)
    if "bool" in kind:
        return None
    if bool(((values != 0) & (values != 1)).any()):
        said = (
            f"{key} holds values other than 0 and 1, but it says which rows or frames are real. "
            "The model raises, or counts others. Pass it as the processor returned it."
        )
        return Contradiction((), None, said, refused=False, silent=None)
    if "float" not in kind:
        return None
    said = (
        f"{key} holds {kind}, but a mask is of truth values or whole numbers: some models raise. "
        "Cast only pixels and sounds to another dtype."
    )
    return Ambiguity((), None, said)
