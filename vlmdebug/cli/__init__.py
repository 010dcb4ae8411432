"""The command line: each module of this folder is one command.

A module adds its command to the parser with `add`. Exit codes: 0 no mismatch found, 1 mismatch
found, 2 could not run or not determined.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from traceback import format_exc

from vlmdebug.cli import (
    audit,
    check,
    demo,
    explain,
    export,
    falsify,
    families,
    merge,
    review,
    run,
)
from vlmdebug.cli.show import FAILED, UNREAD, complain, flush, is_output_lost, stop_writing
from vlmdebug.cli.typed import in_options
from vlmdebug.errors import VlmDebugError

COMMANDS = (run, check, falsify, export, review, audit, merge, explain, families, demo)
"""In the order in which `vlmdebug --help` lists them."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code, as SIGPIPE would give it if nobody reads on."""
    try:
        try:
            return _run(arguments)
        finally:  # behind --help, too: the output is written here, not when Python ends
            flush()
    except OSError as error:
        stop_writing()
        if isinstance(error, BrokenPipeError):
            return UNREAD
        complain(f"the output could not be written: {error.strerror or error}")
        return FAILED


def _run(arguments: Sequence[str] | None) -> int:
    options = _parser().parse_args(arguments)
    options.typed = [*(sys.argv[1:] if arguments is None else arguments)]
    try:
        return options.run(options)
    except VlmDebugError as error:
        complain(in_options(str(error), options))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "vlmdebug":
            raise
        extra = "torch" if error.name in ("torch", "safetensors") else "tiny"
        complain(
            f"{error.name or error} is not installed, but this command needs it. "
            f"Install it with: pip install 'vlmdebug[{extra}]'"
        )
    except OSError as error:
        if is_output_lost():
            raise
        place = "" if error.filename is None else f"{error.filename}: "
        complain(in_options(f"{place}{error.strerror or error}", options))
    except KeyboardInterrupt:
        complain("interrupted; nothing was judged.")
    except Exception:  # a bug of this package: not the exit status of a finding
        complain(f"this is a bug of vlmdebug's own, please report it:\n{format_exc()}")
    return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmdebug",
        description="See how a multimodal batch splits into chunks, and which row, image and "
        "slice went wrong.",
        epilog="Exit codes: 0 nothing found, 1 found something, 2 could not run or could not tell.",
    )
    version = f"vlmdebug {sys.modules['vlmdebug'].__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    for command in commands.choices.values():
        command.set_defaults(command=command)
    return parser
