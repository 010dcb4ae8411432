"""The story of TRL's pull request 5452 as five slicers, and the corrected one.

Each is written here from the story's description, in the shape of the trainer's loop: keys are
looked up by name, and each branch cuts the keys it knows. They take the inputs of one batch
(with `num_images`, and `num_tiles` where tiles are counted, as lists per sample) and yield the
model inputs of one chunk after another.

- `by_sample`: every tensor is cut like `input_ids`.
- `before_5452`: TRL 1.0.0. Grids are understood. The key it expects of Gemma 4,
  `pixel_position_ids`, is not the one that shipped, so that branch never runs.
- `first_5452_rloo`: the first commit of the fix, in RLOO. The new branch uses offsets that only
  the grid branch assigns.
- `merged_5452`: as merged. Right for Gemma 4; every other family that has one row per image or
  tile falls through to a cut per sample.
- `corrected`: asks what each tensor counts, and leaves media keys out of a chunk without media.
"""

# A slicer of the story reads names that it has not bound, as its model did.
# pyright: reportPossiblyUnboundVariable=false

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from itertools import accumulate
from math import prod
from typing import Any

from vlmdebug.core.keys import ALONG_TOKENS, AUDIO_KEYS, IMAGE_KEYS, TOKEN_KEYS, VIDEO_KEYS
from vlmdebug.errors import NotJudged

Inputs = dict[str, Any]


def by_sample(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
    """Cut every tensor at the sample's row number, whatever its rows count."""
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        stop = start + chunk_size
        yield {key: value[start:stop] for key, value in inputs.items() if _is_tensor(value)}


def before_5452(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
    """The loop of TRL 1.0.0."""
    pixels, grid = inputs.get("pixel_values"), inputs.get("image_grid_thw")
    positions = inputs.get("pixel_position_ids")
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        stop = start + chunk_size
        chunk = _token_keys(inputs, start, stop)
        if grid is not None and pixels is not None:
            images, patches = _grid_offsets(grid, inputs["num_images"])
            last = min(stop, len(images) - 1)
            chunk["pixel_values"] = pixels[patches[start] : patches[last]]
            chunk["image_grid_thw"] = grid[images[start] : images[last]]
        elif pixels is not None:
            chunk["pixel_values"] = pixels[start:stop]
        if positions is not None:
            chunk["pixel_position_ids"] = positions[start:stop]
        yield _with_sample_keys(chunk, inputs, start, stop)


def first_5452_rloo(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
    """The loop of the fix's first commit, in RLOO."""
    pixels, grid = inputs.get("pixel_values"), inputs.get("image_grid_thw")
    positions = inputs.get("image_position_ids")
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        stop = start + chunk_size
        chunk = _token_keys(inputs, start, stop)
        if grid is not None and pixels is not None:
            images, patches = _grid_offsets(grid, inputs["num_images"])
            last = min(stop, len(images) - 1)
            img_start, img_stop = images[start], images[last]
            chunk["pixel_values"] = pixels[patches[start] : patches[last]]
            chunk["image_grid_thw"] = grid[img_start:img_stop]
        elif pixels is not None:
            chunk["pixel_values"] = pixels[start:stop]
        if positions is not None:
            chunk["image_position_ids"] = positions[img_start:img_stop]
        yield _with_sample_keys(chunk, inputs, start, stop)


def merged_5452(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
    """As merged: images are counted for Gemma 4 alone; a chunk without images gets empty keys."""
    pixels, grid = inputs.get("pixel_values"), inputs.get("image_grid_thw")
    positions = inputs.get("image_position_ids")
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        stop = min(start + chunk_size, len(inputs["input_ids"]))
        chunk = _token_keys(inputs, start, stop)
        if grid is not None and pixels is not None:
            images, patches = _grid_offsets(grid, inputs["num_images"])
            chunk["pixel_values"] = pixels[patches[start] : patches[stop]]
            chunk["image_grid_thw"] = grid[images[start] : images[stop]]
        elif positions is not None and pixels is not None:
            images = [0, *accumulate(inputs["num_images"])]
            chunk["pixel_values"] = pixels[images[start] : images[stop]]
            chunk["image_position_ids"] = positions[images[start] : images[stop]]
        elif pixels is not None:
            chunk["pixel_values"] = pixels[start:stop]
        yield _with_sample_keys(chunk, inputs, start, stop)


def corrected(inputs: Inputs, chunk_size: int) -> Iterator[Inputs]:
    """Each tensor by what its rows count; no media keys for a chunk without media.

    Raises:
        NotJudged: Nothing that it is given counts the rows of audio per sample, as of windows.
    """
    samples = len(inputs["input_ids"])
    tokens, media = _present(inputs, _ALL_TOKENS), _present(inputs, _ALL_MEDIA)
    images = [0, *accumulate(inputs.get("num_images", [0] * samples))]
    videos = [0, *accumulate(inputs.get("num_videos", [0] * samples))]
    audios = [0, *accumulate(inputs.get("num_audios", [0] * samples))]
    offsets = _offsets(media, inputs, samples, images) | _video_offsets(media, videos)
    _refuse_windows(media, audios)
    offsets |= dict.fromkeys(AUDIO_KEYS, audios)
    tiles = inputs.get("num_tiles")  # an image has some, and so has a video of InternVL's
    in_rows = tiles is not None and "num_local_patches" not in media
    pictures = [0, *accumulate(tiles or ())] if in_rows else images
    filmed = _is_filmed(media, inputs)
    pictures = videos if filmed else pictures
    offsets |= dict.fromkeys(IMAGE_KEYS, videos) if filmed else {}
    options = {key: value for key, value in inputs.items() if _is_option(value)}
    keeps_rows = bool(_KEEPS_ROWS & media.keys())
    places = inputs.get("position_ids")
    for start in range(0, samples, chunk_size):
        stop = min(start + chunk_size, samples)
        chunk = {key: value[start:stop] for key, value in tokens.items()} | options
        if places is not None:  # M-RoPE's are (3, sample, seq)
            mrope = len(places.shape) == 3 and places.shape[1] == samples
            chunk["position_ids"] = places[:, start:stop] if mrope else places[start:stop]
        for key, rows in media.items():
            owned = videos if key in _OF_VIDEO else audios if key in _OF_AUDIO else pictures
            first, last = offsets[key][start], offsets[key][stop]
            if key == "pixel_values_local" and first == last:
                continue  # images without tiles
            if keeps_rows or owned[start] < owned[stop]:
                chunk[key] = rows[first:last]
        yield chunk


def _refuse_windows(media: Inputs, audios: list[int]) -> None:
    """Refuse rows of audio that are not one per clip: a long clip has several windows."""
    for key in media.keys() & AUDIO_KEYS:
        if len(media[key]) != audios[-1]:
            raise NotJudged(
                f"{key} has {len(media[key])} rows and num_audios adds up to {audios[-1]}, so that "
                "the rows of each sample are not known. Nothing was cut. Use batch.chunks(n), or "
                "the code that vlmdebug.export(batch) writes: both count windows."
            )


def _offsets(media: Inputs, inputs: Inputs, samples: int, images: list[int]) -> dict[str, Any]:
    """First row of each sample, and of the one after the last, for every media key."""
    grid = media.get("image_grid_thw", media.get("image_grid_hw"))
    if grid is not None:
        patches = _grid_offsets(grid, inputs["num_images"])[1]
        return {**dict.fromkeys(media, images), "pixel_values": patches}
    if "num_local_patches" in media:  # tiles of each image, in a tensor of their own
        ends = [0, *accumulate(media["num_local_patches"].tolist())]
        tiles = [ends[image] for image in images]
        return {**dict.fromkeys(media, images), "pixel_values_local": tiles}
    if "batch_num_images" in media:  # one row per sample that has images
        owners = [0, *accumulate(int(count > 0) for count in inputs["num_images"])]
        return {**dict.fromkeys(media, images), "batch_num_images": owners}
    if "image_position_ids" in media or "image_sizes" in media:
        return dict.fromkeys(media, images)
    if _KEEPS_ROWS & media.keys() or media.keys() == {"pixel_values", "pixel_attention_mask"}:
        return dict.fromkeys(media, range(samples + 1))  # padded per sample
    if "num_tiles" in inputs:
        return dict.fromkeys(media, [0, *accumulate(inputs["num_tiles"])])
    return dict.fromkeys(media, images)


def _video_offsets(media: Inputs, videos: list[int]) -> dict[str, Any]:
    """As `_offsets`, for the keys of videos."""
    rows = dict.fromkeys((key for key in media if key in VIDEO_KEYS), videos)
    if "video_grid_thw" in media:
        patches = media["video_grid_thw"].prod(-1)  # (video,)
        ends = [0, *accumulate(patches.tolist())]
        rows["pixel_values_videos"] = [ends[video] for video in videos]
        if "video_compression_mask" in media:  # one row per feature, kept or not
            made = (patches // media["video_merge_sizes"] ** 2).tolist()
            ends = [0, *accumulate(made)]
            rows["video_compression_mask"] = [ends[video] for video in videos]
    elif "num_frames_per_video" in media:
        ends = [0, *accumulate(media["num_frames_per_video"].tolist())]
        frames = [ends[video] for video in videos]
        rows |= {"pixel_values_videos": frames, "video_position_ids": frames}
    return rows


def _is_filmed(media: Inputs, inputs: Inputs) -> bool:
    """Whether the keys of images hold one row per video, padded over frames (SmolVLM)."""
    videos, keys = inputs.get("num_videos"), {"pixel_values", "pixel_attention_mask"}
    if not videos or media.keys() != keys or any(inputs.get("num_images") or ()):
        return False
    return len(media["pixel_values"]) == sum(videos)


STORY: tuple[Callable[[Inputs, int], Iterator[Inputs]], ...] = (
    by_sample,
    before_5452,
    first_5452_rloo,
    merged_5452,
    corrected,
)
"""The story in its order; the last one is right."""

_KEEPS_ROWS = {"aspect_ratio_ids", "image_attention_mask"}
"""Keys of models that keep the padded row of a sample without images: Mllama and Idefics."""
_TOKENS = ("input_ids", *ALONG_TOKENS, "labels")
_ALL_TOKENS = (TOKEN_KEYS | {*_TOKENS}) - {"position_ids"}
"""The loops of the story do not have the rare ones."""
_OF_VIDEO, _OF_AUDIO = frozenset(VIDEO_KEYS), frozenset(AUDIO_KEYS)
_ALL_MEDIA = _OF_VIDEO.union(_OF_AUDIO, IMAGE_KEYS)


def _present(inputs: Inputs, keys: Collection[str]) -> Inputs:
    return {key: value for key, value in inputs.items() if key in keys and value is not None}


def _token_keys(inputs: Inputs, start: int, stop: int) -> Inputs:
    return {key: inputs[key][start:stop] for key in _TOKENS if inputs.get(key) is not None}


def _with_sample_keys(chunk: Inputs, inputs: Inputs, start: int, stop: int) -> Inputs:
    """Keys that TRL of that time cut per sample in every branch."""
    for key in ("pixel_attention_mask", "image_sizes"):
        if inputs.get(key) is not None:
            chunk[key] = inputs[key][start:stop]
    return chunk


def _grid_offsets(grid: Any, num_images: list[int]) -> tuple[list[int], list[int]]:
    """First image and first patch of each sample, and the totals."""
    images = [0, *accumulate(num_images)]
    patches = [0, *accumulate(prod(map(int, sides)) for sides in grid.tolist())]
    return images, [patches[image] for image in images]


def _is_option(value: Any) -> bool:
    """Whether it has no rows, as `use_cache`, so that each chunk gets all of it."""
    return value is not None and not isinstance(value, (list, tuple)) and not _is_tensor(value)


def _is_tensor(value: Any) -> bool:
    return len(getattr(value, "shape", ())) > 0
