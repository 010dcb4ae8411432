"""What a person sees and does: the explorer and the report in a real JupyterLab and Chromium."""

from __future__ import annotations

import re

import lab
import nbformat
import pytest
import torch

import vlmdebug as vd
from vlmdebug import slicers

pytest.importorskip("anywidget")
pytest.importorskip("playwright")
pytest.importorskip("jupyterlab")

pytestmark = [pytest.mark.slow, lab.in_browser]

MAKE = """import vlmdebug as vd
from vlmdebug import slicers
model, processor = vd.tiny.build("gemma4")
inputs = vd.tiny.batch("gemma4", [2, 1, 1, 0], sizes=(160, 160), processor=processor)
explorer = vd.explore(slicers.by_sample, inputs, processor=processor)
explorer"""
OTHER = "other = vd.explore(slicers.merged_5452, inputs, processor=processor)\nother"
READ = "print(explorer.chunk_size, explorer.chunk, explorer.selection, other.chunk_size)"


@pytest.fixture(scope="module")
def chromium():
    with lab.browser() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def address(folder):
    lab.write_notebook(folder / "explore.ipynb", MAKE, OTHER, READ)
    with lab.lab(folder) as url:
        yield url


@pytest.fixture(scope="module")
def notebook(chromium, address):
    """The notebook, run: two explorers, and a cell that reads them."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(60_000)
    lab.open_notebook(page, address, "explore.ipynb")
    lab.command(page, "notebook:run-all-cells")
    page.wait_for_selector(".vlmdebug >> nth=1")
    yield page
    context.close()


@pytest.fixture
def first(notebook):
    """The first explorer, as it was in the beginning."""
    shown = notebook.locator(".vlmdebug").first
    shown.locator("select").select_option("by_sample")
    shown.locator("input[type=range]").fill("1")
    shown.locator(".vlmdebug-chunks button").nth(3).wait_for()
    shown.locator(".vlmdebug-chunks button").first.click()
    notebook.mouse.move(0, 0)
    return shown


def test_explorer_opens_on_the_silent_chunk(notebook):
    opened = notebook.locator(".vlmdebug").first.locator("button[aria-pressed=true]")

    assert opened.inner_text() == "✗1"


def said(shown):
    return shown.locator(".vlmdebug-said").inner_text()


def read_back(page):
    """What the last cell prints when it is run now."""
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    cells.last.locator(".jp-InputArea-editor").click()
    lab.command(page, "notebook:run-cell")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.jp-CodeCell')].at(-1)"
        ".querySelector('.jp-InputPrompt').textContent.match(/\\d/)"
    )
    page.wait_for_timeout(300)
    return cells.last.locator(".jp-OutputArea-output").inner_text().strip()


def test_explorer_shows_verdict_chunks_and_lanes(first):
    assert first.locator(".vlmdebug-verdict").inner_text() == "✗ MISMATCH"
    assert first.locator(".vlmdebug-chunks button").all_inner_texts() == ["✗0", "✗1", "✗2", "✗3"]
    assert "pixel_values\n4 images" in first.locator(".vlmdebug-lanes").inner_text()
    assert first.locator("svg[role=application]").bounding_box()["height"] == 4 * 46
    assert not first.locator("[role=alert]").is_visible()


def test_dragging_the_slider_moves_python_and_the_picture(first, notebook):
    slider = first.locator("input[type=range]").bounding_box()
    notebook.mouse.move(slider["x"] + 6, slider["y"] + slider["height"] / 2)
    notebook.mouse.down()
    notebook.mouse.move(slider["x"] + slider["width"] - 6, slider["y"] + 5, steps=8)
    notebook.mouse.up()
    first.get_by_text("4 samples in chunks of 4").wait_for()

    assert first.locator(".vlmdebug-chunks button").count() == 1
    assert read_back(notebook).startswith("4 0 ")


def test_wrong_image_stands_beside_the_right_one(first):
    first.locator(".vlmdebug-chunks button").nth(1).click()
    captions = first.locator(".vlmdebug-details figcaption")
    captions.filter(has_text="image B1").wait_for()  # the details follow the click
    pictures = first.locator(".vlmdebug-details table img")
    loaded = pictures.evaluate_all("all => all.map(one => one.naturalWidth)")

    assert captions.all_inner_texts() == ["image B1", "image A2"]
    assert all(loaded)


def test_pointer_lights_up_the_same_image_in_every_lane(first, notebook):
    bounds = first.locator("svg[role=application]").bounding_box()
    notebook.mouse.move(bounds["x"] + bounds["width"] * 0.6, bounds["y"] + 46 + 23)
    first.get_by_text("images: image B1, rows 2:3").wait_for()
    lit = first.locator("svg[role=application] > g").nth(2).locator("path").first.get_attribute("d")

    assert lit.count("z") == 4  # its sample, itself, its pixels, their positions
    notebook.mouse.click(bounds["x"] + bounds["width"] * 0.6, bounds["y"] + 2 * 46 + 23)
    first.get_by_text("pixel_values[2:3]").wait_for()
    assert "{'lane': 'pixel_values', 'index': 2}" in read_back(notebook)


def test_what_was_clicked_stays_marked(first, notebook):
    bounds = first.locator("svg[role=application]").bounding_box()
    notebook.mouse.click(bounds["x"] + bounds["width"] * 0.6, bounds["y"] + 2 * 46 + 23)
    first.get_by_text("pixel_values[2:3]").wait_for()
    notebook.mouse.move(0, 0)

    lit = first.locator("svg[role=application] > g").nth(2).locator("path")
    assert lit.count() == 2
    assert said(first).startswith("Chunk 0 holds sample 0")


def test_chunk_buttons_and_slicers_say_what_they_are(first):
    assert "chunks (4 of 4 not ok)" in first.inner_text()
    assert (
        first.locator(".vlmdebug-about").inner_text().startswith("Cut every tensor at the sample")
    )
    first.locator("select").select_option("before_5452")
    first.get_by_text("The loop of TRL 1.0.0.").wait_for()


def test_span_of_tokens_is_the_image_it_stands_for(first, notebook):
    bounds = first.locator("svg[role=application]").bounding_box()
    notebook.mouse.move(bounds["x"] + bounds["width"] * 0.19, bounds["y"] + 23)
    first.get_by_text("samples: image A2, its placeholder tokens").wait_for()
    notebook.mouse.click(bounds["x"] + bounds["width"] * 0.19, bounds["y"] + 23)
    first.locator(".vlmdebug-details > p strong", has_text="image A2").wait_for()

    assert "{'lane': 'images', 'index': 1}" in read_back(notebook)


def test_keyboard_walks_through_rows_and_chunks(first, notebook):
    first.locator("svg[role=application]").focus()
    notebook.keyboard.press("ArrowRight")
    assert said(first).startswith("samples: sample A, rows 0:1")
    notebook.keyboard.press("ArrowRight")
    notebook.keyboard.press("ArrowDown")
    assert said(first).startswith("images: image B1")
    notebook.keyboard.press("ArrowDown")
    assert said(first).startswith("pixel_values: image B1, rows 2:3")
    notebook.keyboard.press("Enter")
    first.get_by_text("pixel_values[2:3]").first.wait_for()

    notebook.keyboard.press("n")
    first.locator(".vlmdebug-chunks button[aria-pressed=true]", has_text="✗1").wait_for()
    notebook.keyboard.press("u")
    first.locator(".vlmdebug-chunks button[aria-pressed=true]", has_text="✗0").wait_for()


def test_corrected_code_can_be_copied_and_downloaded(first, notebook):
    first.locator("summary").click()
    first.get_by_role("button", name="copy").click()
    first.get_by_role("button", name="copied").wait_for()
    clipboard = notebook.evaluate("navigator.clipboard.readText()")
    with notebook.expect_download() as waiting:
        first.get_by_role("button", name="download").click()

    assert waiting.value.suggested_filename == "slice_inputs.py"
    assert waiting.value.path().read_text() == clipboard
    compile(clipboard, "slice_inputs.py", "exec")
    assert "def slice_inputs(inputs, chunk_size)" in clipboard
    first.locator("summary").click()


def test_two_explorers_are_two(first, notebook):
    second = notebook.locator(".vlmdebug").nth(1)
    second.locator("input[type=range]").fill("2")
    second.get_by_text("merged_5452 on gemma4, 4 samples in chunks of 2").wait_for()

    assert first.locator(".vlmdebug-chunks button").count() == 4
    assert read_back(notebook).endswith(" 2")


def contrast(shown):
    """Least contrast of text to what is behind it, as WCAG computes it."""
    return shown.evaluate(
        """root => {
          const parse = text => text.match(/[\\d.]+/g).map(Number);
          const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
            .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
          let behind = root;
          const see = element => parse(getComputedStyle(element).backgroundColor);
          while (see(behind)[3] === 0) behind = behind.parentElement;
          const paper = light(see(behind));
          return Math.min(...[...root.querySelectorAll("span, button, p, label, summary")]
            .filter(one => one.textContent && one.offsetHeight)
            .map(one => light(parse(getComputedStyle(one).color)))
            .map(ink => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05)));
        }"""
    )


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_explorer_reads_in_light_and_dark(first, notebook, theme):
    lab.command(notebook, "apputils:change-theme", theme=theme)
    notebook.wait_for_selector(f"body[data-jp-theme-name='{theme}']", state="attached")
    notebook.wait_for_timeout(300)

    assert contrast(first) >= 4.5


def test_explorer_lives_again_after_the_kernel_was_restarted(notebook):
    lab.command(notebook, "kernelmenu:restart-and-clear")
    accept = notebook.locator(".jp-Dialog .jp-mod-accept")
    accept.wait_for()
    accept.click()
    notebook.wait_for_selector(".vlmdebug", state="detached")
    lab.command(notebook, "notebook:run-all-cells")
    notebook.wait_for_selector(".vlmdebug >> nth=1")

    assert notebook.locator(".vlmdebug-verdict").first.inner_text() == "✗ MISMATCH"


@pytest.fixture(scope="module")
def report():
    processor = vd.tiny.build("gemma4")[1]
    inputs = vd.tiny.batch("gemma4", [2, 1, 1], sizes=(160, 160), processor=processor)
    return vd.check(slicers.by_sample, inputs, processor=processor)


@pytest.fixture(scope="module")
def saved(report, folder):
    """A notebook that somebody else has run."""
    output = nbformat.v4.new_output("display_data", data=report._repr_mimebundle_())
    cell = nbformat.v4.new_code_cell("report", outputs=[output])
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata=lab.METADATA)
    nbformat.write(notebook, folder / "saved.ipynb")
    return folder / "saved.ipynb"


def legible(shown):
    """Whether verdict, finding, table and pictures are all there."""
    text = shown.inner_text()
    loaded = shown.locator("img").evaluate_all("all => all.map(one => one.naturalWidth > 0)")
    names = shown.locator("th[scope=row] > div")  # of the lanes; a table may squeeze them
    cut = names.evaluate_all("all => all.map(one => one.scrollWidth > one.clientWidth)")
    return (
        "✗ MISMATCH" in text
        and "image A2" in text
        and shown.locator("table").count() >= 3
        and len(loaded) >= 6
        and all(loaded)
        and len(cut) >= 4
        and not any(cut)
    )


def test_report_in_an_untrusted_notebook_is_legible(chromium, address, saved):
    page = chromium.new_page()
    lab.open_notebook(page, address, saved.name)
    shown = page.locator(".jp-OutputArea-output")
    shown.first.wait_for()

    assert (
        page.evaluate("[...document.querySelectorAll('.jp-RenderedHTMLCommon script')].length") == 0
    )
    assert legible(shown.first)
    page.close()


@pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no scripts"])
def test_report_converted_to_html_is_legible(chromium, saved, scripts):
    nbconvert = pytest.importorskip("nbconvert")
    page_text, _ = nbconvert.HTMLExporter().from_filename(saved)
    context = chromium.new_context(java_script_enabled=scripts)
    page = context.new_page()
    page.set_content(page_text, wait_until="domcontentloaded")
    shown = page.locator(".jp-OutputArea-output")

    if scripts:
        assert legible(shown.first)
    else:
        assert "✗ MISMATCH" in shown.first.inner_text()
        assert shown.first.locator("img").count() >= 6
    context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1000, 1600])
def test_exported_page_fits_and_has_no_serious_violation(chromium, report, tmp_path, theme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    report.to_html(tmp_path / "report.html")
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    page.goto((tmp_path / "report.html").as_uri())
    found = axe.Axe().run(page).response["violations"]
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    wider = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")

    assert serious == []
    assert wider <= 0
    assert re.search("MISMATCH", page.inner_text("main"))
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_page_of_ranks_fits_and_has_no_serious_violation(chromium, tmp_path, theme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    batch = vd.make_batch("llava", [2, 0, 1])

    def shard(inputs, chunk_size):
        for first, last in ((0, 3), (1, 2)):  # a zigzag over two ranks, which loses tokens
            pieces = inputs["input_ids"].chunk(4, 1)
            own = torch.cat([pieces[first], pieces[last][:, 1:]], 1)
            yield {"input_ids": own, "pixel_values": inputs["pixel_values"]}

    shard.shards, shard.embedded = 2, True
    vd.check(shard, batch, chunk_size=3, pictures=True).to_html(tmp_path / "report.html")
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    page.goto((tmp_path / "report.html").as_uri())
    found = axe.Axe().run(page).response["violations"]
    picture = page.locator("img[alt*='on no rank']")

    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0
    assert picture.bounding_box()["width"] > 90
    page.close()


def test_explorer_has_no_serious_violation(first, notebook):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    found = axe.Axe().run(notebook, context={"include": [[".vlmdebug"]]}).response["violations"]

    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
