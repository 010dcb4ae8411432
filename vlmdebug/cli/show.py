"""Exit codes, and what every command uses to print."""

from __future__ import annotations

import argparse
import importlib.util
import os
import select
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeAlias

from vlmdebug.safe import harmless, plain

OK, FOUND, FAILED = 0, 1, 2
UNREAD = 128 + 13
"""What a shell sees of a program that SIGPIPE ended, as in `vlmdebug families | head`."""
WIDTH, LEAST, MOST = 80, 40, 120
"""Columns of text in a file, and of the narrowest and widest terminal that is followed."""

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What each module of a command adds its parser to."""


def complain(said: object) -> None:
    """Say on the error stream why a command could not run."""
    print(harmless(f"vlmdebug: {plain(said)}"), file=sys.stderr)


def flush() -> None:
    """Write what is still kept of the output."""
    if sys.stdout is not None:  # closed from the start: `>&-`
        sys.stdout.flush()


def is_output_lost() -> bool:
    """Whether the output cannot be written, or nobody reads it any more."""
    try:
        flush()
    except OSError:
        return True
    if sys.stdout is None or not hasattr(select, "poll"):
        return False
    asked = select.poll()
    with suppress(OSError):  # output that is no file
        asked.register(sys.stdout.fileno(), 0)
    return bool(asked.poll(0))  # of a pipe without a reader, this is an error


def stop_writing() -> None:
    """Write what is left of the output to nowhere, so that Python does not complain at its end."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


@contextmanager
def waiting(doing: str) -> Iterator[Callable[[str], None]]:
    """Say what takes seconds in a line of the terminal's error stream, and remove it at the end.

    Nothing is said in a file or a pipe. The function that is yielded changes the line.
    """
    shown = [""]

    def say(said: str) -> None:
        line = harmless(plain(said))[: max(shutil.get_terminal_size().columns - 1, 0)]
        print(f"\r{line}{' ' * (len(shown[0]) - len(line))}", end="", file=sys.stderr, flush=True)
        shown[0] = line

    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda said: None
        return
    say(f"vlmdebug: {doing} …")
    try:
        yield lambda said: say(f"vlmdebug: {doing}, {said} …")
    finally:
        say("")
        print("\r", end="", file=sys.stderr, flush=True)


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
    return _is_terminal() and importlib.util.find_spec("rich") is not None


def show_text(said: object, first: str = "", then: str = "") -> None:
    """Print text, each of its lines after `first`, and what goes on in another line after `then`.

    Lines are as wide as the terminal, or `COLUMNS`; in a file each one stays as long as it is.
    """
    from vlmdebug.views.text import wrapped

    width = text_width() if is_width_known() else sys.maxsize
    show("\n".join(wrapped(str(said), first, then, width)))


def is_width_known() -> bool:
    """Whether text goes to a terminal, or `COLUMNS` says how wide it is."""
    return "COLUMNS" in os.environ or _is_terminal()


def text_width(in_a_file: int = WIDTH) -> int:
    """Columns for text: `COLUMNS`, or those of a terminal, within what can be read."""
    known = is_width_known()
    columns = shutil.get_terminal_size((in_a_file, 0)).columns if known else in_a_file
    return min(max(columns, LEAST), MOST)


def _is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()
