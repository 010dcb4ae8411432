"""Where rules hold, and that nothing is predicted where they were not seen to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import vlmdebug as vd
from vlmdebug.families import FAMILIES, release
from vlmdebug.families.facts import ProcessorMetadata
from vlmdebug.families.rules import SEEN

torch = pytest.importorskip("torch")

MODELS = [(family.name, model) for family in FAMILIES.values() for model in family.models]


def by_sample(inputs, chunk_size):
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        yield {
            key: value[start : start + chunk_size]
            for key, value in inputs.items()
            if hasattr(value, "shape")
        }


def without_media(inputs, chunk_size):
    for chunk in by_sample(inputs, chunk_size):
        yield {key: value for key, value in chunk.items() if "mask" in key or "ids" in key}


def said(batch, slicer=by_sample):
    """What is said of each finding about a key: silent, loud or unknown."""
    return {m.silent for m in vd.check(slicer, batch).mismatches if m.key is not None}


@pytest.mark.parametrize("seen", SEEN)
def test_outcomes_follow_in_a_release_in_which_the_rules_were_seen(seen, monkeypatch):
    monkeypatch.setattr(release, "installed", lambda: seen)

    assert None not in said(vd.make_batch("gemma4", [2, 0, 1]))


def test_outcomes_follow_where_no_transformers_is_installed(monkeypatch):
    monkeypatch.setattr(release, "installed", lambda: None)

    assert None not in said(vd.make_batch("gemma4", [2, 0, 1]))


@pytest.mark.parametrize("slicer", [by_sample, without_media])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_outcome_follows_in_another_release(family, slicer, monkeypatch):
    monkeypatch.setattr(release, "installed", lambda: "99.0")

    assert said(vd.make_batch(family, [2, 0, 1]), slicer) <= {None}


def test_whole_batch_is_not_judged_by_rules_of_another_release(monkeypatch):
    batch = vd.make_batch("gemma4", [2, 0, 1])
    ids = batch.inputs["input_ids"].clone()
    ids[0, int((ids[0] == batch.image.token_id).nonzero()[0])] = 9  # one placeholder less
    vision = SimpleNamespace(pooling_kernel_size=2)
    config = SimpleNamespace(
        model_type="gemma4", image_token_id=batch.image.token_id, vision_config=vision
    )

    def found():
        inputs = {**batch.inputs, "input_ids": ids}
        report = vd.check(vd.read_batch(inputs, config=config, num_images=[2, 0, 1]))
        return {m.silent for m in report.mismatches if "placeholder" in m.message}

    assert found() == {False}

    monkeypatch.setattr(release, "installed", lambda: "99.0")

    assert found() == {None}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "mllama"])
def test_batch_that_lost_its_images_is_not_judged_by_rules_of_another_release(family, monkeypatch):
    made = vd.make_batch(family, [2, 0, 1])
    token = made.image.token_id
    inputs = {key: value for key, value in made.inputs.items() if key not in made.layout.media}
    config = SimpleNamespace(model_type=FAMILIES[family].models[0], image_token_id=token)

    def found():
        report = vd.check(vd.read_batch(inputs, config=config))
        return {m.silent for m in report.mismatches if m.key == "input_ids"}

    assert found() == {True}

    monkeypatch.setattr(release, "installed", lambda: "99.0")

    assert found() == {None}


def test_no_outcome_follows_for_a_layout_of_ones_own():
    batch = vd.read_batch(
        {"input_ids": torch.arange(12).reshape(3, 4), "pixel_values": torch.rand(3, 3, 2, 2)},
        layout={"pixel_values": "image"},
        num_images=[2, 0, 1],
    )

    assert said(batch) == {None}


def test_no_outcome_follows_where_an_axis_of_the_family_is_said_otherwise():
    made = vd.make_batch("mistral3", [1, 1, 1])
    batch = vd.read_batch(dict(made.inputs), layout={"pixel_values": "sample"})

    assert not batch.layout.rules.predict
    assert vd.read_batch(dict(made.inputs), num_images=[1, 1, 1]).layout.rules.predict


@pytest.mark.parametrize(("family", "model"), MODELS)
def test_rules_of_a_model_name_the_releases_in_which_they_were_seen(family, model):
    assert FAMILIES[family].rules_for(ProcessorMetadata(model_type=model)).seen
