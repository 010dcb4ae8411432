"""Which architectures of transformers are covered, how well, and why others are not.

`coverage.json` is written by `make coverage`, which builds and runs every architecture of the
image-text-to-text mapping; here it is only read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).parent / "coverage.json"


@dataclass(frozen=True)
class Coverage:
    """What one run of `make coverage` found.

    Attributes:
        transformers: The release that was run.
        proven: Layout family of each architecture that was built as a tiny model and gave the same
            logits for chunks as for the whole batch.
        probed: For each architecture with a processor that was built and probed: what a row of each
            media key counts, and why the model was not proven.
        not_covered: For every other architecture, why nothing was run.
    """

    transformers: str
    proven: Mapping[str, str]
    probed: Mapping[str, tuple[Mapping[str, str], str]]
    not_covered: Mapping[str, str]

    def __str__(self) -> str:
        total = len(self.proven) + len(self.probed) + len(self.not_covered)
        return (
            f"Of the {total} image-text-to-text architectures of transformers {self.transformers}, "
            f"{len(self.proven)} are proven, {len(self.probed)} probed, "
            f"{len(self.not_covered)} not covered."
        )


@cache
def read_coverage() -> Coverage:
    """The coverage recorded for this release."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    return Coverage(
        found["transformers"],
        found["proven"],
        {name: (axes, reason) for name, (axes, reason) in found["probed"].items()},
        found["not covered"],
    )
