"""Video and audio, which have the same layout in every family that takes them.

Videos are in `pixel_values_videos`. Its rows are
- patches, if there is `video_grid_thw` `(video, 3)`: grid `(t, h, w)` owns `t * h * w` rows and
  `t * h * w / merge_size ** 2` placeholder tokens (Qwen-VL, GLM);
- frames, if there is `num_frames_per_video` `(video,)`; `video_position_ids` `(frame, …)` comes
  with it (Gemma 4);
- videos otherwise, `(video, frames, channels, height, width)` (LLaVA-OneVision, LLaVA-NeXT-Video).

Audio is `input_features`, one row per clip, and a mask likewise (Gemma 3n and 4, Qwen's omni
models), or one row per window of a clip (Audio Flamingo 3, GLM-ASR, Music Flamingo). Read in
`get_video_features` and `get_audio_features` of the models, transformers 5.23. A chunk without a
clip is given none of the keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from vlmdebug.core.batch import Ambiguity
from vlmdebug.core.keys import AUDIO_KEYS, KEYS, VIDEO_KEYS, modality_of
from vlmdebug.core.layout import VIDEO_FEATURE, VIDEO_PATCH, Axis, plural
from vlmdebug.core.literals import literal
from vlmdebug.core.modality import Modality
from vlmdebug.core.rows import Counts
from vlmdebug.core.tensors import places_of, to_numpy
from vlmdebug.families.base import Family
from vlmdebug.families.clip_shapes import odd_mask, refuse_other_dimensions
from vlmdebug.families.facts import BatchFacts
from vlmdebug.families.formulas import NEWLINES, with_newlines
from vlmdebug.families.given_counts import how_to_count
from vlmdebug.families.image_counts import check_total, split_by_placeholders
from vlmdebug.families.probe import Probe
from vlmdebug.families.synthesize import BatchSpec, numbered, padded, with_text

TYPES = {"video": 2, "audio": 3}
"""What `mm_token_type_ids` holds at their placeholder tokens."""

VIDEO_UNITS = {key: str(KEYS[key].unit) for key in VIDEO_KEYS[1:]}
"""What a row of each key that comes with `pixel_values_videos` counts."""
BESIDE_VIDEOS: dict[str, tuple[str, ...]] = {
    VIDEO_PATCH: ("video_grid_thw",),
    "frame": ("num_frames_per_video", "video_position_ids"),
    "video": (),
}
"""The keys that come with `pixel_values_videos`, by what its rows count."""
ALSO_BESIDE_VIDEOS = {
    VIDEO_PATCH: ("second_per_grid_ts", "video_second_per_grid", "video_merge_sizes"),
}
"""Further keys that some of the models take."""
VIDEOS, AUDIO, COMPRESSION = "pixel_values_videos", "input_features", "video_compression_mask"
ROWS_OF_EACH = {
    VIDEO_FEATURE: '(inputs["video_grid_thw"].prod(-1) // inputs["video_merge_sizes"] ** 2)'
}
"""Sources of the rows of each video, for exported code, where no single key gives them. The
compression mask has a row for all features, of which it keeps some."""
WINDOWED = ("audioflamingo3", "glmasr", "musicflamingo", "voxtral")
"""Model types with one row of `input_features` per window of a clip (`_process_audio` in the
`processing_` file of each, transformers 5.23)."""
FEATURE_RULES = (
    '(inputs["video_grid_thw"].prod(-1) // {n}**2).tolist()',
    '_summed(((inputs["video_position_ids"][..., 0] != -1).sum(-1) // {n}**2).tolist(), '
    'inputs["num_frames_per_video"].tolist())',
    '_summed(inputs["video_compression_mask"].tolist(), '
    '(inputs["video_grid_thw"].prod(-1) // inputs["video_merge_sizes"] ** 2).tolist())',
    *(
        f'[((count - 1) // 2 - {lost}) // {merged} + 1 for count in _heard(inputs["{mask}"])]'
        for lost, merged in ((1, 2), (3, 4))
        for mask in AUDIO_KEYS[1:]
    ),
    '[{n}] * len(inputs["input_features"])',
)
"""Sources of the features of each clip or window, for exported code; as `Family.feature_rules`."""
FRAME_RULES = ("[{n} * count for count in _shown(inputs)]",)
"""The same where videos are in the keys of images (SmolVLM)."""


def clip_axes(family: Family) -> dict[str, Axis]:
    """Axes of all video and audio keys that some model of the family takes."""
    axes: dict[str, Axis] = {}
    if family.videos is not None:
        beside = (*BESIDE_VIDEOS[family.videos], *ALSO_BESIDE_VIDEOS.get(family.videos, ()))
        axes["pixel_values_videos"] = Axis(family.videos)
        axes |= {key: Axis(VIDEO_UNITS[key]) for key in beside}
    if family.audio is not None:
        axes |= dict.fromkeys(AUDIO_KEYS, Axis("audio"))
    return axes


def clip_of(key: str) -> str:
    """The medium of a key, `video` or `audio`; empty if it is neither."""
    found = modality_of(key)
    return "" if found is None or found == "image" else found


def with_clips(
    family: Family, inputs: Mapping[str, Any], facts: BatchFacts, spec: BatchSpec
) -> tuple[dict[str, Any], BatchFacts]:
    """A synthesized batch with videos, then audio clips, after the images of each sample.

    A frame is one placeholder token, an audio clip two. Videos with a row each are padded to the
    longest one, and frames of padding have tokens, too. Every row of pixels and of audio holds its
    own number.
    """
    padded_frames = [max(spec.frames, default=0)] * len(spec.frames)
    frames = iter(padded_frames if family.videos == "video" else spec.frames)
    tokens = {"video": 4, "audio": 11}
    none = (0,) * len(spec.images_per_sample)
    clips = {"video": spec.videos_per_sample or none, "audio": spec.audios_per_sample or none}
    rows = []
    for sample, ids in enumerate(inputs["input_ids"]):
        row = ids[ids != 0].tolist()
        for _ in range(clips["video"][sample]):
            row += [9, *[tokens["video"]] * next(frames), 6]
        for _ in range(clips["audio"][sample]):
            row += [10, *[tokens["audio"]] * 2, 6]
        rows.append(row)
    ids, types = padded(rows), "mm_token_type_ids" in inputs
    grown = with_text(ids, placeholder=facts.metadata.image_token_id or 0, types=types)
    if types:
        for unit, token in tokens.items():
            grown["mm_token_type_ids"][ids == token] = TYPES[unit]
    whole = {**inputs, **grown}
    if spec.frames:
        whole |= _videos(family.videos, spec.frames)
    if spec.second_per_grid_ts:
        whole["second_per_grid_ts"] = 0.5 * numbered(len(spec.frames))  # no two alike
    if any(clips["audio"]):
        whole |= _audio(family.audio, sum(clips["audio"]))
    metadata = replace(
        facts.metadata,
        token_ids={**facts.metadata.token_ids, **tokens},
        features_of_audio=lambda frames: 2,
        features_of_video=lambda frames, height, width: frames,
    )
    return whole, replace(facts, inputs=whole, metadata=metadata, clips=clips)


def _videos(unit: str | None, frames: Sequence[int]) -> dict[str, Any]:
    """Tensors of videos with these numbers of frames."""
    side = 2  # of the square of patches that is one token
    if unit == VIDEO_PATCH:
        grid = np.array([(count, side, side) for count in frames], dtype=np.int64)
        patches = numbered(sum(frames) * side**2, 6)
        return {"pixel_values_videos": patches, "video_grid_thw": grid}
    if unit == "frame":
        total = sum(frames)
        places = np.arange(total).repeat(side**2 * 2).reshape(total, side**2, 2)
        return {
            "pixel_values_videos": numbered(total, side**2, 3),
            "video_position_ids": places,
            "num_frames_per_video": np.array(frames, dtype=np.int64),
        }
    return {"pixel_values_videos": numbered(len(frames), max(frames), 3, side, side)}


def _audio(mask: str | None, clips: int) -> dict[str, Any]:
    """Tensors of this many audio clips, `(audio, mel, frames)` for Qwen, `(audio, frames, mel)`
    otherwise.

    The first clip is the longest and each next one frame shorter, so no two masks are alike.
    """
    length, mel = 2 + clips, 3
    shape = (mel, length) if mask == "feature_attention_mask" else (length, mel)
    heard = np.arange(length) < length - np.arange(clips)[:, None]  # (audio, frames)
    return {"input_features": numbered(clips, *shape), str(mask): heard.astype(np.int64)}


@dataclass(frozen=True)
class ClipReading:
    """The videos or audio clips of a batch, and what their keys count."""

    modality: Modality
    axes: Mapping[str, Axis]
    media: Mapping[str, str]
    counts: Mapping[str, Counts]
    ambiguities: tuple[Ambiguity, ...] = ()


def read_clips(
    facts: BatchFacts, overrides: Mapping[str, Axis], probed: Probe | None = None
) -> list[ClipReading]:
    """The video and audio clips of a batch.

    `overrides` say what a row of single keys counts; the probe of an unknown processor overrules
    the names of keys, and leaves them to the reading by shape.
    """
    refuse_other_dimensions(facts.inputs)
    found = []
    if facts.has("pixel_values_videos"):
        found.append(_video(facts, overrides))
    if facts.has("input_features"):
        found.append(_audio_clips(facts, overrides))
    return [one for one in found if not _probed_otherwise(one, probed)]


def _probed_otherwise(one: ClipReading, probed: Probe | None) -> bool:
    """Whether a probe found other units than the names of the keys suggest."""
    axes = {} if probed is None else probed.axes
    return any(key in axes and axes[key].unit != axis.unit for key, axis in one.axes.items())


def _audio_clips(facts: BatchFacts, overrides: Mapping[str, Axis]) -> ClipReading:
    """Clips, or windows of clips, with the features of each row."""
    row = overrides[AUDIO].unit if AUDIO in overrides else _audio_row(facts)
    units = dict.fromkeys((key for key in AUDIO_KEYS if facts.has(key)), row)  # masks go with it
    found = _read(facts, "audio", units, facts.clips.get("audio"), _heard(facts), None)
    return _with_masks(facts, found, AUDIO_KEYS[1:])


def _with_masks(facts: BatchFacts, found: ClipReading, masks: Sequence[str]) -> ClipReading:
    """The reading, with what is wrong with the values of its masks."""
    odd = [odd_mask(facts.inputs[key], key) for key in masks if facts.has(key)]
    more = [one for one in odd if one is not None]
    return replace(found, ambiguities=(*found.ambiguities, *more)) if more else found


def _audio_row(facts: BatchFacts) -> str:
    """What a row of `input_features` counts."""
    metadata = facts.metadata
    return "window" if {metadata.model_type, metadata.processor_type} & {*WINDOWED} else "audio"


def _video(facts: BatchFacts, overrides: Mapping[str, Axis]) -> ClipReading:
    units = {key: unit for key, unit in VIDEO_UNITS.items() if _is_tensor(facts.inputs.get(key))}
    features = rows = pieces = None
    if "video_grid_thw" in units:
        grid = to_numpy(facts.inputs["video_grid_thw"])  # (video, 3)
        rows = grid.prod(axis=1).tolist()
        merge = facts.metadata.merge_size
        if merge:
            pieces = tuple((h * w // merge**2,) * t for t, h, w in grid.tolist())
            features = tuple(count // merge**2 for count in rows)
            if facts.metadata.model_type in NEWLINES:
                pieces = tuple((with_newlines(h, w, merge),) * t for t, h, w in grid.tolist())
                features = tuple(map(sum, pieces))
        units[VIDEOS] = VIDEO_PATCH
    elif "num_frames_per_video" in units:
        rows = to_numpy(facts.inputs["num_frames_per_video"]).tolist()
        units[VIDEOS] = "frame"
        pieces = _pooled(facts, rows)
        features = None if pieces is None else tuple(map(sum, pieces))
    else:
        units[VIDEOS] = overrides[VIDEOS].unit if VIDEOS in overrides else "video"
        features = _by_shape(facts)
    kept = _kept(facts, features)
    pieces = pieces if kept is features else None
    found = _read(facts, "video", units, facts.clips.get("video"), kept, rows, pieces)
    found = _with_masks(facts, found, [COMPRESSION])
    counts = found.counts.get("video")
    if COMPRESSION not in units or features is None or counts is None:
        return found
    owned = Counts(
        [sum(features[a:b]) for a, b in pairwise(counts.offsets)],
        f"video_grid_thw, {counts.evidence}",
    )
    return replace(found, counts={**found.counts, VIDEO_FEATURE: owned})


def _kept(facts: BatchFacts, features: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Features of each video that the compression mask keeps, a row per feature.

    `modeling_video_llama_3.get_video_features`, transformers 5.23.
    """
    if not facts.has(COMPRESSION) or features is None:
        return features
    mask, ends = to_numpy(facts.inputs[COMPRESSION]).astype(bool), np.cumsum([0, *features])
    if len(mask) != ends[-1]:
        return None  # reported as another number of rows
    return tuple(int(mask[a:b].sum()) for a, b in pairwise(ends))


def _by_shape(facts: BatchFacts) -> tuple[int, ...] | None:
    """Features of videos of `(video, frames, channels, height, width)`."""
    rule, shape = facts.metadata.features_of_video, facts.inputs["pixel_values_videos"].shape
    if rule is None or len(shape) != 5:
        return None
    each = rule(shape[1], shape[3], shape[4])
    return None if each is None else (each,) * shape[0]


def _heard(facts: BatchFacts) -> tuple[int, ...] | None:
    """Features of each row of audio, from the frames that its mask keeps.

    None without a mask, but for Voxtral, which pads all windows with silence.
    """
    rule, sounds = facts.metadata.features_of_audio, facts.inputs[AUDIO]
    mask = next((facts.inputs[key] for key in AUDIO_KEYS[1:] if facts.has(key)), None)
    if facts.metadata.model_type == "voxtral" and rule is not None:
        return (rule(sounds.shape[-1]),) * len(sounds)
    if rule is None or mask is None or len(mask.shape) != 2:
        return None
    return tuple(map(rule, to_numpy(mask).astype(bool).sum(axis=1).tolist()))


def _pooled(facts: BatchFacts, frames: Sequence[int]) -> tuple[tuple[int, ...], ...] | None:
    """Gemma 4: real positions of each frame of each video, pooled."""
    pool, positions = facts.metadata.pooling_size, facts.inputs.get("video_position_ids")
    if positions is None or not pool:
        return None
    per_frame = (to_numpy(positions[..., 0]) != -1).sum(axis=-1) // pool**2  # (frame,)
    ends = np.cumsum([0, *frames])
    return tuple(tuple(per_frame[a:b].tolist()) for a, b in pairwise(ends))


def _read(
    facts: BatchFacts,
    unit: str,
    units: Mapping[str, str],
    given: tuple[int, ...] | None,
    features: tuple[int, ...] | None,
    rows: Sequence[int] | None,
    pieces: tuple[tuple[int, ...], ...] | None = None,
) -> ClipReading:
    anchor = next((key for key, own in units.items() if own == unit), next(iter(units)))
    row = units[anchor]
    token = facts.metadata.token_ids.get(unit)
    mask = _mask(facts, unit, token)
    modality = Modality(
        unit,
        tuple(units),
        anchor,
        row,
        features,
        token_id=token,
        places=None if mask is None else places_of(mask),
        pieces=pieces,
    )
    axes = {key: Axis(own) for key, own in units.items()}
    media = dict.fromkeys(units, row)
    given = given if row == unit else facts.others.get(row)
    counts = _counts(facts, modality, features, given)
    if counts is None:
        return ClipReading(modality, axes, media, {}, (_unknown(facts, unit, row, units),))
    found = {row: counts}
    if row != unit:
        found |= _clips_of_windows(facts, modality)
    if rows is not None:
        own = next(u for u in units.values() if u not in (unit, "sample", VIDEO_FEATURE))
        offsets = counts.offsets
        owned = [sum(rows[a:b]) for a, b in pairwise(offsets)]
        found[own] = Counts(owned, f"{anchor}, {counts.evidence}")
    return ClipReading(modality, axes, media, found)


def _clips_of_windows(facts: BatchFacts, modality: Modality) -> dict[str, Counts]:
    """Clips per sample where rows are windows of clips: as given, or by runs of placeholders."""
    unit, given = modality.name, facts.clips.get(modality.name)
    if given is not None:
        return {unit: Counts(given, f"num_{unit}s")}
    if modality.runs is None:
        return {}
    return {unit: Counts(map(len, modality.runs), f"runs of {unit} placeholder tokens")}


def _counts(
    facts: BatchFacts,
    modality: Modality,
    features: tuple[int, ...] | None,
    given: tuple[int, ...] | None,
) -> Counts | None:
    """Clips or windows per sample; None if nothing determines them."""
    name, unit, anchor = modality.name, modality.unit or "", modality.feature_key or ""
    rows, argument = facts.rows(anchor), how_to_count(unit).partition("=")[0]
    if given is not None and sum(given) != rows and unit == "audio" and not _is_per_clip(facts):
        return None  # a row may be a window of a clip
    if given is not None:
        check_total(argument, given, anchor, rows, unit)
        return Counts(given, argument)
    if facts.samples == 1:
        return Counts([rows], "the batch has one sample")
    placeholders, runs = modality.placeholders, modality.runs
    if placeholders is None or runs is None:
        return None
    found = split_by_placeholders(features, placeholders) if features is not None else None
    if found is not None:
        return Counts(found, f"{name} placeholder tokens against {anchor}")
    if features is None and unit == name and sum(map(len, runs)) == rows:
        return Counts(map(len, runs), f"runs of {name} placeholder tokens")
    return None


def _mask(facts: BatchFacts, unit: str, token: int | None) -> np.ndarray | None:
    """Where the placeholder tokens of the clips are, `(sample, seq)`.

    A model finds them by their ids, so that a type without such a token is none. GLM-4V writes the
    token of images for frames.
    """
    types = facts.inputs.get("mm_token_type_ids")
    if types is not None:
        found = facts.by_sample("mm_token_type_ids") == TYPES[unit]
        if token is None:
            return found
        ids = [one for one in (token, facts.metadata.image_token_id) if one is not None]
        written = found & np.isin(facts.ids, ids)
        if found.any():
            return written if written.any() else found
    return None if token is None else facts.ids == token


def _unknown(facts: BatchFacts, name: str, unit: str, units: Mapping[str, str]) -> Ambiguity:
    first = next(iter(units))
    others = ""
    if unit == "audio" and not _is_per_clip(facts):
        said = f'layout={{{literal(first)}: "window"}}'
        others = f" If a row is a window of a clip, pass {said} with {how_to_count('window')}."
    return Ambiguity(
        keys=tuple(units),
        unit=unit,
        message=(
            f"{first} and related keys have {facts.rows(first)} {plural(unit)} for {facts.samples} "
            f"samples, and its placeholder tokens do not assign them. No chunk was cut. "
            f"Pass {how_to_count(unit)} (one number per sample) or processor=.{others}"
        ),
    )


def _is_per_clip(facts: BatchFacts) -> bool:
    """Whether the model is known to take one row per audio clip."""
    return facts.metadata.features_of_audio is not None


def _is_tensor(value: Any) -> bool:
    return bool(getattr(value, "shape", ()))
