"""The report of a check: a record that knows how to show itself.

Views are loaded when asked for, so that a report itself stays light.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdebug.core.given import public
from vlmdebug.core.record import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Report(Record):
    """What a check found: a record that shows itself as text, HTML, Markdown and figures.

    `report.ok` is True only when all was checked and all was right. `Record` has the fields.
    """

    def __str__(self) -> str:
        from vlmdebug.views.text import to_text

        return to_text(self)

    @public
    def to_html(self, path: str | Path | None = None) -> str:
        """One self-contained HTML page; written to `path` too, if one is given."""
        from vlmdebug.views.html import to_page

        page = to_page(self)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8", errors="backslashreplace")
        return page

    @public
    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw expected against used rows with matplotlib; returns the Axes."""
        from vlmdebug.views.plot import plot

        return plot(self, ax)

    @public
    def plot_layout(self, ax: Axes | None = None, *, chunk: int | None = None) -> Axes:
        """Draw what each tensor counts, or one chunk's cut; needs `check(..., pictures=True)`."""
        from vlmdebug.views.plot import plot_lanes

        return plot_lanes(self, ax, chunk=chunk)

    @public
    def plot_map(self, ax: Axes | None = None) -> Axes:
        """Draw chunk against key, for many chunks; returns the Axes."""
        from vlmdebug.views.plot import plot_map

        return plot_map(self, ax)

    def __rich__(self) -> Any:
        from vlmdebug.views.text import to_rich

        return to_rich(self)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        from vlmdebug.views import mimebundle

        return mimebundle(self)
