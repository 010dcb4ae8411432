"""Image, video or audio: its keys, features and placeholder tokens, all handled alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from vlmdebug.core.lazy import lazy
from vlmdebug.core.rows import Counts, Places, Rows

MODALITIES = ("image", "video", "audio")


@dataclass(frozen=True)
class Modality:
    """The media of one kind in a batch, and the placeholder tokens that represent them.

    Attributes:
        name: `"image"`, `"video"` or `"audio"`; also the unit that counts them.
        keys: Its keys in the batch; none where the batch has no such media.
        feature_key: The key to which the rows of `features` belong; None if there is none.
        unit: What a row of `feature_key` counts: the name, or a tile, a patch, a sample.
        features: Features that the model makes of each of these rows, where known.
        inferred: Whether `features` are only what the placeholder tokens suggest, so that these
            cannot be compared with them.
        token_id: Id of the placeholder token, where known.
        places: Where each unbroken run of them begins and ends, by sample, where known.
        pieces: Lengths of the runs that the features of each row are written in, where these are
            several runs.
    """

    name: str
    keys: tuple[str, ...] = ()
    feature_key: str | None = None
    unit: str | None = None
    features: tuple[int, ...] | None = None
    inferred: bool = False
    token_id: int | None = None
    places: Places | None = None
    pieces: tuple[tuple[int, ...], ...] | None = None

    @property
    def runs(self) -> tuple[tuple[int, ...], ...] | None:
        """Lengths of the unbroken runs of placeholder tokens of each sample."""
        return None if self.places is None else self.places.runs

    @property
    def placeholders(self) -> tuple[int, ...] | None:
        """Placeholder tokens of each sample, as `input_ids` has them."""
        return None if self.places is None else self.places.tokens

    @lazy
    def feature_offsets(self) -> tuple[int, ...]:
        """Features of all rows before each row, and of all."""
        return (0, *accumulate(self.features or ()))

    def features_by_sample(self, counts: Counts) -> tuple[int, ...] | None:
        """Features of the rows that each sample owns; None where that is not known."""
        if self.features is None or counts.total != len(self.features):
            return None  # rows are missing, or too many: these features have no known samples
        before = self.feature_offsets
        return tuple(before[stop] - before[start] for start, stop in pairwise(counts.offsets))


def total(by_sample: Sequence[int] | None, samples: Iterable[int]) -> int | None:
    """The sum over `samples`; None where the numbers are not known.

    >>> total((4, 0, 2), [0, 2]), total(None, [0])
    (6, None)
    """
    if by_sample is None:
        return None
    if isinstance(samples, Rows):
        return sum([sum(by_sample[start:stop]) for start, stop in samples.ranges])
    return sum([by_sample[sample] for sample in samples])
