"""The tools that test other trainers, and the pages and files that hold what they found."""

from __future__ import annotations

import ast
import sys
import xml.etree.ElementTree as ET
from itertools import chain, repeat
from pathlib import Path

import pytest

from vlmdebug.core.mismatch import CODES
from vlmdebug.trainers.registry import TRAINERS, adapter_of
from vlmdebug.trainers.trl import SLICERS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "what_we_found_elsewhere.md").read_text(encoding="utf-8")
TRL = (ROOT / "docs" / "what_we_found_in_trl.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import drop_in
        import trainers

        yield trainers, drop_in
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_page_has_a_row_for_every_function_on_trial(tools):
    for trainer in tools[0].TRIALS:
        requirement = tools[0].requirement_of(trainer)
        for maker in adapter_of(trainer).slicers.values():
            assert f"| {requirement.replace('==', ' ')} | `{maker.functions}` |" in PAGE


def test_row_tells_what_samples_without_images_add(tools):
    llava = {"layout": "llava", "code": "VLM001", "loudness": "loud", "text_only": False}
    found = [
        llava,
        llava | {"text_only": True},
        llava | {"text_only": True, "loudness": "silent in 1 chunk, loud in 1 chunk"},
        llava | {"text_only": True, "layout": "gemma4", "code": "VLM005"},
    ]
    row = tools[0].rows("some==1.0", "cut", {"found": found, "cases": 1234}, long=False)

    assert row == ["| some 1.0 | `cut` | VLM001: llava | VLM005: gemma4; VLM001*: llava | 1,234 |"]


def test_function_that_falls_nowhere_has_dashes(tools):
    row = tools[0].rows("some==1.0", "cut", {"found": [], "cases": 12}, long=False)

    assert row == ["| some 1.0 | `cut` | – | – | 12 |"]


def test_page_on_trl_has_every_slicer_in_the_rows_of_its_newest_release(tools):
    import trl_releases

    newest = trl_releases.RELEASES[-1]
    rows = [line.split("|")[1:-1] for line in TRL.splitlines() if line.startswith(f"| {newest} |")]
    named = [name.strip() for row in rows if len(row) > 2 for name in row[1].split(",")]

    assert sorted(named) == sorted(SLICERS)
    assert sorted(named) == sorted(trl_releases.LOOPS + trl_releases.LOSSES)


def test_adapter_was_tried_in_the_releases_that_the_tool_tries(tools):
    import trl_releases

    assert adapter_of("trl").releases == trl_releases.RELEASES


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_trainer_has_a_drop_in_test_that_can_fail(trainer):
    file = ROOT / "docs" / "drop_in" / f"test_{trainer.replace('-', '_')}.py"
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tests = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    reasons = [
        word.value.value
        for node in tests
        for mark in node.decorator_list
        if isinstance(mark, ast.Call)
        for word in mark.keywords
        if word.arg == "reason" and isinstance(word.value, ast.Constant)
    ]

    assert tests
    assert all("assert_slices" in ast.unparse(node) for node in tests)
    assert f'trainer_slicer("{trainer}"' in file.read_text(encoding="utf-8")
    assert all(reason.partition(":")[0] in CODES for reason in reasons)


RESULTS = """<testsuites><testsuite>
<testcase name="holds"/>
<testcase name="known"><skipped type="pytest.xfail" message="VLM005: why"/></testcase>
<testcase name="new"><failure message="MismatchError: VLM001"/></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("said", "counts"),
    [("MismatchError: gemma4 VLM005", (1, 1, 1)), ("NotJudged: VLM005", (1, 0, 2))],
    ids=["for the reason given", "for another reason"],
)
def test_expected_failure_counts_only_with_its_code(tools, monkeypatch, tmp_path, said, counts):
    again = f'<t><testcase name="known"><failure>{said}</failure></testcase></t>'
    runs = iter([(ET.fromstring(RESULTS), 1.5), (ET.fromstring(again), 1.5)])
    monkeypatch.setattr(tools[1], "environment", lambda *_: tmp_path)
    monkeypatch.setattr(tools[1], "run", lambda *_: next(runs))
    result = tools[1].tried(None, "1.0", tmp_path)

    assert (len(result.passed), len(result.expected), len(result.failed)) == counts


@pytest.fixture
def kept(tools, monkeypatch, tmp_path):
    """Environments in a folder of their own; installing writes what a release says of itself."""
    drop_in, installed = tools[1], []

    def install(site, *requirements):
        for one in requirements:
            name, _, release = one.partition("==")
            folder = site / f"{name}-{release}.dist-info"
            folder.mkdir(parents=True, exist_ok=True)
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {release}\n"
            (folder / "METADATA").write_text(f"{text}Requires-Dist: numpy\n", encoding="utf-8")
        installed.extend(requirements)

    monkeypatch.setattr(drop_in, "BUILD", tmp_path)
    monkeypatch.setattr(drop_in, "install", install)
    return drop_in, installed


def main_environment_has(monkeypatch, drop_in, **releases):
    real = drop_in.metadata.version
    monkeypatch.setattr(drop_in.metadata, "version", lambda name: releases.get(name) or real(name))


def test_kept_environment_is_made_anew_when_it_would_share_another_release(kept, monkeypatch):
    drop_in, installed = kept
    adapter = adapter_of("accelerate")
    main_environment_has(monkeypatch, drop_in, transformers="5.24.0")
    python = drop_in.environment(adapter, "1.15.0", "5.24.0")
    shared = next(python.parent.parent.glob("lib/python*/site-packages/shared.pth"))
    assert len(shared.read_text(encoding="utf-8").split()) == 1
    drop_in.environment(adapter, "1.15.0", "5.24.0")
    assert installed == ["accelerate==1.15.0"]

    main_environment_has(monkeypatch, drop_in, transformers="5.25.0")
    drop_in.environment(adapter, "1.15.0", "5.24.0")

    assert shared.read_text(encoding="utf-8").startswith(str(drop_in.BUILD / "transformers-5.24.0"))
    assert installed == ["accelerate==1.15.0", "transformers==5.24.0", "accelerate==1.15.0"]


def test_kept_release_of_transformers_is_made_anew_for_other_requirements(kept, monkeypatch):
    drop_in, installed = kept
    (folder,) = drop_in.with_transformers("4.1.0")
    (folder / "left_over.py").touch()
    assert drop_in.with_transformers("4.1.0") == [folder]
    assert installed == ["transformers==4.1.0"]

    main_environment_has(monkeypatch, drop_in, numpy="9.9")
    drop_in.with_transformers("4.1.0")

    assert installed == ["transformers==4.1.0"] * 2
    assert not (folder / "left_over.py").exists()


def test_page_lists_every_slicer_and_release():
    rows = [
        f"| {f'`{trainer}`' if first else ''} | `{name}` | `{maker.functions}` "
        f"| {', '.join(adapter_of(trainer).releases) if first else ''} |"
        for trainer in TRAINERS
        for first, (name, maker) in zip(
            chain([True], repeat(False)), adapter_of(trainer).slicers.items(), strict=False
        )
    ]
    page = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")

    assert [line for line in page.splitlines() if line.startswith("|")][2:] == rows


def test_example_of_the_page_is_the_file_to_copy():
    page = (ROOT / "docs" / "trainers.md").read_text(encoding="utf-8")
    file = (ROOT / "docs" / "drop_in" / "test_verl.py").read_text(encoding="utf-8")

    assert page.partition("```py\n")[2].partition("```")[0] in file
