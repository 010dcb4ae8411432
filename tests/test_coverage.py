"""Every architecture of transformers is proven, probed, or left out for a reason."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import architectures
from recorded import RECORDERS
from retrieval import RETRIEVERS
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import vlmdebug as vd
from vlmdebug.core.keys import TOKEN_KEYS
from vlmdebug.families import FAMILIES, find_family
from vlmdebug.families.coverage import Outcomes, changes, read_coverage, seen_here
from vlmdebug.families.release import installed
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
    tiny = {name for name in registry.known() if not registry.broken(name)}

    assert set(COVERAGE.proven) == tiny & set(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


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


IMAGES, TILES = [2, 0, 1], [3, 0, 2]


def rows(count, *shape):
    """A tensor with rows that all differ."""
    return torch.arange(count * prod(shape), dtype=torch.float32).reshape(count, *shape)


def unproven_batch(name):
    """A batch with the keys of a model that is not proven, of three samples."""
    ids = torch.arange(15).reshape(3, 5) + 50
    text = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    images = {"pixel_values": rows(3, 3, 4, 4)}
    grid = {"pixel_values": rows(12, 6), "image_grid_thw": torch.tensor([[1, 2, 2]] * 3)}
    if name == "hunyuan_vl":
        return {**text, **grid}
    if name == "llama4":
        return {**text, "pixel_values": rows(5, 3, 4, 4)}
    if name in ("pix2struct", "pp_formulanet", "vision-encoder-decoder"):
        key = "flattened_patches" if name == "pix2struct" else "pixel_values"
        return {"decoder_input_ids": ids, key: rows(3, 4, 6)}
    by_sample = {
        "udop": ["bbox"],
        "pi0": ["state", "actions"],
        "evolla": ["protein_input_ids", "protein_attention_mask"],
    }
    others = {key: rows(3, 4) for key in by_sample.get(name, ())}
    if name == "mistral4":
        images = {}
    return {**text, **others} if name == "evolla" else {**text, **images, **others}


def by_shift(inputs, chunk_size):
    """Chunks with the media of the next sample, or with its tokens where there are none."""
    tokens = ("input_ids", "attention_mask")
    moved = [key for key in inputs if key not in tokens] or ["input_ids"]
    for sample in range(3):
        media = {key: inputs[key].roll(1, 0) for key in moved}
        yield {key: value[sample : sample + 1] for key, value in {**inputs, **media}.items()}


@pytest.mark.parametrize("name", COVERAGE.still)
def test_what_a_user_can_still_do_works(name):
    given = {"inputs": unproven_batch(name), "num_images": IMAGES, "num_tiles": TILES}
    batch = eval(COVERAGE.still[name], {"read_batch": vd.read_batch, **given})
    right = vd.check(lambda _, size: batch.chunks(size), batch)
    wrong = vd.check(by_shift, batch)

    assert not right.mismatches
    assert not any(batch.layout[key].unit == "ambiguous" for key in batch.layout)
    assert wrong.mismatches


def test_what_a_user_can_still_do_with_granite_speech_works():
    ids = torch.arange(15).reshape(3, 5) + 50
    sounds = {"input_features": rows(3, 6, 4), "input_features_mask": torch.ones(3, 6).long()}
    given = {"inputs": {"input_ids": ids, **sounds}, "num_audios": IMAGES}
    call = COVERAGE.others["granite_speech"].call
    batch = eval(call, {"read_batch": vd.read_batch, **given})

    assert not vd.check(lambda _, size: batch.chunks(size), batch).mismatches
    assert vd.check(by_shift, batch).mismatches


def test_models_of_audio_and_retrieval_are_those_that_the_tests_run():
    proven = {name for name, one in COVERAGE.others.items() if one.why is None}

    assert proven == {"qwen2_audio", "voxtral", "glmasr", "audioflamingo3", *RETRIEVERS}
    assert proven - {*RETRIEVERS} <= {*RECORDERS}
    assert all(one.why or one.axes for one in COVERAGE.others.values())


def real_batch(name):
    """What the real processor of a probed model returns for texts with two, no and one image."""
    recipe = RECIPES[name]
    mark, drawn = recipe.placeholder, vd.tiny.images(IMAGES)
    processor: Any = recipe.processor()
    texts = [f"{mark} and {mark} differ.", "No picture.", f"{mark} is here."]
    return dict(
        processor(text=texts, images=drawn, padding=True, return_tensors="pt", **recipe.call)
    )


@pytest.mark.parametrize(
    "name", [name for name in COVERAGE.probed if name in architectures(RECIPES)]
)
def test_what_a_user_can_still_do_works_with_what_the_processor_returns(name):
    inputs = real_batch(name)
    given = {"inputs": inputs, "num_images": IMAGES, "num_tiles": TILES}
    batch = eval(COVERAGE.still[name], {"read_batch": vd.read_batch, **given})

    assert not vd.check(lambda _, size: batch.chunks(size), batch).mismatches
    assert [len(chunk["input_ids"]) for chunk in batch.chunks(2)] == [2, 1]


def test_every_model_that_is_not_proven_has_a_call_that_works():
    assert COVERAGE.still.keys() == COVERAGE.probed.keys() | COVERAGE.not_covered.keys()


def test_readme_has_the_counts():
    assert str(COVERAGE) in README.replace("\n", " ")


def test_page_has_every_architecture_with_its_reason():
    rows = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `")]
    shown = {cells[0].strip(" `"): cells[-1].strip() for cells in rows}

    reasons = {name: reason for name, (_, reason) in COVERAGE.probed.items()}
    beside = {name: f"not proven: {one.why}" for name, one in COVERAGE.others.items() if one.why}
    beside |= {name: "proven" for name, one in COVERAGE.others.items() if not one.why}
    assert shown == {**COVERAGE.proven, **reasons, **COVERAGE.not_covered, **beside}


OLD = Outcomes("1.0", {"a": "probed", "b": "probed", "c": "not covered"}, {"a": ["x", "y"]})


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        pytest.param(OLD, [], id="nothing changed"),
        pytest.param(
            Outcomes("2.0", {**OLD.outcomes, "d": "probed"}, {**OLD.keys, "d": ["x"]}),
            ["d is new: probed."],
            id="an architecture is new",
        ),
        pytest.param(
            Outcomes("2.0", {"a": "probed", "c": "proven (llava)"}, OLD.keys),
            ["b is gone; it was probed.", "c was not covered and is proven (llava)."],
            id="one is gone, one has another outcome",
        ),
        pytest.param(
            Outcomes("2.0", OLD.outcomes, {"a": ["x", "z"]}),
            ["a also returns z and no longer returns y."],
            id="other keys",
        ),
    ],
)
def test_changes_since_a_release_are_named(new, expected):
    assert changes(OLD, new) == expected


def test_file_keeps_the_release_before_and_the_page_says_what_changed():
    assert COVERAGE.before.transformers != COVERAGE.transformers
    assert COVERAGE.keys.keys() == {*COVERAGE.proven, *COVERAGE.probed}
    assert all(f"- {line}" in PAGE for line in COVERAGE.changes())
    assert "hy_v4_vl is new: proven (qwen2_5_vl)." in COVERAGE.changes()


@pytest.mark.parametrize(
    ("release", "says", "says_not"),
    [
        (COVERAGE.transformers, "transformers 5.24.0 is installed", "was run with"),
        ("4.57.6", "predicted for 0 of them. What follows was run with 5.24.0", "not installed"),
        (None, "transformers is not installed", "predicted"),
    ],
    ids=["that of the file", "an older one", "none"],
)
def test_families_names_the_installed_release(release, says, says_not, monkeypatch):
    for module in ("coverage", "release"):
        monkeypatch.setattr(f"vlmdebug.families.{module}.version", lambda: release)
    monkeypatch.setattr("vlmdebug.families.release.installed", installed.__wrapped__)
    monkeypatch.setattr("vlmdebug.families.coverage.installed", installed.__wrapped__)
    said = seen_here(COVERAGE, FAMILIES.values())

    assert says in said
    assert says_not not in said
