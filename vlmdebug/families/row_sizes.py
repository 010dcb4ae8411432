"""How large one row of media is: its channels, sides, tiles and values of a patch.

Nothing in a batch counts these dimensions, so media that are trimmed alike in all rows agree with
each other. What one row must measure is known from the processor that makes it and from the config
of the model that takes it; either is right. Without both, nothing is known, and nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from vlmdebug.core.lazy import lazy

Lengths = Mapping[str, frozenset[int]]
"""By the name of a dimension, the lengths that it may have."""
Canvases = Sequence[Sequence[int]]
Sizes = Sequence[tuple[int, int]]

FIXED = frozenset(
    {
        *("llava", "vipllava", "video_llava", "paligemma", "janus", "deepseek_vl", "chameleon"),
        *("deepseek_vl_hybrid", "gemma3", "shieldgemma2", "t5gemma2", "internvl", "qianfan_ocr"),
        *("aya_vision", "ovis2", "cohere2_vision", "got_ocr2", "pp_chart2table", "llava_next"),
        *("llava_next_video", "llava_onevision", "granite4_vision", "granite_docling", "mllama"),
        *("idefics", "git", "kosmos-2", "kosmos2", "perception_lm"),
    }
)
"""Model types with a vision tower, or a number of placeholder tokens, for one size of image alone.

They raise with any other (tried with each tiny model, transformers 5.24)."""
ADAPTS = frozenset({"internvl", "qianfan_ocr", "chameleon"})
"""Those of them that raise by that number alone, which only the processor knows.

Their towers take images of other sizes (`modeling_internvl.InternVLVisionEmbeddings`, 5.24)."""
USUAL = frozenset(
    {
        *("blip", "blip-2", "blip_2", "instructblip", "instructblipvideo", "florence2"),
        *("deepseek_ocr2", "step3p7", "gemma3n", "fast_vlm"),
    }
)
"""Model types with a processor that makes one size of image; the model runs with some others."""
SIDES = ("height", "width")
"""How the names of dimensions end that are sides of an image."""
INTERPOLATES = "interpolate_pos_encoding"
"""The argument with which some towers take images of other sizes."""
WITHOUT_IMAGE_SIZE = ("pixtral", "siglip2_vision_model", "timm_wrapper")
"""Towers with an `image_size` that is no size of every image, or with none."""


@dataclass(frozen=True)
class RowSizes:
    """What the processor and the config say of one row of media.

    Attributes:
        exact: Lengths without which the model raises.
        usual: Lengths that the processor makes, though the model runs with some others.
        tiles: Tiles of images of these heights and widths.
        video_patch: Values that a flat patch of a video may have.
    """

    exact: Lengths = field(default_factory=dict)
    usual: Lengths = field(default_factory=dict)
    tiles: Callable[[Sizes], list[int]] | None = None
    video_patch: frozenset[int] = frozenset()

    @lazy
    def of_any_side(self) -> RowSizes:
        """The same in a call with `INTERPOLATES`: sides are free."""
        exact = {name: own for name, own in self.exact.items() if not name.endswith(SIDES)}
        return replace(self, exact=exact)


NOT_KNOWN = RowSizes()


def row_sizes(kind: str | None, processor: Any, config: Any) -> RowSizes:
    """What one row of media measures; `kind` is the model's type or that of its processor."""
    images = getattr(processor, "image_processor", None)
    videos = getattr(processor, "video_processor", None)
    vision = tower(config)
    if processor is None and config is None:
        return NOT_KNOWN
    exact = {"channels": _channels(images, videos, config, vision)}
    exact["mel"] = _mel(processor, config)
    exact["patch_side"] = _either(_side_of_patch(kind, images), _side_of_patch(kind, vision))
    if kind in ("inkling", "inkling_mm_model"):
        exact["frames_of_patch"] = _either(getattr(vision, "temporal_patch_size", None))
        exact["patch_side"] = _either(getattr(vision, "patch_size", None), _height(images, "size"))
    made = _made(kind, images or videos)
    sides = _sides(kind, images or videos, [*made, *_taken(kind, config, vision)], config)
    flat = patch_values(kind, videos, config)
    if kind in FIXED:
        more = {f"video_{name}": _of_videos(videos, own) for name, own in sides.items()}
        sides, tiles = _known({**sides, **more}), _tiles(kind, images, config)
        if kind in ADAPTS and not made:
            return RowSizes(_known(exact), sides, tiles, flat)
        return RowSizes({**_known(exact), **sides}, {}, tiles, flat)
    return RowSizes(_known(exact), _known(sides if kind in USUAL else {}), None, flat)


def tower(config: Any) -> Any:
    """The config of the vision tower; T5Gemma 2 has it in its encoder."""
    vision = getattr(config, "vision_config", None)
    return vision or getattr(getattr(config, "encoder", None), "vision_config", None)


def _known(lengths: Lengths) -> Lengths:
    return {name: own for name, own in lengths.items() if own}


def _either(*lengths: Any) -> frozenset[int]:
    return frozenset(one for one in lengths if isinstance(one, int))


def _channels(images: Any, videos: Any, config: Any, vision: Any) -> frozenset[int]:
    """Channels of an image; the towers of BLIP and others have 3 without saying so."""
    names = ("num_channels", "in_channels", "in_chans")
    said = [getattr(one, name, None) for one in (vision, config) for name in names]
    means = [getattr(one, "image_mean", None) for one in (images, videos)]
    said += [len(one) for one in means if isinstance(one, (list, tuple))]
    return _either(*said) or frozenset({3})


def _mel(processor: Any, config: Any) -> frozenset[int]:
    """Mel bins of a frame of audio."""
    heard = getattr(config, "audio_config", None)
    names = ("num_mel_bins", "input_feat_size")
    said = [getattr(heard, name, None) for name in names]
    return _either(
        getattr(getattr(processor, "feature_extractor", None), "feature_size", None), *said
    )


# --- sides -----------------------------------------------------------------------------------


def _sides(kind: str | None, images: Any, sizes: Sizes, config: Any) -> dict[str, frozenset[int]]:
    """Heights and widths of an image or tile, of `sizes`, and of the further key of some models."""
    found = {
        name: _either(*(size[place] for size in sizes))
        for place, name in enumerate(("height", "width"))
    }
    high, tile = _pair(getattr(images, "high_res_size", None)), getattr(images, "tile_size", None)
    also = getattr(config, "high_res_vision_config", None)
    found["high_height"] = found["high_width"] = _either(
        *(high or ()), getattr(also, "image_size", None)
    )
    local = tile if kind == "deepseek_ocr2" else getattr(images, "patch_size", None)
    if kind in ("deepseek_ocr2", "step3p7"):
        found["patch_height"] = found["patch_width"] = _either(local)
    return found


def _made(kind: str | None, images: Any) -> list[tuple[int, int]]:
    """Sizes that the image processor makes."""
    if images is None or getattr(images, "do_resize", True) is False:
        return []
    tile = getattr(images, "tile_size", None)
    if kind == "perception_lm":  # its `size` is of no use
        return [(tile, tile)] if isinstance(tile, int) else []
    cropped = _pair(getattr(images, "crop_size", None))
    if cropped is not None and getattr(images, "do_center_crop", False):
        return [cropped]
    size = _pair(getattr(images, "size", None))
    views = [(tile, tile)] if kind == "deepseek_ocr2" and isinstance(tile, int) else []
    return views if size is None else [size, *views]


def _taken(kind: str | None, config: Any, vision: Any) -> list[tuple[int, int]]:
    """The size of image that the tower takes."""
    if getattr(vision, "model_type", None) in WITHOUT_IMAGE_SIZE:
        return []
    said = getattr(vision, "image_size", None)
    if kind == "chameleon":
        said = getattr(getattr(config, "vq_config", None), "resolution", None)
    elif kind == "deepseek_ocr2":
        said = getattr(getattr(vision, "sam_config", None), "image_size", None)
    if isinstance(said, int):
        return [(said, said)]
    return [(said[0], said[1])] if isinstance(said, (list, tuple)) and len(said) == 2 else []


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width of a size that has both."""
    if isinstance(size, Mapping):
        pair = size.get("height"), size.get("width")
    else:
        pair = getattr(size, "height", None), getattr(size, "width", None)
    height, width = pair
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


def _height(holder: Any, name: str) -> int | None:
    pair = _pair(getattr(holder, name, None))
    return None if pair is None else pair[0]


def _of_videos(videos: Any, of_images: frozenset[int]) -> frozenset[int]:
    """Sides of frames: what the video processor makes, or what the tower takes of images."""
    sides = [side for size in _made(None, videos) for side in size]
    return of_images.union(sides) if of_images else frozenset()


# --- patches and tiles -----------------------------------------------------------------------


def patch_values(kind: str | None, images: Any, config: Any) -> frozenset[int]:
    """Values of one flat patch, of one frame or of several; empty if they are not known."""
    holder = config if kind == "fuyu" else tower(config)  # Fuyu has no vision tower
    return _values(kind, images) | _values(kind, holder)


def _values(kind: str | None, holder: Any) -> frozenset[int]:
    side = _side_of_patch(kind, holder)
    if side is None:
        return frozenset()
    means = getattr(holder, "image_mean", None)
    said = [getattr(holder, name, None) for name in ("in_channels", "in_chans", "num_channels")]
    said = [*said, len(means) if isinstance(means, (list, tuple)) else None]
    channels = next((one for one in said if isinstance(one, int)), 3)
    frames = getattr(holder, "temporal_patch_size", getattr(holder, "patch_temporal", None))
    several = (frames,) if isinstance(frames, int) else (1, 2)
    return frozenset(channels * count * side**2 for count in several)


def _side_of_patch(kind: str | None, holder: Any) -> int | None:
    """Side in pixels of the square of which a row of flat patches holds the values."""
    side = getattr(holder, "patch_size", None) or getattr(holder, "encoder_patch_size", None)
    side = getattr(side, "height", side)  # a size of both sides
    if kind in ("inkling2", "inkling2_loop"):  # its patches are merged beforehand
        merged = getattr(holder, "spatial_merge_size", None)
        return side * merged if side and merged else _height(holder, "size")
    if not isinstance(side, int):
        return None
    pooled = getattr(holder, "pooling_kernel_size", None) if kind == "gemma4_unified" else 1
    return side * pooled if isinstance(pooled, int) else None


def _tiles(kind: str | None, images: Any, config: Any) -> Callable[[Sizes], list[int]] | None:
    """Tiles of images with an overview (`image_processing_llava_next._get_image_patches`)."""
    holder = images if getattr(images, "image_grid_pinpoints", None) else config
    canvases = getattr(holder, "image_grid_pinpoints", None)
    sizes = [*_made(kind, images), *_taken(kind, config, tower(config))]
    if not canvases or not sizes:
        return None
    side = sizes[0][0]

    def count(images: Sizes) -> list[int]:
        best = [best_canvas(one, canvases) for one in images]
        return [1 + (height // side) * (width // side) for height, width in best]

    return count


def best_canvas(size: tuple[int, int], canvases: Canvases) -> tuple[int, int]:
    """The canvas that keeps most of the image's pixels, then wastes least."""
    height, width = size

    def fit(canvas: Sequence[int]) -> tuple[int, int]:
        scale = min(canvas[1] / width, canvas[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - canvas[0] * canvas[1]

    best = max(canvases, key=fit)
    return best[0], best[1]


# --- the batch -------------------------------------------------------------------------------


class Unlike(NamedTuple):
    """A dimension that has none of its lengths: its name, its length, and those."""

    name: str
    size: int
    due: frozenset[int]

    @property
    def is_side(self) -> bool:
        """Whether it is a side of an image."""
        return self.name.endswith(SIDES)


def unlike(shape: Sequence[int], names: Sequence[str], lengths: Lengths) -> list[Unlike]:
    """The dimensions of a key that have none of their lengths."""
    found = []
    for name, size in zip(names, shape, strict=False):
        due = frozenset({int(name)}) if name.isdigit() else lengths.get(name)
        if due and size not in due:
            found.append(Unlike(name, size, due))
    return found


def said_of(found: Sequence[Unlike]) -> tuple[str, str]:
    """What the dimensions are, and what they should be.

    >>> said_of([Unlike("height", 2, frozenset({56})), Unlike("width", 4, frozenset({56, 64}))])
    ('its height is 2 and its width is 4', '56 and 56 or 64')
    """
    are = [f"{_spoken(one.name)} is {one.size}" for one in found]
    due = [" or ".join(map(str, sorted(one.due))) for one in found]
    return " and ".join(are), " and ".join(due)


def _spoken(name: str) -> str:
    """The name of a dimension as a sentence says it."""
    if name.isdigit():
        return "its last dimension"
    words = name.replace("_", " ")
    return f"its number of {words}" if words.endswith("s") else f"its {words}"
