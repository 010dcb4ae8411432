"""`vlmdebug explain`: what a code or an error text means."""

from __future__ import annotations

import argparse
import re

from vlmdebug.cli.show import OK, Commands, is_rich, show

CODE = re.compile(r"vlm-?\d{0,6}", re.IGNORECASE)


def add(commands: Commands) -> None:
    """Add `explain`."""
    explain = commands.add_parser(
        "explain",
        help="what a mismatch code or an error text means, and how to go on",
        epilog='Example: vlmdebug explain "Image features and image tokens do not match, '
        'tokens: 259, features: 256"',
    )
    explain.add_argument(
        "code",
        nargs="*",
        metavar="CODE|TEXT",
        help="VLM001 to VLM015, or the error of a model or processor; without it, all codes",
    )
    explain.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from vlmdebug.core.code_pages import page
    from vlmdebug.core.mismatch import CODES
    from vlmdebug.failing.explain import explanation

    asked = " ".join(options.code).strip()
    if not asked:
        show("\n".join(f"{code}  {title}" for code, title in CODES.items()))
        return OK
    if not CODE.fullmatch(asked):
        show(explanation(asked))
        return OK
    said = page(asked).read_text(encoding="utf-8").strip()
    if is_rich():
        from rich.console import Console
        from rich.markdown import Markdown

        Console(width=min(Console().width, 100)).print(Markdown(said))
    else:
        print(said)
    return OK
