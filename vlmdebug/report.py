"""The result of a check, as plain data.

A report made on a cluster opens on a laptop without torch: it holds row numbers and words,
no tensor. How it looks as text, HTML or a figure is the business of `vlmdebug.views`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdebug.compared import Compared
from vlmdebug.errors import AmbiguousError, BadInput, MismatchError
from vlmdebug.mismatch import Finding, Mismatch, from_ranges, group, ranges
from vlmdebug.plan import Rows
from vlmdebug.scene import Scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMAT = 1


@dataclass(frozen=True)
class KeyReport:
    """One key of one chunk: the rows planned and the rows used.

    `state` is a word: `ok`, `absent` (rightly), `wrong rows`, `dropped`, `must be absent`,
    `unknown key`, `cannot tell`, or `planned` where no slicer ran. `used` is None where the
    key was not handed over or its rows cannot be told.
    """

    state: str
    planned: Rows | None
    used: Rows | None

    @property
    def ok(self) -> bool:
        return self.state in ("ok", "absent", "planned")


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
class Report:
    """What a check found. `report.ok` is True only when all was checked and all was right.

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
    error: BaseException | None = field(default=None, compare=False, repr=False)

    @property
    def ok(self) -> bool:
        return self.verdict == "OK"

    @property
    def samples(self) -> int:
        return len(self.counts["sample"])

    @property
    def verdict(self) -> str:
        """`OK`, `MISMATCH` or, where something or all could not be checked, `AMBIGUOUS`."""
        if self.mismatches:
            return "MISMATCH"
        nothing = self.compared and all(one.against is None for one in self.compared)
        return "AMBIGUOUS" if self.ambiguities or nothing else "OK"

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """The mismatches by root cause, worst first: silent wrong images before all others."""
        tokens = ("not cut", "one row per sample", "one row per sample on dim 1")
        media = {key for key, words in self.layout.items() if words not in tokens}
        return group(self.mismatches, media)

    def raise_for_mismatch(self) -> None:
        """Raise if the check did not come out OK.

        Raises:
            MismatchError: Something was wrong.
            AmbiguousError: Nothing was seen to be wrong, but not all could be checked.
        """
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
            "counts": {unit: list(count) for unit, count in self.counts.items()},
            "evidence": dict(self.evidence),
            "chunk_size": self.chunk_size,
            "chunks": [_chunk_to_dict(chunk) for chunk in self.chunks],
            "mismatches": [mismatch.to_dict() for mismatch in self.mismatches],
            "ambiguities": list(self.ambiguities),
            "compared": [asdict(one) for one in self.compared],
            **({"scene": self.scene.to_dict()} if self.scene else {}),
        }

    @classmethod
    def from_dict(cls, data: Any) -> Report:
        if not isinstance(data, dict) or data.get("vlmdebug_report") != FORMAT:
            raise BadInput(
                f"This is no report that vlmdebug wrote (format {FORMAT} was expected). "
                "Write one with report.to_json(path)."
            )
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
        )

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON; written to `path` too, if one is given."""
        text = json.dumps(self.to_dict(), indent=1)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Report:
        """Read back what `to_json` wrote: a path, or the JSON text itself.

        Raises:
            BadInput: The file or text is no report.
        """
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
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"This is no report that vlmdebug wrote: {error}. "
                "Write one with report.to_json(path)."
            ) from error

    # Views are loaded when asked for, so that a report itself stays light.

    def __str__(self) -> str:
        from vlmdebug.views.text import to_text

        return to_text(self)

    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained HTML page; written to `path` too, if one is given."""
        from vlmdebug.views.html import to_page

        page = to_page(self)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8", errors="backslashreplace")
        return page

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw planned against used rows with matplotlib; returns the Axes."""
        from vlmdebug.views.plot import plot

        return plot(self, ax)

    def plot_layout(self, ax: Axes | None = None, *, chunk: int | None = None) -> Axes:
        """Draw what each tensor counts, or one chunk's cut; needs `check(..., pictures=True)`."""
        from vlmdebug.views.plot import plot_lanes

        return plot_lanes(self, ax, chunk=chunk)

    def plot_map(self, ax: Axes | None = None) -> Axes:
        """Draw chunk against key, for many chunks; returns the Axes."""
        from vlmdebug.views.plot import plot_map

        return plot_map(self, ax)

    def __rich__(self) -> Any:
        from vlmdebug.views.text import to_rich

        return to_rich(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from vlmdebug.views import mimebundle

        return mimebundle(self)


def _chunk_to_dict(chunk: ChunkReport) -> dict[str, Any]:
    keys = {
        key: {"state": k.state, "planned": ranges(k.planned), "used": ranges(k.used)}
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
        key: KeyReport(k["state"], from_ranges(k["planned"]), from_ranges(k["used"]))
        for key, k in data["keys"].items()
    }
    return ChunkReport(**{**data, "samples": tuple(data["samples"]), "keys": keys})
