"""A lane of a row of tokens: its marks, curves and words, in the columns of `input_ids`."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlmdebug.core.packed_row import PackedRow
from vlmdebug.views.drawing import BAR, LOOKS, PITCH, WIDTH, WORDS, chip, fitted, path

MOST_PLACES = 200
EDGE = (PITCH - BAR) // 2
STAYS = 'vector-effect="non-scaling-stroke"'
SEAM = f'stroke="#888" stroke-width="2" {STAYS}'


@dataclass
class Lane:
    """A lane of a packed row, and what is drawn in it.

    Attributes:
        row: The row.
        name: The name of the lane.
        counts: What it counts, in words.
        top: Its place in the picture in pixels.
        height: Its height.
        ground: Its frame and the seams, behind all else, which are stretched with the picture.
        marks: What became of its tokens.
        curves: Positions, which are stretched, too.
        words: Names and notes.
        used: Names of its marks.
        said: What is wrong, in words.
        faint: Whether curves stand before its marks.
    """

    row: PackedRow
    name: str
    counts: str
    top: int
    height: int = PITCH
    ground: list[str] = field(default_factory=list)
    marks: list[str] = field(default_factory=list)
    curves: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    used: dict[str, None] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    faint: bool = False

    def x(self, column: float) -> float:
        return column * WIDTH / self.row.tokens

    def mark(self, look: str, start: float, stop: float) -> None:
        """One of the marks of `LOOKS` over these columns."""
        self.used[look] = None
        x, wide = self.x(start) / 10, max(self.x(stop - start), 4) / 10
        place = f'x="{x:.4g}%" y="{self.top + EDGE}" width="{wide:.4g}%"'
        faint = ' opacity=".4"' if self.faint else ""
        tall = self.height - 2 * EDGE
        self.marks.append(f'<rect {place} height="{tall}" {LOOKS[look]}{faint}/>')

    def tick(self, look: str, column: int) -> None:
        """A mark as narrow as an end."""
        self.used[look] = None
        place = f'x="{self.x(column) / 10:.4g}%" y="{self.top + EDGE}" width="7" height="{BAR}"'
        left = -7 * column / self.row.tokens  # the last one stays within the picture
        self.marks.append(f'<rect {place} transform="translate({left:.3g})" {LOOKS[look]}/>')

    def word(self, *texts: str, at: tuple[float, float], fill: str = WORDS) -> None:
        """The first of these words for which there is room, in the middle of the columns `at`."""
        start, stop = at
        middle, room = self.x((start + stop) / 2), self.x(stop - start)
        drawn = (fitted(text, middle, self.top + EDGE, 0.5, room, fill) for text in texts)
        self.words.append(next(filter(None, drawn), ""))

    def note(self, text: str, column: int) -> None:
        """Words at a column, whatever room there is."""
        x = self.x(column)
        share = -0.1 if x < WIDTH / 2 else 1.1  # next to what stands there, and in the picture
        self.words.append(chip(text, x, self.top + EDGE, share))

    def framed(self) -> Lane:
        """The lane with its frame and the seams of its row."""
        begins = [place.start for place in self.row.places[:MOST_PLACES] if place.start]
        seams = "".join(f"M{self.x(at):.5g} {self.top}v{self.height}" for at in begins)
        frame = f"M0 {self.top + EDGE}h{WIDTH}v{self.height - 2 * EDGE}H0z"
        look = f'fill="#8882" stroke="#888" stroke-width=".8" {STAYS}'
        self.ground += [path(frame, look), path(seams, SEAM)]
        return self
