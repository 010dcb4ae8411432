"""The frame of every HTML page: self-contained, for light and dark themes, without scripts."""

from __future__ import annotations

from collections.abc import Iterable

from vlmdebug.safe import escaped

STYLE = (
    ":root{color-scheme:light dark;background:Canvas;color:CanvasText}"
    "body{margin:2rem auto;max-width:68rem;padding:0 1.25rem;"
    "font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}"
    "h1{font-size:1.35rem;line-height:1.35;font-weight:600;margin:0 0 .6rem}"
    "h2{font-size:1rem;font-weight:600;margin:2em 0 .3em}"
    "dl{margin:0;font-size:.9em}dt{font-weight:600}dd{margin:0 0 .4em}a{color:inherit}"
)
TABLES = (
    "h2{font-size:1.05rem;margin:2rem 0 .5rem}table{border-collapse:collapse}"
    "th,td{padding:.15rem .6rem .15rem 0}th{text-align:left;font-weight:600;white-space:nowrap}"
    "div.wide{overflow-x:auto}"
)
"""More style, for a page of tables."""


def wide(name: str, content: str) -> str:
    """A table of any width, in a region that scrolls with the keyboard, too; `content` is HTML."""
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{escaped(name)}">{content}</div>'
    )


def page(title: str, parts: Iterable[str], style: str = "") -> str:
    """One page.

    Args:
        title: Plain text; its end is the name of this package.
        parts: HTML, one part below another. An empty one is left out.
        style: CSS in addition to `STYLE`.
    """
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escaped(title)} – vlmdebug</title>\n<style>{STYLE}{style}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
