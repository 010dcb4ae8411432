"""`falsify`: find the smallest batch that breaks a slicer.

Hypothesis draws batch specifications and shrinks the ones that fail; then things are left out one
by one as long as it fails. `None` is evidence, not a proof: no batch that was tried tells the
slicer from a right one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from random import Random
from time import monotonic
from typing import Any

from vlmdebug.batch import Batch
from vlmdebug.cases import Case, cases, make, smaller
from vlmdebug.errors import BadInput
from vlmdebug.families import FAMILIES, Family, family_named
from vlmdebug.families.streams import KEYS, clip_of
from vlmdebug.report import Report

Slicer = Callable[[Any, int], Iterable[Mapping[str, Any]]]


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
        if spec.audios_per_sample:
            numbers += f", audios_per_sample={list(spec.audios_per_sample)}"
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
    text_only: bool = True,
    clips: bool = True,
    tried: MutableMapping[str, int] | None = None,
) -> Counterexample | None:
    """The smallest batch that `slicer` cuts wrongly, of the first family where there is one.

    Batches of families whose models take videos or audio hold some, one kind at a time. A slicer
    that never hands on a key of theirs is not blamed for leaving them out.

    Args:
        slicer: As for `check`.
        families: Names of the families to try, in this order; all by default.
        max_examples: Cases to try per family before it is left.
        seconds: Time for the whole search; what is not tried by then is not tried.
        seed: The same seed tries the same cases.
        text_only: Whether samples without images are tried; False where your trainer refuses them.
        clips: Whether videos and audio clips are tried, where a family's models take them.
        tried: Filled with the number of cases tried per family, which is how much a `None` says.

    Returns:
        The counterexample, or None if every case tried was cut rightly.

    Raises:
        BadInput: A family is unknown, or the slicer gives no chunks.
    """
    search = _Search(slicer, max_examples, seconds, seed, text_only, clips, tried)
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
    text_only: bool = True,
    clips: bool = True,
    tried: MutableMapping[str, int] | None = None,
) -> tuple[Counterexample, ...]:
    """As `falsify`, but for every family and every kind of mismatch met; no case comes twice."""
    search = _Search(slicer, max_examples, seconds, seed, text_only, clips, tried)
    found = [
        search.smallest(family, kind)
        for family in _families(families)
        for kind in sorted(search.kinds(family))
    ]
    return tuple({example.case: example for example in found if example is not None}.values())


Kind = tuple[str, str, str, str]
"""One way to be wrong, without where: the cause, where it is known; the code; loudness; and whether
it is in videos, in audio, or in neither."""


def _kinds(report: Report) -> set[Kind]:
    return {(m.cause or "", m.code, m.loudness, clip_of(m.key or "")) for m in report.mismatches}


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
        text_only: bool,
        clips: bool,
        tried: MutableMapping[str, int] | None,
    ) -> None:
        if not callable(slicer):
            raise BadInput(
                f"falsify was given a {type(slicer).__name__}, but a slicer is a function of "
                "(inputs, chunk_size) that gives the model inputs of each chunk. Nothing was "
                'tried. Pass the function itself; TRL\'s is vd.trl_slicer("grpo").'
            )
        self._slicer, self._max_examples, self._seed = slicer, max_examples, seed
        self._end = None if seconds is None else monotonic() + seconds
        self._text_only, self._clips = text_only, clips
        self._tried = {} if tried is None else tried
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
        drawn = cases(family, text_only=self._text_only, clips=self._clips)
        try:
            case = find(drawn, holds, settings=options, random=Random(self._seed))
        except NoSuchExample:
            return None
        less: Case | None = case
        while less is not None:
            case = less
            less = next((c for c in smaller(case, text_only=self._text_only) if holds(c)), None)
        return case

    def _check(self, case: Case) -> Report:
        from vlmdebug.tracing.check import check

        batch = make(case.spec)
        return check(self._slicer, batch, chunk_size=case.chunk_size, pictures=False)

    def _says(self, case: Case) -> set[Kind]:
        """How the slicer fails there; clips that it never hands on are not its business."""
        report = self._reports[case]
        if case.spec.clips and report.error is None and not _hands_on(report, KEYS):
            return set()
        return _kinds(report)


def _families(names: Sequence[str] | None) -> list[Family]:
    if isinstance(names, str):
        names = [names]
    return list(FAMILIES.values()) if names is None else [family_named(name) for name in names]
