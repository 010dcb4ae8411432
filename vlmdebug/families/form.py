"""What follows from the keys of a batch and from its model, whatever the values are.

`watch` reads the calls of a run one by one, and nearly all have the same keys: a `Form` is made
once and kept with the metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlmdebug.core.keys import ALONG_TOKENS, CLIP_KEYS, IMAGE_KEYS, PIXELS, TYPE_IDS
from vlmdebug.core.layout import Layout
from vlmdebug.core.lazy import lazy
from vlmdebug.families.base import Family
from vlmdebug.families.by_shape import NAME as UNKNOWN_LAYOUT
from vlmdebug.families.facts import ProcessorMetadata
from vlmdebug.families.video_audio import clip_of

NEEDED = (*TYPE_IDS, "cross_attention_mask")
"""Keys other than media that change how a model processes the media."""


@dataclass(frozen=True, eq=False)
class Form:
    """The layout of a batch with certain keys, and what follows from both.

    Attributes:
        metadata: What the processor and the config say.
        layout: The keys that the batch has, and what a row of each counts.
        given: Keys of the batch that hold something.
        family: The family of the batch, if one fits.
        clips: Kinds of clips that the batch has.
    """

    metadata: ProcessorMetadata
    layout: Layout
    given: frozenset[str]
    family: Family | None
    clips: frozenset[str] = frozenset()

    @lazy
    def named(self) -> frozenset[str] | None:
        """Keys that the processor returns, or the model takes where no processor is at hand."""
        metadata = self.metadata
        return metadata.taken_keys if metadata.returned_keys is None else metadata.returned_keys

    @lazy
    def has_clips(self) -> bool:
        """Whether the batch has a key of clips, even of such as are not read."""
        return not CLIP_KEYS.isdisjoint(self.given)

    @lazy
    def units(self) -> frozenset[str]:
        """What must be counted per sample to cut the batch."""
        layout = self.layout
        rows = {axis.unit for axis in layout.axes.values()}
        return frozenset(rows.union(layout.media.values()) - {"batch"})

    @lazy
    def lost_masks(self) -> tuple[str, ...]:
        """Masks of pixels that the processor or the model names and the batch lacks, and seconds.

        Without a mask, a model takes every pixel for one of an image, padding too. Without the
        seconds of videos, `modeling_qwen2_5_vl.get_rope_index` takes one for each (5.24).
        """
        if self.named is None or not self.layout.media:
            return ()
        rules = self.layout.rules
        masks = sorted(rules.optional_if_all_ones & self.named)
        rule = rules.mrope if "video_grid_thw" in self.layout.media else None
        if rule is not None and not rule.sounds and "position_ids" not in self.given:
            masks += {rule.timed_by} & self.named
        return tuple(key for key in masks if key not in self.given)

    @lazy
    def lacking(self) -> tuple[str, ...]:
        """Keys that the batch lacks, and that its media need if they have placeholder tokens."""
        rules, named = self.layout.rules, self.named
        if not self.layout.media or named is None:
            return ()
        described = rules.sometimes_returned & rules.raises_without
        if described and all(clip_of(key) for key in self.layout.media):
            described = frozenset[str]()  # no pixels to describe
        wanted = [*NEEDED, *described]
        if rules.mrope is not None and rules.mrope.sounds and "video_grid_thw" in self.layout.media:
            wanted.append(rules.mrope.timed_by)  # which is looked up for each video
        keys = [key for key in wanted if key in named or key in rules.raises_without]
        return tuple(key for key in keys if key not in self.given)

    @lazy
    def lost_pixels(self) -> tuple[str, ...]:
        """Pixels without which the model fails even on texts, if the batch has no media at all."""
        if self.layout.media or self.named is None:
            return ()
        rules = self.layout.rules
        pixels = self.named & set(PIXELS) & set(IMAGE_KEYS)
        alone = rules.no_placeholders  # nothing in the text says that there is an image
        needed = rules.raises_without - rules.sometimes_returned
        return tuple(sorted(pixels if alone else pixels & needed))

    @lazy
    def absent_clips(self) -> tuple[tuple[str, int], ...]:
        """Kinds of clips without any key in the batch, and their placeholder tokens.

        None of clips that `layout=` counts, or that a key which is not read may hold.
        """
        axes = self.layout.axes
        units = {axis.unit for axis in axes.values()}.union(self.clips)
        unread = [key for key in self.given if key not in axes or axes[key].unit == "ambiguous"]
        return tuple(
            (unit, token)
            for unit, token in self.metadata.token_ids.items()
            if not any(self.layout.family == UNKNOWN_LAYOUT or unit in key for key in unread)
            and unit not in units
            and token != self.metadata.image_token_id
        )

    @lazy
    def columns(self) -> tuple[tuple[str, int, int | None], ...]:
        """Keys with columns of tokens that the model uses: the dimension of these, and how many
        dimensions the key must have for that.
        """
        axes, uses = self.layout.axes, self.layout.rules.uses
        dims: dict[str, tuple[int, int | None]] = {k: (1, 2) for k in ALONG_TOKENS if k in axes}
        for key, axis in axes.items():
            if axis.columns:
                dims[key] = axis.dim + 1, None
        return tuple((key, *dim) for key, dim in dims.items() if uses(key))

    @lazy
    def right_rows(self) -> set[tuple[Any, ...]]:
        """What a row of each of `shapes` measures, in batches in which nothing was odd."""
        return set()

    @lazy
    def shapes(self) -> dict[str, str]:
        """The dimensions of the family's keys by name, as far as the model requires them."""
        family, kind = self.family, self.metadata.model_type
        if family is None:
            return {}
        return {key: family.shape_of(key, kind) for key in family.axes if key in self.given}
