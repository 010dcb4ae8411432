"""`vlmdebug explain`: what a code means."""

from __future__ import annotations

import argparse

from vlmdebug.cli.show import OK, Commands, is_rich, show


def add(commands: Commands) -> None:
    """Add `explain`."""
    explain = commands.add_parser(
        "explain", help="what a mismatch code means, with an example and the fix"
    )
    explain.add_argument("code", nargs="?", help="VLM001 to VLM013; without it, all of them")
    explain.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from vlmdebug.core.code_pages import page
    from vlmdebug.core.mismatch import CODES

    if options.code is None:
        show("\n".join(f"{code}  {title}" for code, title in CODES.items()))
        return OK
    said = page(options.code).read_text(encoding="utf-8").strip()
    if is_rich():
        from rich.console import Console
        from rich.markdown import Markdown

        Console(width=min(Console().width, 100)).print(Markdown(said))
    else:
        print(said)
    return OK
