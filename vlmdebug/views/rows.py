"""What every view says of chunks, so that text, Markdown and HTML say the same."""

from __future__ import annotations

from vlmdebug.layout import plural
from vlmdebug.plan import Rows
from vlmdebug.report import ChunkReport, KeyReport, Report


def headline(report: Report) -> str:
    """`by_sample on gemma4, 3 samples in chunks of 1: MISMATCH`."""
    samples = f"{report.samples} {'sample' if report.samples == 1 else 'samples'}"
    if report.chunk_size is None:
        return f"{report.family} batch, {samples}: {report.verdict}"
    return (
        f"{report.slicer or 'slicer'} on {report.family}, {samples} in chunks of "
        f"{report.chunk_size}: {report.verdict}"
    )


def counted(report: Report, most: int = 16) -> list[str]:
    """`images per sample 2 0 1, known from num_images`, one line per unit."""
    lines = []
    for unit, counts in report.counts.items():
        if unit == "sample":
            continue
        shown = " ".join(map(str, counts[:most]))
        more = f" … {sum(counts)} in all" if len(counts) > most else ""
        lines.append(
            f"{plural(unit)} per sample {shown}{more}, known from {report.evidence.get(unit, '?')}"
        )
    return lines


def drawn(report: Report, most: int) -> tuple[list[tuple[int, ChunkReport]], int]:
    """At most `most` chunks with their numbers, wrong ones first; and how many are left out."""
    numbered = list(enumerate(report.chunks))
    ranked = sorted(numbered, key=lambda pair: (pair[1].ok, pair[0]))[:most]
    return sorted(ranked), len(numbered) - len(ranked)


def told(report: Report) -> list[str]:
    """Keys worth a column: those that are not right everywhere, or the media keys if all are."""
    keys = list(dict.fromkeys(key for chunk in report.chunks for key in chunk.keys))
    wrong = [key for key in keys if any(not _state(c, key).ok for c in report.chunks)]
    return wrong or [
        key for key in keys if not report.layout.get(key, "").startswith(ROW_OF_SAMPLE)
    ]


ROW_OF_SAMPLE = "one row per sample"


def right(report: Report) -> list[str]:
    """Keys that are right in every chunk."""
    keys = dict.fromkeys(key for chunk in report.chunks for key in chunk.keys)
    return [key for key in keys if all(_state(c, key).ok for c in report.chunks)]


def cell(chunk: ChunkReport, key: str) -> str:
    """Used against planned rows: `1:2 not 2:3`, `2:3`, `– not 0:1`, `absent`."""
    found = _state(chunk, key)
    if found.state == "planned":
        return str(found.planned)
    if found.state == "absent":
        return "absent"
    if found.state == "ok":
        return short(found.used)
    if found.state == "cannot tell":
        return "? cannot tell"
    if found.state == "dropped":
        return f"dropped, not {short(found.planned)}"
    if found.state == "must be absent":
        return f"{short(found.used)} not absent"
    if found.state == "unknown key":
        return "unknown key"
    return f"{short(found.used)} not {short(found.planned)}"


def short(rows: Rows | None, most: int = 2) -> str:
    """Row ranges, at most `most` of them."""
    if rows is None:
        return "?"
    if not rows.ranges:
        return "no rows"
    shown = str(Rows(rows.ranges[:most]))
    return f"{shown} … {len(rows)} rows" if len(rows.ranges) > most else shown


def samples(chunk: ChunkReport) -> str:
    """`0:2`, or `1` for a single one."""
    if len(chunk.samples) == 1:
        return str(chunk.samples[0])
    return short(Rows.of(chunk.samples)) if chunk.samples else "none"


def number(value: int | None) -> str:
    """A number, or `?`."""
    return "?" if value is None else str(value)


def columns(report: Report) -> tuple[str, ...]:
    """Heads of the table's columns."""
    first = "sample" if report.chunk_size in (None, 1) else "samples"
    return ("chunk", first, "images", "placeholders", "features", *told(report))


def table(report: Report, most: int) -> tuple[list[list[str]], list[bool], int]:
    """Cells of the chunks drawn, whether each chunk is right, and how many are left out."""
    chunks, left = drawn(report, most)
    keys = told(report)
    rows = [
        [
            str(index),
            samples(chunk),
            number(chunk.images),
            number(chunk.placeholders),
            number(chunk.features),
            *(cell(chunk, key) for key in keys),
        ]
        for index, chunk in chunks
    ]
    return rows, [chunk.ok for _, chunk in chunks], left


def left_out(report: Report, left: int) -> str:
    """`… 52 more chunks, all checked`."""
    noun = "chunk" if report.chunk_size is not None else "sample"
    return f"… {left} more {noun if left == 1 else noun + 's'}, all checked"


def _state(chunk: ChunkReport, key: str) -> KeyReport:
    return chunk.keys.get(key) or KeyReport("absent", None, None)
