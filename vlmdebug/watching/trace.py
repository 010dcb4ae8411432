"""What `watch` found: every call of a model, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from vlmdebug.checking.report import Report
from vlmdebug.core.mismatch import Mismatch
from vlmdebug.core.record import Verdict
from vlmdebug.errors import VlmDebugError
from vlmdebug.watching.judged import Judged

UNCALLED = (
    "the model was not called. Watch the module that is called; "
    "wrappers such as PEFT call forward of the inner model and skip its hooks."
)


@dataclass(frozen=True)
class Call:
    """One call of the model, as plain data.

    Attributes:
        number: From 0.
        site: `folder/file.py:line` of the code that called the model.
        shapes: Shape of each tensor of the call.
        judged: The result; None if the call could not be read.
        unread: Why it could not be read.
        origin: Rank, step and samples, where a log is written; see `docs/ranks.md`.
        report: The result as a report with this call as its only chunk; built on first access.
    """

    number: int
    site: str
    shapes: Mapping[str, tuple[int, ...]]
    judged: Judged | None = field(default=None, repr=False)
    unread: str | None = None
    origin: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def report(self) -> Report | None:
        return None if self.judged is None else self.judged.report()

    @property
    def ok(self) -> bool:
        return self.judged is not None and self.judged.ok

    @property
    def mismatches(self) -> tuple[Mismatch, ...]:
        """The mismatches; also empty if the call could not be read."""
        return () if self.ok or self.report is None else self.report.mismatches

    def to_dict(self) -> dict[str, Any]:
        return {
            "call": self.number,
            "site": self.site,
            "shapes": {key: list(shape) for key, shape in self.shapes.items()},
            "verdict": Verdict.OK if self.ok else self.report.verdict if self.report else "UNREAD",
            "unread": self.unread,
            "mismatches": [mismatch.to_dict() for mismatch in self.mismatches],
            **self.origin,
        }


@dataclass
class Trace:
    """All calls of a watched model.

    Attributes:
        calls: Every call, in order.
    """

    calls: list[Call] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every call was read and was right; False if there was no call."""
        return bool(self.calls) and all(call.ok for call in self.calls)

    def report(self) -> Report:
        """One report on all calls; chunk numbers are call numbers.

        Raises:
            VlmDebugError: No call could be read.
        """
        read = [call for call in self.calls if call.report is not None]
        if not read:
            why = self.calls[0].unread if self.calls else UNCALLED
            raise VlmDebugError(f"There is nothing to report: {why}")
        first = read[0].report
        assert first is not None
        reports = [(call.number, call.report) for call in read if call.report is not None]
        return replace(
            first,
            slicer="watched calls",
            chunks=tuple(chunk for _, report in reports for chunk in report.chunks[:1]),
            mismatches=tuple(
                replace(mismatch, chunk=number)
                for number, report in reports
                for mismatch in report.mismatches
            ),
            ambiguities=tuple(
                dict.fromkeys(
                    [
                        *(text for _, report in reports for text in report.ambiguities),
                        *(call.unread for call in self.calls if call.unread is not None),
                    ]
                )
            ),
        )
