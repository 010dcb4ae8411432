"""The stand-in for `self`: an instance of the method's class that was never initialised.

Methods, properties and class attributes are those of the class; every other attribute is invented.
"""

from __future__ import annotations

import inspect
import types
from typing import Any

import torch

from vlmdebug.running.invented import Ledger
from vlmdebug.running.rewritten import recompiled


def self_of(owner: type | None, ledger: Ledger, known: Any, function: types.FunctionType) -> Any:
    """A stand-in for `self`.

    Args:
        owner: The class of the method; None where it is not known.
        ledger: Where invented attributes are listed.
        known: An object with attributes that are not invented, or None.
        function: The method, to find the other methods that it calls.
    """

    def read(_: Any, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        if known is not None and hasattr(known, name):
            return getattr(known, name)
        return ledger.read(f"self.{name}")

    own: dict[str, Any] = {"__getattr__": read, **_methods(owner, function)}
    try:
        made = _instance(owner or object, own)
    except Exception:  # a class that cannot be derived from, whatever its reason
        made = _instance(object, {"__getattr__": read})
    for path, value in ledger.given.items():
        name = path.removeprefix("self.")
        if path != name and name.isidentifier():
            made.__dict__[name] = value
    return made


def _instance(owner: type, own: dict[str, Any]) -> Any:
    cls = type(owner)(owner.__name__, (owner,), own)
    if inspect.isabstract(cls):
        cls.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
    made = object.__new__(cls)
    if isinstance(made, torch.nn.Module):
        torch.nn.Module.__init__(made)
    return made


def _methods(owner: type | None, function: types.FunctionType) -> dict[str, Any]:
    """The methods that a function may call, and those that these call, rewritten."""
    found: dict[str, Any] = {}
    queue = [function.__code__]
    for code in queue:
        for name in code.co_names:
            value = inspect.getattr_static(owner, name, None) if owner is not None else None
            if isinstance(value, types.FunctionType) and name not in found:
                found[name] = recompiled(value)
                queue.append(value.__code__)
        queue += [part for part in code.co_consts if isinstance(part, types.CodeType)]
    return found
