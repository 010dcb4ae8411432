"""The result of a review, as text and for other programs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain

from vlmdebug.core.wording import number
from vlmdebug.review import formats
from vlmdebug.review.remarks import WIDTH, Remark, wrapped
from vlmdebug.safe import harmless


@dataclass(frozen=True)
class Review:
    """The result of a review.

    Attributes:
        remarks: Findings, and remarks that depend on a condition that could not be evaluated.
        not_judged: `file:line: text` of cuts with bounds that could not be resolved.
        agreeing: Number of cuts that count what their rows count in every layout that reaches them.
        functions: Number of functions about media.
        never_run: `file:line:` of branches with cuts that no batch of any known layout reaches.
        older: Number of findings that are not among `remarks` because they are older than the
            reviewed change.
        older_notes: The same, of code that was not judged, never runs or depends on a condition.
        accepted: Number of findings that are not among `remarks` because a baseline has them.
        notes: How the review was made, where that limits it.
    """

    remarks: tuple[Remark, ...] = ()
    not_judged: tuple[str, ...] = ()
    agreeing: int = 0
    functions: int = 0
    never_run: tuple[str, ...] = ()
    older: int = 0
    older_notes: int = 0
    accepted: int = 0
    notes: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Remark, ...]:
        """What is wrong in some layout, whatever the conditions that were not evaluated give."""
        return tuple(remark for remark in self.remarks if remark.unsure is None)

    @property
    def ok(self) -> bool:
        """Whether there are no findings. This is no proof: cuts in `not_judged` were not judged."""
        return not self.findings

    def __add__(self, other: Review) -> Review:
        return Review.joined([self, other])

    @classmethod
    def joined(cls, reviews: Iterable[Review]) -> Review:
        """Several reviews as one, in their order."""
        every = [*reviews]
        return cls(
            tuple(chain.from_iterable(one.remarks for one in every)),
            tuple(chain.from_iterable(one.not_judged for one in every)),
            sum(one.agreeing for one in every),
            sum(one.functions for one in every),
            tuple(chain.from_iterable(one.never_run for one in every)),
            sum(one.older for one in every),
            sum(one.older_notes for one in every),
            sum(one.accepted for one in every),
            tuple(dict.fromkeys(chain.from_iterable(one.notes for one in every))),
        )

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self, width: int = WIDTH) -> str:
        """The review in lines of at most about `width` characters."""
        parts = [one.to_text(width) for one in self.findings]
        unsure = [one.to_text(width) for one in self.remarks if one.unsure is not None]
        if unsure:
            why = "No findings, because a condition could not be evaluated:"
            parts += [wrapped(why, width, ""), *unsure]
        if self.not_judged:
            parts.append("\n".join(["Not judged:", *self.not_judged]))
        if self.never_run:
            never = "Never runs, because no known layout has such a batch:"
            parts.append("\n".join([wrapped(never, width, ""), *self.never_run]))
        parts += [wrapped(note, width, "") for note in self.notes]
        parts.append("\n".join(wrapped(line, width, "") for line in self._summary))
        return harmless("\n\n".join(parts))

    @property
    def _summary(self) -> Iterator[str]:
        if not self.functions:
            none = "No function was found here that cuts the media of a batch"
            unread = number(len(self.not_judged), "file") if self.not_judged else ""
            yield f"{none}{unread and f'; {unread} not read'}."
            yield from self._hidden
            return
        yield (
            f"Read {number(self.functions, 'function')} about media: "
            f"{number(len(self.findings), 'finding')}, {number(self.agreeing, 'place')} right, "
            f"{len(self.not_judged)} not judged."
        )
        yield from self._hidden
        yield "The order of samples, and samples in no chunk, are not read: run the code with"
        yield "`vlmdebug falsify FILE.py:NAME`."

    @property
    def _hidden(self) -> Iterator[str]:
        """What is not shown, and why."""
        older = [number(self.older, "finding")] if self.older else []
        if self.older_notes:
            older.append(f"{number(self.older_notes, 'place')} not judged")
        if older:
            yield f"Older than the change, and not shown without --all: {', '.join(older)}."
        if self.accepted:
            yield f"In the baseline, and not shown: {number(self.accepted, 'finding')}."

    def to_json(self) -> str:
        """The whole review as JSON."""
        return json.dumps({"ok": self.ok, **asdict(self)}, indent=1)

    def to_github(self) -> str:
        """The findings as workflow commands, which GitHub shows as notes on the lines."""
        return formats.to_github(self.findings)

    def to_gitlab(self) -> str:
        """The findings as a code quality report of GitLab."""
        return formats.to_gitlab(self.findings)

    def to_sarif(self) -> str:
        """The findings as SARIF 2.1.0, with a notification for all that was not judged."""
        unsure = [remark for remark in self.remarks if remark.unsure is not None]
        return formats.to_sarif(self.findings, unsure, (*self.not_judged, *self.notes))
