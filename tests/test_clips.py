"""Real video and audio processors: read, cut, judged, exported, and held to real tiny models.

The table of processors is `recorded`. Those that need torchvision run where it is installed.
"""

from __future__ import annotations

import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from architectures import VARIABLE
from recorded import KINDS, PHI4, RECORDERS, Recorder, built

import vlmdebug as vd
from vlmdebug.core.keys import CLIP_KEYS
from vlmdebug.errors import NotJudged
from vlmdebug.families import FAMILIES
from vlmdebug.families.clip_shapes import odd_mask

Chunk = dict[str, Any]
Sabotage = Callable[[Chunk, int, int], Chunk]

CLOSE = 1e-3
VIDEOS_HERE = VARIABLE in os.environ
CASES = [
    pytest.param(recorder, samples, id=f"{recorder.name} {'|'.join(samples)}")
    for recorder in RECORDERS.values()
    for samples in recorder.batches
    if recorder.torchvision == VIDEOS_HERE
]
EACH = pytest.mark.parametrize(("recorder", "samples"), CASES)
next_to_torchvision = pytest.mark.skipif(not VIDEOS_HERE, reason="runs in test_torchvision.py")


def read(recorder: Recorder, samples: Sequence[str], side: str = "right") -> vd.Batch:
    model, processor = built(recorder.name)
    return vd.read_batch(recorder.inputs(samples, side), processor=processor, config=model.config)


def planned(batch: vd.Batch) -> Callable[..., Any]:
    return lambda _, chunk_size: batch.chunks(chunk_size)


@EACH
@pytest.mark.parametrize("side", ["right", "left"])
def test_keys_and_counts_are_those_the_processor_was_given(recorder, samples, side):
    batch = read(recorder, samples, side)
    here = {key: unit for key, unit in recorder.axes.items() if key in batch.inputs}

    assert here
    assert {key: batch.layout[key].unit for key in here} == here
    assert not batch.ambiguities
    assert vd.check(batch).ok
    for letter, kind in KINDS.items():
        owned = [sample.count(letter) for sample in samples]
        if any(owned) and letter not in recorder.uncounted:
            assert [*batch.counts[kind]] == owned


@EACH
def test_right_chunks_leave_the_logits_as_they_are(recorder, samples):
    batch, model = read(recorder, samples), built(recorder.name)[0]
    for chunk_size in range(1, len(samples) + 1):
        proof = vd.prove(planned(batch), batch, model, chunk_size=chunk_size)

        assert vd.check(planned(batch), batch, chunk_size=chunk_size).ok
        assert proof.ok, proof


@EACH
def test_corrected_slicer_cuts_what_the_processor_returned(recorder, samples):
    batch = read(recorder, samples)
    if "window" in recorder.axes.values():
        with pytest.raises(NotJudged, match=r"input_features.* has \d rows and no num_audios"):
            vd.check(vd.slicers.corrected, batch)
        return
    for chunk_size in (1, 2):
        chunks = vd.slicers.corrected(batch.for_slicer(), chunk_size)
        for chunk, right in zip(chunks, batch.chunks(chunk_size), strict=True):
            assert chunk.keys() == right.keys()
            assert all(torch.equal(*map(torch.as_tensor, (chunk[k], right[k]))) for k in right)


@EACH
def test_exported_code_counts_clips_by_what_the_processor_returned(recorder, samples):
    batch = read(recorder, samples)
    code = vd.export(batch)
    for chunk_size in (1, 2):
        chunks = code.function(dict(batch.inputs), chunk_size)
        for chunk, right in zip(chunks, batch.chunks(chunk_size), strict=True):
            assert chunk.keys() == right.keys()
            assert all(torch.equal(*map(torch.as_tensor, (chunk[k], right[k]))) for k in right)
    if batch.layout.family in FAMILIES:
        assert code.verify(max_examples=10)


# --- loud and silent -------------------------------------------------------------------------


def of_a_neighbour(rows: Any, first: int, stop: int) -> Any:
    begin = stop if 2 * stop - first <= len(rows) else max(0, 2 * first - stop)
    return rows[begin : begin + stop - first]


CHANGES: dict[str, Callable[[Any, int, int], Any]] = {
    "of a neighbour": of_a_neighbour,
    "shifted by one": lambda t, a, b: t[min(a + 1, len(t)) : min(b + 1, len(t))],
    "one too many": lambda t, a, b: torch.cat([t[a:b], t[a : a + 1]]),
    "one too few": lambda t, a, b: t[a : max(a, b - 1)],
    "reversed": lambda t, a, b: t[a:b].flip(0),
    "of the whole batch": lambda t, a, b: t,
    "none": lambda t, a, b: t[:0],
}
EVERYWHERE = ("of the whole batch", "none")
"""Changes that also add keys to chunks without media."""


def sabotages(batch: vd.Batch) -> Iterator[tuple[str, Sabotage]]:
    """Each change of all keys of images, videos or sounds, and of each key alone."""
    for name, modality in batch.modalities.items():
        keys = modality.keys
        groups = {f"all of {name}": keys} if len(keys) > 1 else {}
        for label, group in {**groups, **{key: (key,) for key in keys}}.items():
            for how in CHANGES:
                yield f"{label} {how}", changed(batch, group, how)
            yield f"{label} left out", without(group)


def changed(batch: vd.Batch, keys: Sequence[str], how: str) -> Sabotage:
    def sabotage(chunk: Chunk, first: int, stop: int) -> Chunk:
        for key in keys:
            ends = batch.counts[batch.layout[key].unit].offsets
            if key in chunk or how in EVERYWHERE:
                chunk[key] = CHANGES[how](batch.inputs[key], ends[first], ends[stop])
        return chunk

    return sabotage


def without(keys: Sequence[str]) -> Sabotage:
    return lambda chunk, *_: {key: value for key, value in chunk.items() if key not in keys}


def wrong(batch: vd.Batch, sabotage: Sabotage) -> Callable[..., Iterator[Chunk]]:
    def slicer(inputs: Any, chunk_size: int) -> Iterator[Chunk]:
        for index, chunk in enumerate(batch.chunks(chunk_size)):
            first = index * chunk_size
            yield sabotage(dict(chunk), first, min(first + chunk_size, len(batch)))

    return slicer


def what_the_model_does(model: Any, batch: vd.Batch, chunk: Chunk, first: int, whole: Any) -> str:
    """`raises`, `same`, or `differs`: the chunk's logits, compared with those of right chunks."""
    try:
        with torch.no_grad():
            logits = model(**chunk).logits
    except Exception:
        return "raises"
    for row, own in enumerate(logits):
        real = batch.inputs["attention_mask"][first + row].bool()
        if (own[real] - whole[first + row][real]).abs().max() > CLOSE:
            return "differs"
    return "same"


@EACH
def test_model_raises_where_check_says_loud_and_runs_where_it_says_silent(recorder, samples):
    batch, model = read(recorder, samples), built(recorder.name)[0]
    with torch.no_grad():
        whole = torch.cat([model(**chunk).logits for chunk in batch.chunks(1)])
    judged = Counter()
    for name, sabotage in sabotages(batch):
        for chunk_size in (1, 2):
            slicer = wrong(batch, sabotage)
            report = vd.check(slicer, batch, chunk_size=chunk_size)
            for index, chunk in enumerate(slicer(None, chunk_size)):
                found = [one for one in report.mismatches if one.chunk == index]
                does = what_the_model_does(model, batch, chunk, index * chunk_size, whole)
                said = {one.silent for one in found}
                where = (name, chunk_size, index, does, [(one.code, one.silent) for one in found])
                judged["unknown" if None in said else "told"] += bool(found)

                assert found or does == "same", where
                assert None in said or not found or (False in said) == (does == "raises"), where

    assert judged["told"] > judged["unknown"], judged


# --- what single models do -------------------------------------------------------------------


@next_to_torchvision
def test_glm_raises_on_a_call_with_images_and_videos():
    """Its model looks for image tokens in place of those of videos (transformers 5.23)."""
    recorder = RECORDERS["glm4v"]
    batch, (model, _) = read(recorder, ("i", "v", "")), built("glm4v")
    proof = vd.prove(planned(batch), batch, model)
    rows = wrong(batch, changed(batch, ("pixel_values",), "of the whole batch"))
    report = vd.check(rows, batch, chunk_size=2)

    assert [*batch.counts["image"]] == [1, 0, 0]
    assert [*batch.counts["video"]] == [0, 1, 0]
    assert "do not match" in str(proof.error)
    assert vd.check(planned(batch), batch).ok
    assert {one.silent for one in report.mismatches} == {False}


@next_to_torchvision
@pytest.mark.parametrize("name", ["glm4v", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("samples", [("i", "v", ""), ("iv", "v"), ("v", "v")], ids="|".join)
def test_placeholder_of_a_video_that_is_lost_is_found_where_its_type_stays(name, samples):
    recorder, (model, processor) = RECORDERS[name], built(name)
    inputs = recorder.inputs(samples)
    kept = {**inputs, "input_ids": inputs["input_ids"].clone()}
    row, column = (inputs["mm_token_type_ids"] == 2).nonzero()[0].tolist()
    kept["input_ids"][row, column] = 60  # a token of text
    report = vd.check(vd.read_batch(kept, processor=processor, config=model.config))
    found = [one for one in report.mismatches if one.code == "VLM010"]

    with pytest.raises(ValueError, match="do not match"):
        model(**kept)
    assert {(one.samples, one.silent) for one in found} == {((row,), False)}
    assert vd.check(vd.read_batch(inputs, processor=processor, config=model.config)).ok


MASKS = ("feature_attention_mask", "input_features_mask", "video_compression_mask")
WITH_MASKS = [case for case in CASES if case.values[0].axes.keys() & {*MASKS, "input_features"}]


@pytest.mark.parametrize(("recorder", "samples"), WITH_MASKS)
def test_masks_and_sounds_of_other_values_are_not_ok_where_the_model_refuses_them(
    recorder, samples
):
    model, processor = built(recorder.name)
    inputs = dict(recorder.inputs(samples))
    changes = {}
    for key in {*MASKS} & inputs.keys():
        mask = inputs[key]
        changes |= {(key, "twice"): mask.long() * 2, (key, "half"): mask.float() / 2}
        changes |= {(key, "float"): mask.float(), (key, "negative"): -mask.long()}
    if "input_features" in inputs:
        sounds = inputs["input_features"]
        mel = 1 if sounds.shape[1] < sounds.shape[2] else 2
        changes["input_features", "mel"] = sounds.narrow(mel, 0, sounds.shape[mel] - 1)
    for (key, what), value in changes.items():
        wrong = {**inputs, key: value}
        for known in ({"processor": processor}, {"config": model.config}):
            try:
                ok = vd.check(wrong, **known).ok
            except vd.BadInput:
                ok = False
            assert not ok, (key, what)
    assert vd.check(inputs, processor=processor).ok


@next_to_torchvision
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"])
@pytest.mark.parametrize("types", [0, 1])
def test_types_that_mark_no_video_are_found(name, types):
    """The model raises for types of images, and lays videos out as text for types of text."""
    recorder, (model, processor) = RECORDERS[name], built(name)
    inputs = recorder.inputs(("vv", "", "v"))
    wrong = {**inputs, "mm_token_type_ids": inputs["mm_token_type_ids"].clamp(max=types)}
    known = {"processor": processor, "config": model.config}
    found = vd.check(wrong, **known).mismatches

    assert vd.check(inputs, **known).ok
    assert {(one.code, one.key, one.silent) for one in found} == {
        ("VLM010", "mm_token_type_ids", None)
    }
    assert [one.samples for one in found] == [(0,), (2,)]
    assert "video placeholder tokens in input_ids, but mm_token_type_ids marks 0" in str(found[0])
    with torch.no_grad():
        if types:
            with pytest.raises(TypeError, match="not an iterator"):
                model(**wrong)
        else:
            assert (model(**wrong).logits - model(**inputs).logits).abs().max() > 0.1


@next_to_torchvision
def test_types_of_images_in_place_of_videos_do_no_harm_where_both_are_media():
    recorder, (model, processor) = RECORDERS["gemma4"], built("gemma4")
    inputs = recorder.inputs(("vv", "", "v"))
    other = {**inputs, "mm_token_type_ids": inputs["mm_token_type_ids"].clamp(max=1)}

    assert torch.equal(model(**other).logits, model(**inputs).logits)
    assert vd.check(other, processor=processor, config=model.config).ok


@next_to_torchvision
@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("qwen2_5_omni", "video_second_per_grid"),
        ("qwen3_omni", "video_second_per_grid"),
    ],
)
@pytest.mark.parametrize("samples", [("vv", "", "v"), ("i", "", "i")], ids="|".join)
def test_seconds_of_videos_that_a_collator_dropped_are_found(name, key, samples):
    recorder, (model, processor) = RECORDERS[name], built(name)
    inputs = recorder.inputs(samples)
    less = {one: value for one, value in inputs.items() if one != key}
    found = vd.check(less, processor=processor, config=model.config).mismatches
    videos = "v" in "".join(samples)

    assert vd.check(inputs, processor=processor, config=model.config).ok
    assert [(one.code, one.key, one.silent) for one in found] == (
        [("VLM003", key, False)] if videos else []
    )
    with torch.no_grad(), pytest.raises(TypeError) if videos else nullcontext():
        model(**less)


@next_to_torchvision
@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "glm4v"])
def test_videos_in_another_order_than_their_texts_are_seen_in_the_frames(name):
    """As many tokens, but of two frames in one text and of one in the other."""
    recorder, (model, processor) = RECORDERS[name], built(name)
    inputs = recorder.inputs(("v", "", "v"))
    along = ("input_ids", "attention_mask", "mm_token_type_ids")
    turned = {k: v.roll(1, 0) if k in along else v for k, v in inputs.items()}
    report = vd.check(vd.read_batch(turned, processor=processor, config=model.config))

    with pytest.raises(RuntimeError, match="shape mismatch"):
        model(**turned)
    assert {one.code for one in report.mismatches} == {"VLM010"}
    assert "in runs that do not fit" in report.mismatches[0].message
    assert {one.silent for one in report.mismatches} == {None}  # of one call, that is not known


@next_to_torchvision
@pytest.mark.parametrize("name", ["qwen2_5_omni", "qwen3_omni"])
@pytest.mark.parametrize(
    ("samples", "raises"), [(("iv", "", "v"), True), (("v", "", "v"), False)], ids=str
)
def test_omni_model_without_the_videos_raises_next_to_images(name, samples, raises):
    recorder, (model, processor) = RECORDERS[name], built(name)
    inputs = {k: v for k, v in recorder.inputs(samples).items() if k not in CLIP_KEYS}
    report = vd.check(vd.read_batch(inputs, processor=processor, config=model.config))

    if raises:
        with pytest.raises(TypeError, match="NoneType"):
            model(**inputs)
    else:
        model(**inputs)
    assert {one.silent for one in report.mismatches} == {None if raises else True}


@next_to_torchvision
def test_smolvlm_drops_images_next_to_videos():
    """Its processor returns both in `pixel_values`, and keeps only the videos."""
    recorder = RECORDERS["smolvlm"]
    model, processor = built("smolvlm")
    inputs = recorder.inputs(("iv", "v"))

    with pytest.raises(ValueError, match="do not match"):
        model(**inputs)
    with pytest.raises(vd.VlmDebugError):
        vd.check(vd.read_batch(inputs, processor=processor)).raise_for_mismatch()


@next_to_torchvision
@pytest.mark.parametrize("samples", PHI4.batches, ids="|".join)
def test_phi4_is_cut_as_the_advice_for_its_audio_says(samples):
    """No family knows it. It projects sounds otherwise in a call that has images."""
    model, processor = built(PHI4.name)
    inputs = PHI4.inputs(samples)
    counts = {f"num_{kind}s": [s.count(one) for s in samples] for one, kind in KINDS.items()}
    given = {name: count for name, count in counts.items() if any(count)}
    unsure = vd.read_batch(inputs, processor=processor)
    batch = vd.read_batch(inputs, processor=processor, layout=PHI4.axes, **given)
    images = any("i" in sample for sample in samples)
    proof = vd.prove(vd.export(batch).function, batch, model)

    assert 'layout={"audio_embed_sizes": "audio"} with num_audios=[…]' in str(unsure.ambiguities)
    assert not unsure.strays
    assert not batch.ambiguities
    assert not vd.check(planned(batch), batch).mismatches
    assert proof.silent_samples == ((2,) if images else ())
    assert vd.prove(planned(batch), batch, model, chunk_size=len(samples)).ok


@pytest.mark.skipif(VIDEOS_HERE, reason="needs no torchvision")
@pytest.mark.skipif(
    importlib.util.find_spec("torchaudio") is not None, reason="with torchaudio it can be built"
)
def test_granite_speech_cannot_be_built_without_torchaudio():
    from transformers import GraniteSpeechFeatureExtractor

    with pytest.raises(ImportError, match="torchaudio"):
        GraniteSpeechFeatureExtractor()


# --- falsify ---------------------------------------------------------------------------------


FAMILIES_WITH_CLIPS = [(family.name, unit) for family in FAMILIES.values() for unit in family.clips]


@pytest.mark.skipif(VIDEOS_HERE, reason="needs no torchvision")
@pytest.mark.parametrize(("family", "unit"), FAMILIES_WITH_CLIPS)
def test_clips_cut_per_sample_are_falsified_and_right_ones_are_not(family, unit):
    key = {"video": "pixel_values_videos", "audio": "input_features"}[unit]

    def by_sample(inputs: Chunk, chunk_size: int) -> Iterator[Chunk]:
        for index, chunk in enumerate(vd.slicers.corrected(inputs, chunk_size)):
            rows = slice(index * chunk_size, (index + 1) * chunk_size)
            yield {**chunk, key: inputs[key][rows]} if key in chunk else chunk

    options = {"families": [family], "clips": [unit], "max_examples": 60}
    found = vd.falsify(by_sample, **options)

    assert found is not None
    assert unit in str(found)
    assert vd.falsify(vd.slicers.corrected, **options) is None


@pytest.mark.parametrize("rows", [[[1, 1, 0, 0]], [[0, 0, 1, 1], [1, 1, 1, 1]], [[0, 0]]])
def test_mask_of_a_sound_is_one_stretch_of_frames(rows):
    mask, holed = torch.tensor(rows, dtype=torch.bool), torch.tensor([[1, 0, 1], [1, 1, 1]])

    assert odd_mask(mask, "input_features_mask") is None
    assert odd_mask(holed, "video_compression_mask") is None  # it drops frames
    assert "one stretch of frames" in odd_mask(holed, "input_features_mask").message
