"""The falsifier: known-bad slicers fall, known-good survive, the smallest case is returned."""

from __future__ import annotations

import pytest

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.cases import make, smaller
from vlmdebug.families import FAMILIES
from vlmdebug.search import _kinds

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
    assert {len(e.case.spec.images_per_sample) for e in found if not e.case.spec.clips} <= {1, 2, 3}
    for clips in ("videos", "audio clips"):  # each apart, though the cause is one
        assert any(f"{clips} per sample" in repr(e) for e in found)


def test_no_case_comes_twice_and_what_is_written_tells_cases_apart():
    found = vd.falsify_all(slicers.merged_5452, families=["internvl", "gemma4"])

    assert len({repr(example) for example in found}) == len(found) > 2
    assert any("sizes [2]" in repr(example) for example in found)


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_can_be_left_out_of_a_counterexample(family):
    for found in vd.falsify_all(slicers.by_sample, families=[family]):
        kinds = _kinds(found.report)
        for case in smaller(found.case):
            report = vd.check(slicers.by_sample, make(case.spec), chunk_size=case.chunk_size)

            assert not kinds <= _kinds(report)


def test_silent_mistake_is_not_hidden_behind_one_of_the_same_cause():
    found = vd.falsify_all(slicers.by_sample, families=["llava_next"])
    kinds = {(m.code, m.loudness) for e in found for m in e.report.mismatches}

    assert ("VLM002", "silent") in kinds


def test_trainer_that_refuses_text_only_samples_is_tried_without_them():
    empty_keys = vd.falsify(slicers.merged_5452, families=["gemma4"])

    assert repr(empty_keys) == "gemma4: images per sample [0, 1], chunk size 1"
    assert vd.falsify(slicers.merged_5452, families=["gemma4"], text_only=False) is None
    for found in vd.falsify_all(slicers.by_sample, text_only=False, clips=False):
        assert 0 not in found.case.spec.images_per_sample
        assert not found.case.spec.clips


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


@pytest.mark.parametrize("side", ["left", "right"])
def test_places_are_those_that_the_real_model_computes(side):
    batch = vd.make_batch("qwen2_5_vl", [2, 0, 1], [1, 3, 2], padding_side=side, position_ids=True)
    model, _ = vd.tiny.build("qwen2_5_vl")
    keys = ("input_ids", "image_grid_thw", "attention_mask", "mm_token_type_ids")
    places, _ = model.model.get_rope_index(**{key: batch.inputs[key] for key in keys})

    assert batch.layout["position_ids"] == vd.Axis("sample", dim=1)
    assert batch.inputs["position_ids"].equal(places)


def test_labels_are_the_text_of_each_sample():
    batch = vd.make_batch("llava", [1, 0], padding_side="left", labels=True)
    ids, mask, labels = (batch.inputs[key] for key in ("input_ids", "attention_mask", "labels"))
    text = mask.bool() & (ids != batch.image_token_id)

    assert batch.layout["labels"] == vd.Axis("sample")
    assert mask.tolist() == [[1] * 8, [0] * 6 + [1] * 2]
    assert labels.eq(ids.where(text, -100)).all()


VIDEO_FAMILIES = [family.name for family in FAMILIES.values() if family.videos]


def with_videos_by(change):
    """Right but for the keys of videos."""

    def slicer(inputs, chunk_size):
        for index, chunk in enumerate(slicers.corrected(inputs, chunk_size)):
            videos = inputs.get("pixel_values_videos")
            start = index * chunk_size
            yield chunk if videos is None else change(chunk, videos, start, start + chunk_size)

    return slicer


def by_sample(chunk, videos, start, stop):
    return {**chunk, "pixel_values_videos": videos[start:stop]}


def last_row_lost(chunk, videos, start, stop):
    clips = chunk.get("pixel_values_videos")
    return chunk if clips is None else {**chunk, "pixel_values_videos": clips[:-1]}


def without_companions(chunk, videos, start, stop):
    beside = ("video_grid_thw", "num_frames_per_video", "video_position_ids")
    return {key: value for key, value in chunk.items() if key not in beside}


def raising(chunk, videos, start, stop):
    raise UnboundLocalError("first_video")


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
@pytest.mark.parametrize("change", [by_sample, last_row_lost, raising])
def test_slicer_that_is_wrong_for_videos_alone_falls(family, change):
    found = vd.falsify(with_videos_by(change), families=[family])

    assert "videos per sample" in repr(found)
    assert {m.key for m in found.report.mismatches} <= {None, "pixel_values_videos"}


def test_what_is_missing_is_called_by_its_name():
    found = vd.falsify(with_videos_by(by_sample), families=["llava_next"])

    assert found.report.findings[0].message.startswith("sample 0 has no video but was given")
    assert "Leave pixel_values_videos out of a chunk without videos." in str(found.report)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma4"])
def test_dropped_companion_of_videos_falls(family):
    found = vd.falsify(with_videos_by(without_companions), families=[family])

    assert {m.code for m in found.report.mismatches} == {"VLM003"}


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_slicer_that_takes_no_videos_is_not_blamed_for_them(family):
    def images_only(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            yield {key: value for key, value in chunk.items() if "video" not in key}

    assert vd.falsify(images_only, families=[family]) is None


AUDIO_FAMILIES = [family.name for family in FAMILIES.values() if family.audio]


def with_audio_by(change):
    """Right but for the keys of audio clips."""

    def slicer(inputs, chunk_size):
        for index, chunk in enumerate(slicers.corrected(inputs, chunk_size)):
            clips = inputs.get("input_features")
            start = index * chunk_size
            yield chunk if clips is None else change(chunk, clips, start, start + chunk_size)

    return slicer


def audio_by_sample(chunk, clips, start, stop):
    return {**chunk, "input_features": clips[start:stop]}


def last_clip_lost(chunk, clips, start, stop):
    heard = chunk.get("input_features")
    return chunk if heard is None else {**chunk, "input_features": heard[:-1]}


def others_mask(chunk, clips, start, stop):
    """As many rows of the mask, and each another clip's."""
    key = next(
        (key for key in chunk if key in ("input_features_mask", "feature_attention_mask")), ""
    )
    return {**chunk, key: chunk[key].roll(1, 0)} if key else chunk


@pytest.mark.parametrize("family", AUDIO_FAMILIES)
@pytest.mark.parametrize("change", [audio_by_sample, last_clip_lost, others_mask, raising])
def test_slicer_that_is_wrong_for_audio_alone_falls(family, change):
    found = vd.falsify(with_audio_by(change), families=[family])

    assert "audio clips per sample" in repr(found)
    assert {m.key for m in found.report.mismatches} <= {
        *(None, "input_features", "input_features_mask", "feature_attention_mask")
    }


@pytest.mark.parametrize("family", AUDIO_FAMILIES)
def test_mask_that_is_dropped_beside_its_clips_falls(family):
    def dropped(chunk, clips, start, stop):
        return {key: value for key, value in chunk.items() if not key.endswith("_mask")}

    def masked(inputs, chunk_size):
        for full, chunk in zip(
            slicers.corrected(inputs, chunk_size),
            with_audio_by(dropped)(inputs, chunk_size),
            strict=True,
        ):
            yield {**chunk, "attention_mask": full["attention_mask"]}

    found = vd.falsify(masked, families=[family])

    assert {m.code for m in found.report.mismatches} == {"VLM003"}


@pytest.mark.parametrize("family", AUDIO_FAMILIES)
def test_slicer_that_takes_no_audio_is_not_blamed_for_it(family):
    def images_only(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            yield {key: value for key, value in chunk.items() if "feature" not in key}

    assert vd.falsify(images_only, families=[family]) is None


@pytest.mark.parametrize("family", AUDIO_FAMILIES)
def test_code_exported_for_audio_survives_and_hands_it_on(family):
    batch = vd.make_batch(family, [1, 0], audios_per_sample=[1, 2])
    code = vd.export(batch)
    chunks = list(
        code.function(dict(batch.inputs) | {"num_images": [1, 0], "num_audios": [1, 2]}, 1)
    )

    assert [len(chunk["input_features"]) for chunk in chunks] == [1, 2]
    assert code.verify() > 50


def test_regression_test_makes_the_audio_again():
    found = vd.falsify(with_audio_by(audio_by_sample), families=["gemma4"])
    source = found.to_pytest("vlmdebug.slicers:by_sample")

    assert "audios_per_sample=[" in source
    with pytest.raises(vd.MismatchError):
        run(source)
    run(source.replace("by_sample", "corrected"))


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_code_exported_for_videos_survives_and_hands_them_on(family):
    batch = vd.make_batch(family, [1, 0], videos_per_sample=[1, 2], frames=[2, 1, 1])
    code = vd.export(batch)
    chunks = list(
        code.function(dict(batch.inputs) | {"num_images": [1, 0], "num_videos": [1, 2]}, 1)
    )

    assert all("pixel_values_videos" in chunk for chunk in chunks)
    assert code.verify() > 50


def test_regression_test_makes_the_videos_again():
    found = vd.falsify(with_videos_by(by_sample), families=["gemma4"])
    source = found.to_pytest("vlmdebug.slicers:by_sample")

    assert "videos_per_sample=[" in source and "frames=[" in source
    with pytest.raises(vd.MismatchError):
        run(source)
    run(source.replace("by_sample", "corrected"))


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("llava", {"videos_per_sample": [1, 0]}, "llava is not known to take videos"),
        ("llava", {"audios_per_sample": [1, 0]}, "llava is not known to take audio clips"),
        ("gemma4", {"audios_per_sample": [1]}, "audios_per_sample"),
        ("gemma4", {"frames": [1]}, "one whole number above 0 per video"),
        ("gemma4", {"videos_per_sample": [1]}, "videos_per_sample"),
        (
            "gemma4",
            {"videos_per_sample": [1, 1], "frames": [1]},
            "one whole number above 0 per video",
        ),
        ("gemma4", {"videos_per_sample": [1, -1]}, "videos_per_sample"),
        ("gemma4", {"padding_side": "top"}, "padding_side is 'top', but shorter samples are"),
        ("llava", {"position_ids": True}, "llava is not known to take any of three rows per"),
    ],
)
def test_what_does_not_fit_is_refused(family, options, message):
    with pytest.raises(vd.BadInput, match=message):
        vd.make_batch(family, [1, 0], **options)
