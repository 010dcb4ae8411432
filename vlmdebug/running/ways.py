"""What one run of code under trial passed on, how it ended, and whether two runs are alike."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from vlmdebug.core.keys import KEYS
from vlmdebug.errors import NotJudged
from vlmdebug.review.calls import PASSED
from vlmdebug.running.invented import Gap, Ledger, invented_in, is_invented, root_of
from vlmdebug.safe import one_line

OURS = Path(__file__).parents[1]
"""The folder of this package: none of its lines is one of the code under trial."""


@dataclass(frozen=True)
class Way:
    """One run: what it passed on, and how it ended.

    Attributes:
        made: The sides that it took.
        flipped: The condition of which it took the true side to see what that changes.
        calls: What it passed on.
        error: What the code raised.
        gap: Why it could not be followed.
    """

    made: dict[str, bool]
    flipped: str | None
    calls: list[dict[str, Any]]
    error: Exception | None
    gap: Gap | None


def gap_behind(error: Exception, ledger: Ledger) -> Gap | None:
    """The gap that led to an exception; None if the code itself did."""
    if isinstance(error, NotJudged):
        return Gap("the stand-in for the model", one_line(error, 200))
    if isinstance(error, ImportError):
        return Gap(error.name or "a library", "a part")
    if isinstance(error, UnboundLocalError):
        return None
    if _last(error) is None:
        return Gap("its arguments", one_line(f"{type(error).__name__}: {error}", 200))
    for value in (*error.args, *_used(error)):
        if is_invented(value):
            return Gap(root_of(invented_in(value)), "the value")
    if "Invented" in str(error):
        return Gap([*ledger.invented][-1] if ledger.invented else "a value", "the value")
    return None


def _used(error: Exception) -> Iterator[Any]:
    """Values of the local names on the line that raised."""
    trace = _last(error)
    with suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(_line(trace).rstrip(":"))):
            if trace is not None and isinstance(node, ast.Name):
                yield trace.tb_frame.f_locals.get(node.id)


def _last(error: Exception | None) -> TracebackType | None:
    """The last line of the traceback that is not one of this package."""
    trace = None if error is None else error.__traceback__
    found = None
    while trace is not None:
        if OURS not in Path(trace.tb_frame.f_code.co_filename).parents:
            found = trace
        trace = trace.tb_next
    return found


def _line(trace: TracebackType | None) -> str:
    if trace is None:
        return ""
    return linecache.getline(trace.tb_frame.f_code.co_filename, trace.tb_lineno).strip()


def is_refusal(error: Exception | None) -> bool:
    """Whether a `raise` or `assert` of the code ended the run."""
    return _line(_last(error)).startswith(("raise ", "assert "))


def alike(one: Way, other: Way) -> bool:
    """Whether two ways pass the same rows of the batch on."""
    if type(one.error) is not type(other.error) or len(one.calls) != len(other.calls):
        return False
    return all(map(_same, one.calls, other.calls))


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    left, right = ({k: v for k, v in call.items() if _is_judged(k, v)} for call in (one, other))
    return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)


def _is_judged(key: str, value: Any) -> bool:
    return value is not None and key in KEYS and KEYS[key].kind in PASSED


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(one) is type(other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.data_ptr() == other.data_ptr() or torch.equal(one, other)
