"""Predicts what a forward pass does with wrong rows of video and audio clips."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from math import prod

from vlmdebug.core.keys import MEDIA_OF
from vlmdebug.core.layout import VIDEO_AND_AUDIO
from vlmdebug.core.modality import Modality
from vlmdebug.core.presence import M_ROPE
from vlmdebug.outcomes.call import Call

KEPT = "video_compression_mask"
"""VideoLLaMA 3's mask of the features that a video keeps, so that grids alone do not count them."""
FRAMES = "num_frames_per_video"
"""Gemma 4's frames of each video; all frames are rows of one tensor."""
GRIDS = ("image_grid_thw", "video_grid_thw")


def takes_clips(call: Call, clips: Modality) -> bool | None:
    """Whether the model runs with this call, in which a key of these clips is wrong."""
    if not any(key in call.keys for key in clips.keys if key in MEDIA_OF.values()):
        return takes_no_pixels(call, clips)
    if FRAMES in clips.keys:
        return _takes_frames(call, clips)
    if KEPT in clips.keys:
        return _takes_kept(call, clips)
    return _takes_grids(call, clips) if "video_grid_thw" in clips.keys else _takes_rows(call, clips)


def takes_no_pixels(call: Call, media: Modality) -> bool | None:
    """Whether the model runs without the pixels or sounds of `media`, which it does not miss.

    M-RoPE reads the next grid for each image and video of the text once there is any grid at all,
    and the Omni thinkers the length of each audio clip too (`get_rope_index` in the modeling files
    of Qwen2-VL and Qwen2.5-Omni, transformers 5.23).
    """
    rules, keys, written = call.rules, call.keys, call.batch.placeholders_of(call.part, media.name)
    places = keys.get("position_ids")
    placed = places is not None and places.dims == M_ROPE
    if rules.checks_each_sample == "never" or placed or not any(key in keys for key in GRIDS):
        return True
    if any(key in keys for key in media.keys if key in GRIDS or "mask" in key):
        return True
    if media.name not in VIDEO_AND_AUDIO and "image_grid_thw" not in media.keys:
        return True
    if media.name == "audio" and rules.checks_each_sample == "always":
        return True
    if written is None or (
        rules.checks_each_sample == "always" and "mm_token_type_ids" not in keys
    ):
        return None
    return not written


def _takes_grids(call: Call, clips: Modality) -> bool | None:
    """Videos of patches; their grids determine tokens and rows."""
    grids, pixels = call.keys.get("video_grid_thw"), call.keys["pixel_values_videos"]
    step, made = call.batch.balance_of(call.part, clips.name), clips.features
    unsettled = call.batch.unsettled.keys() & set(clips.keys)
    if step is None or not made or unsettled:
        return None
    if step[0] == 0 or grids is None:
        return False
    given = [call.keys[key] for key in clips.keys if key in call.keys]
    if any(call.is_foreign(used) for used in given):
        return None
    expected = {key: call.expected[key].rows for key in clips.keys}
    asked = [made[row] for row in grids.rows or ()]
    if sum(asked) != step[0]:
        return False
    if pixels.length != len(expected["pixel_values_videos"]):
        return False if pixels.length != 1 else None
    others = set(clips.keys) - {"video_grid_thw", "pixel_values_videos"}
    alike = all(key in call.keys and call.keys[key].rows == expected[key] for key in others)
    if call.lays_out_media and call.rules.checks_each_sample == "sometimes":
        alike = alike and asked == [made[row] for row in expected["video_grid_thw"]]
    placed = call.rules.checks_each_sample != "always" or not call.lays_out_media
    if not placed and not _placed(call, clips, grids.rows or ()):
        return False
    return True if alike else None


def _takes_frames(call: Call, clips: Modality) -> bool | None:
    """Videos of frames; their positions determine tokens (`modeling_gemma4.get_video_features`).

    A single row of pixels may be broadcast to several rows of positions (transformers 5.24).
    """
    given = [call.keys.get(key) for key in ("pixel_values_videos", "video_position_ids", FRAMES)]
    used = [one for one in given if one is not None]
    if len(used) < len(given):
        return False
    written = call.batch.placeholders_of(call.part, clips.name)
    if written is None or clips.pieces is None or any(call.is_foreign(one) for one in used):
        return None
    pixels, places, videos = used
    frames = [*chain.from_iterable(clips.pieces)]
    if sum(len(clips.pieces[row]) for row in videos.rows or ()) != places.length:
        return False
    if not places.length or sum(frames[row] for row in places.rows or ()) != written:
        return False
    return True if pixels.length == places.length else None if pixels.length == 1 else False


def _takes_kept(call: Call, clips: Modality) -> bool | None:
    """Videos of patches with a mask of the features that are kept.

    The mask has a row for each feature of the grids of a call, which the sizes of merged squares
    divide (`modeling_video_llama_3.VideoLlama3Model`, transformers 5.24).
    """
    keys, inputs = call.keys, call.batch.inputs
    grids, merges = keys.get("video_grid_thw"), keys.get("video_merge_sizes")
    mask, pixels = keys.get(KEPT), keys["pixel_values_videos"]
    written = call.batch.placeholders_of(call.part, clips.name)
    if grids is None or merges is None:
        return False
    if written is None or any(call.is_foreign(keys[key]) for key in clips.keys if key in keys):
        return None
    if grids.length != merges.length:
        return None if 1 in (grids.length, merges.length) else False
    if not grids.length:
        return False
    patches = [prod(inputs["video_grid_thw"][row].tolist()) for row in grids.rows or ()]
    sides = [int(inputs["video_merge_sizes"][row]) for row in merges.rows or ()]
    if pixels.length != sum(patches):
        return None if pixels.length == 1 else False
    made = sum(count // side**2 for count, side in zip(patches, sides, strict=True))
    if mask is not None and mask.length != made:
        return False
    kept = made if mask is None else sum(bool(inputs[KEPT][row]) for row in mask.rows or ())
    return kept == written


def _placed(call: Call, clips: Modality, rows: Iterable[int]) -> bool:
    """Whether M-RoPE can give these videos to the runs of placeholder tokens of each sample.

    A run takes the next video, or the next frame where the frames are written apart, next to their
    times (`get_rope_index` of Qwen3-VL and GLM-4V, transformers 5.23). Only the totals of each
    sample are compared.
    """
    made, runs = clips.features or (), clips.runs
    if runs is None:
        return True
    videos, written = [(made[row],) for row in rows], sum(map(len, runs))
    if clips.pieces is not None and written == sum(map(len, clips.pieces)):
        videos = [clips.pieces[row] for row in rows]
    lengths = chain.from_iterable(videos)
    return all(is_placed(runs[sample], lengths) for sample in call.part.samples)


def is_placed(runs: Sequence[int], lengths: Iterator[int]) -> bool:
    """Whether each run of a sample gets the next of the features, as many in all as its tokens."""
    taken = [*islice(lengths, len(runs))]
    return len(taken) == len(runs) and sum(taken) == sum(runs)


def _takes_rows(call: Call, clips: Modality) -> bool | None:
    """Clips, or windows of clips, with one row each.

    A model raises without the mask of sounds, or ignores the sounds. A single sound is broadcast to
    several rows of a mask in some.
    """
    step, made = call.batch.balance_of(call.part, clips.name), clips.features
    given = {key: call.keys[key] for key in clips.keys if key in call.keys}
    if {call.layout[key].unit for key in clips.keys} != {
        clips.unit
    } or not call.rules.checks_totals:
        return None
    if step is None or made is None or any(call.is_foreign(used) for used in given.values()):
        return None
    lengths = [used.length for used in given.values()]
    if len(given) < len(clips.keys):
        return call.rules.ignores_unmasked_audio
    if step[0] and 0 in lengths:
        return False
    if len(set(lengths)) > 1:
        return None if lengths[0] == 1 else False
    return _takes_features(call, clips, step[0]) if all(lengths) else None


def _takes_features(call: Call, clips: Modality, written: int) -> bool | None:
    """Whether the features of these clips fit so many placeholder tokens."""
    made, last = clips.features or (), clips.keys[-1]
    asked = [made[row] for row in call.keys[last].rows or ()]
    if sum(asked) < written or (sum(asked) > written and not call.rules.audio_surplus):
        return False
    placed = call.lays_out_media and any(key in call.keys for key in GRIDS)
    expected = [made[row] for row in call.expected[last].rows]
    return True if not placed or asked == expected else None
