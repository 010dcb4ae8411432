"""The falsifier: known-bad slicers fall, known-good survive, the smallest case is returned."""

from __future__ import annotations

import pytest

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.families import FAMILIES

SMALLEST = {
    slicers.by_sample: "gemma4: images per sample [2], chunk size 1",
    slicers.before_5452: "gemma4: images per sample [1], chunk size 1",
    slicers.first_5452_rloo: "gemma4: images per sample [1], chunk size 1",
    slicers.merged_5452: "gemma4: images per sample [0, 1], chunk size 1",
}


@pytest.mark.parametrize(
    ("slicer", "smallest"), SMALLEST.items(), ids=lambda s: getattr(s, "__name__", s)
)
def test_wrong_slicer_falls_by_the_smallest_batch(slicer, smallest):
    found = vd.falsify(slicer)

    assert repr(found) == smallest
    assert found.family == "gemma4"
    assert not found.report.ok
    assert not vd.check(slicer, found.batch, chunk_size=found.chunk_size).ok


def test_error_of_the_slicer_comes_with_the_counterexample():
    assert isinstance(vd.falsify(slicers.first_5452_rloo).error, UnboundLocalError)


@pytest.mark.parametrize("family", FAMILIES)
def test_right_slicer_survives_and_the_tries_are_counted(family):
    tried = {}

    assert vd.falsify(slicers.corrected, families=[family], tried=tried) is None
    assert tried[family] > 150


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_exported_code_survives_two_thousand_cases(family):
    assert vd.export(family).verify(max_examples=2700) >= 2000


def test_every_kind_of_mistake_has_its_own_counterexample():
    found = vd.falsify_all(slicers.by_sample, families=["gemma4"])
    kinds = {(f.code, m.silent) for e in found for f in e.report.findings for m in f.mismatches}

    assert ("VLM002", True) in kinds
    assert ("VLM001", False) in kinds
    assert ("VLM005", False) in kinds
    assert "gemma4: images per sample [2, 1], chunk size 1" in map(repr, found)


def test_off_by_one_on_the_last_chunk_falls():
    def floor(inputs, chunk_size):
        chunks = list(slicers.corrected(inputs, chunk_size))
        yield from chunks[: len(inputs["input_ids"]) // chunk_size]

    found = vd.falsify(floor)

    assert repr(found) == "gemma4: images per sample [0, 0, 0], chunk size 2"
    assert [m.code for m in found.report.mismatches] == ["VLM006"]


def test_the_same_seed_finds_the_same_case():
    first, second = (vd.falsify(slicers.merged_5452, families=["internvl"], seed=3) for _ in "ab")

    assert repr(first) == repr(second)


def test_regression_test_fails_for_the_wrong_and_passes_for_the_right_slicer():
    source = vd.falsify(slicers.by_sample).to_pytest("vlmdebug.slicers:by_sample")

    with pytest.raises(vd.MismatchError):
        run(source)
    run(source.replace("by_sample", "corrected"))


def run(source):
    namespace = {}
    exec(source, namespace)
    next(test for name, test in namespace.items() if name.startswith("test_"))()


def test_time_budget_ends_the_search():
    tried = {}

    assert vd.falsify(slicers.corrected, seconds=0, tried=tried) is None
    assert sum(tried.values()) == 0


def test_unknown_family_is_refused():
    with pytest.raises(vd.BadInput, match="not a layout family"):
        vd.falsify(slicers.corrected, families=["nope"])
