"""Packed rows as a picture: samples, seams, images and positions, and every fault of a packer."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packers import OF_MROPE, ORDER, WRONG, Lab, attending

import vlmdebug as vd
from vlmdebug.core.packed_row import Fault, PackedRow, Place
from vlmdebug.core.part import Span, Spans
from vlmdebug.tracking.packed import PackedCall
from vlmdebug.tracking.packed_rows import _lines, _plain, packed_rows
from vlmdebug.views import packed
from vlmdebug.views.sentences import opening_sentence, sentence

LAYOUTS = ["llava", "qwen2_5_vl", "internvl", "idefics3"]
FOR_POSITIONS = {
    "no positions",
    "positions run on",
    "no text plane",
    "one plane",
    "seam off by one",
    "padding left in",
}


@pytest.fixture(scope="module")
def lab(built):
    """`lab("llava")`: a batch of that family and its packers, built once."""
    known: dict[str, Lab] = {}

    def of(family: str) -> Lab:
        if family not in known:
            model, processor = built[family]
            inputs = vd.tiny.batch(family, images_per_sample=[2, 0, 1], seed=0)
            known[family] = Lab(model, processor, inputs)
        return known[family]

    return of


def report_on(lab, wrong="", order=ORDER):
    return vd.check(lab.packer(wrong, order), lab.batch, chunk_size=3, pictures=True)


def wrong_packers(lab):
    return [one for one in WRONG if lab.mrope or one not in OF_MROPE]


def words(lanes):
    """What stands in the picture, in reading order."""
    return re.findall(r">([^<>]+)</text>", packed.svg(lanes))


@pytest.mark.parametrize("family", LAYOUTS)
def test_right_packer_has_samples_seams_and_positions_that_start_again(family, lab):
    lab = lab(family)
    report = report_on(lab)
    (row,) = report.packed
    lengths = [len(lab.alone[sample]) for sample in ORDER]
    begins = [sum(lengths[:at]) for at in range(3)]

    assert report.ok
    assert row.samples == tuple(ORDER)
    assert [place.start for place in row.places] == begins
    assert row.off == row.faults == ()
    assert [line.start for line in row.due if line.first == 0][:3] == begins
    assert {look for lane in packed.lanes(report, 0) for look in lane.used} == {"passed"}
    assert words(packed.lanes(report, 0)) == ["C", "A", "B", "C1", "A1", "A2"]


@pytest.mark.parametrize("family", LAYOUTS)
def test_every_fault_of_a_packer_is_seen_and_said(family, lab):
    lab = lab(family)
    for wrong in wrong_packers(lab):
        report = report_on(lab, wrong)
        lanes = packed.lanes(report, 0)
        looks = {look for lane in lanes for look in lane.used}

        assert looks - {"passed"} or wrong == "one plane", wrong
        assert any(lane.said for lane in lanes), wrong
        assert "; " in packed.description(report, 0, lanes), wrong


@pytest.mark.parametrize("family", LAYOUTS)
def test_positions_are_off_only_where_the_verdict_says_so(family, lab):
    lab = lab(family)
    for wrong in wrong_packers(lab):
        (row,) = report_on(lab, wrong).packed
        seen = bool(row.off) or (not row.given and row.due != ()) or wrong == "one plane"

        assert seen == (wrong in FOR_POSITIONS), wrong


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_numbers_added_to_all_positions_are_not_off(family, lab):
    lab = lab(family)

    def later(inputs, chunk_size):
        call = lab.packed()
        yield {**call, "position_ids": call["position_ids"] + 7}

    report = vd.check(later, lab.batch, chunk_size=3, pictures=True)

    assert report.ok
    assert report.packed[0].off == ()


def test_positions_that_a_mask_makes_free_are_not_off(lab):
    lab = lab("llava")
    lengths = [len(lab.alone[sample]) for sample in ORDER]
    total = sum(lengths)
    index = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    blocks = (index[:, None] == index[None]) & torch.ones(total, total, dtype=torch.bool).tril()

    def packer(inputs, chunk_size):
        call = lab.packed()
        places = torch.arange(total)[None]
        yield {**call, "attention_mask": blocks[None, None], "position_ids": places}

    report = vd.check(packer, lab.batch, chunk_size=3, pictures=True)

    assert report.mismatches == ()
    assert report.packed[0].off == ()


def test_other_planes_are_drawn_where_they_alone_differ(lab):
    lab = lab("qwen2_5_vl")

    def turned(inputs, chunk_size):
        call = lab.packed()
        yield {**call, "position_ids": call["position_ids"][[0, 1, 3, 2]]}

    report = vd.check(turned, lab.batch, chunk_size=3, pictures=True)
    (row,) = report.packed

    assert report.findings[0].code == "VLM014"
    assert (row.plane, bool(row.off)) == ("height", True)
    assert row.faults[0].column == row.off[0][0]
    assert re.search(r"has position \d+ in height instead of \d+", opening_sentence(report))


def test_images_are_seen_by_the_tokens_that_get_them(lab):
    lab = lab("llava")
    turned = packed.lanes(report_on(lab, "images in batch order"), 0)
    lost = packed.lanes(report_on(lab, "an image lost"), 0)
    other = packed.lanes(report_on(lab, "media of another sample"), 0)

    assert turned[1].said == ["tokens of C1 see A1", "tokens of A1 see A2", "tokens of A2 see C1"]
    assert [*lost[1].used] == ["passed", "missing"]
    assert lost[1].said == ["tokens of A2 see no image"]
    assert other[1].said == ["tokens of C1 see A1"]


def test_part_of_an_image_is_no_whole_one(lab):
    lab = lab("qwen2_5_vl")

    def packer(inputs, chunk_size):
        call = lab.packed()
        yield {**call, "pixel_values": call["pixel_values"][:-4]}

    lanes = packed.lanes(vd.check(packer, lab.batch, chunk_size=3, pictures=True), 0)

    assert lanes[1].said == ["tokens of A2 see a part of it"]
    assert "altered" in lanes[1].used


def test_samples_that_come_again_or_in_part_are_marked(lab):
    lab = lab("llava")

    def cut(inputs, chunk_size):
        call = lab.packed()
        wide = call["input_ids"].shape[1]
        along = {k: v for k, v in call.items() if getattr(v, "shape", None) == (1, wide)}
        yield call | {key: value[:, :-2] for key, value in along.items()}

    twice = packed.lanes(report_on(lab, "a sample twice"), 0)[0]
    part = packed.lanes(vd.check(cut, lab.batch, chunk_size=3, pictures=True), 0)[0]

    assert twice.said == ["sample C comes 2 times"]
    assert part.said == ["sample B lacks 2 tokens"]


def test_positions_that_only_flash_attention_overrides_are_not_compared(lab):
    lab = lab("llava")

    def packer(inputs, chunk_size):
        call = lab.packed()
        wide = call["input_ids"].shape[1]
        yield {**call, "position_ids": torch.arange(wide)[None]}

    report = vd.check(packer, attending(lab, None), chunk_size=3, pictures=True)
    lane = next(one for one in packed.lanes(report, 0) if one.name == "position_ids")

    assert report.verdict == "AMBIGUOUS"
    assert [*lane.used] == ["unknown"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("no positions", "Samples C, A and B share a row, but no position_ids start again with"),
        ("positions run on", "Sample A goes on at position 37 instead of starting at 0, and the m"),
        ("seam off by one", "Sample A has position 0 instead of 1, and the model does not notice."),
        ("labels across a seam", "Sample A learns its first token from another sample, and the mo"),
        ("padding left in", "Sample A sees padding that its positions count, and the model does n"),
        ("ends of the padded row", "Sample A begins where cu_seq_lens_q has no end."),
    ],
)
def test_report_says_first_what_happens_at_the_seam(wrong, said, lab):
    assert opening_sentence(report_on(lab("llava"), wrong)).startswith(said)


def test_another_fault_of_a_key_is_not_described_as_one_at_the_seam():
    """Labels that moved by one token: all are wrong, and so are the first ones of B and C."""
    made = vd.make_batch("llava", [2, 0, 1]).inputs
    real = made["attention_mask"].bool()  # (sample, seq)
    labels = made["input_ids"].where(real, -100)
    batch = vd.read_batch({**made, "labels": labels}, layout="llava", num_images=[2, 0, 1])
    right = vd.export(batch, packed=True).function

    def packer(inputs, chunk_size):
        for row in right(inputs, chunk_size):
            yield {**row, "labels": row["labels"].roll(1, 1)}

    report = vd.check(packer, batch, chunk_size=3)
    of_all = [m for m in report.mismatches if m.key == "labels" and len(m.samples) > 1]
    of_b = [m for m in report.mismatches if m.key == "labels" and m.samples == (1,)]

    assert [one.code for one in of_all] == ["VLM011"]
    assert sentence(report, of_all[0]).startswith("Samples 0:3 were given labels with other")
    assert "Sample B learns its first token from another sample" in {
        sentence(report, one).partition(",")[0] for one in of_b
    }


ENDS = {"cu_seq_lens_q": torch.int32, "cu_seqlens": torch.float32, "max_length_q": torch.int64}


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 5), min_size=1, max_size=4),
    first=st.integers(-2, 3),
    planes=st.sampled_from([0, 4]),
    keys=st.sets(st.sampled_from([*ENDS, "seq_idx"])),
    behind=st.integers(0, 2),
)
def test_plain_rows_are_drawn_as_all_others_are(lab, sizes, first, planes, keys, behind):
    """They are made from their samples alone; `behind`: padding, so that a row is not plain."""
    own = lab("qwen2_5_vl" if planes else "llava")
    ends = [0, *np.cumsum(sizes).tolist()]
    width = ends[-1] + behind
    order = torch.zeros(width, dtype=torch.long)
    for start, stop in pairwise(ends):
        order[start:stop] = torch.arange(stop - start) + first
    call = {"input_ids": torch.zeros(1, width, dtype=torch.long)}
    call["position_ids"] = order.expand(planes, 1, width) if planes else order[None]
    call |= {key: torch.tensor(ends, dtype=ENDS[key]) for key in keys & ENDS.keys()}
    if "seq_idx" in keys:
        call["seq_idx"] = torch.arange(len(ends)).repeat_interleave(torch.tensor([*sizes, behind]))[
            None
        ]
    spans = Spans([Span(0, *one) for one in pairwise(ends)])
    places = [Place(sample, *one) for sample, one in enumerate(pairwise(ends))]
    packed = PackedCall(own.batch, call, spans, [*range(len(sizes))], None)
    packed.starts(order[None].numpy())
    plain = _plain(packed, (), places)
    packed.first = None  # so that it is looked at as all others are

    assert (plain is None) == bool(behind)
    assert plain is None or (plain,) == packed_rows(packed, (), places)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_packed_rows_survive_json_and_draw_the_same_page(family, lab):
    lab = lab(family)
    for wrong in ("", *wrong_packers(lab)):
        report = report_on(lab, wrong)
        again = vd.Report.from_json(report.to_json())

        assert again.packed == report.packed
        assert again.to_html() == report.to_html()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", -1),
        ("places", [[9, 0, 4, 0, 0]]),
        ("places", [[0, 4, 2, 0, 0]]),
        ("given", [[0, 9999, 0, 1]]),
        ("given", [[0, 4, 0]]),
        ("due", [[0, 4, 2**60, 1]]),
        ("off", [[5, 4]]),
        ("ends", {"cu_seqlens": ["0"]}),
        ("faults", [["labels"]]),
        ("chunk", 7),
        ("plane", None),
        ("script", "x"),
    ],
)
def test_packed_rows_that_do_not_fit_are_refused(name, value, lab):
    data = json.loads(report_on(lab("llava"), "positions run on").to_json())
    data["packed"][0][name] = value

    with pytest.raises(vd.BadInput, match=r"packed\[0\]"):
        vd.Report.from_dict(data)


def test_names_from_a_file_cannot_act(lab):
    evil = "</text><script>alert(1)</script>"
    report = report_on(lab("llava"))
    row = replace(report.packed[0], ends={evil: (0, 4)}, faults=(Fault(f"{evil}2", 3),), plane=evil)
    page = replace(report, packed=(row,)).to_html()
    pictures = [b64decode(one).decode() for one in re.findall(r"svg\+xml;base64,([^\"]+)", page)]

    assert "<script" not in page
    assert all("<script" not in one for one in pictures)
    assert all(ElementTree.fromstring(one).tag.endswith("svg") for one in pictures)


BIG = 2**62
ODD = {
    "large": lambda call: {"position_ids": call["position_ids"] * 0 + BIG},
    "the least number": lambda call: {"position_ids": call["position_ids"] * 0 - 2**63},
    "not whole": lambda call: {"position_ids": call["position_ids"].float() * 1e30},
    "no numbers": lambda call: {"position_ids": call["position_ids"] * float("nan")},
    "truth values": lambda call: {"position_ids": call["position_ids"].bool()},
    "without columns": lambda call: {"position_ids": call["position_ids"][..., :0]},
    "one number": lambda call: {"position_ids": torch.tensor(3)},
    "five planes": lambda call: {"position_ids": torch.zeros(5, *call["input_ids"].shape)},
    "turned round": lambda call: {"position_ids": call["position_ids"].flip(-1)},
    "large ends": lambda call: {"cu_seq_lens_q": torch.tensor([0, BIG])},
    "ends that are not whole": lambda call: {"cu_seq_lens_q": torch.tensor([0, 1e30])},
    "ends below 0": lambda call: {"cu_seq_lens_q": torch.tensor([-5, 7])},
    "bytes": lambda call: {"seq_idx": torch.zeros_like(call["input_ids"], dtype=torch.uint8)},
    "lengths": lambda call: {"max_length_q": 1},
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@pytest.mark.parametrize("odd", ODD)
def test_odd_numbers_are_drawn_or_left_out(odd, family, lab):
    lab = lab(family)

    def packer(inputs, chunk_size):
        call = lab.packed()
        yield call | ODD[odd](call)

    report = vd.check(packer, lab.batch, chunk_size=3, pictures=True)

    assert not report.ok
    assert vd.Report.from_json(report.to_json()).packed == report.packed
    assert packed.lanes(report, 0)[0].name == "row 0"
    assert "This view of the report failed" not in report._repr_mimebundle_()["text/html"]


def test_row_of_text_alone_is_drawn():
    batch = vd.make_batch("llava", [0, 0, 0])
    report = vd.check(vd.export(batch, packed=True).function, batch, chunk_size=3)

    assert report.ok
    assert [lane.name for lane in packed.lanes(report, 0)] == [
        "row 0",
        "position_ids",
        "cu_seq_lens_q",
    ]
    assert "Packed rows of chunk 0" in report._repr_mimebundle_()["text/html"]


def test_packed_batch_alone_shows_the_row_of_each_sample(lab):
    lab = lab("llava")
    inputs = lab.packed()
    batch = vd.read_batch(inputs, processor=lab.processor, num_images=[1, 2, 0])
    report = vd.check(batch, pictures=True)

    assert [row.samples for row in report.packed] == [(0, 1, 2)]
    for sample in range(3):
        lanes = packed.lanes(report, sample)
        assert words(lanes)[:3] == ["A", "B", "C"]


def test_each_chunk_shows_its_own_rows(lab):
    lab = lab("llava")

    def rows(inputs, chunk_size):
        yield lab.packed(order=[2, 0])
        yield lab.packed(order=[1])

    report = vd.check(rows, lab.batch, chunk_size=2, pictures=True)

    assert [row.chunk for row in report.packed] == [0, 1]
    assert packed.description(report, 1, packed.lanes(report, 1)).startswith("Row 0 holds sample B")


def test_rows_beyond_the_most_are_counted(lab):
    report = report_on(lab("llava"))
    many = replace(report, packed=tuple(replace(report.packed[0], row=at) for at in range(7)))
    lanes = packed.lanes(many, 0)

    assert len({lane.row.row for lane in lanes}) == packed.MOST_ROWS
    assert "3 more rows not drawn" in packed.legend(many, 0, lanes)


def test_padded_chunks_have_no_packed_rows():
    batch = vd.make_batch("llava", [1, 2])
    report = vd.check(vd.slicers.corrected, batch, pictures=True)

    assert report.packed == ()
    assert packed.lanes(report, 0) == []
    assert "Packed rows" not in report.to_html()


def test_explorer_shows_packed_rows_of_models_that_keep_samples_apart(lab):
    pytest.importorskip("anywidget")
    explorer = vd.explore(lab("llava").batch)
    explorer.slicer, explorer.chunk_size = "packed", 3

    assert explorer._judged["verdict"] == "OK"
    assert explorer._cut["packed"]["said"].startswith("Row 0 holds samples A to C in")
    assert [name for name, *_ in explorer._cut["packed"]["lanes"]][:3] == [
        "row 0",
        "images",
        "position_ids",
    ]
    explorer.slicer = "as expected"
    assert explorer._cut["packed"] == {}
    assert "packed" not in vd.explore(vd.make_batch("gemma4", [1, 1])).slicers


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40), st.data())
@settings(max_examples=200, deadline=None)
def test_lines_are_the_values_that_they_were_made_of(values, data):
    seam = data.draw(st.integers(1, len(values) - 1))
    lines = _lines(np.array(values), [(0, seam), (seam, len(values))])

    assert lines is not None
    assert [PackedRow.at(lines, column) for column in range(len(values))] == values
    assert all(before.stop == after.start for before, after in pairwise(lines))
    assert seam in {line.start for line in lines}


def test_positions_of_too_many_lines_are_left_out():
    assert _lines(np.arange(0, 20_000, 2), [(0, 10_000)]) is None


def test_row_knows_the_place_of_its_samples():
    row = PackedRow(0, 9, (Place(2, 0, 4), Place(0, 4, 9)), faults=(Fault("labels", 4),))

    assert row.samples == (2, 0)
    assert row.wrong == {"labels"}
