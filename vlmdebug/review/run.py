"""A whole review: files, changes or one text, with the settings of each file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlmdebug.errors import BadInput
from vlmdebug.review.baseline import Baseline
from vlmdebug.review.cache import Cache
from vlmdebug.review.changes import Change
from vlmdebug.review.compare import news, requests_of
from vlmdebug.review.config import Configuration, Settings
from vlmdebug.review.files import Raw, files_of
from vlmdebug.review.many import Families, Request, reviews_of
from vlmdebug.review.result import Review
from vlmdebug.safe import one_line

NO_FILE = "There is no Python file or notebook to review, or all of them are excluded."


def read_requests(names: Iterable[str | Path]) -> Iterator[tuple[Path, Request]]:
    """Each file that is named, or in a folder that is.

    Raises:
        OSError: A file that was named cannot be read. One in a folder is passed over.
    """
    for path, is_found in files_of(names):
        try:
            data = path.read_bytes()
        except OSError:
            if not is_found:
                raise
            continue
        yield path, Request(Raw(path.as_posix(), data), is_found=is_found)


@dataclass
class Reviewer:
    """Reviews with the same options.

    Attributes:
        settings_of: The settings of a file.
        families: Layouts to judge by; None for all.
        jobs: Number of processes; None for as many as are worth their start.
        cache: Where reviews are kept; None for nowhere.
        uses_baseline: Whether accepted findings are left out.
        excludes_named: Whether excluded files are passed over even if they were named.
    """

    settings_of: Callable[[Path], Settings] = field(
        default_factory=lambda: Configuration().settings_of
    )
    families: Families = None
    jobs: int | None = 1
    cache: Cache | None = None
    uses_baseline: bool = True
    excludes_named: bool = False
    _baselines: dict[Path, Baseline] = field(default_factory=dict[Path, Baseline], init=False)

    def files(self, names: Iterable[str | Path]) -> Review:
        """The review of files and of those in folders.

        Raises:
            BadInput: A file that was named is no Python, or settings cannot be used.
            OSError: A file that was named cannot be read.
        """
        read = [
            (path, one)
            for path, one in read_requests(names)
            if not ((one.is_found or self.excludes_named) and self.settings_of(path).excludes(path))
        ]
        if not read:
            return Review(notes=(NO_FILE,))
        found = self._reviews([one for _, one in read])
        for (_, one), review in zip(read, found, strict=True):
            if isinstance(review, BadInput) and not one.is_found:
                raise review
        return Review.joined(
            self._reported(listed(review), path)
            for (path, _), review in zip(read, found, strict=True)
        )

    def text(self, data: bytes, name: str) -> Review:
        """The review of one text, as if it were in a file of that name.

        Raises:
            BadInput: It is no Python, or settings cannot be used.
        """
        path = Path(name)
        if self.excludes_named and self.settings_of(path).excludes(path):
            return Review(notes=(NO_FILE,))
        (found,) = self._reviews([Request(Raw(name, data), is_found=False)])
        if isinstance(found, BadInput):
            raise found
        return self._reported(found, path)

    def changes(self, changes: Sequence[Change], *, is_all: bool = False) -> Review:
        """The review of what changes made wrong or newly expose, or of the changed files.

        Raises:
            BadInput: Settings cannot be used.
        """
        own = [one for one in changes if not self.settings_of(one.path).excludes(one.path)]
        if not own:
            return Review(notes=(NO_FILE,))
        asked = [requests_of(one) for one in own]
        before = [one for _, one in asked if one is not None and not is_all]
        found = self._reviews([*(after for after, _ in asked), *before])
        after = [listed(one) for one in found[: len(own)]]
        rest = iter(found[len(own) :])
        old = [
            _if_read(next(rest)) if one is not None and not is_all else Review() for _, one in asked
        ]
        notes = [(one.note,) if one.note and not is_all else () for one in own]
        shown = after if is_all else news(own, after, old)
        return Review.joined(
            self._reported(replace(review, notes=note), one.path)
            for one, review, note in zip(own, shown, notes, strict=True)
        )

    def _reviews(self, requests: Sequence[Request]) -> list[Review | BadInput]:
        return reviews_of(requests, self.families, jobs=self.jobs, cache=self.cache)

    def _reported(self, review: Review, path: Path) -> Review:
        """What is reported of the review of a file."""
        settings = self.settings_of(path)
        kept = tuple(one for one in review.remarks if settings.reports(one.code, path))
        found = replace(review, remarks=kept)
        if settings.baseline is None or not self.uses_baseline:
            return found
        if settings.baseline not in self._baselines:
            self._baselines[settings.baseline] = Baseline(settings.baseline)
        return self._baselines[settings.baseline].without(found)


def listed(review: Review | BadInput) -> Review:
    """The review of a file, in which one that cannot be read is listed as not judged."""
    return review if isinstance(review, Review) else Review(not_judged=(one_line(review),))


def _if_read(review: Review | BadInput) -> Review:
    return review if isinstance(review, Review) else Review()
