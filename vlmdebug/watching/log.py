"""The log of a watched model: one line of JSON per call, and a file for each rank."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TextIO

from vlmdebug.checking.report import Report
from vlmdebug.errors import BadInput
from vlmdebug.watching.rank import file_of_rank


class Line(Protocol):
    """What is written: a call."""

    def to_dict(self) -> dict[str, Any]: ...


class Notice(NamedTuple):
    """A message to the user: a mismatch with its report, or that the log ended."""

    text: str
    report: Report | None = None


def log_of(log: str | Path | None) -> Log | None:
    """The log of this rank."""
    return None if log is None else Log(file_of_rank(Path(log), main=True))


class Log:
    """One JSON line per call. If writing fails, the log ends, not the program."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: TextIO | None = path.open("w", encoding="utf-8")
        except OSError as error:
            raise BadInput(
                f"log is {str(path)!r}, which cannot be written: {error.strerror}. "
                "Nothing was watched. Pass a file in an existing folder, or leave log out."
            ) from error

    def write(self, call: Line) -> list[Notice]:
        """Write a line; return a message if that failed."""
        if self._file is None:
            return []
        try:
            self._file.write(json.dumps(call.to_dict()) + "\n")
            self._file.flush()
        except OSError as error:
            return self._ended(error)
        return []

    def close(self) -> list[Notice]:
        if self._file is None:
            return []
        try:
            self._file.close()
        except OSError as error:
            return self._ended(error)
        return []

    def _ended(self, error: OSError) -> list[Notice]:
        file, self._file = self._file, None
        with suppress(OSError):  # closing writes the buffered part again, which fails again
            if file is not None:
                file.close()
        text = f"The log {str(self._path)!r} ends here: {error.strerror}. "
        return [Notice(text + "The model is watched all the same; see trace.calls.")]
