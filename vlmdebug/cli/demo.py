"""`vlmdebug demo`: the story of one bug on tiny real models."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmdebug.cli.show import FOUND, OK, Commands, show, text_width


def add(commands: Commands) -> None:
    """Add `demo`."""
    demo = commands.add_parser(
        "demo",
        help="the story of one bug on tiny real models",
        epilog="Example: vlmdebug demo --out vlmdebug-demo",
    )
    demo.add_argument(
        "--out", type=Path, default=Path("vlmdebug-demo"), help="folder for the files"
    )
    demo.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from vlmdebug.demo import run_demo

    return OK if run_demo(options.out, width=text_width(), show=show) else FOUND
