"""`watch`: judge every call of a model while the program runs.

A pre-hook on the model sees the arguments of each call. A chunk that is a view is still in the
memory of its batch, so the whole batch can be read there: which samples the chunk holds, which rows
belong to them, which rows it got. A call with tensors of its own is judged alone: do placeholders
and features match?

The hook changes nothing, returns nothing and keeps no tensor. If tensors are on an accelerator,
small ones are copied without waiting, and the verdict comes with a later call or at the end.
"""

from __future__ import annotations

import sys
import warnings
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any, Literal

import torch

from vlmdebug.checking.report import Report
from vlmdebug.core.given import public
from vlmdebug.core.keys import CACHES, DERIVED, KNOWN, MEDIA_KEYS, PIXELS
from vlmdebug.core.mismatch import Mismatch
from vlmdebug.core.record import Verdict
from vlmdebug.core.wording import short_name
from vlmdebug.errors import BadInput, MismatchError, VlmDebugError
from vlmdebug.families.facts import ProcessorMetadata
from vlmdebug.families.metadata import read_metadata
from vlmdebug.watching.arguments import Arguments, is_dense, refuse_unreadable
from vlmdebug.watching.fast_path import Tensors
from vlmdebug.watching.identity import Sampled, sampled_media
from vlmdebug.watching.log import Log, Notice, log_of
from vlmdebug.watching.origin import Origin
from vlmdebug.watching.pending import PendingTransfer, all_on_cpu
from vlmdebug.watching.slices import CallChecker, Judged, why
from vlmdebug.watching.slices import Verdict as JudgedCall

OnMismatch = Literal["record", "warn", "raise"]

ENCODED = (
    "Media came already encoded (mm_encoder_outputs, as generate() does it): "
    "their rows were not judged. Watch the code that encodes them."
)
UNCALLED = (
    "the model was not called. Watch the module that is called; "
    "wrappers such as PEFT call forward of the inner model and skip its hooks."
)


class MismatchWarning(UserWarning):
    """A watched model got rows that do not belong together."""


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


@public
@contextmanager
def watch(
    model: torch.nn.Module,
    *,
    processor: Any = None,
    config: Any = None,
    on_mismatch: OnMismatch = "warn",
    log: str | Path | None = None,
    coordinates: Mapping[str, int] | None = None,
) -> Iterator[Trace]:
    """Judge every call of `model` inside the `with` block.

    Args:
        model: The module that is called; a wrapper (PEFT, DDP, accelerate) or the inner model.
        processor: The processor of the batches, for counts; the model's config is read anyway.
        config: Another config than `model.config`.
        on_mismatch: `"warn"`, `"raise"` a `MismatchError` before the model does something
            opaque, or only `"record"`.
        log: Write one JSON line per call here, flushed at once; with several ranks, one file
            each (`.rank0` before the ending). `vlmdebug merge` reads them together.
        coordinates: The place of this rank in the dimensions `dp`, `tp`, `cp` and `pp`, for the
            log. By default each rank is a data-parallel one.

    Yields:
        The trace, filled as calls come; it stays readable after an exception.

    Raises:
        BadInput: `model` is no module, `on_mismatch` is none of the three, `coordinates` has
            another name, or `log` cannot be written.
    """
    if not isinstance(model, torch.nn.Module):
        raise BadInput(
            f"The model is a {type(model).__name__}, but watch hangs a hook on a torch module. "
            "Pass the model that the trainer calls."
        )
    if on_mismatch not in ("record", "warn", "raise"):
        raise BadInput(
            f'on_mismatch is {on_mismatch!r}, but it is "record", "warn" or "raise". '
            "Nothing was watched."
        )
    metadata = read_metadata(processor, config, with_config(model))
    origin = Origin(coordinates) if log is not None else None
    watcher = Watcher(metadata, Arguments(model), on_mismatch, log_of(log), origin=origin)
    handle = model.register_forward_pre_hook(_Hook(watcher), with_kwargs=True)
    try:
        if origin is not None:
            origin.start()
        yield watcher.trace
    except BaseException:
        watcher.finish(raising=False)
        raise
    else:
        watcher.finish(raising=True)
    finally:
        handle.remove()


def with_config(model: Any) -> Any:
    """The model that has the config, inside wrappers such as DDP."""
    while getattr(model, "config", None) is None and hasattr(model, "module"):
        model = model.module
    return model


def metadata_of(model: Any, processor: Any = None) -> ProcessorMetadata:
    """What the model's config says, and the processor if it is of such a model."""
    inner = with_config(model)
    if processor is not None:
        with suppress(BadInput):  # it is of another checkpoint
            both = read_metadata(processor, None, inner)
            if both.processor_type in (None, both.model_type):
                return both
    return read_metadata(None, None, inner)


class _Hook:
    """The pre-hook on the model; a copied or saved model does not contain it."""

    def __init__(self, watcher: Watcher) -> None:
        self._before: Any = watcher.before
        if "torch._dynamo" in sys.modules:  # torch.compile must not trace into the hook
            self._before = torch.compiler.disable(self._before)

    def __call__(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._before(args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        """A callable that accepts anything, does nothing, and can be loaded without vlmdebug."""
        return getattr, (nullcontext(), "__exit__")


class Watcher:
    """The calls and those that wait for their verdict; it keeps only plain data.

    Threads may call the model at the same time: calls are judged one after another.
    """

    def __init__(
        self,
        metadata: ProcessorMetadata,
        arguments: Arguments,
        on_mismatch: OnMismatch,
        log: Log | None = None,
        *,
        by_sample: bool = False,
        origin: Origin | None = None,
    ) -> None:
        self.trace: Trace = Trace()
        self._origin = origin
        self._arguments = arguments
        self._own = arguments.own - KNOWN - DERIVED  # no part of a batch
        self._on_mismatch = on_mismatch
        self._log = log
        self._judge = CallChecker(metadata, by_sample=by_sample)
        self._waiting: deque[tuple[int, PendingTransfer, Callable[[], Call]]] = deque()
        self._numbers = count()
        self._lock = RLock()

    def before(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Runs before a call; an error in here never reaches the program."""
        site = site_of_caller()
        with self._lock:
            calls = [*self._arrived(), *self._judged(site, args, kwargs)]
            untold = self._noted(calls)
        self._tell(untold)

    def _judged(self, site: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Call]:
        """The call; empty while it waits for a device."""
        number = next(self._numbers)
        origin = {} if self._origin is None else self._origin.now()
        shapes: dict[str, tuple[int, ...]] = {}
        try:
            inputs = self._arguments.named(args, kwargs)
            tensors = {key: value for key, value in inputs.items() if is_dense(value)}
            shapes.update({key: tuple(tensor.shape) for key, tensor in tensors.items()})
            refuse_unreadable(inputs, tensors)
        except Exception as error:
            return [Call(number, site, shapes, unread=why(error), origin=origin)]
        call = partial(Call, number, site, shapes, origin=origin)
        if inputs.get("mm_encoder_outputs") is not None:
            return [call(unread=ENCODED)]
        # A cache holds earlier tokens, so a call need not be complete.
        cached = bool([key for key in CACHES if inputs.get(key) is not None])
        own = self._own
        if cached and not any(key in tensors for key in PIXELS):
            own = own | MEDIA_KEYS  # transformers 4 leaves image_grid_thw in each decoding step
        if not own.isdisjoint(tensors):
            tensors = {key: tensor for key, tensor in tensors.items() if key not in own}
        media = {} if self._origin is None or cached else _sampled(tensors)
        if all_on_cpu(tensors):
            return [call(**self._with_samples(origin, cached, lambda: tensors, media))]
        away = PendingTransfer(tensors, media)
        arriving = None if media is None else away.media
        later = partial(self._with_samples, origin, cached, away.tensors, arriving)
        self._waiting.append((number, away, lambda: call(**later())))
        return []

    def _with_samples(
        self,
        origin: dict[str, Any],
        cached: bool,
        tensors: Callable[[], Tensors],
        media: Mapping[str, Sampled] | None,
    ) -> JudgedCall:
        """Judge a call, and add the samples of a call without a cache to its origin."""
        found = self._judge(tensors, alone=cached)
        if self._origin is not None and not cached:
            read = self._judge.identities
            origin.update(
                self._origin.samples(lambda: None if media is None else read(tensors(), media))
            )
        return found

    def finish(self, *, raising: bool) -> None:
        """Judge the waiting calls; `raising`: a mismatch may be raised (no other exception is)."""
        if self._origin is not None:
            self._origin.close()
        with self._lock:
            untold = self._noted(self._arrived(wait=True))
            if self._log is not None:
                untold += self._log.close()
        if raising:
            self._tell(untold)
            return
        for one in untold:
            with suppress(Warning):  # even if warnings are errors: the program's own matters
                self._warn(one)

    def _arrived(self, *, wait: bool = False) -> list[Call]:
        """Calls with tensors that have arrived."""
        calls = []
        while self._waiting and (wait or self._waiting[0][1].arrived):
            calls.append(self._waiting.popleft()[2]())
        return calls

    def _noted(self, calls: list[Call]) -> list[Notice]:
        """Log the calls in order; return what to report to the user."""
        untold: list[Notice] = []
        for call in calls:
            self.keep(call)
            if self._log is not None:
                untold += self._log.write(call)
            if not call.mismatches or call.report is None:
                continue
            finding = call.report.findings[0]
            told = f"{finding.code} {finding.title}: {finding.message}"
            untold.append(Notice(f"call {call.number} at {call.site}: {told}", call.report))
        return untold

    def keep(self, call: Call) -> None:
        """Keep a call with its verdict; one that waited is late."""
        calls = self.trace.calls
        if calls and calls[-1].number > call.number:
            insort(calls, call, key=_number)
        else:
            calls.append(call)

    def _tell(self, untold: list[Notice]) -> None:
        """Warn about each, or raise the first mismatch after all other warnings."""
        mismatches = [one for one in untold if one.report is not None]
        for one in untold:
            if one.report is None or self._on_mismatch == "warn":
                self._warn(one)
        if mismatches and self._on_mismatch == "raise":
            raise MismatchError(*mismatches[0])

    def _warn(self, one: Notice) -> None:
        if one.report is None:
            warnings.warn(one.text, RuntimeWarning, stacklevel=4)
        elif self._on_mismatch != "record":
            warnings.warn(one.text, MismatchWarning, stacklevel=4)


def _sampled(tensors: Tensors) -> dict[str, Sampled] | None:
    """What identifies the media of a call; None where a tensor is of a kind that is not known."""
    try:
        return sampled_media(tensors)
    except Exception:  # a debugger must not end the program
        return None


def _number(call: Call) -> int:
    return call.number


PLUMBING = (
    "torch.",
    "transformers.",
    "vlmdebug.",
    "accelerate.",
    "peft.",
    "contextlib",
    "functools",
)


def site_of_caller() -> str:
    """The nearest frame outside torch, this package and wrappers."""
    frame = sys._getframe(1)
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(PLUMBING):
            return f"{short_name(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"
