"""Aligns runs of placeholder tokens with the features of images, both in order.

In a correct batch every run is the features of one image, or of a few adjacent ones, and an image
with separated rows is a few runs. In a wrong batch the cheapest alignment is searched: the fewest
images without a run, runs without an image, and runs of another length. Several alignments may be
equally cheap; only what all of them share is reported. Numbers in, numbers out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Literal, NamedTuple

Kind = Literal["whole", "changed", "missing", "extra"]
Node = tuple[int, int]

MOST_WORK = 200_000
"""Pairs of runs and images that are looked at; a second or so."""
COSTS: dict[Kind, int] = {"whole": 0, "changed": 2, "missing": 3, "extra": 3}
"""A run of another length is likelier than a run and an image without a partner."""


class Step(NamedTuple):
    """Runs and images (numbered over the batch) that belong together.

    `missing`: images without a run, which stand before run `runs.start`; `extra`: a run without an
    image; `changed`: a run, or a few of one image, that has another length than the features.
    """

    kind: Kind
    runs: range
    images: range


@dataclass(frozen=True)
class Alignment:
    """What the cheapest stories share.

    Attributes:
        steps: Steps that all of them have, in order.
        unique: Whether there is only one story, so that the steps are the whole of it.
        faulty: Samples in which each story has a fault.
    """

    steps: tuple[Step, ...]
    unique: bool
    faulty: frozenset[int]

    @property
    def faults(self) -> tuple[Step, ...]:
        return tuple(step for step in self.steps if step.kind != "whole")


def fits(runs: Sequence[int], pieces: Sequence[Sequence[int]]) -> bool:
    """Whether these runs are these images, none left over and none broken.

    >>> fits([10, 12], [[10], [12]]), fits([22], [[10], [12]]), fits([12, 10], [[10], [12]])
    (True, True, False)
    """
    ends = {*accumulate(piece for image in pieces for piece in image)}
    total = sum(map(sum, pieces))
    return sum(runs) == total and {*accumulate(runs)} <= ends | {0}


def align_runs(
    runs: Sequence[Sequence[int]], pieces: Sequence[Sequence[int]], *, joined: bool = False
) -> Alignment | None:
    """The cheapest alignment of the runs of samples with images.

    Args:
        runs: Lengths of the runs of each sample.
        pieces: For each image, the lengths of the runs that its features are written in.
        joined: Whether a run of another length is as likely several images (tiles) as one.

    Returns:
        What is certain; None where there are too many of both to look.
    """
    flat = [run for sample in runs for run in sample]
    if (len(flat) + 1) * (len(pieces) + 1) * (len(pieces) if joined else 1) > MOST_WORK:
        return None
    starts = (0, *accumulate(map(len, runs)))
    table = _Table(flat, pieces, joined, {*starts})
    steps = table.certain()
    faulty = frozenset(
        sample
        for sample, (first, last) in enumerate(pairwise(starts))
        if first < last and not table.may_be_whole(first, last)
    )
    return Alignment(tuple(step for _, step in steps), table.unique, faulty)


class _Table:
    """All cheapest paths from no run and no image to all of them."""

    def __init__(
        self, runs: list[int], pieces: Sequence[Sequence[int]], joined: bool, starts: set[int]
    ) -> None:
        self.runs, self.joined, self.starts = runs, joined, starts
        self.pieces = [[piece for piece in image if piece] for image in pieces]
        self.totals = [sum(image) for image in self.pieces]
        self._edges: dict[Node, list[tuple[Node, Step]]] = {}
        self._ahead = self._costs()
        self._before, self._after = self._counts()

    @property
    def unique(self) -> bool:
        return self._after[0, 0] == 1

    def certain(self) -> list[tuple[Node, Step]]:
        """The steps that are on every cheapest path, with their starts."""
        every, found = self._after[0, 0], []
        for node in sorted(self._before):
            for after, step in self._cheapest(node):
                if self._before[node] * self._after[after] == every:
                    found.append((node, step))
        return found

    def may_be_whole(self, first: int, last: int) -> bool:
        """Whether some cheapest path has no fault from run `first` up to `last`."""
        reached = {node for node in self._before if node[0] == first}
        while reached:
            if any(run == last for run, _ in reached):
                return True
            reached = {
                after
                for node in reached
                for after, step in self._cheapest(node)
                if step.kind == "whole"
            }
        return False

    def _costs(self) -> dict[Node, int]:
        """Least cost from each node to the end."""
        last: Node = (len(self.runs), len(self.pieces))
        ahead = {last: 0}
        for run in range(last[0], -1, -1):
            for image in range(last[1], -1, -1):
                node = (run, image)
                if node != last:
                    self._edges[node] = edges = [*self._steps(run, image)]
                    ahead[node] = min(self._cost(step) + ahead[after] for after, step in edges)
        return ahead

    def _cheapest(self, node: Node) -> list[tuple[Node, Step]]:
        return [
            (after, step)
            for after, step in self._edges.get(node, ())
            if self._cost(step) + self._ahead[after] == self._ahead[node]
        ]

    def _counts(self) -> tuple[dict[Node, int], dict[Node, int]]:
        """How many cheapest paths lead to each node, and from it to the end."""
        before, order = defaultdict(int, {(0, 0): 1}), []
        waiting = [(0, 0)]
        seen = {(0, 0)}
        while waiting:  # nodes on some cheapest path; sorted, each comes after those before it
            node = waiting.pop()
            order.append(node)
            for after, _ in self._cheapest(node):
                if after not in seen:
                    seen.add(after)
                    waiting.append(after)
        order.sort()
        for node in order:
            for after, _ in self._cheapest(node):
                before[after] += before[node]
        after_: dict[Node, int] = {(len(self.runs), len(self.pieces)): 1}
        for node in reversed(order):
            if node not in after_:
                after_[node] = sum(after_[after] for after, _ in self._cheapest(node))
        return dict(before), after_

    def _cost(self, step: Step) -> int:
        several = step.kind == "changed" and len(step.images) > 1 and not self.joined
        return COSTS[step.kind] + 2 * several

    def _steps(self, run: int, image: int) -> Iterator[tuple[Node, Step]]:
        if run < len(self.runs):
            yield (run + 1, image), Step("extra", range(run, run + 1), range(image, image))
        if image < len(self.pieces):
            yield (run, image + 1), Step("missing", range(run, run), range(image, image + 1))
        if run == len(self.runs) or image == len(self.pieces):
            return
        whole = self._whole(run, image)
        if whole is not None:
            yield (whole.runs.stop, whole.images.stop), whole
        for step in self._changed(run, image):
            if whole is None or (step.runs, step.images) != (whole.runs, whole.images):
                yield (step.runs.stop, step.images.stop), step

    def _whole(self, run: int, image: int) -> Step | None:
        """The fewest runs from here that are images from here, none broken."""
        taken, last, ends, total, made = run, image, {0}, 0, 0
        while True:
            if made <= total:  # one image more, with the ends of its pieces
                if last == len(self.pieces):
                    return None
                ends |= {made + end for end in accumulate(self.pieces[last])}
                made += self.totals[last]
                last += 1
            if total < made:
                if taken == len(self.runs) or (taken > run and taken in self.starts):
                    return None
                total += self.runs[taken]
                taken += 1
                if total <= made and total not in ends:
                    return None
            if total == made:
                return Step("whole", range(run, taken), range(image, last))

    def _changed(self, run: int, image: int) -> Iterator[Step]:
        one, single = range(image, image + 1), range(run, run + 1)
        yield Step("changed", single, one)
        if len(self.pieces[image]) > 1:
            yield from (Step("changed", range(run, stop), one) for stop in self._parts(run, image))
            return
        most = len(self.pieces) if self.joined else min(len(self.pieces), image + 4)
        total = self.totals[image]
        for last in range(image + 2, most + 1):
            total += self.totals[last - 1]
            if total != self.runs[run]:
                yield Step("changed", single, range(image, last))

    def _parts(self, run: int, image: int) -> Iterator[int]:
        """Where several runs end that may be what is left of one image's, or of another size."""
        pieces = self.pieces[image]
        for stop in range(run + 2, len(self.runs) + 1):
            if stop - 1 in self.starts:
                return
            here = self.runs[run:stop]
            inner, size = here[1:-1], len(here)
            begun = here[:-1] == pieces[: size - 1]
            ended = here[1:] == pieces[len(pieces) - size + 1 :]
            if (size <= len(pieces) and (begun or ended)) or len([*groupby(here)]) == 1:
                yield stop
            elif inner and inner[0] != pieces[0] and len({*inner}) > 1:
                return
