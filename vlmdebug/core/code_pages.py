"""The page of each mismatch code: what it means, why it matters, an example and the fix."""

from __future__ import annotations

import re
from pathlib import Path

from vlmdebug.core.given import public
from vlmdebug.core.mismatch import CODES
from vlmdebug.errors import BadInput

HERE = Path(__file__).parents[1]
FOLDERS = HERE / "codes", HERE.parent / "docs" / "codes"  # as installed; in a checkout


@public
def page(code: str) -> Path:
    """The Markdown page of a code, in upper or lower case; its example runs unchanged.

    Raises:
        BadInput: No mismatch has that code.
    """
    if code.upper() not in CODES:
        raise BadInput(
            f"{code!r} is no mismatch code. They are {min(CODES)} to {max(CODES)}; "
            "`vlmdebug explain` lists them."
        )
    places = [folder / f"{code.upper()}.md" for folder in FOLDERS]
    return next((path for path in places if path.is_file()), places[0])


def meaning(code: str) -> str:
    """The first paragraph of a code's page, without its markup; the title where there is none."""
    try:
        _, *paragraphs = page(code).read_text(encoding="utf-8").split("\n\n")
    except OSError:
        paragraphs = []
    first = " ".join(paragraphs[0].split()) if paragraphs else f"{CODES[code]}."
    return re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", first).replace("**What.** ", "").replace("`", "")
