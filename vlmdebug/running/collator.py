"""`collator`: a data collator with its processor and its kind of rows, as it is tested."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import described, public
from vlmdebug.errors import BadInput
from vlmdebug.families.metadata import read_metadata
from vlmdebug.families.read import read_as_it_is
from vlmdebug.running.collated import dims_of
from vlmdebug.running.dataset_rows import video_text
from vlmdebug.safe import one_line

Collate = Callable[[list[Any]], Any]
MakeRow = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Collator:
    """A collator under test: `vd.check(collator, rows)`, `vd.falsify(collator)`.

    Attributes:
        collate: The function of a list of rows.
        processor: The processor that reads its batches.
        rows: The kind of rows that `falsify` draws, or a function that makes one.
        reading: `config=` or `model=` for `read_batch`.
        name: Its name in messages.
    """

    collate: Collate
    processor: Any
    rows: str | MakeRow | None = None
    reading: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        own = self.collate
        return one_line(getattr(own, "__name__", type(own).__name__), 80)

    @cached_property
    def returned(self) -> dict[str, dict[str, int]]:
        """Keys that the processor returns for an image and for a video, with their dimensions."""
        return dims_of(self.processor)

    @property
    def dims(self) -> dict[str, int]:
        """Dimensions of the keys that the processor returns, if that is known."""
        return {key: dims for keys in self.returned.values() for key, dims in keys.items()}

    @cached_property
    def video_token(self) -> int:
        """The id of a video's placeholder token; -1 if there is none, or it is not known."""
        found = getattr(self.processor, "video_token_id", None)
        return found if isinstance(found, int) and video_text(self.processor) is not None else -1

    @cached_property
    def pad(self) -> int | None:
        """The id of the padding token, if that is known."""
        given = self.reading
        return read_metadata(self.processor, given.get("config"), given.get("model")).pad_token_id

    def read(self, inputs: Mapping[str, Any], counts: Mapping[str, Any] | None = None) -> Batch:
        """A batch of it, with `num_images=` and the like."""
        given: dict[str, Any] = {**self.reading, **(counts or {})}
        return read_as_it_is(inputs, processor=self.processor, **given)

    def __call__(self, rows: Sequence[Any]) -> Any:
        """The batch of these rows; they stay as they are, and so do random numbers elsewhere."""
        return self.again(rows, seed=0)

    def again(self, rows: Sequence[Any], *, seed: int = 1) -> Any:
        """The same with other random numbers."""
        with _same_dice(seed):
            return self.collate([copied(row) for row in rows])


@public
def collator(
    collate: Collate,
    processor: Any = None,
    *,
    rows: str | MakeRow | None = None,
    config: Any = None,
    model: Any = None,
) -> Collator:
    """A data collator, to be tested by `check` or `falsify`.

    Args:
        collate: Takes a list of rows of a dataset and returns a batch: a function, or an object
            such as TRL's `DataCollatorForVisionLanguageModeling`. One that changes the order of
            its rows on purpose says so: `collate.any_order = True`.
        processor: The processor that it uses; by default `collate.processor`. Without one, less
            can be compared.
        rows: The kind of rows that `falsify` draws: `"messages"`, `"embedded"`,
            `"prompt_completion"`, `"prompt"`, `"text"` or `"processed"`, as `make_rows` describes
            them, or a function `rows(images=…, text=…, answer=…)` that makes one row. By default
            the first kind that the collator takes.
        config: The model's config, as for `read_batch`.
        model: The model, as for `read_batch`.

    Raises:
        BadInput: `collate` is no function.
    """
    if isinstance(collate, Collator):
        raise BadInput(
            f"collator was given {collate.name} as a Collator, which is one already. "
            "Pass it to check or falsify."
        )
    if isinstance(collate, type) or not callable(collate):
        raise BadInput(
            f"collator was given {described(collate)}, but a collator is a function of a list of "
            "rows, or an object that can be called with one. Nothing was tried. "
            "Pass your collate_fn or data_collator."
        )
    if rows is not None and not isinstance(rows, str) and not callable(rows):
        raise BadInput(
            f"rows is {described(rows)}, but it is the name of a kind of rows, or a function that "
            "makes one. Rows that you have are passed to check(collator, rows)."
        )
    processor = getattr(collate, "processor", None) if processor is None else processor
    given = {"config": config, "model": model}
    return Collator(collate, processor, rows, {k: v for k, v in given.items() if v is not None})


def copied(row: Any) -> Any:
    """The row with its own dicts and lists, which collators change; images are not copied."""
    if isinstance(row, Mapping):
        made = {key: copied(value) for key, value in row.items()}
        return made if type(row) is dict else _like(row, made)
    if type(row) in (list, tuple):
        return type(row)(map(copied, row))
    return row


def _like(row: Mapping[Any, Any], made: dict[Any, Any]) -> Any:
    """A mapping of the same class, such as a `BatchFeature`; a dict where that cannot be made."""
    try:
        return type(row)(made)  # pyright: ignore[reportCallIssue]
    except Exception:  # a class of the user's, with a constructor of its own
        return made


@contextmanager
def _same_dice(seed: int) -> Iterator[None]:
    """The same random numbers for every call, and those outside as they were."""
    state, numbers = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(state)
        np.random.set_state(numbers)
