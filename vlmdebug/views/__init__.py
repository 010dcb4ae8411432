"""Views of a report. They take plain data, so a report saved on a cluster opens on a laptop."""

from __future__ import annotations

from collections.abc import Callable

from vlmdebug.core.record import Record


def mimebundle(report: Record) -> dict[str, str]:
    """What a notebook shows: HTML, Markdown and text of the same report.

    If a view fails, the cell does not: it shows the text instead, with the reason.
    """
    markdown = _or_text(_markdown, report, _as_markdown)
    return {**fallback(report), "text/markdown": markdown}


def fallback(report: Record) -> dict[str, str]:
    """HTML and text: what stands in for the explorer where widgets do not live."""
    return {"text/html": _or_text(_html, report, _as_html), "text/plain": _text(report)}


def _or_text(view: Callable[[Record], str], report: Record, instead: Callable[[str], str]) -> str:
    try:
        return view(report)
    except Exception as error:  # debugging must not break the cell
        return instead(f"{_reason(error)}\n\n{_text(report)}")


def _text(report: Record) -> str:
    from vlmdebug.views.text import to_text

    try:
        return to_text(report)
    except Exception as error:
        return f"{_reason(error)}\nreport.to_json() still holds every detail."


def _reason(error: Exception) -> str:
    from vlmdebug.safe import plain

    return plain(f"This view of the report failed: {type(error).__name__}: {error}")


def _html(report: Record) -> str:
    from vlmdebug.views.html import to_html

    return to_html(report)


def _markdown(report: Record) -> str:
    from vlmdebug.views.markdown import to_markdown

    return to_markdown(report)


def _as_html(text: str) -> str:
    from vlmdebug.safe import escaped

    return f"<pre>{escaped(text, 100_000)}</pre>"


def _as_markdown(text: str) -> str:
    """An indented block: no fence that the text could close."""
    return "\n".join(f"    {line}" for line in text.split("\n")) + "\n"
