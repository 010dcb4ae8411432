"""The pictures of the README's first screen: made from what the code prints and shows now."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from xml.etree import ElementTree

import pytest
from lab import browser, in_browser
from test_readme import numbers_rounded

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PICTURES = sorted(DOCS.glob("explorer-*.png"))
FIRST = "merged_5452: As merged"
SCHEMES = ("light", "dark")


@pytest.fixture(scope="module")
def tape():
    """`tools/tape.py`."""
    return runpy.run_path(str(ROOT / "tools" / "tape.py"))


@pytest.fixture(scope="module")
def svg():
    return (DOCS / "demo.svg").read_text(encoding="utf-8")


# --- the tape ------------------------------------------------------------------------------


def test_tape_shows_what_the_demo_prints_now(tape, svg):
    printed = tape["printed"]()
    again = tape["tape"](printed)

    assert [*map(numbers_rounded, tape["shown"](svg))] == [
        numbers_rounded(line) for line in printed if line
    ]
    assert numbers_rounded(again) == numbers_rounded(svg), "make readme-pictures writes it again"


def test_tape_is_small_has_no_script_and_fits_its_columns(tape, svg):
    names = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}

    assert len(svg.encode()) < 300_000
    assert names == {"svg", "title", "desc", "style", "rect", "g", "text", "tspan"}
    assert max(map(len, tape["shown"](svg))) <= tape["COLUMNS"]


def test_lines_of_a_tape_are_escaped_and_read_back(tape):
    lines = ["a <b> & \"c\" MISMATCH VLM002 'd'", "", "proof: OK"]
    svg = tape["tape"]([*lines, "", "third"])

    assert tape["shown"](svg) == [lines[0], lines[2], "third"]
    assert ElementTree.fromstring(svg) is not None
    assert '<tspan class="wrong">VLM002</tspan>' in svg


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


def shown_rows(page):
    """The texts of the tape that a person sees, from top to bottom."""
    return page.evaluate(
        """() => {
          const view = document.querySelector('rect').getBoundingClientRect();
          return [...document.querySelectorAll('text')].filter((line) => {
            const box = line.getBoundingClientRect();
            return getComputedStyle(line).visibility === 'visible'
              && box.top >= view.top - 1 && box.bottom <= view.bottom + 1;
          }).map((line) => line.textContent);
        }"""
    )


def at(page, part):
    """Move every animation of the page to a part of its time."""
    page.evaluate(
        """(part) => document.getAnimations().forEach((one) => {
          one.pause(); one.currentTime = part * one.effect.getTiming().duration;
        })""",
        part,
    )
    return shown_rows(page)


@pytest.mark.slow
@in_browser
def test_tape_moves_from_the_command_to_the_last_line(chromium, svg, tape):
    page = chromium.new_page()
    page.set_content(svg)
    last = tape["shown"](svg)[-1]
    first, middle, end = at(page, 0.0), at(page, 0.3), at(page, 0.99)

    assert first == ["$ vlmdebug demo"]
    assert 10 < len(middle) <= tape["ROWS"] and last not in middle
    assert 10 < len(end) <= tape["ROWS"] and end[-1] == last


@pytest.mark.slow
@in_browser
@pytest.mark.parametrize("scheme", SCHEMES)
def test_tape_holds_still_where_a_reader_prefers_it_and_follows_the_scheme(chromium, svg, scheme):
    page = chromium.new_page(reduced_motion="reduce", color_scheme=scheme)
    page.set_content(svg)
    ground = page.evaluate("getComputedStyle(document.querySelector('rect')).fill")

    assert page.evaluate("document.getAnimations().length") == 0
    assert shown_rows(page)[0] == "$ vlmdebug demo"
    assert any("sample 1 was given pixel_values[1:2]" in line for line in shown_rows(page))
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")


# --- the explorer --------------------------------------------------------------------------


def test_pictures_of_the_explorer_show_its_words_of_today():
    from PIL import Image

    made = runpy.run_path(str(ROOT / "tools" / "pictures.py"))
    words = made["words_of"](made["explorer"]().get_state())

    assert "Sample B sees image A2 instead of B1" in words
    assert len(PICTURES) == 4
    for picture in PICTURES:
        assert Image.open(picture).text["Description"] == words, (
            "make readme-pictures writes them again"
        )


def test_pictures_are_light_and_dark_and_small():
    from PIL import Image

    for picture in PICTURES:
        corner = Image.open(picture).convert("L").getpixel((1, 1))

        assert picture.stat().st_size < 150_000
        assert (corner > 200) == ("light" in picture.name)


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "index.md"], ids=lambda one: one.name)
def test_page_shows_each_picture_to_whom_it_fits(page):
    text = page.read_text(encoding="utf-8")
    sources = re.findall(r'(?:srcset|src)="([^"]+)"', text)

    assert {Path(one).name for one in sources} == {*(one.name for one in PICTURES), "demo.svg"}
    assert all((page.parent / one).is_file() for one in sources)
    assert text.count("alt=") == text.count("<img") > 0
