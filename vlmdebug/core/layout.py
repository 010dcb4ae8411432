"""What one row of every tensor in a multimodal batch counts.

`input_ids` has one row per sample. Other keys may have one row per image, tile or patch, or one
padded row per sample. A layout stores that for each key; `plan` computes from counts where each
sample's rows begin and end.
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from dataclasses import dataclass, field
from typing import Any, Literal

from vlmdebug.core.lazy import lazy
from vlmdebug.core.rules import UNKNOWN, ModelRules

SAMPLE_WITH_IMAGES = "sample with images"
VIDEO_PATCH, VIDEO_FEATURE = "video patch", "video feature"
VIDEO_AND_AUDIO = ("video", "audio")
"""Kinds of media other than images; each has its own placeholder tokens."""
UNITS = (
    *("sample", SAMPLE_WITH_IMAGES, "image", "tile", "patch"),
    *("feature", "video", VIDEO_PATCH, "frame", VIDEO_FEATURE, "audio", "window"),
    *("token", "batch"),
)
"""What a row can count. `batch`: the value is not cut, each chunk gets all of it."""
HANGS_ON = {
    **dict.fromkeys(("patch", SAMPLE_WITH_IMAGES), "image"),
    **dict.fromkeys((VIDEO_PATCH, VIDEO_FEATURE, "frame"), "video"),
}
"""Units that are counted per image or video, so images and videos are counted first."""

_UNIT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_ .-]{0,63}")

IRREGULAR = {
    SAMPLE_WITH_IMAGES: "samples with images",
    "audio": "audio clips",
    "window": "audio windows",
    "entry": "entries",
}
"""Plurals that do not follow from the noun."""


def is_unit(name: object) -> bool:
    r"""Whether it can name a unit in messages and code: words of ASCII, on one line.

    >>> is_unit("video patch"), is_unit("a\n::error::")
    (True, False)
    """
    return isinstance(name, str) and _UNIT.fullmatch(name) is not None


def plural(noun: str) -> str:
    """`images`, `patches`, `samples with images`, `audio clips`."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"


@dataclass(frozen=True)
class Axis:
    """The unit that the rows of one tensor count, and the dimension of the rows.

    `padded` names what a further dimension is padded over: Idefics3's `pixel_values` is
    `(sample, max_tiles, 3, height, width)`, so `Axis("sample", padded="tile")`. It is the next one
    after `dim`, or, if `columns` is set, the one after the columns of `input_ids`: Mllama's
    `cross_attention_mask` is `(sample, seq, max_images, max_tiles)`.
    """

    unit: str
    dim: int = 0
    padded: str | None = field(default=None, compare=False)
    columns: bool = field(default=False, compare=False, repr=False)

    @property
    def padded_dim(self) -> int:
        """The dimension that is padded, if there is one."""
        return self.dim + (2 if self.columns else 1)

    def __str__(self) -> str:
        return self._words

    @lazy
    def _words(self) -> str:
        if self.unit == "ambiguous":
            return "no reading fits"
        if self.unit == "token":
            return "one column per token of packed rows"
        text = f"one row per {self.unit}" if self.unit != "batch" else "not cut"
        if self.dim:
            text += f" on dim {self.dim}"
        return f"{text}, padded over {plural(self.padded)}" if self.padded else text


_WORDS = re.compile(r"one row per (.+?)(?: on dim (\d{1,4}))?(?:, padded over (.+))?")


def axis_of(words: str) -> Axis:
    """The axis that was printed as `words`.

    >>> axis_of("one row per image on dim 1")
    Axis(unit='image', dim=1, padded=None)
    """
    found = _WORDS.fullmatch(words)
    if found is None:
        return Axis("batch" if words == "not cut" else "ambiguous")
    padded = next((unit for unit in UNITS if plural(unit) == found[3]), None)
    return Axis(found[1], int(found[2] or 0), padded)


@dataclass(frozen=True)
class Layout(Mapping[str, Axis]):
    """Every key's axis: `layout["pixel_values"]` is `Axis(unit="image", dim=0)`.

    Args:
        family: Name of the layout family, such as `"gemma4"`.
        axes: Axis of every key of the batch that can be cut.
        media: Keys that hold media, and the count that must be above zero for a chunk to need each.
        feature_key: The media key with rows that determine the number of features.
        rules: What the model does with a call.
        overview: Which of an image's tiles shows the whole image, if one does.
    """

    family: str
    axes: Mapping[str, Axis]
    media: Mapping[str, str] = field(default_factory=dict)
    feature_key: str | None = None
    rules: ModelRules = field(default=UNKNOWN, repr=False)
    overview: Literal["first", "last"] = "last"

    def __getitem__(self, key: str) -> Axis:
        return self.axes[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.axes)

    def __len__(self) -> int:
        return len(self.axes)

    # As in Mapping, but by the dict's own code: these are called at every call of a model.

    def __contains__(self, key: object) -> bool:
        return key in self.axes

    def get(self, key: str, default: Any = None) -> Any:
        return self.axes.get(key, default)

    def items(self) -> ItemsView[str, Axis]:
        return self.axes.items()

    def values(self) -> ValuesView[Axis]:
        return self.axes.values()

    def given_with(self, key: str) -> str | None:
        """The unit that the samples of a chunk must own for the chunk to get a media key.

        None for a key that every chunk gets.
        """
        return self._given_with.get(key)

    @lazy
    def _given_with(self) -> dict[str, str]:
        keep = [key for key in self.media if self.rules.of(key).when_no_media == "keep"]
        return {key: unit for key, unit in self.media.items() if unit and key not in keep}

    def kind(self, key: str) -> str:
        """`media`, `tokens` for a row or more per sample, or `whole` for keys that are not cut."""
        if self.axes[key].unit == "batch":
            return "whole"
        tokens = key not in self.media and self.axes[key].unit in ("sample", "token", "ambiguous")
        return "tokens" if tokens else "media"

    def __hash__(self) -> int:
        return hash((self.family, tuple(self.axes.items())))

    def __str__(self) -> str:
        width = max(map(len, self.axes), default=0)
        lines = [f"layout {self.family}"]
        lines += [f"  {key:<{width}}  {axis}" for key, axis in self.axes.items()]
        return "\n".join(lines)
