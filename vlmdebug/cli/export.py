"""`vlmdebug export`: corrected slicing code for a saved batch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmdebug.cli.given import batch_options, not_checked, read
from vlmdebug.cli.show import OK, Commands, show_line, waiting
from vlmdebug.safe import one_line


def add(commands: Commands) -> None:
    """Add `export`."""
    export = commands.add_parser(
        "export",
        help="corrected slicing code for a saved batch",
        epilog="Example: vlmdebug export batch.pt --processor ./checkpoint --out cut.py",
    )
    batch_options(export)
    export.add_argument("--out", type=Path, help="write the code here instead of printing it")
    export.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from vlmdebug.running.export import export

    with waiting("writing the code and testing it"):
        code = export(read(options))
        survived = code.verify()
    if options.out is None:
        show_line(code.source)
    else:
        show_line(f"wrote {code.save(options.out)}")
    said = f"cut its own batch right, and survived {int(survived)} generated batches of"
    print(f"# {said} {one_line(code.family)}{not_checked(survived)}", file=sys.stderr)
    return OK
