"""The result of a check, as plain data.

A record made on a cluster opens on a laptop without torch: it holds row numbers and words,
no tensor. `vlmdebug.views` draws it; `vlmdebug.Report` is the record with its views.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdebug.core.given import described, public
from vlmdebug.core.layout import Axis, axis_of
from vlmdebug.core.mismatch import Finding, Mismatch, from_ranges, group, ranges
from vlmdebug.core.packed_row import PackedRow
from vlmdebug.core.rows import Rows
from vlmdebug.core.saved import checked
from vlmdebug.core.scene import Scene
from vlmdebug.errors import AmbiguousError, BadInput, MismatchError
from vlmdebug.safe import acts, spell_names

if TYPE_CHECKING:
    from typing import Self  # from Python 3.11 on

FORMAT = 1


class Word(str, Enum):
    """A word of a report: equal to its text, and printed as that.

    `enum.StrEnum` needs Python 3.11.
    """

    __str__ = str.__str__
    __format__ = str.__format__

    def __repr__(self) -> str:
        return repr(self.value)


class Verdict(Word):
    """What a check came to."""

    OK = "OK"
    MISMATCH = "MISMATCH"
    AMBIGUOUS = "AMBIGUOUS"


class KeyState(Word):
    """What is known of one key of one chunk.

    `ABSENT`: it must be, and is. `PLANNED`: no slicer ran.
    """

    OK = "ok"
    ABSENT = "absent"
    PLANNED = "planned"
    WRONG_ROWS = "wrong rows"
    DROPPED = "dropped"
    MUST_BE_ABSENT = "must be absent"
    UNKNOWN_KEY = "unknown key"
    CANNOT_TELL = "cannot tell"


GOOD = frozenset({KeyState.OK, KeyState.ABSENT, KeyState.PLANNED})


@dataclass(frozen=True)
class KeyReport:
    """One key of one chunk: the rows expected and the rows that it got.

    `state` is a `KeyState`, or a word that this version does not know, from a report of a newer
    one. `actual` is None where the key was not passed or its rows could not be identified;
    `planned` and `used` are older names of the two.
    """

    state: KeyState | str
    expected: Rows | None
    actual: Rows | None

    @property
    def ok(self) -> bool:
        return self.state in GOOD

    @property
    def planned(self) -> Rows | None:
        return self.expected

    @property
    def used(self) -> Rows | None:
        return self.actual


@dataclass(frozen=True)
class ChunkReport:
    """One chunk: its samples, what they own, and every key.

    `images`, `placeholders` and `features` are None where they cannot be known. `features`
    counts what the model would make of the rows *used*.
    """

    samples: tuple[int, ...]
    images: int | None
    placeholders: int | None
    features: int | None
    keys: Mapping[str, KeyReport]


@dataclass(frozen=True)
class Compared:
    """One comparison: `what` was held against `against`; None where nothing is known to hold.

    `beyond`: no batch of this layout has anything to compare it with, so no verdict depends on it.
    """

    what: str
    against: str | None = None
    beyond: bool = False

    def __str__(self) -> str:
        return self.what if self.against is None else f"{self.what} against {self.against}"


def keys_with_only(chunks: Iterable[ChunkReport], *states: KeyState) -> set[str]:
    """Keys that have no other state than these in any chunk."""
    found = [(key, one.state) for chunk in chunks for key, one in chunk.keys.items()]
    return {key for key, _ in found} - {key for key, state in found if state not in states}


def line(compared: Sequence[Compared]) -> str:
    """All comparisons in one line; empty where none is known, as in reports of older releases."""
    done = [str(one) for one in compared if one.against is not None]
    left = [str(one) for one in compared if one.against is None and not one.beyond]
    parts = [f"Compared: {'; '.join(done) or 'nothing'}."] if compared else []
    return " ".join([*parts, *([f"Not compared: {'; '.join(left)}."] if left else [])])


@dataclass(frozen=True)
class Record:
    """What a check found. `ok` is True only when all was checked and all was right.

    Attributes:
        family: The layout family's name.
        layout: What a row of each key counts, in words, by key.
        counts: Rows per sample by unit, such as `{"image": (2, 0, 1)}`.
        evidence: How each count is known.
        chunk_size: Samples per chunk; None where the batch was checked alone.
        chunks: Every chunk, in the order in which the slicer gave them.
        mismatches: Every detail.
        ambiguities: What could not be checked, and what would settle it.
        slicer: The slicer's name.
        compared: What was held against what, and what was not.
        scene: What stands in the rows, where the report is to be drawn with its images.
        kinds: Kind of each key, `media`, `tokens` or `whole` (not cut).
        axes: What a row of each key counts, as data: unit and dimension.
        packed: Rows of `input_ids` that hold several samples, in the order of the calls.
    """

    family: str
    layout: Mapping[str, str]
    counts: Mapping[str, tuple[int, ...]]
    evidence: Mapping[str, str]
    chunk_size: int | None
    chunks: tuple[ChunkReport, ...]
    mismatches: tuple[Mismatch, ...] = ()
    ambiguities: tuple[str, ...] = ()
    slicer: str | None = None
    scene: Scene | None = field(default=None, repr=False)
    compared: tuple[Compared, ...] = field(default=(), repr=False)
    kinds: Mapping[str, str] = field(default_factory=dict, repr=False)
    axes: Mapping[str, Axis] = field(default_factory=dict, repr=False)
    packed: tuple[PackedRow, ...] = field(default=(), repr=False)
    error: BaseException | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Names that would act in a log are spelled out in every message; `key` stays the name."""
        if not self.axes:  # made by hand, or read from a file of an older version
            axes = {key: axis_of(words) for key, words in self.layout.items()}
            object.__setattr__(self, "axes", axes)
        if not self.kinds:
            kinds = {key: _kind(axis) for key, axis in self.axes.items()}
            object.__setattr__(self, "kinds", kinds)
        names = set(self.layout).union(*(chunk.keys for chunk in self.chunks))
        names |= {mismatch.key for mismatch in self.mismatches if mismatch.key is not None}
        if not any(map(acts, names)):
            return
        said = tuple(replace(m, message=spell_names(m.message, names)) for m in self.mismatches)
        object.__setattr__(self, "mismatches", said)
        doubts = tuple(spell_names(text, names) for text in self.ambiguities)
        object.__setattr__(self, "ambiguities", doubts)

    @property
    def ok(self) -> bool:
        return self.verdict is Verdict.OK

    @property
    def samples(self) -> int:
        return len(self.counts["sample"])

    @property
    def verdict(self) -> Verdict:
        """`OK`, `MISMATCH` or, where something or all could not be checked, `AMBIGUOUS`."""
        if self.mismatches:
            return Verdict.MISMATCH
        nothing = self.compared and all(one.against is None for one in self.compared)
        return Verdict.AMBIGUOUS if self.ambiguities or nothing else Verdict.OK

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """The mismatches by root cause, worst first: silent wrong images before all others."""
        media = {key for key, kind in self.kinds.items() if kind == "media"}
        return group(self.mismatches, media, self.layout)

    @cached_property
    def offsets(self) -> Mapping[str, tuple[int, ...]]:
        """First row of each sample, and the number of all rows, by unit."""
        return {unit: (0, *accumulate(count)) for unit, count in self.counts.items()}

    def raise_for_mismatch(self) -> None:
        """Raise if the check did not come out OK.

        Raises:
            MismatchError: Something was wrong.
            AmbiguousError: Nothing was seen to be wrong, but not all could be checked.
        """
        __tracebackhide__ = True  # pytest shows the message, not these lines
        if self.mismatches:
            text = "\n\n".join(f"{f.code} {f.title}: {f.message}" for f in self.findings)
            raise MismatchError(text, report=self)
        if self.ambiguities:
            raise AmbiguousError("\n".join(self.ambiguities))

    def to_dict(self) -> dict[str, Any]:
        return {
            "vlmdebug_report": FORMAT,
            "family": self.family,
            "slicer": self.slicer,
            "layout": dict(self.layout),
            "kinds": dict(self.kinds),
            "axes": {key: _axis_to_dict(axis) for key, axis in self.axes.items()},
            "counts": {unit: list(count) for unit, count in self.counts.items()},
            "evidence": dict(self.evidence),
            "chunk_size": self.chunk_size,
            "chunks": [_chunk_to_dict(chunk) for chunk in self.chunks],
            "mismatches": [mismatch.to_dict() for mismatch in self.mismatches],
            "ambiguities": list(self.ambiguities),
            "compared": [asdict(one) for one in self.compared],
            **({"packed": [row.to_dict() for row in self.packed]} if self.packed else {}),
            **({"scene": self.scene.to_dict()} if self.scene else {}),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        if not isinstance(data, dict) or data.get("vlmdebug_report") != FORMAT:
            raise BadInput(
                f"This is not a report that vlmdebug wrote (format {FORMAT} was expected). "
                "Write one with report.to_json(path)."
            )
        data = checked(data)
        return cls(
            family=data["family"],
            slicer=data["slicer"],
            layout=data["layout"],
            counts={unit: tuple(count) for unit, count in data["counts"].items()},
            evidence=data["evidence"],
            chunk_size=data["chunk_size"],
            chunks=tuple(_chunk_from_dict(chunk) for chunk in data["chunks"]),
            mismatches=tuple(Mismatch.from_dict(mismatch) for mismatch in data["mismatches"]),
            ambiguities=tuple(data["ambiguities"]),
            compared=tuple(Compared(**one) for one in data.get("compared", ())),
            scene=Scene.from_dict(data["scene"]) if "scene" in data else None,
            kinds=dict(data.get("kinds", {})),
            axes={key: Axis(**axis) for key, axis in data.get("axes", {}).items()},
            packed=tuple(PackedRow.from_dict(row) for row in data.get("packed", ())),
        )

    @public
    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON; written to `path` too, if one is given."""
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Self:
        """Read back what `to_json` wrote: a path, or the JSON text itself.

        Raises:
            BadInput: The file or text is no report.
        """
        if not isinstance(source, (str, Path)):
            raise BadInput(
                f"source is {described(source)}, but it is a path or JSON text. "
                "Pass what report.to_json wrote."
            )
        text = str(source)
        if not text.lstrip().startswith("{"):
            try:
                text = Path(source).read_text(encoding="utf-8")
            except (OSError, ValueError) as error:  # no such file, no name of one, no text in it
                raise BadInput(
                    f"{text[:200]!r} is neither a file nor JSON. Pass what report.to_json wrote."
                ) from error
        try:
            return cls.from_dict(json.loads(text))
        except BadInput:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise BadInput(
                f"This is not a report that vlmdebug wrote: {error}. "
                "Write one with report.to_json(path)."
            ) from error


def _kind(axis: Axis) -> str:
    """The kind of a key with this axis, as far as the axis alone determines it."""
    if axis.unit == "batch":
        return "whole"
    return "tokens" if axis.unit == "sample" and axis.padded is None else "media"


def _axis_to_dict(axis: Axis) -> dict[str, Any]:
    padded = {} if axis.padded is None else {"padded": axis.padded}
    return {"unit": axis.unit, "dim": axis.dim, **padded}


def _chunk_to_dict(chunk: ChunkReport) -> dict[str, Any]:
    keys = {
        key: {"state": k.state, "planned": ranges(k.expected), "used": ranges(k.actual)}
        for key, k in chunk.keys.items()
    }
    return {
        "samples": list(chunk.samples),
        "images": chunk.images,
        "placeholders": chunk.placeholders,
        "features": chunk.features,
        "keys": keys,
    }


def _chunk_from_dict(data: dict[str, Any]) -> ChunkReport:
    keys = {
        key: KeyReport(_state(k["state"]), from_ranges(k["planned"]), from_ranges(k["used"]))
        for key, k in data["keys"].items()
    }
    return ChunkReport(**{**data, "samples": tuple(data["samples"]), "keys": keys})


def _state(word: str) -> KeyState | str:
    """The state that a word of a file means; the word itself if no such state is known."""
    try:
        return KeyState(word)
    except ValueError:
        return word
