"""The blocks of a data set: pieces of files that one worker reads at a time."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.fleet.dialogue import NoRow
from vlmdebug.safe import one_line

BLOCK_ROWS = 2_000
"""Rows of a block, as far as a format says how many rows it has."""
BLOCK_BYTES = 2_000_000
"""Bytes of a block of a text file, which starts at the next line."""
TEXTS = (".jsonl", ".ndjson", ".json")
MEDIA = {"jpg": "image", "jpeg": "image", "png": "image", "webp": "image"}
"""Extensions of images in the files of WebDataset."""


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
    files = [data] if data.is_file() else sorted(one for one in data.rglob("*") if one.is_file())
    out = out.resolve()  # `data/../data/out` is in `data`
    if data.resolve() in out.parents:
        files = [file for file in files if out not in file.resolve().parents]
    blocks = [block for file in files for block in _of_file(file, sole=data.is_file())]
    if not blocks:
        raise BadInput(
            f"{data} has no rows of a known format. No row was audited. Pass Parquet, JSON lines, "
            "a data set that datasets saved with save_to_disk, or a folder of WebDataset's tars."
        )
    return blocks


def _of_file(file: Path, sole: bool) -> list[Block]:
    name, suffix = str(file), file.suffix
    if suffix == ".parquet":
        return _even(name, "parquet", _groups(file), 1)
    if suffix == ".arrow" and file.name.startswith("cache-"):
        return []  # what `datasets` computed from the others, such as by `map`
    if suffix == ".arrow":
        return _even(name, "arrow", _batches(file), max(1, BLOCK_ROWS // 1_000))
    if suffix == ".tar":
        return [Block(name, "tar", 0, file.stat().st_size)]
    if suffix == ".gz" and file.stem.endswith(TEXTS):
        return [Block(name, "gzip", 0, file.stat().st_size)]
    if suffix in TEXTS and (sole or suffix != ".json"):
        _refuse_array(file)
        return _even(name, "jsonl", file.stat().st_size, BLOCK_BYTES)
    return []


def _refuse_array(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(1_024).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise BadInput(
                f"{file} is one JSON array, but JSON lines have a row in each line. No row was "
                f"audited. Convert it with: jq -c '.[]' in.json > out.jsonl"
            )


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
    said = one_line(str(error).partition("\n")[0], 160)
    return BadInput(
        f"{file} could not be read: {said}. No row was audited. Write it again, or take it away."
    )


def rows_of(block: Block) -> Iterator[Any]:
    """The rows of a block, with a `NoRow` for each that cannot be read."""
    try:
        yield from _READERS[block.format](block)
    except Exception as error:  # an archive that ends too early, a column that is damaged
        said = one_line(str(error).partition("\n")[0].rstrip("."), 160) or type(error).__name__
        yield NoRow(f"The file cannot be read from here on: {said}.")


def _parquet(block: Block) -> Iterator[Any]:
    import pyarrow.parquet as parquet

    file = parquet.ParquetFile(block.file)
    for group in range(block.start, block.end):
        for batch in file.iter_batches(batch_size=256, row_groups=[group]):
            yield from batch.to_pylist()


def _arrow(block: Block) -> Iterator[Any]:
    from datasets import Dataset

    rows = Dataset.from_file(block.file)
    table = rows.data.slice(block.start * 1_000, (block.end - block.start) * 1_000)
    for batch in table.to_batches(max_chunksize=256):
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
    """Files of an archive that share a name are one row, as WebDataset reads them."""
    import tarfile

    row: dict[str, Any] = {}
    last = None
    with tarfile.open(block.file) as archive:
        for member in archive:
            if not member.isfile():
                continue
            key, _, extension = member.name.rpartition("/")[2].partition(".")
            key = member.name.removesuffix(f".{extension}") or key
            if key != last and row:
                yield row
                row = {}
            last = key
            opened = archive.extractfile(member)
            _put(row, extension.lower(), opened.read() if opened else b"")
    if row:
        yield row


def _put(row: dict[str, Any], extension: str, content: bytes) -> None:
    if extension.rpartition(".")[2] in MEDIA:
        row.setdefault("images", []).append({"bytes": content})
    elif extension == "json":
        read = next(_parsed(content), None)
        row.update(read if isinstance(read, dict) else {"messages": read})
    elif extension in ("txt", "text"):
        row["text"] = content.decode(errors="replace")


_READERS = {"parquet": _parquet, "arrow": _arrow, "jsonl": _jsonl, "gzip": _gzip, "tar": _tar}
