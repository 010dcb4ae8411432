"""The blocks of a data set: pieces of files that one worker reads at a time."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.fleet.archives import rows_of_archive
from vlmdebug.fleet.dialogue import READ, NoRow
from vlmdebug.safe import one_line

BLOCK_ROWS = 2_000
"""Rows of a block, as far as a format says how many rows it has."""
BLOCK_BYTES = 2_000_000
"""Bytes of a block of a text file, which starts at the next line."""
TEXTS = (".jsonl", ".ndjson", ".json")
ARCHIVES = (".tar", ".tar.gz", ".tgz")
OTHERS = (".csv", ".tsv", ".zst", ".xz", ".bz2", ".gz", ".zip", ".arrow", ".feather", ".orc")
"""What a data set can be in, and is not read here."""


@dataclass(frozen=True)
class Block:
    """A piece of one file: rows for tables, bytes for text, the whole for archives."""

    file: str
    format: str
    start: int
    end: int


def blocks_of(data: Path, out: Path) -> list[Block]:
    """The blocks of a file, or of all files below a folder, in the order of their names.

    The folder `out` of the audit can be below `data`; nothing in it is data.

    Raises:
        BadInput: There is no such path, or no file of a known format in it.
    """
    if not data.exists():
        raise BadInput(f"{data} is not there. No row was audited. Pass a file or a folder.")
    files = [data] if data.is_file() else _below(data, out.resolve())
    blocks = [block for file in files for block in _of_file(file, sole=data.is_file())]
    if not blocks:
        raise BadInput(
            f"{data} has no rows of a known format. No row was audited. Pass Parquet, JSON lines, "
            "a data set that datasets saved with save_to_disk, or a folder of WebDataset's tars."
        )
    return blocks


def _below(data: Path, out: Path) -> list[Path]:
    """Files below a folder, but not those of an audit: of this one in `out`, or of an earlier."""
    files: list[Path] = []
    seen = {data.resolve()}
    for folder, inside, names in os.walk(data, followlinks=True):
        below = [Path(folder, one) for one in sorted(inside)]
        new = [one for one in below if one.resolve() not in seen and not _is_audit(one, out)]
        seen.update(one.resolve() for one in new)
        inside[:] = [one.name for one in new]
        files += [Path(folder, name) for name in names]
    return sorted(file for file in files if file.is_file())


def _is_audit(folder: Path, out: Path) -> bool:
    earlier = (folder / "plan.json").is_file() and (folder / "parts").is_dir()
    return earlier or folder.resolve() == out  # `data/../data/out` is in `data`


def not_read(data: Path, out: Path, blocks: Sequence[Block]) -> list[str]:
    """Files below a folder that may hold rows in a format that is not read."""
    held = {block.file for block in blocks}
    files = [] if data.is_file() else _below(data, out.resolve())
    return [str(file) for file in files if str(file) not in held and _may_hold_rows(file)]


def _may_hold_rows(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix == ".json":
        return _is_array(file)
    return suffix in OTHERS and not file.name.startswith("cache-")


def _of_file(file: Path, sole: bool) -> list[Block]:
    name, suffix = str(file), file.suffix.lower()
    if suffix == ".parquet":
        return _even(name, "parquet", _groups(file), 1)
    if suffix == ".arrow" and file.name.startswith("cache-"):
        return []  # what `datasets` computed from the others, such as by `map`
    if suffix == ".arrow":
        return _even(name, "arrow", _batches(file), max(1, BLOCK_ROWS // 1_000))
    if file.name.lower().endswith(ARCHIVES):
        return [Block(name, "tar", 0, file.stat().st_size)]
    if suffix == ".gz" and file.stem.lower().endswith(TEXTS):
        return [Block(name, "gzip", 0, file.stat().st_size)]
    if suffix in TEXTS and (sole or suffix != ".json"):
        _refuse_array(file)
        return _even(name, "jsonl", file.stat().st_size, BLOCK_BYTES)
    return []


def _refuse_array(file: Path) -> None:
    if _is_array(file):
        raise BadInput(
            f"{file} is one JSON array, but JSON lines have a row in each line. No row was "
            f"audited. Convert it with: jq -c '.[]' in.json > out.jsonl"
        )


def _is_array(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            return opened.read(1_024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    except OSError as error:
        raise _unreadable(file, error) from error


def _even(name: str, format: str, whole: int, step: int) -> list[Block]:
    return [Block(name, format, at, min(at + step, whole)) for at in range(0, whole, step)]


def _groups(file: Path) -> int:
    import pyarrow.parquet as parquet

    try:
        return parquet.ParquetFile(file).num_row_groups
    except Exception as error:  # pyarrow has several, and none names the file
        raise _unreadable(file, error) from error


def _batches(file: Path) -> int:
    from datasets import Dataset

    try:
        return -(-len(Dataset.from_file(str(file))) // 1_000)
    except Exception as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> BadInput:
    said = one_line(str(error).partition("\n")[0], 160).rstrip(".")
    return BadInput(
        f"{file} could not be read: {said}. No row was audited. Write it again, or take it away."
    )


def rows_of(block: Block) -> Iterator[Any]:
    """The rows of a block, with a `NoRow` for each that cannot be read."""
    try:
        yield from _READERS[block.format](block)
    except Exception as error:  # an archive that ends too early, a column that is damaged
        said = one_line(str(error).partition("\n")[0].rstrip(".:"), 160) or type(error).__name__
        yield NoRow(f"The file cannot be read from here on: {said}.")


def _parquet(block: Block) -> Iterator[Any]:
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(block.file)
    columns = _read_of(file.schema_arrow.names)
    for group in range(block.start, block.end):
        for batch in file.iter_batches(batch_size=256, row_groups=[group], columns=columns):
            yield from batch.to_pylist()


def _read_of(columns: Sequence[str]) -> list[str]:
    """The columns that an audit reads: others cost time, and can hold what Python has not."""
    return [name for name in columns if name in READ] or list(columns)[:1]


def _arrow(block: Block) -> Iterator[Any]:
    from datasets import Dataset

    rows = Dataset.from_file(block.file)
    table = rows.data.slice(block.start * 1_000, (block.end - block.start) * 1_000)
    for batch in table.select(_read_of(table.column_names)).to_batches(max_chunksize=256):
        yield from batch.to_pylist()


def _jsonl(block: Block) -> Iterator[Any]:
    """Lines that begin in the block; the last may end after it."""
    with open(block.file, "rb") as file:
        if block.start:
            file.seek(block.start - 1)
            file.readline()
        while file.tell() < block.end and (line := file.readline()):
            yield from _parsed(line)


def _gzip(block: Block) -> Iterator[Any]:
    with gzip.open(block.file, "rb") as file:
        for line in file:
            yield from _parsed(line)


def _parsed(line: bytes) -> Iterator[Any]:
    if line.strip():
        try:
            yield json.loads(line)
        except (ValueError, RecursionError) as error:
            yield NoRow(f"The line is no JSON: {one_line(error, 120)}.")


def _tar(block: Block) -> Iterator[Any]:
    return rows_of_archive(block.file)


_READERS = {"parquet": _parquet, "arrow": _arrow, "jsonl": _jsonl, "gzip": _gzip, "tar": _tar}
