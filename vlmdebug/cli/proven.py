"""`vlmdebug review --patch` and `--fix`: changes that are proven."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlmdebug.cli.show import FOUND, OK
from vlmdebug.safe import harmless

if TYPE_CHECKING:
    from vlmdebug.review import Review


def offer(found: Review, families: Sequence[str] | None, *, write: bool) -> int:
    """Print a diff, or write the files; a line for each change and for each finding that is left.

    With a diff, these lines go to the error stream, so that the output is the diff alone.
    """
    from vlmdebug.review.fixing import fixed

    where, left = sys.stdout if write else sys.stderr, 0
    for one in fixed(found.findings, families=families):
        if write:
            one.write()
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(one.diff)
            sys.stdout.buffer.flush()
        for said in (*(f"fixed: {fix}" for fix in one.fixes), *one.left):
            print(harmless(said), file=where)
        left += len(one.left)
    return FOUND if left else OK
