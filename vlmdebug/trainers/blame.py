"""Which side an error belongs to that ended a trial: the trainer, or the adapter of vlmdebug.

The trainer is blamed only for what its own lines raise. An error that a line of the adapter raises,
a replacement that the trainer cannot use, and what follows from a part that the test lacks are gaps
of the trial.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import update_wrapper
from pathlib import Path
from traceback import walk_tb
from types import CodeType, FunctionType
from typing import Any

from vlmdebug.core.signature import Slicer
from vlmdebug.core.wording import short_name
from vlmdebug.errors import NotJudged
from vlmdebug.running.raised import place_of
from vlmdebug.safe import one_line
from vlmdebug.trainers.source import INSTEAD

HERE = Path(__file__).parent
ADAPTERS = f"{__name__.rpartition('.')[0]}."
BELOW = {"torch", "numpy", "functools.py"}
"""Libraries that raise for the line that calls them."""
CALLED = re.compile(r"([\w.<>]+)\(\) (?:takes|got|missing) ")
"""What Python says of a call that does not fit the function's parameters."""
PARTS = re.compile(r"'(?:Part|Instance|Prepared)'")
"""What Python says of an object that represents a part of a trainer."""


def blaming(slicer: Slicer, release: str, maker: Callable[..., Any]) -> Slicer:
    """The same slicer; an error that is not the trainer's is raised as NotJudged.

    Args:
        slicer: Runs the trainer's code.
        release: For messages: `verl 0.9.1 dynamic`.
        maker: The function that made the slicer; its file is the adapter's.
    """
    own = inspect.unwrap(maker)

    def judged(inputs: dict[str, Any], chunk_size: int) -> Iterator[Mapping[str, Any]]:
        outer = sys.exc_info()[1]
        try:
            yield from slicer(inputs, chunk_size)
        except NotJudged:
            raise
        except Exception as error:
            for link in _followed(error, outer):
                if isinstance(link, NotJudged):
                    raise NotJudged(str(link)) from error
                fault = _fault_of(own, link)
                if fault is not None:
                    raise NotJudged(_said(release, link, fault)) from error
            raise

    return update_wrapper(judged, slicer)


def _said(release: str, error: BaseException, fault: str) -> str:
    return (
        f"The adapter of vlmdebug for {one_line(release, 80)} failed: {type(error).__name__} at "
        f"{one_line(fault, 200)}: {one_line(error, 200)}. This is a fault of vlmdebug, of which "
        f"the adapter may not fit this release; it says nothing about the trainer. {INSTEAD}"
    )


def _followed(error: BaseException, outer: BaseException | None) -> Iterator[BaseException]:
    """The error, and those in the handling of which it was raised, `from None` included."""
    link, seen = error, set[int]()
    while link is not None and link is not outer and id(link) not in seen:
        yield link
        seen.add(id(link))  # `raise error from error` leads back to itself
        link = link.__cause__ or link.__context__


def _fault_of(maker: Any, error: BaseException) -> str | None:
    """The line where the adapter failed, `trainers/verl.py:31`; None if the trainer did."""
    own = {HERE, Path(maker.__code__.co_filename)}
    for frame, line in reversed([*walk_tb(error.__traceback__)]):
        file = Path(frame.f_code.co_filename)
        if not own.isdisjoint({file, file.parent}):
            return f"{short_name(str(file))}:{line}"
        if HERE.parent not in file.parents and BELOW.isdisjoint(file.parts):
            break  # a line of the trainer, or of what it uses
    if isinstance(error, TypeError) and _is_about_a_replacement(maker, str(error)):
        return f"{place_of(error)}, which uses what the adapter puts in place of a part of it"
    return None


def _is_about_a_replacement(maker: Any, said: str) -> bool:
    """Whether the trainer used a function or an object of the adapter as it cannot be used."""
    called = CALLED.match(said)
    if called is None:
        return PARTS.search(said) is not None
    return called[1] in _functions(maker)


def _functions(maker: Any) -> Iterator[str]:
    """The qualified name of every function of the adapter, inner ones included."""
    modules = [vars(sys.modules[name]) for name in [*sys.modules] if name.startswith(ADAPTERS)]
    for scope in (maker.__globals__, *modules):
        for value in [*scope.values()]:
            if isinstance(value, FunctionType):
                yield from _within(value.__code__, value.__qualname__)
    yield from _within(maker.__code__, maker.__qualname__)


def _within(code: CodeType, name: str) -> Iterator[str]:
    yield name
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _within(inner, f"{name}.<locals>.{inner.co_name}")
