"""Predict, then check: a reader predicts the rows of a chunk and sees to which samples they belong.

For notebooks and classes. A wrong answer is explained: it names the owners of the predicted rows
and shows how to find the right ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import described, public
from vlmdebug.core.layout import plural
from vlmdebug.core.owners import owners_of
from vlmdebug.core.presence import expected_rows
from vlmdebug.core.rows import Rows, chunk_bounds
from vlmdebug.errors import BadInput

Said = slice | range | tuple[int, int] | str | None


@dataclass(frozen=True)
class Answer:
    """The result of a prediction.

    Attributes:
        right: Whether the chunk owns exactly these rows.
        explanation: Why, in a few sentences.
    """

    right: bool
    explanation: str

    def __str__(self) -> str:
        return f"{'✓' if self.right else '→'} {self.explanation}"

    def __repr__(self) -> str:
        return str(self)


@public
def predict(batch: Batch, key: str, rows: Said, *, chunk: int, chunk_size: int = 1) -> Answer:
    """Predict which rows of `key` a chunk owns, and see which samples own them.

    Args:
        batch: The batch.
        key: The tensor.
        rows: `slice(2, 3)`, `(2, 3)`, `range(2, 3)`, or None (also `"none"`, `"absent"`,
            `slice(0, 0)`) for a key that the chunk must not be given.
        chunk: Number of the chunk, from 0.
        chunk_size: Samples per chunk.

    Raises:
        BadInput: The batch has no such key or chunk, or `rows` is none of these.
    """
    if not isinstance(batch, Batch):
        raise BadInput(f"batch is {described(batch)}, but predict takes a Batch: read_batch(…).")
    bounds = chunk_bounds(len(batch), chunk_size)
    if key not in batch.layout or not 0 <= chunk < len(bounds):
        raise BadInput(
            f"{key!r} in chunk {chunk} was asked for, but the batch has "
            f"{', '.join(batch.layout)} in {len(bounds)} chunks, from 0. Name one of these."
        )
    samples = range(*bounds[chunk])
    expected, said = expected_rows(batch, key, batch.part(samples)), _rows(rows)
    if said is None:
        right = expected.presence == "absent" or (
            not expected.rows and (expected.presence == "either" or isinstance(rows, slice))
        )
    else:
        right = expected.presence != "absent" and said == expected.rows
    told = [_said(batch, key, said, right), _found(batch, key, samples)]
    return Answer(right, " ".join(told))


def _rows(rows: Said) -> Rows | None:
    """The predicted rows; None for a key that is left out."""
    nothing = rows is None or (isinstance(rows, str) and rows.lower() in ("absent", "none"))
    if nothing or (isinstance(rows, slice) and rows == slice(0, 0)):
        return None
    if isinstance(rows, (slice, range)):
        pair: Sequence[object] = (rows.start or 0, rows.stop)
    else:
        pair = rows if isinstance(rows, (tuple, list)) else ()
    if len(pair) == 2 and all(isinstance(one, int) and one >= 0 for one in pair):
        start, stop = (one for one in pair if isinstance(one, int))
        return Rows([(start, max(start, stop))])
    raise BadInput(
        f'{rows!r} was predicted, but rows are a slice(start, stop), or "absent" for no key. '
        "Nothing was compared."
    )


def _said(batch: Batch, key: str, said: Rows | None, right: bool) -> str:
    if right:
        return "Right."
    if said is None:
        return f"Without {key}, these samples would lose their images."
    if not said:
        return "You predicted no rows."
    owners = owners_of(batch, key, said)
    inside = said.ranges[-1][1] <= batch.counts[batch.layout[key].unit].total
    whose = f"are {owners}" if owners and inside else "are not all in the batch"
    return f"Rows {said} of {key} {whose}."


def _found(batch: Batch, key: str, samples: range) -> str:
    """How the rows are computed."""
    unit, expected = batch.layout[key].unit, expected_rows(batch, key, batch.part(samples))
    count = batch.counts[unit]
    whose = f"sample {samples[0]}" if len(samples) == 1 else f"samples {samples[0]}:{samples.stop}"
    begin = count.offsets[samples.start]
    if samples.start == 0:
        verb = "comes" if len(samples) == 1 else "come"
        start = f"{whose.capitalize()} {verb} first, so its rows begin at 0"
    else:
        before = " + ".join(map(str, count[: samples.start]))
        start = f"Before {whose} come {before} {plural(unit)}, so its rows begin at {begin}"
    own = " + ".join(map(str, count[samples.start : samples.stop]))
    if expected.presence == "absent":
        return f"The chunk holds {whose}, which has no images: it must not be given {key} at all."
    rows = expected.rows if expected.rows else "nothing"
    return f"{key} has one row per {unit}. {start}; it owns {own}. That is {key}[{rows}]."
