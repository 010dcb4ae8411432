"""Trials in a process of their own: methods, and functions of files inside packages.

Whatever such a file does when it is imported ends with that process: stand-ins for libraries, an
exit, a crash, or a loop without end.
"""

from __future__ import annotations

import ast
import io
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdebug.errors import BadInput, NotJudged
from vlmdebug.review.entry import entries
from vlmdebug.review.files import Raw, text_of
from vlmdebug.review.module import Module
from vlmdebug.review.tried import run
from vlmdebug.safe import one_line

if TYPE_CHECKING:
    from vlmdebug.running.method import Method

LIMIT = 600.0
"""Seconds that a trial without a limit of its own may take."""


def is_apart(name: str) -> bool:
    """Whether `FILE.py:NAME` is tried in a process of its own. The file is read, not run.

    It is if it names a method, stands in a package, or takes neither `(inputs, chunk_size)` nor
    `(model, inputs, chunk_size)` but parts of a batch.
    """
    file, colon, function = name.rpartition(":")
    path = Path(file)
    if not colon or path.suffix != ".py" or not path.is_file():
        return False
    try:
        module = Module(ast.parse(text_of(Raw(str(path), path.read_bytes()))))
    except (BadInput, SyntaxError, ValueError, RecursionError):
        return False
    entry = next((one for one in entries(module) if one.path == function), None)
    if entry is None:
        return False
    if entry.owner is not None or (path.resolve().parent / "__init__.py").is_file():
        return True
    roles = {*map(entry.role, entry.arguments)}
    return not entry.is_by_place and bool(roles & {"key", "batch"})


def run_apart(
    arguments: Sequence[str], seconds: float | None, columns: int | None = None
) -> tuple[int, str, str]:
    """Run this command line in another process: exit status, output, errors.

    Args:
        arguments: The command line.
        seconds: Those that the search may take, or None.
        columns: Width of the text that it writes; None: as in a file.

    Raises:
        NotJudged: It took too long, or crashed.
    """
    limit = LIMIT if seconds is None else 2 * seconds + 120
    try:
        width = {} if columns is None else {"COLUMNS": str(columns)}
        ended = run([*arguments, "--apart"], limit, **width)
    except subprocess.TimeoutExpired:
        raise NotJudged(
            f"The trial took more than {limit:.0f} seconds and was stopped. Nothing was judged. "
            "Try fewer cases: --seconds 60."
        ) from None
    if ended.returncode not in (0, 1, 2):
        raise NotJudged(
            f"The process of the trial ended with status {ended.returncode}. Nothing was judged. "
            f"It said: {one_line(ended.stderr[-300:].strip() or 'nothing')}"
        )
    return ended.returncode, ended.stdout, ended.stderr


@contextmanager
def method_of(name: str, given: Mapping[str, Any], text: Path | None = None) -> Iterator[Method]:
    """The function or method `FILE.py:NAME` as a slicer; what it prints is not shown.

    Args:
        name: File and function.
        given: Values by path, such as `self.args.use_vllm`.
        text: A file with the source to run in place of that in `FILE.py`.

    Raises:
        BadInput: There is no such function.
    """
    import inspect
    import types

    from vlmdebug.running.invented import Ledger
    from vlmdebug.running.method import Method
    from vlmdebug.running.package_file import from_file

    file, _, function = name.rpartition(":")
    unseen = io.StringIO()
    with redirect_stdout(unseen), redirect_stderr(unseen):
        ledger = Ledger(given)
        found = inspect.unwrap(from_file(Path(file), function, ledger, text))
        if not isinstance(found, types.FunctionType):
            raise BadInput(f"{one_line(function)} is no function of Python. Nothing was tried.")
        yield Method(found, ledger)


def given_by(options: Sequence[str]) -> dict[str, Any]:
    """Values by path, of `PATH=VALUE` with Python literals.

    Raises:
        BadInput: It has another form.
    """
    found = {}
    for option in options:
        path, equals, value = option.partition("=")
        try:
            found[path.strip()] = ast.literal_eval(value.strip())
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            equals = ""
        if not equals or not path.strip():
            raise BadInput(
                f"--given is {one_line(option, 80)}, but it is PATH=VALUE with a Python literal. "
                "Nothing was tried. Write --given self.args.use_vllm=False, and texts in quotes."
            )
    return found
