"""The first thing in a process of `vlmdebug run`: nothing is imported, only prepared."""

from __future__ import annotations

import atexit
import os
import sys
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING

from vlmdebug.launch.imports import AfterImport
from vlmdebug.launch.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from vlmdebug.watching.session import Session

MODULES = (
    "transformers.modeling_utils",
    "transformers.generation.utils",
    "peft.peft_model",
    "torch._dynamo.eval_frame",
)
"""Modules with a class that is watched once they are imported, as in `watching.session.CALLED`."""


class Process:
    """One process of a watched program, from its first import to its end."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_main: bool = settings.main == os.getpid()
        self.session: Session | None = None
        self._is_forked = False
        self._hook = sys.excepthook  # a sitecustomize may have set its own

    def begin(self) -> None:
        """Watch every model of this process, and report at its end."""
        atexit.register(self._end)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forked)
        sys.excepthook = self._raised
        AfterImport(MODULES, self._imported).install()

    def _imported(self, module: ModuleType) -> None:
        try:
            from vlmdebug.launch.ending import session_of

            self.session = self.session or session_of(self.settings, *self._files())
            self.session.patch(module)
        except Exception as error:  # the program goes on without us
            print(f"vlmdebug: {module.__name__} is not watched: {error!r}", file=sys.stderr)

    def _forked(self) -> None:
        self.is_main, self._is_forked = False, True
        if self.session is not None:
            self.session.forked(*self._files())

    def _files(self) -> tuple[Path, Path | None]:
        """The report and the log of this process."""
        from vlmdebug.launch.ending import files_of

        return files_of(self.settings, main=self.is_main, forked=self._is_forked)

    def _raised(
        self, kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        """The program's own traceback, without our frames."""
        self._hook(kind, error.with_traceback(_without_ours(trace)), error.__traceback__)

    def _end(self) -> None:
        try:
            from vlmdebug.launch.ending import end

            end(self.session, self.settings, main=self.is_main)
        except Exception as error:
            print(f"vlmdebug: no report could be made: {error!r}", file=sys.stderr)


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames of watched calls."""
    kept: list[TracebackType] = []
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") != "vlmdebug.watching.session":
            kept.append(trace)
        trace = trace.tb_next
    for one, following in zip(kept, [*kept[1:], None], strict=False):
        one.tb_next = following
    return kept[0] if kept else None


def begin() -> None:
    """Begin, if the environment asks for it."""
    settings = Settings.from_environment()
    if settings is not None:
        Process(settings).begin()
