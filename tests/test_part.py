"""Parts of a batch: the tokens of each sample, in whole rows of `input_ids` or in packed ones."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from architectures import REFUSES_TEXT, architectures

import vlmdebug as vd
from vlmdebug.core.part import Part, Span, Spans
from vlmdebug.core.rows import Rows
from vlmdebug.core.tensors import side_by_side
from vlmdebug.families.apart import SEPARATES

PACKED = Spans([Span(0, 0, 3), Span(0, 3, 5), Span(1, 1, 4)])


def test_each_sample_of_a_padded_batch_owns_its_whole_row():
    batch = vd.make_batch("qwen2_5_vl", [2, 0, 1])
    width = batch.inputs["input_ids"].shape[1]

    assert batch.spans == tuple(Span(sample, 0, width) for sample in range(3))
    assert batch.packed is None
    assert (batch.tokens("input_ids", 2) == batch.inputs["input_ids"][2]).all()


@pytest.mark.parametrize(
    "samples",
    [range(1, 3), [1, 2], Rows([(1, 3)])],
    ids=["range", "list", "rows"],
)
def test_a_part_has_the_span_of_each_of_its_samples(samples):
    assert PACKED.part(samples) == Part(Rows([(1, 3)]), (PACKED[1], PACKED[2]))


def test_a_repeated_sample_comes_with_its_tokens_each_time():
    part = PACKED.part([2, 0, 2])

    assert part.spans == (PACKED[2], PACKED[0], PACKED[2])
    assert part.rows == (1, 0)
    assert part.tokens(6) == [7, 8, 9, 0, 1, 2, 7, 8, 9]


def test_packed_samples_are_set_side_by_side_with_padding_behind_them():
    table = np.arange(12).reshape(2, 6)

    assert side_by_side(table, PACKED, -1).tolist() == [[0, 1, 2], [3, 4, -1], [7, 8, 9]]


# --- packed rows -----------------------------------------------------------------------------

IDS = torch.tensor([[1, 5, 6, 1, 7, 1, 8, 9, 4]])
SPANS = (Span(0, 0, 3), Span(0, 3, 5), Span(0, 5, 9))
RESTART = torch.tensor([[0, 1, 2, 0, 1, 0, 1, 2, 3]])
ENDS = torch.tensor([0, 3, 5, 9])


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param({"cu_seqlens": ENDS}, id="cu_seqlens"),
        pytest.param({"cu_seq_lens_q": ENDS, "cu_seq_lens_k": ENDS}, id="cu_seq_lens"),
        pytest.param({"cu_seqlens": torch.tensor([0, 3, 5, 9, 9])}, id="ends that repeat"),
        pytest.param({"seq_idx": torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2]])}, id="seq_idx"),
        pytest.param({"position_ids": RESTART}, id="positions"),
        pytest.param({"position_ids": RESTART.expand(3, 1, 9)}, id="three planes"),
        pytest.param({"position_ids": RESTART.expand(4, 1, 9)}, id="four planes"),
        pytest.param({"position_ids": RESTART, "cu_seq_lens_q": ENDS}, id="two that agree"),
    ],
)
def test_every_sign_of_packing_gives_the_same_spans(packed):
    batch = vd.read_batch({"input_ids": IDS, **packed})

    assert batch.packed == SPANS
    assert len(batch) == 3
    assert batch.counts["token"] == (3, 2, 4)
    assert batch.ambiguities == ()


@pytest.mark.parametrize("planes", [3, 4])
def test_an_image_at_the_end_of_a_packed_sample_is_no_padding(planes):
    """Its tokens are all the same, and M-RoPE's places of some planes do not go on by one."""
    text, time = [0, 1, 2, 3, 4, 0, 1], [0, 1, 1, 1, 1, 0, 1]
    height, width = [0, 1, 1, 2, 2, 0, 1], [0, 1, 2, 1, 2, 0, 1]
    places = torch.tensor([text, time, height, width])[-planes:, None]
    batch = vd.read_batch(
        {"input_ids": torch.tensor([[1, 4, 4, 4, 4, 1, 7]]), "position_ids": places}
    )

    assert batch.packed == (Span(0, 0, 5), Span(0, 5, 7))
    assert batch.ambiguities == ()


@pytest.mark.parametrize("lengths", [[3, 2, 4], (3, 2, 4), [[3, 2, 4]], torch.tensor([3, 2, 4])])
def test_lengths_can_be_given(lengths):
    assert vd.read_batch({"input_ids": IDS}, seq_lens=lengths).packed == SPANS


def test_several_rows_can_be_packed():
    ids = torch.tensor([[1, 5, 1, 6, 7], [1, 8, 9, 0, 0]])
    starts = torch.tensor([[0, 1, 0, 1, 2], [0, 1, 2, 0, 0]])
    spans = (Span(0, 0, 2), Span(0, 2, 5), Span(1, 0, 3))
    mask = (ids != 0).long()

    assert vd.read_batch({"input_ids": ids}, seq_lens=[[2, 3], [3]]).packed == spans
    batch = vd.read_batch({"input_ids": ids, "position_ids": starts, "attention_mask": mask})
    assert batch.packed == spans
    assert batch.tokens("input_ids", 2).tolist() == [1, 8, 9]


@pytest.mark.parametrize(
    "positions",
    [
        pytest.param([0, 1, 2, 3, 4, 5], id="one sample"),
        pytest.param([0, 1, 2, 3, 0, 0], id="padding at the end"),
        pytest.param([0, 0, 0, 1, 2, 3], id="padding at the begin"),
        pytest.param([4, 5, 6, 7, 8, 9], id="behind a prefix"),
    ],
)
def test_positions_of_one_sample_are_not_packed(positions):
    ids = torch.tensor([[1, 5, 6, 7, 8, 9]])
    batch = vd.read_batch({"input_ids": ids, "position_ids": torch.tensor([positions])})

    assert batch.packed is None


@pytest.mark.parametrize(
    ("open_row", "why"),
    [
        pytest.param({}, "one row without attention_mask and position_ids", id="no sign"),
        pytest.param({"max_length_q": 4}, "max_length_q is 4, below the 9 tokens", id="longest"),
        pytest.param(
            {"position_ids": RESTART + 1}, "go back at token 3 of row 0, but not to 0", id="from 1"
        ),
    ],
)
def test_a_row_that_may_be_one_sample_or_several_is_said_to_be_undecided(open_row, why):
    inputs = {"input_ids": IDS, **open_row}
    report = vd.check(inputs)

    assert report.verdict == "AMBIGUOUS"
    assert any(why in text for text in report.ambiguities)
    assert not any(why in text for text in vd.check(inputs, seq_lens=[3, 2, 4]).ambiguities)


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        pytest.param(
            {"cu_seqlens": torch.tensor([0, 4, 5, 9]), "position_ids": RESTART},
            r"\[4, 1, 4\] tokens by cu_seqlens, \[3, 2, 4\] by position_ids",
            id="seam off by one",
        ),
        pytest.param(
            {"cu_seq_lens_q": torch.tensor([0, 3, 5, 12])},
            "cu_seq_lens_q does not divide 1 row of 9 tokens",
            id="ends of the padded row",
        ),
    ],
)
def test_signs_of_packing_that_contradict_are_a_finding(packed, said):
    inputs = {"input_ids": IDS, **packed}

    with pytest.raises(vd.BadInput, match=said):
        vd.read_batch(inputs)
    assert [found.code for found in vd.check(inputs).findings] == ["VLM010"]


@pytest.mark.parametrize("lengths", [[3, 2, 5], [3, 0, 2], [True, 2], "9", 9, [[3], [2]]])
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(vd.BadInput, match="seq_lens is"):
        vd.read_batch({"input_ids": IDS}, seq_lens=lengths)


@pytest.mark.parametrize("family", ["llava", "internvl", "qwen2_5_vl", "gemma4"])
def test_media_of_packed_samples_are_those_of_the_padded_ones(family, built):
    _, processor, calls, _ = packed_calls(built, family)
    inputs = vd.tiny.batch(family, images_per_sample=[2, 0, 1], seed=0)
    padded = vd.read_batch(inputs, processor=processor)
    batch = vd.read_batch(calls["2-D"], processor=processor)

    assert {unit: batch.counts[unit] for unit in padded.counts} == padded.counts
    assert batch.features_by_sample == padded.features_by_sample
    assert batch.image.runs == padded.image.runs


def test_a_packed_sample_with_a_lost_placeholder_is_named(built):
    model, processor, calls, _ = packed_calls(built, "qwen2_5_vl")
    call, token = calls["planes"], model.config.image_token_id
    ids = call["input_ids"].clone()
    ids[0, (ids[0] == token).nonzero()[-1]] = 9
    report = vd.check({**call, "input_ids": ids}, processor=processor, config=model.config)

    assert {found.code for found in report.findings} == {"VLM010"}
    assert {sample for one in report.mismatches for sample in one.samples} == {2}


def test_a_packed_sample_with_wrong_labels_is_named(built):
    model, processor, calls, _ = packed_calls(built, "llava")
    call = calls["2-D"]
    labels = call["input_ids"].clone()
    labels[labels == model.config.image_token_id] = -100
    labels[call["position_ids"] == 0] = -100
    across, wrong = labels.clone(), labels.clone()
    first = int((call["position_ids"][0] == 0).nonzero()[1])
    across[0, first] = call["input_ids"][0, first]
    wrong[0, -1] += 1
    known = {"processor": processor, "config": model.config}

    assert vd.check({**call, "labels": labels}, **known).ok
    (seam,) = vd.check({**call, "labels": across}, **known).findings
    assert seam.code == "VLM013"
    assert seam.message.startswith("the first token of sample 1, at column")
    found = vd.check({**call, "labels": wrong}, **known).findings
    assert [(one.code, one.worst.samples) for one in found] == [("VLM013", (2,))]


def test_packed_rows_are_not_cut(built):
    model, processor, calls, _ = packed_calls(built, "llava")
    batch = vd.read_batch(calls["2-D"], processor=processor)

    for cut in (
        lambda: batch.chunks(1),
        lambda: vd.check(vd.slicers.by_sample, batch),
        lambda: vd.export(batch),
        lambda: vd.prove(vd.slicers.by_sample, batch, model),
    ):
        with pytest.raises(vd.BadInput, match="packed rows cannot be cut yet"):
            cut()


def test_a_report_on_a_packed_batch_can_be_shown(built):
    _, processor, calls, _ = packed_calls(built, "qwen2_5_vl")
    report = vd.check(calls["planes"], processor=processor, pictures=True)

    assert "tokens per sample 63 24 39 (from position_ids)" in str(report)
    assert "<table" in report.to_html()
    assert vd.Report.from_json(report.to_json()).counts == report.counts
    assert report.plot_layout() is not None
    assert report.plot() is not None


def packed_calls(built, family):
    """A tiny model, its processor, packed calls by their `position_ids`, and the logits alone."""
    model, processor = built[family]
    whole = vd.tiny.batch(family, images_per_sample=[2, 0, 1], seed=0)
    parts, alone = [], []
    for chunk in vd.read_batch(whole, processor=processor).chunks(1):
        keep, shape = chunk["attention_mask"][0].bool(), chunk["input_ids"].shape
        parts.append({k: v[:, keep] if v.shape == shape else v for k, v in chunk.items()})
        with torch.no_grad():
            alone.append(model(**parts[-1], use_cache=False).logits[0])
    call = {}
    for key in parts[0].keys() - {"attention_mask"}:
        along = int(parts[0][key].shape == parts[0]["input_ids"].shape)
        call[key] = torch.cat([part[key] for part in parts if key in part], along)
    lengths = [part["input_ids"].shape[1] for part in parts]
    places = torch.cat([torch.arange(length) for length in lengths])[None]
    calls = {"none": call, "2-D": {**call, "position_ids": places}}
    calls["mask"] = {**calls["2-D"], "attention_mask": torch.ones_like(places)}
    index = getattr(getattr(model, "model", model), "get_rope_index", None)
    if index is not None:
        names = inspect.signature(index).parameters
        rope = [
            index(**{name: part.get(name) for name in names if name in part or "grid" in name})[0]
            for part in parts
        ]
        calls["planes"] = {**call, "position_ids": torch.cat([places[None], torch.cat(rope, 2)])}
        calls["3 planes"] = {**call, "position_ids": torch.cat(rope, 2)}
    return model, processor, calls, torch.cat(alone)


def verdict(call, **known):
    """The verdict on a call; a call that is refused counts as a mismatch."""
    try:
        return vd.check(call, **known).verdict
    except vd.BadInput:
        return "MISMATCH"


@pytest.mark.slow
@pytest.mark.parametrize("family", [one for one in architectures() if one not in REFUSES_TEXT])
def test_packed_row_is_ok_only_if_the_model_keeps_its_samples_apart(family, built):
    if family == "mllama":
        pytest.skip("raises with any packed row")
    model, processor, calls, alone = packed_calls(built, family)
    off, verdicts = {}, {}
    for name, call in calls.items():
        with torch.no_grad():
            off[name] = float((model(**call, use_cache=False).logits[0] - alone).abs().max())
        verdicts[name] = verdict(call, processor=processor, config=model.config)

    assert {name for name in off if verdicts[name] == "MISMATCH" and off[name] < 1e-4} == set()
    assert {
        name for name, verdict in verdicts.items() if verdict == "OK" and off[name] > 1e-4
    } == set()
    assert (min(off.values()) < 1e-4) == (family in SEPARATES)
