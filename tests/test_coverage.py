"""Every architecture of transformers is proven, probed, or left out for a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import architectures
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import vlmdebug as vd
from vlmdebug.core.keys import TOKEN_KEYS
from vlmdebug.families import find_family
from vlmdebug.families.coverage import read_coverage
from vlmdebug.tiny import registry
from vlmdebug.tiny.unproven import RECIPES

COVERAGE = read_coverage()
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8")


def test_no_architecture_is_in_no_list():
    known = {*COVERAGE.proven, *COVERAGE.probed, *COVERAGE.not_covered}
    new = set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - known

    assert not new, "transformers has new architectures: make coverage"


def test_no_architecture_is_in_two_lists():
    lists = (COVERAGE.proven, COVERAGE.probed, COVERAGE.not_covered)

    assert sum(map(len, lists)) == len({name for one in lists for name in one})


def test_proven_are_those_that_the_tests_judge():
    assert set(COVERAGE.proven) == set(registry.known()) & set(
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    )


@pytest.mark.parametrize(("name", "layout"), COVERAGE.proven.items())
def test_proven_layout_is_the_tables(name, layout):
    family = find_family(name)

    assert family is not None
    assert family.name == layout


@pytest.mark.parametrize(
    "name", [name for name in COVERAGE.probed if name in architectures(RECIPES)]
)
def test_probed_layout_is_what_the_processor_gives(name):
    axes, _ = COVERAGE.probed[name]
    probed = vd.probe(RECIPES[name].processor(), placeholder=RECIPES[name].placeholder).axes

    assert {key: str(axis) for key, axis in probed.items() if key not in TOKEN_KEYS} == axes


def test_what_is_not_proven_says_why():
    assert all(reason for _, reason in COVERAGE.probed.values())
    assert all(COVERAGE.not_covered.values())


def test_readme_has_the_counts():
    assert str(COVERAGE) in README.replace("\n", " ")


def test_page_has_every_architecture_with_its_reason():
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `")]
    shown = {cells[0].strip(" `"): cells[-1].strip() for cells in rows}

    reasons = {name: reason for name, (_, reason) in COVERAGE.probed.items()}
    assert shown == {**COVERAGE.proven, **reasons, **COVERAGE.not_covered}
