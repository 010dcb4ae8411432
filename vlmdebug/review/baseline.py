"""Findings that are known already: what identifies one, and the file that lists them.

A finding is identified by file, code, function and text, not by its line, so that code may move.
Equal ones in a function are numbered: of two, only as many are known as the file lists.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vlmdebug.errors import BadInput
from vlmdebug.review.files import from_here
from vlmdebug.review.remarks import Remark

VERSION = 1


def fingerprints(remarks: Sequence[Remark]) -> list[str]:
    """One fingerprint per remark, each different from the others, in hexadecimal digits."""
    seen: Counter[tuple[str, ...]] = Counter()
    found = []
    for remark in remarks:
        same = (from_here(Path(remark.file)), remark.code, remark.function, remark.text)
        seen[same] += 1
        parts = json.dumps([*same, seen[same]])
        found.append(hashlib.sha256(parts.encode()).hexdigest()[:32])
    return found


def write_baseline(path: Path, findings: Sequence[Remark]) -> None:
    """Write the findings to a JSON file, one a line.

    Raises:
        OSError: The file cannot be written.
    """
    rows = [
        {
            "file": from_here(Path(one.file)),
            "code": one.code,
            "function": one.function,
            "text": one.text,
            "fingerprint": mark,
        }
        for one, mark in zip(findings, fingerprints(findings), strict=True)
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f'{{"version": {VERSION}, "findings": [\n{lines}\n]}}\n', encoding="utf-8")


def read_baseline(path: Path) -> frozenset[str]:
    """The fingerprints in a file of `write_baseline`.

    Raises:
        BadInput: It is no such file.
        OSError: It cannot be read.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise ValueError
        return frozenset(str(row["fingerprint"]) for row in data["findings"])
    except (ValueError, TypeError, KeyError, RecursionError):
        raise BadInput(
            f"{path} is no baseline of this version. Nothing was reviewed. "
            f"Write one with: vlmdebug review … --write-baseline {path}"
        ) from None
