"""`record`: any code that calls a model, as a slicer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import update_wrapper
from typing import Any

import torch

from vlmdebug.core.given import public
from vlmdebug.core.signature import Slicer, as_slicer, is_plain, names_model, refuse_no_loop
from vlmdebug.errors import BadInput, NotJudged
from vlmdebug.running.stand_in import RecordingModel


@public
def record(
    function: Callable[[Any, dict[str, Any], int], Any], *, config: Any = None
) -> Callable[[dict[str, Any], int], Iterator[dict[str, Any]]]:
    """Turn `function(model, inputs, chunk_size)`, which calls `model`, into a slicer.

    Each call of the model is one chunk, and so is each call of `model.generate`. An exception
    inside the function reaches `check` after the chunks that were recorded before it, so both are
    reported. Features that the stand-in model lacks are not blamed on the function. The model and
    copies of it may be called several times for a sample, equally often for each.

    Args:
        function: The code under test. Its attributes (`any_order`, `expand_size`) apply.
        config: The value of `model.config`; by default a small config that belongs to no model.

    Raises:
        BadInput: The argument is not a function, or is the model itself. The slicer raises it if
            the function reads something that the stand-in model lacks.
    """
    if not callable(function) or isinstance(function, torch.nn.Module):
        raise BadInput(
            f"record was given a {type(function).__name__}, but it takes the code that calls a "
            "model: a function of (model, inputs, chunk_size). Nothing was recorded. "
            "Pass your loop; to see a model's own calls, use watch(model)."
        )
    refuse_no_loop(function)

    def slicer(inputs: dict[str, Any], chunk_size: int) -> Iterator[dict[str, Any]]:
        model = RecordingModel(config, inputs)
        error: Exception | None = None
        try:
            function(model, inputs, chunk_size)
        except NotJudged:
            raise
        except Exception as raised:  # the function's own; passed on below
            error = raised
        yield from model.calls
        if error is not None:
            raise error

    slicer.__name__ = "recorded"
    slicer.expand_size = None  # type: ignore[attr-defined]  # a loop calls its model as it likes
    update_wrapper(slicer, function)
    recorded = "vd.record({})" if config is None else "vd.record({}, config=config)"
    slicer._vlmdebug_call = recorded  # type: ignore[attr-defined]  # for the test of a finding
    slicer._vlmdebug_config = config  # type: ignore[attr-defined]
    return slicer


def bound(function: Callable[..., Any]) -> Slicer:
    """The function as a slicer; recorded if its first parameter is a model.

    Raises:
        BadInput: It can be called neither way; the message gives its parameters and a remedy.
    """
    if is_plain(function) and not hasattr(function, "__signature__"):
        return function  # as most are, which take no model; inspect is slow
    return as_slicer(record(function) if names_model(function) else function)
