"""Where the tokens of one row are, and what a cut at `max_length` leaves of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from vlmdebug.fleet.faults import Fault, Kind


def runs_of(ids: Sequence[int], placeholder: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """First token and end of each image, once every placeholder is replaced.

    >>> runs_of([5, 9, 9, 6], placeholder=9, sizes=[4, 2])
    [(1, 5), (5, 7)]
    """
    at = [index for index, one in enumerate(ids) if one == placeholder]
    more = accumulate((size - 1 for size in sizes), initial=0)
    return [
        (index + before, index + before + size)
        for index, before, size in zip(at, more, sizes, strict=False)
    ]


def joined(ids: Sequence[int], placeholder: int, sizes: Sequence[int], shared: int) -> list[int]:
    """The sizes without the tokens that an image shares with one directly before it.

    >>> joined([9, 9, 5, 9], placeholder=9, sizes=[6, 6, 6], shared=1)
    [6, 5, 6]
    """
    if not shared:
        return list(sizes)
    before = [None, *ids]
    follows = [before[at] == placeholder for at, one in enumerate(ids) if one == placeholder]
    return [size - shared * after for size, after in zip(sizes, follows, strict=True)]


def kept(length: int, max_length: int, side: str) -> tuple[int, int]:
    """First and end of the tokens that a cut leaves."""
    return (0, max_length) if side == "right" else (length - max_length, length)


def faults_of_cut(
    runs: Sequence[tuple[int, int]], left: tuple[int, int], length: int
) -> list[Fault]:
    """A fault for each image that a cut goes through or leaves nothing of."""
    first, end = left
    faults: list[Fault] = []
    for number, (start, stop) in enumerate(runs, start=1):
        inside = max(0, min(stop, end) - max(start, first))
        if inside == stop - start:
            continue
        kind = Kind.CUT if inside else Kind.LOST
        faults.append(
            Fault(
                kind,
                f"Image {number} has tokens {start} to {stop - 1} of {length}; "
                f"{inside} of {stop - start} are left.",
            )
        )
    return faults
