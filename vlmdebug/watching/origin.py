"""Where and when a call was made, for a trace that is merged with those of other ranks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from operator import index
from typing import Any
from weakref import WeakKeyDictionary

import torch

from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line
from vlmdebug.watching.identity import Identity
from vlmdebug.watching.rank import rank

DIMENSIONS = ("dp", "tp", "cp", "pp")
"""Data, tensor, context and pipeline parallel."""
VARIABLE = "VLMDEBUG_COORDINATES"


class Origin:
    """Counts the optimizer's steps and the calls of each, in one process, from `start` to `close`.

    A step ends when an optimizer of the program has stepped. With several optimizers, the one with
    the most steps counts.

    Args:
        coordinates: The place of this rank; that of the environment if there is none.
        shards: Over how many ranks each call is split.
    """

    def __init__(
        self, coordinates: Mapping[str, int] | None = None, *, shards: int | None = None
    ) -> None:
        given = _given() if coordinates is None else dict(coordinates)
        if given is None and os.environ.get("WORLD_SIZE") == str(shards):
            given = {"dp": 0, "cp": rank() or 0}  # all ranks that there are share each call
        self._coordinates = _checked(given)
        self._steps: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
        self._step = 0
        self._micro = 0
        self._handle: Any = None

    def start(self) -> None:
        """Count steps: torch calls a hook after each step of any optimizer."""
        self._handle = _after_each_step(self._stepped)

    def now(self) -> dict[str, Any]:
        """What a line of the trace says of a call that is made now."""
        found = {
            "rank": rank() or 0,
            "coordinates": self._coordinates,
            "step": self._step,
            "micro": self._micro,
            "grad": torch.is_grad_enabled(),
            "time": time.time_ns(),
        }
        self._micro += 1
        return found

    def samples(self, found: Callable[[], Sequence[Identity] | None]) -> dict[str, Any]:
        """Identity and number of media of each sample of a call, where they can be read."""
        try:
            read = found()
        except Exception:  # the verdict says why; a debugger must not end the program
            read = None
        return {
            "identities": None if read is None else [one.digits for one in read],
            "media": None if read is None else [one.media for one in read],
        }

    def close(self) -> None:
        """Stop counting steps."""
        if self._handle is not None:
            self._handle.remove()

    def _stepped(self, optimizer: Any, *_: Any) -> None:
        with suppress(TypeError):  # an optimizer that cannot be referred to weakly
            self._steps[optimizer] = self._steps.get(optimizer, 0) + 1
            if self._steps[optimizer] > self._step:
                self._step, self._micro = self._steps[optimizer], 0


def _after_each_step(hook: Any) -> Any:
    from importlib import import_module

    module = import_module("torch.optim.optimizer")  # `torch.optim` hides it by a class
    register = getattr(module, "register_optimizer_step_post_hook", None)
    return None if register is None else register(hook)


def _given() -> dict[str, int] | None:
    """The coordinates that the environment gives, such as `dp=1,tp=0`."""
    text = os.environ.get(VARIABLE)
    if not text:
        return None
    try:
        return {name: int(number) for name, number in (one.split("=") for one in text.split(","))}
    except ValueError:
        raise BadInput(
            f"{VARIABLE} is {one_line(text, 80)!r}, but it names coordinates, such as dp=1,tp=0. "
            "Nothing was watched. Correct it, or leave it out."
        ) from None


def _checked(given: dict[str, int] | None) -> dict[str, int] | None:
    unknown = [name for name in given or () if name not in DIMENSIONS]
    if unknown:
        raise BadInput(
            f"coordinates has {one_line(unknown[0], 80)!r}, but its names are "
            f"{', '.join(DIMENSIONS)}. Nothing was watched."
        )
    try:
        return None if given is None else {name: index(one) for name, one in given.items()}
    except TypeError:
        raise BadInput(
            f"coordinates is {one_line(given, 80)}, but each of them is a whole number. "
            f"Nothing was watched. Pass numbers, such as {{'dp': 1, 'tp': 0}}."
        ) from None
