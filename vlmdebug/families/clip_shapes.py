"""The dimensions of the keys of videos and audio clips, named as `Family.shapes` names them.

Keys that count are refused with other dimensions, before anything is counted. Others are compared:
frames of audio with the frames of its mask, patches with their positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vlmdebug.core.keys import AUDIO_KEYS
from vlmdebug.errors import BadInput
from vlmdebug.families.base import dimensions
from vlmdebug.families.facts import BatchFacts

COUNT = {
    "video_grid_thw": "video, 3",
    "num_frames_per_video": "video",
    "video_position_ids": "frame, frame_patches, 2",
}
"""Keys from which the rows and features of videos follow."""
PIXELS_OF_FRAMES = "frame, frame_patches, patch_pixels"
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
    found = {}
    if facts.has("video_position_ids") and facts.has("pixel_values_videos"):
        found["video_position_ids"] = COUNT["video_position_ids"]
        found["pixel_values_videos"] = PIXELS_OF_FRAMES
    mask = next((key for key in MASKS if facts.has(key)), None)
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
