"""What was held against what, as a report keeps it and its views say it in one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Compared:
    """One comparison: `what` was held against `against`; None where nothing is known to hold."""

    what: str
    against: str | None = None

    def __str__(self) -> str:
        return self.what if self.against is None else f"{self.what} against {self.against}"


def line(compared: Sequence[Compared]) -> str:
    """All comparisons in one line; empty where none is known, as in reports of older releases."""
    done = [str(one) for one in compared if one.against is not None]
    left = [str(one) for one in compared if one.against is None]
    parts = [f"Compared: {'; '.join(done) or 'nothing'}."] if compared else []
    return " ".join([*parts, *([f"Not compared: {'; '.join(left)}."] if left else [])])
