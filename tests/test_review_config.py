"""`vlmdebug review` in a project: its settings, options, baseline and cache."""

from __future__ import annotations

import argparse
import importlib
import json
import re
from pathlib import Path

import pytest

import vlmdebug as vd
from vlmdebug.cli import main
from vlmdebug.cli import review as command
from vlmdebug.review import cache, config, many, one_file
from vlmdebug.review.config import Configuration, Pattern
from vlmdebug.review.files import Raw
from vlmdebug.review.machine import FUEL
from vlmdebug.review.reading import STEPS

PAGE = (Path(__file__).parents[1] / "docs" / "review.md").read_text(encoding="utf-8")
WRONG = """\
def cut(inputs, start, stop):
    rows = inputs["pixel_values"][start:stop]
    return {"input_ids": inputs["input_ids"][start:stop], "pixel_values": rows}
"""
STALE = """\
def stale(inputs, start, stop):
    ids = inputs["input_ids"][start:stop]
    if inputs.get("pixel_position_ids") is not None:
        return {"input_ids": ids, "pixel_position_ids": inputs["pixel_position_ids"][start:stop]}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("src/cut.py", "src/generated/made.py", "tests/test_cut.py"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(WRONG)
    (tmp_path / "src" / "stale.py").write_text(STALE)
    return tmp_path


@pytest.fixture
def answer(capsys):
    """Runs `vlmdebug review`: its exit code, what it finds as `file CODE`, and all it prints."""

    def run(*arguments: str):
        code = main(["review", *arguments])
        shown = capsys.readouterr()
        heads = [line.split() for line in shown.out.splitlines() if ": VLM" in line]
        found = [f"{head[0].split(':')[0]} {head[1]}" for head in heads]
        return code, found, shown.out + shown.err

    return run


def settings(text: str, folder: Path = Path()) -> None:
    (folder / "pyproject.toml").write_text(f"[tool.vlmdebug]\n{text}\n")


EVERY = [
    "src/cut.py VLM001",
    "src/generated/made.py VLM001",
    "src/stale.py VLM004",
    "tests/test_cut.py VLM001",
]


# --- settings of a project -----------------------------------------------------------------

TABLES = {
    "none": ("", EVERY),
    "select": ('select = ["VLM004"]', EVERY[2:3]),
    "ignore": ('ignore = ["VLM001", "VLM002"]', EVERY[2:3]),
    "both": ('select = ["VLM001", "VLM004"]\nignore = ["VLM004"]', EVERY[:2] + EVERY[3:]),
    "exclude a folder": ('exclude = ["tests"]', EVERY[:3]),
    "exclude a folder by its path": ('exclude = ["src/generated/"]', EVERY[:1] + EVERY[2:]),
    "exclude by a pattern": ('exclude = ["*/made.py", "test_*.py"]', [EVERY[0], EVERY[2]]),
    "exclude at any depth": ('exclude = ["**/cut.py"]', EVERY[1:]),
    "per file": (
        'per-file-ignores = {"tests/*" = ["VLM001"], "stale.py" = ["VLM004"]}',
        EVERY[:2],
    ),
    "per file, of another code": ('per-file-ignores = {"tests/*" = ["VLM004"]}', EVERY),
}


@pytest.mark.parametrize(("table", "found"), TABLES.values(), ids=TABLES.keys())
def test_settings_of_a_project_say_what_is_reported(project, answer, table, found):
    settings(table)

    assert answer(".")[1] == found


def test_closest_settings_above_a_file_hold(project, answer):
    settings('ignore = ["VLM001"]')
    settings('ignore = ["VLM004"]\nexclude = ["generated"]', project / "src")

    assert answer(".")[1] == ["src/cut.py VLM001"]


def test_project_without_a_table_is_passed_over(project, answer):
    settings('ignore = ["VLM001"]')
    (project / "src" / "pyproject.toml").write_text("[tool.ruff]\nline-length = 9\n")

    assert answer("src")[1] == ["src/stale.py VLM004"]


def test_settings_hold_from_any_folder(project, answer, monkeypatch):
    settings('exclude = ["src/generated"]\nper-file-ignores = {"src/cut.py" = ["VLM001"]}')
    monkeypatch.chdir("src")

    assert answer(".")[1] == ["stale.py VLM004"]


def test_options_replace_the_settings(project, answer):
    settings('select = ["VLM001"]\nexclude = ["tests"]')

    assert answer(".", "--select", "VLM004,VLM003")[1] == EVERY[2:3]
    assert answer(".", "--exclude", "generated, src/cut.py")[1] == EVERY[3:]
    assert answer(".", "--ignore", "VLM001")[1] == []


def test_file_that_is_named_is_reviewed_unless_told_otherwise(project, answer):
    settings('exclude = ["tests"]')

    assert answer("tests/test_cut.py")[1] == EVERY[3:]
    assert answer("tests/test_cut.py", "--force-exclude")[:2] == (0, [])


BAD = {
    "unknown code": ('select = ["VLM999"]', "select has 'VLM999', which is no mismatch code"),
    "none": ("select = []", "select is empty, so nothing would be reported"),
    "no list": ('ignore = "VLM001"', "ignore is 'VLM001', but it takes a list of codes"),
    "numbers": ("exclude = [1]", "exclude is [1], but it takes a list of patterns"),
    "no table": ('per-file-ignores = ["a"]', "per-file-ignores is ['a'], but it takes a table"),
    "no codes": ('per-file-ignores = {"a" = "VLM001"}', "per-file-ignores of a is 'VLM001'"),
    "bad code": ('per-file-ignores = {"a" = ["X"]}', "per-file-ignores of a has 'X'"),
    "no path": ("baseline = 3", "baseline is 3, but it takes the path of a file"),
    "typo": ('exclud = ["a"]', "[tool.vlmdebug] exclud is no option; did you mean exclude?"),
    "unknown": ("jobs = 3", "jobs is no option; they are select, ignore"),
    "no toml": ("select = [", "is no TOML"),
    "no baseline": ('baseline = "gone.json"', "gone.json does not exist. Nothing was reviewed."),
}


@pytest.mark.parametrize(("table", "message"), BAD.values(), ids=BAD.keys())
def test_settings_that_cannot_be_used_exit_2(project, answer, table, message):
    settings(table)
    code, found, text = answer("src/cut.py")

    assert (code, found) == (2, [])
    assert message in text and ("pyproject.toml" in text or "baseline" in table)


def test_table_that_is_no_table_exits_2(project, answer):
    (project / "pyproject.toml").write_text("[tool]\nvlmdebug = 1\n")

    assert answer("src")[0] == 2


def test_review_of_no_file_says_so(project, answer):
    Path("empty").mkdir()

    for words in (["empty"], [".", "--exclude", "*"]):
        code, _, text = answer(*words)
        assert code == 0 and text.startswith("There is no Python file or notebook to review")


@pytest.mark.parametrize("option", ["--select", "--ignore"])
def test_options_with_an_unknown_code_exit_2(project, answer, option):
    code, _, text = answer("src", option, "VLM001,X")

    assert code == 2 and f"{option} has 'X', which is no mismatch code" in text


def test_python_without_a_reader_of_toml_asks_for_one(project, answer, monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(config.importlib, "import_module", missing)
    settings("")
    code, _, text = answer("src")
    assert code == 2 and "pip install tomli" in text

    (project / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert answer("src")[0] == 1
    assert importlib.import_module is missing


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("tests", "a/tests/b.py", True),
        ("tests", "a/mytests/b.py", False),
        ("a/*.py", "a/b.py", True),
        ("a/*.py", "c/a/b.py", False),
        ("./a", "a/b.py", True),
        ("**/a/*.py", "a/b.py", True),
        ("[ab].py", "x/a.py", True),
        ("*", "x.py", True),
    ],
)
def test_patterns_match_a_path_a_name_or_a_folder_above(tmp_path, pattern, path, fits):
    assert Pattern(pattern, tmp_path).matches(tmp_path / path) is fits


def test_settings_of_a_folder_that_is_gone_are_those_above(project):
    settings('ignore = ["VLM001"]')

    assert not Configuration().settings_of(Path("gone/deeper/cut.py")).reports("VLM001", Path("x"))


# --- baseline ------------------------------------------------------------------------------


def test_baseline_accepts_what_it_has_and_nothing_else(project, answer):
    code, _, text = answer(".", "--write-baseline", "accepted.json")
    assert (code, text) == (0, "wrote accepted.json: 4 findings\n")

    code, found, text = answer(".", "--baseline", "accepted.json")
    assert (code, found) == (0, [])
    assert "In the baseline, and not shown: 4 findings." in text

    (project / "src" / "cut.py").write_text(f"import os\n\n\n{WRONG}{STALE}")
    assert answer(".", "--baseline", "accepted.json")[:2] == (1, ["src/cut.py VLM004"])


def test_baseline_is_the_same_from_wherever_it_is_written(project, answer, monkeypatch):
    answer(".", "--write-baseline", "one.json")
    monkeypatch.chdir("src")
    answer(str(project / "tests"), "..", "--write-baseline", "../two.json")
    text = (project / "one.json").read_text()
    rows = json.loads(text)["findings"]

    assert (project / "two.json").read_text() == text
    assert [row["file"] for row in rows] == [line.split()[0] for line in EVERY]
    assert str(project) not in text and text.endswith("}\n")
    assert answer(".", "--baseline", "../one.json")[:2] == (0, [])


def test_baseline_of_a_project_is_next_to_its_settings(project, answer, monkeypatch):
    settings('baseline = "accepted.json"')
    answer(".", "--write-baseline", "accepted.json")
    monkeypatch.chdir("src")

    assert answer("..")[:2] == (0, [])
    assert answer("..", "--write-baseline", "again.json")[2].endswith(": 4 findings\n")


def test_finding_in_more_layouts_than_accepted_is_reported(project, answer):
    answer("src/cut.py", "--write-baseline", "b.json")
    data = json.loads(Path("b.json").read_text())
    data["findings"][0]["layouts"].remove("llava")
    Path("b.json").write_text(json.dumps(data))

    assert answer("src/cut.py", "--baseline", "b.json")[:2] == (1, ["src/cut.py VLM001"])


def test_equal_findings_are_counted(project, answer):
    answer("src/cut.py", "--write-baseline", "b.json")
    line = "    yield {key: value[0:2] for key, value in inputs.items()}\n"
    Path("src/cut.py").write_text(f"def cut(inputs):\n{line}")
    answer("src/cut.py", "--write-baseline", "b.json")
    Path("src/cut.py").write_text(f"def cut(inputs):\n{line}{line}")

    assert len(answer("src/cut.py", "--baseline", "b.json")[1]) == 1


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2, "findings": []}', '{"version": 1, "findings": [1]}']
)
def test_what_is_no_baseline_exits_2(project, answer, text):
    Path("b.json").write_text(text)
    code, _, said = answer("src", "--baseline", "b.json")

    assert code == 2 and "b.json is no baseline of vlmdebug's, version 1." in said


def test_exit_zero_hides_findings_from_the_exit_code_alone(project, answer):
    assert answer("src", "--exit-zero")[:2] == (0, EVERY[:3])
    assert answer("gone.py", "--exit-zero")[0] == 2


# --- cache ---------------------------------------------------------------------------------


@pytest.fixture
def read(monkeypatch):
    """Names of the files that are reviewed, and not taken from the cache."""
    names: list[str] = []
    review_of = many.review_of

    def noted(raw: Raw, *rest: object):
        names.append(raw.name)
        return review_of(raw, *rest)

    monkeypatch.setattr(many, "review_of", noted)
    return names


def test_file_that_did_not_change_is_not_read_again(project, answer, read):
    first = answer("src")
    assert len(read) == 3

    read.clear()
    assert answer("src") == first and read == []
    (project / "src" / "cut.py").write_text(f"\n{WRONG}")
    assert answer("src")[2] != first[2] and read == ["src/cut.py"]


def test_options_that_matter_are_kept_apart(project, answer, read):
    answer("src/cut.py")
    answer("src/cut.py", "--select", "VLM004", "--format", "json")
    assert len(read) == 1

    assert answer("src/cut.py", "--family", "idefics3")[0] == 0
    assert answer("src/cut.py")[0] == 1
    assert len(read) == 2


def test_cache_ignores_itself_and_may_be_left_out(project, answer, read):
    answer("src", "--no-cache")
    assert not Path(".vlmdebug_cache").exists()

    answer("src")
    assert Path(".vlmdebug_cache/.gitignore").read_text() == "*\n"
    answer("src", "--no-cache")
    assert len(read) == 9


@pytest.mark.parametrize("damage", ["", "x", "{}", "cut", "null"])
def test_damaged_cache_is_read_again(project, answer, read, damage):
    first = answer("src")
    for path in Path(".vlmdebug_cache").rglob("*.json"):
        text = path.read_text()
        path.write_text(text[: len(text) // 2] if damage == "cut" else damage)
    read.clear()

    assert answer("src") == first and len(read) == 3


def test_entry_with_a_right_checksum_and_a_wrong_form_is_read_again(project, answer, read):
    first = answer("src/cut.py")
    (path,) = Path(".vlmdebug_cache").rglob("*.json")
    for text in ("[]", '{"remarks": []}', '{"remarks": [{"x": 1}]}', '{"remarks": 3}'):
        path.write_text(f"{cache._digest(text)}\n{text}")
        assert answer("src/cut.py") == first


def test_another_version_drops_what_was_kept(project, answer, read, monkeypatch):
    answer("src")
    (before,) = (one for one in Path(".vlmdebug_cache").iterdir() if one.is_dir())
    monkeypatch.setattr(cache, "package_id", lambda: "0" * 16)
    answer("src")

    assert len(read) == 6 and not before.exists()


def test_folder_that_cannot_be_written_does_without(project, answer):
    Path(".vlmdebug_cache").write_text("a file")

    assert answer("src")[1] == EVERY[:3]


def test_cache_is_next_to_the_project(project, answer, monkeypatch):
    settings("")
    monkeypatch.chdir("src")
    answer(".")

    assert (project / ".vlmdebug_cache").is_dir() and not Path(".vlmdebug_cache").exists()


def test_library_keeps_nothing_and_reads_no_settings(project):
    settings('ignore = ["VLM001"]')

    assert len(vd.review.paths("src").findings) == 3
    assert not Path(".vlmdebug_cache").exists()


# --- the page ------------------------------------------------------------------------------


def test_page_has_every_option_and_every_setting():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    command.add(commands)
    listed = commands.choices["review"].format_help()
    options = {*re.findall(r"--[a-z-]+", listed)} - {"--help"}

    assert {one for one in options if f"`{one}" not in PAGE and f"{one} " not in PAGE} == set()
    assert {one for one in config._OPTIONS if f"| `{one}` |" not in PAGE} == set()


def test_page_states_the_limits_that_hold():
    for limit in (STEPS, FUEL, one_file.FILE_STEPS):
        assert f"{limit:,}" in PAGE


def test_settings_of_the_page_can_be_read(project, answer):
    (table,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (project / "pyproject.toml").write_text(table)
    answer("src", "--write-baseline", "vlmdebug-baseline.json")

    assert answer(".")[:2] == (0, [])


def test_snippets_of_the_page_have_commands_that_are_understood():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    command.add(commands)
    used = [line.split("#")[0] for line in re.findall(r"vlmdebug (review .*)", PAGE)]
    for line in used:
        if "`" not in line:
            words = line.split("<")[0].split(">")[0].replace("${{ github.base_ref }}", "main")
            assert parser.parse_args(words.split()).run

    assert len(used) > 8
