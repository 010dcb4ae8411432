"""What identifies a finding from one review to the next.

It is file, code, function and text, not the line, so that code may move. Equal findings in a
function are numbered.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from vlmdebug.review.files import from_here
from vlmdebug.review.remarks import Remark


def named_from_here(file: str) -> str:
    """A file as a person in this folder names it."""
    return from_here(Path(file))


def fingerprints(
    remarks: Sequence[Remark], named: Callable[[str], str] = named_from_here
) -> list[str]:
    """One fingerprint per remark, each different from the others, in hexadecimal digits."""
    seen: Counter[tuple[str, ...]] = Counter()
    found = []
    for remark in remarks:
        same = (named(remark.file), remark.code, remark.function, remark.text)
        seen[same] += 1
        parts = json.dumps([*same, seen[same]])
        found.append(hashlib.sha256(parts.encode()).hexdigest()[:32])
    return found
