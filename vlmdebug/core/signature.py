"""Whether a function can be called as a slicer, decided from its signature before it runs.

A function with other arguments would fail inside this package, and the message would blame its
author. A function without a signature (a built-in) is accepted.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from functools import update_wrapper
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

Slicer = Callable[[Any, int], Iterable[Mapping[str, Any]]]
"""A function of `(inputs, chunk_size)` that gives the model inputs of each chunk."""
SLICER = "a slicer takes (inputs, chunk_size) and gives the model inputs of each chunk"
MODEL_NAMES = r"model|policy|actor|network|^net$"
"""What the first parameter of a loop that calls a model is called."""
LOOP = "record takes the code that calls a model: a function of (model, inputs, chunk_size)"


def as_slicer(function: Callable[..., Any]) -> Slicer:
    """The function, callable as `(inputs, chunk_size)`, also if it takes the size by name.

    Raises:
        BadInput: It cannot be a slicer; the message gives its arguments and a remedy.
    """
    if is_plain(function):
        return function  # as most are; inspect is slow
    names, takes = _names(function), _name(function)
    if names is None:
        return function
    by_place, by_name = _binds(function, 2), _binds(function, 1, chunk_size=1)
    if by_place or by_name:
        if names[:1] != ["chunk_size"] and names[1:2] != ["inputs"]:
            return function if by_place else _by_name(function)
        todo = "Wrap it in a function of (inputs, chunk_size)."
        if names[:1] == ["chunk_size"]:
            todo = (
                f"Give it the batch first: lambda inputs, chunk_size: {takes}(chunk_size, inputs)."
            )
    elif takes_model(function) and names[0] == "self":
        todo = f"It is a method without its object. Pass the bound method: trainer.{takes}."
    elif takes_model(function):
        todo = f"It takes a model first. Wrap it: vlmdebug.record({takes})."
    else:
        todo = "Wrap it in a function of (inputs, chunk_size)."
    raise BadInput(f"{takes} takes ({', '.join(names)}), but {SLICER}. It was not called. {todo}")


def is_plain(function: Callable[..., Any]) -> bool:
    """Whether it is a function of exactly two positional arguments."""
    if not _has_places(function, 2):
        return False
    names = function.__code__.co_varnames
    return names[0] != "chunk_size" and names[1] != "inputs"


def _has_places(function: Callable[..., Any], places: int) -> bool:
    """Whether it is a function of exactly so many positional arguments, all by its own code."""
    code = getattr(function, "__code__", None)
    if not inspect.isfunction(function) or code is None or code.co_argcount != places:
        return False
    starred = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS
    return not code.co_kwonlyargcount and not code.co_flags & starred


def _by_name(function: Callable[..., Any]) -> Callable[..., Any]:
    def slicer(inputs: Any, chunk_size: int) -> Any:
        return function(inputs, chunk_size=chunk_size)

    return update_wrapper(slicer, function)


def refuse_no_loop(function: Callable[..., Any]) -> None:
    """Refuse a function that `record` cannot call as `(model, inputs, chunk_size)`.

    Raises:
        BadInput: It takes other arguments; a slicer needs no `record`.
    """
    if _has_places(function, 3) and not hasattr(function, "__signature__"):
        return  # as most are; inspect is slow
    if _binds(function, 3):
        return
    names, takes = _names(function) or [], _name(function)
    todo = "Wrap it in a function of (model, inputs, chunk_size)."
    if _binds(function, 2):
        todo = f"It is a slicer already if it gives each chunk's inputs: pass {takes} itself."
    raise BadInput(f"{takes} takes ({', '.join(names)}), but {LOOP}. It was not called. {todo}")


def takes_model(function: Callable[..., Any]) -> bool:
    """Whether it takes three arguments, as `(model, inputs, chunk_size)`, and not two."""
    names = _names(function)
    if names is None or names[:1] in (["inputs"], ["batch"]):
        return False
    return _binds(function, 3) and not _binds(function, 2)


def names_model(function: Callable[..., Any]) -> bool:
    """Whether it takes a model, a batch and a size, and calls the first of them a model."""
    names = _names(function) or [""]
    return re.search(MODEL_NAMES, names[0].lower()) is not None and takes_model(function)


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return None


def _names(function: Callable[..., Any]) -> list[str] | None:
    signature = _signature(function)
    return None if signature is None else list(signature.parameters)


def _binds(function: Callable[..., Any], places: int, **named: Any) -> bool:
    signature = _signature(function)
    if signature is None:
        return True
    try:
        signature.bind(*[None] * places, **named)
    except TypeError:
        return False
    return True


def _name(function: Callable[..., Any]) -> str:
    return one_line(getattr(function, "__name__", type(function).__name__), 80)
