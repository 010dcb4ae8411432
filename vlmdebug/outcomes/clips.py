"""Predicts what a forward pass does with wrong rows of video and audio clips."""

from __future__ import annotations

from vlmdebug.core.modality import Modality
from vlmdebug.outcomes.call import Call


def takes_clips(call: Call, clips: Modality) -> bool | None:
    """Whether the model runs with videos of patches; their grids determine tokens and rows.

    The answer is None for other videos and audio: their number of features is not known.
    """
    grids, pixels = call.keys.get("video_grid_thw"), call.keys.get("pixel_values_videos")
    step, made = call.batch.balance_of(call.part, clips.name), clips.features
    if "video_grid_thw" not in clips.keys or step is None or not made:
        return None
    if pixels is None:  # without pixels it compares nothing, but M-RoPE may read the grid
        looks = call.rules.checks_each_sample == "always" and grids is None and step[0]
        return None if looks else True
    if step[0] == 0 or grids is None:
        return False
    given = [call.keys[key] for key in clips.keys if key in call.keys]
    if any(call.is_foreign(used) for used in given):
        return None
    expected = {key: call.expected(key).rows for key in clips.keys}
    owned = [made[row] for row in expected["video_grid_thw"]]
    asked = [made[row] for row in grids.rows or ()]
    if sum(asked) != step[0]:
        return False
    if pixels.length != len(expected["pixel_values_videos"]):
        return False if pixels.length != 1 else None
    others = set(clips.keys) - {"video_grid_thw", "pixel_values_videos"}
    alike = all(key in call.keys and call.keys[key].rows == expected[key] for key in others)
    return True if asked == owned and alike else None
