"""What `read_batch` knows before a family counts, and what the family counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vlmdebug.core.batch import Ambiguity
from vlmdebug.core.layout import Layout
from vlmdebug.core.lazy import lazy
from vlmdebug.core.part import Spans
from vlmdebug.core.rows import Counts, Places
from vlmdebug.core.tensors import places_of, side_by_side, to_numpy
from vlmdebug.families.formulas import AudioRule, PixelRule, VideoRule
from vlmdebug.families.packing import Packing
from vlmdebug.families.row_sizes import NOT_KNOWN, RowSizes


@dataclass(frozen=True)
class ProcessorMetadata:
    """What the processor and the config say of the counts; None where neither does.

    `image_edges` are the tokens that begin and end an image in the text, `image_start_id` the one
    that begins an image where none ends it. `attends_both_ways` says
    that the placeholder tokens of an image see each other, later ones too. `tokens_per_image`
    takes a list of `(height, width)` and gives placeholder tokens each. `returned_keys` are
    those that the processor says it returns, `taken_keys` those that the model's forward names. The
    `prompt_ends` are the tokens of line breaks, where each prompt ends in one. The
    `features_of_` rules are those of `vlmdebug.families.formulas`. `row` says how large one row of
    media is. `other_model` is the type of a
    model that no family knows, if the processor's family is known; `model_type` is the processor's.
    `has_config` says that the type is the config's. `flash_attention` is None if nothing says it.
    """

    model_type: str | None = None
    processor_type: str | None = None
    image_token_id: int | None = None
    image_edges: tuple[int, int] | None = None
    image_start_id: int | None = None
    attends_both_ways: bool | None = None
    token_ids: Mapping[str, int] = field(default_factory=dict)
    global_image_id: int | None = None
    features_per_tile: int | None = None
    merge_size: int | None = None
    pooling_size: int | None = None
    downsample_factor: int | None = None
    steps_per_second: float | None = None
    steps_per_chunk: int | None = None
    pixels_per_feature: int | None = None
    patch_pixels: frozenset[int] = frozenset()
    row: RowSizes = NOT_KNOWN
    splits_images: bool = False
    tokens_per_image: Callable[[list[tuple[int, int]]], list[int]] | None = None
    returned_keys: frozenset[str] | None = None
    taken_keys: frozenset[str] | None = None
    features_of_pixels: PixelRule | None = None
    features_of_video: VideoRule | None = None
    features_of_audio: AudioRule | None = None
    pad_token_id: int | None = None
    vocabulary: int | None = None
    prompt_ends: frozenset[int] = frozenset()
    other_model: str | None = None
    has_config: bool = False
    flash_attention: bool | None = None

    @lazy
    def interpolated(self) -> ProcessorMetadata:
        """The same for a call in which the model is asked to take images of any size."""
        return replace(self, row=self.row.of_any_side)

    @lazy
    def layouts(self) -> dict[Any, Layout]:
        """The layout of each family that was asked for one, as this model treats it."""
        return {}

    @lazy
    def forms(self) -> dict[Any, Any]:
        """The form of batches that came, by their keys: `vlmdebug.families.form`."""
        return {}


_NOT_PACKED = Packing()


@dataclass(frozen=True)
class BatchFacts:
    """The arguments of `read_batch`, from which a family counts.

    `packing`: the tokens of each sample, where rows of `input_ids` hold several.
    `others` are the counts given for all units but images, tiles and clips. `unprobed` says why a
    processor that no family knows could not be probed.
    """

    inputs: Mapping[str, Any]
    metadata: ProcessorMetadata = ProcessorMetadata()
    num_images: tuple[int, ...] | None = None
    num_tiles: tuple[int, ...] | None = None
    clips: Mapping[str, tuple[int, ...] | None] = field(default_factory=dict)
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    unprobed: str | None = None
    packing: Packing = _NOT_PACKED

    @property
    def packed(self) -> Spans | None:
        """The tokens of each sample of packed rows; None where each row is one sample."""
        return self.packing.spans

    @lazy
    def spans(self) -> Spans:
        """The tokens of each sample: whole rows of `input_ids`, if these are not packed."""
        rows, width = self.inputs["input_ids"].shape
        return self.packed or Spans.whole(int(rows), int(width))

    @property
    def samples(self) -> int:
        packed = self.packing.spans
        return int(self.inputs["input_ids"].shape[0]) if packed is None else len(packed)

    def by_sample(self, key: str, fill: int = 0) -> np.ndarray:
        """A key with a row per sample, `(sample, seq)`; `fill` is padding behind packed samples."""
        table = to_numpy(self.inputs[key])
        packed = self.packing.spans
        if packed is None or table.shape != self.inputs["input_ids"].shape:
            return table
        return side_by_side(table, packed, fill)

    @lazy
    def ids(self) -> np.ndarray:
        pad = self.metadata.pad_token_id
        return self.by_sample("input_ids", -1 if pad is None else pad)  # (sample, seq)

    @lazy
    def mask(self) -> np.ndarray | None:
        """The `attention_mask`, `(sample, seq)` as a rule; None where the batch has none."""
        if self.has("attention_mask"):
            return self.by_sample("attention_mask")
        return None if self.packed is None else self.packed.real.astype(np.int64)

    @lazy
    def placeholder_mask(self) -> np.ndarray | None:
        """Where the placeholder tokens are, `(sample, seq)`; None where nothing tells."""
        types = self.inputs.get("mm_token_type_ids")
        if self.metadata.image_token_id is not None:
            mask = self.ids == self.metadata.image_token_id
            if types is None or "pixel_values_videos" not in self.inputs:
                return mask
            return mask & (
                self.by_sample("mm_token_type_ids") != 2
            )  # GLM writes image tokens for frames too
        return None if types is None else self.by_sample("mm_token_type_ids") == 1

    @property
    def placeholder_source(self) -> str:
        known = self.metadata.image_token_id is not None
        return "placeholder tokens in input_ids" if known else "mm_token_type_ids"

    @property
    def placeholders(self) -> tuple[int, ...] | None:
        return None if self.places is None else self.places.tokens

    @lazy
    def places(self) -> Places | None:
        """Where each unbroken run of placeholder tokens begins and ends, by sample."""
        return None if self.placeholder_mask is None else places_of(self.placeholder_mask)

    @property
    def runs(self) -> tuple[tuple[int, ...], ...] | None:
        """Lengths of the unbroken runs of placeholder tokens of each sample."""
        return None if self.places is None else self.places.runs

    @lazy
    def between_edges(self) -> tuple[tuple[int, ...], ...] | None:
        """Placeholder tokens between each begin and end token of an image, by sample.

        None where the processor has no such tokens, or where they do not pair up, as after
        truncation, or where placeholder tokens stand outside.
        """
        mask, edges = self.placeholder_mask, self.metadata.image_edges
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
        value = self.inputs[key]
        return len(value) if isinstance(value, list) else int(value.shape[0])

    def has(self, key: str) -> bool:
        return self.inputs.get(key) is not None

    def present(self, keys: Iterable[str]) -> list[str]:
        """Those of `keys` that the batch has."""
        given = self.inputs.get
        return [key for key in keys if given(key) is not None]


@dataclass(frozen=True)
class CountResult:
    """What a family counted. Fields as in `vlmdebug.core.batch.Batch`."""

    counts: Mapping[str, Counts]
    features: tuple[int, ...] | None = None
    per_image: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ambiguities: tuple[Ambiguity, ...] = ()
    pieces: tuple[tuple[int, ...], ...] | None = None
    inferred: bool = False
