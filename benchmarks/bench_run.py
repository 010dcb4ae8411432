"""The time that `vlmdebug run` adds to a training step of a tiny model.

Budgets: at most 3 % of a step of 50 ms, and 1 % of a step of 1 s. Each step has a batch of its own,
as from a data loader, so nothing is known of it. The time is measured in place, between the steps'
own work; of the calls of a step, the median is taken, since other processes may interrupt one.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any

import torch

import vlmdebug as vd
from vlmdebug.magics import watching

FAMILIES = ("llava", "qwen2_5_vl")
STEPS = 11


def timed(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    """The function, which notes its seconds."""

    def run(*args: Any, **kwargs: Any) -> Any:
        begin = perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            times.append(perf_counter() - begin)

    return run


def steps(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], parts: int
) -> tuple[float, float]:
    """Seconds of a step of as many calls as `parts`, and those that watching adds to it."""
    added: list[float] = []
    step: list[float] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    with watching() as sessions:
        (session,) = sessions
        times: list[float] = []
        session.before = timed(session.before, times)  # type: ignore[method-assign]
        for _ in range(STEPS):
            times.clear()
            calls = [{key: value.clone() for key, value in batch.items()} for _ in range(parts)]
            begin = perf_counter()
            for inputs in calls:
                model(**inputs).logits.float().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            step.append(perf_counter() - begin - sum(times))
            added += times
    assert session.judged == STEPS * parts and not session.found
    return median(step), median(added) * parts


def main() -> None:
    """Print the table."""
    print(f"run: added to a training step, median of {STEPS} (budget 3 % of 50 ms, 1 % of 1 s)")
    for family in FAMILIES:
        model, _ = vd.tiny.build(family)
        for samples, parts in ((8, 1), (64, 1), (64, 4)):
            batch = dict(vd.tiny.batch(family, [2, 0, 1, 1] * (samples // 4), sizes=(160, 160)))
            took, added = steps(model, batch, parts)
            print(
                f"  {family:11} {samples:3} samples, {parts} calls  step {took * 1e3:7.1f} ms   "
                f"added {added * 1e3:5.2f} ms  {added / took:6.2%}"
            )


if __name__ == "__main__":
    main()
