"""Many files: those seen before come from the cache, the others are shared out to processes.

Results keep the order of the files, so the output is the same whatever the number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial

from vlmdebug.errors import BadInput
from vlmdebug.review.cache import Cache
from vlmdebug.review.files import Raw
from vlmdebug.review.one_file import review_of
from vlmdebug.review.result import Review
from vlmdebug.review.trials import trials

WORTH = 500_000
"""Bytes of source per process: a process starts in the time that is needed to read these."""

Families = tuple[str, ...] | None


@dataclass(frozen=True)
class Request:
    """A file to review.

    Attributes:
        raw: The file.
        lines: Review only functions with one of these lines, if there are any.
        is_found: Whether nobody named the file, so that one without any word about media is passed
            over unread.
    """

    raw: Raw
    lines: frozenset[int] | None = None
    is_found: bool = True


def reviews_of(
    requests: Sequence[Request],
    families: Families = None,
    *,
    jobs: int | None = 1,
    cache: Cache | None = None,
) -> list[Review | BadInput]:
    """The review of each file, or why it could not be read.

    Args:
        requests: The files.
        families: Layouts to judge by.
        jobs: Number of processes; None for as many as are worth their start.
        cache: Where reviews are kept; None for nowhere.

    Raises:
        BadInput: No family has that name.
    """
    found: dict[int, Review | BadInput] = {}
    left: list[int] = []
    for place, one in enumerate(requests):
        if one.is_found and not one.raw.may_be_about:
            found[place] = Review()
            continue
        kept = cache.get(one.raw, families) if cache and one.lines is None else None
        if kept is None:
            left.append(place)
        else:
            found[place] = kept
    made = _made([requests[place] for place in left], families, jobs)
    for place, review in zip(left, made, strict=True):
        found[place] = review
        one = requests[place]
        if cache and one.lines is None and isinstance(review, Review):
            cache.put(one.raw, families, review)
    return [found[place] for place in range(len(requests))]


def _made(
    requests: Sequence[Request], families: Families, jobs: int | None
) -> list[Review | BadInput]:
    if requests or families:
        trials(families)  # refuses an unknown family; processes that are forked share it
    review = partial(_review, families=families)
    if jobs is None:
        worth = sum(len(one.raw.data) for one in requests) // WORTH
        jobs = min(_processors(), max(worth, 1))
    jobs = min(jobs, len(requests))
    if jobs > 1:
        try:
            with ProcessPoolExecutor(jobs) as pool:
                return [*pool.map(review, requests, chunksize=1)]
        except (OSError, BrokenProcessPool):  # no process can be started, or one was killed
            pass
    return [*map(review, requests)]


def _review(one: Request, families: Families) -> Review | BadInput:
    try:
        return review_of(one.raw, families, one.lines)
    except BadInput as error:
        return error


def _processors() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
