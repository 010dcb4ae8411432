"""The kinds of mismatch, each with a stable code, and what one of them says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vlmdebug.core.rows import Rows
from vlmdebug.core.wording import listed, number

CODES = {
    "VLM001": "wrong rows, a different number of them",
    "VLM002": "wrong rows, the same number of them",
    "VLM003": "key dropped",
    "VLM004": "key the model does not know",
    "VLM005": "key passed that must be absent",
    "VLM006": "samples skipped or repeated",
    "VLM007": "order of samples changed",
    "VLM008": "slicer raised",
    "VLM009": "placeholders and features of a chunk differ",
    "VLM010": "placeholders and features of the batch differ",
    "VLM011": "rows that are not in the batch",
    "VLM012": "could not be checked",
    "VLM013": "labels beside other tokens",
    "VLM014": "positions of other tokens",
    "VLM015": "samples of a packed row are mixed",
}
UNCHECKED = "VLM012"
"""What stands in front of each ambiguity of a report: no mismatch, and no OK."""

LOUDNESS = ("silent", "unknown", "loud")
"""Worst first."""
IN_FILES = {"expected": "planned", "actual": "used"}
"""Fields that have an older name in a report's file."""


@dataclass(frozen=True)
class Mismatch:
    """One key of one chunk that was not handed what it should have been.

    Attributes:
        code: Stable code, a key of `CODES`.
        message: What was given, what belongs there, what will happen, what to do.
        key: The key, where the mismatch is about one.
        chunk: Number of the chunk, from 0, where it is about one.
        samples: Samples of that chunk, or the samples concerned.
        expected: Rows of `key` that belong there; None where rows are not the matter.
        actual: Rows of `key` that were passed; -1 represents a row that is not in the batch.
        silent: False where the model would raise, True where it would not, None where that
            is not known.
        cause: What the slicer seems to have done, in a few words, where that could be read
            off the rows. Equal causes make one finding.

    `planned` and `used` are older names of `expected` and `actual`.
    """

    code: str
    message: str
    key: str | None = None
    chunk: int | None = None
    samples: tuple[int, ...] = ()
    expected: Rows | None = None
    actual: Rows | None = None
    silent: bool | None = None
    cause: str | None = None

    @property
    def planned(self) -> Rows | None:
        return self.expected

    @property
    def used(self) -> Rows | None:
        return self.actual

    @property
    def loudness(self) -> str:
        return {True: "silent", False: "loud", None: "unknown"}[self.silent]

    def __str__(self) -> str:
        return f"{self.code} {self.message}"

    def to_dict(self) -> dict[str, Any]:
        data = {IN_FILES.get(name, name): value for name, value in asdict(self).items()}
        return {**data, "planned": ranges(self.expected), "used": ranges(self.actual)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Mismatch:
        fields = {**data, "samples": tuple(data["samples"])}
        fields |= {name: from_ranges(fields.pop(old)) for name, old in IN_FILES.items()}
        return cls(**fields)


@dataclass(frozen=True)
class Finding:
    """Mismatches with one root cause, reported once.

    Attributes:
        code: Code of the mismatch that is shown.
        message: What the worst of them says, and how many there are.
        mismatches: All of them, in order.
    """

    code: str
    message: str
    mismatches: tuple[Mismatch, ...]

    @property
    def title(self) -> str:
        if {"VLM001", "VLM002"} <= {mismatch.code for mismatch in self.mismatches}:
            return "wrong rows"  # their number is wrong in some chunks only
        return CODES.get(self.code, "a kind of mismatch this version does not know")

    @property
    def worst(self) -> Mismatch:
        """The one that the message tells of: the first silent one, else unknown, else loud."""
        return min(self.mismatches, key=lambda mismatch: LOUDNESS.index(mismatch.loudness))

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(m.key for m in self.mismatches if m.key is not None))

    @property
    def chunks(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(m.chunk for m in self.mismatches if m.chunk is not None))

    @property
    def silent(self) -> bool | None:
        """True as soon as one chunk would be wrong in silence: that is the worst case."""
        said = {m.silent for m in self.mismatches}
        return True if True in said else (None if None in said else False)

    @property
    def loudness(self) -> str:
        """`silent`, `loud`, or how many chunks are which."""
        by_chunk: dict[int | None, str] = {}
        for mismatch in sorted(self.mismatches, key=lambda m: LOUDNESS.index(m.loudness)):
            by_chunk.setdefault(mismatch.chunk, mismatch.loudness)
        words = list(by_chunk.values())
        if len(set(words)) == 1:
            return words[0]
        return ", ".join(
            f"{word} in {number(words.count(word), 'chunk')}" for word in LOUDNESS if word in words
        )


def group(
    mismatches: Sequence[Mismatch],
    media: Collection[str] = (),
    layout: Mapping[str, str] | None = None,
) -> tuple[Finding, ...]:
    """One finding per root cause, worst first.

    `media` names the keys of images and clips, `layout` what a row of each key counts, in words.

    Silent wrong images come first, then what else is silent, then unknown, then loud. An
    exception of the slicer comes last: it hides whatever the later chunks would have shown.
    """
    groups: dict[tuple[str, ...], list[Mismatch]] = {}
    for mismatch in mismatches:
        groups.setdefault(_root(mismatch), []).append(mismatch)
    findings = [_finding(members, layout or {}) for members in groups.values()]
    return tuple(sorted(findings, key=lambda finding: _rank(finding, media)))


def _rank(finding: Finding, media: Collection[str]) -> int:
    if finding.code == "VLM008":
        return 4
    if finding.silent:
        return 0 if any(m.silent and m.key in media for m in finding.mismatches) else 1
    return 3 if finding.silent is False else 2


def _root(mismatch: Mismatch) -> tuple[str, ...]:
    """What mismatches of one root cause share."""
    if mismatch.cause is not None:
        return ("cause", mismatch.cause)
    if mismatch.code in ("VLM001", "VLM002"):
        return ("rows",)
    return (mismatch.code,)


def _finding(members: list[Mismatch], layout: Mapping[str, str]) -> Finding:
    worst = Finding("", "", tuple(members)).worst
    chunks = list(dict.fromkeys(m.chunk for m in members if m.chunk is not None))
    also = []
    by_key: dict[str, str] = {}
    for member in sorted(members, key=lambda m: LOUDNESS.index(m.loudness)):
        if member.key not in (None, worst.key):
            by_key.setdefault(str(member.key), member.loudness)
    for loudness in LOUDNESS if worst.code != "VLM004" else ():
        others = [_with_unit(k, worst, layout) for k, own in by_key.items() if own == loudness]
        said = "The same with" if loudness == worst.loudness else f"{loudness.capitalize()} with"
        also += [f"{said} {' and '.join(others)}."] if others else []
    if len(chunks) > 1:
        also.append(f"In chunks {listed(chunks)}.")
    message = "\n".join([worst.message, *([" ".join(also)] if also else [])])
    return Finding(worst.code, message, tuple(members))


def _with_unit(key: str, shown: Mismatch, layout: Mapping[str, str]) -> str:
    """A key with the same fault, and what its rows count, if it is cut by other rows."""
    unit, by_rows = layout.get(key), shown.code in ("VLM001", "VLM002")
    other = by_rows and unit is not None and unit != layout.get(shown.key or "")
    return f"{key} ({unit})" if other else key


def ranges(rows: Rows | None) -> list[list[int]] | None:
    """Rows as JSON has them."""
    return None if rows is None else [list(pair) for pair in rows.ranges]


def from_ranges(data: list[list[int]] | None) -> Rows | None:
    """Rows from what `ranges` gave."""
    return None if data is None else Rows((start, stop) for start, stop in data)
