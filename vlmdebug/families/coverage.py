"""Which architectures of transformers are covered, how well, and why others are not.

`coverage.json` is written by `make coverage`, which builds and runs every architecture of the
image-text-to-text mapping; here it is only read. The file also holds the outcomes and keys of the
release that was run before, so that a new release shows what changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from vlmdebug.families.base import Family
from vlmdebug.families.release import has_model, installed, version

FILE = Path(__file__).parent / "coverage.json"


@dataclass(frozen=True)
class Outcomes:
    """What is compared between two releases.

    Attributes:
        transformers: The release that was run.
        outcomes: `proven (llava)`, `probed` or `not covered`, by architecture.
        keys: The keys of a batch with images, by architecture with a processor that was run.
    """

    transformers: str
    outcomes: Mapping[str, str]
    keys: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class OtherModel:
    """One model of audio or retrieval, which is in another mapping of transformers.

    Attributes:
        task: `audio and text` or `retrieval`.
        axes: What a row of each media key counts; empty if it was not run.
        call: The call of `read_batch` that reads its batches.
        why: Why it is not proven; None if it is.
    """

    task: str
    axes: Mapping[str, str]
    call: str
    why: str | None


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
        still: For each architecture that is not proven, the call of `read_batch` that works for its
            batches.
        keys: The keys of a batch with images, by architecture that was proven or probed.
        others: Models of audio and of retrieval, by name.
        before: The release that was run before.
    """

    transformers: str
    proven: Mapping[str, str]
    probed: Mapping[str, tuple[Mapping[str, str], str]]
    not_covered: Mapping[str, str]
    still: Mapping[str, str]
    keys: Mapping[str, Sequence[str]]
    others: Mapping[str, OtherModel]
    before: Outcomes

    def __str__(self) -> str:
        total = len(self.proven) + len(self.probed) + len(self.not_covered)
        return (
            f"Of the {total} image-text-to-text architectures of transformers {self.transformers}, "
            f"{len(self.proven)} are proven, {len(self.probed)} probed, "
            f"{len(self.not_covered)} not covered."
        )

    @property
    def outcomes(self) -> Outcomes:
        found = {
            **{name: f"proven ({layout})" for name, layout in self.proven.items()},
            **dict.fromkeys(self.probed, "probed"),
            **dict.fromkeys(self.not_covered, "not covered"),
        }
        return Outcomes(self.transformers, found, self.keys)

    def changes(self) -> list[str]:
        """One sentence per architecture that is new, gone or has another outcome or other keys."""
        return changes(self.before, self.outcomes)


def changes(before: Outcomes, now: Outcomes) -> list[str]:
    """What differs between two releases, by architecture."""
    old, new = before.outcomes, now.outcomes
    lines = [f"{name} is new: {new[name]}." for name in sorted(new.keys() - old.keys())]
    lines += [f"{name} is gone; it was {old[name]}." for name in sorted(old.keys() - new.keys())]
    for name in sorted(old.keys() & new.keys()):
        if old[name] != new[name]:
            lines.append(f"{name} was {old[name]} and is {new[name]}.")
    for name in sorted(before.keys.keys() & now.keys.keys()):
        added = [key for key in now.keys[name] if key not in before.keys[name]]
        lost = [key for key in before.keys[name] if key not in now.keys[name]]
        if added or lost:
            said = [f"{verb} {', '.join(keys)}" for verb, keys in _verbs(added, lost) if keys]
            lines.append(f"{name} {' and '.join(said)}.")
    return lines


def _verbs(added: list[str], lost: list[str]) -> tuple[tuple[str, list[str]], ...]:
    return ("also returns", added), ("no longer returns", lost)


def seen_here(coverage: Coverage, families: Iterable[Family]) -> str:
    """What is known of the installed release of transformers."""
    release = version()
    if release is None:
        return (
            "transformers is not installed. Batches are read and slicers judged by the rules of "
            f"transformers {coverage.transformers}."
        )
    known = [(family, name) for family in families for name in family.models if has_model(name)]
    seen = [
        name
        for family, name in known
        if installed() in family.variants.get(name, family.rules).seen
    ]
    said = (
        f"transformers {release} is installed. It has {len(known)} of the architectures with a "
        f"known layout; whether a wrong call raises is predicted for {len(seen)} of them."
    )
    if release != coverage.transformers:
        said += f" What follows was run with {coverage.transformers}, not with {release}."
    return said


@cache
def read_coverage() -> Coverage:
    """The coverage recorded for this release."""
    found = json.loads(FILE.read_text(encoding="utf-8"))
    return Coverage(
        found["transformers"],
        found["proven"],
        {name: (axes, reason) for name, (axes, reason) in found["probed"].items()},
        found["not covered"],
        found["what you can still do"],
        found["keys"],
        {name: OtherModel(*one) for name, one in found["other tasks"].items()},
        Outcomes(**found["before"]),
    )
