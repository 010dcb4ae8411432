"""For a trainer's own test-suite: one test of three lines covers every layout.

from vlmdebug.testing import assert_slices

def test_batches_are_cut_along_their_own_axes():
    assert_slices(my_slicer)
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from vlmdebug.batch import Batch
from vlmdebug.cases import Limits, cases, make
from vlmdebug.errors import MismatchError
from vlmdebug.families import FAMILIES, family_named
from vlmdebug.families.streams import clip_of
from vlmdebug.layout import STREAMS, plural
from vlmdebug.search import Slicer, Tried, falsify

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


def assert_slices(
    slicer: Slicer,
    *,
    families: Sequence[str] | None = None,
    max_examples: int = 200,
    seed: int = 0,
    text_only: bool = True,
    clips: bool | Collection[str] = True,
    position_ids: bool = True,
    padding_side: str | None = None,
) -> None:
    """Fail unless `slicer` is seen to cut every generated batch rightly.

    Args:
        slicer: A function of `(inputs, chunk_size)` that gives the model inputs of each chunk; make
            one of code that calls a model with `vlmdebug.record`.
        families: Layout families to try; all by default.
        max_examples: Batches per family.
        seed: The same seed tries the same batches.
        text_only: Whether samples without images are tried; False where your trainer refuses them.
        clips: Whether videos and audio clips are tried, where a layout's models take them;
            `["video"]` or `["audio"]` where your trainer takes one of the two.
        position_ids: Whether M-RoPE's `position_ids` are tried, where a layout's models take them;
            False where your trainer does not compute them ahead.
        padding_side: `"right"` or `"left"`, where your trainer pads on that side only.

    It warns where videos or audio were tried and `slicer` passed none: they were not checked.

    Raises:
        MismatchError: With the smallest batch that is cut wrongly, what is wrong with it, and
            the test that reproduces it.
        AmbiguousError: None was seen to be cut wrongly, but some could not be judged; with the
            smallest of these.
    """
    tried: dict[str, int] = {}
    found = falsify(
        slicer,
        families=families,
        max_examples=max_examples,
        seed=seed,
        text_only=text_only,
        clips=clips,
        position_ids=position_ids,
        padding_side=padding_side,
        tried=tried,
    )
    if found is None:
        _warn_of_what_was_left_out(tried)
        return
    details = "\n".join(f"{f.code} {f.title}: {f.message}" for f in found.report.findings)
    name = getattr(slicer, "__name__", "slicer")
    name = name if name.isidentifier() else "slicer"
    test = found.to_pytest(f"my_module:{name}")
    raise MismatchError(f"{found!r}\n{details}\n\n{test}", found.report) from found.error


def _warn_of_what_was_left_out(tried: Mapping[str, int]) -> None:
    """Say which kinds of clips were passed in no chunk, and how to say that this is meant."""
    left: dict[str, dict[str, None]] = {}
    for family, count in tried.items():
        for key in count.left_out if isinstance(count, Tried) else ():
            if clip_of(key):
                left.setdefault(clip_of(key), {})[family] = None
    if not left:
        return
    families = ", ".join(dict.fromkeys(family for owners in left.values() for family in owners))
    kinds = " and ".join(plural(unit) for unit in STREAMS if unit in left)
    others = [unit for unit in STREAMS if unit not in left]
    warnings.warn(
        f"No chunk was passed any of the {kinds} of the batches that were tried ({families}), so "
        f"how they are cut was not checked. If your trainer takes no {kinds}, pass "
        f"clips={others or False!r}; if it does, pass their keys on.",
        stacklevel=3,
    )


def batches(
    families: Sequence[str] | None = None,
    *,
    text_only: bool = True,
    clips: bool | Collection[str] = True,
    position_ids: bool = True,
    padding_side: str | None = None,
) -> SearchStrategy[Batch]:
    """Hypothesis strategy of synthetic batches, smallest first, for tests of one's own."""
    from hypothesis import strategies as st

    known = [family_named(name) for name in families or FAMILIES]
    limits = Limits(text_only, clips, position_ids, padding_side)
    drawn = st.one_of([cases(one, limits) for one in known])
    return drawn.map(lambda case: make(case.spec))
