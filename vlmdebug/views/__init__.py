"""How a report looks. Views take plain data, so a report saved on a cluster opens on a laptop."""

from __future__ import annotations

from collections.abc import Callable

from vlmdebug.report import Report


def mimebundle(report: Report) -> dict[str, str]:
    """What a notebook shows: HTML, Markdown and text of the same report.

    A view that fails never takes the cell with it: the text stands in, with the reason.
    """
    from vlmdebug.views.html import to_html
    from vlmdebug.views.markdown import to_markdown
    from vlmdebug.views.safe import escaped, plain

    text = _guarded(report)
    return {
        "text/plain": text,
        "text/markdown": _or(to_markdown, report, lambda why: f"```\n{plain(why)}\n{text}\n```\n"),
        "text/html": _or(
            to_html, report, lambda why: f"<pre>{escaped(why)}\n{escaped(text, 100_000)}</pre>"
        ),
    }


def _guarded(report: Report) -> str:
    from vlmdebug.views.text import to_text

    return _or(to_text, report, lambda why: f"{why}\nverdict {report.verdict}")


def _or(view: Callable[[Report], str], report: Report, instead: Callable[[str], str]) -> str:
    try:
        return view(report)
    except Exception as error:  # debugging must not break the cell
        return instead(f"This view failed ({type(error).__name__}: {error}); the text instead:")
