"""Rows that are split over ranks, as a picture: each rank's tokens and positions, and faults."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from packers import Lab, Labs
from sharders import WAYS, WRONG, ShardLab, halve_pixels

import vlmdebug as vd
from vlmdebug.core.packed_row import Held, PackedRow, Place
from vlmdebug.tracking.orders import orders
from vlmdebug.tracking.scattered import counted, scattered_rows
from vlmdebug.tracking.split_rows import held_in
from vlmdebug.views import packed, ranks
from vlmdebug.views.sentences import opening_sentence

FAMILIES = ["llava", "qwen2_5_vl"]


@pytest.fixture(scope="module")
def labs(built):
    """`labs["llava"]`: a batch of that family with labels and positions, built once."""
    return Labs(lambda family: ShardLab(*built[family], family=family))


def report_on(lab, wrong="", ranks=2, way="contiguous", size=3):
    change, _, shift = WRONG.get(wrong, (lambda calls: calls, "", True))
    slicer = lab.sharder(
        ranks, way, shift=shift, embedded=change is not halve_pixels, change=change
    )
    return vd.check(slicer, lab.batch, chunk_size=size, pictures=True)


def lane(report, name, chunk=0):
    return next(one for one in packed.lanes(report, chunk) if one.name == name)


def words(lanes):
    return re.findall(r">([^<>]+)</text>", packed.svg(lanes))


def tokens_of(row):
    """How many ranks have each token."""
    times = np.zeros(row.tokens, dtype=int)
    for one in row.held:
        times[one.start : one.stop : one.step] += 1
    return times


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ranks", [2, 3])
def test_every_token_of_a_right_split_is_drawn_on_one_rank(family, way, ranks, labs):
    report = report_on(labs[family], ranks=ranks, way=way)

    assert report.ok
    assert [row.samples for row in report.packed] == [(0,), (1,), (2,)]
    for row in report.packed:
        assert (tokens_of(row) == 1).all()
        assert row.ranks == ranks
        assert row.off == row.faults == ()
    assert {look for one in packed.lanes(report, 0) for look in one.used} == {"passed"}


def test_zigzag_is_drawn_down_and_up_again(labs):
    row = report_on(labs["llava"], ranks=2, way="zigzag").packed[0]
    drawn = lane(report_on(labs["llava"], ranks=2, way="zigzag"), "ranks")

    assert row.held == (Held(0, 0, 18), Held(0, 54, 72), Held(1, 18, 54))
    assert words([drawn]) == ["rank 0", "rank 0", "rank 1"]
    assert ranks.said(row) == ["rank 0 has tokens 0:18 and 54:72", "rank 1 has tokens 18:54"]
    tops = re.findall(r'<rect x="[\d.]+%" y="(\d+)"', "".join(drawn.marks))
    assert len({*tops}) == 2  # not by colour alone


def test_positions_are_a_curve_for_each_rank(labs):
    row = report_on(labs["llava"], ranks=2, way="zigzag").packed[0]
    looks, given = zip(*ranks.curves(row), strict=True)

    assert len({*looks}) == 2
    assert [[line.start for line in own] for own in given] == [[0, 54, 69], [18]]


@pytest.mark.parametrize("family", FAMILIES)
def test_ranks_that_count_from_0_are_seen_and_said(family, labs):
    report = report_on(labs[family], "no positions")
    row = report.packed[0]
    drawn = lane(report, "position_ids")

    assert report.findings[0].code == "VLM014"
    assert [line.first for line in row.given[:2]] == [0, 0]
    assert row.off
    assert [*drawn.used] == ["foreign"]
    assert FIRST_OFF[family] in opening_sentence(report)


FIRST_OFF = {
    "llava": "Sample A has position 0 instead of ",  # of the second rank
    "qwen2_5_vl": "Sample A has position 11 in time instead of 10",  # of vectors of an image
}


def test_tokens_on_no_rank_are_dashed_and_named(labs):
    report = report_on(labs["llava"], "a token lost")
    drawn = lane(report, "ranks")

    assert [one for one, _ in [*drawn.used.items()]] == ["missing"]
    assert words([drawn]) == ["rank 0", "rank 1", "on no rank"]
    assert drawn.said == ["token 35 is on no rank"]
    assert counted(report.packed)[0] == 2  # of samples A and C
    assert "token 35 is on no rank" in packed.description(report, 0, packed.lanes(report, 0))


def test_tokens_on_two_ranks_are_hatched_and_named(labs):
    report = report_on(labs["llava"], "a token twice")
    drawn = lane(report, "ranks")

    assert [*drawn.used] == ["foreign"]
    assert "on two ranks" in words([drawn])
    assert drawn.said == ["token 34 is on ranks 0 and 1"]


def test_rank_that_is_missing_has_an_empty_step(labs):
    report = report_on(labs["llava"], "a rank lost")
    row = report.packed[0]

    assert (row.ranks, row.samples) == (2, (0,))
    assert ranks.said(row) == ["rank 0 has tokens 0:35", "rank 1 has no tokens"]
    assert ranks.shares(row) == ((35, 69, ()),)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_fault_of_a_split_that_has_a_place_is_drawn(family, labs):
    lab = labs[family]
    undrawn = {"positions not split", "rows of pixels divided", "labels shifted on ranks"}
    for wrong in {*WRONG} - undrawn - {"padding learned"}:
        report = report_on(lab, wrong)
        lanes = packed.lanes(report, 0)

        assert {look for one in lanes for look in one.used} - {"passed"}, wrong
        assert any(one.said for one in lanes), wrong


@pytest.mark.parametrize("family", FAMILIES)
def test_split_rows_survive_json_and_draw_the_same_page(family, labs):
    for wrong in ("", *WRONG):
        report = report_on(labs[family], wrong)
        again = vd.Report.from_json(report.to_json())

        assert again.packed == report.packed
        assert again.to_html() == report.to_html()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ranks", -1),
        ("ranks", "2"),
        ("held", [[2, 0, 4, 1]]),
        ("held", [[0, 4, 2, 1]]),
        ("held", [[0, 0, 9999, 1]]),
        ("held", [[0, 0, 4, 0]]),
        ("held", [[0, 0, 4]]),
        ("held", "all"),
    ],
)
def test_ranks_that_do_not_fit_are_refused(name, value, labs):
    data = json.loads(report_on(labs["llava"]).to_json())
    data["packed"][0][name] = value

    with pytest.raises(vd.BadInput, match="packed"):
        vd.Report.from_dict(data)


def test_rows_that_are_not_split_are_written_as_before(built):
    lab = Lab(*built["llava"], vd.tiny.batch("llava", images_per_sample=[2, 0, 1], seed=0))
    report = vd.check(lab.packer(), lab.batch, chunk_size=3, pictures=True)
    data = json.loads(report.to_json())

    assert not {"ranks", "held"} & data["packed"][0].keys()
    assert all(one.name != "ranks" for one in packed.lanes(report, 0))


def test_packed_row_that_is_split_has_seams_and_ranks(built):
    lab = Lab(*built["llava"], vd.tiny.batch("llava", images_per_sample=[2, 0, 1], seed=0))

    def slicer(inputs, chunk_size):
        call = lab.packed()
        for part in (slice(0, 60), slice(60, None)):
            own = {key: call[key][..., part] for key in ("input_ids", "position_ids")}
            yield {"pixel_values": call["pixel_values"], **own}

    slicer.shards, slicer.embedded = 2, True
    report = vd.check(slicer, lab.batch, chunk_size=3, pictures=True)
    (row,) = report.packed
    lanes = packed.lanes(report, 0)

    assert report.ok
    assert row.samples == (2, 0, 1)
    assert ranks.said(row) == ["rank 0 has tokens 0:60", "rank 1 has tokens 60:130"]
    assert packed.title(report, 0, lanes) == "Packed rows of chunk 0, split over 2 ranks"
    assert "upright lines: seams" in packed.legend(report, 0, lanes)


@pytest.mark.parametrize("number", [1, 2, 5, 8, 9, 40, 300])
@pytest.mark.parametrize("way", WAYS)
def test_any_number_of_ranks_is_drawn(number, way, labs):
    lab = labs["llava"]
    report = report_on(lab, ranks=number, way=way, size=1)
    page = report.to_html()
    pictures = [b64decode(one).decode() for one in re.findall(r"svg\+xml;base64,([^\"]+)", page)]

    assert all(ElementTree.fromstring(one).tag.endswith("svg") for one in pictures)
    assert "This view of the report failed" not in page
    assert lane(report, "ranks").height < 200


def test_explorer_draws_the_ranks_of_a_slicer(labs):
    pytest.importorskip("anywidget")
    explorer = vd.explore(labs["llava"].sharder(2, "zigzag"), labs["llava"].batch, chunk_size=3)
    names = [name for name, *_ in explorer._cut["packed"]["lanes"]]

    assert names[:3] == ["row 0", "ranks", "images"]
    assert "rank 1 has tokens 18:54" in explorer._cut["packed"]["said"]


# --- the record -------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [[4, 4], [6, 6, 6], [5, 4], [3], [4, 4, 4, 4], [0, 2]])
def test_held_tokens_are_those_of_the_order(widths):
    for order in orders(widths):
        held = held_in(order)
        row = PackedRow(0, len(order), (), ranks=len(widths), held=held)

        assert (tokens_of(row) == 1).all()
        for place, (rank, column) in enumerate(zip(order.ranks, order.columns, strict=True)):
            assert row.column(int(rank), int(column)) == place
        assert row.column(0, widths[0]) is None


class Known:
    """The tokens of one sample."""

    def __init__(self, tokens):
        self._tokens = np.array(tokens)

    def length(self, sample):
        return len(self._tokens)

    def text(self, sample):
        return self._tokens

    def columns(self, sample):
        return np.arange(len(self._tokens))


@pytest.mark.parametrize(
    ("parts", "lost", "twice"),
    [
        (((0, 5), (5, 10)), 0, 0),
        (((0, 4), (5, 10)), 1, 0),
        (((0, 6), (5, 10)), 0, 1),
        (((0, 10), (0, 10)), 0, 10),
        (((0, 3), (0, 0)), 7, 0),
        (((5, 10), (0, 5)), 0, 0),
    ],
)
@pytest.mark.parametrize("text", [range(10), [1, 2, 9, 9, 9, 9, 9, 9, 3, 4]])
def test_longest_runs_place_tokens_of_ranks(parts, lost, twice, text):
    whole = np.array(text)
    given = [[whole[start:stop]] for start, stop in parts]
    rows = scattered_rows(Known(whole), given, [0], 2)

    assert counted(rows) == (lost, twice)
    assert rows[0].places == (Place(0, 0, 10),)


def test_tokens_of_other_texts_on_a_rank_leave_a_gap(labs):
    lab = labs["llava"]

    def other(calls):
        ids = calls[1]["input_ids"].clone()
        ids[:, :2] = torch.tensor([5, 6])
        return [calls[0], {**calls[1], "input_ids": ids}]

    report = vd.check(lab.sharder(change=other), lab.batch, pictures=True)

    assert [m.code for m in report.mismatches if m.chunk == 0] == ["VLM006"]
    row = report.packed[0]
    assert ranks.shares(row) == ((35, 37, ()),)
