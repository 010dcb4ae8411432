"""Every top-level call of every transformers model in a process, judged as by `watch`.

A call is top-level if no other watched call is running in its thread: `generate` is one call, and
so is the forward pass of a wrapper. A call is judged by itself, as `check(batch)` does. If its
tensors are slices of a batch, its rows are also compared with the rows of that batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from threading import RLock, local
from typing import Any

import torch

from vlmdebug.checking.report import Report
from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.errors import BadInput, MismatchError
from vlmdebug.families import find_family
from vlmdebug.watching.arguments import Arguments
from vlmdebug.watching.origin import Origin
from vlmdebug.watching.watch import (
    Call,
    Log,
    Trace,
    Watcher,
    metadata_of,
    with_config,
)
from vlmdebug.watching.windows import split_of_calls

CALLED = {
    "transformers.modeling_utils": ("PreTrainedModel", "__call__"),
    "transformers.generation.utils": ("GenerationMixin", "generate"),
    "peft.peft_model": ("PeftModel", "__call__"),
    "torch._dynamo.eval_frame": ("OptimizedModule", "__call__"),
}
"""Modules, with the class and the method that are watched."""
MOST_FOUND = 50
"""Findings that are kept; later ones are only counted."""
MOST_REASONS = 20


@dataclass(frozen=True)
class Found:
    """The first call with a finding, and how many calls have the same one.

    Attributes:
        model: Name of the model's class.
        call: The call, with its report.
        calls: Number of calls with a finding of this code, key, model and line.
    """

    model: str
    call: Call
    calls: int = 1


class Session:
    """The calls of one process.

    Attributes:
        judged: Calls that were judged.
        skipped: Calls that were left out, by `sample_every`.
        unread: Calls that were not compared, by the reason.
        found: Findings, in the order in which they came; at most `MOST_FOUND`.
        wrong: Calls with a finding, those with findings that are not kept included.
        models: Names of the models that were called.
        failed: Why vlmdebug itself failed, where it did.
    """

    def __init__(
        self,
        *,
        raising: bool = False,
        sample_every: int = 1,
        html: Path | None = None,
        log: Path | None = None,
        shards: int | None = None,
        embedded: bool = False,
    ) -> None:
        self._split = split_of_calls(shards, None, embedded=embedded)
        self.html: Path | None = html
        self._log_path = log
        self._raising, self._every = raising, sample_every
        self._watchers: dict[tuple[type, int], tuple[Any, _Live | None]] = {}
        self._inside = local()
        self._log: Log | None = None
        self.forget()

    def forget(self) -> None:
        """Forget all calls, as in a process that was forked from another."""
        self._lock = RLock()  # a thread that is not in this process may hold the other
        self._lines = 0
        self.judged: int = 0
        self.skipped: int = 0
        self.unread: Counter[str] = Counter()
        self.found: dict[tuple[Any, ...], Found] = {}
        self.wrong: int = 0
        self.models: dict[str, None] = {}
        self.failed: str | None = None
        self._log = None
        for _, watcher in self._watchers.values():
            if watcher is not None:
                watcher.drop()

    def forked(self, html: Path, log: Path | None) -> None:
        """Begin again in a process that was forked, with files of its own."""
        self.forget()
        self.html, self._log_path = html, log

    def patch(self, module: Any) -> None:
        """Watch the calls of the class that this module defines."""
        name, method = CALLED[module.__name__]
        cls = getattr(module, name)
        if not getattr(getattr(cls, method), "vlmdebug", False):
            setattr(cls, method, self._watched(cls, method))

    def unpatch(self, modules: Mapping[str, Any]) -> None:
        """Restore every class that was patched."""
        for module, (name, method) in CALLED.items():
            cls = getattr(modules.get(module), name, None)
            undo = getattr(vars(cls).get(method), "undo", None) if cls is not None else None
            if undo is not None:
                undo()

    def _watched(self, cls: type, method: str) -> Callable[..., Any]:
        own = vars(cls).get(method)

        def inherited(model: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True  # IPython and pytest leave the frame out
            return getattr(super(cls, model), method)(*args, **kwargs)

        call = inherited if own is None else own
        is_compiling, inside = torch.compiler.is_compiling, self._inside

        @wraps(getattr(cls, method))
        def watched(model: Any, *args: Any, **kwargs: Any) -> Any:
            __tracebackhide__ = True
            if is_compiling() or getattr(inside, "call", False):
                return call(model, *args, **kwargs)
            inside.call = self.before(model, args, kwargs, whole=method == "generate")
            try:
                return call(model, *args, **kwargs)
            finally:
                inside.call = False

        def undo() -> None:
            if own is None:
                delattr(cls, method)
            else:
                setattr(cls, method, own)

        watched.__dict__.update(vlmdebug=True, undo=undo)
        return watched

    def before(
        self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, whole: bool = False
    ) -> bool:
        """Judge a call that begins; whether calls within it belong to it.

        `whole`: it has all tokens of its samples, as calls of `generate` have.
        """
        try:
            watcher = self._watcher(model)
            if watcher is None:
                return False
            with self._lock:  # of each model, as models may take turns
                skip = watcher.skips(self._every)
                self.skipped += skip
            if skip:
                return True
            watcher.before(model, args, kwargs, whole=whole)
        except MismatchError:
            raise
        except Exception as error:  # never the program's matter
            self.fail(error)
        return True

    def fail(self, error: Exception) -> None:
        """Keep the first failure of our own; the program does not notice it."""
        self.failed = self.failed or f"{type(error).__name__}: {error}"

    def _watcher(self, model: Any) -> _Live | None:
        """The watcher of this model and its copies with the same config; None for other models."""
        config = getattr(with_config(model), "config", None)
        key = type(model), id(config)
        known = self._watchers.get(key)
        if known is None:
            known = config, self._live(model)  # the config is kept, so that its id stays its own
            self._watchers[key] = known
        return known[1]

    def _live(self, model: Any) -> _Live | None:
        if getattr(getattr(with_config(model), "config", None), "model_type", None) is None:
            return None
        metadata = metadata_of(model)
        family = find_family(metadata.model_type) if metadata.model_type else None
        if family is None and metadata.image_token_id is None and not metadata.token_ids:
            return None
        return _Live(model, self)

    def note(self, model: str, call: Call) -> None:
        """Count a call, and keep its findings."""
        if call.judged is None and not _has_media(call):
            return  # a part of a model, or text that was embedded before
        with self._lock:
            self.models[model] = None
            call = replace(call, number=self._lines)
            self._lines += 1
            self._write(call)
            if call.judged is None or (not call.ok and not call.mismatches):
                self._not_compared(call)
                return
            self.judged += bool(call.shapes)  # what is found later in earlier calls is no call
            if not call.ok:
                self._find(model, call)

    def _not_compared(self, call: Call) -> None:
        reasons = [call.unread] if call.report is None else call.report.ambiguities
        reason = str(next(iter(reasons), None))
        if reason in self.unread or len(self.unread) < MOST_REASONS:
            self.unread[reason] += 1
        else:
            self.unread["other reasons"] += 1

    def _find(self, model: str, call: Call) -> None:
        worst = call.report.findings[0] if call.report is not None else None
        key = (worst and worst.code, worst and worst.keys, model, call.site)
        known = self.found.get(key)
        self.wrong += 1
        if known is not None:
            self.found[key] = replace(known, calls=known.calls + 1)
        elif len(self.found) < MOST_FOUND:
            self.found[key] = Found(model, call)
            self.write_html()

    def finish(self) -> None:
        """Judge the calls that wait for a device, and close the log."""
        for _, watcher in self._watchers.values():
            if watcher is not None:
                try:
                    watcher.finish(raising=False)
                except Exception as error:
                    self.fail(error)
        if self._log is not None:
            self._log.close()

    def report(self) -> Report | None:
        """One report on the calls with findings; None without any."""
        calls = [found.call for found in self.found.values()]
        return Trace(calls).report() if calls else None

    def write_html(self) -> None:
        """Write the report so far: a program that is killed leaves it, too."""
        report = self.report()
        if self.html is None or report is None:
            return
        try:
            self.html.parent.mkdir(parents=True, exist_ok=True)
            report.to_html(self.html)
        except OSError as error:
            self.fail(error)

    def _write(self, call: Call) -> None:
        if self._log_path is None:
            return
        try:
            if self._log is None:
                self._log_path.parent.mkdir(parents=True, exist_ok=True)
                self._log = Log(self._log_path)
        except (OSError, BadInput) as error:  # calls are judged all the same
            self.fail(error)
            self._log_path = None
            return
        for notice in self._log.write(call):
            self.failed = self.failed or notice.text


class _Live(Watcher):
    """The watcher of one model of a session; its calls go there, and it keeps none."""

    def __init__(self, model: Any, session: Session) -> None:
        inner = with_config(model)
        on_mismatch = "raise" if session._raising else "record"
        metadata = metadata_of(model)
        split = session._split
        origin = None if session._log_path is None else Origin(shards=split.shards)
        given = (metadata, Arguments(model), on_mismatch)
        super().__init__(*given, by_sample=True, origin=origin, split=split)
        self._begun = self._skipping = 0
        self._session, self._name = session, type(_unwrapped(inner)).__name__
        if origin is not None:
            origin.start()

    def skips(self, every: int) -> bool:
        """Whether the next call is left out; calls that share tokens stay together."""
        succession = self._judge.parts.succession
        if self._skipping:
            self._skipping -= 1
            return True
        if succession is not None and succession.waits:
            return False
        skip = self._begun % every > 0
        self._begun += 1
        if skip and succession is not None:
            self._skipping = succession.shards - 1
            succession.tear()
        return skip

    def keep(self, call: Call) -> None:
        self._session.note(self._name, call)

    def drop(self) -> None:
        """Forget all calls."""
        self._begun = self._skipping = 0
        self._lock = RLock()
        self._waiting.clear()


def _unwrapped(model: Any) -> Any:
    """The model inside torch.compile, and inside PEFT."""
    model = getattr(model, "_orig_mod", model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _has_media(call: Call) -> bool:
    return "input_ids" in call.shapes and not MEDIA_KEYS.isdisjoint(call.shapes)
