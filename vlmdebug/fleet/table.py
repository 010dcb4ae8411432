"""The table of an audit: a row for each row of the data, in Parquet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdebug.fleet.audit_row import AuditedRow

if TYPE_CHECKING:
    import pyarrow

GROUP = 50_000
"""Rows of one group of the written file; they are in memory together."""


def schema() -> pyarrow.Schema:
    """The columns, as `docs/audit.md` lists them."""
    import pyarrow as pa

    return pa.schema(
        [
            ("file", pa.string()),
            ("block", pa.int32()),
            ("inside", pa.int32()),
            ("number", pa.int64()),
            ("places", pa.int32()),
            ("images", pa.int32()),
            ("text_tokens", pa.int32()),
            ("image_tokens", pa.list_(pa.int32())),
            ("tokens", pa.int32()),
            ("widths", pa.list_(pa.int32())),
            ("heights", pa.list_(pa.int32())),
            ("faults", pa.list_(pa.string())),
            ("details", pa.list_(pa.string())),
            ("unknown", pa.list_(pa.string())),
            ("identity", pa.string()),
        ]
    )


def table_of(rows: Sequence[AuditedRow], file: str, block: int) -> pyarrow.Table:
    """The rows of one block."""
    import pyarrow as pa

    columns: dict[str, Sequence[Any]] = {
        "file": [shown(file)] * len(rows),
        "block": [block] * len(rows),
        "inside": range(len(rows)),
        "number": range(len(rows)),
        "places": [row.places for row in rows],
        "images": [row.images for row in rows],
        "text_tokens": [row.text_tokens for row in rows],
        "image_tokens": [row.image_tokens for row in rows],
        "tokens": [row.tokens for row in rows],
        "widths": [[size and size[0] for size in row.sizes] for row in rows],
        "heights": [[size and size[1] for size in row.sizes] for row in rows],
        "faults": [[fault.kind.value for fault in row.faults] for row in rows],
        "details": [[fault.detail for fault in row.faults] for row in rows],
        "unknown": [row.unknown for row in rows],
        "identity": [row.identity for row in rows],
    }
    return pa.table(columns, schema=schema())


def shown(file: str) -> str:
    """A name as Parquet takes it: bytes that are no UTF-8 are spelled."""
    return os.fsencode(file).decode(errors="backslashreplace")


def write(table: pyarrow.Table, path: Path) -> None:
    """Write a file whole or not at all."""
    import pyarrow.parquet as parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    parquet.write_table(table, unfinished, compression="zstd")
    os.replace(unfinished, path)


def join(parts: Sequence[Path], path: Path) -> None:
    """Write all parts as one file, in their order.

    `row` then numbers the rows of all data, and `number` those of each file, both from 0.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    unfinished = path.with_suffix(".unfinished")
    whole = schema().insert(0, pa.field("row", pa.int64()))
    with parquet.ParquetWriter(unfinished, whole, compression="zstd") as writer:
        for tables in _grouped(_numbered(parts)):
            writer.write_table(pa.concat_tables(tables).cast(whole))
    os.replace(unfinished, path)


def _numbered(parts: Sequence[Path]) -> Iterator[pyarrow.Table]:
    """The parts with numbers that go on from one to the next."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    first = 0
    of_file: dict[str, int] = {}
    for part in parts:
        table = parquet.read_table(part)
        if not table.num_rows:
            continue
        file = str(table["file"][0])
        before = of_file.get(file, 0)
        numbers = pa.array(range(before, before + table.num_rows), pa.int64())
        rows = pa.array(range(first, first + table.num_rows), pa.int64())
        at = table.schema.get_field_index("number")
        yield table.set_column(at, "number", [numbers]).add_column(0, "row", [rows])
        of_file[file] = before + table.num_rows
        first += table.num_rows


def _grouped(tables: Iterator[pyarrow.Table]) -> Iterator[list[pyarrow.Table]]:
    """Tables that have about `GROUP` rows together."""
    group: list[pyarrow.Table] = []
    for table in tables:
        group.append(table)
        if sum(one.num_rows for one in group) >= GROUP:
            yield group
            group = []
    if group:
        yield group
