"""The traces of many ranks as one table, in Parquet.

`vlmdebug.watch(model, log=...)` writes a line of JSON for each call, in a file for each rank.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from vlmdebug.errors import BadInput
from vlmdebug.fleet.damage import Lost, readable
from vlmdebug.fleet.shares import SOUND
from vlmdebug.fleet.sql import duckdb, literal, text
from vlmdebug.safe import one_line

ENDINGS = (".jsonl", ".jsonl.gz")
_ENDS = 4_096
"""Bytes at the begin and the end of a trace that tell it from others: times and samples."""
COLUMNS = {
    "rank": "INTEGER",
    "coordinates": "MAP(VARCHAR, INTEGER)",
    "step": "BIGINT",
    "micro": "INTEGER",
    "call": "BIGINT",
    "grad": "BOOLEAN",
    "time": "BIGINT",
    "site": "VARCHAR",
    "verdict": "VARCHAR",
    "unread": "VARCHAR",
    "identities": "VARCHAR[]",
    "media": "INTEGER[]",
    "tokens": 'STRUCT("text" VARCHAR, "of" BIGINT, runs BIGINT[][])[]',
}
"""What is read of a line, with DuckDB's types."""
_COLUMNS = "{" + ", ".join(f"'{name}': '{kind}'" for name, kind in COLUMNS.items()) + "}"
READ = f"""
    select
        rank,
        coalesce(coordinates['dp'], rank) as dp,
        coalesce(coordinates['tp'], 0) as tp,
        coalesce(coordinates['cp'], 0) as cp,
        coalesce(coordinates['pp'], 0) as pp,
        step,
        coalesce(micro, 0) as micro,
        coalesce(grad, true) as grad,
        call, "time", site, verdict, unread,
        case when identities is not null and len(identities) = list_count(
            [try_cast('0x' || one as ubigint) for one in identities])
            then [try_cast('0x' || one as ubigint) for one in identities] end as samples,
        media,
        len(samples)::integer as sample_count,
        case when list_count(media) = len(media) and coalesce(list_min(media), 0) >= 0
            then try_cast(list_sum(media) as integer) end as media_count,
        {SOUND} as tokens,
        parse_filename(filename) as file
    from read_json($files, columns = {_COLUMNS}, format = 'newline_delimited',
                   ignore_errors = true, filename = true)
    where rank is not null and step >= 0
    order by step, micro, rank, call
"""
AGAIN = """
    held as (
        select step, micro, call, rank, dp, grad, unnest(samples) as sample,
            unnest(media) as items, generate_subscripts(samples, 1) as inside
        from calls where samples is not null),
    again as (
        select * from held
        where items is not null and sample in (
            select sample from held where items is not null group by sample having count(*) > 1)),
    before as (
        select rank, grad, step, micro, call,
            sum(sample_count) over (partition by rank, grad order by step, micro, call
                rows between unbounded preceding and current row exclude current row) as seen
        from calls where rank in (select rank from again))
    select step, micro, call, rank, dp, grad, sample,
        (coalesce(seen, 0) + inside)::bigint as place
    from again join before using (rank, grad, step, micro, call)
    order by sample, step, rank
"""
"""Samples that come several times; not those of unknown media, which may only share their text."""


def files_of(folder: Path) -> list[Path]:
    """The traces in a folder.

    Raises:
        BadInput: There is no such folder, or no trace in it.
    """
    if not folder.is_dir():
        raise BadInput(
            f"{folder} is no folder. Nothing was read. Pass the folder with the traces of all "
            "ranks, which watch(model, log='folder/trace.jsonl') writes."
        )
    files = sorted(file for ending in ENDINGS for file in folder.glob(f"*{ending}"))
    if not files:
        raise BadInput(
            f"{folder} has no file that ends in .jsonl. Nothing was read. Watch each rank with "
            "watch(model, log='folder/trace.jsonl') and pass that folder."
        )
    return files


def copies_in(files: Sequence[Path]) -> list[Path]:
    """The files that are equal to one before them, as far as size, begin and end show."""
    seen: set[tuple[int, bytes, bytes]] = set()
    copies: list[Path] = []
    for file in files:
        with file.open("rb") as opened:
            first = opened.read(_ENDS)
            opened.seek(max(0, file.stat().st_size - _ENDS))
            key = (file.stat().st_size, first, opened.read(_ENDS))
        if key in seen and first:
            copies.append(file)
        seen.add(key)
    return copies


def tables_of(folder: Path) -> dict[str, Path]:
    """`calls.parquet` and `again.parquet` in the folder, written again, by their names.

    A line that is cut off is left out, and so is what a cut gzip stream does not hold.

    Raises:
        BadInput: The folder has no traces, or none of their lines names a rank.
    """
    files = files_of(folder)
    files = [file for file in files if file not in {*copies_in(files)}]
    table, again = folder / "calls.parquet", folder / "again.parquet"
    try:
        rows = _copy(_reading(files), table)
    except BadInput:  # as of a gzip stream that is cut off, or has zeros behind it
        if not any(file.suffix == ".gz" for file in files):
            raise
        with readable(files) as found:
            rows = _copy(_reading(found), table)
    if not rows:
        table.unlink()
        raise BadInput(
            f"No line of the traces in {folder} names a rank. Nothing was merged. Write them with "
            "this release of vlmdebug."
        )
    _copy(f"with calls as (from read_parquet({text(literal(table))})), {AGAIN}", again)
    return {"calls": table, "again": again}


def _reading(files: Sequence[Path]) -> str:
    listed = ", ".join(text(literal(file)) for file in files)
    return READ.replace("$files", f"[{listed}]")


def lost_of(lost: Sequence[Lost], folder: Path) -> Path:
    """`lost.parquet` in the folder: the steps in which the trace of a rank lacks lines."""
    table = folder / "lost.parquet"
    rows = ", ".join(str(tuple(one)) for one in lost) or f"({', '.join(['null'] * 3)})"
    _copy(
        f"select rank::integer as rank, first::bigint as first, last::bigint as last "
        f"from (values {rows}) as found(rank, first, last) where rank is not null",
        table,
    )
    return table


def expected_of(file: Path, folder: Path) -> Path:
    """`expected.parquet` in the folder: the identities in a text file, one in each line.

    Raises:
        BadInput: There is no such file, or a line is no identity.
    """
    if not file.is_file():
        raise BadInput(
            f"{file} is no file. Nothing was merged. Write the identities of the samples that were "
            "expected, one in each line, as vlmdebug.identities gives them."
        )
    table = folder / "expected.parquet"
    options = "header = false, columns = {'line': 'VARCHAR'}, delim = '\n'"
    read = f"read_csv({text(literal(file))}, {options})"
    _copy(
        f"select ('0x' || trim(line))::ubigint as sample from {read} where trim(line) <> ''", table
    )
    return table


def _copy(query: str, table: Path) -> int:
    """Write the rows of a query, all or none, and count them."""
    module = duckdb()
    unfinished = table.with_suffix(f".{os.getpid()}.unfinished")
    with module.connect() as connection:
        try:
            to = f"{text(unfinished)} (format parquet, compression zstd)"
            (rows,) = connection.execute(f"copy ({query}) to {to}").fetchone()
        except module.Error as error:
            unfinished.unlink(missing_ok=True)
            said = one_line(str(error).splitlines()[0], 200)
            raise BadInput(f"{table.parent} could not be merged: {said}") from error
    os.replace(unfinished, table)
    return rows
