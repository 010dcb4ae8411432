"""What every view says of chunks, so that text, Markdown, HTML and figures say the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from vlmdebug.core.layout import plural
from vlmdebug.core.mismatch import CODES, Finding
from vlmdebug.core.record import (
    ChunkReport,
    KeyReport,
    KeyState,
    Record,
    Verdict,
    keys_with_only,
    line,
)
from vlmdebug.core.rows import Rows
from vlmdebug.views.marks import LEFT_OUT, marks

MOST_KEYS = 8
FEW = 12
"""Chunks that are all listed, right ones too."""
EXAMPLES = 2
"""Right chunks that are listed of many."""
MOST_NUMBERS = 16


@dataclass(frozen=True)
class Line:
    """One chunk of a report with its verdict.

    `silent` is as in `Mismatch`, for the worst of the chunk's mismatches; `also_loud` says that
    others of a silent one are loud. In a report on a batch alone each line is a sample.
    """

    index: int
    chunk: ChunkReport
    verdict: Verdict
    silent: bool | None = None
    also_loud: bool = False

    @property
    def ok(self) -> bool:
        return self.verdict is Verdict.OK

    @property
    def words(self) -> str:
        """`ok`, `MISMATCH silent`, `MISMATCH loud`, `MISMATCH`, `cannot tell`."""
        if self.verdict is not Verdict.MISMATCH:
            return self.short
        return self.verdict if self.silent is None else f"{self.verdict} {self.short}"

    @property
    def short(self) -> str:
        """`ok`, `silent`, `silent and loud`, `loud`, `mismatch`, `cannot tell`."""
        if self.verdict is not Verdict.MISMATCH:
            return KeyState.OK if self.ok else KeyState.CANNOT_TELL
        if self.also_loud:
            return "silent and loud"
        return {True: "silent", False: "loud", None: "mismatch"}[self.silent]

    @property
    def rank(self) -> int:
        """Silent mismatches first: no exception will tell of them."""
        if self.verdict is not Verdict.MISMATCH:
            return 4 if self.ok else 3
        return {True: 0, None: 1, False: 2}[self.silent]


def headline(report: Record) -> str:
    """`by_sample on gemma4, 3 samples in chunks of 1: MISMATCH`."""
    return f"{subject(report)}: {report.verdict}"


def subject(report: Record) -> str:
    """`by_sample on gemma4, 3 samples in chunks of 1`."""
    samples = _number(report.samples, "sample")
    if report.chunk_size is None:
        return f"{report.family} batch, {samples}"
    slicer = report.slicer or "slicer"
    return f"{slicer} on {report.family}, {samples} in chunks of {report.chunk_size}"


def count_lines(report: Record) -> list[str]:
    """`images per sample 2 0 1 (from num_images)`, one line per unit, and what was compared."""
    lines = []
    for unit, counts in report.counts.items():
        if unit == "sample":
            continue
        shown = " ".join(map(str, counts[:MOST_NUMBERS]))
        more = f" … {sum(counts)} in all" if len(counts) > MOST_NUMBERS else ""
        source = report.evidence.get(unit, "?")
        lines.append(f"{plural(unit)} per sample {shown}{more} (from {source})")
    said = line(report.compared)
    return [*lines, said] if said else lines


def title(finding: Finding) -> str:
    """The title of a finding's code, also for codes of newer versions."""
    return finding.title if finding.code in CODES else "a kind this version does not know"


def chunk_verdicts(report: Record) -> list[Line]:
    """Every chunk with its verdict, in the report's order."""
    said: dict[int, set[bool | None]] = {}
    for mismatch in report.mismatches:
        for index in _concerned(report, mismatch.chunk, mismatch.code, mismatch.samples):
            said.setdefault(index, set()).add(mismatch.silent)
    lines = [_line(index, chunk, said.get(index)) for index, chunk in enumerate(report.chunks)]
    open_ones = (one for one in report.compared if one.against is None and not one.beyond)
    if report.chunk_size is None and any(open_ones):
        return [replace(line, verdict=Verdict.AMBIGUOUS) if line.ok else line for line in lines]
    return lines


def _concerned(
    report: Record, chunk: int | None, code: str, samples: Sequence[int]
) -> Iterable[int]:
    """Chunks a mismatch is about; one of the batch itself is about those with its samples."""
    if chunk is not None:
        return (chunk,)
    if code != "VLM010":
        return ()
    wanted = set(samples)
    return (i for i, c in enumerate(report.chunks) if wanted.intersection(c.samples))


def _line(index: int, chunk: ChunkReport, silents: set[bool | None] | None) -> Line:
    if silents:
        worst = next(s for s in (True, None, False) if s in silents)
        return Line(index, chunk, Verdict.MISMATCH, worst, also_loud={True, False} <= silents)
    wrong = {key.state for key in chunk.keys.values() if not key.ok}
    if not wrong:
        return Line(index, chunk, Verdict.OK)
    unsure = wrong == {KeyState.CANNOT_TELL}
    return Line(index, chunk, Verdict.AMBIGUOUS if unsure else Verdict.MISMATCH)


def visible_chunks(report: Record, most: int) -> tuple[list[Line], list[Line]]:
    """At most `most` chunks, and those that are left out.

    All of them in order where they are few; else the worst ones, worst first, and `EXAMPLES` that
    are right.
    """
    lines = chunk_verdicts(report)
    if len(lines) <= min(most, FEW):
        return lines, []
    ranked = sorted(lines, key=lambda line: line.rank)
    wrong = sum(not line.ok for line in lines)
    shown = min(most, wrong + EXAMPLES)
    return ranked[:shown], ranked[shown:]


def omitted_note(report: Record, left: Sequence[Line]) -> str:
    """`… 52 more chunks, all ok: 0:11, 13:54`; empty where none is left out."""
    right = Rows.of([line.index for line in left if line.ok])
    wrong = len(left) - len(right)
    said = []
    if wrong:
        are = "is" if wrong == 1 else "are"
        said.append(f"… {wrong} more {plural_of(report, wrong)} that {are} not ok")
    if right:
        more = plural_of(report, len(right))
        runs = f"{Rows(right.ranges[:4])}{' …' if len(right.ranges) > 4 else ''}"
        said.append(f"… {len(right)} more {more}, all ok: {runs}")
    return "; ".join(said)


def plural_of(report: Record, count: int) -> str:
    """`chunk`, `chunks`, or for a batch alone `sample`, `samples`."""
    noun = "chunk" if report.chunk_size is not None else "sample"
    return noun if count == 1 else f"{noun}s"


def column_groups(report: Record) -> list[tuple[str, ...]]:
    """Keys worth a column, those with the same rows together.

    Keys that are not right everywhere; where all are, the media keys.
    """
    wrong = [key for key in keys(report) if any(not state(c, key).ok for c in report.chunks)]
    groups: dict[tuple[object, ...], list[str]] = {}
    for key in wrong or media(report):
        same = tuple(_rows_of(state(chunk, key)) for chunk in report.chunks)
        groups.setdefault(same, []).append(key)
    return [tuple(group) for group in groups.values()]


def _rows_of(found: KeyReport) -> tuple[object, ...]:
    """What makes two keys of a chunk read the same in a table."""
    return found.ok, found.state == KeyState.DROPPED, found.expected or None, found.actual or None


def keys(report: Record) -> list[str]:
    """Every key of any chunk."""
    return list(dict.fromkeys(key for chunk in report.chunks for key in chunk.keys))


def media(report: Record) -> list[str]:
    """Keys with rows of images, videos or audio clips, which are not cut like `input_ids`."""
    return [key for key in keys(report) if kind(report, key) == "media"]


def kind(report: Record, key: str) -> str:
    """`media`, `tokens` or `whole`; `media` for a key that the layout does not know."""
    return report.kinds.get(key, "media")


def opening(report: Record) -> int:
    """The chunk that a picture opens on: of the worst finding, silent ones before loud ones."""
    lines = chunk_verdicts(report)
    for finding in report.findings:
        worst = finding.worst
        if worst.chunk is not None and 0 <= worst.chunk < len(lines):
            return worst.chunk
        about = [line.index for line in lines if set(worst.samples) & set(line.chunk.samples)]
        if worst.code == "VLM007":
            return _turned(lines)
        if worst.chunk is None and about:
            return about[0]
    return min(lines, key=lambda line: line.rank).index if lines else 0


def _turned(lines: Sequence[Line]) -> int:
    """The first chunk with a sample that comes before an earlier chunk's."""
    last = -1
    for one in lines:
        if one.chunk.samples and min(one.chunk.samples) < last:
            return one.index
        last = max([last, *one.chunk.samples])
    return 0


def right(report: Record) -> str:
    """`input_ids, attention_mask: right in every chunk`; empty where no key is."""
    if report.chunk_size is None:
        return ""
    chunks, left = report.chunks, keys_with_only(report.chunks, KeyState.ABSENT)
    names = [key for key in keys(report) if all(state(c, key).ok for c in chunks)]
    names = [key for key in names if key not in left]
    more = f" and {len(names) - 16} more" if len(names) > 16 else ""
    return f"{', '.join(names[:16])}{more}: right in every chunk" if names else ""


def cell(found: KeyReport) -> str:
    """The marks in words: `1:2, not 2:3`, `0:1, 1:40 missing`, and `2:3` where all is right."""
    used, expected = short(found.actual), short(found.expected)
    if found.state == KeyState.WRONG_ROWS:
        marked = marks(found)
        if found.expected == found.actual:
            return f"{used}, altered"
        if marked.missing and marked.passed and not (marked.foreign or marked.note):
            return f"{short(marked.passed)}, {short(marked.missing)} missing"
        return f"{used}, not {expected}" if found.expected else f"{used}, but owns none"
    cells: dict[str, str] = {
        KeyState.OK: used,
        KeyState.PLANNED: expected,
        KeyState.DROPPED: f"dropped, {expected} missing" if found.expected else "dropped",
        KeyState.MUST_BE_ABSENT: f"{used if found.actual else '0 rows'}; {LEFT_OUT}",
    }
    return cells.get(found.state, found.state)


def state(chunk: ChunkReport, key: str) -> KeyReport:
    """What is known of the key in that chunk."""
    return chunk.keys.get(key) or KeyReport(KeyState.ABSENT, None, None)


def short(rows: Rows | None, most: int = 2) -> str:
    """Row ranges, at most `most` of them."""
    if rows is None:
        return "?"
    if not rows.ranges:
        return "none"
    shown = str(Rows(rows.ranges[:most]))
    return f"{shown} … {len(rows)} rows" if len(rows.ranges) > most else shown


def facts(report: Record, line: Line) -> list[str]:
    """Cells under `fact_heads`: the chunk's number and samples, then its three counts."""
    chunk = line.chunk
    counts = [
        "?" if n is None else str(n) for n in (chunk.images, chunk.placeholders, chunk.features)
    ]
    samples = _samples(chunk)
    return [samples, *counts] if report.chunk_size is None else [str(line.index), samples, *counts]


def fact_heads(report: Record) -> list[str]:
    """Heads of the columns before the keys."""
    one = all(len(chunk.samples) == 1 for chunk in report.chunks)
    heads = ["sample" if one else "samples", "images", "placeholders", "features"]
    return heads if report.chunk_size is None else ["chunk", *heads]


def _samples(chunk: ChunkReport) -> str:
    if len(chunk.samples) == 1:
        return str(chunk.samples[0])
    return short(Rows.of(chunk.samples))


def _number(count: int, noun: str) -> str:
    return f"{count} {noun if count == 1 else plural(noun)}"


def is_known(found: KeyReport) -> bool:
    """Whether anything is known of the rows of a key."""
    return (
        found.state != KeyState.CANNOT_TELL
        or found.expected is not None
        or found.actual is not None
    )
