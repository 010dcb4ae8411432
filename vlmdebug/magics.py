"""`%load_ext vlmdebug`: `%vlmdebug` after a cell that failed, `%%vlmdebug` to watch one cell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vlmdebug.errors import BadInput, VlmDebugError
from vlmdebug.launch.begin import MODULES
from vlmdebug.launch.imports import AfterImport
from vlmdebug.safe import harmless

if TYPE_CHECKING:
    from vlmdebug.watching.session import Session

NAME = "vlmdebug"


def register(shell: Any) -> None:
    """Add the two magics to this shell."""
    shell.register_magic_function(_after, "line", NAME)
    shell.register_magic_function(_cell(shell), "cell", NAME)


def unregister(shell: Any) -> None:
    """Remove them."""
    for magics in shell.magics_manager.magics.values():
        magics.pop(NAME, None)


def _after(line: str) -> Any:
    """`%vlmdebug`: which sample and image the last exception came from."""
    from vlmdebug.failing.post_mortem import post_mortem

    if line.strip():
        return _say(BadInput(f"%vlmdebug takes nothing behind it, but was given {line.strip()!r}."))
    try:
        return post_mortem()
    except VlmDebugError as error:
        return _say(error)


def _say(error: VlmDebugError) -> None:
    print(f"vlmdebug: {error}", file=sys.stderr)


def _cell(shell: Any) -> Any:
    def watched(line: str, cell: str) -> None:
        """`%%vlmdebug`: run the cell, and judge every call of a model in it."""
        with watching() as sessions:
            result = shell.run_cell(cell)
        _show(next(iter(sessions), None), failed=not result.success)

    return watched


@contextmanager
def watching() -> Iterator[list[Session]]:
    """Watch the models that are called in the block; the list has a session once one is loaded."""
    sessions: list[Session] = []

    def patch(module: Any) -> None:
        from vlmdebug.watching.session import Session

        if not sessions:
            sessions.append(Session())
        sessions[0].patch(module)

    finder = AfterImport(MODULES, patch)
    finder.install()
    try:
        yield sessions
    finally:
        sys.meta_path.remove(finder)
        for session in sessions:
            session.unpatch(sys.modules)
            session.finish()


def _show(session: Session | None, *, failed: bool) -> None:
    """What was found in the cell: a line, and the report where something was."""
    from IPython.display import display

    from vlmdebug.launch.ending import NO_CALL, summary_of

    lines = [NO_CALL] if session is None or not session.models else [*summary_of(session)]
    print(harmless("\n".join([f"vlmdebug: {lines[0]}", *lines[1:]])))
    report = None if session is None else session.report()
    if report is not None:
        display(report)
    elif failed:
        _display_after()


def _display_after() -> None:
    from IPython.display import display

    found = _after("")
    if found is not None:
        display(found)
