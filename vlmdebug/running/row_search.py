"""One collator under test: drawn rows, the smallest set that it collates wrongly, and its code.

Rows are tried from the smallest sets on, then at random. Each row is collated alone once, whatever
rows it is tried with. A failing set is made smaller as long as it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from random import Random
from time import monotonic
from typing import Any

from vlmdebug.checking.report import Report
from vlmdebug.core.literals import literal
from vlmdebug.core.wording import number
from vlmdebug.errors import AmbiguousError, BadInput
from vlmdebug.running.collator import Collator, MakeRow
from vlmdebug.running.counterexample import Tried, with_imports
from vlmdebug.running.dataset_rows import (
    CONVERSATIONS,
    KINDS,
    SIZES,
    VIDEOS,
    WORDS,
    RowSpec,
    row_of,
    takes_videos,
    video_text,
)
from vlmdebug.running.row_sets import Rows, drawn, simplest, size_of, smaller
from vlmdebug.running.search import Kind, kinds_of
from vlmdebug.running.settings import FalsifySettings
from vlmdebug.running.together import Alone, alone, collate_report
from vlmdebug.safe import one_line


@dataclass(frozen=True, repr=False)
class RowsCounterexample:
    """The smallest rows that a collator collates wrongly: `images per row [0, 1]`.

    Attributes:
        trial: The collator.
        kind: The kind of the rows, as `make_rows` takes it.
        specs: What each row holds.
        rows: The rows.
        report: The report of `check`.
    """

    trial: Collator
    kind: str | MakeRow
    specs: Rows
    rows: tuple[Any, ...]
    report: Report

    @property
    def error(self) -> BaseException | None:
        """What the collator raised, if it did."""
        return self.report.error

    def to_pytest(
        self,
        collate: str = "my_module:collate",
        processor: str = "my_module:processor",
        make_row: str = "my_module:make_row",
    ) -> str:
        """Source of a regression test, which was run and fails as this does.

        Args:
            collate: The collator that the test imports, `module:name`.
            processor: The processor that the test imports.
            make_row: The function that the test imports, if `rows=` was one.

        Raises:
            BadInput: One of them has no module or no name, or the test does not fail: the collator
                behaves in another way each time.
        """
        named = {"collate": collate, "processor": processor}
        objects: dict[str, Any] = {"collate": self.trial.collate, "processor": self.trial.processor}
        kind = literal(self.kind) if isinstance(self.kind, str) else "make_row"
        if not isinstance(self.kind, str):
            named["make_row"], objects["make_row"] = make_row, self.kind
        test = (
            f"def test_collate_keeps_rows_apart() -> None:\n"
            f"    rows = vd.make_rows({kind}, {self._arguments()})\n\n"
            f"    vd.check(vd.collator(collate, processor), rows).raise_for_mismatch()\n"
        )
        return with_imports(named, test, objects)

    def _arguments(self) -> str:
        sizes = [size for spec in self.specs for size in spec.images]
        words = [spec.words for spec in self.specs]
        given = f"{[len(spec.images) for spec in self.specs]}"
        given += f", sizes={sizes}" if any(sizes) else ""
        given += f", words={words}" if any(words) else ""
        if any(spec.videos for spec in self.specs):
            given += f", videos_per_row={[len(spec.videos or ()) for spec in self.specs]}"
        clips = [size for spec in self.specs for size in spec.videos or ()]
        given += f", video_sizes={clips}" if any(clips) else ""
        return given if self.kind in CONVERSATIONS else f"{given}, processor=processor"

    def __repr__(self) -> str:
        kind = self.kind if isinstance(self.kind, str) else "own"
        text = f"{kind} rows: images per row {[len(spec.images) for spec in self.specs]}"
        if any(spec.videos for spec in self.specs):
            text += f", videos per row {[len(spec.videos or ()) for spec in self.specs]}"
        pixels = [SIZES[size] for spec in self.specs for size in spec.images]
        if len({*pixels}) > 1:
            text += f", sizes {' '.join(f'{width}x{height}' for width, height in pixels)}"
        clips = [VIDEOS[size] for spec in self.specs for size in spec.videos or ()]
        if len({*clips}) > 1:
            text += f", videos {' '.join(f'{n}x{width}x{height}' for n, (width, height) in clips)}"
        words = [WORDS[spec.words] for spec in self.specs]
        return f"{text}, words {words}" if len({*words}) > 1 else text


class RowSearch:
    """One collator under test; counts the sets of rows that it judged."""

    def __init__(
        self,
        trial: Collator,
        settings: FalsifySettings,
        tried: MutableMapping[str, int] | None = None,
    ) -> None:
        _refuse_slicers(settings)
        self._trial, self._settings = trial, settings
        self._end = None if settings.seconds is None else monotonic() + settings.seconds
        self._tried = {} if tried is None else tried
        self._singles: dict[tuple[int, RowSpec], Alone] = {}
        self._reports: dict[Rows, Report] = {}

    def first(self) -> RowsCounterexample | None:
        """The smallest set of rows that is collated wrongly, or None.

        Raises:
            AmbiguousError: There is none, but some sets could not be judged.
        """
        for specs in self._sets():
            if self._kinds(specs):
                return self._smallest(specs, lambda one: bool(self._kinds(one)))
        return self._rest()

    def all(self) -> tuple[RowsCounterexample, ...]:
        """The smallest set of rows for each kind of mismatch.

        Raises:
            AmbiguousError: There is none, but some sets could not be judged.
        """
        found: dict[Rows, RowsCounterexample] = {}
        failing = sorted((one for one in self._sets() if self._kinds(one)), key=size_of)
        for kind in sorted({kind for one in failing for kind in self._kinds(one)}):
            first = next(one for one in failing if kind in self._kinds(one))
            example = self._smallest(first, lambda one, kind=kind: kind in self._kinds(one))
            found.setdefault(example.specs, example)
        if found:
            return (*found.values(),)
        rest = self._rest()
        return () if rest is None else (rest,)

    @cached_property
    def kind(self) -> str | MakeRow:
        """The kind of rows: the one that was asked for, or the first that the collator takes.

        Raises:
            BadInput: It takes none; the message says why.
        """
        asked = self._trial.rows
        if isinstance(asked, str) and asked not in KINDS:
            row_of(asked, 0, RowSpec(), None)
        if asked is not None:
            return asked
        reasons = []
        for kind in KINDS:
            try:
                taken = alone(self._trial, row_of(kind, 0, RowSpec((0,)), self._trial.processor))
            except Exception as error:  # no image token, or a processor that takes no such call
                taken = Alone(None, error)
            batch = taken.batch
            if batch is not None and (batch.layout.media or not self._trial.dims):
                return kind
            why = "no image came out" if taken.error is None else one_line(taken.error, 120)
            reasons.append(f"{kind}: {why}")
        raise BadInput(
            f"{self._trial.name} takes none of the kinds of rows that are drawn ("
            f"{'; '.join(reasons)}). Nothing was tried. Pass rows=function to vd.collator, a "
            "function of (images, text, answer) that makes a row of your dataset."
        )

    @cached_property
    def videos(self) -> bool:
        """Whether videos are drawn: they are wanted, and the collator takes a row with one."""
        clips, kind, processor = self._settings.clips, self.kind, self._trial.processor
        if not (clips is True or (clips and "video" in clips)) or video_text(processor) is None:
            return False
        if not isinstance(kind, str) and not takes_videos(kind):
            return False
        try:
            taken = alone(self._trial, row_of(kind, 0, RowSpec(videos=(0,)), processor)).batch
        except BadInput:  # the processor or the user's function makes no such row
            return False
        return taken is not None and (
            "video" in taken.modalities  # else its keys are lost, if its tokens are there
            or any(sum(one.placeholders or ()) > 1 for one in taken.modalities.values())
            or int((taken.inputs["input_ids"] == self._trial.video_token).sum()) > 1
        )

    @property
    def _left_out(self) -> tuple[str, ...]:
        """`("videos",)` if the processor takes videos and none were drawn."""
        unseen = video_text(self._trial.processor) is not None and not self.videos
        return ("videos",) if unseen else ()

    @property
    def _least(self) -> int:
        """Fewest media of a row."""
        return 0 if self._settings.text_only else 1

    def _sets(self) -> Iterator[Rows]:
        """Sets of rows, each once: the simplest first, then others at random."""
        kind = self.kind if isinstance(self.kind, str) else "rows"
        self._tried.setdefault(kind, 0)
        least = self._least
        dice, most = Random(self._settings.seed), self._settings.max_examples
        videos = self.videos
        at_random = (drawn(dice, least, videos=videos) for _ in range(10 * most))
        given = set[Rows]()
        for specs in chain(simplest(least, videos=videos), at_random):
            if len(given) >= most or self._is_over():
                return
            if specs not in given:
                given.add(specs)
                yield specs

    def _report(self, specs: Rows) -> Report:
        if specs not in self._reports:
            rows = self._rows(specs)
            singles = [
                self._alone(place, spec, row)
                for place, (spec, row) in enumerate(zip(specs, rows, strict=True))
            ]
            report = collate_report(self._trial, rows, singles)
            self._reports[specs] = report
            kind = self.kind if isinstance(self.kind, str) else "rows"
            if not self._refused(report) and (report.mismatches or not report.ambiguities):
                self._tried[kind] = Tried(self._tried.get(kind, 0) + 1, self._left_out)
        return self._reports[specs]

    def _rows(self, specs: Rows) -> list[Any]:
        return [
            row_of(self.kind, place, spec, self._trial.processor)
            for place, spec in enumerate(specs)
        ]

    def _alone(self, place: int, spec: RowSpec, row: Any) -> Alone:
        if (place, spec) not in self._singles:
            self._singles[place, spec] = alone(self._trial, row)
        return self._singles[place, spec]

    def _kinds(self, specs: Rows) -> frozenset[Kind]:
        """How the collator fails on these rows; a row that it refuses alone is no failure."""
        report = self._report(specs)
        return frozenset() if self._refused(report) else kinds_of(report.mismatches)

    def _refused(self, report: Report) -> bool:
        return report.error is not None and "for one row alone" in report.mismatches[0].message

    def _smallest(self, specs: Rows, fails: Callable[[Rows], bool]) -> RowsCounterexample:
        less: Rows | None = specs
        while less is not None:
            specs, less = less, None
            for one in smaller(specs, self._least):
                if not self._is_over() and fails(one):
                    less = one
                    break
        return RowsCounterexample(
            self._trial, self.kind, specs, tuple(self._rows(specs)), self._report(specs)
        )

    def _rest(self) -> RowsCounterexample | None:
        """Without a failure: rows that the collator refuses alone, or what could not be judged.

        Rows that it refuses for what they hold come first: what else could not be judged may be
        due to them. If it refuses all sets of as many rows, their number may be the reason.

        Raises:
            AmbiguousError: Some sets could not be judged.
        """
        sets = sorted(self._reports, key=size_of)
        unsure = [one for one in sets if self._report(one).verdict == "AMBIGUOUS"]
        refused = [one for one in sets if self._refused(self._report(one))]
        taken = {len(one) for one in sets if one not in refused}
        for_content = [one for one in refused if len(one) in taken]
        judged = len(sets) - len(unsure) - len(refused)
        if unsure and not for_content:
            example = RowsCounterexample(
                self._trial, self.kind, unsure[0], (), self._report(unsure[0])
            )
            others = f"and is right on the other {judged}" if judged else "and there are no others"
            raise AmbiguousError(
                f"The collator could not be judged on {number(len(unsure), 'set')} of rows, "
                f"{others}. The smallest is {example!r}.\n" + "\n".join(example.report.ambiguities)
            )
        if not refused:
            return None
        specs = (for_content or refused)[0]
        return RowsCounterexample(
            self._trial, self.kind, specs, tuple(self._rows(specs)), self._report(specs)
        )

    def _is_over(self) -> bool:
        return self._end is not None and monotonic() > self._end


def _refuse_slicers(settings: FalsifySettings) -> None:
    """Refuse options that a collator decides itself.

    Raises:
        BadInput: One was given.
    """
    defaults = FalsifySettings()
    for name in ("families", "padding_side", "position_ids"):
        if getattr(settings, name) != getattr(defaults, name):
            raise BadInput(
                f"{name}= was given for a collator, but its own processor decides that. "
                f"Nothing was tried. Leave {name} out; rows are chosen by vd.collator(…, rows=…)."
            )
