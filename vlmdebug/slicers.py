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

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import accumulate, pairwise
from math import prod
from typing import Any

from vlmdebug.core.keys import (
    ALONG_TOKENS,
    AUDIO_KEYS,
    BOOKKEEPING,
    IMAGE_KEYS,
    LABELS,
    ROWLESS,
    TOKEN_KEYS,
    TRAINERS_OWN,
    VIDEO_KEYS,
)
from vlmdebug.core.wording import number
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
        NotJudged: Nothing that it is given says what belongs to each sample in some key.
    """
    samples = len(inputs["input_ids"])
    tokens, media = _present(inputs, _ALL_TOKENS), _present(inputs, _ALL_MEDIA)
    images, videos, audios = (
        [0, *accumulate(_counted(inputs, f"num_{unit}s") or [0] * samples)]
        for unit in ("image", "video", "audio")
    )
    offsets = _offsets(media, inputs, samples, images) | _video_offsets(media, videos)
    offsets |= dict.fromkeys(AUDIO_KEYS, audios)
    tiles = _counted(inputs, "num_tiles")  # an image has some, and so has a video of InternVL's
    in_rows = tiles is not None and "num_local_patches" not in media
    pictures = [0, *accumulate(tiles or ())] if in_rows else images
    filmed = _is_filmed(media, inputs)
    pictures = videos if filmed else pictures
    offsets |= dict.fromkeys(IMAGE_KEYS, videos) if filmed else {}
    options = {key: value for key, value in inputs.items() if _is_option(key, value)}
    _refuse_others(inputs, {*tokens, *media, *options}, samples)
    keeps_rows = bool(_KEEPS_ROWS & media.keys())
    owned = {k: videos if k in _OF_VIDEO else audios if k in _OF_AUDIO else pictures for k in media}
    _refuse_uncounted(media, offsets, {} if keeps_rows else owned, inputs)
    places = inputs.get("position_ids")
    for start in range(0, samples, chunk_size):
        stop = min(start + chunk_size, samples)
        chunk = {key: value[start:stop] for key, value in tokens.items()} | options
        if places is not None:  # M-RoPE's are (3, sample, seq)
            mrope = len(places.shape) == 3 and places.shape[1] == samples
            chunk["position_ids"] = places[:, start:stop] if mrope else places[start:stop]
        for key, rows in media.items():
            first, last = offsets[key][start], offsets[key][stop]
            if key == "pixel_values_local" and first == last:
                continue  # images without tiles
            if keeps_rows or owned[key][start] < owned[key][stop]:
                chunk[key] = rows[first:last]
        yield chunk


def _counted(inputs: Inputs, count: str) -> list[int] | None:
    """The numbers of `num_images` or another count, which may be a tensor; None without it.

    Raises:
        NotJudged: There is not one number per sample.
    """
    given, samples = inputs.get(count), len(inputs["input_ids"])
    if given is None:
        return None
    if len(given) != samples:
        raise NotJudged(
            f"{count} has {number(len(given), 'entry')}, but input_ids has "
            f"{number(samples, 'row')}. Nothing was cut. Pass one number per sample."
        )
    return [*map(int, given)]


def _refuse_others(inputs: Inputs, known: Collection[str], samples: int) -> None:
    """Refuse tensors that would be lost, but for those with a row per sample, as trainers add."""
    for key in inputs.keys() - {*known, *TRAINERS_OWN, *BOOKKEEPING, "position_ids"}:
        if _is_tensor(inputs[key]) and len(inputs[key]) != samples:
            raise NotJudged(
                f"{key} is a tensor, but it is not known here what its rows count. Nothing was "
                f'cut. Leave it out, or pass layout={{"{key}": "sample"}} to vlmdebug.read_batch '
                "if it has one row per sample, and use batch.chunks(n)."
            )


def _refuse_uncounted(
    media: Inputs,
    offsets: dict[str, list[int]],
    owned: dict[str, list[int]],
    inputs: Inputs,
) -> None:
    """Refuse media that have other rows than their counts say; `owned` may leave keys out."""
    for key, rows in media.items():
        none = len(rows) > 0 and owned.get(key, [1])[-1] == 0
        if none or offsets[key][-1] != len(rows):
            raise NotJudged(_uncounted(key, len(rows), inputs))


def _uncounted(key: str, rows: int, inputs: Inputs) -> str:
    """Says that the counts do not give the rows of each sample, and what does."""
    kind = "videos" if key in _OF_VIDEO else "audios" if key in _OF_AUDIO else "images"
    in_tiles = kind == "images" and inputs.get("num_tiles") is not None
    count = "num_tiles" if in_tiles else f"num_{kind}"
    given = _counted(inputs, count)
    known = f"no {count} is given" if given is None else f"{count} adds up to {sum(given)}"
    return (
        f"{key} has {rows} rows and {known}, so the rows of each sample are not known. "
        "Nothing was cut. Read the batch: batch = vlmdebug.read_batch(inputs, "
        "processor=processor). Then use batch.chunks(n), or the code that vlmdebug.export(batch) "
        "writes: both count the rows of each sample."
    )


def _offsets(media: Inputs, inputs: Inputs, samples: int, images: list[int]) -> dict[str, Any]:
    """First row of each sample, and of the one after the last, for every media key."""
    grid = media.get("image_grid_thw", media.get("image_grid_hw"))
    if grid is not None:
        patches = _ends(map(prod, grid.tolist()), images)
        return {**dict.fromkeys(media, images), "pixel_values": patches}
    if "num_local_patches" in media:  # tiles of each image, in a tensor of their own
        tiles = _ends(media["num_local_patches"].tolist(), images)
        return {**dict.fromkeys(media, images), "pixel_values_local": tiles}
    if "batch_num_images" in media:  # one row per sample that has images
        owners = [0, *accumulate(int(first < last) for first, last in pairwise(images))]
        return {**dict.fromkeys(media, images), "batch_num_images": owners}
    if "image_position_ids" in media or "image_sizes" in media:
        return dict.fromkeys(media, images)
    if _KEEPS_ROWS & media.keys() or media.keys() == {"pixel_values", "pixel_attention_mask"}:
        return dict.fromkeys(media, range(samples + 1))  # padded per sample
    tiles = _counted(inputs, "num_tiles")
    if tiles is not None:
        return dict.fromkeys(media, [0, *accumulate(tiles)])
    return dict.fromkeys(media, images)


def _video_offsets(media: Inputs, videos: list[int]) -> dict[str, Any]:
    """As `_offsets`, for the keys of videos."""
    rows = dict.fromkeys((key for key in media if key in VIDEO_KEYS), videos)
    if "video_grid_thw" in media:
        patches = media["video_grid_thw"].prod(-1)  # (video,)
        rows["pixel_values_videos"] = _ends(patches.tolist(), videos)
        if "video_compression_mask" in media:  # one row per feature, kept or not
            made = (patches // media["video_merge_sizes"] ** 2).tolist()
            rows["video_compression_mask"] = _ends(made, videos)
    elif "num_frames_per_video" in media:
        frames = _ends(media["num_frames_per_video"].tolist(), videos)
        rows |= {"pixel_values_videos": frames, "video_position_ids": frames}
    return rows


def _ends(rows: Iterable[int], offsets: list[int]) -> list[int]:
    """Rows before each offset of what owns so many; too large an offset is refused by its key."""
    ends = [0, *accumulate(rows)]
    return [ends[min(offset, len(ends) - 1)] for offset in offsets]


def _is_filmed(media: Inputs, inputs: Inputs) -> bool:
    """Whether the keys of images hold one row per video, padded over frames (SmolVLM)."""
    videos, keys = _counted(inputs, "num_videos"), {"pixel_values", "pixel_attention_mask"}
    if not videos or media.keys() != keys or any(_counted(inputs, "num_images") or ()):
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
_ALL_TOKENS = (TOKEN_KEYS | {*_TOKENS, *LABELS}) - {"position_ids"}
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


def _is_option(key: str, value: Any) -> bool:
    """Whether it has no rows, as `use_cache`, so that each chunk gets all of it."""
    with_rows = isinstance(value, (list, tuple)) or _is_tensor(value)
    return value is not None and (key in ROWLESS or not with_rows)


def _is_tensor(value: Any) -> bool:
    return len(getattr(value, "shape", ())) > 0
