"""What the installed release of transformers takes, asked of its files: nothing of it is imported.

Rules of a family were read in one release; another one may lack an argument that they ask for
(`mm_token_type_ids` came with transformers 5). Where transformers is not installed, or has no model
of that name, nothing is known.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from vlmdebug.layout import Layout

TYPES = "mm_token_type_ids"


@lru_cache(maxsize=1024)
def takes(model_type: str, key: str) -> bool | None:
    """Whether the modeling file of the installed transformers names `key`; None if not known."""
    source = _modeling(model_type.removesuffix("_thinker"))
    return None if source is None else re.search(rf"\b{re.escape(key)}\b", source) is not None


@lru_cache(maxsize=64)
def _modeling(model_type: str) -> str | None:
    if not model_type.isidentifier():
        return None
    try:
        found = find_spec("transformers")
    except (ImportError, ValueError):  # a stand-in in sys.modules without a spec
        return None
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, "models", model_type, f"modeling_{model_type}.py")
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    return None


def as_released(layout: Layout, model_type: str | None, *, drawn: bool = False) -> Layout:
    """The layout without the demand for token types that the installed release does not take.

    A batch that was `drawn` came from no processor, so there the demand is dropped where nothing is
    known of the release, too.
    """
    if TYPES in layout.ignored:
        return layout
    taken = takes(model_type, TYPES) if model_type else None
    if taken or (taken is None and not drawn):
        return layout
    return replace(layout, ignored=layout.ignored | {TYPES})
