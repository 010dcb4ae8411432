"""Exit codes, and what every command uses to print."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
from typing import TypeAlias

from vlmdebug.safe import harmless, plain

OK, FOUND, FAILED = 0, 1, 2
WIDTH = 88

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What each module of a command adds its parser to."""


def complain(said: object) -> None:
    """Say on the error stream why a command could not run."""
    print(harmless(f"vlmdebug: {plain(said)}"), file=sys.stderr)


def show_line(said: object = "") -> None:
    """Print lines that may hold names from data, so that none is a command to a CI system."""
    print(harmless(said))


def show(said: object) -> None:
    """Print a report or text, with colour and links if terminal and rich allow them."""
    if not is_rich():
        show_line(said)
        return
    from rich.console import Console

    from vlmdebug.views.text import coloured

    Console().print(coloured(harmless(said)))


def is_rich() -> bool:
    """Whether the output is a terminal that `rich` can colour."""
    return sys.stdout.isatty() and importlib.util.find_spec("rich") is not None


def text_width() -> int:
    """Columns for text: those of a terminal, within what can be read; else as in a file."""
    columns = shutil.get_terminal_size((WIDTH, 0)).columns if sys.stdout.isatty() else WIDTH
    return min(max(columns, 60), 120)
