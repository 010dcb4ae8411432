"""The end of a watched process: what was found, in a few lines on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vlmdebug.launch.settings import Settings
from vlmdebug.safe import harmless, one_line, plain
from vlmdebug.watching.rank import file_of_rank, rank

if TYPE_CHECKING:
    from vlmdebug.watching.session import Found, Session

MOST_SHOWN = 5
NO_CALL = "no call of a transformers model with images, videos or audio was seen."


def session_of(settings: Settings, html: Path, log: Path | None) -> Session:
    """A session that writes these files."""
    from vlmdebug.watching.session import Session

    return Session(
        raising=settings.raising,
        sample_every=settings.sample_every,
        html=html,
        log=log,
        shards=settings.shards,
        embedded=settings.embedded,
    )


def files_of(settings: Settings, *, main: bool, forked: bool) -> tuple[Path, Path | None]:
    """The report and the log of this process."""
    calls = settings.calls
    return (
        file_of_rank(settings.html, main=main, forked=forked),
        None if calls is None else file_of_rank(calls, main=main, forked=forked),
    )


def end(session: Session | None, settings: Settings, *, main: bool) -> None:
    """Print the report of this process; nothing in a process that called no model."""
    if session is not None:
        session.finish()
    error = getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)
    lines = [*summary_of(session)] if session is not None and session.models else []
    if error is not None and (session is None or not session.found):
        lines += _after(error)
    if not main and lines:
        _mark(settings)
    elif main and not _was_marked(settings) and not lines:
        lines = [NO_CALL]
    if session is not None and session.failed:
        failed = one_line(session.failed)
        lines.append(f"vlmdebug itself failed; the program did not notice: {failed}")
    if lines:
        _print(lines)


def _print(lines: Sequence[str]) -> None:
    """In one piece: several ranks write to the same stream."""
    number = rank()
    first = f"vlmdebug{'' if number is None else f' (rank {number})'}: {lines[0]}"
    sys.stderr.write(harmless("\n".join([first, *lines[1:]])) + "\n")
    sys.stderr.flush()


def _mark(settings: Settings) -> None:
    if settings.seen:
        Path(settings.seen).touch()


def _was_marked(settings: Settings) -> bool:
    """Whether another process had something to say; the mark is removed."""
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
    yield f"{calls}, {session.wrong} of them wrong.{left}"
    for found in [*session.found.values()][:MOST_SHOWN]:
        yield from _lines(found)
    more = len(session.found) - MOST_SHOWN
    if more > 0:
        yield f"… {more} more in the report"
    if session.html is not None and session.html.exists():
        yield f"report: {one_line(session.html)}"


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
