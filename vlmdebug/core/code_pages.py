"""The page of each mismatch code: what it means, why it matters, an example and the fix."""

from __future__ import annotations

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
