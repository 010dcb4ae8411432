"""What an audit found, in numbers and as a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmdebug.core.wording import many, number
from vlmdebug.fleet.faults import MEANING, Kind
from vlmdebug.fleet.questions import ask
from vlmdebug.fleet.sql import Answer
from vlmdebug.safe import one_line


@dataclass(frozen=True)
class Summary:
    """The result of an audit.

    Attributes:
        path: The table, in Parquet.
        rows: Rows of the data.
        faulty: Rows with at least one fault.
        kinds: Rows with a fault of each kind that was found.
        worst: Rows with the most kinds of faults: number, file, number in the file, block,
            number in the block, details.
        unknown: What was not compared, and in how many rows.
        not_read: Files below the data that may have rows, in formats that are not read.
    """

    path: Path
    rows: int
    faulty: int
    kinds: dict[Kind, int]
    worst: tuple[tuple[Any, ...], ...]
    unknown: dict[str, int]
    not_read: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.faulty

    def ask(self, question: str) -> Answer:
        """The answer to a question by its name or in SQL, as `vlmdebug.fleet.questions` says."""
        return ask(self.path, question)

    def __str__(self) -> str:
        lines = [f"{many(self.rows, 'row')}, {self.faulty:,} with a fault"]
        for kind, rows in self.kinds.items():
            lines.append(f"  {rows:>9,}  {kind.value:<13} {MEANING[kind]}")
        for row, file, nth, _, _, details in self.worst[:5]:
            said = one_line(details[0], 200)
            lines.append(f"  row {row} ({one_line(Path(file).name, 80)}, its row {nth}): {said}")
        for what, rows in self.unknown.items():
            lines.append(f"  not compared in {many(rows, 'row')}: {one_line(what, 120)}")
        if self.not_read:
            names = one_line(", ".join(Path(file).name for file in self.not_read), 120)
            files = number(len(self.not_read), "file")
            lines.append(f"  not read: {files} in another format: {names}")
        return "\n".join(lines)


def summary_of(out: Path, not_read: Sequence[str] = ()) -> Summary:
    """The summary of a finished audit in a folder."""
    table = out / "rows.parquet"
    rows, faulty = ask(table, "select count(*), count(*) filter (len(faults) > 0) from rows").rows[
        0
    ]
    return Summary(
        path=table,
        rows=rows,
        faulty=faulty,
        kinds={Kind(name): count for name, count, _ in ask(table, "faults").rows},
        worst=tuple(ask(table, "worst").rows),
        unknown=dict(ask(table, "not_compared").rows),
        not_read=tuple(not_read),
    )
