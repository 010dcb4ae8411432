"""`explore`: an interactive report in a notebook.

Verdicts are computed here, drawing is in `vlmdebug.views`: the widget gets reports and never reads
a tensor.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast, overload

from vlmdebug.checking.report import Report
from vlmdebug.core.batch import Batch
from vlmdebug.core.given import public
from vlmdebug.core.rows import Rows, chunk_bounds
from vlmdebug.core.signature import Slicer
from vlmdebug.errors import AmbiguousError, BadInput, VlmDebugError
from vlmdebug.families.pictures import in_order, scene_of, thumbnail
from vlmdebug.families.read import read_as_it_is
from vlmdebug.running.check import check
from vlmdebug.running.export import export
from vlmdebug.slicers import STORY

if TYPE_CHECKING:
    from vlmdebug.views.explorer import Explorer

AS_EXPECTED, PACKED = "as expected", "packed"
TRL = {"trl grpo": "grpo", "trl rloo": "rloo", "trl grpo-buffer": "grpo-buffer"}


@overload
def explore(
    slicer: Slicer,
    batch: Any,
    /,
    *,
    chunk_size: int = 1,
    pictures: Sequence[Any] | None = None,
    **reading: Any,
) -> Explorer: ...
@overload
def explore(report: Report, /) -> Explorer: ...
@overload
def explore(
    batch: Any,
    /,
    *,
    chunk_size: int = 1,
    pictures: Sequence[Any] | None = None,
    **reading: Any,
) -> Explorer: ...
@public
def explore(
    *args: Any, chunk_size: int = 1, pictures: Sequence[Any] | None = None, **reading: Any
) -> Explorer:
    """Open the explorer on a slicer and a batch, on a batch alone, or on a report.

    The chunk size, the slicer and, if the batch is ambiguous, its layout and images per sample can
    be changed on screen and from Python: `explorer.chunk_size = 4` updates the view, and
    `explorer.report`, `explorer.selection` and `explorer.code` are what is on screen.

    Args:
        *args: `slicer, batch`, `batch`, or a `Report`. A report is shown unchanged; without its
            batch, nothing can be judged again.
        chunk_size: Samples per chunk to begin with.
        pictures: The PIL images that the processor got, flat or per sample; shown instead of
            images restored from the pixel values.
        **reading: `processor=`, `num_images=` and the other arguments of `read_batch`.

    Raises:
        BadInput: The arguments are none of these.
        VlmDebugError: anywidget is not installed.
    """
    try:
        from vlmdebug.views.explorer import Explorer
    except ImportError as error:
        raise VlmDebugError(
            f"{error.name or 'anywidget'} is not installed, but the explorer is a widget. "
            "Nothing was opened. Install it: pip install 'vlmdebug[notebook]'"
        ) from error
    chunk_bounds(1, chunk_size)
    if len(args) == 1 and isinstance(args[0], Report):
        return Explorer(SavedSession(args[0]), args[0].chunk_size or 1)
    if not 1 <= len(args) <= 2 or (len(args) == 2 and not callable(args[0])):
        raise BadInput(
            f"explore was given {', '.join(type(one).__name__ for one in args) or 'nothing'}, but "
            "it takes a slicer and a batch, a batch alone, or a report. Nothing was opened. "
            "Call explore(slicer, batch), explore(batch) or explore(report)."
        )
    slicer = cast("Slicer | None", args[0] if len(args) == 2 else None)
    return Explorer(LiveSession(args[-1], slicer, reading, pictures), chunk_size)


class SavedSession:
    """A report without its batch: its stored verdicts, and no new ones."""

    slicers: Mapping[str, str] = {}
    samples: int
    ambiguous = False

    def __init__(self, report: Report) -> None:
        self._report = report
        self.samples = report.samples

    def judge(self, slicer: str, chunk_size: int) -> Report:
        return self._report

    def thumbnail(self, image: int, rows: Rows | None = None) -> str | None:
        scene = self._report.scene
        if scene is None:
            return None
        if rows is None:
            return scene.thumbnails.get(image)
        return scene.parts.get(scene.part("pixel_values", image, rows))

    @property
    def code(self) -> str:
        return ""

    def reread(self, num_images: list[int], layout: str) -> None:
        raise BadInput("A report has no batch to read again. Pass the batch to explore.")


class LiveSession:
    """A batch and the slicers that can be tried on it."""

    def __init__(
        self,
        given: Any,
        slicer: Slicer | None,
        reading: Mapping[str, Any],
        pictures: Sequence[Any] | None = None,
    ) -> None:
        self._given, self._reading = given, dict(reading)
        self.slicers: dict[str, str] = {}
        """Names of the slicers, and what each of them is."""
        self._tried: dict[str, Callable[[], Slicer]] = {}
        if slicer is not None:
            name = str(getattr(slicer, "__name__", type(slicer).__name__))
            self.add(name, lambda: slicer, _about(slicer) or "Your slicer.")
        self.batch: Batch = read_as_it_is(given, **self._reading)
        self.add(AS_EXPECTED, lambda: self._as_expected, "The rows that each chunk owns.")
        if self.batch.rules.predict and self.batch.rules.separates_packed:
            said = "The samples of each chunk in one row, without padding."
            self.add(PACKED, lambda: self._packer, said)
        for known in STORY:
            self.add(known.__name__, lambda known=known: known, _about(known))
        if importlib.util.find_spec("trl") is not None:
            for name, loop in TRL.items():
                self.add(name, lambda loop=loop: _trl(loop), f"The {loop} loop of the TRL here.")
        self._originals = None if pictures is None else in_order(pictures, self.batch)

    def add(self, name: str, made: Callable[[], Slicer], about: str) -> None:
        """Offer a slicer under a name that is not taken; `about` says what it is."""
        self._tried.setdefault(name, made)
        self.slicers.setdefault(name, about)

    @property
    def samples(self) -> int:
        return len(self.batch)

    @property
    def ambiguous(self) -> bool:
        return bool(self.batch.ambiguities)

    def judge(self, slicer: str, chunk_size: int) -> Report:
        """The report on that slicer, with the contents of the rows.

        Raises:
            VlmDebugError: The slicer cannot be run.
        """
        if any(ambiguity.keys for ambiguity in self.batch.ambiguities):
            report = check(self.batch, pictures=False)
        else:
            tried = self._tried[slicer]()
            report = check(tried, self.batch, chunk_size=chunk_size, pictures=False)
            report = replace(report, slicer=slicer)
        return replace(report, scene=self._scene)

    def thumbnail(self, image: int, rows: Rows | None = None) -> str | None:
        asked = image, rows
        if asked not in self._thumbnails:
            self._thumbnails[asked] = thumbnail(self.batch, image, 96, self._originals, rows)
        return self._thumbnails[asked]

    @property
    def code(self) -> str:
        """Corrected code for the batch's layout, or why there is none, as a comment."""
        try:
            return export(self.batch).source
        except (AmbiguousError, BadInput) as error:
            return "".join(f"# {line}\n" for line in str(error).splitlines())

    def reread(self, num_images: list[int], layout: str) -> None:
        """Read the batch again with these answers; an empty answer assumes nothing.

        Raises:
            BadInput: The answers do not fit the batch.
        """
        said: dict[str, Any] = {}
        if num_images:
            said["num_images"] = num_images
        if layout:
            said["layout"] = layout
        given = self._given.inputs if isinstance(self._given, Batch) else self._given
        self.batch = read_as_it_is(given, **{**self._reading, **said})
        for name in ("_scene", "_thumbnails", "_packer"):
            self.__dict__.pop(name, None)

    def _as_expected(self, inputs: dict[str, Any], chunk_size: int) -> Any:
        return self.batch.chunks(chunk_size)

    @cached_property
    def _packer(self) -> Slicer:
        return export(self.batch, packed=True).function

    @cached_property
    def _scene(self) -> Any:
        return scene_of(self.batch)

    @cached_property
    def _thumbnails(self) -> dict[tuple[int, Rows | None], str | None]:
        return {}


def _about(slicer: Slicer) -> str:
    """The first line of a slicer's docstring."""
    return str(getattr(slicer, "__doc__", None) or "").strip().partition("\n")[0]


def _trl(loop: str) -> Slicer:
    from vlmdebug.trainers.trl import trl_slicer

    return trl_slicer(loop)
