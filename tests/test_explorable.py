"""The explorer without a kernel: the page of the docs, and the page of anybody's batch."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import lab
import pytest

import vlmdebug as vd

pytest.importorskip("anywidget")

from vlmdebug.views import without_kernel

ROOT = Path(__file__).parent.parent
MOST = 300_000
"""Bytes of the page."""
BLIND = ("input_ids", "pixel_values", "image_position_ids")
"""Keys that do not say how many images each sample has."""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page, written by its command."""
    path = tmp_path_factory.mktemp("explorable") / "page.html"
    command = [sys.executable, "-P", str(ROOT / "tools" / "explorable.py"), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=path.parent, check=False)
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("explorable", ROOT / "tools" / "explorable.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def explorer(tool):
    return tool.explorer()


@pytest.fixture(scope="module")
def states(tool):
    return without_kernel._states(tool.explorer())


def test_page_is_small_and_fetches_nothing(written):
    text = written.read_text()

    assert len(text.encode()) < MOST
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|url\(|@import", text)


def test_docs_include_the_page_of_the_command(written, explorer):
    conf = (ROOT / "docs" / "conf.py").read_text()

    assert "fragment(explorer())" in conf
    assert ":file: generated/explorer.html" in (ROOT / "docs" / "explorable.md").read_text()
    assert without_kernel.fragment(explorer) in written.read_text()


def test_page_holds_right_and_wrong_slicers_and_packers(states):
    verdicts = {
        name: [one["judged"]["verdict"] for one in reports]
        for name, reports in states["reports"].items()
    }

    assert verdicts["by_sample"] == ["MISMATCH"] * 4
    assert verdicts["corrected"] == verdicts["packed"] == ["OK"] * 4
    assert verdicts["packed, positions_run_on"] == ["OK"] + ["MISMATCH"] * 3
    assert verdicts["packed, images_not_sorted"][-1] == "MISMATCH"


def test_every_state_is_what_the_explorer_shows(states, explorer):
    for slicer, reports in states["reports"].items():
        for size, found in enumerate(reports, 1):
            explorer.slicer, explorer.chunk_size = slicer, size
            assert found["judged"] == explorer._judged
            assert states["batches"][found["batch"]]["drawn"] == explorer._batch
            for explorer.chunk in range(len(found["cuts"])):
                shared = found["details"][explorer.chunk]
                details = re.sub("\0(\\d+)\0", lambda one: states["images"][int(one[1])], shared)

                assert found["cuts"][explorer.chunk] == explorer._cut
                assert details == explorer._details


def test_explorer_writes_its_own_page_and_stays_where_it_is(tmp_path):
    batch = vd.make_batch("llava", [2, 0, 1])
    explorer = vd.explore(vd.slicers.by_sample, batch, chunk_size=2)
    explorer.slicer = "corrected"
    before = explorer.chunk, explorer.chunk_size, explorer.slicer, list(explorer._past)
    explorer.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()

    assert (explorer.chunk, explorer.chunk_size, explorer.slicer, explorer._past) == before
    assert "<title>corrected on llava, 3 samples in chunks of 2 – vlmdebug</title>" in text
    report = re.findall(r"<noscript>.*?</noscript>", text, flags=re.DOTALL)
    assert [one.count("✓ OK") for one in report] == [1]


def test_names_of_a_slicer_cannot_act(tmp_path):
    def slicer(inputs, chunk_size):
        yield from vd.slicers.by_sample(inputs, chunk_size)

    slicer.__name__ = "</script><img src=x onerror=alert(1)>"
    explorer = vd.explore(slicer, vd.make_batch("llava", [1, 1]))
    explorer.to_html(tmp_path / "page.html")

    assert "<img src=x" not in (tmp_path / "page.html").read_text()


def test_slicer_that_cannot_run_says_so_and_the_others_work():
    def slicer(inputs, chunk_size):
        return 3

    session = vd.explore(slicer, vd.make_batch("llava", [1, 1]))._session
    states = without_kernel._states(vd.views.explorer.Explorer(session))

    assert "returned an int" in states["reports"]["slicer"][0]["message"]
    assert states["reports"]["corrected"][0]["judged"]["verdict"] == "OK"


@pytest.mark.parametrize(
    ("explored", "said"),
    [
        (lambda: vd.explore(vd.make_batch("llava", [1] * 17)), "has 17 samples"),
        (lambda: vd.explore(vd.check(vd.make_batch("llava", [1]))), "and 0 slicers"),
        (
            lambda: vd.explore({k: vd.tiny.batch("gemma4", [1, 1])[k] for k in BLIND}),
            "several layouts or counts",
        ),
    ],
)
def test_what_no_page_can_hold_is_refused(explored, said, tmp_path):
    with pytest.raises(vd.BadInput, match=said):
        explored().to_html(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


# --- in a browser ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium():
    pytest.importorskip("playwright")
    with lab.browser() as started:
        yield started


@pytest.fixture
def opened(chromium, written):
    """`opened(width, theme)`: the page, which must report no error and ask for nothing else."""
    pages, strange = [], []

    def at(width=1280, theme="light", scripts=True):
        context = chromium.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=theme,
            java_script_enabled=scripts,
        )
        page = context.new_page()
        page.on("pageerror", lambda error: strange.append(str(error)))
        page.on("request", lambda one: strange.append(one.url) if "http" in one.url[:5] else None)
        page.goto(written.as_uri())
        pages.append(context)
        return page

    yield at
    for one in pages:
        one.close()
    assert strange == []


def verdict(page):
    return page.locator(".vlmdebug-verdict").inner_text()


@lab.in_browser
@pytest.mark.slow
def test_slider_and_slicer_change_the_verdict_by_keyboard(opened):
    page = opened()
    slider = page.get_by_role("slider", name="chunk size")
    assert verdict(page) == "✗ MISMATCH"
    slider.focus()
    for size in (2, 3, 4):
        page.keyboard.press("ArrowRight")
        page.get_by_text(f"by_sample on qwen2_5_vl, 4 samples in chunks of {size}").wait_for()

    page.get_by_role("combobox", name="slicer").select_option("packed, positions_run_on")
    slider.press("Home")
    assert verdict(page) == "✓ OK"
    page.keyboard.press("ArrowRight")
    assert verdict(page) == "✗ MISMATCH"
    assert "goes on at position" in page.locator(".vlmdebug-sentence").inner_text()
    assert page.get_by_role("img", name="position_ids of tokens").is_visible()
    page.get_by_role("combobox", name="slicer").select_option("packed")
    assert verdict(page) == "✓ OK"


@lab.in_browser
@pytest.mark.slow
def test_keys_walk_through_chunks_mismatches_and_back(opened):
    page = opened()
    chunks = page.locator(".vlmdebug-chunks button")
    chunks.first.click()
    page.keyboard.press("n")
    assert chunks.nth(1).get_attribute("aria-pressed") == "true"
    page.keyboard.press("c")
    assert chunks.nth(2).get_attribute("aria-pressed") == "true"
    page.keyboard.press("u")
    page.keyboard.press("u")
    assert chunks.nth(0).get_attribute("aria-pressed") == "true"

    page.locator("svg[role=application]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert page.locator(".vlmdebug-details > p strong").first.inner_text() == "image A1"
    loaded = page.locator(".vlmdebug-details img").evaluate_all(
        "all => all.map(i => i.naturalWidth)"
    )
    assert loaded and all(loaded)


@lab.in_browser
@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 800, 1280])
def test_page_fits_and_has_no_serious_violation(width, theme, opened):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = opened(width, theme)
    page.get_by_role("combobox", name="slicer").select_option("packed, positions_run_on")
    page.get_by_role("slider", name="chunk size").press("End")
    found = axe.Axe().run(page).response["violations"]

    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth - window.innerWidth") <= 0


@lab.in_browser
@pytest.mark.slow
def test_page_without_scripts_is_the_report(opened):
    page = opened(scripts=False)

    assert "MISMATCH" in page.inner_text("main")
    assert page.locator("main img").count() >= 2
