"""What every layout family answers: its axes, its counts, and batches made to its layout.

A family is a layout, not a model: many models share one. Nothing here imports torch or
transformers; tensors are used through the few methods that torch and numpy share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import accumulate, pairwise
from math import isqrt, prod
from typing import Any, ClassVar

import numpy as np

from vlmdebug.batch import Ambiguity
from vlmdebug.errors import BadInput
from vlmdebug.families.formulas import AudioRule, PixelRule, VideoRule
from vlmdebug.families.release import as_released
from vlmdebug.families.rules import USUAL, common_mask, with_mask
from vlmdebug.layout import STREAMS, Axis, Layout
from vlmdebug.plan import Counts, Places
from vlmdebug.rules import ModelRules


def to_numpy(value: Any) -> np.ndarray:
    """A tensor's values in host memory; 16-bit floats that numpy lacks are widened exactly.

    Waits for the device, so it is for ids, grids and what must be compared by value.
    """
    if not hasattr(value, "detach"):
        return np.asarray(value)
    value = value.detach().cpu()
    if value.is_neg() or value.is_conj():  # views that are negated when they are read
        value = value.resolve_neg().resolve_conj()
    try:
        return value.numpy()
    except TypeError:  # bfloat16, float8
        return value.float().numpy()


def places_of(mask: np.ndarray) -> Places:
    """Where each unbroken run of a mask `(sample, seq)` begins and ends, by sample."""
    samples, width = mask.shape
    flat = np.zeros(samples * (width + 1) + 1, dtype=bool)  # a column of False before each row
    flat[:-1].reshape(samples, width + 1)[:, 1:] = mask
    edges = np.flatnonzero(flat[1:] != flat[:-1]).tolist()
    found: list[list[tuple[int, int]]] = [[] for _ in range(samples)]
    for begin, end in zip(edges[::2], edges[1::2], strict=True):
        sample, place = divmod(begin, width + 1)
        found[sample].append((place, place + end - begin))
    return Places(map(tuple, found))


def by_sample(mask: np.ndarray) -> tuple[int, ...]:
    """How many of each row of `(sample, seq)` are true; nearly always none are."""
    if not np.count_nonzero(mask):
        return (0,) * len(mask)
    return tuple(mask.sum(axis=1).tolist())


def unreadable(value: Any) -> str | None:
    """Why the values of a tensor cannot be compared, in words: `on the meta device`."""
    if isinstance(value, np.ndarray):
        return None if value.dtype.kind in "biuf" else f"an array of {value.dtype}"
    laid_out = getattr(value, "layout", None)
    if getattr(value, "is_nested", False):
        return "nested"
    if laid_out is None:
        return None  # no tensor of torch's
    if value.is_meta:
        return "on the meta device, which holds no values"
    return _unreadable(laid_out, value.dtype)


@cache
def _unreadable(layout: Any, dtype: Any) -> str | None:
    """What is said of torch's layouts and dtypes whose rows are no plain numbers in memory."""
    name = str(layout).removeprefix("torch.")
    if name != "strided":
        return "sparse" if "sparse" in name else f"laid out as {name}"
    if str(dtype).removeprefix("torch.").startswith(("quint", "qint")):
        return "quantized"
    return "of complex numbers" if dtype.is_complex else None


@dataclass(frozen=True)
class Hints:
    """What the processor and the config say of the counts; None where neither does.

    `image_edges` are the tokens that begin and end an image in the text. `attends_both_ways` says
    that the placeholder tokens of an image see each other, later ones too. `tokens_per_image`
    takes a list of `(height, width)` and gives placeholder tokens each. `returned_keys` are
    those that the processor says it returns, `taken_keys` those that the model's forward names. The
    `features_of_` rules
    are those of `vlmdebug.families.formulas`.
    """

    model_type: str | None = None
    processor_type: str | None = None
    image_token_id: int | None = None
    image_edges: tuple[int, int] | None = None
    attends_both_ways: bool | None = None
    token_ids: Mapping[str, int] = field(default_factory=dict)
    global_image_id: int | None = None
    features_per_tile: int | None = None
    merge_size: int | None = None
    pooling_size: int | None = None
    downsample_factor: int | None = None
    pixels_per_feature: int | None = None
    patch_pixels: frozenset[int] = frozenset()
    splits_images: bool = False
    tokens_per_image: Callable[[list[tuple[int, int]]], list[int]] | None = None
    returned_keys: frozenset[str] | None = None
    taken_keys: frozenset[str] | None = None
    features_of_pixels: PixelRule | None = None
    features_of_video: VideoRule | None = None
    features_of_audio: AudioRule | None = None
    pad_token_id: int | None = None


@dataclass(frozen=True)
class Facts:
    """All that `read_batch` was told, for a family to count from."""

    inputs: Mapping[str, Any]
    hints: Hints = Hints()
    num_images: tuple[int, ...] | None = None
    num_tiles: tuple[int, ...] | None = None
    clips: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)

    @cached_property
    def samples(self) -> int:
        return int(self.inputs["input_ids"].shape[0])

    @cached_property
    def ids(self) -> np.ndarray:
        return to_numpy(self.inputs["input_ids"])  # (sample, seq)

    @cached_property
    def mask(self) -> np.ndarray | None:
        """The `attention_mask`, `(sample, seq)` as a rule; None where the batch has none."""
        return to_numpy(self.inputs["attention_mask"]) if self.has("attention_mask") else None

    @cached_property
    def placeholder_mask(self) -> np.ndarray | None:
        """Where the placeholder tokens are, `(sample, seq)`; None where nothing tells."""
        types = self.inputs.get("mm_token_type_ids")
        if self.hints.image_token_id is not None:
            mask = self.ids == self.hints.image_token_id
            if types is None or "pixel_values_videos" not in self.inputs:
                return mask
            return mask & (to_numpy(types) != 2)  # GLM writes image tokens for frames too
        return None if types is None else to_numpy(types) == 1

    @property
    def placeholder_source(self) -> str:
        known = self.hints.image_token_id is not None
        return "placeholder tokens in input_ids" if known else "mm_token_type_ids"

    @cached_property
    def placeholders(self) -> tuple[int, ...] | None:
        return None if self.runs is None else tuple(map(sum, self.runs))

    @cached_property
    def places(self) -> Places | None:
        """Where each unbroken run of placeholder tokens begins and ends, by sample."""
        return None if self.placeholder_mask is None else places_of(self.placeholder_mask)

    @property
    def runs(self) -> tuple[tuple[int, ...], ...] | None:
        """Lengths of the unbroken runs of placeholder tokens of each sample."""
        return None if self.places is None else self.places.runs

    @cached_property
    def spans(self) -> tuple[tuple[int, ...], ...] | None:
        """Placeholder tokens between each begin and end token of an image, by sample.

        None where the processor has no such tokens, or where they do not pair up, as after
        truncation, or where placeholder tokens stand outside.
        """
        mask, edges = self.placeholder_mask, self.hints.image_edges
        if mask is None or edges is None:
            return None
        found = []
        for ids, placeholder in zip(self.ids, mask, strict=True):
            begins, ends = (np.flatnonzero(ids == edge) for edge in edges)
            if len(begins) != len(ends) or (begins >= ends).any() or (begins[1:] < ends[:-1]).any():
                return None
            before = np.concatenate([[0], placeholder.cumsum()])
            spans = tuple((before[ends] - before[begins]).tolist())
            if sum(spans) != placeholder.sum():
                return None
            found.append(spans)
        return tuple(found)

    def rows(self, key: str) -> int:
        return len(self.inputs[key])

    def has(self, key: str) -> bool:
        return self.inputs.get(key) is not None


@dataclass(frozen=True)
class Reading:
    """What a family counted. Fields as in `vlmdebug.batch.Batch`."""

    counts: Mapping[str, Counts]
    features: tuple[int, ...] | None = None
    per_image: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ambiguities: tuple[Ambiguity, ...] = ()
    pieces: tuple[tuple[int, ...], ...] | None = None
    inferred: bool = False


@dataclass(frozen=True)
class BatchSpec:
    """A batch to be made: images per sample, one size number per image, and videos likewise.

    What an image's size means is the family's: grid side, tiles, soft tokens; a video's is its
    frames; audio clips are alike. `labels`, M-RoPE's `position_ids` and, beside videos,
    `second_per_grid_ts` are there where asked for.
    The text is short: sizes and frames of 1, the smallest, go without saying, and so do padding on
    the right and what is not there.
    """

    family: str
    images_per_sample: tuple[int, ...]
    sizes: tuple[int, ...]
    videos_per_sample: tuple[int, ...] = ()
    frames: tuple[int, ...] = ()
    audios_per_sample: tuple[int, ...] = ()
    padding_side: str = "right"
    labels: bool = False
    position_ids: bool = False
    second_per_grid_ts: bool = False

    @property
    def clips(self) -> bool:
        """Whether there are videos or audio clips."""
        return any(self.videos_per_sample) or any(self.audios_per_sample)

    def __repr__(self) -> str:
        parts = [f"{self.family}: images per sample {list(self.images_per_sample)}"]
        if set(self.sizes) - {1}:
            parts.append(f"sizes {list(self.sizes)}")
        if self.frames:
            parts.append(f"videos per sample {list(self.videos_per_sample)}")
        if set(self.frames) - {1}:
            parts.append(f"frames {list(self.frames)}")
        if self.audios_per_sample:
            parts.append(f"audio clips per sample {list(self.audios_per_sample)}")
        if self.padding_side == "left":
            parts.append("padded left")
        parts += [f"with {key}" for key in ASKED_FOR if getattr(self, key)]
        return ", ".join(parts)


ASKED_FOR = ("labels", "position_ids", "second_per_grid_ts")
"""Keys of a made batch that are there where its specification asks for them."""


class Family(ABC):
    """One layout family.

    Class attributes:
        name: The family's name, that of its best-known model.
        models: `config.model_type` of the models that share the layout.
        processors: Folders of `transformers.models` whose processor makes the layout, where no
            model has that name.
        axes: Axis of every media key.
        media: The count that must be above zero for a chunk to need each media key.
        shapes: Dimensions of every media key, by name.
        feature_key: The key whose rows say how many features the model makes.
        rules: What the best-known model makes of a call.
        variants: Rules of the models that differ from it, by `config.model_type`.
        overview_first: Models whose first tile of an image shows the whole image.
        sizes: The size numbers that `synthesize` understands.
        videos: What a row of `pixel_values_videos` counts, where the models take videos.
        timed: Whether the processor gives the seconds of each video's frames beside them.
        audio: Key of the mask beside `input_features`, where some of the models take audio.
        feature_rules: Sources of the features of each row of `feature_key`, for exported code;
            `{n}` is a number in which models differ. None where more than that is needed.
    """

    name: ClassVar[str]
    models: ClassVar[tuple[str, ...]]
    processors: ClassVar[tuple[str, ...]] = ()
    axes: ClassVar[Mapping[str, Axis]]
    media: ClassVar[Mapping[str, str]]
    shapes: ClassVar[Mapping[str, str]]
    feature_key: ClassVar[str]
    rules: ClassVar[ModelRules] = USUAL
    variants: ClassVar[Mapping[str, ModelRules]] = {}
    overview_first: ClassVar[tuple[str, ...]] = ()
    sizes: ClassVar[tuple[int, ...]] = (1, 2, 3)
    videos: ClassVar[str | None] = None
    audio: ClassVar[str | None] = None
    timed: ClassVar[bool] = False
    feature_rules: ClassVar[tuple[str, ...]] = ()

    @property
    def mrope(self) -> bool:
        """Whether some of the models place tokens by `position_ids` of `(3, sample, seq)`."""
        return bool(self.rules.only_used_for_position_ids)

    @property
    def clips(self) -> list[str]:
        """Kinds of clips that some of the models take beside images: `video`, `audio`."""
        return [
            unit for unit, takes in zip(STREAMS, (self.videos, self.audio), strict=True) if takes
        ]

    def layout(self, hints: Hints | None = None) -> Layout:
        """The layout with every media key the family has, as the model of the hints treats it."""
        name = hints.model_type if hints is not None else None
        rules = self.rules_for(hints)
        return Layout(
            self.name,
            self.axes,
            self.media,
            self.feature_key,
            rules if hints is None else as_released(rules, name),
            overview="first" if name in self.overview_first else "last",
        )

    def rules_for(self, hints: Hints | None) -> ModelRules:
        """The rules of the model that the hints name.

        Without a name: those of the best-known model, but for masks, of which only what all the
        models make is known.
        """
        name = hints.model_type if hints is not None else None
        if name is not None and name in self.variants:
            return self.variants[name]
        return self.rules if name in self.models else self._shared_rules

    @cached_property
    def _shared_rules(self) -> ModelRules:
        every = [self.variants.get(name, self.rules) for name in self.models]
        return with_mask(self.rules, common_mask(every))

    @abstractmethod
    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        """Whether the keys and dimensions of `inputs` can only be this layout."""

    def actual(self, facts: Facts) -> Family:
        """The family whose layout this batch really has; another where an option changes it."""
        return self

    @abstractmethod
    def read(self, facts: Facts) -> Reading:
        """Count what each sample owns.

        Raises:
            BadInput: The tensors or the counts given contradict each other.
        """

    @abstractmethod
    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], Facts]:
        """Numpy tensors in the family's layout without a processor, and the facts of them.

        Every media row holds its own number, so that a copied row can be told apart.
        """


def agree(name: str, given: Sequence[int], key: str, rows: int, unit: str) -> None:
    """Refuse counts whose sum is not the number of rows that `key` has."""
    if sum(given) != rows:
        raise BadInput(
            f"{name} adds up to {sum(given)} {unit}s, but {key} has {rows} rows, one per {unit}. "
            "Every cut after the first wrong count would be shifted. "
            f"{_other_total(name, sum(given) - rows, unit)}"
        )


def _other_total(name: str, more: int, unit: str) -> str:
    """What to do about counts that add up to `more` than there are rows, or to fewer."""
    units = f"{abs(more)} {unit}{'s' if abs(more) > 1 else ''}"
    batch = f"lacks {units}" if more > 0 else f"has {units} too many"
    return (
        f"If {name} is right, the batch {batch}: pass it as the processor returned it. "
        f"Otherwise give as {name} how many {unit}s of each sample are in the batch."
    )


def count_images(
    facts: Facts, key: str, features: Sequence[int] | None
) -> tuple[Counts | None, tuple[Ambiguity, ...]]:
    """Images per sample, where `key` has one row per image.

    Args:
        facts: The batch.
        key: A key with one row per image.
        features: Placeholder tokens that each image asks for, where known.
    """
    images = facts.rows(key)
    if facts.num_images is not None:
        agree("num_images", facts.num_images, key, images, "image")
        return Counts(facts.num_images, "num_images"), ()
    if facts.samples == 1:
        return Counts([images], "the batch has one sample"), ()
    if facts.placeholders is not None and features is not None:
        found = align(features, facts.placeholders)
        if found is not None:
            return Counts(found, f"{facts.placeholder_source} against {key}"), ()
    if facts.runs is not None and _one_run_each(facts.runs, features, images):
        return Counts(map(len, facts.runs), f"runs of {facts.placeholder_source}"), ()
    return None, (ambiguous_images(facts, key, images),)


def read_images(
    facts: Facts,
    key: str,
    features: tuple[int, ...] | None,
    pieces: tuple[tuple[int, ...], ...] | None = None,
    *,
    inferred: bool = False,
) -> Reading:
    """The reading of a layout whose `key` has one row per image, each of so many features."""
    counts, ambiguities = count_images(facts, key, features)
    return Reading(
        {"image": counts} if counts else {},
        features,
        {"feature": features} if features else {},
        ambiguities,
        pieces,
        inferred,
    )


def _one_run_each(
    runs: Sequence[Sequence[int]], features: Sequence[int] | None, images: int
) -> bool:
    """Whether each run of placeholder tokens can be one image, none of them too long for it.

    Images side by side make one run; with a stray token elsewhere, the number of runs would fit.
    """
    flat = [run for sample in runs for run in sample]
    if len(flat) != images:
        return False
    return features is None or all(run <= own for run, own in zip(flat, features, strict=True))


def align(features: Sequence[int], placeholders: Sequence[int]) -> list[int] | None:
    """Rows per sample such that each sample's rows ask for just its placeholders.

    >>> align([10, 12, 16], [22, 0, 16])
    [2, 0, 1]
    """
    ends = {total: index for index, total in enumerate((0, *accumulate(features)))}
    stops = [ends.get(total) for total in accumulate(placeholders)]
    if any(stop is None for stop in stops) or stops[-1] != len(features):
        return None
    if any(count == 0 for count in features):  # a row without features fits anywhere
        return None
    found = [stop for stop in stops if stop is not None]
    return [stop - start for start, stop in pairwise([0, *found])]


def ambiguous_images(facts: Facts, key: str, images: int) -> Ambiguity:
    """Images that nothing gives to samples, and what would."""
    why = (
        "nothing says which token is the placeholder"
        if facts.placeholders is None
        else f"the placeholder tokens per sample, {list(facts.placeholders)}, do not match them"
    )
    known = facts.hints.processor_type is not None or facts.hints.model_type is not None
    return Ambiguity(
        keys=tuple(name for name in facts.inputs if name in (key, "pixel_values")),
        unit="image",
        message=(
            f"{key} has {images} images for {facts.samples} samples, and {why}. "
            f"Images per sample cannot be known, so no chunk was cut. "
            f"Pass {'' if known else 'processor= or '}num_images=[…], "
            "how many images of each sample are in the batch."
        ),
    )


def features_of_rows(facts: Facts, key: str) -> tuple[tuple[int, ...] | None, bool]:
    """Features of each row of `key`, all of one size, and whether placeholders only suggest them.

    Where no rule is known, but all placeholder tokens divide evenly, rows can be counted by that;
    it is no evidence of the placeholders themselves.
    """
    rows, (height, width) = facts.rows(key), facts.inputs[key].shape[-2:]
    rule = facts.hints.features_of_pixels
    known = (rule(height, width) if rule is not None else None) or facts.hints.features_per_tile
    if known:
        return (known,) * rows, False
    tokens = sum(facts.placeholders or ())
    divides = rows and tokens and tokens % rows == 0
    return ((tokens // rows,) * rows if divides else None), True


ANSWER = 6
"""Tokens of text behind the images of a synthesized sample, which has 8 at least."""


def text(per_image: Sequence[Sequence[int]], images_per_sample: Sequence[int]) -> np.ndarray:
    """`input_ids` of samples whose images stand for the given token ids, padded right.

    Every sample begins with its own text token, so that no two rows are equal. It ends with text,
    as long as completions that a loop may keep the logits of (`logits_to_keep`).
    """
    images = iter(per_image)
    rows: list[list[int]] = []
    for sample, count in enumerate(images_per_sample):
        row = [100 + sample, 5]
        for _ in range(count):
            row += [*next(images), 6]
        rows.append([*row, *range(20, 20 + ANSWER)])
    return padded(rows)


def padded(rows: Sequence[list[int]]) -> np.ndarray:
    """Token ids of unequal length as one array, filled up with 0 on the right."""
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.int64)


def with_text(ids: np.ndarray, *, placeholder: int, types: bool) -> dict[str, Any]:
    """The token keys that go with `ids`; 0 is padding."""
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": (ids != 0).astype(np.int64)}
    if types:
        inputs["mm_token_type_ids"] = (ids == placeholder).astype(np.int64)
    return inputs


def numbered(rows: int, *shape: int) -> np.ndarray:
    """A float tensor `(rows, *shape)` in which every row holds its own number, from 1.

    Its fractions rise along the row, so that a cast or a move within it changes something.
    """
    column = np.arange(1, rows + 1, dtype=np.float32).reshape(rows, *[1] * len(shape))
    within = np.arange(prod(shape), dtype=np.float32).reshape(shape) / (2 * max(prod(shape), 1))
    return column + within


def window(patches: int, placeholders: Sequence[int] | None) -> int | None:
    """Side of the square of patches that becomes one feature, where the totals settle it.

    Only needed when neither processor nor config gives it.

    >>> window(144, [20, 0, 16])
    2
    """
    tokens = sum(placeholders or ())
    if not tokens or patches % tokens:
        return None
    side = isqrt(patches // tokens)
    return side if side**2 == patches // tokens else None
