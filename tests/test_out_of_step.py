"""A batch out of step is a finding with its sample and its likely cause, and never an exception."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import pytest
import torch

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.checking.causes import faults_of, is_another_order
from vlmdebug.cli import main
from vlmdebug.core.alignment import align_runs, fits
from vlmdebug.core.record import Compared
from vlmdebug.core.runs import Run

TOKENS = ("input_ids", "attention_mask", "mm_token_type_ids")


def real(family="qwen2_5_vl", images=(2, 0, 1), **options):
    return dict(vd.tiny.batch(family, list(images), **options)), vd.tiny.build(family)[1]


def tokens(inputs, change):
    return {key: change(value) if key in TOKENS else value for key, value in inputs.items()}


def text_of(inputs, media):
    return {**media, **{key: value for key, value in inputs.items() if key in TOKENS}}


def sampled(inputs, processor, sample=2):
    """A completion of three tokens, the last of which is a placeholder in one sample."""
    token = vd.read_batch(inputs, processor=processor).image.token_id
    more = torch.full((len(inputs["input_ids"]), 3), 50)  # ordinary text in every tiny tokenizer
    more[sample, -1] = token
    ids = torch.cat([inputs["input_ids"], more], 1)
    mask = torch.cat([inputs["attention_mask"], torch.ones_like(more)], 1)
    made = {**inputs, "input_ids": ids, "attention_mask": mask}
    if "mm_token_type_ids" in inputs:
        made["mm_token_type_ids"] = (ids == more[sample, -1]).long()
    return made


# --- runs in, cause out ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "images", "faulty", "kinds"),
    [
        pytest.param([[10, 12], [], [16]], [10, 12, 16], [], [], id="all right"),
        pytest.param([[22], [16]], [10, 12, 16], [], [], id="images side by side"),
        pytest.param([[16], [16, 1]], [16, 16], [1], ["extra"], id="one token more"),
        pytest.param([[10, 12], [], [15]], [10, 12, 16], [2], ["changed"], id="one run shorter"),
        pytest.param([[16], [16]], [16, 16, 16], [], [], id="an image without a text, of any"),
        pytest.param([[10, 16]], [10, 12, 16], [0], ["missing"], id="an image without a text"),
        pytest.param([[12], [10, 10]], [12, 10], [1], [], id="one run of two is left over"),
        pytest.param([[], []], [10, 12], [], ["missing", "missing"], id="no text at all"),
    ],
)
def test_what_every_cheapest_story_shares_is_told(runs, images, faulty, kinds):
    found = align_runs(runs, [[image] for image in images])

    assert found is not None
    assert sorted(found.faulty) == faulty
    assert [step.kind for step in found.faults] == kinds


def test_rows_of_an_image_are_one_image():
    rows = [[4, 4], [2, 2, 2, 2], [4, 4, 4, 4]]
    found = align_runs([[4, 4, 2, 2, 2, 2], [4, 4, 4, 3]], rows)

    assert found is not None
    assert [(step.runs, step.images) for step in found.faults] == [(range(6, 10), range(2, 3))]
    assert fits([4, 4, 2, 2, 2, 2], rows[:2])
    assert not fits([6, 10], [[4, 4, 4], [4]])


def test_too_much_is_not_looked_at():
    assert align_runs([[1] * 1000], [[1]] * 1000) is None


OPEN, CLOSE = 8, 9


@pytest.mark.parametrize(
    ("runs", "images", "cause"),
    [
        ([(16, OPEN, CLOSE), (9, OPEN, None)], [16, 16], "text cut off"),
        ([(9, None, CLOSE), (16, OPEN, CLOSE)], [16, 16], "text cut off"),
        ([(16, OPEN, CLOSE), (9, OPEN, 2)], [16, 16], "text cut off"),
        ([(16, OPEN, CLOSE), (9, OPEN, CLOSE)], [16, 16], "another size"),
        ([(16, OPEN, CLOSE), (25, OPEN, CLOSE)], [16, 16], "another size"),
        ([(16, OPEN, CLOSE), (31, OPEN, CLOSE)], [16, 16], "expanded twice"),
        ([(16, OPEN, CLOSE), (18, OPEN, CLOSE)], [16, 16], "stray placeholder"),
        ([(16, OPEN, CLOSE), (1, 5, 6)], [16], "sampled placeholder"),
        ([(1, 5, 6), (16, OPEN, CLOSE)], [16], "stray placeholder"),
        ([(16, OPEN, CLOSE), (12, OPEN, CLOSE)], [16], "images without a text"),
        ([(16, OPEN, CLOSE)], [16, 12], "text without its images"),
    ],
)
def test_likely_cause_follows_from_the_runs(runs, images, cause):
    own, pieces = [Run(*run) for run in runs], [[image] for image in images]
    found = align_runs([[run.length for run in own]], pieces)
    assert found is not None

    assert [fault.cause for fault in faults_of(found.faults, found.steps, own, pieces)] == [cause]


def test_order_is_another_only_where_all_fits():
    assert is_another_order([[12], [10]], [[10], [12]])
    assert is_another_order([[12, 10]], [[10, 12]])
    assert not is_another_order([[10], [12]], [[10], [12]])
    assert not is_another_order([[63], [65]], [[64], [64]])


# --- real batches ------------------------------------------------------------------------------


def truncated():
    inputs, processor = real(sizes=(160, 160), padding_side="right")
    return tokens(inputs, lambda value: value[:, :30]), processor, {0}, "Truncation (max_length)"


def with_a_sampled_token():
    inputs, processor = real()
    return sampled(inputs, processor), processor, {2}, "sampled by a model in its completion"


def of_other_sizes():
    inputs, processor = real(sizes=(64, 112))
    media, _ = real(sizes=(224, 112))
    return text_of(inputs, media), processor, {0, 2}, "at another size"


def in_another_order():
    inputs, processor = real(images=(1, 1), padding_side="right")
    return tokens(inputs, lambda value: value.flip(0)), processor, {0, 1}, "another order"


def within_a_sample():
    inputs, processor = real()
    order = inputs["image_grid_thw"][[1, 0, 2]]
    return {**inputs, "image_grid_thw": order}, processor, {0}, "another order"


def without_a_text():
    inputs, processor = real()
    bare, _ = real(images=(0, 0, 0))
    return text_of(bare, inputs), processor, set(), "no image placeholder"


BATCHES = [
    truncated,
    with_a_sampled_token,
    of_other_sizes,
    in_another_order,
    within_a_sample,
    without_a_text,
]


@pytest.mark.parametrize("make", BATCHES, ids=lambda make: make.__name__)
def test_sample_and_cause_are_named_without_num_images(make):
    inputs, processor, samples, cause = make()
    report = vd.check(inputs, processor=processor)
    found = [m for m in report.mismatches if m.code == "VLM010"]

    assert report.verdict == "MISMATCH"
    assert {sample for m in found for sample in m.samples} == samples
    assert any(cause in m.message for m in found)


@pytest.mark.parametrize("make", BATCHES, ids=lambda make: make.__name__)
def test_every_way_in_has_an_answer(make, tmp_path):
    inputs, processor, *_ = make()
    model = vd.tiny.build("qwen2_5_vl")[0]
    batch = vd.read_batch(inputs, processor=processor)
    torch.save(inputs, tmp_path / "batch.pt")
    watched = vd.watch(model, processor=processor, on_mismatch="record")
    with watched as trace, suppress(RuntimeError, ValueError):
        model(**inputs)

    assert vd.check(slicers.by_sample, batch).verdict == "MISMATCH"
    assert trace.report().verdict == "MISMATCH"
    assert vd.check(batch).to_html()
    assert main(["check", str(tmp_path / "batch.pt"), "--family", "qwen2_5_vl"])
    for call in (lambda: vd.plot_layout(batch), lambda: vd.export(batch), lambda: batch.chunks(1)):
        with suppress(vd.VlmDebugError):
            call()


@pytest.mark.parametrize(
    "family", ["gemma4", "internvl", "llava_next", "idefics3", "aya_vision", "qwen3_vl"]
)
def test_sampled_token_is_named_in_every_layout(family):
    inputs, processor = real(family, padding_side="left")
    for counts in (None, [2, 0, 1]):
        report = vd.check(sampled(inputs, processor), processor=processor, num_images=counts)

        assert {m.samples for m in report.mismatches if m.samples} == {(2,)}
        assert "sampled by a model" in report.findings[0].message
        assert "Pass num_images" not in report.findings[0].message


def test_more_video_tokens_than_features_is_no_truncation():
    model, processor = vd.tiny.build("qwen2_5_vl")
    video = model.config.video_token_id
    ids = torch.tensor([[7, *[video] * 16, 8]] * 2)
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == video).int() * 2,
        "pixel_values_videos": torch.randn(32, 1176),
        "video_grid_thw": torch.tensor([[1, 4, 4], [1, 4, 4]]),
    }
    report = vd.check(inputs, processor=processor)

    assert {m.silent for m in report.mismatches} == {False}
    assert "another number of frames" in report.mismatches[0].message
    assert "runcation" not in str(report)


# --- what contradicts itself ---------------------------------------------------------------------


def test_rows_that_contradict_each_other_are_a_finding_and_refused_where_rows_are_needed():
    inputs, processor = real()
    short = {**inputs, "pixel_values": inputs["pixel_values"][:-4]}
    report = vd.check(short, processor=processor)

    assert [m.silent for m in report.mismatches] == [False]
    assert "asks for 152 patches (3 images), but pixel_values has 148 rows" in str(report.findings)
    assert vd.check(slicers.by_sample, short, processor=processor).verdict == "MISMATCH"
    with pytest.raises(vd.BadInput, match="asks for 152 patches"):
        vd.read_batch(short, processor=processor)


def test_columns_that_media_share_are_compared():
    inputs, processor = real("gemma4", (1, 1), sizes=(160, 160))
    bad = {**inputs, "image_position_ids": inputs["image_position_ids"][:, :100]}
    (found,) = vd.check(bad, processor=processor).mismatches

    assert (
        "image_position_ids was cut to 100 max_patches, but pixel_values has 630" in found.message
    )


@pytest.mark.parametrize("known", [True, False], ids=["processor", "nothing"])
def test_patches_that_were_trimmed_are_found(known):
    inputs, processor = real()
    bad = {**inputs, "pixel_values": inputs["pixel_values"][:, :63]}
    report = vd.check(bad, processor=processor if known else None)

    assert "pixel_values was cut to 63 columns" in report.mismatches[0].message


@pytest.mark.parametrize("family", ["qwen2_5_vl", "glm4v", "video_llama_3"])
def test_grid_that_the_merge_size_does_not_divide_is_found(family):
    inputs, processor = real(family)
    grid = inputs["image_grid_thw"].clone()
    grid[0, 1], grid[0, 2] = grid[0, 1] * grid[0, 2], 1
    report = vd.check({**inputs, "image_grid_thw": grid}, processor=processor)

    assert "multiples of the merge size 2" in report.mismatches[0].message


# --- what has no rows -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "extra",
    [
        {"num_items_in_batch": torch.tensor(3)},
        {"num_items_in_batch": torch.tensor([3])},
        {"use_cache": False, "logits_to_keep": 4, "note": "text", "scale": 0.5},
        {"images": [object()], "options": {"a": 1}, "collate": print},
        {"advantages": torch.rand(3), "old_per_token_logps": torch.rand(3, 9)},
        {"reward": torch.rand(3), "index": torch.arange(3)},
    ],
    ids=lambda extra: "+".join(extra),
)
def test_options_and_notes_of_the_trainer_change_no_verdict(extra):
    inputs, processor = real("gemma4")

    assert vd.check({**inputs, **extra}, processor=processor).ok
    assert vd.check(slicers.corrected, {**inputs, **extra}, processor=processor).ok


def test_tensor_of_no_known_name_stays_ambiguous():
    inputs, processor = real("gemma4")

    assert vd.check({**inputs, "novel": torch.rand(3, 2)}, processor=processor).verdict == (
        "AMBIGUOUS"
    )
    assert vd.check({**inputs, "novel": torch.rand(5)}, processor=processor).verdict == "AMBIGUOUS"


def test_key_that_the_model_does_not_take_is_a_trainers_own():
    inputs, _ = real("gemma4")
    model = vd.tiny.build("gemma4")[0]
    batch = {**inputs, "novel": torch.rand(3, 2)}
    report = vd.check(batch, config=model.config)

    assert report.ok
    assert Compared("novel", beyond=True) in report.compared
    assert vd.check(slicers.corrected, batch, config=model.config).ok


def test_rest_of_several_images_is_not_said_to_be_of_one_sample():
    """Half of the text is cut off: whose images the placeholders that are left are is a guess."""
    inputs, processor = real("qwen2_5_vl", sizes=(160, 160), padding_side="left")
    half = inputs["input_ids"].shape[1] // 2
    keys = ("input_ids", "attention_mask", "mm_token_type_ids")
    cut = {key: value[:, -half:] if key in keys else value for key, value in inputs.items()}
    report = vd.check(cut, processor=processor)
    said = "\n".join(finding.message for finding in report.findings)

    assert report.verdict == "MISMATCH"
    assert "its images become" not in said.splitlines()[0]
    assert "The batch has" in said


@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl"])
def test_text_that_names_images_of_which_the_batch_has_none_is_silent(family):
    inputs, processor = real(family, (2, 1))
    text = text_of(inputs, {})
    model = vd.tiny.build(family)[0]

    report = vd.check(text, processor=processor)

    assert [(m.code, m.samples, m.silent) for m in report.mismatches] == [
        ("VLM010", (0,), True),
        ("VLM010", (1,), True),
    ]
    with torch.no_grad():
        assert (model(**text).logits - model(**inputs).logits).abs().max() > 0.01
    assert vd.check(inputs, processor=processor).ok


def test_image_that_a_batch_of_llava_onevision_lost_is_found():
    inputs, processor = real("llava_onevision", (2, 1, 1))
    media = {key: inputs[key][:-1] for key in inputs if key not in TOKENS}

    report = vd.check(text_of(inputs, media), processor=processor)

    assert [(m.code, m.samples, m.silent) for m in report.mismatches] == [("VLM010", (2,), False)]
    with pytest.raises(ValueError):
        vd.tiny.build("llava_onevision")[0](**text_of(inputs, media))


def test_samples_that_were_not_compared_are_not_ok():
    inputs, processor = real()

    alone = str(vd.check(inputs))
    assert "cannot tell       0       2            22  ?" in alone
    assert "AMBIGUOUS How many features each image has is not known" in alone
    assert vd.check(inputs, processor=processor).ok


def test_keys_of_which_nothing_is_known_are_not_said_to_have_the_same_rows():
    inputs, processor = real(images=(2, 1, 1))
    patches = int(inputs["image_grid_thw"][-1].prod())
    media = {
        "pixel_values": inputs["pixel_values"][:-patches],
        "image_grid_thw": inputs["image_grid_thw"][:-1],
    }

    said = str(vd.check(text_of(inputs, media), processor=processor))

    assert "image_grid_thw: cannot tell either" in said
    assert "the same rows" not in said
    assert "Pass num_images=[…], how many images of each" in said


def test_lost_image_tokens_are_found_where_features_are_unknown():
    inputs, processor = real("idefics3", (2, 0, 1))
    token = SimpleNamespace(image_token_id=processor.image_token_id, model_type="idefics3")
    batch = vd.read_batch(inputs, num_images=[2, 0, 1], config=token)

    def cut(inputs, size):
        for chunk in batch.chunks(size):
            yield {key: value[:, :9] if key in TOKENS else value for key, value in chunk.items()}

    report = vd.check(cut, batch, chunk_size=1)

    assert batch.image.features is None
    assert not vd.check(lambda inputs, size: batch.chunks(size), batch, chunk_size=1).mismatches
    assert [(m.code, m.samples, m.silent) for m in report.mismatches] == [
        ("VLM009", (0,), None),
        ("VLM009", (2,), None),
    ]


def with_positions(model, inputs):
    """The batch with the `position_ids` that the model would compute itself."""
    given = {"input_ids", "mm_token_type_ids", "image_grid_thw", "attention_mask"}
    found, _ = model.model.get_rope_index(**{key: inputs[key] for key in given})
    return {**inputs, "position_ids": found}


@pytest.mark.parametrize("placed", [False, True], ids=["without positions", "with positions"])
def test_texts_in_another_order_raise_only_where_the_model_lays_images_out(placed, built):
    model, processor = built["qwen2_5_vl"]
    sizes = [(112, 112), (168, 112), (112, 224)]
    inputs = dict(vd.tiny.batch("qwen2_5_vl", [1, 1, 1], sizes=sizes))
    inputs = with_positions(model, inputs) if placed else inputs
    dims = {"input_ids": 0, "attention_mask": 0, "mm_token_type_ids": 0, "position_ids": 1}
    turned = {k: v.roll(1, dims[k]) if k in dims else v for k, v in inputs.items()}
    report = vd.check(turned, processor=processor, config=model.config)
    runs = True
    with torch.no_grad():
        try:
            model(**turned)
        except (ValueError, RuntimeError):
            runs = False

    assert runs == placed
    assert {one.silent for one in report.mismatches if one.code == "VLM010"} == {placed}


def test_boundaries_that_leave_a_sample_out_are_not_said_to_lose_its_tokens(built):
    model, processor = built["llava"]
    parts = list(vd.read_batch(vd.tiny.batch("llava", [1, 1, 1]), processor=processor).chunks(1))
    shown = [one["attention_mask"][0].bool() for one in parts]
    ids = [one["input_ids"][:, own] for one, own in zip(parts, shown, strict=True)]
    ends = [0, ids[0].shape[1], ids[0].shape[1] + ids[1].shape[1]]  # the last sample has none
    packed = {
        "input_ids": torch.cat(ids, 1),
        "pixel_values": torch.cat([one["pixel_values"] for one in parts]),
        "cu_seq_lens_q": torch.tensor(ends, dtype=torch.int32),
        "cu_seq_lens_k": torch.tensor(ends, dtype=torch.int32),
    }
    report = vd.check(packed, processor=processor)
    (found,) = [one for one in report.mismatches if one.code == "VLM010"]
    with torch.no_grad():
        model(**packed)

    assert (
        "samples have 32 placeholder tokens, and 16 more are tokens of no sample" in found.message
    )
    assert "Give the boundaries of every sample" in found.message
    assert found.silent is None


@pytest.mark.parametrize("family", ["florence2", "t5gemma2", "diffusion_gemma", "llava"])
def test_mask_that_shows_padding_behind_the_text_is_seen_where_the_model_looks_there(family, built):
    model, processor = built[family]
    inputs = dict(vd.tiny.batch(family, [1, 1, 1], padding_side="right"))
    known = {"processor": processor, "config": model.config}
    mask = inputs["attention_mask"]
    begins = mask.sum(1).argmin()  # the sample with the most padding
    one_more = mask.clone()
    one_more[begins, mask[begins].sum()] = 1  # may be the end of a text
    shown = {**inputs, "attention_mask": torch.ones_like(mask)}

    assert vd.check(inputs, **known).ok
    assert vd.check({**inputs, "attention_mask": one_more}, **known).ok
    assert vd.check(shown, **known).ok == (family == "llava")
    if family != "llava":
        assert "padding tokens next to the text of" in vd.check(shown, **known).ambiguities[0]
