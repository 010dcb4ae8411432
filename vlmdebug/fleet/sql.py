"""Questions to a table in Parquet, in DuckDB's SQL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line


class Answer:
    """Columns and rows of an answer; prints as a table."""

    def __init__(self, columns: list[str], rows: list[tuple[Any, ...]]) -> None:
        self.columns = columns
        self.rows = rows

    def __str__(self) -> str:
        cells = [self.columns, *([one_line(cell, 60) for cell in row] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        )


def duckdb() -> Any:
    """The module.

    Raises:
        BadInput: It is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise BadInput(
            "This needs DuckDB, which is not installed. Nothing was asked. "
            "Install it with: pip install 'vlmdebug[fleet]'"
        ) from error
    return duckdb


def ask(tables: Mapping[str, Path], question: str, named: Mapping[str, str]) -> Answer:
    """The answer to a named question, or to any query.

    Args:
        tables: Parquet files, by the names that they have in queries.
        question: A name or a query.
        named: The questions with a name.

    Raises:
        BadInput: There is no such file, DuckDB is not installed, or it does not take the query.
    """
    module = duckdb()
    for path in tables.values():
        if not path.is_file():
            raise BadInput(f"{path} is no file, so there is nothing to ask. Write it first.")
    with module.connect() as connection:
        try:
            for table, path in tables.items():
                connection.read_parquet(literal(path)).create_view(table)
            result = connection.execute(named.get(question, question))
            columns = [str(column[0]) for column in result.description or []]
            return Answer(columns, result.fetchall())
        except module.Error as error:
            said = one_line(str(error).partition("\n")[0], 200)
            raise BadInput(
                f"DuckDB does not take the question {one_line(question, 80)!r}: {said}. Ask one of "
                f"{', '.join(named)}, or a query on {' and '.join(tables)}."
            ) from error


def literal(path: Path) -> str:
    """A path in which DuckDB finds no pattern: `a[1]` would otherwise be the folder `a1`."""
    return re.sub(r"([\[*?])", r"[\1]", str(path))


def text(value: object) -> str:
    """A value as text of SQL."""
    return "'" + str(value).replace("'", "''") + "'"
