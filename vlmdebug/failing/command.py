"""`vlmdebug explain`: the page of a code, or what an error text means."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from vlmdebug.core.code_pages import page
from vlmdebug.core.mismatch import CODES
from vlmdebug.failing.explain import explanation

CODE = re.compile(r"vlm-?\d{0,6}", re.IGNORECASE)


def explain(words: Sequence[str], show: Callable[[object], None], *, rich: bool) -> None:
    """Print all codes, the page of one, or the explanation of an error text."""
    asked = " ".join(words).strip()
    if not asked:
        show("\n".join(f"{code}  {title}" for code, title in CODES.items()))
    elif not CODE.fullmatch(asked):
        show(explanation(asked))
    else:
        _show_page(page(asked).read_text(encoding="utf-8").strip(), rich=rich)


def _show_page(said: str, *, rich: bool) -> None:
    if not rich:
        print(said)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console(width=min(Console().width, 100)).print(Markdown(said))
