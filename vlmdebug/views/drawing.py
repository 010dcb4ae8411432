"""What the pictures are drawn with: marks, words on a ground of their own, and widths.

The SVG has neither scripts nor fonts of its own, and its colours read on light and dark grounds,
also where a notebook is dark and the browser is not. Paths are stretched with the picture; marks
and words are as large in a narrow one.
"""

from __future__ import annotations

from vlmdebug.safe import escaped
from vlmdebug.views.strips import BLUE, VERMILION

WIDTH, PITCH, BAR = 1000, 46, 22
"""Width of the picture, distance from lane to lane, height of a lane, in pixels."""
HATCH = (
    '<pattern id="h" width="6" height="6" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)">'
    f'<path d="M0 0h6v6H0z" fill="{VERMILION}" fill-opacity=".25"/>'
    f'<path d="M0 0v6" stroke="{VERMILION}" stroke-width="4"/></pattern>'
)
WORDS, NAMES = "#A34700", "#595959"
"""Backgrounds of white words: of what is wrong, and of names."""
LOOKS = {
    "passed": f'fill="{BLUE}" fill-opacity=".5" stroke="{BLUE}"',
    "missing": f'fill="none" stroke="{VERMILION}" stroke-width="2" stroke-dasharray="6 4"',
    "foreign": f'fill="url(#h)" stroke="{VERMILION}" stroke-width="1.5"',
    "altered": f'fill="{BLUE}" fill-opacity=".5" stroke="{VERMILION}" stroke-width="2.5"',
    "unknown": 'fill="none" stroke="#888" stroke-width="2" stroke-dasharray="2 4"',
}
SHAPES = {
    "passed": "solid",
    "missing": "dashed and hollow",
    "foreign": "hatched",
    "altered": "solid with an orange frame",
    "unknown": "dotted",
}
"""What the marks look like, in words."""
LETTER = 6.2
"""Width of a letter in pixels."""
NARROW, MIDDLE, WIDE = 160, 320, 640
"""Widths of the picture in pixels, from which on words are shown that need as much room."""
HIDDEN = (
    f"<style>@media(max-width:{MIDDLE - 1}px){{.vlmdebug-m{{display:none}}}}"
    f"@media(max-width:{WIDE - 1}px){{.vlmdebug-w{{display:none}}}}</style>"
)
"""Hides words that have no room where the picture is narrow; the explorer has its own rules."""


def stretched(paths: str, tall: int) -> str:
    """Paths in `WIDTH` units, as wide as the picture is shown."""
    size = f'viewBox="0 0 {WIDTH} {tall}" width="100%" height="{tall}"'
    return f'<svg {size} preserveAspectRatio="none">{paths}</svg>'


def path(data: str, look: str) -> str:
    """A path; nothing where it has no data."""
    return f'<path d="{data}" {look}/>' if data else ""


def _needed(letters: int) -> float:
    """Room for so many letters, in pixels."""
    return letters * LETTER + 16


LEAST = _needed(1) * WIDTH / WIDE
"""Room, of `WIDTH`, below which no words fit."""


def fitted(text: str, x: float, top: int, share: float, room: float, fill: str = WORDS) -> str:
    """The chip where `room`, of `WIDTH`, is enough for it; hidden where the picture is narrow."""
    needed = width_for(text, room)
    for width, look in ((NARROW, ""), (MIDDLE, "vlmdebug-m"), (WIDE, "vlmdebug-w")):
        if needed <= width:
            drawn = chip(text, x, top, share, fill)
            return f'<g class="{look}">{drawn}</g>' if look else drawn
    return ""


def width_for(text: str, room: float) -> float:
    """Width of a picture in which `room`, of `WIDTH`, is enough for these words, in pixels."""
    return _needed(len(text)) * WIDTH / max(room, 1)


def chip(text: str, x: float, top: int, share: float, fill: str = WORDS) -> str:
    """Words on a background that works in light and dark themes; `share` of them is left of x."""
    wide = round(len(text) * LETTER + 10)
    left, middle = -share * wide, (0.5 - share) * wide
    return (
        f'<rect x="{x / 10:.4g}%" y="{top + 3}" width="{wide}" height="16" rx="3" fill="{fill}" '
        f'transform="translate({left:g})"/><text x="{x / 10:.4g}%" y="{top + 15}" fill="#fff" '
        f'font-family="system-ui,sans-serif" font-size="11" text-anchor="middle" '
        f'textLength="{wide - 10}" lengthAdjust="spacingAndGlyphs" '
        f'transform="translate({middle:g})">{escaped(text, 60)}</text>'
    )
