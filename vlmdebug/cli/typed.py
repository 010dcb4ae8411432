"""Messages in the names of the command line, where they name arguments of Python.

`read_batch` says "Pass processor=" and "num_images has 2 entries". Who typed `--num-images 1,1`
reads of `--num-images`. Calls that a message shows as code stay as they are.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlmdebug.safe import spell_names

ALSO = {"config": "processor", "layout": "family"}
"""Arguments of Python that another option sets: a folder has the processor and the config."""
CALL = r"\w+\([^()]*\)"
VALUE = r"\[[^\]]*\]|\"[^\"]*\"|'[^']*'|\{[^}]*\}|\w+(?:\.\w+)*"

PARTS = re.compile(r"[:/=]")
"""Between the parts of FILE.py:NAME, of which a message may name one."""


def options_of(command: argparse.ArgumentParser) -> list[argparse.Action]:
    """What a command takes, as its help lists it."""
    return [one for one in command._actions if one.help is not argparse.SUPPRESS]


def in_options(said: str, options: argparse.Namespace) -> str:
    """A message with options in place of the arguments that it names.

    Args:
        said: The message.
        options: What was parsed; `command` is the parser of the command, and `typed` the words, of
            which none acts where the message is printed.
    """
    flags = {one.dest: one for one in options_of(options.command) if one.option_strings}
    names = "|".join(map(re.escape, [*flags, *ALSO]))
    kept = "|".join([CALL, *(re.escape(str(one)) for one in _names(options))])
    said = re.sub(
        rf"({kept})|(?<![\w.`])({names})=({VALUE})?",
        lambda found: found[1] or _as_option(flags, found[2], found[3]) or found[0],
        said,
    )
    said = re.sub(r"(--[\w-]+ [A-Z]+)(?:,? (?:or|and) \1)+(?: together)?", r"\1", said)
    for dest, action in flags.items():
        value = getattr(options, dest, None)
        if value != action.default:
            said = _as_typed(said, dest, action.option_strings[-1], value)
    typed: Sequence[str] = getattr(options, "typed", ())
    return spell_names(said, (part for one in typed for part in PARTS.split(one)))


def _names(options: argparse.Namespace) -> list[object]:
    """Files and names that were typed, which stay as they are."""
    return [one for one in vars(options).values() if isinstance(one, (str, Path)) and str(one)]


def _as_option(flags: Mapping[str, argparse.Action], name: str, value: str | None) -> str | None:
    """`--num-images 2,0,1` for `num_images=[2, 0, 1]`; None if there is no such option."""
    action = flags.get(ALSO.get(name, name))
    if action is None or (value or "").startswith("{"):
        return None
    flag = action.option_strings[-1]
    if action.nargs == 0:
        return flag if value in (None, str(action.const)) else None
    shown = (value or "").strip("[]\"'").replace(", ", ",")
    metavar = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return f"{flag} {metavar if shown in ('', '…') else shown}"


def _as_typed(said: str, dest: str, flag: str, value: object) -> str:
    """The message with the option that was typed, where it begins with its name or its value.

    A name that is no word of prose is one everywhere.
    """
    name = re.escape(dest)
    place = rf"(?<![\w`-]){name}(?![\w`=])" if "_" in dest else rf"^{name}\b|(?<=another ){name}\b"
    said = re.sub(place, flag, said)
    values = value if isinstance(value, list) else [value]
    begins = any(said.startswith((repr(one), f"{one}:")) for one in values if str(one))
    return f"{flag} {said}" if begins else said
