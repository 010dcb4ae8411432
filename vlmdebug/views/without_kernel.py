"""The explorer as a page without a kernel: all of its states, and the script that draws them.

Each state is what the explorer itself has on screen with a slicer and a chunk size, so the page and
the widget cannot differ. Without scripts, it is the report.
"""

from __future__ import annotations

import gzip
import json
import re
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdebug.core.wording import number
from vlmdebug.errors import BadInput
from vlmdebug.safe import escaped, one_line
from vlmdebug.views import picture
from vlmdebug.views.details import Details
from vlmdebug.views.html import to_html
from vlmdebug.views.page import page as framed
from vlmdebug.views.rows import opening

if TYPE_CHECKING:
    from vlmdebug.views.explorer import Explorer

HERE = Path(__file__).parent
MOST_SAMPLES = 16
EXPORT = "export default { render };"
IMAGE = re.compile(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+")
SENT = ("slicer", "chunk_size", "selection", "slicers", "num_images", "layout", "code", "_about")
"""What a page opens with: the first two name its state."""


def page(explorer: Explorer, title: str) -> str:
    """A page of its own; the explorer is moved through all of its states."""
    title = one_line(title, 200)
    return framed(title, [f"<h1>{escaped(title)}</h1>", fragment(explorer)])


def fragment(explorer: Explorer) -> str:
    """What a page holds: styles, the states and the script, and the report in their place.

    Raises:
        BadInput: The batch has too many samples, or the explorer has no slicers.
    """
    states = gzip.compress(json.dumps(_states(explorer)).encode(), mtime=0)
    drawing = (HERE / "explorer.js").read_text(encoding="utf-8")
    assert EXPORT in drawing
    script = drawing.replace(EXPORT, "") + (HERE / "without_kernel.js").read_text(encoding="utf-8")
    report = explorer.report
    return (
        f"<style>{(HERE / 'explorer.css').read_text(encoding='utf-8')}</style>\n"
        '<div class="vlmdebug-without-kernel">'
        f'<script type="text/plain">{b64encode(states).decode("ascii")}</script>\n'
        f"<noscript>{'' if report is None else to_html(report)}</noscript></div>\n"
        f'<script type="module">\n{script}</script>\n'
    )


def _states(explorer: Explorer) -> dict[str, Any]:
    """Everything that the explorer can have on screen."""
    samples, slicers = explorer.samples, list(explorer.slicers)
    if samples > MOST_SAMPLES or not slicers:
        raise BadInput(
            f"The explorer has {number(samples, 'sample')} and {number(len(slicers), 'slicer')}. "
            f"A page without a kernel holds all of its states: at most {MOST_SAMPLES} samples, "
            "and one slicer at least. Nothing was written. Explore a smaller batch."
        )
    if explorer.ambiguous:
        raise BadInput(
            "The batch fits several layouts or counts, and a page without a kernel cannot read it "
            "again. Nothing was written. Pass num_images= or layout= to explore."
        )
    images, batches = dict[str, int](), list[dict[str, Any]]()
    values = {name: getattr(explorer, name) for name in SENT}
    reports = {
        name: [_report(explorer, name, size, batches, images) for size in range(1, samples + 1)]
        for name in slicers
    }
    return {"values": values, "batches": batches, "reports": reports, "images": list(images)}


def _report(
    explorer: Explorer,
    slicer: str,
    size: int,
    batches: list[dict[str, Any]],
    images: dict[str, int],
) -> dict[str, Any]:
    """One slicer with one chunk size: its verdict, and the picture and details of each chunk."""
    explorer.slicer, explorer.chunk_size = slicer, size
    report, cuts, details = explorer.report, list[Any](), list[str]()
    if report is None or explorer.message:
        return {"message": explorer.message or "There is no report."}
    for explorer.chunk in range(len(report.chunks)):
        cuts.append(explorer._cut)
        details.append(_shared(explorer._details, images))
    drawn = explorer._batch
    at = next((at for at, one in enumerate(batches) if one["drawn"] == drawn), len(batches))
    if at == len(batches):
        lanes, found = picture.lanes(report), Details(report, explorer._session.thumbnail)
        picked = {
            lane.name: [
                _shared(found.of_selection(lanes, {"lane": lane.name, "index": index}), images)
                for index in range(len(lane.boxes))
            ]
            for lane in lanes
        }
        batches.append({"drawn": drawn, "picked": picked})
    return {
        "message": "",
        "ok": report.ok,
        "opening": opening(report),
        "judged": explorer._judged,
        "cuts": cuts,
        "details": details,
        "batch": at,
    }


def _shared(html: str, images: dict[str, int]) -> str:
    """The HTML with the number of each image in its place: an image is sent once."""
    return IMAGE.sub(lambda one: f"\0{images.setdefault(one[0], len(images))}\0", html)
