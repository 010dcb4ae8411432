"""`falsify`: find the smallest batch that breaks a slicer.

Hypothesis draws batch specifications and shrinks the ones that fail; the tensors are made in
the family's layout without a processor, so a thousand cases take about a second. `None` is
evidence, not a proof: no batch that was tried tells the slicer from a right one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from time import monotonic
from typing import TYPE_CHECKING, Any

from vlmdebug.batch import Batch
from vlmdebug.errors import BadInput
from vlmdebug.families import FAMILIES, BatchSpec, Family, family_named
from vlmdebug.families.read import assemble
from vlmdebug.families.streams import KEYS, with_videos
from vlmdebug.plan import as_counts
from vlmdebug.report import Report

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Slicer = Callable[[Any, int], Iterable[Mapping[str, Any]]]

MAX_SAMPLES = 5
MAX_IMAGES = 3
MAX_VIDEOS = 2


@dataclass(frozen=True)
class Case:
    """What to make a batch of, and how to cut it."""

    spec: BatchSpec
    chunk_size: int

    def __repr__(self) -> str:
        return f"{self.spec!r}, chunk size {self.chunk_size}"


@dataclass(frozen=True, repr=False)
class Counterexample:
    """A smallest batch that a slicer cuts wrongly: `gemma4: images per sample [2], chunk size 1`.

    Attributes:
        case: The batch's specification and the chunk size.
        report: What `check` says of it.
    """

    case: Case
    report: Report

    @property
    def family(self) -> str:
        """Name of the layout family."""
        return self.case.spec.family

    @property
    def batch(self) -> Batch:
        """The batch, made anew."""
        return make(self.case.spec)

    @property
    def chunk_size(self) -> int:
        """Samples per chunk."""
        return self.case.chunk_size

    @property
    def error(self) -> BaseException | None:
        """What the slicer raised, if it did."""
        return self.report.error

    def to_pytest(self, slicer: str = "my_module:slicer") -> str:
        """Source of a regression test.

        Args:
            slicer: Where the test imports the slicer from, `module:name`.
        """
        module, _, name = slicer.partition(":")
        spec = self.case.spec
        images = "_".join(map(str, spec.images_per_sample))
        numbers = f"{list(spec.images_per_sample)}, sizes={list(spec.sizes)}"
        if spec.frames:
            numbers += f", videos_per_sample={list(spec.videos_per_sample)}"
            numbers += f", frames={list(spec.frames)}"
        return (
            f"import vlmdebug as vd\nfrom {module} import {name}\n\n\n"
            f"def test_{name}_cuts_{spec.family}_images_{images}() -> None:\n"
            f'    batch = vd.make_batch("{spec.family}", {numbers})\n\n'
            f"    vd.check({name}, batch, chunk_size={self.chunk_size}).raise_for_mismatch()\n"
        )

    def __repr__(self) -> str:
        return repr(self.case)


def falsify(
    slicer: Slicer,
    *,
    families: Sequence[str] | None = None,
    max_examples: int = 200,
    seconds: float | None = None,
    seed: int = 0,
    tried: MutableMapping[str, int] | None = None,
) -> Counterexample | None:
    """The smallest batch that `slicer` cuts wrongly, of the first family where there is one.

    Batches of families whose models take videos hold some. A slicer that never hands on a key of
    theirs is not blamed for leaving them out.

    Args:
        slicer: As for `check`.
        families: Names of the families to try, in this order; all by default.
        max_examples: Cases to try per family before it is left.
        seconds: Time for the whole search; what is not tried by then is not tried.
        seed: The same seed tries the same cases.
        tried: Filled with the number of cases tried per family, which is how much a `None` says.

    Returns:
        The counterexample, or None if every case tried was cut rightly.

    Raises:
        BadInput: A family is unknown, or the slicer gives no chunks.
    """
    search = _Search(slicer, max_examples, seconds, seed, {} if tried is None else tried)
    for family in _families(families):
        found = search.smallest(family)
        if found is not None:
            return found
    return None


def falsify_all(
    slicer: Slicer,
    *,
    families: Sequence[str] | None = None,
    max_examples: int = 200,
    seconds: float | None = None,
    seed: int = 0,
    tried: MutableMapping[str, int] | None = None,
) -> tuple[Counterexample, ...]:
    """As `falsify`, but for every family and every kind of mismatch met; no case comes twice."""
    search = _Search(slicer, max_examples, seconds, seed, {} if tried is None else tried)
    found = [
        search.smallest(family, kind)
        for family in _families(families)
        for kind in sorted(search.kinds(family))
    ]
    return tuple({example.case: example for example in found if example is not None}.values())


def make_batch(
    family: str,
    images_per_sample: Sequence[int],
    sizes: Sequence[int] | None = None,
    *,
    videos_per_sample: Sequence[int] | None = None,
    frames: Sequence[int] | None = None,
) -> Batch:
    """A synthetic batch in `family`'s layout, made without processor or model.

    Args:
        family: Name of a layout family.
        images_per_sample: One number per sample, 0 for a text-only one.
        sizes: One number per image: what it means is the family's (grid, tiles or soft
            tokens). All are the family's smallest by default.
        videos_per_sample: One number per sample, where the family's models take videos.
        frames: One number per video; one frame each by default.

    Raises:
        BadInput: The numbers do not fit together, or the family has no videos.
    """
    known, samples = family_named(family), len(images_per_sample)
    images = as_counts(images_per_sample, name="images_per_sample", samples=samples)
    if not images:
        raise BadInput("images_per_sample is empty, but a batch has at least one sample.")
    given = _sizes("sizes", "image", sizes, sum(images), known.sizes[0])
    if not videos_per_sample:
        return make(BatchSpec(known.name, images, given))
    if known.videos is None:
        raise BadInput(
            f"videos_per_sample was given, but {known.name} is not known to take videos. "
            f"Families that do: {', '.join(f.name for f in FAMILIES.values() if f.videos)}."
        )
    videos = as_counts(videos_per_sample, name="videos_per_sample", samples=samples)
    lengths = _sizes("frames", "video", frames, sum(videos), 1)
    return make(BatchSpec(known.name, images, given, videos, lengths))


def _sizes(
    name: str, noun: str, given: Sequence[int] | None, total: int, default: int
) -> tuple[int, ...]:
    found = (default,) * total if given is None else tuple(given)
    if len(found) != total or not all(isinstance(size, int) and size > 0 for size in found):
        raise BadInput(
            f"{name} is {list(found)!r}, but the samples have {total} {noun}s. "
            f"Give one whole number above 0 per {noun}."
        )
    return found


def make(spec: BatchSpec) -> Batch:
    """The batch of a specification, with torch tensors."""
    import torch

    family = family_named(spec.family)
    inputs, facts = family.synthesize(spec)
    if spec.frames:
        assert family.videos is not None
        inputs, facts = with_videos(family.videos, inputs, facts, spec)
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    return assemble(replace(facts, inputs=tensors), spec.family)


def cases(family: Family) -> SearchStrategy[Case]:
    """Hypothesis strategy of batches of one family and chunk sizes to cut them by.

    Text-only samples, equal sizes (which make mismatches silent), unequal ones, short last
    chunks and one chunk for all are drawn often.
    """
    from hypothesis import strategies as st

    @st.composite
    def draw_case(draw: Any) -> Case:
        images = tuple(draw(st.lists(st.integers(0, MAX_IMAGES), min_size=1, max_size=MAX_SAMPLES)))
        size = st.sampled_from(family.sizes)
        total = sum(images)
        alike = st.builds(lambda one: (one,) * total, size)
        mixed = st.lists(size, min_size=total, max_size=total).map(tuple)
        sizes = draw(st.one_of(alike, mixed))
        videos = frames = ()
        if family.videos is not None and draw(st.booleans()):
            count = st.integers(0, MAX_VIDEOS)
            videos = tuple(draw(st.lists(count, min_size=len(images), max_size=len(images))))
            length = st.lists(st.integers(1, 2), min_size=sum(videos), max_size=sum(videos))
            frames = tuple(draw(length))
            videos = videos if frames else ()
        spec = BatchSpec(family.name, images, sizes, videos, frames)
        return Case(spec, draw(st.integers(1, len(images))))

    return draw_case()


Kind = tuple[str, str]
"""One way to be wrong, without where: the cause, or the code where it is unknown; loudness."""


def _kinds(report: Report) -> set[Kind]:
    return {(mismatch.cause or mismatch.code, mismatch.loudness) for mismatch in report.mismatches}


def _hands_on(report: Report, keys: Collection[str]) -> bool:
    """Whether some chunk was handed one of the keys."""
    given = ("absent", "dropped")
    return any(
        chunk.keys[key].state not in given
        for chunk in report.chunks
        for key in chunk.keys.keys() & keys
    )


class _Search:
    """One slicer on trial; counts what it tried."""

    def __init__(
        self,
        slicer: Slicer,
        max_examples: int,
        seconds: float | None,
        seed: int,
        tried: MutableMapping[str, int],
    ) -> None:
        if not callable(slicer):
            raise BadInput(
                f"falsify was given a {type(slicer).__name__}, but a slicer is a function of "
                "(inputs, chunk_size) that gives the model inputs of each chunk. Nothing was "
                'tried. Pass the function itself; TRL\'s is vd.trl_slicer("grpo").'
            )
        self._slicer, self._max_examples, self._seed = slicer, max_examples, seed
        self._end = None if seconds is None else monotonic() + seconds
        self._tried = tried
        self._reports: dict[Case, Report] = {}

    def smallest(self, family: Family, kind: Kind | None = None) -> Counterexample | None:
        """The smallest case that fails, in this way if `kind` is given."""
        case = self._find(family, lambda kinds: kind in kinds if kind else bool(kinds))
        if case is None:
            return None
        from vlmdebug.tracing.check import illustrated

        report = illustrated(self._reports[case], make(case.spec))
        return Counterexample(case, report)

    def kinds(self, family: Family) -> set[Kind]:
        """Every way to fail that is met among the cases."""
        met: set[Kind] = set()

        def note(kinds: set[Kind]) -> bool:
            met.update(kinds)
            return False  # go on: all cases are tried

        self._find(family, note)
        return met

    def _find(self, family: Family, wanted: Callable[[set[Kind]], bool]) -> Case | None:
        """The smallest case whose kinds of failure are wanted."""
        from hypothesis import HealthCheck, Phase, find, settings
        from hypothesis.errors import NoSuchExample

        def holds(case: Case) -> bool:
            if self._end is not None and monotonic() > self._end:
                return False
            if case not in self._reports:
                self._reports[case] = self._check(case)
                self._tried[family.name] += 1
            return wanted(self._says(case))

        options = settings(
            max_examples=self._max_examples,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),  # pyright: ignore[reportArgumentType]
        )
        self._tried.setdefault(family.name, 0)
        try:
            return find(cases(family), holds, settings=options, random=Random(self._seed))
        except NoSuchExample:
            return None

    def _check(self, case: Case) -> Report:
        from vlmdebug.tracing.check import check

        batch = make(case.spec)
        return check(self._slicer, batch, chunk_size=case.chunk_size, pictures=False)

    def _says(self, case: Case) -> set[Kind]:
        """How the slicer fails there; videos that it never hands on are not its business."""
        report = self._reports[case]
        if case.spec.frames and report.error is None and not _hands_on(report, KEYS):
            return set()
        return _kinds(report)


def _families(names: Sequence[str] | None) -> list[Family]:
    if isinstance(names, str):
        names = [names]
    return list(FAMILIES.values()) if names is None else [family_named(name) for name in names]
