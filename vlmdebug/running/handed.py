"""What people pass to `check` where it takes a batch: loaders, trainers, rows, files, lists.

Each is turned into batches or into a collator with rows. What cannot be is refused with the call
that works.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

from vlmdebug.checking.report import Report
from vlmdebug.core.batch import Batch
from vlmdebug.core.given import described, kind_of
from vlmdebug.core.keys import KNOWN, TOKEN_KEYS
from vlmdebug.core.record import Compared
from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.families.unreadable import items_of
from vlmdebug.running.collated import dims_of
from vlmdebug.running.collator import Collator
from vlmdebug.running.files import load_batch
from vlmdebug.running.joined import samples_joined, tensor_of
from vlmdebug.running.lists import lists_next_to_tensors
from vlmdebug.safe import one_line

MOST_BATCHES = 2
"""Batches of a loader or a trainer that are checked."""
MOST_ROWS = 8
"""Rows of a data set that are checked."""
IDS = "input_ids"


@dataclass(frozen=True)
class Handed:
    """Something to check: a batch, or rows for a collator.

    Attributes:
        what: Its name in messages, such as `batch 1 of the loader`.
        batch: The batch.
        trial: The collator, where there are rows.
        rows: The rows.
        listed: Keys of the batch that held lists next to tensors.
    """

    what: str
    batch: Any = None
    trial: Collator | None = None
    rows: Sequence[Any] = ()
    listed: tuple[str, ...] = ()


def handed(thing: Any, reading: Mapping[str, Any]) -> list[Handed]:
    """What is checked of a thing that is no slicer and stands alone.

    Raises:
        BadInput: Nothing; the message says which call works.
    """
    processor = reading.get("processor")
    if isinstance(thing, Batch):
        return [Handed("batch", thing)]
    if isinstance(thing, (str, PurePath)):
        return [Handed("batch", as_tensors(load_batch(str(thing)), processor))]
    if isinstance(thing, torch.utils.data.DataLoader):
        return list(_of_loader(thing, reading))
    if hasattr(thing, "get_train_dataloader"):
        return list(_of_trainer(thing, reading))
    if isinstance(thing, torch.utils.data.Dataset) or _is_data_set(thing):
        return [Handed("batch", _of_rows(_first(thing), reading, of="data set"))]
    if isinstance(thing, (list, tuple)):
        return [Handed("batch", _of_rows([*thing], reading, of="list"))]
    if callable(thing) and not hasattr(thing, "keys"):
        raise BadInput(_alone(thing))
    if isinstance(thing, Mapping) and thing and IDS not in thing:
        rows = [name for name in ("messages", "prompt", "text", "images") if name in thing]
        if rows:
            raise BadInput(_raw(thing, "row"))
    if hasattr(thing, "keys"):
        batch = as_tensors(thing, processor, reading)
        return [Handed("batch", batch, listed=lists_next_to_tensors(thing))]
    raise BadInput(
        f"check was given {described(thing)}, but it takes a batch: what a processor or collator "
        "returned. Nothing was checked. A DataLoader, a trainer, a list of samples, a saved batch "
        "or vd.collator(…) with rows work as well."
    )


def one_report(reports: Sequence[tuple[Handed, Report]]) -> Report:
    """The report of the first batch that is wrong, or that could not be judged, or of the first."""
    worst = ("MISMATCH", "AMBIGUOUS", "OK")
    chosen, report = min(reports, key=lambda one: worst.index(str(one[1].verdict)))
    if len(reports) == 1:
        return report
    said = tuple(replace(one, message=f"{chosen.what}: {one.message}") for one in report.mismatches)
    doubts = tuple(f"{chosen.what}: {text}" for text in report.ambiguities)
    what = Compared(number(len(reports), "batch"), "each by itself")
    return replace(report, mismatches=said, ambiguities=doubts, compared=(what, *report.compared))


# --- loaders and trainers --------------------------------------------------------------------


def _of_loader(loader: Any, reading: Mapping[str, Any], name: str = "loader") -> Iterator[Handed]:
    """The first batches of a DataLoader: rows for its collator, or batches where it has none."""
    known = reading.get("processor")
    collate: Callable[..., Any] | None = getattr(loader, "collate_fn", None)
    collate = getattr(collate, "data_collator", collate)  # transformers wraps it to drop columns
    with torch.random.fork_rng(devices=[]):
        sets = list(islice(_row_sets(loader), MOST_BATCHES))
        batches = [] if sets else list(islice(iter(loader), MOST_BATCHES))
    if not sets and not batches:
        raise BadInput(
            f"The {name} gives no batch. Nothing was checked. Pass one with at least one row."
        )
    for place, one in enumerate(batches):
        batch = as_tensors(one, known, reading)
        yield Handed(f"batch {place} of the {name}", batch, listed=lists_next_to_tensors(one))
    processor = getattr(collate, "processor", None) if known is None else known
    others = {key: reading[key] for key in ("config", "model") if reading.get(key) is not None}
    for place, rows in enumerate(sets):
        assert collate is not None
        yield Handed(
            f"batch {place} of the {name}", None, Collator(collate, processor, None, others), rows
        )


def _row_sets(loader: Any) -> Iterator[list[Any]]:
    """The rows of one batch after another; nothing where a loader does not collate."""
    data, sampler = loader.dataset, getattr(loader, "batch_sampler", None)
    if getattr(loader, "batch_size", None) is None and sampler is None:
        return
    if isinstance(data, torch.utils.data.IterableDataset) or not hasattr(data, "__getitem__"):
        rows = iter(data)
        while own := list(islice(rows, loader.batch_size or 1)):
            yield own
        return
    for places in sampler if sampler is not None else ():
        yield [data[place] for place in places]


def _of_trainer(trainer: Any, reading: Mapping[str, Any]) -> Iterator[Handed]:
    """The first batches of a trainer's own loader, with its processor and its model."""
    processor = getattr(trainer, "processing_class", None) or getattr(trainer, "tokenizer", None)
    own = {"processor": processor if kind_of(processor) == "processor" else None}
    own["model"] = getattr(trainer, "model", None)
    given = {**{key: value for key, value in own.items() if value is not None}, **reading}
    try:
        loader = trainer.get_train_dataloader()
    except Exception as error:  # the trainer's own
        raise BadInput(
            f"{type(trainer).__name__} raised {type(error).__name__} when it made its loader: "
            f"{one_line(error, 300)}. Nothing was checked. Give it a train_dataset, or pass "
            "vd.collator(trainer.data_collator, processor) and rows."
        ) from error
    yield from _of_loader(loader, given, "trainer")


# --- rows and lists --------------------------------------------------------------------------


def is_rows(thing: Any) -> bool:
    """Whether it is a list of dicts, or a data set."""
    if isinstance(thing, (list, tuple)):
        return bool(thing) and all(isinstance(one, Mapping) for one in thing)
    return isinstance(thing, torch.utils.data.Dataset) or _is_data_set(thing)


def _is_data_set(thing: Any) -> bool:
    """Whether it is a data set of the library `datasets`, which is not imported."""
    module = type(thing).__module__.partition(".")[0]
    return module == "datasets" and hasattr(thing, "column_names")


def _first(data: Any) -> list[Any]:
    """The first rows of a data set."""
    if hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return [data[place] for place in range(min(len(data), MOST_ROWS))]
    return list(islice(iter(data), MOST_ROWS))


def _of_rows(rows: list[Any], reading: Mapping[str, Any], *, of: str) -> dict[str, Any]:
    """One batch of samples that were processed one by one.

    Raises:
        BadInput: They are no processed samples.
    """
    if not rows:
        raise BadInput(f"The {of} is empty. Nothing was checked. Pass one with a sample.")
    strange = [one for one in rows if not hasattr(one, "keys")]
    if strange:
        raise BadInput(
            f"A {of} with {described(strange[0])} was given, but each of its entries is a sample: "
            "a mapping of names to tensors. Nothing was checked. "
            "Pass what the processor returned for each sample."
        )
    if any(IDS not in one for one in rows):
        raise BadInput(_raw(next(one for one in rows if IDS not in one), of))
    return samples_joined([as_tensors(one, None) for one in rows], reading)


def _raw(row: Mapping[str, Any], of: str) -> str:
    """What to do with rows that no processor has seen."""
    names = ", ".join(one_line(name, 40) for name in islice(row.keys(), 6))
    what = "A row of a data set" if of == "row" else f"A {of} of rows"
    if any(name in row for name in ("role", "content")):
        what = "A conversation"
    return (
        f"{what} with {names} was given, but that is what a collator takes: it has no input_ids "
        "yet. Nothing was checked. Pass the collator with it: check(vd.collator(collate, "
        "processor), rows)."
    )


def _alone(thing: Any) -> str:
    """What to do with a function, a processor or a model."""
    kind = kind_of(thing)
    if kind == "processor":
        return (
            f"check was given {described(thing)}, without a batch. Nothing was checked. "
            "Pass what it returned: check(processor(…), processor=processor)."
        )
    if kind == "model":
        return (
            f"check was given {described(thing)}, without a batch. Nothing was checked. "
            "Pass its inputs: check(inputs, model=model); to see a run, use watch(model)."
        )
    name = one_line(getattr(thing, "__name__", type(thing).__name__), 80)
    return (
        f"check was given {name} alone. Nothing was checked. If it cuts batches, call "
        f"check({name}, batch); if it collates rows, check(vd.collator({name}, processor), rows). "
        "falsify makes batches and rows itself."
    )


def as_tensors(
    inputs: Any, processor: Any, reading: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The batch with lists of numbers as tensors; samples of a data set are joined.

    A list that holds no numbers, or rows of several lengths, stays as it is.
    """
    items = items_of(inputs)
    listed = {key: value for key, value in items.items() if isinstance(value, list) and value}
    ids = items.get(IDS)
    if isinstance(ids, list) and ids and isinstance(ids[0], list) and _is_ragged(ids):
        columns = {key: own for key, own in items.items() if isinstance(own, list)}
        rows = [
            {key: own[at] for key, own in columns.items() if len(own) == len(ids)}
            for at in range(len(ids))
        ]
        return samples_joined([as_tensors(row, None) for row in rows], reading or {})
    made = {**items, **{key: _tensor(key, value) for key, value in listed.items()}}
    if getattr(made.get(IDS), "ndim", 2) == 1 and reading is not None:
        return samples_joined([made], reading)
    dims = dims_of(processor) if listed else {}
    for key in listed:
        value = made[key]
        if isinstance(value, torch.Tensor) and key not in TOKEN_KEYS:
            made[key] = value.flatten(0, 1) if value.ndim - 1 == dims.get(key) else value
    return made


def _is_ragged(rows: Sequence[Any]) -> bool:
    return len({len(row) for row in rows if hasattr(row, "__len__")}) > 1


def _tensor(key: str, value: list[Any]) -> Any:
    if key not in KNOWN:
        return value
    try:
        if any(isinstance(one, torch.Tensor) for one in value):
            return torch.stack([tensor_of(one).detach() for one in value])
        found = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):  # rows of several lengths, kinds or devices
        return value
    if found.dtype.kind not in "biuf":
        return value
    made = torch.from_numpy(found)
    return made.float() if found.dtype.kind == "f" else made
