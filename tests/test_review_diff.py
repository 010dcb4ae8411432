"""`vlmdebug review` of changes: only what a change made wrong or newly exposes is reported."""

from __future__ import annotations

import difflib
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlmdebug import review
from vlmdebug.cli import main
from vlmdebug.review.diffs import files_in

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

OLD = """\
def old(inputs, chunk_size):
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        stop = start + chunk_size
        yield {key: value[start:stop] for key, value in inputs.items()}
"""
NEW = """

def more(inputs, start, stop):
    rows = inputs["pixel_values"][start:stop]
    return {"input_ids": inputs["input_ids"][start:stop], "pixel_values": rows}
"""
FINE = """\
def whole(inputs):
    return {"input_ids": inputs["input_ids"], "pixel_values": inputs["pixel_values"]}
"""
KEYED = """\
KEYS = ("input_ids", "attention_mask")


def cut(inputs, start, stop):
    return {key: value[start:stop] if key in KEYS else value for key, value in inputs.items()}
"""


def git(*words: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@x", "-c", "commit.gpgsign=false"]
    ran = subprocess.run(["git", *who, *words], capture_output=True, text=True, check=True)
    return ran.stdout


def commit(**files: str | None) -> None:
    """Commit files by their names, in which `__` is a slash; None deletes one."""
    for name, text in files.items():
        path = Path(f"{name.replace('__', '/')}.py")
        if text is None:
            path.unlink()
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    git("add", "--all")
    git("commit", "--quiet", "--message", "change")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet", "--initial-branch", "main")
    commit(trainer=OLD, pkg__fine=FINE)
    return tmp_path


@pytest.fixture
def answer(capsys, monkeypatch):
    """Runs `vlmdebug review`: its exit code, what it finds as `file:line`, and all it prints."""

    def run(*arguments: str, given: str | bytes = ""):
        raw = given.encode() if isinstance(given, str) else given
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
        code = main(["review", "--no-cache", *arguments])
        shown = capsys.readouterr()
        found = [
            ":".join(line.split(":")[:2]) for line in shown.out.splitlines() if ": VLM" in line
        ]
        return code, found, shown.out + shown.err

    return run


# --- both sides ----------------------------------------------------------------------------


def test_only_what_a_commit_made_wrong_is_reported(repository, answer):
    commit(trainer=f"import os\n\n\n{OLD}{NEW}")

    code, found, text = answer("HEAD~1..HEAD")
    assert (code, found) == (1, ["trainer.py:11"])
    assert "Older than the change, and not shown without --all: 1 finding." in text
    assert answer("HEAD~1..HEAD", "--all")[1] == ["trainer.py:7", "trainer.py:11"]


def test_uncommitted_changes_and_new_files_are_compared_with_a_revision(repository, answer):
    (repository / "trainer.py").write_text(f"import os\n\n\n{OLD}")
    (repository / "new.py").write_text(NEW)

    assert answer("HEAD")[:2] == (1, ["new.py:4"])
    assert answer("main")[1] == ["new.py:4"]
    (repository / ".gitignore").write_text("new.py\n")
    assert answer("HEAD")[:2] == (0, [])


def test_links_are_not_followed(repository, answer):
    Path("link.py").symlink_to("trainer.py")
    assert answer("HEAD")[:2] == (0, [])

    commit()
    assert answer("HEAD~..HEAD")[:2] == (0, [])
    assert answer("link.py")[1] == ["link.py:4"]


def test_branch_is_compared_with_where_it_left(repository, answer):
    git("checkout", "--quiet", "-b", "work")
    commit(pkg__fine=FINE + NEW)
    git("checkout", "--quiet", "main")
    commit(trainer=FINE)
    git("checkout", "--quiet", "work")

    assert answer("main...HEAD")[1] == ["pkg/fine.py:6"]
    assert answer("main..")[1] == ["trainer.py:4", "pkg/fine.py:6"][::-1]


def test_revision_is_read_from_git_and_not_from_the_folder(repository, answer):
    commit(trainer=OLD + NEW)
    (repository / "trainer.py").write_text("x = 1\n")

    assert answer("HEAD~..HEAD")[1] == ["trainer.py:8"]


def test_constant_outside_of_functions_exposes_what_uses_it(repository, answer):
    commit(cut=KEYED)
    commit(cut=KEYED.replace('"attention_mask"', '"attention_mask", "pixel_values"'))

    code, found, _ = answer("HEAD~..HEAD")
    assert (code, found) == (1, ["cut.py:5"])
    assert answer("--diff", "-", given=git("diff", "HEAD~", "HEAD"))[1] == ["cut.py:5"]


def test_finding_that_spreads_to_more_layouts_is_news(repository, answer):
    one = NEW.replace(
        "    rows", '    if "image_position_ids" not in inputs:\n        return\n    rows'
    )
    commit(cut=one)
    commit(cut=NEW)

    assert answer("HEAD~..HEAD")[:2] == (1, ["cut.py:4"])
    git("revert", "--no-edit", "HEAD")
    assert answer("HEAD~..HEAD")[:2] == (0, [])


def test_second_equal_finding_is_news(repository, answer):
    line = "    yield {key: value[0:2] for key, value in inputs.items()}\n"
    commit(cut=f"def cut(inputs):\n{line}")
    commit(cut=f"def cut(inputs):\n{line}{line}")

    assert len(answer("HEAD~..HEAD")[1]) == 1


@pytest.mark.parametrize("to", ["renamed", "pkg__moved"])
def test_renamed_file_has_no_news(repository, answer, to):
    commit(trainer=None, **{to: OLD})

    code, found, text = answer("HEAD~..HEAD")
    assert (code, found) == (0, [])
    assert "not shown without --all: 1 finding" in text
    assert answer("--diff", "-", given=git("diff", "-M", "HEAD~", "HEAD"))[:2] == (0, [])


def test_function_that_moves_to_another_file_or_class_has_no_news(repository, answer):
    inside = "class Cutter:\n" + "".join(f"    {line}\n" for line in OLD.splitlines())
    commit(trainer="x = 1\n", other="import os\n\n\n" + inside.replace("def old(", "def new("))

    assert answer("HEAD~..HEAD")[:2] == (0, [])


def test_copy_of_a_function_is_news(repository, answer):
    commit(other=OLD)

    assert answer("HEAD~..HEAD")[1] == ["other.py:4"]


def test_deleted_files_and_modes_have_no_news(repository, answer):
    os.chmod("trainer.py", 0o755)
    commit(pkg__fine=None)

    code, found, _ = answer("HEAD~..HEAD")
    assert (code, found) == (0, [])
    assert answer("--diff", "-", given=git("diff", "HEAD~", "HEAD"))[:2] == (0, [])


def test_deletion_that_exposes_is_news(repository, answer):
    guarded = NEW.replace("    rows", "    raise NotImplementedError\n    rows")
    commit(cut=guarded)
    commit(cut=NEW)

    assert answer("HEAD~..HEAD")[1] == ["cut.py:4"]
    assert answer("--diff", "-", given=git("diff", "-U0", "HEAD~", "HEAD"))[1] == ["cut.py:4"]


def test_code_not_judged_is_listed_where_its_function_changed(repository, answer):
    lost = NEW.replace("[start:stop]\n", "[f(start) : f(stop)]\n", 1)
    commit(cut=lost + FINE)
    commit(cut=lost + FINE + "\n\nx = 1\n")
    assert "cut.py:" not in answer("HEAD~..HEAD")[2]
    assert "1 place not judged" in answer("HEAD~..HEAD")[2]

    commit(cut=lost.replace("    rows", "    start += 1\n    rows") + FINE)
    assert "cut.py:5: inputs['pixel_values'][f(start):f(stop)]" in answer("HEAD~..HEAD")[2]


def test_base_that_is_no_python_hides_nothing(repository, answer):
    commit(cut="print 'two'\n")
    commit(cut=NEW)

    assert answer("HEAD~..HEAD")[1] == ["cut.py:4"]


def test_changed_file_that_is_no_python_is_listed(repository, answer):
    commit(cut="pixel_values = (\n", pkg__fine=FINE + NEW)

    code, found, text = answer("HEAD~..HEAD")
    assert (code, found) == (1, ["pkg/fine.py:6"])
    assert "cut.py is not Python source" in text


def test_cells_of_a_notebook_are_compared(repository, answer):
    def write(*cells: str) -> None:
        listed = [{"cell_type": "code", "source": cell.splitlines(True)} for cell in cells]
        Path("nb.ipynb").write_text(json.dumps({"cells": listed}, indent=1))
        commit()

    write(OLD)
    write("import os\n", f"%time 1\n{OLD}", NEW)
    diff = git("diff", "HEAD~", "HEAD")

    assert answer("HEAD~..HEAD")[:2] == (1, ["nb.ipynb:cell 3"])
    assert answer("--diff", "-", given=diff)[1] == ["nb.ipynb:cell 3"]
    Path("nb.ipynb").write_text(Path("nb.ipynb").read_text().replace("time 1", "time 2"))
    assert answer("--diff", "-", given=diff)[1] == ["nb.ipynb:cell 2", "nb.ipynb:cell 3"]


# --- from any folder -----------------------------------------------------------------------


def test_any_folder_of_the_repository_will_do(repository, answer, monkeypatch):
    commit(trainer=OLD + NEW, pkg__fine=FINE + NEW)
    diff = git("diff", "HEAD~", "HEAD")
    monkeypatch.chdir("pkg")

    everything = ["../trainer.py:8", "fine.py:6"]
    assert sorted(answer("HEAD~..HEAD")[1]) == everything
    assert sorted(answer("--diff", "-", given=diff)[1]) == everything
    assert answer("HEAD~..HEAD", ".")[1] == ["fine.py:6"]
    relative = git("diff", "--relative", "HEAD~", "HEAD")
    assert answer("--diff", "-", given=relative)[1] == ["fine.py:6"]


def test_file_of_the_same_name_further_down_is_not_mistaken(repository, answer, monkeypatch):
    commit(pkg__trainer=FINE)
    commit(trainer=OLD + NEW)
    diff = git("diff", "HEAD~", "HEAD")
    monkeypatch.chdir("pkg")

    assert answer("--diff", "-", given=diff)[1] == ["../trainer.py:8"]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--no-prefix"], id="no prefix"),
        pytest.param(["-c", "diff.mnemonicPrefix=true"], id="mnemonic prefix"),
        pytest.param(["-U0"], id="no context"),
        pytest.param(["-U99"], id="all context"),
    ],
)
def test_names_of_a_diff_are_read_as_git_writes_them(repository, answer, options):
    commit(**{"a__é ü": OLD})
    commit(**{"a__é ü": OLD + NEW})
    before, after = (options[:2], options[2:]) if options[0] == "-c" else ([], options)
    diff = git(*before, "diff", *after, "HEAD~", "HEAD")

    assert answer("--diff", "-", given=diff)[:2] == (1, ["a/é ü.py:8"])


def test_name_with_a_line_break_begins_no_line(repository, answer):
    Path("a\n::error::b.py").write_text(NEW)
    text = answer("HEAD")[2]

    assert r"a\n::error::b.py:4:" in text
    assert not [line for line in text.splitlines() if line.startswith("::")]


# --- diffs ---------------------------------------------------------------------------------


def test_diff_that_is_not_applied_is_reviewed_as_it_would_be(repository, answer):
    commit(trainer=f"import os\n\n\n{OLD}{NEW}", new=NEW)
    diff = git("diff", "HEAD~", "HEAD")
    git("checkout", "--quiet", "HEAD~")

    code, found, text = answer("--diff", "-", given=diff)
    assert (code, found) == (1, ["new.py:4", "trainer.py:11"])
    assert "The diff is not applied here." in text and "1 finding." in text


def test_diff_without_its_base_shows_all_that_it_touches(repository, answer):
    commit(trainer=OLD + NEW + "\n\n" + OLD.replace("old", "untouched"))
    diff = git("diff", "HEAD~", "HEAD").replace("def more", "def another")
    Path("trainer.py").write_text("import os\n" + Path("trainer.py").read_text())

    code, found, text = answer("--diff", "-", given=diff)
    assert code == 1 and "trainer.py:9" in found
    assert "trainer.py is neither as the diff leaves it nor as it was before" in text


def test_patch_in_a_mail_is_read(repository, answer):
    commit(trainer=OLD + NEW)

    assert answer("--diff", "-", given=git("format-patch", "--stdout", "HEAD~"))[1] == [
        "trainer.py:8"
    ]


@pytest.mark.parametrize("words", [["format-patch", "--stdout", "HEAD~2"], ["log", "-p", "-2"]])
def test_series_of_patches_is_read_as_one_change(repository, answer, words):
    commit(trainer=OLD + NEW)
    commit(trainer=f"import os\n\n\n{OLD}{NEW}\n\n{FINE}")
    series = git(*words)

    code, found, text = answer("--diff", "-", given=series)
    assert (code, found) == (1, ["trainer.py:11"])
    assert "not shown without --all: 1 finding" in text
    git("checkout", "--quiet", "HEAD~2")
    assert answer("--diff", "-", given=series)[1] == ["trainer.py:11"]


def test_line_ends_of_a_mailed_diff_do_not_matter(repository, answer):
    commit(trainer=OLD + NEW)
    diff = git("diff", "HEAD~", "HEAD").replace("\n", "\r\n")

    assert answer("--diff", "-", given=diff)[1] == ["trainer.py:8"]


def test_characters_that_end_lines_elsewhere_do_not_shift_a_diff(repository, answer):
    page = 'PAGE = "\x0c \x1c \u2028"\n'
    commit(trainer=page + OLD)
    commit(trainer=page + OLD + NEW)

    assert answer("--diff", "-", given=git("diff", "HEAD~", "HEAD"))[1] == ["trainer.py:9"]


def test_source_in_latin_1_is_compared(repository, answer):
    coded = "# -*- coding: latin-1 -*-\nNAME = 'é'\n"
    Path("cut.py").write_bytes((coded + OLD).encode("latin-1"))
    commit()
    Path("cut.py").write_bytes((coded + OLD + NEW).encode("latin-1"))
    ran = subprocess.run(["git", "diff"], capture_output=True, check=True)

    assert answer("HEAD")[1] == ["cut.py:10"]
    assert answer("--diff", "-", given=ran.stdout)[1] == ["cut.py:10"]


def test_paths_limit_a_diff(repository, answer):
    commit(trainer=OLD + NEW, pkg__fine=FINE + NEW)
    diff = git("diff", "HEAD~", "HEAD")

    assert answer("pkg", "--diff", "-", given=diff)[1] == ["pkg/fine.py:6"]
    assert answer("HEAD~", "trainer.py")[1] == ["trainer.py:8"]


REFUSED = {
    "nothing": ([], "", "The diff names no file."),
    "no diff": ([], "hello\n", "The diff names no file."),
    "elsewhere": ([], "--- a/x.py\n+++ b/x.py\n@@ -1 +1 @@\n-a\n+b\n", "changes x.py, which is"),
    "merge": ([], "diff --cc x.py\n@@@ -1,1 -1,1 +1,1 @@@\n", "combined"),
    "no such path": (["gone"], "--- a/x.py\n+++ b/x.py\n", "gone: No such file"),
}


@pytest.mark.parametrize(("words", "diff", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_diff_of_files_here_exits_2(repository, answer, words, diff, message):
    code, _, text = answer(*words, "--diff", "-", given=diff)

    assert code == 2 and message in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere..HEAD"], "git knows no revision nowhere of nowhere..HEAD here."),
        (["HEAD..--output=x"], "git knows no revision --output=x"),
        (["../gone.py"], "../gone.py: No such file"),
        (["gone"], "gone: No such file"),
        (["trainer.py", "--all"], "--all belongs to revisions or --diff."),
    ],
)
def test_unknown_revision_exits_2(repository, answer, words, message):
    code, _, text = answer(*words)

    assert code == 2 and message in text


def test_revisions_outside_of_a_repository_exit_2(tmp_path, monkeypatch, answer):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    code, _, text = answer("main..HEAD")

    assert code == 2 and "is in no git repository" in text


def test_same_revisions_and_no_python_are_clean(repository, answer):
    Path("notes.md").write_text("x\n")
    commit()

    assert answer("HEAD..HEAD")[0] == 0
    code, _, text = answer("--diff", "-", given=git("diff", "HEAD~", "HEAD"))
    assert code == 0 and "The diff changes no Python file or notebook" in text


def test_file_has_precedence_over_a_revision_of_its_name(repository, answer):
    Path("main").mkdir()
    (Path("main") / "cut.py").write_text(NEW)

    assert answer("main")[1] == ["main/cut.py:4"]


def test_diff_of_renames_and_modes_is_parsed():
    found = files_in(
        "diff --git a/one.py b/two.py\nsimilarity index 100%\n"
        "rename from one.py\nrename to two.py\n"
        "diff --git a/mode.py b/mode.py\nold mode 100644\nnew mode 100755\n"
        'diff --git "a/\\303\\251.py" "b/\\303\\251.py"\nnew file mode 100644\n'
        "diff --git a/gone.py b/gone.py\ndeleted file mode 100644\n"
        "--- a/gone.py\n+++ /dev/null\n@@ -1 +0,0 @@\n-x\n"
        "diff --git a/b.py b/b.py\nBinary files a/b.py and b/b.py differ\n"
    )

    assert [(one.old, one.new, one.is_binary) for one in found] == [
        ("one.py", "two.py", False),
        ("mode.py", "mode.py", False),
        (None, "é.py", False),
        ("gone.py", None, False),
        ("b.py", "b.py", True),
    ]


def test_changed_lines_of_hunks_that_look_like_headers():
    head = "--- a/x.py\n+++ b/x.py\n"
    diff = f"{head}@@ -1,2 +1,2 @@\n--- a/no.py\n+++ b/no.py\n c\n@@ -9,0 +10 @@\n+d\n"

    assert review.changed(diff) == {"x.py": frozenset({1, 10})}


LINES = st.lists(
    st.sampled_from(["a", "b", "", "+c", "-d", "@@ -1 +1 @@", "\x0c", "é"]), max_size=12
)


@given(before=LINES, after=LINES, context=st.integers(0, 3), ends=st.booleans())
def test_either_side_of_a_diff_gives_the_other(before, after, context, ends):
    diff = "".join(
        f"{line}\n"
        for line in difflib.unified_diff(before, after, "a/x", "b/x", "", "", context, "")
    )
    if before == after:
        assert files_in(diff) == []
        return
    (one,) = files_in(diff.replace("\n", "\r\n") if ends else diff)

    assert [line.rstrip("\r") for line in one.before(after) or []] == before
    assert [line.rstrip("\r") for line in one.after(before) or []] == after
    if any(hunk.new for hunk in one.hunks):
        assert one.before(["no such line"] * 20) is None
