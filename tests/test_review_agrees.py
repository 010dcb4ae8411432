"""Reading and running agree: what review accuses, falsify breaks; what it calls right, survives."""

from __future__ import annotations

import ast
import linecache
import textwrap
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import test_review_ways as ways

import vlmdebug as vd
from vlmdebug import review
from vlmdebug.errors import NotJudged
from vlmdebug.running.search import Search
from vlmdebug.running.settings import FalsifySettings

IMPORTS = """\
from collections import defaultdict
from functools import partial
from itertools import accumulate, islice

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_map


def batched(items, size):
    items = iter(items)
    while part := tuple(islice(items, size)):
        yield part


"""
NUMBERS = count()


def run_of(source: str, name: str = "cut") -> Any:
    """The function `name` of a source, as from a file."""
    file = f"<agrees {next(NUMBERS)}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    names: dict[str, Any] = {}
    exec(compile(source, file, "exec"), names)
    return names[name]


def by_running(function: Any, layout: str, key: str) -> bool | None:
    """Whether some batch of a layout with media in each sample breaks `key`; None if not judged."""
    settings = FalsifySettings([layout], 24, text_only=False, clips=False, position_ids=False)
    try:
        found = Search(vd.method(function), settings).all()
    except (NotJudged, vd.AmbiguousError):
        return None
    mismatches = [one for example in found for one in example.report.mismatches]
    if any(one.key == key for one in mismatches):
        return True
    return None if any(one.code == "VLM008" for one in mismatches) else False


def by_reading(source: str, layout: str, key: str) -> bool | None:
    """The same, as review says; None if it says nothing of this key for sure."""
    found = review.source(source, families=[layout])
    about = [one for one in found.remarks if key in one.message or key in one.text]
    if any(one.unsure is None for one in about):
        return True
    return False if not about and not found.not_judged and found.agreeing else None


LAYOUTS = ("gemma4", "llava", "idefics3")


@pytest.mark.parametrize("way", ways.CUT)
def test_one_mistake_is_found_both_ways(way):
    source = (
        IMPORTS + ways.HEAD + textwrap.indent(textwrap.dedent(ways.CUT[way]).strip("\n"), "    ")
    )

    read = by_reading(source + "\n", "llava", "pixel_values")
    ran = by_running(run_of(source + "\n"), "llava", "pixel_values")

    assert read is True
    assert ran in (True, None)


def mutations() -> Iterator[tuple[str, str]]:
    """The fuzzer's mutations that are written as an expression of the right rows, `v`."""
    file = Path(__file__).parent / "differential" / "mutations.py"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Mutation":
            name, change = node.args[:2]
            assert isinstance(name, ast.Constant)
            if isinstance(change, ast.Lambda):
                used = {one.id for one in ast.walk(change.body) if isinstance(one, ast.Name)}
                if used <= {"v", "torch", "F", "list", "range", "len"}:
                    yield str(name.value), ast.unparse(change.body)


MUTATED = """
def cut(model, inputs, size):
    ids = inputs["input_ids"]
    images = [0, *accumulate(inputs["num_images"])]
    for start in range(0, len(ids), size):
        stop = min(start + size, len(ids))
        v = inputs["pixel_values"][{bounds}]
        model(input_ids=ids[start:stop], pixel_values={change})
"""
RIGHT = "images[start]:images[stop]"
BOUNDS = (RIGHT, "start:stop", "images[start]:images[start + 1]")
"""The last is right for chunks of one sample."""
MUTATIONS = [*mutations()]
CASES = [
    pytest.param(change, bounds, LAYOUTS[place % 3], id=f"{name}, {bounds}")
    for place, (name, change) in enumerate(MUTATIONS)
    for bounds in BOUNDS
]


@pytest.mark.parametrize(("change", "bounds", "layout"), CASES)
def test_mutations_of_rows_are_judged_alike(change, bounds, layout):
    source = IMPORTS + MUTATED.format(bounds=bounds, change=change)

    read = by_reading(source, layout, "pixel_values")
    ran = by_running(run_of(source), layout, "pixel_values")

    assert None in (read, ran) or read == ran, (read, ran)


def test_both_judge_what_is_right_and_what_is_not():
    for bounds, wrong in zip(BOUNDS, (False, True, True), strict=True):
        source = IMPORTS + MUTATED.format(bounds=bounds, change="v")

        assert by_reading(source, "llava", "pixel_values") is wrong
        assert by_running(run_of(source), "llava", "pixel_values") is wrong


@pytest.mark.parametrize("name", [name for name in ways.RIGHT if "in one row" not in name])
def test_right_function_is_broken_by_neither(name):
    source = IMPORTS + ways.RIGHT[name]
    found = review.source(source)
    function = run_of(source, next(iter(names_of(ways.RIGHT[name]))))

    assert found.ok
    assert by_running(function, "gemma4", "pixel_values") in (False, None)


def names_of(source: str) -> Iterator[str]:
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name
