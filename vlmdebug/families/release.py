"""What the installed release of transformers accepts, read from its files without importing it.

The rules of a family were tested in some releases. Another release may lack an argument that they
need (`mm_token_type_ids` came with transformers 5) or check something else. If transformers is not
installed or has no model of that name, nothing is known.
"""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from vlmdebug.core.keys import TYPE_IDS
from vlmdebug.core.rules import ModelRules

TYPES = "mm_token_type_ids"


@lru_cache(maxsize=1024)
def takes(model_type: str, key: str) -> bool | None:
    """Whether a `forward` of the model's file in the installed transformers has an argument `key`.

    None if the installed release has no such file, or one that cannot be read.
    """
    source = _modeling(model_type.removesuffix("_thinker"))
    if source is None or key not in source:
        return None if source is None else False
    try:
        nodes = ast.walk(ast.parse(source))
    except SyntaxError:
        return None
    forwards = (
        node.args for node in nodes if isinstance(node, ast.FunctionDef) and node.name == "forward"
    )
    return any(one.arg == key for args in forwards for one in (*args.args, *args.kwonlyargs))


@lru_cache(maxsize=64)
def _modeling(model_type: str) -> str | None:
    if not model_type.isidentifier():
        return None
    return _source("models", model_type, f"modeling_{model_type}.py")


def has_model(model_type: str) -> bool:
    """Whether the installed release has a modeling file of this name."""
    return _modeling(model_type.removesuffix("_thinker")) is not None


@lru_cache(maxsize=1)
def version() -> str | None:
    """The version of the installed transformers, such as `"5.23.0"`; None if not known."""
    source = _source("__init__.py") or ""
    found = re.search(r'^__version__ = "(\d+\.\d+[^"]*)"', source, re.MULTILINE)
    return found[1] if found else None


@lru_cache(maxsize=1)
def installed() -> str | None:
    """The installed release of transformers, such as `"5.23"`; None if not known."""
    return ".".join((version() or "").split(".")[:2]) or None


def _source(*parts: str) -> str | None:
    """A file of the installed transformers."""
    try:
        found = find_spec("transformers")
    except (ImportError, ValueError):  # a stand-in in sys.modules without a spec
        return None
    for folder in (found and found.submodule_search_locations) or ():
        path = Path(folder, *parts)
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    return None


def as_released(rules: ModelRules, model_type: str | None, *, drawn: bool = False) -> ModelRules:
    """The rules, reduced to those that hold in the installed release.

    Token types are not needed if the installed model does not accept them. In a release in which
    the rules were not tested, they determine no outcome. A `drawn` batch came from no processor, so
    it needs no token types if nothing is known about the release either.
    """
    release = installed()
    untested = release is not None and bool(rules.seen) and release not in rules.seen
    taken = {key: takes(model_type, key) if model_type else None for key in TYPE_IDS}
    ignored = {key for key, accepted in taken.items() if accepted is False}
    if drawn and taken[TYPES] is None:
        ignored.add(TYPES)
    return rules.reduced(untested=untested, ignored=frozenset(ignored))
