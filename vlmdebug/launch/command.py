"""`vlmdebug run`: the same program in the same interpreter, with one more folder on its path."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

from vlmdebug.errors import BadInput
from vlmdebug.launch.settings import Settings
from vlmdebug.safe import one_line

PATH = Path(__file__).parent / "path"
"""The folder that every Python process of the program finds first on its path."""


def environment(settings: Settings) -> dict[str, str]:
    """The environment of this process, with what makes Python processes watch their models."""
    others = os.environ.get("PYTHONPATH")
    given = others.split(os.pathsep) if others else []  # an empty place in it is the folder here
    path = [str(PATH), *(one for one in given if one != str(PATH))]
    return {**os.environ, **settings.to_environment(), "PYTHONPATH": os.pathsep.join(path)}


def command(words: Sequence[str]) -> list[str]:
    """The command line that runs the program: a file, `-m module`, or a command such as torchrun.

    Raises:
        BadInput: There is no such file or command.
    """
    program, *_ = words or [""]
    python = [sys.executable, *subprocess._args_from_interpreter_flags()]  # type: ignore[attr-defined]
    if program == "-m" and len(words) > 1:
        return [*python, *words]
    if Path(program).is_file() and (program.endswith(".py") or shutil.which(program) is None):
        return [*python, *words]
    if Path(program).is_dir() and (Path(program) / "__main__.py").is_file():
        return [*python, *words]
    found = shutil.which(program) if program else None
    if found is None:
        what = f"no file or command {one_line(program)!r}" if program else "no program given"
        raise BadInput(
            f"There is {what}. Nothing was run. Write "
            "vlmdebug run train.py, vlmdebug run -m package.train, or vlmdebug run torchrun …"
        )
    return [found, *words[1:]]


def run_program(words: Sequence[str], settings: Settings) -> int:
    """Become the program; on Windows, wait for it and return its exit status."""
    line = command(words)
    seen = Path(tempfile.gettempdir()) / f"vlmdebug-{os.getpid()}-{token_hex(8)}"
    settings = replace(settings, main=os.getpid(), seen=str(seen))
    sys.stdout.flush()
    if os.name == "posix":
        os.execve(line[0], line, environment(settings))
    return subprocess.run(line, env=environment(replace(settings, main=None))).returncode
