"""One row of `input_ids` that holds several samples, as plain data, so that it can be drawn.

The record knows which samples a call holds. This is the place of each in its row, and what says
where each begins: `position_ids`, with those of the samples alone, and the ends that other keys
give. A row that is split over ranks is such a row, too: of one sample or several.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Place(NamedTuple):
    """The tokens `start:stop` of a row, which are those of `sample` from its column `begin` on.

    `lost`: how many of the sample's tokens are not there.
    """

    sample: int
    start: int
    stop: int
    begin: int = 0
    lost: int = 0


class Line(NamedTuple):
    """Positions of the tokens `start:stop`: `first`, and each `step` more than the one before."""

    start: int
    stop: int
    first: int
    step: int


class Held(NamedTuple):
    """Tokens of a row that one rank of several holds: every `step`-th of `start:stop`."""

    rank: int
    start: int
    stop: int
    step: int = 1


class Fault(NamedTuple):
    """Where a key of a packed row differs from what its samples need."""

    key: str
    column: int


@dataclass(frozen=True)
class PackedRow:
    """One packed row of a call.

    Attributes:
        row: Its number in the call.
        tokens: How many it has, padding too.
        places: Its samples, in the order of their tokens.
        planes: Planes of its `position_ids`; 0 if it has none that can be read.
        given: One plane of them; empty if none says where samples begin.
        due: Those of each sample alone, beginning where the given ones begin.
        plane: Which plane both are, where there are several.
        off: Tokens with other positions than those due, `(start, stop)`.
        ends: Columns in which other keys say that a sample ends or begins.
        faults: What is wrong.
        chunk: The number of the call; None for a row of the batch itself.
        ranks: Over how many ranks the row is split; 0 if it is not.
        held: The tokens of each rank, in the order in which it has them.
    """

    row: int
    tokens: int
    places: tuple[Place, ...]
    planes: int = 0
    given: tuple[Line, ...] = ()
    due: tuple[Line, ...] = ()
    plane: str = ""
    off: tuple[tuple[int, int], ...] = ()
    ends: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    chunk: int | None = None
    ranks: int = 0
    held: tuple[Held, ...] = ()

    @property
    def samples(self) -> tuple[int, ...]:
        return tuple([place.sample for place in self.places])

    @property
    def wrong(self) -> frozenset[str]:
        """Keys with a fault."""
        return frozenset(fault.key for fault in self.faults)

    @staticmethod
    def at(lines: Iterable[Line], column: int) -> int | None:
        """The position of a token among these; None where it has none."""
        for start, stop, first, step in lines:
            if start <= column < stop:
                return first + step * (column - start)
        return None

    def column(self, rank: int, column: int) -> int | None:
        """The token of the row that a rank has at its own `column`; None if it has none there."""
        for start, stop, step in ((one.start, one.stop, one.step) for one in self.of_rank(rank)):
            size = len(range(start, stop, step))
            if column < size:
                return start + column * step
            column -= size
        return None

    def of_rank(self, rank: int) -> list[Held]:
        """The tokens of one rank."""
        return [one for one in self.held if one.rank == rank]

    def to_dict(self) -> dict[str, Any]:
        data = asdict(self)
        if not self.ranks:  # as older versions read it
            del data["ranks"], data["held"]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PackedRow:
        return cls(
            **{
                **data,
                "places": _tuples(Place, data["places"]),
                "given": _tuples(Line, data["given"]),
                "due": _tuples(Line, data["due"]),
                "off": tuple((start, stop) for start, stop in data["off"]),
                "ends": {key: tuple(ends) for key, ends in data["ends"].items()},
                "faults": _tuples(Fault, data["faults"]),
                "held": _tuples(Held, data.get("held", ())),
            }
        )


def _tuples(kind: type[Any], rows: Iterable[Iterable[Any]]) -> tuple[Any, ...]:
    return tuple([kind(*row) for row in rows])
