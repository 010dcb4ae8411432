"""What every layout family answers: its axes, its counts, and batches made to its layout.

A family is a layout, not a model: many models share one. No family imports torch or transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

from vlmdebug.core.layout import VIDEO_AND_AUDIO, Axis, Layout
from vlmdebug.core.lazy import lazy
from vlmdebug.core.rules import ModelRules
from vlmdebug.families.facts import BatchFacts, CountResult, ProcessorMetadata
from vlmdebug.families.release import as_released, installed
from vlmdebug.families.rules import USUAL, common_mask, with_mask
from vlmdebug.families.synthesize import BatchSpec


@cache
def dimensions(named: str) -> tuple[str, ...]:
    """The dimensions that a family names in `shapes`.

    >>> dimensions("image, 3")
    ('image', '3')
    """
    return tuple(named.split(", "))


class Family(ABC):
    """One layout family.

    Class attributes:
        name: The family's name, that of its best-known model.
        models: `config.model_type` of the models that share the layout.
        processors: Folders of `transformers.models` with a processor that makes the layout, if no
            model has that name.
        axes: Axis of every media key.
        media: The count that must be above zero for a chunk to need each media key.
        shapes: Dimensions of every media key, by name.
        also_takes: Image keys that `forward` of some of the models names, though their processors
            do not return them.
        feature_key: The key with rows that determine the number of features.
        rules: What the best-known model makes of a call.
        variants: Rules of the models that differ from it, by `config.model_type`.
        in_release: Rules of the best-known model in releases of transformers that changed it.
        overview_first: Models with the whole image in the first tile of an image.
        sizes: The size numbers that `synthesize` understands.
        videos: What a row of `pixel_values_videos` counts, where the models take videos.
        timed: Whether the processor also returns the seconds of each video's frames.
        audio: Key of the mask of `input_features`, if some of the models take audio.
        feature_rules: Sources of the features of each row of `feature_key`, for exported code;
            `{n}` is a number in which models differ. None where more than that is needed.
    """

    name: ClassVar[str]
    models: ClassVar[tuple[str, ...]]
    processors: ClassVar[tuple[str, ...]] = ()
    axes: ClassVar[Mapping[str, Axis]]
    media: ClassVar[Mapping[str, str]]
    shapes: ClassVar[Mapping[str, str]]
    also_takes: ClassVar[tuple[str, ...]] = ()
    feature_key: ClassVar[str]
    rules: ClassVar[ModelRules] = USUAL
    variants: ClassVar[Mapping[str, ModelRules]] = {}
    in_release: ClassVar[Mapping[str, ModelRules]] = {}
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
        """Kinds of clips that some of the models take in addition to images: `video`, `audio`."""
        return [
            unit
            for unit, takes in zip(VIDEO_AND_AUDIO, (self.videos, self.audio), strict=True)
            if takes
        ]

    def flattened(self, facts: BatchFacts) -> int | None:
        """Features of all rows of a model that flattens them, however many they are.

        None where the model takes as many rows as samples, or where that is not known.
        """
        return None

    def layout(self, metadata: ProcessorMetadata | None = None) -> Layout:
        """The layout with every media key of the family, as the metadata's model treats it."""
        if metadata is None:
            return self._layout(self.rules_for(None), None)
        known = metadata.layouts.get(self)
        if known is None:  # once: each call of a model asks for it
            name = metadata.model_type
            known = self._layout(as_released(self.rules_for(metadata), name), name)
            metadata.layouts[self] = known
        return known

    def _layout(self, rules: ModelRules, name: str | None) -> Layout:
        overview = "first" if name in self.overview_first else "last"
        return Layout(self.name, self.axes, self.media, self.feature_key, rules, overview)

    def rules_for(self, metadata: ProcessorMetadata | None) -> ModelRules:
        """The rules of the model that the metadata name.

        Without a name: those of the best-known model, but for masks, of which only what all the
        models make is known.
        """
        name = metadata.model_type if metadata is not None else None
        if name is not None and name in self.variants:
            return self.variants[name]
        if name not in self.models:
            return self._shared_rules
        return self.in_release.get(installed() or "", self.rules) if self.in_release else self.rules

    def shape_of(self, key: str, model_type: str | None) -> str:
        """Dimensions of a media key, by name, as far as the model requires them."""
        return self.shapes[key]

    @lazy
    def _shared_rules(self) -> ModelRules:
        every = [self.variants.get(name, self.rules) for name in self.models]
        return with_mask(self.rules, common_mask(every))

    @abstractmethod
    def recognises(self, inputs: Mapping[str, Any]) -> bool:
        """Whether the keys and dimensions of `inputs` can only be this layout."""

    def for_keys(self, inputs: Mapping[str, Any]) -> Family:
        """The family for a batch with these keys; another one if a key has an older name there."""
        return self

    def resolve_variant(self, facts: BatchFacts) -> Family:
        """The family with the actual layout of this batch; another one if an option changes it."""
        return self

    @abstractmethod
    def read(self, facts: BatchFacts) -> CountResult:
        """Count what each sample owns.

        Raises:
            BadInput: The tensors or the counts given contradict each other.
        """

    @abstractmethod
    def synthesize(self, spec: BatchSpec) -> tuple[dict[str, Any], BatchFacts]:
        """Numpy tensors in the family's layout without a processor, and the facts of them.

        Every media row holds its own number, so that a copied row can be identified.
        """
