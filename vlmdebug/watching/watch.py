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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from itertools import count
from pathlib import Path
from threading import RLock
from typing import Any, Literal

import torch

from vlmdebug.core.given import public
from vlmdebug.core.keys import CACHES, DERIVED, KNOWN, MEDIA_KEYS, PACKED, PIXELS
from vlmdebug.core.wording import short_name
from vlmdebug.errors import BadInput, MismatchError
from vlmdebug.families.facts import ProcessorMetadata
from vlmdebug.families.metadata import read_metadata
from vlmdebug.families.row_sizes import INTERPOLATES
from vlmdebug.watching.arguments import Arguments, Mode, is_dense, mode_of, refuse_unreadable
from vlmdebug.watching.fast_path import Tensors
from vlmdebug.watching.identity import Sampled, sampled_media
from vlmdebug.watching.judged import Judged, why
from vlmdebug.watching.judged import Verdict as JudgedCall
from vlmdebug.watching.log import Log, Notice, log_of
from vlmdebug.watching.origin import Origin
from vlmdebug.watching.pending import PendingTransfer, all_on_cpu, refuse_capture
from vlmdebug.watching.slices import CallChecker
from vlmdebug.watching.stale import Deltas, StaleDeltas, with_stale
from vlmdebug.watching.trace import Call as Call
from vlmdebug.watching.trace import Trace as Trace
from vlmdebug.watching.windows import NOT_SPLIT, SplitCalls, Where, split_of_calls

OnMismatch = Literal["record", "warn", "raise"]

ENCODED = (
    "Media came already encoded (mm_encoder_outputs, as generate() does it): "
    "their rows were not judged. Watch the code that encodes them."
)


class MismatchWarning(UserWarning):
    """A watched model got rows that do not belong together."""


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
    shards: int | None = None,
    embedded: bool = False,
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
            log. By default each rank is a data-parallel one; with as many `shards` as ranks, all
            of them share each call.
        shards: Over how many ranks the tokens of each call are split. Each process is one of them
            if a launcher gave it a rank (`RANK`) or `coordinates` has `cp`; else so many calls
            after another share the tokens. Windows of a prefill need no declaration.
        embedded: Tokens are embedded before they are split, so that all media may be on each rank.

    Yields:
        The trace, filled as calls come; it stays readable after an exception.

    Raises:
        BadInput: `model` is no module, `on_mismatch` is none of the three, `coordinates` has
            another name, `shards` is no number of ranks, or `log` cannot be written.
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
    split = split_of_calls(shards, coordinates, embedded=embedded)
    metadata = read_metadata(processor, config, with_config(model))
    origin = None if log is None else Origin(coordinates, shards=split.shards)
    given = metadata, Arguments(model), on_mismatch, log_of(log)
    deltas = Deltas(model)
    watcher = Watcher(*given, origin=origin, split=split, deltas=deltas)
    handles = [model.register_forward_pre_hook(_Hook(watcher.before), with_kwargs=True)]
    if deltas.are_kept:
        handles.append(model.register_forward_hook(_Hook(watcher.after), with_kwargs=True))
    try:
        if origin is not None:
            origin.start()
        yield watcher.trace
    except BaseException:
        watcher.finish(raising=False, stopped=True)
        raise
    else:
        watcher.finish(raising=True)
    finally:
        for handle in handles:
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
    """A hook on the model; a copied or saved model does not contain it."""

    def __init__(self, then: Callable[..., None]) -> None:
        self._then: Any = then
        if "torch._dynamo" in sys.modules:  # torch.compile must not trace into the hook
            self._then = torch.compiler.disable(self._then)

    def __call__(
        self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *output: Any
    ) -> None:
        self._then(module, args, kwargs, *output)

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
        split: SplitCalls = NOT_SPLIT,
        deltas: Deltas | None = None,
    ) -> None:
        self._deltas = deltas if deltas is not None and deltas.are_kept else None
        self.trace: Trace = Trace()
        self._origin = origin
        self._arguments = arguments
        self._own = arguments.own - KNOWN - DERIVED  # no part of a batch
        self._on_mismatch = on_mismatch
        self._log = log
        self._judge = CallChecker(metadata, by_sample=by_sample, split=split)
        self._waiting: deque[tuple[int, PendingTransfer, Callable[[], Call]]] = deque()
        self._numbers = count()
        self._lock = RLock()

    def before(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, whole: bool = False
    ) -> None:
        """Runs before a call; an error in here never reaches the program.

        `whole`: it has all tokens of its samples, whatever is declared.
        """
        site, mode = site_of_caller(), mode_of(model)
        with self._lock:
            calls = [*self._arrived(), *self._judged(site, args, kwargs, whole=whole, mode=mode)]
            calls += self._later(self._judge.parts.late())
            untold = self._noted(calls)
        self._tell(untold)

    def after(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Runs after a call of a model that keeps deltas."""
        with suppress(Exception):  # a debugger must not end the program
            assert self._deltas is not None
            self._deltas.after(self._arguments.named(args, kwargs), output)

    def _stale(self, inputs: Mapping[str, Any]) -> StaleDeltas | None:
        with suppress(Exception):
            return None if self._deltas is None else self._deltas.before(inputs)
        return None

    def _judged(
        self,
        site: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        whole: bool,
        mode: Mode,
    ) -> list[Call]:
        """The call; empty while it waits for a device."""
        number = next(self._numbers)
        origin = {} if self._origin is None else self._origin.now()
        shapes: dict[str, tuple[int, ...]] = {}
        try:
            inputs = self._arguments.named(args, kwargs)
            tensors = {key: value for key, value in inputs.items() if is_dense(value)}
            shapes.update({key: tuple(tensor.shape) for key, tensor in tensors.items()})
            refuse_unreadable(inputs, tensors)
            here = all_on_cpu(tensors)
            if not here:
                refuse_capture(tensors)
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
        where = self._where(tensors, inputs, mode, cached=cached)
        media = {} if self._origin is None or cached else _sampled(tensors)
        asked = self._asked(inputs)
        asked |= {"where": where, "site": site, "whole": whole, "mode": mode}
        judge = partial(self._judge, alone=cached, **asked)
        given = partial(self._with_samples, origin, cached, judge, self._stale(inputs))
        if here or all_on_cpu(tensors):
            return [call(**given(lambda: tensors, media))]
        away = PendingTransfer(tensors, media, columns=where is not None)
        arriving = None if media is None else away.media
        later = partial(given, away.tensors, arriving)
        self._waiting.append((number, away, lambda: call(**later())))
        return []

    def _asked(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """What a call asks of the model that decides what is right."""
        options = {key: inputs[key] for key in PACKED if isinstance(inputs.get(key), int)}
        if self._arguments.makes_cache(inputs):
            options["use_cache"] = True
        return {"interpolated": inputs.get(INTERPOLATES) is True, "options": options}

    def _where(
        self, tensors: Tensors, inputs: Mapping[str, Any], mode: Mode, *, cached: bool
    ) -> Where | None:
        """The columns of a batch that a call has, if that is not all of them."""
        windows = self._judge.parts.windows
        try:
            where = windows.where(tensors, inputs, mode, cached=cached)
            if where is None and cached:
                windows.goes_on(tensors, inputs)
        except Exception:  # a debugger must not end the program
            return None
        return where

    def _with_samples(
        self,
        origin: dict[str, Any],
        cached: bool,
        judge: Callable[..., JudgedCall],
        stale: StaleDeltas | None,
        tensors: Callable[[], Tensors],
        media: Mapping[str, Sampled] | None,
    ) -> JudgedCall:
        """Judge a call, and add the samples of a call without a cache to its origin."""
        found = judge(tensors)
        if stale is not None and "judged" in found:
            found["judged"] = with_stale(found["judged"], stale)
        if self._origin is not None and not cached:
            origin.update(self._judge.parts.traced())
            read = self._judge.identities
            origin.update(
                self._origin.samples(lambda: None if media is None else read(tensors(), media))
            )
        return found

    def finish(self, *, raising: bool, stopped: bool = False) -> None:
        """Judge the waiting calls; `raising`: a mismatch may be raised (no other exception is).

        `stopped`: the program ended by an exception, so the calls that did not come are no fault.
        """
        if self._origin is not None:
            self._origin.close()
        with self._lock:
            rest = () if stopped else self._later(self._judge.parts.rest())
            untold = self._noted([*self._arrived(wait=True), *rest])
            if self._log is not None:
                untold += self._log.close()
        if raising:
            self._tell(untold)
            return
        for one in untold:
            with suppress(Warning):  # even if warnings are errors: the program's own matters
                self._warn(one)

    def _later(self, found: Iterable[tuple[str, Judged]]) -> Iterator[Call]:
        """What is found in earlier calls or is in none, each as one more line."""
        for site, judged in found:
            yield Call(next(self._numbers), site, {}, judged)

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
