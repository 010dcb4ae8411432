"""What was found in one call, or why it is unread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypedDict

from vlmdebug.checking.report import Report
from vlmdebug.errors import VlmDebugError

COUNTS_DIFFER = "VLM009"
"""The code of a chunk with another number of placeholders than of features."""
TRANSFORMED = (
    "The model was called inside a transform of torch.func (vmap, grad, jvp), where tensors have "
    "no memory of their own, so rows cannot be identified. This call was not judged. Watch a call "
    "outside of it."
)


class Judged(NamedTuple):
    """What was found in a call.

    Attributes:
        ok: Whether all was read and was right.
        report: Puts the report together: most calls are right, and nobody asks for it.
    """

    ok: bool
    report: Callable[[], Report]

    @classmethod
    def of(cls, report: Report) -> Judged:
        return cls(report.ok, partial(_itself, report))


class Verdict(TypedDict, total=False):
    """What came of one call: what was found, or why it could not be read."""

    judged: Judged
    unread: str


def _itself(report: Report) -> Report:
    return report


def why(error: Exception) -> str:
    """Why a call is unread: the message for the user, or that the error is ours."""
    if isinstance(error, NotImplementedError) and "Cannot access storage" in str(error):
        return TRANSFORMED
    ours = f"vlmdebug failed: {type(error).__name__}: {error}"
    return str(error) if isinstance(error, VlmDebugError) else ours
