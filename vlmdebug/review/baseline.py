"""Findings that a project has accepted: a file that is made once, and kept next to the code.

Paths in it are relative to its folder, and it is sorted, so that it reads the same from wherever it
is written. A finding that is wrong in more layouts than the accepted one is reported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.review.fingerprints import fingerprints
from vlmdebug.review.remarks import Remark
from vlmdebug.review.result import Review

VERSION = 1


class Baseline:
    """The findings of a baseline file.

    Raises:
        BadInput: It is not there, or no baseline.
    """

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise BadInput(
                f"The baseline {path} does not exist. Nothing was reviewed. Write it with: "
                f"vlmdebug review … --write-baseline {path}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"The baseline {path} cannot be read: {error}.") from None
        try:
            data: Any = json.loads(text)
            if data["version"] != VERSION:
                raise ValueError("version")
            self._accepted = {
                str(one["fingerprint"]): frozenset(map(str, one["layouts"]))
                for one in data["findings"]
            }
        except (ValueError, LookupError, TypeError, RecursionError):
            raise BadInput(
                f"{path} is no baseline of vlmdebug's, version {VERSION}. Nothing was reviewed. "
                f"Write it again with: vlmdebug review … --write-baseline {path}"
            ) from None

    def without(self, review: Review) -> Review:
        """The review of one file without what is accepted."""
        marks = _marks(review.findings, self._folder)
        accepted = {
            id(one)
            for one, mark in zip(review.findings, marks, strict=True)
            if {*one.wrong} <= self._accepted.get(mark, frozenset()) and mark in self._accepted
        }
        rest = tuple(one for one in review.remarks if id(one) not in accepted)
        return replace(review, remarks=rest, accepted=review.accepted + len(accepted))


def write_baseline(review: Review, path: Path) -> None:
    """Write the findings of a review as a baseline.

    Raises:
        OSError: The file cannot be written.
    """
    rows = [
        {
            "file": _relative(one.file, path.parent),
            "function": one.function,
            "code": one.code,
            "text": one.text,
            "layouts": sorted(one.wrong),
            "fingerprint": mark,
        }
        for one, mark in zip(review.findings, _marks(review.findings, path.parent), strict=True)
    ]
    rows.sort(key=lambda row: [str(value) for value in row.values()])
    text = json.dumps({"version": VERSION, "findings": rows}, indent=1)
    path.write_text(f"{text}\n", encoding="utf-8")


def _marks(findings: Sequence[Remark], folder: Path) -> list[str]:
    return fingerprints(findings, lambda file: _relative(file, folder))


def _relative(file: str, folder: Path) -> str:
    """The path from one to the other, the same on every system."""
    try:
        return Path(os.path.relpath(Path(file).resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return Path(file).as_posix()
