"""For a trainer's own tests: one test of three lines covers every layout.

from vlmdebug.testing import assert_slices

def test_batches_are_cut_along_their_own_axes():
    assert_slices(my_slicer)
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from vlmdebug.core.batch import Batch
from vlmdebug.core.given import public
from vlmdebug.core.layout import VIDEO_AND_AUDIO, plural
from vlmdebug.core.signature import Slicer
from vlmdebug.errors import BadInput, MismatchError
from vlmdebug.families.video_audio import clip_of
from vlmdebug.running.cases import cases, families_of
from vlmdebug.running.counterexample import Counterexample, Tried
from vlmdebug.running.search import Search
from vlmdebug.running.settings import DEFAULTS, FalsifySettings, documented
from vlmdebug.running.synthetic import make

PROFILE = "VLMDEBUG_PROFILE"
"""The environment variable that names a profile."""

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


@documented
@public
def assert_slices(
    slicer: Slicer,
    *,
    profile: str | None = None,
    families: Sequence[str] | None = DEFAULTS.families,
    max_examples: int = DEFAULTS.max_examples,
    seconds: float | None = DEFAULTS.seconds,
    seed: int = DEFAULTS.seed,
    text_only: bool = DEFAULTS.text_only,
    clips: bool | Collection[str] = DEFAULTS.clips,
    position_ids: bool = DEFAULTS.position_ids,
    padding_side: str | None = DEFAULTS.padding_side,
) -> None:
    """Fail unless `slicer` cuts every generated batch correctly.

    Args:
        slicer: A function of `(inputs, chunk_size)` that gives the model inputs of each chunk; make
            one of code that calls a model with `vlmdebug.record`. A loop of `(model, inputs,
            chunk_size)` is recorded.
        profile: `"fast"` takes at most 2 seconds for all layouts, `"nightly"` tries 5,000 cases of
            each. By default pytest's option `--vlmdebug-profile`, or the environment variable
            `VLMDEBUG_PROFILE`, says which. `max_examples` and `seconds` are stronger.
        options: As `FalsifySettings` describes them.

    It warns if videos or audio were tried and `slicer` passed none: they were not checked.

    Raises:
        MismatchError: With the smallest batch that is cut wrongly, what is wrong with it, and
            the test that reproduces it.
        AmbiguousError: No batch was found to be cut wrongly, but some could not be judged; with the
            smallest of these.
    """
    tried: dict[str, int] = {}
    __tracebackhide__ = True  # pytest shows the message, not these lines
    settings = FalsifySettings(
        families, max_examples, seconds, seed, text_only, clips, position_ids, padding_side
    )
    settings = settings.in_profile(profile or os.environ.get(PROFILE) or None)
    found = Search(slicer, settings, tried).first()
    if found is None:
        _warn_of_what_was_left_out(tried)
        _warn_of_layouts_not_tried(settings, tried)
        return
    details = "\n".join(f"{f.code} {f.title}: {f.message}" for f in found.report.findings)
    raise MismatchError(
        f"{found!r}\n{details}\n\n{_test_of(found, slicer)}", found.report
    ) from found.error


def _test_of(found: Counterexample, slicer: Slicer) -> str:
    """The regression test, or why there is none."""
    name = getattr(slicer, "__name__", "slicer")
    try:
        return found.to_pytest(f"my_module:{name if name.isidentifier() else 'slicer'}")
    except BadInput as error:
        return f"({error})"


def _warn_of_layouts_not_tried(settings: FalsifySettings, tried: Mapping[str, int]) -> None:
    """Warn about layouts that the time was too short for."""
    left = [one.name for one in families_of(settings) if not tried.get(one.name)]
    if left and settings.max_examples:
        warnings.warn(
            f"The time of {settings.seconds} seconds ended before {', '.join(left)} could be "
            "tried. Pass more seconds, or name the families that you support.",
            stacklevel=4,
        )


def _warn_of_what_was_left_out(tried: Mapping[str, int]) -> None:
    """Warn about kinds of clips that no chunk passed, and name the option if this is intended."""
    left: dict[str, dict[str, None]] = {}
    for family, count in tried.items():
        for key in count.left_out if isinstance(count, Tried) else ():
            if clip_of(key):
                left.setdefault(clip_of(key), {})[family] = None
    if not left:
        return
    families = ", ".join(dict.fromkeys(family for owners in left.values() for family in owners))
    kinds = " and ".join(plural(unit) for unit in VIDEO_AND_AUDIO if unit in left)
    others = [unit for unit in VIDEO_AND_AUDIO if unit not in left]
    warnings.warn(
        f"No chunk was passed any of the {kinds} of the batches that were tried ({families}), so "
        f"how they are cut was not checked. If your trainer takes no {kinds}, pass "
        f"clips={others or False!r}; if it does, pass their keys on.",
        stacklevel=4,
    )


@documented
@public
def batches(
    families: Sequence[str] | None = DEFAULTS.families,
    *,
    text_only: bool = DEFAULTS.text_only,
    clips: bool | Collection[str] = DEFAULTS.clips,
    position_ids: bool = DEFAULTS.position_ids,
    padding_side: str | None = DEFAULTS.padding_side,
) -> SearchStrategy[Batch]:
    """Hypothesis strategy for synthetic batches, smallest first, for your own tests.

    Args:
        options: As `FalsifySettings` describes them.

    Raises:
        BadInput: A family is unknown, or an option has an invalid value.
    """
    from hypothesis import strategies as st

    settings = FalsifySettings(
        families or None,
        text_only=text_only,
        clips=clips,
        position_ids=position_ids,
        padding_side=padding_side,
    )
    drawn = st.one_of([cases(family, settings) for family in families_of(settings)])
    return drawn.map(lambda case: make(case.spec))
