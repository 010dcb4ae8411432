"""Edits that may fix a finding. None is certain: `fixing` offers only what is proven.

They are made of what the function has: bounds of its other slices, running totals that it computes,
counts that it is given, and its own lists of keys.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from vlmdebug.core.keys import BOOKKEEPING, MEDIA_KEYS
from vlmdebug.review.edits import Edit, Source
from vlmdebug.review.entry import Entry
from vlmdebug.review.keys import nearest
from vlmdebug.review.remarks import Remark

MOST = 48
"""Edits that are tried for one finding."""
TOTALS = frozenset({"accumulate", "cumsum"})
LOOPS = (ast.For, ast.AsyncFor, ast.comprehension)
BLOCKS, EACH = "repeat", "repeat_interleave"
Edits = tuple[Edit, ...]


def candidates(
    remark: Remark, keys: Sequence[str], entry: Entry, source: Source
) -> Iterator[Edits]:
    """Edits that may fix a finding, the likeliest first.

    Args:
        remark: The finding.
        keys: The keys that it is about.
        entry: The function.
        source: Its file.
    """
    if remark.code == "VLM004":
        yield from _renamed(remark.text, entry, source)
    for node in _nodes(remark, entry, source):
        if isinstance(node, ast.Subscript):
            yield from _cut_otherwise(node, entry, source)
        elif isinstance(node, ast.Call):
            yield from _repeated_otherwise(node, entry, source)
    if remark.code == "VLM003":
        yield from _listed(keys, entry, source)


def _nodes(remark: Remark, entry: Entry, source: Source) -> list[ast.expr]:
    """The code that a remark is about."""
    found = []
    for node in ast.walk(entry.node):
        if isinstance(node, ast.expr) and node.lineno == remark.line:
            line = source.text[: source.span(node)[0]].rpartition("\n")[2].rpartition("\r")[2]
            if len(line) + 1 == remark.column:
                found.append(node)
    return [node for node in found if " ".join(ast.unparse(node).split()) == remark.text] or found


# --- names of keys ---------------------------------------------------------------------------


def _renamed(name: str, entry: Entry, source: Source) -> Iterator[Edits]:
    """A name that no processor returns, in the words of the function; not one of its parameters."""
    near = nearest(name)
    if near is None or name in {arg.arg for arg in entry.arguments}:
        return
    edits = []
    for node in ast.walk(entry.node):
        start, stop = source.span(node) if hasattr(node, "lineno") else (0, 0)
        if isinstance(node, ast.Constant) and node.value == name:
            written = source.text[start:stop]
            if written[1:-1] != name:  # a prefix, or parts of it
                return
            edits.append(Edit(start, stop, f"{written[0]}{near}{written[-1]}"))
        elif isinstance(node, ast.keyword) and node.arg == name:
            edits.append(Edit(start, start + len(name), near))
        elif isinstance(node, ast.Attribute) and node.attr == name:
            edits.append(Edit(stop - len(name), stop, near))
    if edits:
        yield tuple(edits)


def _listed(keys: Sequence[str], entry: Entry, source: Source) -> Iterator[Edits]:
    """Keys that a list of the function's, or of its file's, lacks."""
    lists = [node for node in ast.walk(entry.node) if _is_list_of_keys(node)]
    for name, value in entry.module.constants.items():
        words = name.rpartition(".")[2]
        if words in entry.uses.words:
            lists += [node for node in ast.walk(value) if _is_list_of_keys(node)]
    for node in lists:
        assert isinstance(node, (ast.Tuple, ast.List, ast.Set))
        present = {part.value for part in node.elts if isinstance(part, ast.Constant)}
        missing = [key for key in keys if key not in present]
        if missing:
            last = source.of_node(node.elts[-1])
            place = source.span(node.elts[-1])[1]
            more = "".join(f", {last[0]}{key}{last[0]}" for key in missing)
            yield (Edit(place, place, more),)


def _is_list_of_keys(node: ast.AST) -> bool:
    """Whether it lists names, at least two, and one of media among them."""
    if not isinstance(node, (ast.Tuple, ast.List, ast.Set)) or len(node.elts) < 2:
        return False
    names = [part.value for part in node.elts if isinstance(part, ast.Constant)]
    return len(names) == len(node.elts) and any(
        isinstance(name, str) and name in MEDIA_KEYS for name in names
    )


# --- rows ------------------------------------------------------------------------------------


def _cut_otherwise(node: ast.Subscript, entry: Entry, source: Source) -> Iterator[Edits]:
    """Other bounds: those of other slices, running totals at these bounds, sums of counts."""
    whole, first = node.slice, node.slice
    if isinstance(whole, ast.Tuple) and whole.elts:
        first = whole.elts[0]
    place = source.span(first)
    own = source.text[slice(*place)]
    if isinstance(first, ast.Slice):
        if first.lower is None or first.upper is None or first.step is not None:
            return
        lower, upper = source.of_node(first.lower), source.of_node(first.upper)
    elif isinstance(first, ast.Name):
        lower, upper = own, f"{own} + 1"
    else:
        return
    for text in dict.fromkeys(_bounds(lower, upper, entry, source)):
        if text != own:
            yield (Edit(*place, text),)


def _bounds(lower: str, upper: str, entry: Entry, source: Source) -> Iterator[str]:
    for node in ast.walk(entry.node):
        if isinstance(node, ast.Slice) and node.lower and node.upper and node.step is None:
            yield source.of_node(node)
    totals = _totals(entry)
    for name in totals:
        yield f"{name}[{lower}]:{name}[{upper}]"
        yield f"{name}[{lower}]:{name}[min({upper}, len({name}) - 1)]"
    for count in _counts(entry, source):
        yield f"sum({count}[:{lower}]):sum({count}[:{upper}])"
    for outer in totals:
        for inner in totals:
            if outer != inner:
                yield f"{outer}[{inner}[{lower}]]:{outer}[{inner}[{upper}]]"


def _totals(entry: Entry) -> list[str]:
    """Names to which running totals are assigned."""
    found: dict[str, None] = {}
    for node in ast.walk(entry.node):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            words = {
                getattr(part, "attr", getattr(part, "id", None)) for part in ast.walk(node.value)
            }
            if words & TOTALS:
                found[node.targets[0].id] = None
    return [*found][:6]


def _counts(entry: Entry, source: Source) -> list[str]:
    """Counts per sample that the function is given or looks up."""
    found: dict[str, None] = {}
    for node in ast.walk(entry.node):
        if isinstance(node, ast.arg) and node.arg in BOOKKEEPING:
            found[node.arg] = None
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            if node.slice.value in BOOKKEEPING:
                found[source.of_node(node)] = None
    return [*found]


def _repeated_otherwise(node: ast.Call, entry: Entry, source: Source) -> Iterator[Edits]:
    """Rows as one block after another in place of each row several times, or the reverse.

    Not of a loop's variable, which may be any key: the order of samples stays as it is.
    """
    function = node.func
    if not isinstance(function, ast.Attribute) or not node.args:
        return
    loops = [one.target for one in ast.walk(entry.node) if isinstance(one, LOOPS)]
    looped = {getattr(part, "id", None) for one in loops for part in ast.walk(one)}
    if getattr(function.value, "id", "") in looped:
        return
    times, place = source.of_node(node.args[0]), source.span(node)
    value = source.of_node(function.value)
    if isinstance(function.value, (ast.Name, ast.Attribute)) and value not in ("torch", "np"):
        if function.attr == EACH:
            yield (Edit(*place, f"{value}.{BLOCKS}({times}, *[1] * ({value}.ndim - 1))"),)
        elif function.attr == BLOCKS:
            yield (Edit(*place, f"{value}.{EACH}({times}, dim=0)"),)
