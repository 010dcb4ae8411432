"""Synthesized batches: videos, audio, labels and M-RoPE's positions, wherever a layout has them.

No model of these layouts takes the made-up pixels, so the values alone are the judge: a chunk whose
media are other than its samples' own is wrong. Rows are counted on fingers (`oracle`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any

from oracle import clips_per_sample, owned_by_sample

from differential.sound import KEPT_WITHOUT_IMAGES, Sound
from vlmdebug.families import family_named
from vlmdebug.running.cases import draw
from vlmdebug.running.synthetic import make


@dataclass(frozen=True, eq=False)
class Synthesized(Sound):
    """A batch made to a specification."""

    spec: Any = None
    batch: Any = None

    model = processor = None

    @property
    def unknown(self) -> tuple[str, ...]:
        """M-RoPE's places beside audio, and of videos with frames that are any time apart."""
        timed = len(self.spec.frames) and max(self.spec.frames) > 1
        open_places = self.spec.position_ids and (timed or any(self.spec.audios_per_sample))
        return ("position_ids",) if open_places else ()

    def needs(self, key: str, sample: int) -> bool:
        counts = clips_per_sample(self.spec, key)
        if counts is not None:
            return counts[sample] > 0
        return self.images[sample] > 0 or self.family in KEPT_WITHOUT_IMAGES


@cache
def synthesized(family: str, number: int) -> Synthesized:
    """The batch of that number, drawn at random."""
    dice = Random(f"{family} {number}")
    spec = draw(family_named(family), dice.randint).spec
    batch = make(spec)
    owned = {key: _owned(spec, key) for key in batch.layout.media}
    return Synthesized(family, spec.images_per_sample, dict(batch.inputs), owned, spec, batch)


def _owned(spec: Any, key: str) -> tuple[int, ...] | None:
    rows = owned_by_sample(spec, key)
    return None if rows is None else tuple(map(len, rows))


def pool(family: str, size: int = 20) -> Iterator[Synthesized]:
    """Batches of a layout family."""
    for number in range(size):
        yield synthesized(family, number)
