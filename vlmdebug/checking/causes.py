"""The likely cause of a fault, read off the runs: runs in, cause out.

A difference of two totals says little: truncation, a sampled token and an image of another size all
change it. Where a run stands, how it ends and what its neighbours are like says more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlmdebug.core.alignment import Step
from vlmdebug.core.record import Word
from vlmdebug.core.runs import Run


class RunCause(Word):
    """What likely became of a run of placeholder tokens."""

    CUT_OFF = "text cut off"
    NO_RUN = "text without its images"
    NO_IMAGE = "images without a text"
    ANOTHER_ORDER = "another order"
    ANOTHER_SIZE = "another size"
    EXPANDED_TWICE = "expanded twice"
    SAMPLED = "sampled placeholder"
    STRAY = "stray placeholder"
    UNKNOWN = "unknown"


FEW = 3
"""Placeholder tokens that stand alone without being those of an image."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one run, or with one image.

    Attributes:
        cause: The likely cause.
        have: Placeholder tokens.
        want: Features.
        images: Numbers of the images concerned, over the batch; none where no image is.
    """

    cause: RunCause
    have: int
    want: int
    images: range = range(0)


def faults_of(
    faults: Sequence[Step],
    steps: Sequence[Step],
    runs: Sequence[Run],
    pieces: Sequence[Sequence[int]],
    own: range | None = None,
) -> list[Fault]:
    """What each faulty step is likely due to.

    Args:
        faults: Steps of one sample that are none of a run and its images.
        steps: All steps, as `align_runs` gives them.
        runs: All runs, as the steps number them.
        pieces: The features of each image, as the steps number them.
        own: The runs of the sample; all of them by default.
    """
    ends, features = _usual_ends(steps, runs), [sum(piece) for piece in pieces]
    own, found = range(len(runs)) if own is None else own, []
    for step in faults:
        have = sum(runs[run].length for run in step.runs)
        want = sum(features[image] for image in step.images)
        if step.kind == "missing":
            found.append(Fault(RunCause.NO_RUN, 0, want, step.images))
        elif step.kind == "extra":
            found.append(Fault(_extra(step.runs.start, runs, own), have, 0))
        elif step.kind == "changed":
            found.append(Fault(_changed(step, have, want, runs, ends), have, want, step.images))
    return found


def _usual_ends(steps: Sequence[Step], runs: Sequence[Run]) -> tuple[set[int], set[int]]:
    """Tokens that stand before and after whole runs."""
    whole = [runs[run] for step in steps if step.kind == "whole" for run in step.runs]
    before = {run.before for run in whole if run.before is not None}
    return before, {run.after for run in whole if run.after is not None}


def _extra(run: int, runs: Sequence[Run], own: range) -> RunCause:
    if runs[run].length > FEW:
        return RunCause.NO_IMAGE
    behind = all(runs[other].length <= FEW for other in range(run + 1, own.stop))
    return RunCause.SAMPLED if behind else RunCause.STRAY


def _changed(
    step: Step, have: int, want: int, runs: Sequence[Run], ends: tuple[set[int], set[int]]
) -> RunCause:
    if have < want:
        return (
            RunCause.CUT_OFF
            if _is_cut(runs[step.runs.start], runs[step.runs[-1]], ends)
            else (RunCause.ANOTHER_SIZE)
        )
    if want > 1 and have == 2 * want - 1:
        return RunCause.EXPANDED_TWICE
    return RunCause.STRAY if have - want <= FEW else RunCause.ANOTHER_SIZE


def _is_cut(first: Run, last: Run, ends: tuple[set[int], set[int]]) -> bool:
    """Whether the text begins or ends within the run, or goes on as it does after no whole one."""
    if first.before is None or last.after is None:
        return True
    before, after = ends
    one_begin, one_end = len(before) == 1, len(after) == 1
    return (one_begin and first.before not in before) or (one_end and last.after not in after)


def is_another_order(runs: Sequence[Sequence[int]], features: Sequence[Sequence[int]]) -> bool:
    """Whether the runs are the features, or the samples' totals are, in another order.

    >>> is_another_order([[12], [10]], [[10], [12]]), is_another_order([[63], [65]], [[64], [64]])
    (True, False)
    """
    written = [run for sample in runs for run in sample]
    made = [count for sample in features for count in sample]
    if written != made and sorted(written) == sorted(made):
        return True
    texts, media = [sum(sample) for sample in runs], [sum(sample) for sample in features]
    return texts != media and sorted(texts) == sorted(media)
