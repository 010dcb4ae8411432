"""A short run of the differential fuzzer; `make fuzz` is the long one."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
import torch

pytest.importorskip("transformers")

from architectures import UNMARKED, architectures
from differential import clips, trial
from differential.faults import FAULTS
from differential.mutations import Mutation
from differential.sound import pool, sound

import vlmdebug as vd
from vlmdebug.families import FAMILIES
from vlmdebug.tiny.registry import ONE_IMAGE

PAIRS, BATCHES, LAYOUTS = 24, 8, 60  # of each tiny family, and of each layout


OPEN = ("wrong loudness", "false doubt")
"""What is not yet right in every case; `make fuzz` counts it all the same."""


def faults(outcomes):
    return [str(one) for one in outcomes if one.fault and one.fault not in OPEN]


NOT_COMPARED = {"kosmos-2.5": "not compared: image_embeds_position_mask"}
"""What the report names as not compared if only the config is known, which says no placeholder."""
FUZZED = [name for name in architectures() if name not in UNMARKED]


@pytest.fixture(params=[*FUZZED, *architectures(ONE_IMAGE)])
def family(request):
    return request.param


def read(source):
    return vd.read_batch(
        source.inputs,
        processor=source.processor,
        config=source.model.config,
        num_images=list(source.images),
    )


def test_oracle_and_package_cut_alike(family):
    """The one says what a sample owns by processing it alone, the other by its layout."""
    for source in pool(family):
        batch = read(source)
        for size in (1, 2, 3):
            for samples, chunk in zip(source.chunks(size), batch.chunks(size), strict=True):
                ours = source.chunk(samples)

                assert ours.keys() == chunk.keys()
                assert all(torch.equal(ours[key], chunk[key]) for key in ours)


BY_BOTH = {
    *(("llava_onevision", "config"), ("llava_onevision", "model")),
    ("pp_chart2table", "processor"),  # which does not say how many tokens a tile becomes
}
"""Whose features follow from processor and config together only, or from one of them."""


def test_sound_batch_is_ok_by_whatever_is_known_of_it(family):
    source = next(one for one in pool(family) if one.images in ((2, 0, 1), (1, 1, 1)))
    ways = {
        "processor": {"processor": source.processor},
        "config": {"config": source.model.config},
        "model": {"model": source.model},
        "both": {"processor": source.processor, "config": source.model.config},
    }

    for name, known in ways.items():
        report = vd.check(source.inputs, pictures=False, **known)

        assert report.ok or (family, name) in BY_BOTH, (name, report.ambiguities)


def test_slicers_are_judged_as_values_and_model_say(family):
    dice, sounds = Random(f"pairs of {family}"), list(pool(family))
    batches = {source: read(source) for source in sounds}
    outcomes = []
    for _ in range(PAIRS):
        pair = trial.drawn(sounds, dice)
        outcomes.append(trial.tried(pair, batches[pair.sound]))

    assert faults(outcomes) == []


@pytest.mark.parametrize("layout", FAMILIES)
def test_clips_labels_and_positions_are_judged_as_values_say(layout):
    dice, sounds = Random(f"layout {layout}"), list(clips.pool(layout))
    batch_of = {id(sound): sound.batch for sound in sounds}
    pairs = [trial.drawn(sounds, dice) for _ in range(LAYOUTS)]
    outcomes = [trial.tried(pair, batch_of[id(pair.sound)]) for pair in pairs]

    assert faults(outcomes) == []


@pytest.mark.parametrize("layout", FAMILIES)
def test_oracle_and_package_cut_clips_alike(layout):
    for source in clips.pool(layout):
        for size in (1, 2, 3):
            for samples, chunk in zip(source.chunks(size), source.batch.chunks(size), strict=True):
                ours = source.chunk(samples)

                assert ours.keys() == chunk.keys()
                assert all(torch.equal(ours[key], chunk[key]) for key in ours)


def test_batches_are_judged_as_the_model_says(family):
    dice, sounds = Random(f"batches of {family}"), list(pool(family))
    found = []
    while len(found) < BATCHES:
        outcome = trial.tried_alone(dice.choice(sounds), dice.choice(FAULTS), dice)
        if outcome is not None:
            found.append(outcome)
    admitted = [
        one for one in found if (one.fault, one.said) == ("missed", NOT_COMPARED.get(family))
    ]

    assert faults(one for one in found if one not in admitted) == []


# --- the fuzzer itself -----------------------------------------------------------------------


@pytest.fixture
def source():
    return sound("llava", (1, 2, 1), (160, 160), "right", 0)


def trials_of(mutation, source, at=1, key="pixel_values"):
    pair = trial.Pair(source, 1, mutation, key, at, tuple(range(len(source.images))))
    return trial.tried(pair, read(source))


def test_fuzzer_sees_what_a_check_that_finds_nothing_misses(source, monkeypatch):
    nothing = vd.check(lambda inputs, size: read(source).chunks(size), read(source))
    monkeypatch.setattr(vd, "check", lambda *args, **kwargs: nothing)
    wrong = Mutation("first rows", lambda value, place: place.value[: len(value)])

    assert trials_of(wrong, source).fault == "missed"


def test_fuzzer_sees_a_false_alarm(source, monkeypatch):
    alarm = vd.check(vd.slicers.by_sample, read(source))
    monkeypatch.setattr(vd, "check", lambda *args, **kwargs: alarm)

    assert trials_of(Mutation("clone", lambda value, place: value.clone()), source).fault == (
        "false alarm"
    )


def test_fuzzer_sees_a_foreign_exception(source, monkeypatch):
    def fails(*args, **kwargs):
        raise KeyError("patch")

    monkeypatch.setattr(vd, "check", fails)

    assert trials_of(Mutation("clone", lambda v, p: v.clone()), source).fault == "foreign exception"


def test_fuzzer_draws_every_fault_and_says_what_models_make_of_them():
    dice, truths = Random(0), Counter()
    applied: set[str] = set()
    for family in ("qwen2_5_vl", "idefics3", "mllama"):  # the last two have masks of pixels, ratios
        for fault in [one for one in FAULTS if one.name not in applied]:
            for source in pool(family):
                outcome = trial.tried_alone(source, fault, dice)
                if outcome is not None:
                    truths[fault.name, outcome.truth] += 1
        applied = {name for name, _ in truths}

    assert applied >= {fault.name for fault in FAULTS} - {"audio token sampled"}
    assert {truth for _, truth in truths} >= {"raises", "differs", "the same"}
