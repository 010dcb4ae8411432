"""The explorer's values: what is on screen can be read and set in Python."""

from __future__ import annotations

import asyncio
import re

import pytest

import vlmdebug as vd
from vlmdebug import slicers
from vlmdebug.families.pictures import thumbnail

pytest.importorskip("anywidget")

from vlmdebug.views import picture
from vlmdebug.views.explorer import Explorer


@pytest.fixture(scope="module")
def processor():
    return vd.tiny.build("gemma4")[1]


@pytest.fixture
def inputs(processor):
    return vd.tiny.batch("gemma4", [2, 1, 1, 0], sizes=(160, 160), processor=processor)


@pytest.fixture
def explorer(inputs, processor) -> Explorer:
    return vd.explore(slicers.by_sample, inputs, processor=processor)


def test_screen_shows_the_report_of_the_slicer_given(explorer, inputs, processor):
    report = vd.check(slicers.by_sample, inputs, processor=processor)

    assert explorer.slicer == "by_sample"
    assert explorer.report.mismatches == report.mismatches
    assert explorer._judged["verdict"] == "MISMATCH"
    assert explorer._judged["chunks"] == [
        "MISMATCH loud",
        *["MISMATCH silent"] * 2,
        "MISMATCH loud",
    ]
    assert [lane["name"] for lane in explorer._batch["lanes"]] == [
        "samples",
        "images",
        "pixel_values",
        "image_position_ids",
    ]


def test_cut_on_screen_is_what_is_owned_and_what_was_handed(explorer):
    explorer.chunk = 1

    drawn = picture.lanes(explorer.report)
    assert explorer._cut["svg"] == picture.overlay(explorer.report, 1, drawn)
    assert explorer._cut["said"] == picture.description(explorer.report, 1)
    assert explorer._batch["svg"] == picture.outlines(drawn)


def test_right_and_wrong_image_stand_side_by_side(explorer, inputs, processor):
    batch = vd.read_batch(inputs, processor=processor)
    explorer.chunk = 1
    right, wrong = (explorer._details.index(thumbnail(batch, image, 96)) for image in (2, 1))

    assert explorer._details.index("should see") < right < wrong


def test_setting_a_value_moves_the_view(explorer):
    explorer.chunk_size = 2
    assert explorer.report.chunk_size == 2
    assert len(explorer._judged["chunks"]) == 2

    explorer.slicer = "corrected"
    assert explorer.report.ok
    assert explorer._judged["verdict"] == "OK"

    explorer.chunk_size = 99
    assert explorer.chunk_size == 4


def test_selection_is_a_value_that_can_be_set(explorer):
    explorer.selection = {"lane": "pixel_values", "index": 3}

    assert "<strong>image C1</strong> pixel_values[3:4]" in explorer._details
    explorer.selection = {"lane": "nonsense", "index": "x"}
    assert "image C1" not in explorer._details


def test_undo_goes_back_one_change_at_a_time(explorer):
    assert explorer.chunk == 1  # the first silent one
    explorer.chunk = 3
    explorer.chunk_size = 4  # there is one chunk now, and it is the first
    assert explorer.chunk == 0

    explorer.undo()
    assert (explorer.chunk_size, explorer.chunk) == (1, 3)
    assert explorer.report.chunk_size == 1
    explorer.undo()
    assert explorer.chunk == 1
    explorer.undo()
    assert (explorer.chunk_size, explorer.chunk, explorer.slicer) == (1, 1, "by_sample")


def test_next_mismatch_goes_round_the_end(explorer):
    explorer.slicer = "merged_5452"
    visited = []
    for _ in range(3):
        explorer.next_mismatch()
        visited.append(explorer.chunk)

    assert visited == [3, 3, 3]  # only the sample without images is wrong


def test_buttons_of_the_screen_reach_python(explorer):
    explorer.chunk = 2
    explorer._told(None, "undo", [])
    assert explorer.chunk == 1
    explorer._told(None, "next", [])
    assert explorer.chunk == 2


def test_code_on_screen_is_the_exported_code(explorer, inputs, processor):
    batch = vd.read_batch(inputs, processor=processor)

    assert explorer.code == vd.export(batch).source


def test_code_is_sent_after_the_widget_is_shown(inputs, processor, monkeypatch):
    opened, sent = [], []
    state = Explorer.get_state

    def noted(self, key=None, drop_defaults=False):
        found = state(self, key, drop_defaults)
        (opened if self.comm is None else sent).append(found)
        return found

    async def cell():
        monkeypatch.setattr(Explorer, "get_state", noted)
        vd.explore(inputs, processor=processor)
        before = [*sent]
        await asyncio.sleep(0)
        return before

    before = asyncio.run(cell())

    assert not any("code" in one for one in [*opened, *before])
    assert "def slice_inputs" in sent[-1]["code"]


def test_saved_state_has_the_code(explorer):
    assert explorer.get_state()["code"] == explorer.code


def test_ambiguous_batch_is_settled_on_screen(inputs):
    blind = {key: inputs[key] for key in ("input_ids", "pixel_values", "image_position_ids")}
    explorer = vd.explore(blind)
    assert explorer._batch["ambiguous"]
    assert explorer.report.verdict == "AMBIGUOUS"
    assert explorer.code.startswith("# ")

    explorer.num_images = [2, 1, 1, 0]
    assert explorer.report.counts["image"] == (2, 1, 1, 0)
    assert "def slice_inputs" in explorer.code
    explorer.num_images = [2, 1]
    assert "num_images" in explorer.message
    explorer.undo()
    assert explorer.report.counts["image"] == (2, 1, 1, 0)


def test_layout_can_be_said_on_screen(processor):
    inputs = dict(vd.tiny.batch("gemma4", [1, 1], processor=processor))
    explorer = vd.explore(inputs, processor=processor)
    explorer.layout = "qwen2_5_vl"
    assert explorer.message

    explorer.layout = ""
    assert explorer.message == ""
    assert explorer.report.family == "gemma4"


def test_slicer_that_cannot_run_is_said_and_the_rest_stays(inputs, processor):
    def broken(inputs, chunk_size):
        return 3

    explorer = vd.explore(broken, inputs, processor=processor)
    assert "returned an int" in explorer.message

    explorer.slicer = "corrected"
    assert explorer.message == ""
    assert explorer.report.ok


@pytest.mark.parametrize("made", [0, 2])
def test_exception_of_the_slicer_is_said_on_every_chunk_before_it(made, inputs, processor):
    def broken(inputs, chunk_size):
        yield from list(slicers.corrected(inputs, chunk_size))[:made]
        raise KeyError("image_grid_thw")

    explorer = vd.explore(broken, inputs, processor=processor)
    for explorer.chunk in range(max(made, 1)):
        assert "VLM008" in explorer._details


def test_batch_without_a_slicer_is_as_expected(inputs, processor):
    assert vd.explore(inputs, processor=processor)._judged["subject"].startswith("as expected on")


def test_report_alone_is_shown_as_it_is(explorer):
    saved = vd.Report.from_json(explorer.report.to_json())
    shown = vd.explore(saved)
    shown.chunk = 1

    assert shown.report == saved
    assert shown.slicers == []
    assert shown._cut["svg"] == picture.overlay(saved, 1, picture.lanes(saved))
    with pytest.raises(vd.BadInput, match="is no slicer that can be tried here"):
        explorer.slicer = "nonsense"


def test_what_cannot_be_explored_is_refused():
    with pytest.raises(vd.BadInput, match="it takes a slicer and a batch, a batch alone"):
        vd.explore(1, 2)
    with pytest.raises(vd.BadInput, match="nothing, but"):
        vd.explore()


def test_names_from_the_batch_cannot_act(inputs, processor):
    evil = "<img src=x onerror=alert(1)>"
    batch = vd.read_batch(
        {**inputs, evil: inputs["pixel_values"]},
        processor=processor,
        layout={evil: "image"},
    )

    def dropping(inputs, chunk_size):
        for chunk in batch.chunks(chunk_size):
            yield {**chunk, evil: inputs[evil][:1]}

    explorer = vd.explore(dropping, batch)
    explorer.chunk = 1
    explorer.selection = {"lane": evil, "index": 0}

    assert "alert(1)" in explorer._details
    assert "<img src=x" not in explorer._details


def test_where_widgets_do_not_live_the_report_stands_in(explorer):
    bundle = explorer._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle

    assert "application/vnd.jupyter.widget-view+json" in data
    assert "MISMATCH" in data["text/html"]
    assert data["text/plain"] == str(explorer.report)


def test_other_widgets_can_be_linked(explorer):
    ipywidgets = pytest.importorskip("ipywidgets")
    slider = ipywidgets.IntSlider(min=1, max=4)
    ipywidgets.link((slider, "value"), (explorer, "chunk_size"))
    slider.value = 3

    assert explorer.report.chunk_size == 3


def test_explorer_opens_on_the_first_silent_mismatch(explorer):
    assert explorer.chunk == 1
    explorer.slicer = "merged_5452"

    assert explorer._judged["chunks"][explorer.chunk].startswith("MISMATCH")


def test_chunk_says_first_what_its_sample_sees(explorer):
    assert explorer._cut["sentence"].startswith("Sample B sees image A2 instead of B1")
    explorer.slicer = "corrected"
    explorer.chunk = 3

    assert explorer._cut["sentence"].startswith("Every row of chunk 3 belongs to sample D.")


def test_every_slicer_is_explained(explorer):
    assert list(explorer._about) == list(explorer.slicers)
    assert all(explorer._about.values())
    assert explorer._about["before_5452"] == "The loop of TRL 1.0.0."


def test_relief_shows_every_image_with_its_sample(explorer):
    explorer.slicer = "corrected"
    names = re.findall(r"<strong>(Sample \w)</strong>|<figcaption>image (\w+)<", explorer._details)

    said = [sample or image for sample, image in names]
    assert said == ["Sample A", "A1", "A2", "Sample B", "B1", "Sample C", "C1"]


def test_right_chunk_shows_its_own_images_as_the_proof(explorer, inputs, processor):
    batch = vd.read_batch(inputs, processor=processor)
    explorer.slicer = "corrected"

    assert explorer._cut["sentence"] == (
        "Every row of chunk 1 belongs to sample B. All 4 chunks are right."
    )
    assert thumbnail(batch, 2, 96) in explorer._details


def test_part_of_an_image_that_was_passed_is_all_that_is_shown():
    processor = vd.tiny.build("qwen2_5_vl")[1]
    inputs = vd.tiny.batch("qwen2_5_vl", [1, 1], processor=processor)
    batch = vd.read_batch(inputs, processor=processor)
    shown = vd.explore(slicers.by_sample, batch)
    _, right, given = shown._details.split("<td>")
    image = re.compile('data:image/jpeg[^"]+')

    assert "1 of 40 rows of image A1" in given
    assert len(image.findall(given)) == len(image.findall(right)) == 1
    assert image.findall(given) != image.findall(right)


def test_images_left_out_are_counted(processor):
    inputs = vd.tiny.batch("gemma4", [8], sizes=(96, 96), processor=processor)
    shown = vd.explore(slicers.corrected, inputs, processor=processor)

    assert "and 2 more" in shown._details
