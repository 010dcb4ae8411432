"""Rows of WebDataset: files of an archive that share a name, each with another ending."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from vlmdebug.fleet.dialogue import COLUMNS, NoRow
from vlmdebug.safe import one_line

ENDINGS = {
    "image": {*("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"), *("ppm", "pgm", "pnm")},
    "video": {"mp4", "avi", "mov", "mkv", "webm", "mpg", "mpeg", "m4v"},
    "audio": {"wav", "mp3", "flac", "ogg", "opus", "m4a", "aac"},
}
"""Endings of files that are media, by modality."""
NUMBERS = {"cls", "cls2", "class", "count", "index", "inx", "id"}
"""Endings of files that WebDataset reads as a number (`webdataset.autodecode.basichandlers`)."""


_BLOCK = 512
"""Bytes of a block of an archive."""


class _Piece(NamedTuple):
    name: str
    ending: str
    """All that follows the first dot of the name, in small letters."""
    content: bytes


class PiecedRow(dict[str, Any]):
    """A row, with what is not read of it and which of its media are not sure, by modality."""

    unread: tuple[str, ...] = ()
    unsure: dict[str, str] = {}


def rows_of_archive(file: str) -> Iterator[Any]:
    """The rows of an archive, as WebDataset groups its files."""
    import tarfile

    pieces: list[_Piece] = []
    last = None
    archive: Any
    with tarfile.open(file) as archive:
        for member in archive:
            archive.members.clear()  # it keeps them all, of a shard of any size
            folder, _, name = member.name.rpartition("/")
            key, _, ending = name.partition(".")
            if not member.isfile() or not key:
                continue
            if (folder, key) != last and pieces:
                yield _row(pieces)
                pieces = []
            last = (folder, key)
            opened = archive.extractfile(member)
            pieces.append(_Piece(member.name, ending.lower(), opened.read() if opened else b""))
        _require_end(archive)  # before the last row, of which files can be lacking
        if pieces:
            yield _row(pieces)


def _require_end(archive: Any) -> None:
    """`tarfile` takes a damaged header for the end of the archive, except for the first one.

    It takes the end of the file for it, too, but every writer ends with blocks of zeros: `tar`,
    Python's `tarfile`, and so `webdataset.TarWriter`, which must be closed for it.
    """
    archive.fileobj.seek(archive.offset)
    block = archive.fileobj.read(_BLOCK)
    if any(block):
        raise ValueError("the archive ends too early, or is damaged")
    if len(block) < _BLOCK:
        raise ValueError(
            "the archive is cut off between two files, or its writer was not closed: it lacks the "
            "zeros at its end"
        )


def _row(pieces: Sequence[_Piece]) -> Any:
    row = PiecedRow()
    media: dict[str, list[_Piece]] = {modality: [] for modality in ENDINGS}
    unread: list[str] = []
    for piece in pieces:
        last = piece.ending.rpartition(".")[2]
        modality = next((one for one, endings in ENDINGS.items() if last in endings), None)
        if modality is not None:
            media[modality].append(piece)
        elif last in ("json", "jsn"):
            try:
                read = json.loads(piece.content)
            except (ValueError, RecursionError) as error:
                return NoRow(f"{one_line(piece.name, 80)} is no JSON: {one_line(error, 120)}.")
            row.update(read if isinstance(read, dict) else {"messages": read})
        elif last in ("txt", "text", "transcript"):
            row["text"] = piece.content.decode(errors="replace")
        elif last not in NUMBERS:
            unread.append(f"a file that ends in .{one_line(piece.ending, 40)}")
    if media["audio"]:
        row["audios"] = [one.name for one in media["audio"]]
    row.unsure = {modality: "whether it is a media item: " + ", ".join(unread)
                  for modality in COLUMNS if unread}  # fmt: skip
    for modality in COLUMNS:
        unread += _put(row, modality, media[modality])
    row.unread = tuple(unread)
    return row


def _put(row: PiecedRow, modality: str, pieces: Sequence[_Piece]) -> list[str]:
    """Media of the archive, in the order in which the row names them or else in that of the files.

    Which files are media of the row is not sure if their endings differ in more than a number, as
    `jpg` and `mask.png` do, or if the row names more or fewer: the latter is returned.
    """
    if not pieces:
        return []
    plural, single = COLUMNS[modality]
    given = row.pop(single, None) if row.get(plural) is None else row[plural]
    named = given if isinstance(given, list) else [] if given is None else [given]
    by_name = {key: one for one in pieces for key in _names(one)}
    found = [by_name.get(PurePosixPath(_path(one)).name) for one in named]
    which: list[str] = []
    if named and None not in found:
        pieces = [one for one in found if one is not None]
    elif named and len(named) != len(pieces):
        which = [f"which {modality}s of the archive the row has"]
        row.unsure = {**row.unsure, modality: which[0]}
    elif not named and len({_kind(one.ending) for one in pieces}) > 1:
        endings = ", ".join(f".{one_line(one.ending, 40)}" for one in pieces)
        row.unsure = {**row.unsure, modality: f"which of {endings} the row has"}
    row[plural] = [{"bytes": one.content, "path": one.name} for one in pieces]
    return which


def _names(piece: _Piece) -> tuple[str, ...]:
    """What a row can call a piece: its file's name, or only its ending."""
    return PurePosixPath(piece.name).name, piece.ending


def _kind(ending: str) -> str:
    """Equal for `0.jpg` and `1.png`, and for `left1.png` and `left2.png`."""
    label = ending.rpartition(".")[0]
    return "#" if label.isdigit() else re.sub(r"\d+", "#", ending)


def _path(given: Any) -> str:
    return str(given.get("path") if isinstance(given, dict) else given)
