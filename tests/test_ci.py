"""What people put into their CI: the hook of pre-commit, the GitHub action, profiles of tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import yaml

import vlmdebug as vd
from vlmdebug.running.settings import PROFILES
from vlmdebug.testing import assert_slices

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "in_your_ci.md").read_text(encoding="utf-8")
WRONG = """
def cut(inputs, chunk_size):
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        rows = slice(start, start + chunk_size)
        yield {key: inputs[key][rows] for key in ("input_ids", "pixel_values")}
"""
RIGHT = "def add(one, two):\n    return one + two\n"


def workflow() -> str:
    """The GitHub action of the page."""
    return re.findall(r"```yaml\n(name: .*?)```", PAGE, re.DOTALL)[0]


def run(*command: str, cwd: Path, given: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **env},
        input=given,
        capture_output=True,
        text=True,
        check=False,
    )


# --- pre-commit ----------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "status"), [(WRONG, 1), (RIGHT, 0)], ids=["wrong", "right"])
def test_hook_is_run_by_pre_commit(tmp_path, source, status):
    """The hook's own entry, from this checkout; only its environment is not built anew."""
    hooks, project, programs = (tmp_path / name for name in ("hooks", "project", "programs"))
    for folder in (hooks, project):
        folder.mkdir()
        run("git", "init", "-q", cwd=folder)
    programs.mkdir()
    (programs / "vlmdebug").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m vlmdebug "$@"\n')
    (programs / "vlmdebug").chmod(0o755)
    manifest = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    (hooks / ".pre-commit-hooks.yaml").write_text(manifest)
    name = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    run("git", "add", ".", cwd=hooks)
    run("git", *name, "commit", "-q", "-m", "hooks", cwd=hooks)
    rev = run("git", "rev-parse", "HEAD", cwd=hooks).stdout.strip()
    hook = {"id": "vlmdebug-review", "language": "system"}
    config = {"repos": [{"repo": str(hooks), "rev": rev, "hooks": [hook]}]}
    (project / ".pre-commit-config.yaml").write_text(yaml.safe_dump(config))
    (project / "trainer.py").write_text(source)
    run("git", "add", ".", cwd=project)
    done = run(
        *(sys.executable, "-m", "pre_commit", "run", "--all-files"),
        cwd=project,
        PRE_COMMIT_HOME=str(tmp_path / "cache"),
        PATH=f"{programs}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    )

    assert done.returncode == status, done.stdout + done.stderr
    assert "vlmdebug review" in done.stdout
    assert ("trainer.py:5" in done.stdout) == bool(status)


# --- the action ----------------------------------------------------------------------------


def test_action_is_valid_and_a_wrong_one_is_seen(tmp_path):
    good, bad = tmp_path / "good.yml", tmp_path / "bad.yml"
    good.write_text(workflow())
    bad.write_text(workflow().replace("runs-on:", "run-on:"))
    command = (sys.executable, "-m", "check_jsonschema")
    schema = ("--builtin-schema", "vendor.github-workflows")

    assert run(*command, *schema, str(good), cwd=tmp_path).returncode == 0
    assert run(*command, *schema, str(bad), cwd=tmp_path).returncode == 1


@pytest.mark.parametrize(("source", "status"), [(WRONG, 1), (RIGHT, 0)], ids=["wrong", "right"])
def test_action_reviews_a_diff_with_options_that_exist(tmp_path, source, status):
    action = workflow()
    steps = yaml.safe_load(action)["jobs"]["slicing"]["steps"]
    command = next(one["run"] for one in steps if "vlmdebug review" in one.get("run", ""))
    words = command.partition("| ")[2].split()
    (tmp_path / "trainer.py").write_text(source)
    lines = [f"+{line}" for line in source.splitlines()]
    head = ["--- /dev/null", "+++ b/trainer.py", f"@@ -0,0 +1,{len(lines)} @@"]
    diff = "\n".join([*head, *lines, ""])
    done = run(sys.executable, "-m", *words, cwd=tmp_path, given=diff, PYTHONPATH=str(ROOT))

    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout.startswith("::") == bool(status)
    assert set(re.findall(r"'(nightly|fast)'", action)) <= PROFILES.keys()
    assert "secrets" not in action
    assert yaml.safe_load(action)["permissions"] == {"contents": "read"}


def test_text_of_a_pull_request_never_becomes_a_command():
    """Expressions in `run:` are pasted into the script before the shell reads it."""
    steps = yaml.safe_load(workflow())["jobs"]["slicing"]["steps"]

    assert not any("${{" in step.get("run", "") for step in steps)


# --- profiles ------------------------------------------------------------------------------


def test_fast_profile_tries_every_layout_in_two_seconds():
    before = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_slices(vd.slicers.corrected, profile="fast")

    assert time.process_time() - before < 2


def test_fast_profile_finds_what_the_others_find():
    with pytest.raises(vd.MismatchError, match="images per sample"):
        assert_slices(vd.slicers.by_sample, profile="fast", families=["llava"])


def count_tried(monkeypatch, **options):
    tried = []

    def slicer(inputs, chunk_size):
        tried.append(chunk_size)
        yield from vd.slicers.corrected(inputs, chunk_size)

    assert_slices(slicer, families=["llava"], clips=False, **options)
    return len(tried)


def test_profile_is_chosen_by_argument_then_by_environment(monkeypatch):
    monkeypatch.delenv("VLMDEBUG_PROFILE", raising=False)
    default = count_tried(monkeypatch)
    monkeypatch.setenv("VLMDEBUG_PROFILE", "fast")
    fast = count_tried(monkeypatch)

    assert fast < 60 < default
    assert count_tried(monkeypatch, profile="default") == default
    assert count_tried(monkeypatch, max_examples=5) < fast


def test_layouts_that_the_time_was_too_short_for_are_warned_of():
    with pytest.warns(UserWarning, match="ended before .*llava.* could be tried"):
        assert_slices(vd.slicers.corrected, seconds=0.0001)


@pytest.mark.parametrize("profile", ["quick", 3])
def test_profile_that_does_not_exist_is_refused(profile):
    with pytest.raises(vd.BadInput, match='it takes "fast", "default", "nightly" or None'):
        assert_slices(vd.slicers.corrected, profile=profile)


@pytest.mark.slow
def test_profile_is_an_option_of_pytest_and_failures_show_no_line_of_ours(pytester):
    pytester.makepyfile(
        """
        import os
        import vlmdebug as vd
        from vlmdebug.slicers import by_sample
        from vlmdebug.testing import assert_slices

        def test_profile():
            assert os.environ["VLMDEBUG_PROFILE"] == "fast"

        def test_by_function():
            assert_slices(by_sample, families=["llava"])

        def test_by_fixture(assert_slices):
            assert_slices(by_sample, families=["llava"])

        def test_by_report():
            batch = vd.make_batch("llava", [2, 1])
            vd.check(by_sample, batch).raise_for_mismatch()
        """
    )
    done = pytester.runpytest_subprocess("-q", "--vlmdebug-profile", "fast")
    shown = done.stdout.str()

    done.assert_outcomes(passed=1, failed=3)
    assert "VLM001 wrong rows" in shown
    assert "def test_by_sample_cuts_llava_images_2" in shown
    assert not re.search(r"vlmdebug/(testing|core|running)\S*\.py:\d+", shown)
    assert "raise MismatchError" not in shown
