"""The explorer: a report to play with. Drawing and events are `explorer.js`; all else is here.

What is on screen is a value: `chunk_size`, `slicer`, `chunk`, `selection`, `report` and `code` can
be read in the next cell, and setting one of the first four moves the view.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import anywidget
import traitlets

from vlmdebug.core.given import public
from vlmdebug.core.record import Record
from vlmdebug.core.rows import Rows
from vlmdebug.core.scene import Scene
from vlmdebug.errors import BadInput, VlmDebugError
from vlmdebug.safe import one_line
from vlmdebug.views import fallback, packed, picture, rows
from vlmdebug.views.details import Details

HERE = Path(__file__).parent
UNDONE = ("num_images", "layout", "chunk_size", "slicer", "chunk")


class Session(Protocol):
    """What the widget asks for reports and thumbnails; `slicers` are names and what they are."""

    @property
    def slicers(self) -> Mapping[str, str]: ...
    @property
    def samples(self) -> int: ...
    @property
    def ambiguous(self) -> bool: ...
    @property
    def code(self) -> str: ...
    def judge(self, slicer: str, chunk_size: int) -> Record: ...
    def thumbnail(self, image: int, rows: Rows | None = None) -> str | None: ...
    def reread(self, num_images: list[int], layout: str) -> None: ...


class Explorer(anywidget.AnyWidget):
    """A batch cut into chunks, as lanes one can walk through.

    Attributes:
        chunk_size: Samples per chunk.
        slicer: Name of the slicer under test, one of `slicers`.
        chunk: The chunk of the drawn cut.
        selection: What was picked: `{"lane": "images", "index": 3}`, or empty.
        num_images: Images per sample where the batch does not tell; empty: as it was read.
        layout: Name of a layout family where the batch does not tell; empty: as it was read.
        report: The report on screen.
        code: Corrected slicing code for the batch, as source; written after the widget is shown,
            or when it is read before.
        message: Why there is nothing to see, where there is not.
    """

    _esm = HERE / "explorer.js"
    _css = HERE / "explorer.css"

    chunk_size = traitlets.Int(1, min=1).tag(sync=True)
    slicer = traitlets.Unicode().tag(sync=True)
    chunk = traitlets.Int(0, min=0).tag(sync=True)
    selection = traitlets.Dict().tag(sync=True)
    num_images = traitlets.List(traitlets.Int()).tag(sync=True)
    layout = traitlets.Unicode().tag(sync=True)
    slicers = traitlets.List(traitlets.Unicode()).tag(sync=True)
    code = traitlets.Unicode().tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)
    _about = traitlets.Dict().tag(sync=True)
    _batch = traitlets.Dict().tag(sync=True)
    _judged = traitlets.Dict().tag(sync=True)
    _cut = traitlets.Dict().tag(sync=True)
    _details = traitlets.Unicode().tag(sync=True)

    def __init__(self, session: Session, chunk_size: int = 1) -> None:
        self._session = session
        self._past: list[dict[str, Any]] = []
        self._following = False
        self._lanes: tuple[picture.Lane, ...] = ()
        self._shown_in: tuple[Scene | None, list[str]] = None, []
        self.report: Record | None = None
        names = list(session.slicers)
        super().__init__(
            slicers=names,
            _about={name: one_line(said, 200) for name, said in session.slicers.items()},
            slicer=names[0] if names else "",
            chunk_size=min(max(chunk_size, 1), session.samples),
        )
        self._state = self._now()
        self._show_report()
        self._state = self._now()  # it has opened on the worst chunk
        with suppress(RuntimeError):  # no event loop, so there is no screen to send it to
            asyncio.get_running_loop().call_soon(self.send_state, "code")
        self.observe(self._changed, names=list(UNDONE))
        self.observe(self._selected, names=["selection"])
        self.on_msg(self._told)

    @property
    def samples(self) -> int:
        """Samples of the batch."""
        return self._session.samples

    @property
    def ambiguous(self) -> bool:
        """Whether the batch could be read in another way."""
        return self._session.ambiguous

    @traitlets.default("code")
    def _written(self) -> str:
        return self._session.code

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """The state, as of any widget; it opens without the code, which takes a while to write."""
        if key is None and self.comm is None:
            key = [name for name in self.keys if name != "code"]
        return super().get_state(key, drop_defaults)

    @public
    def to_html(self, path: str | Path) -> None:
        """Write a page that can be explored without a kernel: every slicer and chunk size.

        It opens on the slicer and chunk size that are on screen, loads nothing from anywhere, and
        works as long as the browser does. For batches of at most 16 samples.

        Raises:
            BadInput: There are more samples, or no slicers, as in an explorer of a report.
        """
        from vlmdebug.views.without_kernel import page

        twin = Explorer(self._session, self.chunk_size)
        twin.slicer = self.slicer
        title = rows.subject(self.report) if self.report else "explorer"
        Path(path).write_text(page(twin, title), encoding="utf-8")

    def undo(self) -> None:
        """Go back to what was on screen before the last change."""
        if not self._past:
            return
        last = self._past.pop()
        self._following = True
        try:
            with self.hold_sync():
                for name in UNDONE:  # the chunk last, when it is there again
                    setattr(self, name, last[name])
        finally:
            self._following = False
        self._state = self._now()

    def next_mismatch(self) -> None:
        """Go to the next chunk that is not right, round the end."""
        if self.report is None:
            return
        wrong = [line.index for line in rows.chunk_verdicts(self.report) if not line.ok]
        if wrong:
            self.chunk = next((index for index in wrong if index > self.chunk), wrong[0])

    @traitlets.validate("slicer")
    def _known(self, proposal: Any) -> str:
        names = list(self._session.slicers)
        if proposal["value"] not in names and names:
            raise BadInput(
                f"{proposal['value']!r} is no slicer that can be tried here. "
                f"Nothing was changed. Choose one of {', '.join(names)}."
            )
        return proposal["value"]

    @traitlets.validate("chunk_size")
    def _within(self, proposal: Any) -> int:
        return min(proposal["value"], self._session.samples)

    @traitlets.validate("chunk")
    def _there(self, proposal: Any) -> int:
        last = len(self.report.chunks) - 1 if self.report is not None else 0
        return max(0, min(proposal["value"], last))

    def _now(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in UNDONE}

    def _told(self, _: Any, content: Any, buffers: Any) -> None:
        """A button that is more than a value; anything else was sent for its own sake."""
        if content == "undo":
            self.undo()
        elif content == "next":
            self.next_mismatch()

    def _changed(self, change: Any) -> None:
        if not self._following:
            self._past.append(self._state)
        if change["name"] == "chunk":
            self._show_chunk()
        elif change["name"] in ("num_images", "layout"):
            self._reread()
        else:
            self._show_report()
        if not self._following:
            self._state = self._now()

    def _reread(self) -> None:
        try:
            self._session.reread(list(self.num_images), self.layout)
        except VlmDebugError as error:
            self.message = str(error)
            return
        self.code = self._session.code
        self._show_report()

    def _selected(self, _: Any) -> None:
        self._details = self._picked()

    def _show_report(self) -> None:
        try:
            report = self._session.judge(self.slicer, self.chunk_size)
        except VlmDebugError as error:  # the slicer cannot be run: say why, keep the rest
            self.message = str(error)
            return
        shown = report.scene, picture.keys_of(report)
        moved = (
            self._shown_in is None or shown[0] is not self._shown_in[0] or shown != self._shown_in
        )
        self.report, self._shown_in = report, shown
        if moved:  # lanes are those of the batch, whatever the chunks
            self._lanes = picture.lanes(report)
        with self.hold_sync():
            self.message = ""
            if moved or not self._batch:
                self._batch = {
                    "samples": self._session.samples,
                    "ambiguous": self._session.ambiguous,
                    "lanes": [_lane(lane) for lane in self._lanes],
                    "svg": picture.outlines(self._lanes),
                    "ambiguities": [one_line(text, 600) for text in report.ambiguities],
                }
            self._judged = {
                "verdict": report.verdict,
                "subject": one_line(rows.subject(report), 200),
                "chunks": [line.words for line in rows.chunk_verdicts(report)],
                "noun": "chunk" if report.chunk_size is not None else "sample",
            }
            last = max(len(report.chunks) - 1, 0)
            self._go_to(min(self.chunk, last) if report.ok else rows.opening(report))
            self._show_chunk()

    def _go_to(self, chunk: int) -> None:
        """Set the chunk as part of another change, which is undone as one."""
        before, self._following = self._following, True
        self.chunk = chunk
        self._following = before

    def _show_chunk(self) -> None:
        """The cut of the chunk: what it owns, and what it was passed."""
        report = self.report
        if report is None or not report.chunks:
            self._cut, self._details = {}, self._picked()
            return
        said = picture.description(report, self.chunk) if self._lanes else ""
        self._cut = {
            "chunk": self.chunk,
            "svg": picture.overlay(report, self.chunk, self._lanes),
            "sentence": one_line(self._shown(report).sentence(self.chunk), 600),
            "said": one_line(said, 400),
            "legend": picture.legend(report, self.chunk) if self._lanes else "",
            "packed": _packed(report, self.chunk),
        }
        self._details = self._picked()

    def _picked(self) -> str:
        """What is selected, then what is wrong in the chunk; HTML, escaped."""
        if self.report is None:
            return ""
        details = self._shown(self.report)
        doubts = "" if self.ambiguous else details.doubts()  # else they are asked about
        return (
            details.of_selection(self._lanes, self.selection)
            + details.of_chunk(self.chunk)
            + doubts
        )

    def _shown(self, report: Record) -> Details:
        return Details(report, self._session.thumbnail)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget; where widgets do not live, the report that was on screen."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, *more = bundle if isinstance(bundle, tuple) else (bundle,)
        if data is None or self.report is None:
            return bundle
        both = {**data, **fallback(self.report)}
        return (both, *more) if more else both


def _packed(report: Record, chunk: int) -> dict[str, Any]:
    """The picture of the packed rows of a chunk; empty where none is packed."""
    drawn = packed.lanes(report, chunk)
    if not drawn:
        return {}
    return {
        "lanes": [
            [one_line(lane.name, 40), one_line(lane.counts, 60), lane.height] for lane in drawn
        ],
        "svg": packed.drawing(drawn),
        "said": one_line(packed.description(report, chunk, drawn), 400),
        "legend": packed.legend(report, chunk, drawn),
    }


def _lane(lane: picture.Lane) -> dict[str, Any]:
    """A lane as the drawing needs it: numbers in flat lists."""
    return {
        "name": lane.name,
        "label": one_line(lane.name, 40),
        "counts": one_line(lane.counts, 60),
        "total": lane.total,
        "boxes": [[box.start, box.stop, box.sample, box.image] for box in lane.boxes],
        "runs": [[round(start, 3), round(stop, 3), image] for start, stop, image in lane.runs],
    }
