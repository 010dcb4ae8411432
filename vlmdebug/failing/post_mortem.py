"""`post_mortem`: from an exception to the sample and image, through the frames that it left."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

from vlmdebug.checking.report import Report
from vlmdebug.core.batch import Batch
from vlmdebug.core.given import described, public
from vlmdebug.errors import BadInput, MismatchError, VlmDebugError
from vlmdebug.failing.explain import Explanation, explanation
from vlmdebug.failing.frames import (
    FailedCall,
    Frame,
    batch_in,
    failed_call,
    first_of,
    frames_of,
    site_of,
)
from vlmdebug.failing.prepared import counted, prepares
from vlmdebug.failing.texts import Kind, recognised
from vlmdebug.safe import harmless, one_line

NOTHING = (
    "No call of a model with a batch, no processor with texts, and no batch was found in the "
    "frames of this exception, so no sample can be named. Run the program with `vlmdebug run`, or "
    "pass the batch: vlmdebug.check(inputs, model=model, processor=processor)."
)
BEFORE = "Texts and images, before a batch was made,"
AGREES = (
    "Placeholder tokens and features of this {} agree, as far as they were compared: the "
    "exception has another cause."
)
A_BATCH = "A batch"

COUNTED = (
    "No difference between the placeholders and media of these texts was counted, so as far as is "
    "known the exception has another cause."
)
SHAPES = re.compile(r"shape|size|dimension|inhomogeneous|broadcast|length|stack", re.IGNORECASE)
"""Words of an exception about tensors that do not fit each other."""


@dataclass(frozen=True)
class PostMortem:
    """What an exception left in its frames.

    Attributes:
        error: The exception, in one line.
        found: What was found: `a call of LlavaForConditionalGeneration`, `a processor`, `a batch`.
        site: `folder/file.py:line` of the user's code that led there.
        said: Sentences on what is wrong; each names its sample where that is known.
        samples: The samples that are named.
        report: The report on the batch; None if there was none yet.
        explained: The text of the exception, if it is known and of a model or processor.
        differs: Whether texts and media were counted before a batch was made, and differ.
    """

    error: str
    found: str
    site: str
    said: tuple[str, ...] = ()
    samples: tuple[int, ...] = ()
    report: Report | None = field(default=None, repr=False)
    explained: Explanation | None = field(default=None, repr=False)
    differs: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing wrong was found."""
        return not self.differs and (self.report is None or not self.report.mismatches)

    def summary(self) -> str:
        """The exception, the place and what is wrong, without the report's tables."""
        lines = [self.error, f"{self.found} at {self.site}", *(f"  {x}" for x in self._sentences())]
        if self.explained is not None and self.ok:
            lines += [f"  Usual cause: {self.explained.usually}"]
        return harmless("\n".join(lines))

    def _sentences(self) -> Iterator[str]:
        for said in self.said:
            yield from said.splitlines()

    def __str__(self) -> str:
        parts = [self.summary()]
        if self.report is not None and not self.report.ok:
            parts.append(str(self.report))
        return "\n\n".join(parts)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        print(self.summary())
        if self.report is None:
            return
        display(self.report)
        if self.report.mismatches:
            with suppress(VlmDebugError):  # anywidget is not installed
                from vlmdebug.exploring import explore

                display(explore(self.report))


@public
def post_mortem(error: BaseException | TracebackType | None = None) -> PostMortem:
    """Say which sample and image an exception came from.

    The frames of the exception are searched for the call of the model that failed. Its arguments
    are judged as by `watch`. Without a call, the texts and images of a processor that raised are
    counted, the samples of a collator are compared, or the nearest batch is checked.

    Args:
        error: An exception or a traceback. None: the exception that is being handled, or else the
            last one that ended a cell or a statement (`sys.last_exc`).

    Returns:
        What was found; `print` it, or let a notebook show it.

    Raises:
        BadInput: It is no exception, or there was none.
    """
    error = _given(error)
    kind = isinstance(error, TracebackType)
    said = "A traceback without its exception" if kind else _text_of(error)
    frames = frames_of(error)
    said_shortly = one_line(said.strip(), 300)
    try:
        found = _looked_into(frames, said_shortly)
    except Exception as failed:  # an object of the program that cannot be looked at
        why = f"vlmdebug failed to look into the frames: {type(failed).__name__}: {failed}"
        found = PostMortem(said_shortly, "Nothing to compare", site_of(frames), (one_line(why),))
    if isinstance(error, MismatchError) and isinstance(error.report, Report):
        report = error.report
        return PostMortem(
            found.error, found.found, found.site, report=report, samples=_samples(report)
        )
    return replace(found, explained=_explained(said, frames))


def _text_of(error: Any) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # its text is made by code of the program
        return f"{name}, which raises when its text is asked for"


def _explained(said: str, frames: Sequence[Frame]) -> Explanation | None:
    """The text of the exception, if it is known; those of any code only below transformers."""
    with suppress(BadInput):  # most exceptions have another text
        found = explanation(said)
        if not found.anywhere or any(frame.module.startswith("transformers") for frame in frames):
            return found
    return None


def _given(error: Any) -> BaseException | TracebackType:
    if error is None:
        error = sys.exc_info()[1] or getattr(sys, "last_exc", None)
        error = error or getattr(sys, "last_value", None)
    if error is None:
        raise BadInput(
            "There is no exception: none is being handled, and none has ended a cell or statement "
            "yet. Nothing was looked at. Pass it: post_mortem(error)."
        )
    if not isinstance(error, (BaseException, TracebackType)):
        raise BadInput(
            f"post_mortem was given {described(error)}, but it takes an exception or its "
            "traceback. Nothing was looked at. Pass the error of `except … as error`, or nothing."
        )
    return error


def _looked_into(frames: Sequence[Frame], error: str) -> PostMortem:
    """The first of: a failed call, texts and images, a batch."""
    call = failed_call(frames)
    if call is not None:
        name = one_line(type(call.model).__name__, 80)
        return _of_report(error, f"A call of {name}", call.site, *_judged(call, frames))
    known = recognised(error)
    in_texts = known is not None and known.kind is Kind.IN_TEXT
    texts = counted(frames, shapes=SHAPES.search(error) is not None, in_texts=in_texts)
    if texts:
        samples = sorted({sample for one in texts for sample in one.samples})
        return PostMortem(
            error,
            BEFORE,
            site_of(frames),
            tuple(one.said for one in texts),
            tuple(samples),
            differs=True,
        )
    if any(map(prepares, frames)):  # a batch in these frames is an earlier one
        return PostMortem(error, BEFORE, site_of(frames), (COUNTED,))
    batch = batch_in(frames)
    if batch is not None:
        return _of_report(error, A_BATCH, site_of(frames), *_checked(batch, frames))
    return PostMortem(error, "Nothing to compare", site_of(frames), (NOTHING,))


def _of_report(
    error: str, found: str, site: str, report: Report | None, unread: str | None
) -> PostMortem:
    if report is None:
        return PostMortem(error, found, site, (unread or NOTHING,))
    said = [finding.message for finding in report.findings] or [*report.ambiguities]
    said = said or [AGREES.format("batch" if found == A_BATCH else "call")]
    return PostMortem(error, found, site, tuple(said), _samples(report), report)


def _samples(report: Report) -> tuple[int, ...]:
    return tuple(sorted({s for mismatch in report.mismatches for s in mismatch.samples}))


def _judged(call: FailedCall, frames: Sequence[Frame]) -> tuple[Report | None, str | None]:
    """The report on a call as `watch` judges it, or why it could not be read."""
    from vlmdebug.watching.arguments import Arguments
    from vlmdebug.watching.watch import Watcher, metadata_of

    metadata = metadata_of(call.model, first_of("processor", frames))
    watcher = Watcher(metadata, Arguments(call.model), "record", by_sample=True)
    watcher.before(call.model, call.args, dict(call.kwargs))
    watcher.finish(raising=False)
    judged = watcher.trace.calls[0]
    if judged.report is None or not judged.report.mismatches:
        return judged.report, judged.unread
    return _pictured(judged.report, call, frames), None


def _pictured(report: Report, call: FailedCall, frames: Sequence[Frame]) -> Report:
    """With images, if the call is a whole batch; a chunk's images are those of another batch."""
    from vlmdebug.families.read import read_as_it_is
    from vlmdebug.running.check import illustrated
    from vlmdebug.watching.arguments import Arguments

    if report.samples != len(report.chunks[0].samples):
        return report
    with suppress(Exception):  # pictures are an extra
        inputs = Arguments(call.model).named(call.args, call.kwargs)
        batch = read_as_it_is(_tensors(inputs), model=call.model)
        return illustrated(report, batch)
    return report


def _tensors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in inputs.items() if hasattr(value, "shape")}


def _checked(
    batch: Mapping[str, Any] | Batch, frames: Sequence[Frame]
) -> tuple[Report | None, str | None]:
    from vlmdebug.running.check import check

    try:
        if isinstance(batch, Batch):  # read already
            return check(batch), None
        processor, model = first_of("processor", frames), first_of("model", frames)
        return check(batch, processor=processor, model=model), None
    except VlmDebugError as error:
        return None, str(error)
