"""Generated batches: a slicer is checked on many small ones, made without a processor.

The batches hold what goes wrong in practice: text-only samples first, between and last, many
images, equal sizes (silent mismatches) and unequal ones, a short last chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from vlmdebug.batch import Batch
from vlmdebug.errors import MismatchError
from vlmdebug.families import BatchSpec, Family, family_named
from vlmdebug.families.read import assemble

Slicer = Callable[[Any, int], Iterable[Mapping[str, Any]]]


@dataclass(frozen=True)
class Verification:
    """How many generated batches and chunkings a slicer survived. Evidence, not a proof."""

    family: str
    batches: int
    checks: int

    def __str__(self) -> str:
        return f"{self.family}: right on {self.batches} generated batches, {self.checks} chunkings"


def verify(slicer: Slicer, family: str, *, batches: int = 50, seed: int = 0) -> Verification:
    """Check `slicer` on generated batches of `family`, every chunk size of each.

    Raises:
        MismatchError: The smallest batch of these that it cuts wrongly.
    """
    from vlmdebug.tracing.check import check

    checks = 0
    specs = sorted(generate(family_named(family), batches, seed), key=_size)
    for spec in specs:
        batch = make(spec)
        for chunk_size in range(1, len(batch) + 2):
            report = check(slicer, batch, chunk_size=chunk_size)
            checks += 1
            if not report.ok:
                try:
                    report.raise_for_mismatch()
                except MismatchError as error:
                    where = f"{spec}, chunk size {chunk_size}"
                    raise MismatchError(f"{where}:\n{error}", report) from report.error
    return Verification(family, len(specs), checks)


def generate(family: Family, count: int, seed: int = 0) -> Iterator[BatchSpec]:
    """`count` batch specifications: the corner cases first, then random ones."""
    small, large = family.sizes[0], family.sizes[-1]
    corners = [(1,), (0,), (0, 1), (1, 0), (2, 0, 1), (1, 1, 1), (0, 0), (2, 1), (1, 2, 1, 0)]
    for images in corners[:count]:
        total = sum(images)
        sizes = tuple(small if index % 2 else large for index in range(total))
        yield BatchSpec(family.name, images, sizes)
    random = Random(seed)
    for _ in range(count - len(corners)):
        images = tuple(random.choice((0, 1, 1, 2, 3)) for _ in range(random.randint(1, 6)))
        pool = family.sizes if random.random() < 0.6 else (random.choice(family.sizes),)
        yield BatchSpec(family.name, images, tuple(random.choice(pool) for _ in range(sum(images))))


def make(spec: BatchSpec) -> Batch:
    """The batch of this specification, with torch tensors."""
    import torch

    inputs, facts = family_named(spec.family).synthesize(spec)
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    return assemble(replace(facts, inputs=tensors), spec.family)


def _size(spec: BatchSpec) -> tuple[int, int, int]:
    return len(spec.images_per_sample), sum(spec.images_per_sample), sum(spec.sizes)
