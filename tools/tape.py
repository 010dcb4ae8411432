"""Write docs/demo.svg, what `vlmdebug demo` prints, line by line as in a terminal.

`make readme-pictures` runs it. The lines are those of a real run. The picture needs no script: it
moves by CSS, holds still where a reader prefers that, and has a light and a dark form.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir
from itertools import accumulate, pairwise
from pathlib import Path
from xml.sax.saxutils import escape, unescape

PICTURE = Path(__file__).parent.parent / "docs" / "demo.svg"
COLUMNS, ROWS = 66, 27
LETTER, LINE, EDGE = 8.4, 20, 16
START, LOOK, READ, END = 1.2, 0.9, 0.33, 6.0
"""Seconds before the first output, for each paragraph, for each line of it, and at the end."""
FONTS = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
COLOURS = """\
svg{--ground:#fff;--edge:#d0d7de;--ink:#1f2328;--soft:#59636e;--wrong:#a34700;--right:#0072b2}
@media (prefers-color-scheme:dark){\
svg{--ground:#0d1117;--edge:#30363d;--ink:#e6edf3;--soft:#9198a1;--wrong:#ff9b52;--right:#56b4e9}}"""
MARKS = re.compile(r"\b(MISMATCH|VLM\d{3})\b|\b(OK)\b|(\bproof:)")
CLASSES = ("wrong", "right", "soft")


def printed() -> list[str]:
    """What `vlmdebug demo` prints in a terminal of `COLUMNS`."""
    from vlmdebug.demo import run_demo

    said: list[str] = []
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        run_demo(Path("vlmdebug-demo"), width=COLUMNS, show=said.append)
    return "\n".join(said).splitlines()


def shown(svg: str) -> list[str]:
    """The lines that a picture shows, without the command and blank ones."""
    texts = re.findall(r"<text[^>]*>(.*?)</text>", svg)
    return [unescape(re.sub(r"<[^>]*>", "", text), {"&quot;": '"'}) for text in texts[1:]]


def paragraphs(lines: Sequence[str]) -> list[list[tuple[int, str]]]:
    """Lines with their rows, those together that a blank line ends."""
    parts: list[list[tuple[int, str]]] = [[]]
    for row, line in enumerate(lines, start=2):  # below the command
        if line:
            parts[-1].append((row, line))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def tape(lines: Sequence[str]) -> str:
    """The lines as an animated SVG."""
    parts = paragraphs(lines)
    times = [*accumulate((LOOK + READ * len(part) for part in parts), initial=START)]
    whole = times[-1] + END
    share = [100 * time / whole for time in times[:-1]]
    wide, high = COLUMNS * LETTER + 2 * EDGE, ROWS * LINE + 2 * EDGE
    scrolled = [max(0, part[-1][0] + 1 - ROWS) * LINE for part in parts]
    style = [
        COLOURS,
        f"text{{font:14px {FONTS};fill:var(--ink);white-space:pre}}",
        ".wrong{fill:var(--wrong);font-weight:bold}.right{fill:var(--right);font-weight:bold}",
        ".soft{fill:var(--soft)}",
        f".all{{animation:all {whole:.1f}s step-end infinite}}",
        f"@keyframes all{{0%{{transform:none}}{_steps(share, scrolled)}}}",
        *(
            f".p{place}{{animation:p{place} {whole:.1f}s step-end infinite}}"
            f"@keyframes p{place}{{0%{{visibility:hidden}}{at:.2f}%,100%{{visibility:visible}}}}"
            for place, at in enumerate(share)
        ),
        "@media (prefers-reduced-motion:reduce){.all,.all *{animation:none}}",
    ]
    body = [
        f'<g class="p{place}">{"".join(_line(row, line) for row, line in part)}</g>'
        for place, part in enumerate(parts)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:g} {high}" '
            f'width="{wide:g}" height="{high}" role="img" aria-labelledby="title about">',
            '<title id="title">What vlmdebug demo prints in a terminal</title>',
            f'<desc id="about">{escape(" ".join(line.strip() for _, line in parts[2]))}</desc>',
            f"<style>{''.join(style)}</style>",
            f'<rect x=".5" y=".5" width="{wide - 1:g}" height="{high - 1}" rx="8" '
            'fill="var(--ground)" stroke="var(--edge)"/>',
            f'<svg x="{EDGE}" y="{EDGE}" width="{COLUMNS * LETTER:g}" height="{ROWS * LINE}">',
            f'<g class="all">{_line(0, "$ vlmdebug demo")}',
            *body,
            "</g></svg></svg>",
            "",
        ]
    )


def _steps(share: Sequence[float], scrolled: Sequence[int]) -> str:
    """Keyframes at which the text moves up."""
    moves = [(at, far) for at, far in zip(share, scrolled, strict=True)]
    changed = [moves[0], *(b for a, b in pairwise(moves) if a[1] != b[1])]
    steps = [f"{at:.2f}%{{transform:translateY(-{far}px)}}" for at, far in changed if far]
    return "".join(steps) + f"100%{{transform:translateY(-{scrolled[-1]}px)}}"


def _line(row: int, line: str) -> str:
    width = f' textLength="{len(line) * LETTER:g}"'
    return f'<text y="{row * LINE + 15}"{width}>{"".join(_words(line))}</text>'


def _words(line: str) -> Iterator[str]:
    """The line with its verdicts and codes marked, as in a terminal with colours."""
    last = 0
    for found in MARKS.finditer(line):
        kind = CLASSES[(found.lastindex or 1) - 1]
        yield escape(line[last : found.start()])
        yield f'<tspan class="{kind}">{escape(found[0])}</tspan>'
        last = found.end()
    yield escape(line[last:])


if __name__ == "__main__":
    PICTURE.write_text(tape(printed()), encoding="utf-8")
    print(f"wrote {PICTURE} ({PICTURE.stat().st_size // 1000} KB)")
