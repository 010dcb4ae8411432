"""Trainers next to releases: what a change is, the page, and the workflow that publishes both."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import vlmdebug as vd
from vlmdebug.families import FAMILIES
from vlmdebug.trainers.registry import TRAINERS, adapter_of

ROOT = Path(__file__).parent.parent
WORKFLOW = ROOT / ".github" / "workflows" / "parity.yml"


@pytest.fixture(scope="module")
def parity() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import parity

        yield parity
    finally:
        sys.path.remove(str(ROOT / "tools"))


def finding(code: str, batch: str = "images per sample [1, 1]", loudness: str = "loud") -> Any:
    return {"code": code, "batch": batch, "loudness": loudness, "message": "rows are lost."}


def found(*findings: Any) -> dict[str, Any]:
    return {"findings": [*findings]}


NONE = {"not_judged": "accelerate has no slice_tensors."}
WORDS = "VLM001 (loud) in `images per sample [1, 1]`: rows are lost."


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (found(), found(), []),
        (found(finding("VLM001")), found(finding("VLM001")), []),
        (NONE, NONE, []),
        (found(), found(finding("VLM001")), [f"new: {WORDS}"]),
        (found(finding("VLM001")), found(), [f"gone: {WORDS}"]),
        (found(), NONE, ["no longer judged: accelerate has no slice_tensors."]),
        (NONE, found(), ["judged again: no finding"]),
        (NONE, found(finding("VLM001")), [f"judged again: {WORDS}"]),
        (
            found(finding("VLM001", loudness="silent")),
            found(finding("VLM001")),
            [f"otherwise: {WORDS} Before: in `images per sample [1, 1]` (silent)."],
        ),
        (found(finding("VLM001")), found(finding("VLM001") | {"message": "line 2"}), []),
        (
            found(finding("VLM001"), finding("VLM001", "images per sample [0, 2]")),
            found(finding("VLM001", "images per sample [0, 2]"), finding("VLM001")),
            [
                f"otherwise: {WORDS.replace('1, 1', '0, 2')} Before: in "
                "`images per sample [1, 1]` (loud)."
            ],
        ),
    ],
)
def test_change_is_named_with_its_smallest_batch(
    parity: ModuleType, before: Any, after: Any, expected: list[str]
) -> None:
    assert parity.change(before, after) == expected


def test_page_says_what_changed_since_the_last_run_and_between_releases(parity: ModuleType) -> None:
    old = parity.Cell("trl", "1.0.0", "5.24.0", "grpo", "gemma4")
    new = old._replace(release="1.16.0")
    before = {old: found(finding("VLM001")), new: found(finding("VLM002"))}
    after = {**before, new: found()}

    text = parity.page(before, after)

    since, between = text.partition("## From release to release")[::2]
    assert "- trl 1.16.0: trl `grpo`, gemma4, transformers 5.24.0\n  - gone: VLM002" in since
    assert "- trl 1.0.0 → 1.16.0: `grpo`, gemma4, transformers 5.24.0\n  - gone: VLM001" in between
    assert "| trl | 1.0.0 | 5.24.0 | grpo | VLM001 |" in between
    assert "Nothing changed." not in text
    assert parity.page(after, after).count("Nothing changed.") == 1


def test_first_run_has_no_changes_but_new_results(parity: ModuleType) -> None:
    cell = parity.Cell("trl", "1.0.0", "5.24.0", "grpo", "gemma4")

    text = parity.page({}, {cell: NONE})

    assert "- 1 results are new." in text and "| trl | 1.0.0 | 5.24.0 | grpo | ? |" in text


def test_releases_are_in_the_order_of_their_numbers_and_not_of_their_names(
    parity: ModuleType,
) -> None:
    cell = parity.Cell("trl", "1.4.0", "5.24.0", "grpo", "gemma4")
    gone = "0.1.0"  # kept from a time when the adapter had it
    results = {
        cell._replace(release=gone): found(),
        cell: found(finding("VLM001")),
        cell._replace(release="1.16.0"): found(finding("VLM003")),
        cell._replace(release="1.9.0"): found(finding("VLM002")),
    }

    between = [releases for releases, _, _ in parity.from_release_to_release(results)]

    assert gone not in adapter_of("trl").releases
    assert between == [f"{gone} → 1.4.0", "1.4.0 → 1.9.0", "1.9.0 → 1.16.0"]


def test_results_are_kept_between_runs(parity: ModuleType, tmp_path: Path) -> None:
    cell = parity.Cell("trl", "1.0.0", "5.24.0", "grpo", "gemma4")
    results = {cell: found(finding("VLM001")), cell._replace(layout="llava"): NONE}
    parity.write(tmp_path / "results.json", results)

    assert parity.read(tmp_path / "results.json") == results
    assert parity.read(tmp_path / "none.json") == {}


def test_every_trainer_runs_in_its_newest_releases_if_none_is_named(parity: ModuleType) -> None:
    everything = {*parity.asked([])}

    assert {trainer for trainer, _, _ in everything} == {*TRAINERS}
    for trainer in TRAINERS:
        own = [release for name, release, _ in everything if name == trainer]
        assert {*own} == {*adapter_of(trainer).releases[-parity.NEWEST :]}
    assert {other for _, _, other in everything} == {*parity.INSIDE} and len(parity.INSIDE) > 2
    named = [*parity.asked(["trl==1.4.0", "accelerate", "transformers==5.12.1"])]
    assert named[-1] == ("trl", "1.4.0", "5.12.1") and len(named) == parity.NEWEST + 1
    with pytest.raises(SystemExit, match="no trainer is named 'tlr'; there are accelerate, "):
        next(parity.asked(["trl", "tlr==1.4.0"]))


def test_installed_code_is_judged_in_each_layout(
    parity: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "EXAMPLES", 20)
    right = parity.judged(vd.slicers.corrected, "gemma4")
    wrong = parity.judged(vd.slicers.by_sample, "gemma4")
    dispatch = vd.trainer_slicer("accelerate", "dispatch")

    assert right == {"findings": []}
    assert {one["code"] for one in wrong["findings"]} >= {"VLM001"}
    assert all("images per sample" in one["batch"] for one in wrong["findings"])
    assert parity.judged(dispatch, "qwen2_5_vl")["findings"]
    assert {*FAMILIES} >= {"gemma4", "qwen2_5_vl"}


def schema_accepts(file: Path) -> bool:
    command = (sys.executable, "-P", "-m", "check_jsonschema")
    schema = ("--builtin-schema", "vendor.github-workflows")
    return (
        subprocess.run([*command, *schema, file], check=False, capture_output=True).returncode == 0
    )


def test_workflow_is_one_that_github_takes_and_runs_each_night(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text(WORKFLOW.read_text().replace("runs-on:", "run-on:"))
    read = yaml.safe_load(WORKFLOW.read_text())

    assert schema_accepts(WORKFLOW) and not schema_accepts(bad)
    (cron,) = read[True]["schedule"]  # YAML reads `on` as a truth value
    assert cron["cron"].split()[2:] == ["*", "*", "*"]


def test_workflow_keeps_the_results_of_each_night_and_publishes_the_page(tmp_path: Path) -> None:
    """Its own shell lines, with a run that adds a line to the results, on two nights."""
    (job,) = yaml.safe_load(WORKFLOW.read_text())["jobs"].values()
    lines = [step["run"] for step in job["steps"] if "run" in step]
    (make,) = (line for line in lines if line.strip() == "make parity")
    fake = "cd build/parity; echo night >> results.json; cp results.json README.md; cd ../.."
    script = "\n".join(fake if line is make else line for line in lines)
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c")
    remote = tmp_path / "remote.git"
    shell = {**os.environ, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    subprocess.run(["git", "init", "-q", "--bare", remote], check=True)
    for night in range(2):
        here = tmp_path / f"night{night}"
        subprocess.run(["git", "clone", "-q", remote, here], check=True, capture_output=True)
        if not night:
            for words in (
                ("commit", "-q", "--allow-empty", "-m", "start"),
                ("push", "-q", "origin", "HEAD"),
            ):
                subprocess.run([*git, *words], cwd=here, check=True)
        done = subprocess.run(
            ["bash", "-e", "-c", script],
            cwd=here,
            env=shell,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    shown = subprocess.run(
        ["git", "show", "parity:README.md"], cwd=remote, capture_output=True, text=True, check=True
    )
    files = subprocess.run(
        ["git", "ls-tree", "--name-only", "parity"],
        cwd=remote,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "night\nnight\n"
    assert files.stdout.split() == ["README.md", "results.json"]
    assert (tmp_path / "summary.md").read_text() == "night\nnight\nnight\n"
