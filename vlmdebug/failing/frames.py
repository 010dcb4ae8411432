"""What the frames of an exception hold: a failed call of a model, a processor, a batch.

Frames are read, never run: only types, names and values that are there already are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from traceback import walk_tb
from types import TracebackType
from typing import Any, NamedTuple

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import kind_of
from vlmdebug.core.keys import KNOWN, MEDIA_KEYS
from vlmdebug.core.wording import short_name

LIBRARIES = ("torch", "transformers", "accelerate", "peft", "vlmdebug", "contextlib", "functools")
"""Modules that are not the user's own code."""
CALLS = ("_call_impl", "_wrapped_call_impl")
"""Functions of `torch.nn.Module` that have the arguments of a call as they were given."""
MOST_LINKS = 20
"""Exceptions of a chain that are followed."""


class Frame(NamedTuple):
    """One frame of a traceback: names in it, its function and its place."""

    names: Mapping[str, Any]
    function: str
    module: str
    site: str

    @property
    def is_users(self) -> bool:
        return self.module.partition(".")[0] not in LIBRARIES


class FailedCall(NamedTuple):
    """A call of a model that did not return: its arguments, and where it was made."""

    model: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    site: str


def frames_of(error: BaseException | TracebackType | None) -> list[Frame]:
    """All frames, the outermost first; those of the exceptions behind it come after."""
    found, seen = list[Frame](), set[int]()
    while error is not None and id(error) not in seen and len(seen) < MOST_LINKS:
        seen.add(id(error))
        trace = error if isinstance(error, TracebackType) else error.__traceback__
        found += [_frame(frame, line) for frame, line in walk_tb(trace)]
        if isinstance(error, TracebackType):
            break
        error = error.__cause__ or error.__context__
    return found


def _frame(frame: Any, line: int) -> Frame:
    code = frame.f_code
    site = f"{short_name(code.co_filename)}:{line}"
    return Frame(frame.f_locals, code.co_name, str(frame.f_globals.get("__name__", "")), site)


def site_of(frames: Sequence[Frame]) -> str:
    """The last line of the user's own code among these; else the last line."""
    users = [frame for frame in frames if frame.is_users]
    return (users or list(frames))[-1].site if frames else "unknown"


def failed_call(frames: Sequence[Frame]) -> FailedCall | None:
    """The outermost call of a model that has a config and got tokens or media by name."""
    for place, frame in enumerate(frames):
        owner = frame.names.get("self")
        if kind_of(owner) != "model" or getattr(owner, "config", None) is None:
            continue
        given = _arguments(frame)
        if given is not None and _has_batch(*given):
            return FailedCall(owner, *given, site_of(frames[:place]))
    return None


def _arguments(frame: Frame) -> tuple[tuple[Any, ...], Mapping[str, Any]] | None:
    """What a frame of a call was given: by place, and by name."""
    names = frame.names
    args, kwargs = names.get("args"), names.get("kwargs")
    if frame.function in CALLS and isinstance(args, tuple) and isinstance(kwargs, Mapping):
        return args, kwargs
    if frame.function not in ("forward", "generate"):
        return None
    own = {key: names[key] for key in KNOWN if names.get(key) is not None}
    if frame.function == "generate" and names.get("inputs") is not None:
        own["input_ids"] = names["inputs"]
    return (), {**(kwargs if isinstance(kwargs, Mapping) else {}), **own}


def _has_batch(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    batch = args[0] if len(args) == 1 and isinstance(args[0], Mapping) else kwargs
    named = any(hasattr(batch.get(key), "shape") for key in ("input_ids", *MEDIA_KEYS))
    return named or any(kind_of(one) == "tensor" for one in args)


def objects(frames: Sequence[Frame]) -> Iterator[Any]:
    """Everything that the frames name, and attributes of their `self`; the innermost first."""
    for frame in reversed(frames):
        yield from frame.names.values()
        owner = frame.names.get("self")
        if kind_of(owner) not in ("model", "tensor"):
            yield from getattr(owner, "__dict__", {}).values()


def first_of(kind: str, frames: Sequence[Frame]) -> Any:
    """The nearest processor, or model with a config, that a frame names; None without one."""
    for one in objects(frames):
        if not isinstance(one, type) and kind_of(one) == kind:
            if kind != "model" or getattr(one, "config", None) is not None:
                return one
    return None


def batch_in(frames: Sequence[Frame]) -> Mapping[str, Any] | Batch | None:
    """The nearest batch or mapping with tokens and media of the same batch; None without one."""
    for one in objects(frames):
        inputs = one.inputs if isinstance(one, Batch) else one
        if not isinstance(inputs, Mapping):
            continue
        keys = {key for key in inputs if isinstance(key, str)}
        if "input_ids" in keys and keys & MEDIA_KEYS and hasattr(inputs["input_ids"], "shape"):
            return one
    return None
