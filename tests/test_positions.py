"""Positions of videos and audio, against those that the model itself gives them."""

from __future__ import annotations

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from architectures import architectures
from placed import Placing

import vlmdebug as vd
from vlmdebug.tracking.made import made_keys, own_positions
from vlmdebug.tracking.sounds import pieces_of

OMNI = ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")
GLM = ("glm4v", "glm4v_moe", "glm46v", "glm_ocr", "glmga")
QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
CASES = [*((one, sound) for one in OMNI for sound in (False, True)), *((g, False) for g in GLM)]
CASES += [(one, False) for one in QWEN]
SEEDS = 12


@pytest.fixture(scope="module")
def placings(built):
    known = {}

    def of(family):
        if family not in known:
            known[family] = Placing(family, *built[family])
        return known[family]

    return of


def kinds_of(placing, seed=0):
    """Media of three samples that the model takes in one call."""
    if placing.omni:
        return (("va", "", "iv"), ("v", "aiv", "a"), ("aa", "vv", "i"))[seed % 3]
    if placing.shares:
        return (("v", "", "vv"), ("i", "", "ii"))[seed % 2]
    return (("vi", "", "iv"), ("v", "vv", "i"))[seed % 2]


@pytest.mark.parametrize(("family", "sound"), CASES)
def test_positions_of_the_model_itself_are_right(family, sound, placings):
    placing = placings(family)
    for seed in range(SEEDS):
        kinds = kinds_of(placing, seed)
        inputs, positions = placing.draw(kinds, seed, sound=sound, left=bool(seed % 2))
        report = vd.check(placing.read({**inputs, "position_ids": positions}))

        assert report.ok, (seed, str(report))
        assert "position_ids against places of the tokens" in " ".join(str(report).split())


def of_text(placing, inputs, positions):
    return (inputs["attention_mask"].cumsum(1) - 1).expand(3, -1, -1)


def swapped(placing, inputs, positions):
    return positions[[0, 2, 1]]


def of_one_second(placing, inputs, positions):
    """The seconds between frames were not passed on."""
    found = dict(inputs)
    key = "video_second_per_grid" if placing.omni else "second_per_grid_ts"
    found[key] = torch.ones_like(inputs[key])
    return placing.index(found)


def of_one_block(placing, inputs, positions):
    """All frames of a video laid out as one image would be, each at the time of the first."""
    types, found = inputs["mm_token_type_ids"], positions.clone()
    found[0, types == 2] = found[0, types == 2] + 1
    return found


def audio_at_one_place(placing, inputs, positions):
    """The tokens behind a sound begin where the sound does."""
    ids, found = inputs["input_ids"], positions.clone()
    row, column = (ids == placing.token("audio")).nonzero()[0].tolist()
    found[:, row, column + 1 :] -= 1
    return found


def not_rounded(placing, inputs, positions):
    """Times of frames as numbers of seconds, where the model rounds them down."""
    found = positions.double()
    found[0, inputs["input_ids"] == placing.token("video")] += 0.7
    return found


def of_the_last_batch(placing, inputs, positions):
    """Positions, or the deltas that they were made from, of other samples."""
    return positions.roll(1, 1)


WRONG = {
    "text": (of_text, (*OMNI, "glm4v", "qwen2_5_vl", "qwen3_vl")),
    "swapped": (swapped, (*OMNI, "glm4v", "qwen2_5_vl", "qwen3_vl")),
    "seconds": (of_one_second, (*OMNI, "qwen2_5_vl")),
    "not rounded": (not_rounded, (OMNI[0], "glm4v", "qwen2_5_vl")),
    "one block": (of_one_block, ("glm4v", "qwen3_vl")),
    "audio": (audio_at_one_place, OMNI),
    "stale": (of_the_last_batch, (*OMNI, "glm4v", "qwen2_5_vl")),
}


@pytest.mark.parametrize(
    ("family", "wrong"), [(one, name) for name, (_, many) in WRONG.items() for one in many]
)
def test_wrong_positions_fall_and_the_logits_differ(family, wrong, placings):
    placing = placings(family)
    inputs, positions = placing.draw(kinds_of(placing), 1)
    other = WRONG[wrong][0](placing, inputs, positions)
    report = vd.check(placing.read({**inputs, "position_ids": other}))
    ours, theirs = (placing.logits({**inputs, "position_ids": p}) for p in (positions, other))

    undecided = wrong == "stale" and any(
        "may hold several samples" in o for o in report.ambiguities
    )
    assert undecided or {one.code for one in report.mismatches} == {"VLM014"}, str(report)
    assert not torch.allclose(ours, theirs, atol=1e-5)
    assert torch.allclose(ours, placing.logits(inputs), atol=1e-5)


def test_fractions_of_time_that_are_lost_are_named(placings):
    placing = placings(OMNI[1])
    drawn = (placing.draw(("v", "", "v"), seed) for seed in range(20))
    inputs, positions = next(one for one in drawn if (one[1] % 1).any())
    report = vd.check(placing.read({**inputs, "position_ids": positions.long()}))
    ours, theirs = (
        placing.logits({**inputs, "position_ids": one}) for one in (positions, positions.long())
    )

    assert {one.code for one in report.mismatches} == {"VLM014"}
    assert not torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("family", [*OMNI, "glm4v", "qwen2_5_vl"])
def test_positions_are_compared_in_each_chunk_and_under_watch(family, placings):
    placing = placings(family)
    inputs, positions = placing.draw(kinds_of(placing), 3)
    batch = placing.read(inputs)

    def making(positions):
        return lambda _, size: (
            {**chunk, "position_ids": positions[:, at : at + 1]}
            for at, chunk in enumerate(batch.chunks(1))
        )

    wrong = of_text(placing, inputs, positions)

    assert vd.check(making(positions), batch).ok
    assert {one.code for one in vd.check(making(wrong), batch).mismatches} == {"VLM014"}
    for own, verdict in ((positions, "OK"), (wrong, "MISMATCH")):
        with (
            vd.watch(placing.model, processor=placing.processor, on_mismatch="record") as trace,
            torch.no_grad(),
        ):
            for chunk in making(own)(None, 1):
                placing.model(**chunk, use_cache=False)
        assert trace.report().verdict == verdict, str(trace.report())


@pytest.mark.parametrize(("family", "sound"), [*CASES[:4], ("glm4v", False), ("qwen2_5_vl", False)])
def test_positions_of_packed_videos_and_audio_are_compared(family, sound, placings):
    placing = placings(family)
    inputs, positions = placing.draw(("v", "", "v"), 5, sound=sound)
    batch, real = placing.read(inputs), inputs["attention_mask"].bool()
    along = {key for key, one in inputs.items() if one.shape == real.shape}
    order = (inputs["attention_mask"].cumsum(1) - 1)[None].to(positions.dtype)
    planes = torch.cat([order, positions])

    def packing(planes):
        row = {key: one[real][None] if key in along else one for key, one in inputs.items()}
        del row["attention_mask"]
        return lambda *_: [{**row, "position_ids": planes[:, real][:, None]}]

    right = vd.check(packing(planes), batch, chunk_size=3)
    wrong = vd.check(packing(planes[[0, 1, 3, 2]]), batch, chunk_size=3)

    assert right.ok, str(right)
    assert {one.code for one in wrong.mismatches} == {"VLM014"}


def test_types_of_frames_are_right_where_they_share_the_token_of_images(placings):
    placing = placings("glm4v")
    inputs, _ = placing.draw(("v", "", "v"))
    types = inputs.pop("mm_token_type_ids")
    batch = placing.read(inputs, num_videos=[1, 0, 1])

    def right(types):
        given = {**inputs, "mm_token_type_ids": types}
        return made_keys(batch, given, range(3))["mm_token_type_ids"].right

    assert right(types) is True
    assert right(types.clamp(max=1)) is False
    assert right(types * 0) is None


@pytest.mark.parametrize("kinds", [("v", "", "vv"), ("i", "", "ii"), ("v", "i", "vv")])
@pytest.mark.parametrize("size", [1, 3])
def test_copies_of_frames_are_right_where_they_share_the_token_of_images(kinds, size, placings):
    batch = placings("glm4v").read(placings("glm4v").draw(kinds, 5)[0])

    def copied(_, size, lost=0):
        for chunk in batch.chunks(size):
            found = {key: one.clone() for key, one in chunk.items()}
            at = (found["input_ids"] == placings("glm4v").token("video")).nonzero()[:lost]
            found["input_ids"][at[:, 0], at[:, 1]] = 60  # a token of text
            yield found

    def lossy(inputs, size):
        return copied(inputs, size, lost=1)

    assert vd.check(copied, batch, chunk_size=size).ok
    assert not vd.check(lossy, batch, chunk_size=size).ok


# --- packers of videos and audio ------------------------------------------------------------


@pytest.mark.parametrize("family", [*GLM, *QWEN, *OMNI])
def test_exported_packers_compute_the_positions_of_clips_as_the_model(family, placings):
    placing = placings(family)
    for seed in range(SEEDS):
        inputs, positions = placing.draw(kinds_of(placing, seed), seed, left=bool(seed % 2))
        batch, real = placing.read(inputs), inputs["attention_mask"].bool()
        packer, types = vd.export(batch, packed=True).function, ["mm_token_type_ids"]
        for left_out in (types, []):  # the tokens say what is a video, too
            given = {key: one for key, one in batch.for_slicer().items() if key not in left_out}
            for at, row in enumerate(packer(given, 2)):
                own = slice(2 * at, 2 * at + 2)
                due = positions[:, own][:, real[own]]
                assert torch.equal(row["position_ids"][1:, 0], due.to(row["position_ids"].dtype))
        (row,) = packer(batch.for_slicer(), 3)
        assert torch.allclose(packed_logits(placing, row), placing.logits(inputs), atol=1e-4)
        assert vd.check(packer, batch, chunk_size=2).ok


def packed_logits(placing, row):
    """Those of each token of a row, with the default attention."""
    with torch.no_grad():
        row = {key: one for key, one in row.items() if not key.startswith(("cu_", "max_"))}
        return placing.model(**row).logits[0]


def test_packers_written_without_a_config_ask_for_the_times_of_frames(placings):
    placing = placings("qwen2_5_vl")
    inputs, _ = placing.draw(("v", ""), 5)
    batch = vd.read_batch(inputs, processor=placing.processor)
    packer = vd.export(batch, packed=True).function

    with pytest.raises(ValueError, match=r"inputs\['position_ids'\] = get_rope_index\(…\)\[0\]"):
        list(packer(batch.for_slicer(), 2))


@pytest.mark.parametrize("family", OMNI)
def test_exported_packers_say_where_positions_of_videos_with_sound_come_from(family, placings):
    placing = placings(family)
    inputs, _ = placing.draw(("v", "", "v"), 5, sound=True)
    batch = placing.read(inputs)
    packer = vd.export(batch, packed=True).function

    with pytest.raises(ValueError, match=r"inputs\['position_ids'\] = get_rope_index\(…\)\[0\]"):
        list(packer(batch.for_slicer(), 3))
    inputs["position_ids"] = placing.index(inputs, use_audio_in_video=True)  # as it says
    placed = placing.read(inputs)
    code = vd.export(placed, packed=True)
    (row,) = code.function(placed.for_slicer(), 3)

    assert vd.check(code.function, placed, chunk_size=3).ok
    assert torch.allclose(packed_logits(placing, row), placing.logits(inputs), atol=1e-4)


@pytest.mark.parametrize("change", ["a grid more", "a token less"])
def test_exported_packers_refuse_media_that_do_not_fit_their_grids(change, placings):
    placing = placings("qwen2_vl")
    inputs, _ = placing.draw(("v", "i", "v"), 5)
    batch = placing.read(inputs)
    given = batch.for_slicer()
    (row,) = vd.export(batch, packed=True).function(given, 3)
    grids = row["video_grid_thw"]
    if change == "a grid more":
        row["video_grid_thw"] = torch.cat([grids, grids[:1]])
    else:
        at = (row["input_ids"][0] == placing.token("video")).nonzero()[0]
        row["input_ids"][0, at], row["mm_token_type_ids"][0, at] = 60, 0
    positions = vd.export(batch, packed=True).function.__globals__["_mrope"]

    with pytest.raises(ValueError, match="do not follow from the batch"):
        positions(row, [row["input_ids"].shape[1]])


# --- rope_deltas ----------------------------------------------------------------------------

MROPE = (
    *("cohere_compass", "cosmos3_edge", "cosmos3_omni", "ernie4_5_vl_moe", "glm46v", "glm4v"),
    *("glm4v_moe", "glm_ocr", "glmga", "hy_v4_vl", "paddleocr_vl", "qwen2_5_omni_thinker"),
    *("qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_omni_moe_thinker", "qwen3_vl"),
    *("qwen3_vl_moe", "qwen4_exp"),
)


def verdict_on(inputs, built):
    model, processor = built
    batch = vd.read_batch(inputs, processor=processor, config=model.config)
    report = vd.check(batch)
    return report.verdict, [(one.code, one.key, one.samples) for one in report.mismatches]


@pytest.mark.parametrize("family", architectures(MROPE))
def test_deltas_of_each_model_are_right_and_others_fall(family, built):
    model = built[family][0]
    own = model if hasattr(model, "get_rope_index") else model.model
    inputs = dict(vd.tiny.batch(family, [1, 0, 2]))
    taken = inspect.signature(own.get_rope_index).parameters
    _, deltas = own.get_rope_index(**{key: one for key, one in inputs.items() if key in taken})
    padding = (inputs["attention_mask"] == 0).sum(1, keepdim=True)

    for right in (deltas, deltas[:, 0], deltas - padding):
        assert verdict_on({**inputs, "rope_deltas": right}, built[family]) == ("OK", [])
    wrongs = {"of other samples": (deltas.roll(1, 0), 0), "of text": (deltas * 0, 0)}
    wrongs |= {"off by one": (deltas + 1, 0), "by two rules": (deltas - padding * (deltas == 0), 1)}
    for name, (wrong, sample) in wrongs.items():
        found = verdict_on({**inputs, "rope_deltas": wrong}, built[family])
        assert found == ("MISMATCH", [("VLM014", "rope_deltas", (sample,))]), name


@pytest.mark.parametrize(("family", "sound"), CASES)
def test_deltas_of_videos_and_audio_are_compared(family, sound, placings):
    placing = placings(family)
    for seed in range(3):
        kinds, given = kinds_of(placing, seed), {"use_audio_in_video": True} if sound else {}
        inputs, _ = placing.draw(kinds, seed, sound=sound, left=bool(seed % 2))
        _, deltas = placing.indexed(inputs, **given)
        right, wrong = (
            vd.check(placing.read({**inputs, "rope_deltas": one})) for one in (deltas, deltas - 2)
        )

        assert right.ok, (seed, str(right))
        assert {one.code for one in wrong.mismatches} == {"VLM014"}


def with_deltas(batch, deltas):
    return lambda _, size: (
        {**chunk, "rope_deltas": deltas[at : at + 1]} for at, chunk in enumerate(batch.chunks(1))
    )


def test_deltas_are_compared_in_each_chunk_and_under_watch(placings):
    placing = placings("qwen2_5_vl")
    inputs, _ = placing.draw(("i", "", "ii"), 3)
    batch, (_, deltas) = placing.read(inputs), placing.indexed(inputs)
    stale = deltas + 3  # of a batch with smaller images

    assert vd.check(with_deltas(batch, deltas), batch).ok
    found = vd.check(with_deltas(batch, stale), batch)
    assert [(one.code, one.key) for one in found.findings[0].mismatches] == [
        ("VLM014", "rope_deltas")
    ] * 3
    assert found.findings[0].loudness == "unknown"
    for own, verdict in ((deltas, "OK"), (stale, "MISMATCH")):
        for whole in (with_deltas(batch, own)(None, 1), [{**inputs, "rope_deltas": own}]):
            with (
                vd.watch(placing.model, processor=placing.processor, on_mismatch="record") as trace,
                torch.no_grad(),
            ):
                for chunk in whole:
                    placing.model(**chunk, use_cache=False)
            assert trace.report().verdict == verdict, str(trace.report())


def test_deltas_of_packed_rows_are_not_compared(placings):
    placing = placings("qwen2_5_vl")
    inputs, _ = placing.draw(("i", "", "ii"), 3)
    placed = placing.read({**inputs, "position_ids": placing.index(inputs)})
    (row,) = vd.export(placed, packed=True).function(placed.for_slicer(), 3)
    row = {key: one for key, one in row.items() if key in inputs or key == "position_ids"}
    given = {**row, "rope_deltas": placing.indexed(inputs)[1]}
    report = vd.check(placing.read(given))
    with (
        vd.watch(placing.model, processor=placing.processor, on_mismatch="record") as trace,
        torch.no_grad(),
    ):
        placing.model(**given, use_cache=False)

    assert vd.check(placing.read(row)).ok
    for one in (report, trace.report()):
        assert one.verdict == "AMBIGUOUS"
        assert "its rows hold several samples" in " ".join(one.ambiguities)


def test_deltas_that_cannot_be_compared_are_named(placings):
    placing = placings("qwen2_5_vl")
    inputs, _ = placing.draw(("i", "", "ii"), 3)
    _, deltas = placing.indexed(inputs)
    text = dict(vd.tiny.batch("llava", [1, 0]))
    odd = vd.check({**inputs, "rope_deltas": deltas.repeat(1, 2)}, processor=placing.processor)
    other = vd.check({**text, "rope_deltas": deltas[:2]}, processor=vd.tiny.build("llava")[1])

    assert odd.verdict == other.verdict == "AMBIGUOUS"
    assert "its shape (3, 2) is not (sample, 1)" in " ".join(odd.ambiguities)
    assert "no rule is known for it" in " ".join(other.ambiguities)


# --- deltas of another prompt than that in the cache ---------------------------------------


TURNS = {
    "one prompt": (("A",), True),
    "two in turn": (("A", "B"), False),
    "text after images": (("B", "text"), False),
    "the same again": (("A", "A"), True),
}
"""Prompts that are read one after the other, and whether the first cache may go on then."""


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "glm4v", "qwen2_5_omni_thinker"])
@pytest.mark.parametrize("turns", TURNS)
def test_a_cache_that_goes_on_with_deltas_of_another_prompt_is_named(turns, family, built):
    model, processor = built[family]
    own = next(one for one in model.modules() if "rope_deltas" in vars(one))
    prompts = {
        name: dict(vd.tiny.batch(family, images))
        for name, images in (("A", [1]), ("B", [2]), ("text", [0]))
    }
    names, right = TURNS[turns]
    right |= turns == "text after images" and family in OMNI  # which computes those of texts, too
    token = {"input_ids": torch.tensor([[60]])}

    def read(name):
        return model(**prompts[name], use_cache=True).past_key_values

    def trial(names, **more):
        own.rope_deltas = None
        with (
            vd.watch(model, processor=processor, on_mismatch="record") as trace,
            torch.no_grad(),
        ):
            caches = [read(name) for name in names]
            on = caches[-1] if turns == "text after images" else caches[0]
            logits = model(**token, past_key_values=on, use_cache=True, **more).logits
        own.rope_deltas = None
        return logits, trace.report()

    alone, _ = trial(names[-1:] if turns == "text after images" else names[:1])
    logits, report = trial(names)

    assert torch.allclose(logits, alone, atol=1e-5) == right
    assert report.ok == right, str(report)
    if not right:
        found = report.mismatches[0]
        assert (found.code, found.key, found.silent) == ("VLM014", "rope_deltas", True)
        assert "is that of the prompt in the cache" in found.message


def test_deltas_that_are_set_before_a_cache_goes_on_are_right(built):
    model, processor = built["qwen2_5_vl"]
    own, kept = model.model, []
    with vd.watch(model, processor=processor, on_mismatch="record") as trace, torch.no_grad():
        for images in ([1], [2]):
            call = dict(vd.tiny.batch("qwen2_5_vl", images))
            kept.append((model(**call, use_cache=True).past_key_values, own.rope_deltas.clone()))
        for cache, deltas in kept:
            own.rope_deltas = deltas  # as the message says
            model(input_ids=torch.tensor([[60]]), past_key_values=cache, use_cache=True)
        prompt = dict(vd.tiny.batch("qwen2_5_vl", [1, 2]))
        model.generate(**prompt, max_new_tokens=3, do_sample=False)
        model.generate(**prompt, max_new_tokens=3, do_sample=False, num_beams=2)
    own.rope_deltas = None

    assert not trace.report().mismatches, str(trace.report())


# --- where positions are not known ----------------------------------------------------------


def unknown(placing, inputs, positions, **given):
    report = vd.check(placing.read({**inputs, "position_ids": positions}, **given))

    assert report.verdict == "AMBIGUOUS", str(report)
    assert any("position_ids" in one for one in report.ambiguities)


@pytest.mark.parametrize("family", OMNI)
def test_videos_without_seconds_are_not_compared(family, placings):
    placing = placings(family)
    inputs, positions = placing.draw(("v", "v"), 3)
    seconds = inputs.pop("video_second_per_grid")

    unknown(placing, inputs, positions)
    for odd in (seconds.half(), seconds * float("nan"), seconds * 1e30, seconds[:, None]):
        unknown(placing, {**inputs, "video_second_per_grid": odd}, positions)


def test_seconds_that_are_not_passed_on_are_unknown_unless_nothing_depends_on_them(placings):
    """The model takes one second; positions that were computed before may know others."""
    placing = placings("qwen2_5_vl")
    inputs, positions = placing.draw(("vi", "", "v"), 1)
    less = {key: value for key, value in inputs.items() if key != "second_per_grid_ts"}
    alone = vd.check(placing.read(less))

    assert alone.verdict == "AMBIGUOUS"
    assert "no second_per_grid_ts, so the model takes 1.0 second" in alone.ambiguities[0]
    assert not torch.allclose(placing.logits(less), placing.logits(inputs), atol=1e-5)
    right = placing.logits({**less, "position_ids": positions})
    assert torch.allclose(right, placing.logits(inputs), atol=1e-5)
    unknown(placing, less, positions)
    images, _ = placing.draw(("i", ""), 1)
    assert vd.check(placing.read(images)).ok


def test_sound_of_one_of_two_videos_is_not_compared(placings):
    """The model takes all videos for those with sound, or none."""
    placing = placings(OMNI[0])
    inputs, positions = placing.draw(("v", "v"), 3, sound=True)
    ids = inputs["input_ids"]
    row = ids[1][ids[1] != placing.token("audio")]  # only the tokens of its own video
    ids[1] = torch.nn.functional.pad(row, (0, ids.shape[1] - len(row)))
    inputs["attention_mask"][1, len(row) :] = 0
    own = own_positions(placing.read({**inputs, "position_ids": positions}, num_audios=[1, 1]))

    assert own is not None
    assert own.right is None


def test_sound_in_another_order_than_the_model_takes_it_is_not_compared(placings):
    placing = placings(OMNI[1])
    inputs, positions = placing.draw(("v",), 3, sound=True)
    ids = inputs["input_ids"]
    inside = torch.isin(ids, torch.tensor([placing.token("video"), placing.token("audio")]))
    ids[inside] = ids[inside].flip(0)
    own = own_positions(placing.read({**inputs, "position_ids": positions}))

    assert own is not None
    assert own.right is None


def test_begin_tokens_of_a_video_and_its_sound_share_one_position(placings):
    shared, apart = (placings(one).draw(("v",), 3, sound=True) for one in OMNI)
    steps = [positions[0, 0].diff() for _, positions in (shared, apart)]

    assert int((steps[0] == 0).sum()) > int((steps[1][:5] == 0).sum())
    at = int((shared[0]["input_ids"][0] == placings(OMNI[0]).token("video")).nonzero()[0])
    assert shared[1][0, 0, at - 1] == shared[1][0, 0, at - 2]


def test_stretches_take_turns_until_one_of_both_ends(placings):
    rule = replace(placings(OMNI[0]).read(placings(OMNI[0]).draw(("v",))[0]).rules.mrope)
    pieces = pieces_of(np.repeat([0, 25, 50, 75, 100], 2), 60, 7, rule)

    assert pieces is not None
    assert [(seen, end - begin) for seen, begin, end in pieces] == [
        (True, 4),
        (False, 50),
        (True, 4),
        (False, 10),
        (True, 2),
    ]


def test_seconds_are_multiplied_in_the_precision_of_the_model(placings):
    """With 25 frames a second, doubles would round down another time than single floats."""
    placing = placings("qwen2_5_vl")
    side = placing.known.merge_size
    video, frames = placing.token("video"), 101
    ids = torch.tensor([[60, 61, *[video] * frames, 62]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == video) * 2,
        "video_grid_thw": torch.tensor([[frames, side, side]]),
        "pixel_values_videos": torch.zeros(frames * side**2, placing.patch),
        "second_per_grid_ts": torch.tensor([2 / 25]),
    }
    steps = placing.known.steps_per_second
    assert steps is not None
    doubles = (np.arange(frames) * (float(torch.tensor(2 / 25)) * steps)).astype(int)
    positions = placing.index(inputs)

    assert vd.check(placing.read({**inputs, "position_ids": positions})).ok
    assert not np.array_equal(positions[0, 0, 2:-1] - 2, doubles)
