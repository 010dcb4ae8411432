"""The inputs of one model call, with the properties that checks of a forward pass use."""

from __future__ import annotations

from collections.abc import Mapping

from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import pixels_of
from vlmdebug.core.layout import Layout
from vlmdebug.core.lazy import lazy
from vlmdebug.core.modality import Modality
from vlmdebug.core.observed import ObservedKey
from vlmdebug.core.part import Part
from vlmdebug.core.presence import Expected
from vlmdebug.core.rules import ModelRules


class Call:
    """The inputs that a call got, and the rows of the batch that it should get.

    Attributes:
        keys: The rows that each key holds, without those that the model pairs with no pixels.
        part: What the call should process.
        placeholders: Placeholder tokens of images, if known.
        expected: The rows of each key that the call should get.
    """

    batch: Batch
    keys: Mapping[str, ObservedKey]
    part: Part
    layout: Layout
    rules: ModelRules
    placeholders: int | None
    expected: Expected

    def __init__(
        self,
        batch: Batch,
        keys: Mapping[str, ObservedKey],
        part: Part,
        placeholders: int | None,
        expected: Expected,
    ) -> None:
        self.batch, self.part = batch, part
        self.layout, self.rules = batch.layout, batch.rules
        self.keys = self._paired(keys)
        self.placeholders, self.expected = placeholders, expected

    def _paired(self, keys: Mapping[str, ObservedKey]) -> Mapping[str, ObservedKey]:
        """The keys, without rows behind those of the pixels that the model ignores."""
        name = self.layout.feature_key or ""
        used = keys.get(name)
        if used is None or used.rows is None or "surplus" not in self.rules.of(name).runs_with:
            return keys
        pixels = keys.get(self.pixels)
        if pixels is None or used.length <= pixels.length:
            return keys
        rows = used.rows[: pixels.length]
        return {**keys, name: used._replace(rows=rows, length=pixels.length)}

    @lazy
    def pixels(self) -> str:
        """The key of the pixels."""
        return pixels_of(self.layout.media)

    @lazy
    def features(self) -> int | None:
        """Features the model would make of the image rows used."""
        return self.features_of(self.batch.image)

    def features_of(self, modality: Modality) -> int | None:
        """Features the model would make of the rows of a modality used."""
        key, keys = modality.feature_key, modality.keys
        if not keys:
            return self.batch.features_of(self.part, modality.name)
        if key is None or modality.features is None:
            return None
        used = self.keys.get(key)
        if used is None:
            return 0 if not any(k in self.keys for k in keys) else None
        if used.rows is None or used.rows.foreign or used.source is not None:
            return None
        offsets = modality.feature_offsets
        return sum(offsets[stop] - offsets[start] for start, stop in used.rows.ranges)

    @lazy
    def balance(self) -> tuple[int, int] | None:
        """Placeholder tokens and features, if both are known."""
        features = self.features
        if features is None or self.placeholders is None:
            return None
        return self.placeholders, features

    @lazy
    def lays_out_media(self) -> bool:
        """Whether the model looks at the media of each sample of this call."""
        return self.rules.lays_out_media(positions="position_ids" in self.keys)

    @property
    def out_of_balance(self) -> bool:
        """Whether there are pixels, and a number of features that the model refuses."""
        balance = self.balance if self.pixels in self.keys else None
        return balance is not None and not self.rules.takes_totals(*balance)

    def is_odd(self, key: str, used: ObservedKey) -> bool:
        """Whether only some models take its shape, or the tensor it comes from."""
        if key not in self.layout:
            return False
        return not used.fits or used.source is not None

    def is_foreign(self, used: ObservedKey) -> bool:
        """Whether a key holds anything except rows of its own tensor in the batch."""
        odd = used.source is not None or used.change is not None
        return odd or used.rows is None or used.rows.foreign
