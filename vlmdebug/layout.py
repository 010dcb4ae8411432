"""What one row of every tensor in a multimodal batch counts.

`input_ids` has one row per sample. Its neighbours may have one row per image, tile or
patch, or one row per sample again, padded. A layout writes that down per key; where each
sample's rows begin and end is computed elsewhere, from counts (see `plan`).
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OWNER = "sample with images"
VIDEO_PATCH = "video patch"
STREAMS = ("video", "audio")
"""Kinds of media beside images; each has placeholder tokens of its own."""
UNITS = (
    *("sample", OWNER, "image", "tile", "patch"),
    *("video", VIDEO_PATCH, "frame", "audio", "token", "batch"),
)
"""What a row can count. `batch`: the value is not cut, each chunk gets all of it."""
HANGS_ON = {"patch": "image", OWNER: "image", VIDEO_PATCH: "video", "frame": "video"}
"""Units that are counted by what lies in each image or video, so that these are counted first."""
WithoutMedia = Literal["omit", "either", "keep"]
"""What a chunk whose samples own no media must be given: no key, either way, or its rows."""


def plural(noun: str) -> str:
    """`images`, `patches`, `samples with images`, `audio clips`."""
    irregular = {OWNER: "samples with images", "audio": "audio clips"}
    if noun in irregular:
        return irregular[noun]
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"


@dataclass(frozen=True)
class Axis:
    """The unit that the rows of one tensor count, and the dimension they lie on.

    `padded` names what a further dimension is padded over: Idefics3's `pixel_values` is
    `(sample, max_tiles, 3, height, width)`, so `Axis("sample", padded="tile")`. It is the next one
    after `dim`, or the one after the columns of `input_ids` where `columns` says that these come
    first: Mllama's `cross_attention_mask` is `(sample, seq, max_images, max_tiles)`.
    """

    unit: str
    dim: int = 0
    padded: str | None = field(default=None, compare=False)
    columns: bool = field(default=False, compare=False, repr=False)

    @property
    def padded_dim(self) -> int:
        """The dimension that is padded, where one is."""
        return self.dim + (2 if self.columns else 1)

    def __str__(self) -> str:
        if self.unit == "ambiguous":
            return "no reading fits"
        text = f"one row per {self.unit}" if self.unit != "batch" else "not cut"
        if self.dim:
            text += f" on dim {self.dim}"
        return f"{text}, padded over {plural(self.padded)}" if self.padded else text


@dataclass(frozen=True)
class Media:
    """When a chunk owns rows of a media tensor, and what it needs when it owns none.

    `unit` is the count that must be above zero for the chunk to need the key. `tolerates`
    names wrong lengths, beside the other media keys, that the model takes in silence:
    `"one"` row (it is broadcast), `"none"`, `"surplus"` rows beside right ones; and `"unbatched"`
    where a row may lack its own dimension. `lean`: beside samples with media, one without may lack
    its padded row, for the model takes all rows as one list.
    """

    unit: str
    without: WithoutMedia = "omit"
    tolerates: frozenset[str] = frozenset()
    lean: bool = False

    def takes(self, given: int, expected: int) -> bool:
        """Whether the model takes `given` rows where the other keys ask for `expected`."""
        if given == expected:
            return True
        if given > expected:
            return "surplus" in self.tolerates and expected > 0
        return ("none" if given == 0 else "one" if given == 1 else "") in self.tolerates


@dataclass(frozen=True)
class TokenRows:
    """What a model makes of wrong rows of a key of tokens: True it runs, False it raises.

    None stands for what is not known.

    Attributes:
        same: As many rows as `input_ids`, of other samples.
        fewer: Fewer rows, but more than one.
        one: One row beside several samples.
        more: More rows than several samples.
        beside_one: Several rows beside one sample.
        none: No rows.
    """

    same: bool | None = None
    fewer: bool | None = None
    one: bool | None = None
    more: bool | None = None
    beside_one: bool | None = None
    none: bool | None = None

    def takes(self, given: int, samples: int) -> bool | None:
        """Whether the model takes so many rows beside those of `samples`."""
        if given == samples:
            return self.same
        if given > samples:
            return self.beside_one if samples == 1 else self.more
        if given == 0:
            return self.none
        return self.one if given == 1 else self.fewer


@dataclass(frozen=True)
class Layout(Mapping[str, Axis]):
    """Every key's axis: `layout["pixel_values"]` is `Axis(unit="image", dim=0)`.

    Args:
        family: Name of the layout family, such as `"gemma4"`.
        axes: Axis of every key of the batch that can be cut.
        media: Which of these keys hold media, and what a chunk without media needs.
        feature_key: The media key whose rows say how many features the model will make.
        loud_drops: Keys whose absence makes the model raise while it has pixels. It does
            without any other key in silence, though its answer changes.
        strict: Whether the model lays the images of each sample out by their sizes (Qwen's
            M-RoPE does), so that it looks at each sample and not only at a call's totals. None:
            it does, and takes some wrong sizes all the same.
        causal: Whether no text token looks at later ones, so that padding behind them needs no
            mask. PaliGemma's prompt looks both ways.
        ignored: Keys that a model takes and makes nothing of.
        placing: Keys of which the model makes nothing but M-RoPE's `position_ids`, so that a chunk
            which has those needs none of them.
        masks: Masks that the model takes for full where they are absent.
        optional: Media keys that a batch may lack.
        checks_counts: Whether the model compares features with placeholders at all.
        overview: Which of an image's tiles shows the whole image, where one does.
        row_by_row: Whether each row of pixels must fit the row of every key that describes it.
        tokens: What the model makes of wrong rows of each key of tokens, where that is known.
    """

    family: str
    axes: Mapping[str, Axis]
    media: Mapping[str, Media] = field(default_factory=dict)
    feature_key: str | None = None
    loud_drops: frozenset[str] = frozenset()
    strict: bool | None = False
    causal: bool = True
    ignored: frozenset[str] = frozenset()
    placing: frozenset[str] = frozenset()
    masks: frozenset[str] = frozenset()
    checks_counts: bool = True
    optional: frozenset[str] = frozenset()
    overview: Literal["first", "last"] = "last"
    row_by_row: bool = False
    tokens: Mapping[str, TokenRows] = field(default_factory=dict, compare=False, repr=False)

    def __getitem__(self, key: str) -> Axis:
        return self.axes[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.axes)

    def __len__(self) -> int:
        return len(self.axes)

    # As Mapping has them, but by the dict's own code: these are asked at every call of a model.

    def __contains__(self, key: object) -> bool:
        return key in self.axes

    def get(self, key: str, default: Any = None) -> Any:
        return self.axes.get(key, default)

    def items(self) -> ItemsView[str, Axis]:
        return self.axes.items()

    def kind(self, key: str) -> str:
        """`media`, `tokens` for a row or more per sample, or `whole` for what is not cut."""
        if self.axes[key].unit == "batch":
            return "whole"
        tokens = key not in self.media and self.axes[key].unit in ("sample", "ambiguous")
        return "tokens" if tokens else "media"

    @property
    def types_prompt(self) -> bool:
        """Whether `token_type_ids` are 0 in a prompt that sees all of itself and 1 behind it.

        PaliGemma's are (`forward` in modeling_paligemma, transformers 5.23).
        """
        return not self.causal and self.strict is False

    def __hash__(self) -> int:
        return hash((self.family, tuple(self.axes.items())))

    def __str__(self) -> str:
        width = max(map(len, self.axes), default=0)
        lines = [f"layout {self.family}"]
        lines += [f"  {key:<{width}}  {axis}" for key, axis in self.axes.items()]
        return "\n".join(lines)
