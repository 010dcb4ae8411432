"""The picture of a report: whose rows stand where, and the images themselves."""

from __future__ import annotations

import html
import re
from base64 import b64decode
from dataclasses import astuple
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname
from xml.etree import ElementTree

import numpy as np
import pytest

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.core.rows import Rows
from vlmdebug.core.scene import Scene
from vlmdebug.families.pictures import scene_of, thumbnail
from vlmdebug.views import picture
from vlmdebug.views.marks import Marks

SCENE = Scene(
    units={"pixel_values": "patch", "image_grid_thw": "image", "input_ids": "sample"},
    images=(2, 0, 1),
    per_image={"patch": (4, 6, 8)},
    tokens=20,
    places=(((2, 3, 0), (5, 8, 1)), (), ((1, 9, 2),)),
)


@pytest.fixture(scope="module")
def batch():
    processor = vd.tiny.build("gemma4")[1]
    inputs = vd.tiny.batch("gemma4", [2, 1, 1], sizes=(160, 160), processor=processor)
    return vd.read_batch(inputs, processor=processor)


@pytest.fixture(scope="module")
def report(batch):
    return vd.check(slicers.by_sample, batch)


def drawing(page):
    """The picture in a page, parsed."""
    found = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"\s+style="width:100%', page)
    assert found
    return ElementTree.fromstring(b64decode(found[1]))


@pytest.mark.parametrize(
    ("key", "rows", "images"),
    [
        ("pixel_values", [(0, 4)], [0]),
        ("pixel_values", [(3, 5)], [0, 1]),
        ("pixel_values", [(10, 18)], [2]),
        ("pixel_values", [(-1, 0)], []),
        ("pixel_values", [], []),
        ("image_grid_thw", [(2, 3), (0, 1)], [2, 0]),
        ("input_ids", [(0, 1)], [0, 1]),
        ("input_ids", [(1, 3)], [2]),
        ("unheard_of", [(0, 1)], []),
    ],
)
def test_rows_are_those_of_images(key, rows, images):
    assert SCENE.images_in(key, Rows(rows)) == images


def test_images_are_named_and_parts_of_them_counted():
    assert [SCENE.name(image) for image in range(3)] == [
        "image A1",
        "image A2",
        "image C1",
    ]
    assert SCENE.share("pixel_values", 2, Rows([(10, 11)])) == "1 of 8 rows of image C1"
    assert SCENE.share("pixel_values", 0, Rows([(0, 6)])) == "image A1"


def test_scene_survives_json(report):
    again = vd.Report.from_json(report.to_json())

    assert again == report
    assert again.scene == report.scene
    assert again.to_html() == report.to_html()


@pytest.mark.parametrize(
    "uri", ["javascript:alert(1)", "https://example.org/a.png", 'data:image/jpeg;base64,"><script>']
)
def test_picture_that_is_none_is_left_out(report, uri):
    data = report.to_dict()
    data["scene"] = {**data["scene"], "thumbnails": {"1": uri, "2": "data:image/jpeg;base64,AA=="}}
    data["scene"]["units"] = {**data["scene"]["units"], "pixel_values": "<b>image</b>"}
    page = vd.Report.from_dict(data).to_html()

    assert uri not in page
    assert "<script" not in page
    assert "<b>image" not in page


def test_wrong_image_stands_beside_the_right_one(report, batch):
    page = report.to_html()
    right, wrong = (f'src="{html.escape(thumbnail(batch, image))}"' for image in (2, 1))
    pair = page[page.index("Sample B should see") : page.index("</tbody>")]

    assert right in pair
    assert wrong in pair
    assert pair.index(right) < pair.index(wrong)
    assert 'alt="image B1"' in pair
    assert 'alt="image A2"' in pair
    assert thumbnail(batch, 3) not in page


def test_dropped_mask_is_not_drawn_as_a_missing_image(batch):
    def without_types(inputs, chunk_size):
        for chunk in slicers.corrected(inputs, chunk_size):
            yield {key: chunk[key] for key in chunk if key != "mm_token_type_ids"}

    report = vd.check(without_types, batch, pictures=True)

    assert [finding.code for finding in report.findings] == ["VLM003"]
    assert "was passed" not in report.to_html().partition("Rows that each chunk")[0]


def test_picture_hatches_what_was_handed_and_fills_what_is_owned(report):
    cut = picture.cuts(report, 1)
    shown = drawing(report.to_html())
    looks = [box.get("fill") for box in shown.iter("{http://www.w3.org/2000/svg}rect")]
    words = [text.text for text in shown.iter("{http://www.w3.org/2000/svg}text")]

    marked = Marks(missing=Rows([(2, 3)]), foreign=Rows([(1, 2)]))
    assert cut["pixel_values"] == picture.Cut(Rows([(2, 3)]), marked)
    images = ["A1", "A2", "B1", "C1"]
    assert words == ["A", "B", "C", *images * 3, *["missing"] * 3]
    assert cut["images"].expected == Rows([(2, 3)])
    assert cut["images"].marks.foreign == Rows([(1, 2)])
    assert "url(#h)" in looks
    assert shown.get("height") == f"{4 * picture.PITCH}"
    assert picture.description(report, 1) == (
        "Chunk 1 holds sample 1 and owns images 2:3; pixel_values: 1:2, not 2:3; "
        "image_position_ids: 1:2, not 2:3"
    )


def test_picture_of_a_right_chunk_has_no_hatch(batch):
    report = vd.check(slicers.corrected, batch, pictures=True)

    overlay = picture.overlay(report, 1, picture.lanes(report))
    assert overlay
    assert "url(#h)" not in overlay
    assert "was handed</th>" not in report.to_html()


@pytest.mark.parametrize("family", ["gemma4", "qwen2_5_vl", "internvl", "idefics3", "llava_next"])
def test_lanes_are_as_wide_as_their_tensors(family):
    batch = vd.make_batch(family, [2, 0, 1], sizes=[1, 2, 3])
    report = vd.check(slicers.corrected, batch, pictures=True)
    found = {lane.name: lane for lane in picture.lanes(report)}

    assert found["samples"].total == 3
    assert found["images"].total == 3
    for key in picture.lines.media(report):
        assert found[key].total == len(batch.inputs[key])
        assert found[key].boxes[-1].stop == len(batch.inputs[key])
    assert {image for *_, image in found["samples"].runs} == {0, 1, 2}
    owners = {image: sample for _, _, sample, image in map(astuple, found["images"].boxes)}
    assert all(int(start) == owners[image] for start, _, image in found["samples"].runs)


def test_big_batches_are_not_pictured_unasked():
    batch = vd.make_batch("gemma4", [1] * 9)

    assert vd.check(slicers.by_sample, batch).scene is None
    assert vd.check(slicers.before_5452, batch, pictures=True).scene is not None
    assert vd.check(slicers.before_5452, vd.make_batch("gemma4", [2]), pictures=False).scene is None


def test_pictured_report_of_a_big_batch_stays_small():
    images = [(2, 0, 3, 1, 2)[sample % 5] for sample in range(63)] + [3]
    report = vd.check(slicers.by_sample, vd.make_batch("gemma4", images), pictures=True)

    assert (len(images), sum(images)) == (64, 104)
    assert len(report._repr_mimebundle_()["text/html"]) <= 60_000


def test_layout_and_map_are_drawn(batch, report):
    pytest.importorskip("matplotlib")
    lanes = vd.plot_layout(batch)
    chunks = report.plot_map()

    assert [label.get_text().split("\n") for label in lanes.get_yticklabels()] == [
        ["samples", "3 samples"],
        ["images", "4 images"],
        ["pixel_values", "4 images"],
        ["image_position_ids", "4 images"],
    ]
    assert [text.get_text() for text in chunks.get_legend().get_texts()] == ["right", "wrong"]
    wrong = chunks.collections[1].get_offsets().tolist()
    assert sorted(wrong) == [[chunk, key] for chunk in range(3) for key in (3, 4)]


def test_report_without_images_says_why_it_cannot_draw_lanes():
    pytest.importorskip("matplotlib")
    report = vd.check(slicers.by_sample, vd.make_batch("gemma4", [1]), pictures=False)

    with pytest.raises(vd.BadInput, match=r"check\(\.\.\., pictures=True\)"):
        report.plot_layout()


def test_cut_of_a_chunk_is_drawn_by_matplotlib_too(report):
    pytest.importorskip("matplotlib")
    drawn = report.plot_layout(chunk=1)
    hatched = [bars for bars in drawn.collections if bars.get_hatch()]
    missing = [bars for bars in drawn.collections if bars.get_linewidth()[0] == 1.5]

    assert "by_sample on gemma4, 3 samples in chunks of 1: chunk 1" in drawn.get_title("left")
    # Rows 1:2 of four were handed over instead of 2:3, of the pixels and of their positions.
    assert [bars.get_paths()[0].get_extents().x0 for bars in hatched] == [0.25] * 3
    assert [bars.get_paths()[0].get_extents().x0 for bars in missing] == [0.5] * 3


def test_report_is_coloured_for_rich_and_says_the_same(report):
    pytest.importorskip("rich")
    from rich.console import Console
    from rich.text import Text

    console = Console(width=80, force_terminal=True, color_system="standard")
    with console.capture() as captured:
        console.print(report)

    assert "\x1b[1;31mMISMATCH" in captured.get()
    assert Text.from_ansi(captured.get()).plain.rstrip() == str(report).rstrip()
    (linked,) = set(re.findall(r"\x1b\]8;[^;]*;(file:[^\x1b]+VLM002\.md)\x1b", captured.get()))
    assert Path(url2pathname(urlsplit(linked).path)).read_text().startswith("# VLM002: ")


def test_images_side_by_side_have_tokens_of_their_own():
    """One run of placeholder tokens may be two images."""
    batch = vd.make_batch("mistral3", [2, 1], sizes=[2, 3, 1])
    ids = batch.inputs["input_ids"]
    ids[0, 2:] = 0
    ids[0, 2:7] = 3
    found = scene_of(batch)

    assert found is not None
    assert found.places[0] == ((2, 4, 0), (4, 7, 1))
    assert [image for _, _, image in found.places[1]] == [2]


def test_truncated_images_have_tokens_of_nobody():
    batch = vd.make_batch("gemma4", [1, 1])
    batch.inputs["input_ids"][1] = 9
    found = scene_of(batch)

    assert found is not None
    assert {image for sample in found.places for *_, image in sample} == {-1}


def test_videos_have_lanes_too():
    batch = vd.make_batch("qwen2_5_vl", [1, 0])
    grids = {"video_grid_thw": [[1, 2, 2], [2, 2, 2]]}
    batch = vd.read_batch(
        {
            **batch.inputs,
            "video_grid_thw": np.array(grids["video_grid_thw"]),
            "pixel_values_videos": np.zeros((12, 6), dtype=np.float32),
        },
        num_images=[1, 0],
        num_videos=[0, 2],
    )
    found = {lane.name: lane for lane in picture.lanes(vd.check(batch, pictures=True))}

    assert found["video_grid_thw"].total == 2
    assert [astuple(box)[:3] for box in found["pixel_values_videos"].boxes] == [
        (0, 0, 0),
        (0, 12, 1),
    ]


# --- the user's own images -----------------------------------------------------------------


@pytest.mark.parametrize("shape", ["flat", "per sample"])
def test_images_given_are_shown_in_place_of_restored_ones(batch, shape):
    given = vd.tiny.images([2, 1, 1], sizes=(160, 160), seed=5)
    flat = [image for sample in given for image in sample]
    report = vd.check(slicers.by_sample, batch, pictures=flat if shape == "flat" else given)
    restored = vd.check(slicers.by_sample, batch).scene

    assert report.scene.thumbnails.keys() == restored.thumbnails.keys()
    for number, uri in report.scene.thumbnails.items():
        assert uri == thumbnail(batch, number, originals=flat) != restored.thumbnails[number]
    assert flat[0].size == (160, 160)


def test_explorer_shows_the_images_given(batch):
    pytest.importorskip("anywidget")
    from vlmdebug.exploring import LiveSession

    given = vd.tiny.images([2, 1, 1], sizes=(160, 160), seed=5)
    shown = LiveSession(batch, slicers.by_sample, {}, given).thumbnail(2)

    assert shown == thumbnail(batch, 2, 96, [*given[0], *given[1], *given[2]])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "pictures has 0 images, but the batch has 4"),
        ("batch.png", "pictures holds a str"),
        (7, "pictures holds a int"),
        ([[None]], "pictures holds a NoneType"),
    ],
)
def test_images_that_do_not_fit_are_refused(batch, given, message):
    with pytest.raises(vd.BadInput, match=message):
        vd.check(slicers.by_sample, batch, pictures=given)
