"""Ranks as lanes: as a page, and as a timeline that Perfetto opens."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlmdebug.core.wording import many
from vlmdebug.fleet.merge import FAULTS, Merged
from vlmdebug.safe import escaped, one_line
from vlmdebug.views.page import TABLES, page, wide

MOST_STEPS, MOST_RANKS = 24, 64
STYLE = (
    f"{TABLES}td{{white-space:nowrap}}"
    "table.lanes td{border:1px solid rgba(128,128,128,.35);padding:.15rem .4rem}"
    "td.wrong{background:rgba(213,94,0,.16);border-bottom:2px solid #D55E00}"
)


def to_page(merged: Merged) -> str:
    """The faults, and the calls of the steps and ranks that have one."""
    verdict = "✓ no fault between ranks" if merged.ok else "✗ ranks differ"
    title = f"{verdict}: {merged.title}"
    parts = [f"<h1>vlmdebug merge: {escaped(title)}</h1>"]
    for name, (times, answer) in merged.faults.items():
        rows = [[one_line(cell, 120) for cell in row] for row in answer.rows]
        parts += [
            f"<h2>{name}: {many(times, 'time')}</h2><p>{escaped(FAULTS[name][0])}</p>",
            _table(name, answer.columns, rows),
        ]
    parts += [f"<p>Not compared: {escaped(text)}</p>" for text in merged.not_compared]
    parts.append(_lanes(merged))
    return page(title, parts, STYLE)


def _table(name: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escaped(name.replace('_', ' '))}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>\n" for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return wide(name, table)


def _lanes(merged: Merged) -> str:
    """A lane for each rank, a column for each step; those with a fault come first."""
    marked = _marked(merged)
    steps = sorted({step for step, _ in marked})[:MOST_STEPS]
    steps = steps or [step for (step,) in merged.ask(_FIRST_STEPS).rows]
    wrong = {rank for step, rank in marked if step in steps}
    others = [rank for (rank,) in merged.ask(_RANKS).rows if rank not in wrong]
    ranks = sorted([*sorted(wrong), *others][:MOST_RANKS])
    held = {
        (step, rank): _said(*counts) for step, rank, *counts in merged.ask(_held(steps, ranks)).rows
    }
    lost = {*merged.ask(_lost(steps)).rows}
    lines = []
    for rank in ranks:
        cells = []
        for step in steps:
            names = ", ".join(sorted(marked.get((step, rank), ())))
            said = held.get((step, rank), "not written" if (step, rank) in lost else "no call")
            inside = f"{said}<br><strong>✗ {names}</strong>" if names else said
            cells.append(f'<td class="wrong">{inside}</td>' if names else f"<td>{inside}</td>")
        lines.append(f"<tr><th>rank {rank}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>step {step}</th>" for step in steps)
    return "<h2>Ranks</h2>" + wide(
        "ranks",
        f'<table class="lanes"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table>",
    )


_FIRST_STEPS = f"select distinct step from calls order by step limit {MOST_STEPS // 3}"
_RANKS = f"select distinct rank from calls order by rank limit {MOST_RANKS}"


def _said(samples: int | None, media: int | None) -> str:
    """What a rank has in a step; what could not be read is left out."""
    said = "samples not read" if samples is None else many(samples, "sample")
    return said if media is None else f"{said}, {media} media"


def _held(steps: Sequence[int], ranks: Sequence[int]) -> str:
    return (
        "select step, rank, sum(sample_count), sum(media_count) from calls "
        f"where step in ({_listed(steps)}) and rank in ({_listed(ranks)}) group by step, rank"
    )


def _lost(steps: Sequence[int]) -> str:
    """Steps in which the trace of a rank lacks lines."""
    return (
        f"select step, rank from (select distinct step from calls where step in ({_listed(steps)}))"
        " join lost on step between first and last"
    )


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(str(int(number)) for number in numbers) or "null"


def _marked(merged: Merged) -> dict[tuple[int, int], set[str]]:
    """Kinds of fault by step and rank."""
    found: dict[tuple[int, int], set[str]] = defaultdict(set)
    for name in merged.faults:
        answer = merged.ask(name)
        if "step" not in answer.columns:
            continue
        at = answer.columns.index("step")
        for row in answer.rows[:MOST_STEPS]:
            for rank in _ranks_in(answer.columns, row):
                found[row[at], rank].add(name)
    return found


def _ranks_in(columns: Sequence[str], row: Sequence[Any]) -> list[int]:
    named = [cell for name, cell in zip(columns, row, strict=True) if name.startswith("rank")]
    return [rank for cell in named[:1] for rank in (cell if isinstance(cell, list) else [cell])]


def write_timeline(merged: Merged, step: int, path: Path) -> None:
    """Write one step as a Chrome trace: ranks as threads, calls until the rank's next call."""
    rows = merged.ask(
        'select dp, rank, call, micro, "time", site, verdict, samples, media from calls '
        f'where step = {int(step)} and "time" is not null order by rank, call'
    ).rows
    by_rank: dict[int, list[Any]] = defaultdict(list)
    for row in rows:
        by_rank[row[1]].append(row)
    events = []
    for calls in by_rank.values():
        ends = [row[4] for row in calls[1:]]
        for row, until in zip(calls, [*ends, calls[-1][4] + 1_000], strict=True):
            dp, rank, call, micro, time, site, verdict, samples, media = row
            events.append(
                {
                    "name": f"call {call} at {site}",
                    "ph": "X",
                    "ts": time / 1_000,
                    "dur": max(until - time, 1) / 1_000,
                    "pid": dp,
                    "tid": rank,
                    "args": {
                        "micro": micro,
                        "verdict": verdict,
                        "samples": [f"{one:016x}" for one in samples or ()],
                        "media": media,
                    },
                }
            )
    path.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")
