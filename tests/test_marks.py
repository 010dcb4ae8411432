"""Pictures say what the verdict says: every state has its marks, and every view draws them."""

from __future__ import annotations

import base64
import re

import pytest

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.checking.report import Report
from vlmdebug.core.record import KeyReport
from vlmdebug.core.rows import Rows
from vlmdebug.views import marks as marking
from vlmdebug.views import picture, rows
from vlmdebug.views.html import to_html
from vlmdebug.views.marks import Marks, marks
from vlmdebug.views.strips import svg


def r(*pairs):
    return Rows(pairs)


@pytest.mark.parametrize(
    ("state", "planned", "used", "expected", "said"),
    [
        pytest.param("ok", r((0, 2)), r((0, 2)), Marks(passed=r((0, 2))), "0:2", id="right"),
        pytest.param("planned", r((0, 2)), None, Marks(passed=r((0, 2))), "0:2", id="no slicer"),
        pytest.param("absent", r(), None, Marks(), "absent", id="rightly absent"),
        pytest.param(
            *("wrong rows", r((0, 2)), r((0, 1))),
            Marks(passed=r((0, 1)), missing=r((1, 2))),
            "0:1, 1:2 missing",
            id="one of two passed",
        ),
        pytest.param(
            *("wrong rows", r((3, 4)), r((2, 4))),
            Marks(passed=r((3, 4)), foreign=r((2, 3))),
            "2:4, not 3:4",
            id="one too many",
        ),
        pytest.param(
            *("wrong rows", r((2, 3)), r((1, 2))),
            Marks(missing=r((2, 3)), foreign=r((1, 2))),
            "1:2, not 2:3",
            id="another's",
        ),
        pytest.param(
            *("wrong rows", r((2, 3)), r((2, 3))),
            Marks(altered=r((2, 3)), note="own rows, altered"),
            "2:3, altered",
            id="cut inside",
        ),
        pytest.param(
            *("wrong rows", r((0, 2)), r((1, 2), (0, 1))),
            Marks(altered=r((0, 2)), note="own rows, in another order"),
            "1:2, 0:1, not 0:2",
            id="another order",
        ),
        pytest.param(
            *("wrong rows", r((0, 1)), r((0, 1), (0, 1))),
            Marks(altered=r((0, 1)), note="own rows, repeated"),
            "0:1, 0:1, not 0:1",
            id="twice",
        ),
        pytest.param(
            *("wrong rows", r((0, 1)), r((-1, 0))),
            Marks(missing=r((0, 1)), note="1 row that is not in the batch"),
            "?, not 0:1",
            id="of no sample",
        ),
        pytest.param(
            "dropped",
            r((0, 2)),
            None,
            Marks(missing=r((0, 2))),
            "dropped, 0:2 missing",
            id="dropped",
        ),
        pytest.param(
            *("must be absent", r(), r()),
            Marks(note="0 rows; must be left out"),
            "0 rows; must be left out",
            id="zero rows that must be left out",
        ),
        pytest.param(
            *("must be absent", r(), r((1, 2))),
            Marks(foreign=r((1, 2)), note="1 row; must be left out"),
            "1:2; must be left out",
            id="a row that must be left out",
        ),
        pytest.param(
            *("cannot tell", r((0, 1)), None),
            Marks(unknown=r((0, 1)), note="not compared"),
            "cannot tell",
            id="not compared",
        ),
    ],
)
def test_each_state_has_its_marks_in_drawing_and_words(state, planned, used, expected, said):
    found = KeyReport(state, planned, used)
    right = state in ("ok", "planned", "absent")

    assert marks(found) == expected
    assert marks(found).right == right
    assert rows.cell(found) == said
    assert ("#D55E00" in svg(found, 4)) == (not right and state != "cannot tell")


def dropping(key):
    def slicer(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            yield {name: value for name, value in chunk.items() if name != key}

    return slicer


SLICERS = {
    "by sample": slicers.by_sample,
    "before": slicers.before_5452,
    "merged": slicers.merged_5452,
    "right": slicers.corrected,
    "no pixels": dropping("pixel_values"),
}


@pytest.fixture(scope="module", params=["gemma4", "qwen2_5_vl", "idefics3", "internvl"])
def batch(request):
    return vd.make_batch(request.param, [2, 0, 1], sizes=[1, 2, 3])


@pytest.mark.parametrize("name", SLICERS)
def test_marks_of_every_view_are_the_rows_of_the_verdict(batch, name):
    report = vd.check(SLICERS[name], batch, pictures=True)
    drawn = picture.lanes(report)
    for index, chunk in enumerate(report.chunks):
        cut = picture.cuts(report, index)
        overlay = picture.overlay(report, index, drawn)
        for key, found in chunk.keys.items():
            marked = cut[key].marks
            assert marked == marks(found)
            if found.actual is not None and found.state in ("ok", "wrong rows"):
                own = set(found.expected or ())
                assert set(marked.passed) | set(marked.altered) == own & set(found.actual)
                assert set(marked.missing) == own - set(found.actual)
                assert set(marked.foreign) == {row for row in found.actual if row >= 0} - own
        shown = [cut[lane.name].marks for lane in drawn if lane.name in cut]
        assert ("url(#h)" in overlay) == any(m.foreign or (m.note and not m.items()) for m in shown)
        assert ('stroke-dasharray="6 4"' in overlay) == any(m.missing for m in shown)
        assert all(m.right for m in shown) == rows.chunk_verdicts(report)[index].ok


@pytest.mark.parametrize("name", SLICERS)
def test_pictures_open_on_the_worst_chunk(batch, name):
    report = vd.check(SLICERS[name], batch, pictures=True)
    lines = rows.chunk_verdicts(report)

    assert lines[rows.opening(report)].rank == min(line.rank for line in lines)


def test_unpassed_patches_are_faded():
    processor = vd.tiny.build("qwen2_5_vl")[1]
    inputs = vd.tiny.batch("qwen2_5_vl", [1, 1], processor=processor)
    report = vd.check(slicers.by_sample, inputs, processor=processor)
    page = to_html(report)
    (part,) = report.scene.parts.values()

    assert part not in report.scene.thumbnails.values()
    assert page.count(part) == 1
    assert "1 of 40 rows of image A1" in page


def test_position_ids_of_tokens_are_no_media():
    batch = vd.make_batch("qwen2_5_vl", [1, 1], sizes=[2, 2], position_ids=True)
    report = vd.check(batch, pictures=True)
    data = report.to_dict()
    del data["kinds"], data["axes"]  # as an older version wrote it

    for one in (report, Report.from_dict(data)):
        assert set(rows.media(one)) == {"pixel_values", "image_grid_thw"}
        assert "position_ids" not in [lane.name for lane in picture.lanes(one)]


def test_zero_rows_that_must_be_left_out_have_a_mark_in_the_page():
    report = vd.check(slicers.merged_5452, vd.make_batch("gemma4", [1, 0, 1]))
    drawn = [
        base64.b64decode(data).decode()
        for data in re.findall(r"svg\+xml;base64,([^\"]+)", to_html(report))
    ]

    assert any("0 rows; must be left out" in one for one in drawn)
    assert "0 rows; must be left out" in to_html(report)
    assert "0 rows; must be left out" in str(report)


def test_rows_are_compared_as_sets():
    assert marking.without(r((0, 10)), r((2, 3), (5, 7))) == r((0, 2), (3, 5), (7, 10))
    assert marking.overlap(r((0, 4), (8, 9)), r((3, 9))) == r((3, 4), (8, 9))
    assert marking.repeated(r((0, 3), (2, 4)), r((0, 4))) == r((2, 3))
