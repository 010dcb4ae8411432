"""What a person said of the findings in released trainers still fits what `review` finds."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

import pytest

from vlmdebug import review

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "what_review_finds.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import reviews

        return reviews
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def trl(tool):
    """The installed release of TRL, which the page has too."""
    pytest.importorskip("trl")
    spec = importlib.util.find_spec("trl")
    assert spec is not None and spec.origin is not None
    version = importlib.metadata.version("trl")
    assert version == tool.RELEASES["trl"][0]
    return tool.Release("trl", version, 0, review.paths([Path(spec.origin).parent]))


def test_each_finding_in_the_installed_trl_has_a_verdict(tool, trl):
    verdicts = [tool.verdict(trl, one) for one in trl.result.findings]

    assert len(verdicts) == 2
    assert all(one is not None and one["true"] for one in verdicts)


def test_finding_without_a_verdict_would_be_seen(tool, trl):
    file = str(tool.CACHE / "trl-1.16.0" / "trl" / "new.py")
    (other, *_) = review.source(
        "def cut(model, inputs):\n"
        "    model(inputs['input_ids'][:1], pixel_values=inputs['pixel_values'][:1])\n",
        file,
    ).findings

    assert tool.verdict(trl, other) is None
    assert "no verdict yet" in "\n".join(" ".join(row) for row in tool.merged([(trl, other, None)]))


def test_page_has_each_release_and_no_finding_without_a_verdict(tool):
    assert "no verdict yet" not in PAGE
    for project, versions in tool.RELEASES.items():
        assert all(f"| {project} {version} |" in PAGE for version in versions)


def test_every_place_and_verdict_is_about_a_release_that_is_read(tool):
    reviewed = tool.reviewed()

    assert all(one["release"] in tool.RELEASES[one["project"]] for one in reviewed["known"])
    assert all(
        {*one.get("releases", ())} <= {*tool.RELEASES[one["project"]]}
        for one in reviewed["findings"]
    )
    assert all(one["reason"].startswith(("Run: ", "Read: ")) for one in reviewed["findings"])


def test_summary_counts_what_the_page_says(tool):
    words = (" findings in", " of them true")
    total, true = (int(PAGE.split(word)[0].split()[-1]) for word in words)
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and "VLM0" in line]

    assert 0 < true <= total
    assert sum("| no |" in line for line in rows) <= total - true  # a row may be several releases
