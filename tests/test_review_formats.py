"""`vlmdebug review` in other tools: its formats, options, configuration, baseline and notebooks."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import re
from email.message import Message

import pytest

import vlmdebug as vd
from vlmdebug import review, slicers
from vlmdebug.cli import main
from vlmdebug.core.mismatch import CODES

WRONG = inspect.getsource(slicers.by_sample)
UNJUDGED = """

def lost(inputs, a, b):
    return inputs["input_ids"][a:b], inputs["pixel_values"][f(a) : f(b)]
"""


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "my trainer.py"
    path.write_text(WRONG + UNJUDGED)
    return path


def printed(capsys, *arguments: str) -> tuple[int, str]:
    """The exit code and the output of `vlmdebug review`."""
    code = main(["review", *arguments])
    return code, capsys.readouterr().out


# --- formats -------------------------------------------------------------------------------


def test_sarif_has_what_its_schema_requires(trainer, capsys):
    code, text = printed(capsys, trainer.name, "--format", "sarif")
    log = json.loads(text)
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    (result,) = run["results"]
    (location,) = result["locations"]
    place = location["physicalLocation"]

    assert code == 1
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-2.1.0.json")
    assert driver["name"] == "vlmdebug" and driver["version"] == vd.__version__
    assert [rule["id"] for rule in driver["rules"]] == [*CODES]
    assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "VLM001"
    assert result["level"] == "error" and result["message"]["text"].startswith("pixel_values is")
    assert place["artifactLocation"] == {"uri": "my%20trainer.py"}
    assert place["region"]["startLine"] == 5
    assert (place["region"]["startColumn"], place["region"]["endColumn"]) == (21, 38)
    assert place["region"]["endLine"] == 5
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in result["partialFingerprints"].values())
    assert log == json.loads(review.paths(trainer.name).to_sarif())


def test_sarif_describes_each_rule():
    (run,) = json.loads(review.Review().to_sarif())["runs"]

    for rule in run["tool"]["driver"]["rules"]:
        assert rule["shortDescription"]["text"] == CODES[rule["id"]]
        assert len(rule["fullDescription"]["text"]) > 30
        assert "**" not in rule["fullDescription"]["text"]
        assert rule["help"]["markdown"].startswith(f"# {rule['id']}")
        assert ".md" not in rule["help"]["markdown"]
    assert run["results"] == []


def test_sarif_links_to_the_documentation_that_the_package_names(monkeypatch):
    named = Message()
    named["Project-URL"] = "Documentation, https://example.org/docs/"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda _: named)
    rules = json.loads(review.Review().to_sarif())["runs"][0]["tool"]["driver"]["rules"]

    assert rules[0]["helpUri"] == "https://example.org/docs/codes/VLM001.html"
    link = "[Shards](https://example.org/docs/packing.html#shards)"
    assert link in rules[5]["help"]["markdown"]


def test_sarif_notifies_of_what_was_not_judged(trainer):
    (run,) = json.loads(review.paths(trainer.name).to_sarif())["runs"]
    (invocation,) = run["invocations"]
    (note,) = invocation["toolExecutionNotifications"]

    assert invocation["executionSuccessful"] is True
    assert note["level"] == "warning" and "pixel_values" in note["message"]["text"]
    place = note["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "my%20trainer.py"
    assert place["region"]["startLine"] == (WRONG + UNJUDGED).count("\n")


def test_sarif_has_no_result_that_depends_on_a_condition():
    found = review.source(
        "def cut(self, inputs, a, b):\n"
        "    if self.padded:\n"
        "        for a in range(2):\n"
        '            yield {"input_ids": inputs["input_ids"][a : a + 1],\n'
        '                   "pixel_values": inputs["pixel_values"][a : a + 1]}\n'
    )
    (run,) = json.loads(found.to_sarif())["runs"]

    assert found.remarks and found.ok
    assert run["results"] == []
    notes = [one["message"]["text"] for one in run["invocations"][0]["toolExecutionNotifications"]]
    assert any("depends on" in note for note in notes)


def test_gitlab_report_has_its_required_fields(trainer, capsys):
    code, text = printed(capsys, trainer.name, "--format", "gitlab")
    (row,) = json.loads(text)

    assert code == 1
    assert row.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
    assert row["check_name"] == "VLM001" and row["severity"] == "major"
    assert row["location"] == {"path": "my trainer.py", "lines": {"begin": 5}}
    assert row["description"].startswith("value[start:stop]: pixel_values is cut per")


def test_github_notes_have_columns(trainer, capsys):
    _, text = printed(capsys, trainer.name, "--format", "github")

    assert text.startswith(
        "::error file=my trainer.py,line=5,endLine=5,col=21,endColumn=38,title=VLM001::"
    )


def test_equal_findings_have_fingerprints_of_their_own():
    twice = review.source(WRONG).findings * 2
    marks = [row["fingerprint"] for row in json.loads(review.Review(twice).to_gitlab())]

    assert len({*marks}) == 2


@pytest.mark.parametrize("form", ["sarif", "gitlab", "json"])
def test_review_without_findings_is_valid_json(trainer, capsys, form):
    trainer.write_text("x = 1\n")
    code, text = printed(capsys, trainer.name, "--format", form)

    assert code == 0 and json.loads(text) is not None


@pytest.mark.parametrize("width", [60, 88, 120])
@pytest.mark.parametrize("before", [0, 30, 100, 3000])
@pytest.mark.parametrize("after", [0, 200])
def test_carets_are_below_the_code_at_every_width(width, before, after):
    long = f'_ = "{"a" * before}"; ' if before else ""
    cut = "inputs['pixel_values'][start:stop]"
    found = review.source(
        f"def cut(inputs, start, stop):\n    {long}pixels = {cut}{' ' * after}# why\n"
        "    return {'input_ids': inputs['input_ids'][start:stop], 'pixel_values': pixels}\n"
    )
    head, source, carets, *rest = found.findings[0].to_text(width).splitlines()
    at = carets.index("^")

    assert head == f"<source>:2:{14 + len(long)}: VLM001 {cut}"
    assert source[at : at + len(cut)] == cut and carets.count("^") == len(cut)
    assert all(len(line) <= width for line in (source, carets, *rest))
    assert str(found.findings[0]) == found.findings[0].to_text(88)
