"""Findings are data: each kind has its words in one place, and nothing else words it."""

from __future__ import annotations

import ast
import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import vlmdebug as vd
from vlmdebug.checking import (
    batch_findings,
    collate_findings,
    findings,
    packed,
    shards,
    text,
    text_doubts,
    text_shards,
)
from vlmdebug.checking.findings import Because, Difference
from vlmdebug.checking.report import Report
from vlmdebug.core.mismatch import CODES
from vlmdebug.core.observed import MadeBy, Seams
from vlmdebug.core.record import KeyState, Verdict
from vlmdebug.core.shards import DOUBTS, Split
from vlmdebug.outcomes.reasons import Outcome, Raises, Runs, Unknown, outcome

torch = pytest.importorskip("torch")

PACKAGE = Path(vd.__file__).parent
TEXT = (
    *("text", "text_batch", "text_chunks", "text_collate", "text_doubts", "text_packed"),
    "text_shards",
)
WORDS = (*TEXT, "compared", "report", "causes")
"""Modules that word what the others find."""
WORDLESS = [
    *sorted(path for path in (PACKAGE / "checking").glob("*.py") if path.stem not in WORDS),
    *sorted((PACKAGE / "outcomes").glob("*.py")),
    *(PACKAGE / "core" / name for name in ("presence.py", "rules.py", "observed.py")),
]
MOST_WORDS = 3
"""Of what a finding-side module may spell out: names of codes, keys and sides, no sentence."""


def kinds() -> list[type[Difference]]:
    modules = (findings, batch_findings, collate_findings, packed, shards)
    found = [one for module in modules for one in vars(module).values()]
    classes = {one for one in found if isinstance(one, type) and issubclass(one, Difference)}
    return [one for one in classes if hasattr(one, "code")]


@pytest.fixture
def batch():
    return vd.make_batch("gemma4", images_per_sample=[2, 0, 1])


# --- every kind has words --------------------------------------------------------------------


def test_every_kind_of_difference_has_a_code_and_words():
    assert len(kinds()) > 25
    assert set(kinds()) == text.WORDS.keys()
    assert {kind.code for kind in kinds()} <= CODES.keys()


@pytest.mark.parametrize(
    ("members", "words"),
    [
        pytest.param([*Raises, *Runs, *Unknown], text.REASONS, id="reasons"),
        pytest.param([*Because], text.CAUSES, id="causes"),
        pytest.param([*MadeBy], text_doubts.MADE, id="keys that were made"),
        pytest.param([*Seams], {**text_doubts.SEAMS, **packed.KINDS}, id="seams"),
        pytest.param([*Split], {**shards.KINDS, **text_shards.DOUBTS}, id="splits"),
        pytest.param(DOUBTS, text_shards.DOUBTS, id="doubts of splits"),
    ],
)
def test_every_member_has_words(members, words):
    assert set(members) == words.keys()


def test_causes_with_other_data_have_other_words():
    words = [template.format("x") for template in text.CAUSES.values()]
    open_ended = {Because.CHANGED, Because.RUNS}  # nothing but their data

    assert len(set(words)) == len(words) - len(open_ended) + 1


# --- and nothing else words it ---------------------------------------------------------------


def sentences(source: str) -> list[str]:
    """String literals of many words that are no docstring."""
    tree = ast.parse(source)
    docs = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    literals = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    strings = (n.value for n in literals if isinstance(n.value, str) and id(n) not in docs)
    return [one for one in strings if len(one.split()) > MOST_WORDS]


@pytest.mark.parametrize("path", WORDLESS, ids=lambda path: path.stem)
def test_module_that_finds_has_no_sentence(path):
    assert sentences(path.read_text(encoding="utf-8")) == []


def test_a_sentence_would_be_seen():
    assert sentences('"""A docstring of more than four words."""\nx = "K was given to a sample"')
    assert sentences("x = f'{key} was given to sample {sample}'")


@pytest.mark.parametrize("reason", [*Raises, *Runs, *Unknown])
def test_outcome_follows_from_its_reason(reason):
    expected = {Raises: False, Runs: True, Unknown: None}[type(reason)]

    assert Outcome(reason).silent is expected


@pytest.mark.parametrize("silent", [True, False, None])
def test_outcome_has_the_reason_that_fits(silent):
    assert outcome(silent, Runs.ADDS_UP).silent is silent


# --- data ------------------------------------------------------------------------------------


def differences(monkeypatch, slicer, batch) -> list[Difference]:
    """What was found, before it is worded."""
    found: list[Difference] = []

    def keep(one, of):
        found.append(one)
        return text.as_mismatch(one, of)

    monkeypatch.setattr("vlmdebug.checking.whole_batch.as_mismatch", keep)
    vd.check(slicer, batch)
    return found


def test_finding_names_rows_cause_and_outcome(monkeypatch, batch):
    found = differences(monkeypatch, vd.slicers.by_sample, batch)
    first = found[0]

    assert isinstance(first, findings.WrongRows)
    assert first.expected is not None and first.actual is not None
    assert first.cause == findings.Cause(Because.CUT_PER, "sample")
    assert first.outcome.reason is Raises.COUNTS_DIFFER
    assert first.outcome.counts is not None


def is_plain(value: object) -> bool:
    """Whether it holds no tensor."""
    if is_dataclass(value):
        return all(is_plain(getattr(value, one.name)) for one in fields(value))
    if isinstance(value, (list, tuple, dict)):
        return all(map(is_plain, value.values() if isinstance(value, dict) else value))
    return not hasattr(value, "untyped_storage")


def test_finding_holds_no_tensor(monkeypatch, batch):
    found = differences(monkeypatch, vd.slicers.by_sample, batch)
    dropped = differences(
        monkeypatch, lambda inputs, size: [{"input_ids": inputs["input_ids"]}], batch
    )

    assert found and dropped
    assert all(map(is_plain, [*found, *dropped]))
    assert not is_plain((torch.zeros(1),))


def test_right_chunks_are_judged_without_words(monkeypatch, batch):
    def fail(*_):
        raise AssertionError("worded")

    monkeypatch.setattr(text, "message", fail)

    assert vd.check(lambda inputs, size: batch.chunks(size), batch).ok
    with pytest.raises(AssertionError, match="worded"):
        vd.check(vd.slicers.by_sample, batch)


# --- words that stay public ------------------------------------------------------------------


def test_states_and_verdicts_are_enums_with_the_words_of_the_file(batch):
    report = vd.check(vd.slicers.by_sample, batch)
    data = json.loads(report.to_json())
    back = Report.from_json(report.to_json())

    assert report.verdict is Verdict.MISMATCH and report.verdict == "MISMATCH"
    assert repr(report.verdict) == "'MISMATCH'" and f"{report.verdict:9}" == "MISMATCH "
    assert data["chunks"][0]["keys"]["pixel_values"]["state"] == "wrong rows"
    assert back.chunks[0].keys["pixel_values"].state is KeyState.WRONG_ROWS
    assert back == report and back.findings == report.findings


def test_state_of_a_newer_version_stays_a_word(batch):
    data = vd.check(vd.slicers.by_sample, batch).to_dict()
    data["chunks"][0]["keys"]["pixel_values"]["state"] = "half right"
    found = Report.from_dict(data).chunks[0].keys["pixel_values"]

    assert found.state == "half right" and not found.ok


def test_older_names_of_both_sides_still_work(batch):
    report = vd.check(vd.slicers.by_sample, batch)
    mismatch, key = report.mismatches[0], report.chunks[0].keys["pixel_values"]

    assert (mismatch.planned, mismatch.used) == (mismatch.expected, mismatch.actual)
    assert (key.planned, key.used) == (key.expected, key.actual)
    assert {"planned", "used"} <= mismatch.to_dict().keys()
