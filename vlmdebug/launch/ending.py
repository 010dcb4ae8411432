"""The end of a watched process: what was found, in a few lines on stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vlmdebug.launch.settings import Settings
from vlmdebug.safe import harmless, one_line, plain

if TYPE_CHECKING:
    from vlmdebug.watching.session import Found, Session

MOST_SHOWN = 5
NO_CALL = "no call of a transformers model with images, videos or audio was seen."


def session_of(settings: Settings, *, main: bool) -> Session:
    """A session that writes the files of this process."""
    from vlmdebug.watching.session import Session, file_of_rank

    calls = settings.calls
    return Session(
        raising=settings.raising,
        sample_every=settings.sample_every,
        html=file_of_rank(settings.html, main=main),
        log=None if calls is None else file_of_rank(calls, main=main),
    )


def end(session: Session | None, settings: Settings, *, main: bool) -> None:
    """Print the report of this process; nothing in a process that called no model."""
    if session is not None:
        session.finish()
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    lines = [*summary_of(session)] if session is not None and session.models else []
    if error is not None and (session is None or not session.found):
        lines += _after(error)
    if lines:
        _mark(settings)
    elif main and not _is_marked(settings):
        lines = [NO_CALL]
    if session is not None and session.failed:
        lines.append(f"vlmdebug itself failed; the program did not notice: {session.failed}")
    if lines:
        first, *rest = lines
        print(harmless("\n".join([f"vlmdebug{_rank()}: {first}", *rest])), file=sys.stderr)


def _rank() -> str:
    rank = os.environ.get("RANK", "")
    return f" (rank {rank})" if rank.isdecimal() else ""


def _mark(settings: Settings) -> None:
    if settings.seen:
        Path(settings.seen).touch()


def _is_marked(settings: Settings) -> bool:
    if not settings.seen or not Path(settings.seen).exists():
        return False
    Path(settings.seen).unlink(missing_ok=True)
    return True


def summary_of(session: Session) -> Iterator[str]:
    """What was judged and found."""
    names = ", ".join(map(one_line, session.models))
    calls = f"{session.judged} call{'' if session.judged == 1 else 's'} of {names} judged"
    if session.skipped:
        calls += f" and {session.skipped} skipped"
    missed = session.unread.total()
    reason, _ = next(iter(session.unread.most_common(1)), ("", 0))
    left = f" {missed} not compared: {one_line(reason, 300)}" if missed else ""
    if not session.found:
        yield f"{calls}, nothing found.{left}"
        return
    wrong = sum(found.calls for found in session.found.values())
    yield f"{calls}, {wrong} of them wrong.{left}"
    for found in [*session.found.values()][:MOST_SHOWN]:
        yield from _lines(found)
    more = len(session.found) - MOST_SHOWN
    if more > 0:
        yield f"… {more} more in the report"
    if session.html is not None and session.html.exists():
        yield f"report: {session.html}"


def _lines(found: Found) -> Iterator[str]:
    report = found.call.report
    if report is None:
        return
    again = f", and {found.calls - 1} more like it" if found.calls > 1 else ""
    yield f"call {found.call.number} at {one_line(found.call.site)}, {one_line(found.model)}{again}"
    finding = report.findings[0]
    yield f"  {finding.code} {finding.title}: {finding.loudness}"
    yield from (f"    {line}" for line in plain(finding.message).splitlines())


def _after(error: BaseException) -> list[str]:
    """What the exception that ended the program left in its frames, if it is of our kind."""
    from vlmdebug.failing.post_mortem import post_mortem

    found = post_mortem(error)
    return [] if found.ok and found.explained is None else found.summary().splitlines()
