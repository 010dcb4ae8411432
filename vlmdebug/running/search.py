"""One slicer under test: the generated cases it cuts wrongly, and the smallest of them.

Cases are tried from the smallest on, then at random, a few of each family before many of any. A
failing case is made smaller, one step at a time, as long as it fails. `None` is evidence, not a
proof: no tried batch distinguishes the slicer from a correct one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import chain, islice
from random import Random
from time import monotonic
from typing import Any, NamedTuple

from vlmdebug.checking.compare import compare_cuts
from vlmdebug.checking.report import Report
from vlmdebug.core.batch import Batch
from vlmdebug.core.keys import CLIP_KEYS
from vlmdebug.core.mismatch import Mismatch
from vlmdebug.core.observed import SlicerRun
from vlmdebug.core.signature import Slicer
from vlmdebug.core.wording import number
from vlmdebug.errors import AmbiguousError, BadInput, NotJudged
from vlmdebug.families import Family, family_named
from vlmdebug.families.apart import SEPARATES
from vlmdebug.families.release import TYPES, takes
from vlmdebug.families.video_audio import clip_of
from vlmdebug.running.cases import Case, draw, families_of, simplest
from vlmdebug.running.counterexample import Counterexample, Tried
from vlmdebug.running.record import bound
from vlmdebug.running.settings import FalsifySettings
from vlmdebug.running.shrink import smaller
from vlmdebug.running.split import Call
from vlmdebug.running.synthetic import make
from vlmdebug.safe import one_line

FIRST_ROUND = 48
"""Cases of each family in the first round; each next round has four times as many."""
MADE_BY_TRAINERS = ("labels", "position_ids")
"""Token keys that some batches have and that some trainers compute themselves."""


Kind = tuple[str, str, str, str]
"""One kind of error without its location: the cause, if known; the code; loudness; and whether it
is in videos, in audio, or in neither."""


def kinds_of(mismatches: Iterable[Mismatch]) -> frozenset[Kind]:
    """The kinds of error of these mismatches."""
    return frozenset((m.cause or "", m.code, m.loudness, clip_of(m.key or "")) for m in mismatches)


def _size(case: Case) -> tuple[int, ...]:
    return case.size


class Trial(NamedTuple):
    """The result of one case.

    Attributes:
        report: The report of `check` on its cuts; None where it has nothing to report.
        handed_on: Names of the arguments that some chunk got.
        spared: Keys that the slicer left out of every chunk and is not blamed for.
        blamed: The remaining mismatches.
        refuses_whole: Whether the only remaining mismatch is an exception that no cut causes.
    """

    report: Report | None
    handed_on: frozenset[str]
    spared: frozenset[str]
    blamed: tuple[Mismatch, ...]
    refuses_whole: bool = False

    @property
    def ambiguities(self) -> tuple[str, ...]:
        """What could not be judged."""
        return () if self.report is None else tuple(self.report.ambiguities)

    @property
    def reported(self) -> Report:
        """The report of a case that came out wrong or was not judged."""
        assert self.report is not None
        return self.report


class Search:
    """One slicer under test; counts the cases it judged."""

    def __init__(
        self,
        slicer: Slicer,
        settings: FalsifySettings,
        tried: MutableMapping[str, int] | None = None,
        spares: bool = True,
    ) -> None:
        if not callable(slicer):
            raise BadInput(
                f"falsify was given a {type(slicer).__name__}, but a slicer is a function of "
                "(inputs, chunk_size) that gives the model inputs of each chunk. Nothing was "
                'tried. Pass the function itself; TRL\'s is vd.trl_slicer("grpo").'
            )
        self._slicer, self._settings, self._spares = bound(slicer), settings, spares
        self._families = families_of(settings)
        self._end = None if settings.seconds is None else monotonic() + settings.seconds
        self._tried = {} if tried is None else tried
        self._known: dict[Case, frozenset[Kind]] = {}
        self._failed: dict[Case, Counterexample] = {}
        self._untold: dict[Case, tuple[str, ...]] = {}
        self._refused: dict[Case, Counterexample] = {}
        self._spared: dict[str, dict[str, None]] = {}
        self._passed: dict[str, set[str]] = {}
        self._packs = False
        self._splits = settings.position_ids and hasattr(slicer, "shards")

    def first(self) -> Counterexample | None:
        """The smallest batch that is cut wrongly, or None.

        Raises:
            AmbiguousError: There is none, but some case could not be judged.
        """
        for case in self.in_rounds():
            if self.kinds(case):
                found = self.smallest(case)
                self.note_left_out()
                return found
        self.note_left_out()
        self.refuse_untold()
        return self.refused()

    def all(self) -> tuple[Counterexample, ...]:
        """The smallest batch of each family and each kind of mismatch.

        Raises:
            AmbiguousError: There is none, but some case could not be judged.
        """
        found: dict[Case, Counterexample] = {}
        for family in self._families:
            failing = sorted((case for case in self.of(family) if self.kinds(case)), key=_size)
            for kind in sorted({kind for case in failing for kind in self.kinds(case)}):
                first = next(case for case in failing if kind in self.kinds(case))
                example = self.smallest(first, kind)
                found.setdefault(example.case, example)
        self.note_left_out()
        if not found:
            self.refuse_untold()
        refused = (self.refused(family.name) for family in self._families)
        return (*found.values(), *(one for one in refused if one is not None))

    def note_left_out(self) -> None:
        """Add to the number of cases the keys that were never passed."""
        for family, cases in self._tried.items():
            passed = self._passed.get(family, set())
            left = [key for key in self._spared.get(family, ()) if key not in passed]
            self._tried[family] = Tried(cases, left)

    def in_rounds(self) -> Iterator[Case]:
        """Cases of all the families, a few of each before more of any."""
        streams, size = [self.of(family) for family in self._families], FIRST_ROUND
        while streams:
            going_on = []
            for stream in streams:
                taken = 0
                for case in islice(stream, size):
                    taken += 1
                    yield case
                if taken == size:
                    going_on.append(stream)
            streams, size = going_on, size * 4

    def of(self, family: Family) -> Iterator[Case]:
        """Cases of one family, each once: the simplest first, then others at random."""
        self._tried.setdefault(family.name, 0)
        pick, most = Random(self._settings.seed).randint, self._settings.max_examples
        drawn = (draw(family, pick, self._settings) for _ in range(10 * most))
        given = dict[Case, None]()
        for case in chain(simplest(family, self._settings), drawn):
            if len(given) >= most or self._is_over():
                return
            if case not in given:
                given[case] = None
                yield case

    def kinds(self, case: Case) -> frozenset[Kind]:
        """How the slicer fails on a case; empty if it does not, or if that is unknown."""
        if case not in self._known:
            self._known[case] = self._judged(case)
        return self._known[case]

    def smallest(self, case: Case, kind: Kind | None = None) -> Counterexample:
        """The case without all that it can lose and still fail, in this way if `kind` is given."""
        from vlmdebug.running.check import illustrated

        def fails(one: Case) -> bool:
            kinds = self.kinds(one)
            return kind in kinds if kind else bool(kinds)

        found = self._failed[self._least(case, fails)]
        return replace(found, report=illustrated(found.report, found.batch))

    def refuse_untold(self) -> None:
        """Raise if some case could not be judged, because no error found is no verdict then."""
        if not self._untold:
            return
        judged, untold = sum(self._tried.values()), number(len(self._untold), "generated batch")
        case = self._least(min(self._untold, key=_size), self._cannot_tell)
        others = f"and cuts the other {judged} correctly" if judged else "and there are no others"
        raise AmbiguousError(
            f"The slicer could not be judged on {untold}, {others}. "
            f"The smallest is {case!r}.\n" + "\n".join(self._untold[case])
        )

    def refused(self, family: str | None = None) -> Counterexample | None:
        """The smallest batch that the slicer refuses even as one chunk, if there is one.

        It is reported last, because no cut is its cause.

        Raises:
            NotJudged: The slicer is what `method` made: its callers may not pass such a batch.
        """
        cases = [case for case in self._refused if family in (None, case.spec.family)]
        found = self._refused[min(cases, key=_size)] if cases else None
        if found is not None and getattr(self._slicer, "invented", None) is not None:
            raise NotJudged(
                f"{one_line(getattr(self._slicer, '__name__', 'The slicer'))} raises "
                f"{type(found.error).__name__}: {one_line(found.error, 200)} with {found!r}, also "
                "where the whole batch is one chunk. Parts of what it reads were invented, so it "
                "is not blamed. Nothing else was wrong. Pass what it needs, as its callers do."
            )
        return found

    def _judged(self, case: Case) -> frozenset[Kind]:
        if self._packs and case.spec.clips and not case.spec.position_ids:
            if family_named(case.spec.family).mrope:  # they follow from a config that is not drawn
                return self._as(case, _without(case, **NO_CLIPS))
        if self._splits and _lacks_positions(case):
            return self._as(case, _without(case, position_ids=True))
        trial = self._run(case)
        if self._packs and not trial.blamed and case.spec.family not in SEPARATES:
            return frozenset()  # nothing is known to keep its samples apart
        if trial.blamed or trial.ambiguities:
            plainer = self._without_its_own(case)
            if plainer != case:  # other people's keys are not tested
                return self._as(case, plainer)
        if trial.blamed and trial.spared & CLIP_KEYS and case.spec.clips:
            found = self._as(case, _without(case, **NO_CLIPS))
            if found:
                return found  # it is also wrong without the clips that it leaves out
        if trial.refuses_whole:
            self._refused[case] = self._counterexample(case, trial.reported)
            return frozenset()
        if not trial.blamed and trial.ambiguities:
            self._untold[case] = trial.ambiguities
            return frozenset()
        self._tried[case.spec.family] += 1
        if trial.blamed:
            self._failed[case] = self._counterexample(case, trial.reported)
        return kinds_of(trial.blamed)

    def _counterexample(self, case: Case, report: Report) -> Counterexample:
        call = getattr(self._slicer, "_vlmdebug_call", "{}")
        return Counterexample(case, report, call, self._slicer)

    def _as(self, case: Case, plainer: Case) -> frozenset[Kind]:
        """How it fails with less in the batch; this is then the result of the case."""
        found = self.kinds(plainer)
        if found:
            self._failed[case] = self._failed[plainer]
        return found

    def _run(self, case: Case) -> Trial:
        from vlmdebug.running.check import run

        batch, names = make(case.spec), set[str]()

        def note(call: Call) -> None:
            for given in call.ranks:
                names.update(key for key in given.keys() if given[key] is not None)  # noqa: SIM118

        ran = run(self._slicer, batch, case.chunk_size, note)
        self._packs |= any(chunk.spans is not None for chunk in ran.chunks)
        if self._refuses_whole(case, ran):
            ran = replace(ran, refuses_whole=True)
        report, handed_on = compare_cuts(batch, ran), frozenset(names)  # drawn sound
        spared = _spared(_found(report), handed_on) if self._spares else frozenset[str]()
        self._note(case.spec.family, batch, spared, handed_on)
        blamed = _blamed(_found(report), spared)
        refuses = ran.refuses_whole and all(m.code == "VLM008" for m in blamed)
        return Trial(report, handed_on, spared, blamed, refuses)

    def _refuses_whole(self, case: Case, ran: SlicerRun) -> bool:
        """Whether the slicer raises the same exception if the whole batch is one chunk.

        A `NameError` is a bug of the code, not a refusal.
        """
        from vlmdebug.running.check import run

        if ran.error is None or isinstance(ran.error, NameError):
            return False
        whole = make(case.spec)
        again = ran if case.chunk_size >= len(whole) else run(self._slicer, whole, len(whole))
        return type(again.error) is type(ran.error) and str(again.error) == str(ran.error)

    def _note(
        self, family: str, batch: Batch, spared: frozenset[str], passed: frozenset[str]
    ) -> None:
        """Keep a key as unchecked as long as no case passed it."""
        self._passed.setdefault(family, set()).update(passed)
        unsure = {TYPES} if takes(family, TYPES) is None else set[str]()
        kept = self._spared.setdefault(family, {})
        kept.update(dict.fromkeys(key for key in batch.layout if key in spared | unsure))

    def _without_its_own(self, case: Case) -> Case:
        """The case without the token keys that the slicer also makes if the batch has none."""
        given = {key: False for key in MADE_BY_TRAINERS if getattr(case.spec, key)}
        if self._splits and family_named(case.spec.family).mrope:
            given.pop("position_ids", None)
        if not given:
            return case
        own = self._run(_without(case, **given)).handed_on
        return _without(case, **{key: False for key in given if key in own})

    def _cannot_tell(self, case: Case) -> bool:
        return not self.kinds(case) and case in self._untold

    def _least(self, case: Case, holds: Callable[[Case], bool]) -> Case:
        """The smallest neighbouring case for which `fails` still holds."""
        less: Case | None = case
        while less is not None:
            case, around = less, smaller(less, self._settings)
            less = next((one for one in around if not self._is_over() and holds(one)), None)
        return case

    def _is_over(self) -> bool:
        return self._end is not None and monotonic() > self._end


NO_CLIPS: dict[str, Any] = {
    "videos_per_sample": (),
    "frames": (),
    "audios_per_sample": (),
    "second_per_grid_ts": False,
}


TIMES = frozenset({"second_per_grid_ts"})
"""Video keys that a loop over all keys may pass, though it does not handle videos."""


def _lacks_positions(case: Case) -> bool:
    """Whether M-RoPE's positions are missing, which no rank can make of its own tokens."""
    return not case.spec.position_ids and family_named(case.spec.family).mrope


def _without(case: Case, **fields: Any) -> Case:
    """The case with some fields of its specification changed, to their defaults in most cases."""
    return replace(case, spec=replace(case.spec, **fields))


def _found(report: Report | None) -> tuple[Mismatch, ...]:
    return () if report is None else tuple(report.mismatches)


def _spared(found: Sequence[Mismatch], handed_on: frozenset[str]) -> frozenset[str]:
    """Keys that a slicer need not pass and does not try to: no chunk has one of their kind.

    An unknown name, or a requested name close to a key's, shows that it tries to.
    """
    spared = frozenset({"position_ids"}) - handed_on
    tries = any(m.code == "VLM004" and _is_slip(m, CLIP_KEYS) for m in found)
    return spared if handed_on & (CLIP_KEYS - TIMES) or tries else spared | CLIP_KEYS


def _is_slip(mismatch: Mismatch, keys: Iterable[str]) -> bool:
    """Whether it is about an unknown name that was passed, or requested in place of a key."""
    asked = mismatch.chunk is None
    return not asked or bool(get_close_matches(mismatch.key or "", [*keys], 1, cutoff=0.9))


def _blamed(found: Sequence[Mismatch], spared: frozenset[str]) -> tuple[Mismatch, ...]:
    """The mismatches without those of the spared keys and their consequences."""
    out = [m for m in found if m.key in spared and (m.code == "VLM003" or m.key in TIMES)]
    causes = {m.cause for m in out if m.cause is not None}
    return tuple(
        m for m in found if m not in out and not (m.code == "VLM004" and m.cause in causes)
    )
