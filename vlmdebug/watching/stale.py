"""Deltas of another prompt than that in the cache of a call.

A model of M-RoPE keeps `rope_deltas` of its last prompt, and adds them to the numbers of tokens
that follow in any cache (`modeling_qwen2_5_vl.compute_3d_position_ids`, transformers 5.24). Where
two prompts take turns, those of the first get positions by the second, in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from vlmdebug.checking.findings import StaleDeltas
from vlmdebug.checking.text import as_mismatch
from vlmdebug.core.keys import CACHES
from vlmdebug.families.assemble import assemble
from vlmdebug.families.facts import BatchFacts, ProcessorMetadata
from vlmdebug.tracking.deltas import DELTAS
from vlmdebug.watching.judged import Judged
from vlmdebug.watching.windows import length_of


class Deltas:
    """The deltas of the prompt in each cache, and those that a model has now.

    Only those on the host are read, so that no call waits for a device.

    Args:
        model: The watched model.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._module = next((one for one in model.modules() if DELTAS in vars(one)), None)
        self._due: WeakKeyDictionary[Any, list[float] | None] = WeakKeyDictionary()
        self._begun: tuple[Any, bool] | None = None  # the deltas before a prompt, and its positions

    @property
    def are_kept(self) -> bool:
        """Whether the model keeps any."""
        return self._module is not None

    def before(self, given: Mapping[str, Any]) -> StaleDeltas | None:
        """What is found in a call that begins."""
        cache, length = _cache_of(given)
        placed = given.get("position_ids") is not None
        self._begun = (self._now, placed) if length == 0 else None
        due = None if placed or not length else self._of(cache)
        now = _numbers(self._now)
        first = next((given[k] for k in ("input_ids", "inputs_embeds") if k in given), None)
        if due is None or now is None or first is None:
            return None
        rows = len(first)
        if rows % len(due) or rows % len(now):
            return None  # rows of the cache were chosen, or the model raises
        pairs = zip(_repeated(now, rows), _repeated(due, rows), strict=True)
        wrong = next((row for row, (one, other) in enumerate(pairs) if one != other), None)
        if wrong is None:
            return None
        own = _repeated(now, rows)[wrong], _repeated(due, rows)[wrong]
        return StaleDeltas(samples=(wrong,), given=own[0], due=own[1])

    def after(self, given: Mapping[str, Any], output: Any) -> None:
        """Note the deltas of a prompt that was read into a cache."""
        begun, self._begun = self._begun, None
        cache = _cache_of(given)[0]
        if cache is None:
            cache = next(
                (one for k in CACHES if (one := getattr(output, k, None)) is not None), None
            )
        if begun is None or cache is None:
            return
        before, placed = begun
        now, rows = self._now, len(given["input_ids"]) if "input_ids" in given else 0
        due = [0.0] * rows if now is before else _numbers(now)  # text alone is counted
        with suppress(TypeError):  # a tuple
            self._due[cache] = None if placed or not due else due

    def _of(self, cache: Any) -> list[float] | None:
        with suppress(TypeError):
            return self._due.get(cache)
        return None

    @property
    def _now(self) -> Any:
        return getattr(self._module, DELTAS, None)


def _cache_of(given: Mapping[str, Any]) -> tuple[Any, int | None]:
    """The cache of a call, and how many tokens it has; 0 where there is none."""
    cache = next((given[key] for key in CACHES if given.get(key) is not None), None)
    return cache, 0 if cache is None else length_of(cache)


def _numbers(deltas: Any) -> list[float] | None:
    """One of each row; None where there are none, or reading them would wait for a device."""
    if not isinstance(deltas, torch.Tensor) or not deltas.is_cpu or not deltas.numel():
        return None
    return [float(one) for one in deltas.reshape(-1).tolist()]


def _repeated(values: list[float], rows: int) -> list[float]:
    return [one for one in values for _ in range(rows // len(values))]


def with_stale(judged: Judged, found: StaleDeltas) -> Judged:
    """What was found in a call, and the deltas of another prompt."""
    report, tokens = judged.report(), {"input_ids": np.zeros((1, 1))}
    batch = assemble(BatchFacts(tokens, ProcessorMetadata()), None)  # only names its samples
    return Judged.of(replace(report, mismatches=(*report.mismatches, as_mismatch(found, batch))))
