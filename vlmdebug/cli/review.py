"""`vlmdebug review`: read slicing code without running it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmdebug.cli.show import FOUND, OK, Commands, show
from vlmdebug.errors import BadInput


def add(commands: Commands) -> None:
    """Add `review`."""
    review = commands.add_parser(
        "review",
        help="read slicing code without running it: what is cut by what, in which layouts",
        description="Read Python files without running them. Every function that cuts a batch is "
        "followed once for each layout that is known.",
    )
    review.add_argument("paths", nargs="*", type=Path, help="files, and folders of them")
    review.add_argument(
        "--diff",
        metavar="FILE",
        help="review only functions that this unified diff touches; - reads it from the input. "
        "Without paths, the files it names",
    )
    review.add_argument(
        "--family", action="append", help="judge by this layout only; may be given several times"
    )
    review.add_argument(
        "--format",
        choices=("text", "json", "github", "gitlab", "sarif"),
        default="text",
        help="github: findings as notes on the lines of a pull request",
    )
    review.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from vlmdebug import review

    names, lines = options.paths, None
    if options.diff is not None:
        raw = sys.stdin.buffer.read() if options.diff == "-" else Path(options.diff).read_bytes()
        lines = review.changed(raw.decode(errors="replace"))
        if not lines:
            raise BadInput(
                "The diff names no file. Nothing was reviewed. Pass a unified diff, as `git diff` "
                "prints it."
            )
        python = [Path(name) for name in lines if name.endswith(".py")]
        missing = [str(path) for path in python if not path.exists()]
        if missing and not names:
            raise BadInput(
                f"The diff changes {missing[0]}, which is not here. Nothing was reviewed. "
                "Run this where the diff was made, on the changed files, or pass their paths."
            )
        names = names or python
    if not names and lines is None:
        raise BadInput("Nothing to review was given. Pass files or folders, or --diff FILE.")
    found = review.paths(names, families=options.family, lines=lines)
    if options.format == "text":
        show(found)
    else:
        print(getattr(found, f"to_{options.format}")())
    return OK if found.ok else FOUND
