"""Lists of numbers next to tensors in one batch: read as tensors here, refused by a model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from vlmdebug.checking.batch_findings import Contradicted
from vlmdebug.checking.report import Report
from vlmdebug.checking.text import as_mismatch
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import AS_NUMBERS, KNOWN
from vlmdebug.families.unreadable import items_of
from vlmdebug.outcomes.reasons import DEPENDS, LOUD

IDS = "input_ids"


def lists_next_to_tensors(inputs: Any) -> tuple[str, ...]:
    """Keys with lists of rows in a batch of which other keys hold tensors.

    A batch of lists alone comes from a file or a data set, and so does one sample.
    """
    known = {key: value for key, value in items_of(inputs).items() if key in KNOWN}
    ids = known.get(IDS)
    sample = isinstance(ids, list) and bool(ids) and not isinstance(ids[0], (list, tuple))
    if sample or not any(isinstance(value, torch.Tensor) for value in known.values()):
        return ()
    lists = [key for key, value in known.items() if isinstance(value, list) and value]
    lists = [key for key in lists if key not in AS_NUMBERS]
    return tuple(key for key in lists if isinstance(known[key][0], (list, tuple, int, float)))


def with_lists(report: Report, listed: tuple[str, ...], batch: Batch) -> Report:
    """The report on a batch, with its lists."""
    found = [
        Contradicted(
            key=key,
            outcome=LOUD if key == IDS else DEPENDS,
            said=f"{key} is a list, where other keys of the batch are tensors. "
            f"{'The model raises' if key == IDS else 'Most models raise'}; it was read as a "
            f"tensor here. Pass {key} as a tensor, too.",
        )
        for key in listed
    ]
    said = [as_mismatch(one, batch) for one in found]
    return replace(report, mismatches=(*report.mismatches, *said)) if said else report
