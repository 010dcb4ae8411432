"""The trials of other trainers: code is taken out unchanged, and the page has a row for each."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vlmdebug.trainers.trl import SLICERS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "what_we_found_elsewhere.md").read_text(encoding="utf-8")
TRL = (ROOT / "docs" / "what_we_found_in_trl.md").read_text(encoding="utf-8")
SOURCE = """
SIZE = 2

def unused(): return not_there

class Trainer(NotImported):
    @decorator
    def cut(self, rows: NotImported) -> NotImported:
        return rows[:SIZE] + self.more + helper(rows)
"""


@pytest.fixture(scope="module")
def tools():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import trainers
        import trials

        yield trainers, trials
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_method_is_taken_out_without_what_its_file_imports(tools, tmp_path):
    file = tmp_path / "trainer.py"
    file.write_text(SOURCE)
    its = tools[1].take(file, "Trainer.cut", "SIZE", helper=lambda rows: rows[-1:])

    assert its.cut(tools[1].Some(more=[0]), [1, 2, 3]) == [1, 2, 0, 3]


def test_name_that_is_not_in_the_file_is_an_error(tools, tmp_path):
    file = tmp_path / "trainer.py"
    file.write_text(SOURCE)

    with pytest.raises(KeyError, match="gone"):
        tools[1].take(file, "Trainer.gone")


def test_page_has_a_row_for_every_function_on_trial(tools):
    for requirement, functions in tools[1].TRIALS.items():
        for function in functions:
            assert f"| {requirement.replace('==', ' ')} | `{function}` |" in PAGE


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
