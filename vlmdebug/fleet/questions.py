"""Questions to the table of an audit, in DuckDB's SQL.

`rows` is the table. `vlmdebug audit --ask NAME` answers one, and any other query works the same:

    duckdb -c "select count(*) from 'out/rows.parquet' where len(faults) > 0"
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

QUESTIONS = {
    "faults": """
        select fault, count(distinct row) as rows, min(row) as first_row
        from (select row, unnest(faults) as fault from rows)
        group by fault order by rows desc, fault
    """,
    "worst": """
        select row, file, number, block, inside, details from rows
        where len(faults) > 0 order by len(list_distinct(faults)) desc, row limit 20
    """,
    "files": """
        select file, count(*) as rows, count(*) filter (len(faults) > 0) as faulty,
            sum(images) as images, max(tokens) as most_tokens
        from rows group by file order by faulty desc, file
    """,
    "duplicates": """
        select identity, count(*) as times, list(row order by row)[1:10] as rows
        from rows where identity <> '' group by identity having count(*) > 1
        order by times desc, rows limit 100
    """,
    "lengths": """
        select cast(floor(tokens / 256) * 256 as integer) as from_tokens, count(*) as rows
        from rows where tokens is not null group by 1 order by 1
    """,
    "images": """
        select images, count(*) as rows from rows group by images order by images
    """,
    "sizes": """
        select widths[1] as width, heights[1] as height, count(*) as rows
        from rows where images > 0 and widths[1] is not null
        group by 1, 2 order by rows desc, 1, 2 limit 20
    """,
    "not_compared": """
        select what, count(*) as rows from (select unnest(unknown) as what from rows)
        group by what order by rows desc, what
    """,
}
"""Name and query; the rows of a data set are numbered from 0 in the order they are read."""


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


def ask(path: Path, question: str) -> Answer:
    """The answer to a question by its name, or to a query on the table `rows`.

    Raises:
        BadInput: DuckDB is not installed, or does not understand the query.
    """
    try:
        import duckdb
    except ImportError as error:
        raise BadInput(
            "Questions need DuckDB, which is not installed. Nothing was asked. "
            "Install it with: pip install 'vlmdebug[fleet]'"
        ) from error
    query = QUESTIONS.get(question, question)
    with duckdb.connect() as connection:
        try:
            connection.read_parquet(str(path)).create_view("rows")
            result = connection.execute(query)
            columns = [str(column[0]) for column in result.description or []]
            return Answer(columns, result.fetchall())
        except duckdb.Error as error:
            said = one_line(str(error).partition("\n")[0], 200)
            names = ", ".join(QUESTIONS)
            raise BadInput(
                f"DuckDB does not take the question {one_line(question, 80)!r}: {said}. Ask one of "
                f"{names}, or a query on the table rows."
            ) from error
