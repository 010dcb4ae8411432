"""`watch`: judge every call of a model while the program runs.

A pre-hook on the model sees what each call is handed. A chunk that is a view still lies in the
memory of the batch it was cut from, so the whole batch can be read there: which samples the
chunk holds, which rows belong to them, which rows it was given. A call with tensors of its own
is judged by itself: are placeholders and features in step?

The hook changes nothing, returns nothing and keeps no tensor. Where tensors lie on an
accelerator, small ones are copied without waiting, and the verdict comes with a later call or at
the end.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch

from vlmdebug.errors import BadInput, MismatchError, VlmDebugError
from vlmdebug.families.base import Hints
from vlmdebug.families.hints import read_hints
from vlmdebug.families.read import MEDIA_KEYS, TOKEN_KEYS
from vlmdebug.report import Report
from vlmdebug.tracing.arguments import Arguments
from vlmdebug.tracing.away import Away, are_here
from vlmdebug.tracing.slices import CallJudge

OnMismatch = Literal["record", "warn", "raise"]

ENCODED = (
    "Media came already encoded (mm_encoder_outputs, as generate() does it): "
    "their rows were not judged. Watch the code that encodes them."
)
JUDGED = MEDIA_KEYS | TOKEN_KEYS
"""Arguments that layouts know. Others are a model's own, if it names them, and nobody's if not."""
UNCALLED = (
    "the model was not called. Watch the module that is called; "
    "PEFT, for one, calls forward of the model within, past its hooks."
)


class MismatchWarning(UserWarning):
    """A watched model was handed rows that do not belong together."""


@dataclass(frozen=True)
class Call:
    """One call of the model, as plain data.

    Attributes:
        number: From 0.
        site: `folder/file.py:line` of the code that called the model.
        shapes: Shape of each tensor handed over.
        report: What was found; its only chunk is this call. None where the call could not be
            read, for the reason in `unread`.
    """

    number: int
    site: str
    shapes: Mapping[str, tuple[int, ...]]
    report: Report | None = None
    unread: str | None = None

    @property
    def ok(self) -> bool:
        return self.report is not None and self.report.ok

    def to_dict(self) -> dict[str, Any]:
        return {
            "call": self.number,
            "site": self.site,
            "shapes": {key: list(shape) for key, shape in self.shapes.items()},
            "verdict": self.report.verdict if self.report else "UNREAD",
            "unread": self.unread,
            "mismatches": [m.to_dict() for m in self.report.mismatches] if self.report else [],
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
        """Whether every call was read and was right; False where there was none to see."""
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


@contextmanager
def watch(
    model: torch.nn.Module,
    *,
    processor: Any = None,
    config: Any = None,
    on_mismatch: OnMismatch = "warn",
    log: str | Path | None = None,
) -> Iterator[Trace]:
    """Judge every call of `model` inside the `with` block.

    Args:
        model: The module that is called; a wrapper (PEFT, DDP, accelerate) or the model within.
        processor: The processor of the batches, for counts; the model's config is read anyway.
        config: Another config than `model.config`.
        on_mismatch: `"warn"`, `"raise"` a `MismatchError` before the model does something
            opaque, or only `"record"`.
        log: Write one JSON line per call here, flushed at once; with several ranks, one file
            each (`.rank0` before the ending).

    Yields:
        The trace, filled as calls come; it stays readable after an exception.

    Raises:
        BadInput: `model` is no module, or `on_mismatch` is none of the three.
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
    hints = read_hints(processor, config, _within(model))
    watcher = _Watcher(hints, Arguments(model), on_mismatch, _log_path(log))
    hook: Any = watcher.before
    if "torch._dynamo" in sys.modules:  # torch.compile must not trace into the hook
        hook = torch.compiler.disable(hook)
    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield watcher.trace
    except BaseException:
        watcher.finish(raising=False)
        raise
    else:
        watcher.finish(raising=True)
    finally:
        handle.remove()


def _within(model: Any) -> Any:
    """The model that has the config, inside wrappers such as DDP."""
    while getattr(model, "config", None) is None and hasattr(model, "module"):
        model = model.module
    return model


def _log_path(log: str | Path | None) -> Path | None:
    if log is None:
        return None
    path, rank = Path(log), os.environ.get("RANK")
    return path if rank is None else path.with_name(f"{path.stem}.rank{rank}{path.suffix}")


class _Watcher:
    """The hook and the calls that wait for their verdict; it keeps nothing but plain data."""

    def __init__(
        self, hints: Hints, arguments: Arguments, on_mismatch: OnMismatch, log: Path | None
    ) -> None:
        self.trace = Trace()
        self._arguments = arguments
        self._on_mismatch = on_mismatch
        self._log = None if log is None else log.open("w", encoding="utf-8")
        self._judge = CallJudge(hints)
        self._waiting: deque[tuple[Away, Callable[[], Call]]] = deque()

    def before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The pre-hook; what goes wrong in here is never the program's problem."""
        self._judge_arrived()
        number = len(self.trace.calls) + len(self._waiting)
        try:
            inputs = self._arguments.named(args, kwargs)
        except BadInput as error:
            self._note(Call(number, _site(), {}, unread=str(error)))
            return
        tensors = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)}
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
        tensors = {k: v for k, v in tensors.items() if k in JUDGED or k not in self._arguments.own}
        call = partial(Call, number, _site(), shapes)
        # Behind a cache stands what the model saw before, so that a call need not be whole.
        judge = partial(self._judge, alone=inputs.get("past_key_values") is not None)
        if inputs.get("mm_encoder_outputs") is not None:
            self._note(call(unread=ENCODED))
        elif are_here(tensors):
            self._note(call(**judge(lambda: tensors)))
        else:
            away = Away(tensors)
            self._waiting.append((away, lambda: call(**judge(away.tensors))))

    def finish(self, *, raising: bool) -> None:
        """Judge what still waits; `raising`: a mismatch may be raised, as nothing else is."""
        if self._on_mismatch == "raise" and not raising:
            self._on_mismatch = "warn"
        try:
            self._judge_arrived(wait=True)
        finally:
            if self._log is not None:
                self._log.close()

    def _judge_arrived(self, *, wait: bool = False) -> None:
        while self._waiting and (wait or self._waiting[0][0].arrived):
            _, judged = self._waiting.popleft()
            self._note(judged())

    def _note(self, call: Call) -> None:
        self.trace.calls.append(call)
        if self._log is not None:
            self._log.write(json.dumps(call.to_dict()) + "\n")
            self._log.flush()
        if call.report is None or not call.report.mismatches:
            return
        finding = call.report.findings[0]
        text = (
            f"call {call.number} at {call.site}: {finding.code} {finding.title}: {finding.message}"
        )
        if self._on_mismatch == "raise":
            raise MismatchError(text, call.report)
        if self._on_mismatch == "warn":
            warnings.warn(text, MismatchWarning, stacklevel=2)


PLUMBING = (
    "torch.",
    "transformers.trainer",
    "vlmdebug.",
    "accelerate.",
    "peft.",
    "transformers.generation.",
    "contextlib",
    "functools",
)


def _site() -> str:
    """The nearest frame that is neither torch's nor ours nor a wrapper's."""
    frame = sys._getframe(2)
    while frame is not None:
        if not frame.f_globals.get("__name__", "").startswith(PLUMBING):
            return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"


@cache
def _short(filename: str) -> str:
    return "/".join(Path(filename).parts[-2:])
