"""The two sides of a modality: runs of placeholder tokens, and features of its media."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

from vlmdebug.core.batch import Batch
from vlmdebug.core.lazy import lazy
from vlmdebug.core.modality import Modality
from vlmdebug.core.rows import Places


class Run(NamedTuple):
    """An unbroken run of placeholder tokens.

    `before` and `after` are the token ids next to it; None where the text of its row begins or
    ends there (padding is no text).
    """

    length: int
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class Sides:
    """Runs of each sample with the features of each image, video or clip, in order.

    Attributes:
        noun: `image`, `video` or `audio`.
        unit: What is counted: the noun, or `tile` where each tile has its own features.
        batch: The batch.
        places: Where each run of each sample begins and ends in its span.
        pieces: Lengths of the runs that the features of each unit are written in.
        owned: Units of each sample; None where that is not known.
    """

    noun: str
    unit: str
    batch: Batch
    places: Places
    pieces: tuple[tuple[int, ...], ...]
    owned: tuple[int, ...] | None

    @property
    def lengths(self) -> tuple[tuple[int, ...], ...]:
        """Length of each run of each sample."""
        return self.places.runs

    @lazy
    def runs(self) -> tuple[tuple[Run, ...], ...]:
        """The runs of each sample, with the tokens next to them."""
        return _runs(self.batch, self.places)

    @lazy
    def placeholders(self) -> list[int]:
        """Placeholder tokens of each sample."""
        return [sum(sample) for sample in self.lengths]

    @property
    def features(self) -> list[int]:
        """Features of each unit."""
        return [*map(sum, self.pieces)]

    @property
    def one_each(self) -> bool:
        """Whether each sample has just one run for each of its units, as long as its features."""
        if self.owned is None or [*map(len, self.lengths)] != [*self.owned]:
            return False
        return [*chain.from_iterable(self.lengths)] == self.features

    def units_of(self, sample: int) -> range:
        """The units of a sample, where they are known."""
        return range(self._ends[sample], self._ends[sample + 1])

    @lazy
    def _ends(self) -> tuple[int, ...]:
        assert self.owned is not None
        return (0, *accumulate(self.owned))


def sides_of(batch: Batch, modality: Modality) -> Sides | None:
    """The two sides of one modality; None where one of them is not known."""
    features, places, counts, unit = (
        modality.features,
        modality.places,
        batch.counts,
        modality.unit,
    )
    if features is None or places is None or unit is None:
        return None
    if unit == "sample":
        if "tile" in counts or set(counts.get("image", ())) != {1}:
            return _of_tiles(batch, modality)
        unit = "image"  # each sample is one
    owned = tuple(counts[unit]) if unit in counts else None
    tiles = batch.per_image.get("tile") if unit == "tile" and owned else None
    if tiles is None or "image" not in counts or counts["image"].total != len(tiles):
        pieces = modality.pieces or tuple(zip(features, strict=True))
        return Sides(modality.name, unit, batch, places, pieces, owned)
    ends, parts = [*pairwise((0, *accumulate(tiles)))], modality.pieces
    if not parts:
        pieces = tuple([features[a:b] for a, b in ends])
    else:
        pieces = tuple([tuple(chain.from_iterable(parts[a:b])) for a, b in ends])
    return Sides(modality.name, "image", batch, places, pieces, tuple(counts["image"]))


def _of_tiles(batch: Batch, modality: Modality) -> Sides | None:
    """The same where a row is a sample, padded over its tiles, which have all as many features."""
    if "tile" not in batch.counts or not batch.counts["tile"].total:
        return None
    assert modality.features is not None and modality.places is not None
    owned = tuple(batch.counts["tile"])
    each = sum(modality.features) // sum(owned)
    pieces = ((each,),) * sum(owned)
    return Sides("image", "tile", batch, modality.places, pieces, owned)


def _runs(batch: Batch, places: Places) -> tuple[tuple[Run, ...], ...]:
    ids, mask = batch.inputs["input_ids"], batch.inputs.get("attention_mask")
    masked = mask is not None and tuple(mask.shape) == tuple(ids.shape)
    found = []
    for sample, own in enumerate(places):
        row = batch.tokens("input_ids", sample).tolist() if own else []
        hides = masked and bool(own)
        seen = batch.tokens("attention_mask", sample).tolist() if hides else [1] * len(row)
        text = [token if real else None for token, real in zip(row, seen, strict=True)]
        edged = [None, *text, None]
        found.append(tuple(Run(b - a, edged[a], edged[b + 1]) for a, b in own))
    return tuple(found)
