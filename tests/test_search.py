"""The falsifier: known-bad slicers fall, known-good survive, the smallest case is returned."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import islice
from types import ModuleType

import pytest

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.families import FAMILIES, BatchSpec
from vlmdebug.families.release import takes
from vlmdebug.running.cases import Case
from vlmdebug.running.search import Search, kinds_of
from vlmdebug.running.settings import FalsifySettings
from vlmdebug.running.shrink import smaller
from vlmdebug.running.synthetic import make
from vlmdebug.testing import assert_slices

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
    assert tried == {family: 200}


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_exported_code_survives_two_thousand_cases(family):
    assert vd.export(family).verify(max_examples=2000) == 2000


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
    found = vd.falsify_all(slicers.merged_5452, families=["llava_next", "gemma4"])

    assert len({repr(example) for example in found}) == len(found) > 2
    assert any("sizes [2" in repr(example) for example in found)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_can_be_left_out_of_a_counterexample(family):
    for found in vd.falsify_all(slicers.by_sample, families=[family]):
        kinds = kinds_of(found.report.mismatches)
        for case in smaller(found.case):
            report = vd.check(slicers.by_sample, make(case.spec), chunk_size=case.chunk_size)

            assert not kinds <= kinds_of(report.mismatches)


def test_silent_mistake_is_not_hidden_behind_one_of_the_same_cause():
    found = vd.falsify_all(slicers.by_sample, families=["llava_next"])
    kinds = {(m.code, m.loudness) for e in found for m in e.report.mismatches}

    assert ("VLM002", "silent") in kinds


@pytest.mark.slow
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

    assert repr(found) == "gemma4: images per sample [0], chunk size 2"
    assert [m.code for m in found.report.mismatches] == ["VLM006"]


def test_wrong_for_one_late_family_is_found_before_any_is_tried_at_length():
    def in_mistral(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            if "image_sizes" in chunk and chunk["pixel_values"].ndim == 4:
                chunk["image_sizes"] = chunk["image_sizes"].flip(1)
            yield chunk

    tried = {}
    found = vd.falsify(in_mistral, tried=tried)

    assert repr(found) == "mistral3: images per sample [1], sizes [2], chunk size 1"
    assert max(count for family, count in tried.items() if family != "mistral3") <= 48


@pytest.mark.parametrize(
    ("counted", "least", "smallest"),
    [
        (len, 6, "images per sample [0, 0, 0, 0, 0, 0], chunk size 1"),
        (max, 4, "images per sample [4], chunk size 1"),
    ],
    ids=["samples", "images of a sample"],
)
def test_wrong_for_larger_batches_alone_falls(counted, least, smallest):
    def wrong_from_there(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            many = counted(inputs["num_images"]) >= least
            yield {key: value[:-1] if many else value for key, value in chunk.items()}

    assert repr(vd.falsify(wrong_from_there)).endswith(smallest)


def test_chunks_larger_than_the_batch_are_tried():
    def floor(inputs, chunk_size):
        return (
            [] if chunk_size > len(inputs["input_ids"]) else slicers.corrected(inputs, chunk_size)
        )

    assert repr(vd.falsify(floor)) == "gemma4: images per sample [0], chunk size 2"


@pytest.mark.parametrize("family", FAMILIES)
def test_no_case_is_tried_twice_and_the_first_are_the_smallest(family):
    search = Search(slicers.corrected, FalsifySettings(max_examples=100))
    drawn = list(islice(search.of(FAMILIES[family]), 100))

    assert len(set(drawn)) == 100
    assert [case.spec.images_per_sample for case in drawn[:5]] == [(0,), (1,), (2,), (0, 0), (0, 1)]


def test_the_same_seed_finds_the_same_case():
    first, second = (vd.falsify(slicers.merged_5452, families=["internvl"], seed=3) for _ in "ab")

    assert repr(first) == repr(second)


def test_regression_test_fails_for_the_wrong_and_passes_for_the_right_slicer():
    source = vd.falsify(slicers.by_sample).to_pytest("vlmdebug.slicers:by_sample")

    with pytest.raises(vd.MismatchError):
        run(source)
    run(source.replace("by_sample", "corrected"))


def test_regression_tests_of_one_slicer_have_different_names():
    found = vd.falsify_all(slicers.by_sample, families=["gemma4"])
    names = [one.to_pytest("m:f").partition("def ")[2].partition("(")[0] for one in found]

    assert "test_f_cuts_gemma4_images_0_0_audio_clips_1_0" in names
    assert len({*names}) == len(names) > 2


def run(source):
    namespace = {}
    exec(source, namespace)
    next(test for name, test in namespace.items() if name.startswith("test_"))()


# --- what was left out -----------------------------------------------------------------------


def without_clips(*words):
    def slicer(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            yield {k: v for k, v in chunk.items() if not any(word in k for word in words)}

    return slicer


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        ((), set()),
        (("feature",), {"input_features", "input_features_mask"}),
        (
            ("feature", "video"),
            {
                *("input_features", "input_features_mask"),
                *("pixel_values_videos", "video_position_ids", "num_frames_per_video"),
            },
        ),
    ],
    ids=["nothing", "audio", "audio and videos"],
)
def test_keys_that_were_passed_in_no_case_are_said_beside_the_number(words, left_out):
    tried = {}

    assert vd.falsify(without_clips(*words), families=["gemma4"], tried=tried) is None
    assert tried == {"gemma4": 200}
    assert set(tried["gemma4"].left_out) == left_out
    assert ("not checked" in repr(tried["gemma4"])) == bool(left_out)
    assert f"{tried['gemma4']}" == "200"


@pytest.mark.parametrize(
    ("clips", "units"),
    [
        (True, {"video", "audio"}),
        (["video"], {"video"}),
        (("audio",), {"audio"}),
        (False, set()),
        ([], set()),
    ],
    ids=["all", "a list", "a tuple", "none", "an empty list"],
)
def test_kinds_of_clips_are_chosen(clips, units):
    seen = set()

    def noted(inputs, chunk_size):
        seen.update(key for key in inputs if key in ("input_features", "pixel_values_videos"))
        yield from slicers.corrected(inputs, chunk_size)

    assert vd.falsify(noted, families=["gemma4"], clips=clips, max_examples=60) is None
    assert seen == {{"video": "pixel_values_videos", "audio": "input_features"}[u] for u in units}


@pytest.mark.parametrize("clips", ["video", ["videos"], [True]], ids=str)
def test_kinds_of_clips_that_there_are_not_are_refused(clips):
    with pytest.raises(vd.BadInput, match="clips is"):
        vd.falsify(slicers.corrected, clips=clips)


# --- seconds of frames, and releases -----------------------------------------------------------


def test_seconds_of_frames_cut_per_sample_fall():
    def wrong(inputs, chunk_size):
        for index, chunk in enumerate(slicers.corrected(inputs, chunk_size)):
            if "second_per_grid_ts" in chunk:
                start = index * chunk_size
                rows = inputs["second_per_grid_ts"][start : start + chunk_size]
                chunk["second_per_grid_ts"] = rows
            yield chunk

    found = vd.falsify(wrong, families=["qwen2_5_vl"])

    assert "with second_per_grid_ts" in repr(found)
    assert {m.key for m in found.report.mismatches} == {"second_per_grid_ts"}
    assert "second_per_grid_ts=True" in found.to_pytest()


def test_seconds_of_frames_are_not_missed_beside_position_ids():
    batch = vd.make_batch(
        *("qwen2_5_vl", [0, 0]),
        **{"videos_per_sample": [1, 1], "position_ids": True, "second_per_grid_ts": True},
    )

    assert vd.check(without_clips("second_per_grid_ts"), batch).ok
    bare = vd.make_batch("qwen2_5_vl", [0, 0], videos_per_sample=[1, 1], second_per_grid_ts=True)
    assert not vd.check(without_clips("second_per_grid_ts"), bare).ok


@pytest.mark.parametrize(("family", "videos"), [("qwen2_5_vl", None), ("gemma4", [1])])
def test_seconds_of_frames_need_videos_of_a_family_that_has_them(family, videos):
    with pytest.raises(vd.BadInput, match="second_per_grid_ts was asked for"):
        vd.make_batch(family, [1], videos_per_sample=videos, second_per_grid_ts=True)


@pytest.fixture
def release(monkeypatch):
    """A stand-in for the modeling files of the installed release."""

    def install(source):
        def modeling(model_type):
            return source

        monkeypatch.setattr("vlmdebug.families.release._modeling", modeling)
        takes.cache_clear()

    yield install
    takes.cache_clear()


NEW = "def forward(self, input_ids, mm_token_type_ids=None, moe_mm_token_type_ids=None): ..."
OLD = "def forward(self, input_ids, moe_mm_token_type_ids=None): ..."
COMPUTED = "def forward(self, input_ids):\n    mm_token_type_ids = input_ids == 3"


@pytest.mark.parametrize(
    ("source", "falls", "left_out"),
    [
        (NEW, True, ()),
        (OLD, False, ()),
        (COMPUTED, False, ()),
        (None, False, ("mm_token_type_ids",)),
    ],
    ids=["a release that takes them", "one that does not", "not in forward", "none is installed"],
)
@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma4"])
def test_token_types_are_demanded_where_the_installed_model_takes_them(
    release, family, source, falls, left_out
):
    release(source)
    tried = {}
    slicer = without_clips("mm_token_type_ids")

    assert bool(vd.falsify(slicer, families=[family], tried=tried)) == falls
    assert falls or tried[family].left_out == left_out


@pytest.mark.parametrize("source", [NEW, OLD, None], ids=["new", "old", "none"])
def test_token_types_cut_wrongly_fall_in_every_release(release, source):
    release(source)

    def wrong(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            chunk["mm_token_type_ids"] = inputs["mm_token_type_ids"][: len(chunk["input_ids"])]
            yield chunk

    assert vd.falsify(wrong, families=["gemma4"]) is not None


def test_installed_release_is_asked_without_importing_it():
    takes.cache_clear()

    assert takes("qwen2_5_vl", "mm_token_type_ids") is True
    assert takes("qwen2_5_vl", "mm_token_type") is False  # part of a name
    assert takes("llava", "mm_token_type_ids") is False
    assert takes("no_such_model", "mm_token_type_ids") is None
    assert takes("../llava", "mm_token_type_ids") is None


# --- printed tests -----------------------------------------------------------------------------


def fake_module(monkeypatch, name, **functions):
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def per_sample_loop(model, inputs, chunk_size):
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        stop = start + chunk_size
        model(**{k: v[start:stop] for k, v in inputs.items() if not k.startswith("num_")})


def mended_loop(model, inputs, chunk_size):
    for chunk in slicers.corrected(inputs, chunk_size):
        model(**chunk)


def test_printed_test_of_a_loop_records_it(monkeypatch):
    with pytest.raises(vd.MismatchError) as caught:
        assert_slices(vd.record(per_sample_loop), families=["llava"], text_only=False)
    source = str(caught.value).split("\n\n", 1)[1]

    assert "vd.check(vd.record(per_sample_loop), batch" in source
    fake_module(monkeypatch, "my_module", per_sample_loop=per_sample_loop)
    with pytest.raises(vd.MismatchError, match="pixel_values"):
        run(source)
    fake_module(monkeypatch, "my_module", per_sample_loop=mended_loop)
    run(source)


def test_printed_test_of_a_loop_asks_for_its_config():
    found = vd.falsify(vd.record(per_sample_loop, config=object()), families=["llava"])

    assert "from m import config, loop\n" in found.to_pytest("m:loop")
    assert "vd.record(loop, config=config)" in found.to_pytest("m:loop")


def test_printed_test_of_a_slicer_was_run_and_one_that_passes_is_not_written():
    calls = []

    def at_first(inputs, chunk_size):
        calls.append(chunk_size)
        good = len(calls) > 500
        yield from (slicers.corrected if good else slicers.by_sample)(inputs, chunk_size)

    found = vd.falsify(at_first, families=["llava"])
    written = found.to_pytest("m:at_first")
    calls.extend([0] * 500)

    assert "vd.check(at_first, batch" in written
    with pytest.raises(vd.BadInput, match="was run before it was written, and it passed"):
        found.to_pytest("m:at_first")


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *(("plain", "cut"), ("my-trainer", "cut"), ("plain", "vd"), ("plain", "batch")),
        *(("plain", "test_me"), ("plain", "class"), ("a.b", "cut"), ("plain", "schön")),
        *(('m"', "cut"), ("plain", 'c"\nraise SystemExit\n#'), ("plain", "{x}"), ("for", "cut")),
        *(("plain", "a\u2028b"), ("plain", "\ud800"), ("plain", "a" * 5000), ("plain", "x\0y")),
    ],
    ids=ascii,
)
def test_printed_test_imports_a_slicer_of_any_name(monkeypatch, module, name):
    found = vd.falsify(slicers.by_sample, families=["gemma4"])
    source = found.to_pytest(f"{module}:{name}")

    fake_module(monkeypatch, module, **{name: slicers.by_sample})
    if module == "a.b":
        fake_module(monkeypatch, "a")
    with pytest.raises(vd.MismatchError):
        run(source)
    fake_module(monkeypatch, module, **{name: slicers.corrected})
    run(source)
    assert source.isascii() and source.count("\ndef ") == 1


def test_printed_test_of_a_method_finds_it(monkeypatch):
    class Trainer:
        cut = staticmethod(slicers.corrected)

    fake_module(monkeypatch, "trainers", Trainer=Trainer)
    run(vd.falsify(slicers.by_sample).to_pytest("trainers:Trainer.cut"))


@pytest.mark.parametrize("slicer", ["cut", "cut:", ":cut", "", ":"])
def test_place_without_a_module_or_a_name_is_refused(slicer):
    with pytest.raises(vd.BadInput, match="by module and name"):
        vd.falsify(slicers.by_sample).to_pytest(slicer)


def test_time_budget_ends_the_search():
    tried = {}

    assert vd.falsify(slicers.corrected, seconds=0, tried=tried) is None
    assert sum(tried.values()) == 0


def test_unknown_family_is_refused():
    with pytest.raises(vd.BadInput, match="not a layout family"):
        vd.falsify(slicers.corrected, families=["nope"])


# --- what cannot be told is no verdict ------------------------------------------------------


def written_in_place(inputs, chunk_size):
    """Normalises the pixels where they lie; each chunk is given the first images."""
    if "pixel_values" in inputs:
        inputs["pixel_values"].mul_(2).sub_(1)
    for chunk in slicers.corrected(inputs, chunk_size):
        if "pixel_values" in chunk:
            chunk["pixel_values"] = inputs["pixel_values"][: len(chunk["pixel_values"])]
        yield chunk


def handed_over_as_lists(inputs, chunk_size):
    for chunk in slicers.corrected(inputs, chunk_size):
        yield {k: list(v) if k == "pixel_values" else v for k, v in chunk.items()}


@pytest.mark.parametrize("slicer", [written_in_place, handed_over_as_lists])
def test_slicer_that_cannot_be_judged_is_not_called_right(slicer):
    tried = {}
    with pytest.raises(vd.AmbiguousError) as caught:
        vd.falsify(slicer, families=["gemma4", "llava"], tried=tried)
    first, *others = str(caught.value).splitlines()

    assert first.endswith("The smallest is gemma4: images per sample [1], chunk size 1.")
    assert f"on {400 - sum(tried.values())} generated batches" in first
    assert f"cuts the other {sum(tried.values())} correctly" in first
    assert "Could not match pixel_values to rows of the batch" in others[0]
    with pytest.raises(vd.AmbiguousError):
        vd.falsify_all(slicer, families=["llava"])
    with pytest.raises(vd.AmbiguousError):
        assert_slices(slicer, families=["gemma4"])


@pytest.mark.slow
def test_what_is_seen_to_be_wrong_comes_before_what_cannot_be_told():
    def both(inputs, chunk_size):
        for chunk in handed_over_as_lists(inputs, chunk_size):
            if "image_sizes" in chunk:
                chunk["image_sizes"] = chunk["image_sizes"].flip(0)
            yield chunk

    assert vd.falsify(both).family == "llava_next"
    assert {found.family for found in vd.falsify_all(both)} >= {"llava_next", "mistral3"}


# --- what lies along the tokens -------------------------------------------------------------


def changed(change):
    """Right chunks, but for `change(chunk, inputs, start, stop)`."""

    def slicer(inputs, chunk_size):
        for number, chunk in enumerate(slicers.corrected(inputs, chunk_size)):
            change(chunk, inputs, number * chunk_size, (number + 1) * chunk_size)
            yield chunk

    return slicer


def without_mask(chunk, inputs, start, stop):
    del chunk["attention_mask"]


def first_labels(chunk, inputs, start, stop):
    if "labels" in inputs:
        chunk["labels"] = inputs["labels"][: stop - start]


def places_of_the_first_dimension(chunk, inputs, start, stop):
    if "position_ids" in inputs:
        chunk["position_ids"] = inputs["position_ids"][start:stop]


def places_without_what_they_are_made_of(chunk, inputs, start, stop):
    if "position_ids" in inputs:
        chunk["position_ids"] = inputs["position_ids"][:, start:stop]
        del chunk["mm_token_type_ids"]


clip_keys = {"pixel_values_videos", "input_features"}


def its_own(chunk, inputs, start, stop):
    chunk["labels"] = chunk["input_ids"].where(chunk["attention_mask"] == 1, -100)
    if "image_grid_thw" not in inputs and clip_keys.isdisjoint(inputs):
        chunk["position_ids"] = chunk["attention_mask"].cumsum(1) - 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_mask, "padded left"),
        (first_labels, "with labels"),
        (places_of_the_first_dimension, "with position_ids"),
    ],
)
def test_wrong_along_the_tokens_falls_and_its_test_makes_the_batch_again(change, said):
    slicer = changed(change)
    slicer.__name__ = "wrong"
    found = vd.falsify(slicer)
    source = found.to_pytest("vlmdebug.slicers:corrected")
    case = found.case

    assert said in repr(found)
    assert eval(source.partition("batch = ")[2].partition("\n")[0]).layout == found.batch.layout
    assert {one.spec.padding_side for one in smaller(case)} <= {"right", case.spec.padding_side}
    assert vd.check(slicer, make(replace(case.spec, **PLAIN)), chunk_size=case.chunk_size).ok


PLAIN = {"padding_side": "right", "labels": False, "position_ids": False}


@pytest.mark.slow
@pytest.mark.parametrize("change", [places_without_what_they_are_made_of, its_own, lambda *_: None])
def test_right_along_the_tokens_survives(change):
    assert vd.falsify(changed(change)) is None


def test_loop_that_makes_its_labels_is_given_none():
    def loss(model, inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            model(**chunk, labels=chunk["input_ids"]).loss.backward()

    assert vd.falsify(vd.record(loss), families=["llava", "qwen2_5_vl"]) is None


def test_case_with_labels_that_are_not_the_matter_stands_for_the_one_without():
    def wrong(chunk, inputs, start, stop):
        chunk.update(labels=chunk["input_ids"], input_ids=chunk["input_ids"].flip(0))

    labelled = Case(BatchSpec("llava", (1, 1), (1, 1), labels=True), 2)
    no_time = FalsifySettings(["llava"], seconds=0)  # to leave more out
    search = Search(changed(wrong), no_time, {"llava": 0})

    assert search.kinds(labelled)
    assert repr(search.smallest(labelled)) == "llava: images per sample [1, 1], chunk size 2"


def test_trainer_is_tried_on_what_it_says_it_meets():
    places = changed(places_of_the_first_dimension)

    assert vd.falsify(changed(without_mask), padding_side="right") is None
    assert "padded left" in repr(vd.falsify(slicers.by_sample, padding_side="left"))
    assert vd.falsify(places, families=["qwen2_5_vl"], position_ids=False) is None
    with pytest.raises(vd.BadInput, match="padding_side is 'both', but"):
        vd.falsify(places, padding_side="both")


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
    text = mask.bool() & (ids != batch.image.token_id)

    assert batch.layout["labels"] == vd.Axis("sample")
    assert mask.tolist() == [[1] * 14, [0] * 6 + [1] * 8]
    assert labels.eq(ids.where(text, -100)).all()


# --- videos and audio -----------------------------------------------------------------------

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
    found = vd.falsify_all(with_videos_by(by_sample), families=["llava_next"])
    messages = [m.message for e in found for m in e.report.mismatches]

    assert any(message.startswith("sample 0 has no video but was given") for message in messages)
    assert any("Leave pixel_values_videos out of a chunk without vid" in text for text in messages)


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


@pytest.mark.parametrize("family", VIDEO_FAMILIES)
def test_videos_under_a_mistyped_name_fall(family):
    def handed_on(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            beside = {key: value for key, value in chunk.items() if "video" not in key}
            clips = chunk.get("pixel_values_videos")
            yield beside if clips is None else {**beside, "pixel_value_videos": clips}

    def looked_up(inputs, chunk_size):
        inputs.get("pixel_value_videos")
        for chunk in slicers.corrected(inputs, chunk_size):
            yield {key: value for key, value in chunk.items() if "video" not in key}

    for slicer in (handed_on, looked_up):
        found = vd.falsify(slicer, families=[family])

        assert "VLM004" in {m.code for m in found.report.mismatches}


def test_mistake_in_images_is_seen_beside_videos_that_are_not_taken():
    def wrong_beside_videos(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            images = {key: value for key, value in chunk.items() if "video" not in key}
            if "num_videos" in inputs and "pixel_values" in images:
                images["pixel_values"] = images["pixel_values"][:-1]
            yield images

    found = vd.falsify(wrong_beside_videos, families=["gemma4"])

    assert repr(found) == "gemma4: images per sample [1], videos per sample [1], chunk size 1"


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
        ("gemma4", {"padding_side": "top"}, "padding_side is 'top', but it takes"),
        ("llava", {"position_ids": True}, "llava is not known to take any of three rows per"),
    ],
)
def test_what_does_not_fit_is_refused(family, options, message):
    with pytest.raises(vd.BadInput, match=message):
        vd.make_batch(family, [1, 0], **options)
