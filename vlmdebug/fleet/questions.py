"""Questions to the table of an audit, in DuckDB's SQL.

`rows` is the table. `vlmdebug audit --ask NAME` answers one, and any other query works the same:

    duckdb -c "select count(*) from 'out/rows.parquet' where len(faults) > 0"
"""

from __future__ import annotations

from pathlib import Path

from vlmdebug.fleet import sql
from vlmdebug.fleet.sql import Answer

QUESTIONS = {
    "faults": """
        select fault, count(distinct row) as rows, min(row) as first_row
        from (select row, unnest(faults) as fault from rows)
        group by fault order by rows desc, fault
    """,
    "worst": """
        select row, file, number, block, inside, details from rows
        where len(faults) > 0
        qualify row_number() over (partition by list_sort(list_distinct(faults)) order by row) <= 3
        order by len(list_distinct(faults)) desc, row limit 30
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


def ask(path: Path, question: str) -> Answer:
    """The answer to a question by its name, or to a query on the table `rows`.

    Raises:
        BadInput: There is no such file, DuckDB is not installed, or it does not take the query.
    """
    return sql.ask({"rows": path}, question, QUESTIONS)
