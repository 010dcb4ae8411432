"""Options of a search stand once: signatures, docstrings and flags agree with `FalsifySettings`."""

from __future__ import annotations

import inspect
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

import vlmdebug as vd
from vlmdebug import slicers, testing
from vlmdebug.cli import main
from vlmdebug.running import falsify as falsifying
from vlmdebug.running import search
from vlmdebug.running.settings import DEFAULTS, FalsifySettings, options

NAMES = [one.name for one in options()]
OTHERS = FalsifySettings(["llava"], 7, 3.5, 9, False, ["video"], False, "left")
"""Another value for each option."""
DRAWN = ("families", "text_only", "clips", "position_ids", "padding_side")
TAKERS = {
    vd.falsify: NAMES,
    vd.falsify_all: NAMES,
    testing.assert_slices: NAMES,
    testing.batches: DRAWN,
}


class Passed(Exception):
    """Carries the settings that reached the inside."""


def settings_of(call, monkeypatch) -> FalsifySettings:
    """The settings that a call passes inward."""

    def noted(*given, **named):
        raise Passed(next(one for one in given if isinstance(one, FalsifySettings)))

    for module, name in [(falsifying, "Search"), (testing, "Search"), (search, "Search")]:
        monkeypatch.setattr(module, name, noted)
    monkeypatch.setattr(testing, "cases", lambda family, settings: noted(settings))
    with pytest.raises(Passed) as caught:
        call()
    return caught.value.args[0]


@pytest.mark.parametrize(
    ("function", "names"), TAKERS.items(), ids=lambda one: getattr(one, "__name__", "")
)
def test_signature_and_docstring_are_those_of_the_settings(function, names):
    takes = inspect.signature(function).parameters
    said = " ".join(inspect.getdoc(function).split())

    assert [name for name in takes if name in NAMES] == list(names)
    for one in options():
        if one.name in names:
            assert takes[one.name].default == one.default
            assert takes[one.name].annotation == one.type
            assert f"{one.name}: {one.metadata['meaning']}" in said
    assert "options:" not in said


@pytest.mark.parametrize(
    ("function", "name"),
    [(function, name) for function, names in TAKERS.items() for name in names],
    ids=lambda one: getattr(one, "__name__", one),
)
def test_option_reaches_its_own_place(function, name, monkeypatch):
    slicer = () if function is testing.batches else (slicers.corrected,)
    value = {name: getattr(OTHERS, name)}

    passed = settings_of(lambda: function(*slicer, **value), monkeypatch)

    assert passed == replace(DEFAULTS, **value)


FLAGS = {
    "families": ["--family", "llava"],
    "max_examples": ["--max-examples", "7"],
    "seconds": ["--seconds", "3.5"],
    "seed": ["--seed", "9"],
    "text_only": ["--no-text-only"],
    "clips": ["--no-clips"],
    "position_ids": ["--no-position-ids"],
    "padding_side": ["--padding-side", "left"],
}


@pytest.mark.parametrize("name", NAMES)
def test_flag_reaches_its_own_place(name, monkeypatch, capsys):
    passed = []

    class Noted:
        def __init__(self, slicer, settings, tried):
            passed.append(settings)

        def first(self):
            return None

    monkeypatch.setattr(search, "Search", Noted)
    value = False if name == "clips" else getattr(OTHERS, name)

    assert main(["falsify", "corrected", *FLAGS[name]]) == 0
    assert main(["falsify", "corrected"]) == 0
    assert passed == [replace(DEFAULTS, **{name: value}), DEFAULTS]


@pytest.mark.parametrize(
    "value",
    [
        {"families": 3},
        {"max_examples": -1},
        {"seconds": "x"},
        {"seed": 1.5},
        {"text_only": "no"},
        {"clips": "video"},
        {"clips": ["videos"]},
        {"clips": None},
        {"position_ids": []},
        {"padding_side": "both"},
    ],
    ids=str,
)
def test_value_that_an_option_does_not_take_is_refused(value):
    (name,) = value
    with pytest.raises(vd.BadInput, match=f"^{name} is .* but it takes .* Nothing was tried"):
        FalsifySettings(**value)
    with pytest.raises(vd.BadInput, match=f"^{name} is .* falsify did nothing"):
        vd.falsify(slicers.corrected, **value)


def test_public_name_without_a_type_is_named_and_so_is_an_idle_reason():
    tool = runpy.run_path(str(Path(__file__).parents[1] / "tools" / "public_types.py"))
    opened = {"name": "vlmdebug.open", "isTypeKnown": False, "isTypeAmbiguous": False}
    known = {"name": "vlmdebug.known", "isTypeKnown": True, "isTypeAmbiguous": False}
    tables = {**opened, "name": "vlmdebug.families.llava.Llava.axes"}
    public = [{**one, "diagnostics": [{"message": "why\nmore"}]} for one in (opened, known, tables)]
    said = tool["complaints"](public)

    assert said[0] == "vlmdebug.open; why"
    assert len(said) == 1 + len(tool["KNOWN"]) - 1
    assert all("is no longer needed" in one for one in said[1:])
