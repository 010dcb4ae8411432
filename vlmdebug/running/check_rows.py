"""`check` of a collator with rows, and of each of several batches."""

from __future__ import annotations

from itertools import islice
from typing import Any

from vlmdebug.checking.report import Report
from vlmdebug.errors import BadInput
from vlmdebug.families.read import read_as_it_is
from vlmdebug.running.batch_report import batch_report
from vlmdebug.running.collated import refuse_no_rows
from vlmdebug.running.collator import Collator, collator
from vlmdebug.running.handed import MOST_ROWS, Handed, is_rows
from vlmdebug.running.lists import with_lists
from vlmdebug.running.together import alone, collate_report


def as_collator(
    args: tuple[Any, ...], reading: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A function with rows of a data set is a collator, with the processor that was given."""
    if len(args) != 2 or isinstance(args[0], Collator) or not is_rows(args[1]):
        return args, reading
    rows = args[1] if isinstance(args[1], (list, tuple)) else [*islice(iter(args[1]), MOST_ROWS)]
    if not callable(args[0]) or any("input_ids" in row and _is_batched(row) for row in rows):
        return args, reading
    given = dict(reading)
    names = ("processor", "config", "model")
    own = {name: given.pop(name) for name in names if name in given}
    return (collator(args[0], **own), rows), given


def _is_batched(row: Any) -> bool:
    return getattr(row["input_ids"], "ndim", 1) == 2


def report_on(one: Handed, reading: dict[str, Any]) -> Report:
    """The report on one of several things."""
    if one.trial is not None:
        return collate_report(one.trial, one.rows, [alone(one.trial, row) for row in one.rows])
    batch = read_as_it_is(one.batch, **reading)
    return with_lists(batch_report(batch), one.listed, batch)


def collated(args: tuple[Any, ...], pictures: Any, reading: dict[str, Any]) -> Report:
    """The report on a collator and rows."""
    trial: Collator = args[0]
    if len(args) != 2:
        raise BadInput(
            f"check was given the collator {trial.name} without rows. Nothing was collated. "
            "Pass rows of its dataset, check(collator, [dataset[0], dataset[1]]), or let falsify "
            "draw some: falsify(collator)."
        )
    if reading or pictures not in (None, False):
        name = next(iter(reading), "pictures")
        raise BadInput(
            f"{name}= was given with a collator. Nothing was collated. "
            "Pass processor=, config= and model= to vd.collator(…), and no pictures."
        )
    rows = refuse_no_rows(args[1])
    return collate_report(trial, rows, [alone(trial, row) for row in rows])
