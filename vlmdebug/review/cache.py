"""Reviews of files that were read before, in `.vlmdebug_cache`.

An entry is found by all that a review depends on: the file's name and bytes, the options, this
package, Python, and the release of transformers. Entries are plain JSON below their checksum, so
that a damaged one is read again and nothing in it can act. The folder may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path

import numpy as np

from vlmdebug.families import release
from vlmdebug.review.files import Raw
from vlmdebug.review.remarks import Remark
from vlmdebug.review.result import Review

_FIELDS = [one.name for one in fields(Review)]
FOLDER = ".vlmdebug_cache"
PACKAGE = Path(__file__).parents[1]


class Cache:
    """The cache below a folder. What cannot be read or written there is left out."""

    def __init__(self, root: Path) -> None:
        self._root = root / FOLDER
        self._own = self._root / package_id()

    def get(self, raw: Raw, families: tuple[str, ...] | None) -> Review | None:
        """The review of a file, None if it is not known."""
        try:
            mark, _, text = self._path(raw, families).read_text(encoding="utf-8").partition("\n")
            if mark != _digest(text):
                return None
            return _from_dict(json.loads(text))
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return None

    def put(self, raw: Raw, families: tuple[str, ...] | None, review: Review) -> None:
        """Keep the review of a file."""
        text = json.dumps(asdict(review))
        path = self._path(raw, families)
        try:
            if not self._own.is_dir():
                self._make()
            path.parent.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(dir=path.parent)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(f"{_digest(text)}\n{text}")
            os.replace(name, path)  # at once, so that no other process reads a part
        except (OSError, ValueError):
            return

    def _make(self) -> None:
        """Make the folder, which git ignores, and drop what other versions left in it."""
        self._root.mkdir(parents=True, exist_ok=True)
        (self._root / ".gitignore").write_text("*\n", encoding="utf-8")
        for other in self._root.iterdir():
            if other.is_dir() and not other.is_symlink() and len(other.name) == len(package_id()):
                shutil.rmtree(other, ignore_errors=True)
        self._own.mkdir(exist_ok=True)

    def _path(self, raw: Raw, families: tuple[str, ...] | None) -> Path:
        settings = json.dumps([raw.name, families]).encode()
        key = hashlib.sha256(len(settings).to_bytes(8, "big") + settings + raw.data).hexdigest()
        return self._own / key[:2] / f"{key[2:]}.json"


@cache
def package_id() -> str:
    """What identifies everything besides the file that a review depends on."""
    files = sorted(PACKAGE.rglob("*.py"))
    parts = [
        sys.version,
        np.__version__,
        release.version(),
        [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files],
    ]
    return _digest(json.dumps(parts))[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _from_dict(data: dict[str, object]) -> Review:
    """The inverse of `asdict`."""
    remarks = data.pop("remarks")
    if not isinstance(remarks, list) or data.keys() != {*_FIELDS} - {"remarks"}:
        raise ValueError("no review")
    return Review(
        tuple(Remark(**_with_tuples(one)) for one in remarks),  # type: ignore[arg-type]
        **_with_tuples(data),  # type: ignore[arg-type]
    )


def _with_tuples(data: dict[str, object]) -> dict[str, object]:
    return {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
