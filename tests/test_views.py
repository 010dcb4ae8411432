"""How a report looks: the same facts in every view, nothing executed, nothing too long."""

from __future__ import annotations

import base64
import json
import re
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlmdebug.checking.report import Report
from vlmdebug.core.mismatch import Mismatch
from vlmdebug.core.record import ChunkReport, KeyReport
from vlmdebug.core.rows import Rows
from vlmdebug.core.scene import Scene
from vlmdebug.errors import VlmDebugError
from vlmdebug.safe import escaped, plain
from vlmdebug.views import mimebundle
from vlmdebug.views.html import to_html, to_page
from vlmdebug.views.markdown import to_markdown
from vlmdebug.views.plot import plot
from vlmdebug.views.rows import chunk_verdicts
from vlmdebug.views.strips import svg
from vlmdebug.views.text import to_text

LAYOUT = {
    "input_ids": "one row per sample",
    "pixel_values": "one row per image",
    "image_position_ids": "one row per image",
}
EVIDENCE = {"image": "placeholder tokens in input_ids against image_position_ids"}
MEDIA = ("pixel_values", "image_position_ids")


def rows(start: int, stop: int) -> Rows:
    return Rows([(start, stop)])


def chunk(sample: int, images: int | None, state: str, planned: Rows, used: Rows) -> ChunkReport:
    whole = rows(sample, sample + 1)
    keys = {"input_ids": KeyReport("ok", whole, whole)}
    keys |= {key: KeyReport(state, planned, used) for key in MEDIA}
    return ChunkReport((sample,), images, images and 4 * images, 4 * len(used), keys)


def wrong(index: int, planned: Rows, used: Rows, *, silent: bool) -> list[Mismatch]:
    code = "VLM002" if len(planned) == len(used) else "VLM001"
    return [
        Mismatch(
            code,
            f"sample {index} was given {key}[{used}] but owns {key}[{planned}].\n"
            f"Cut {key} per image.",
            key,
            index,
            (index,),
            planned,
            used,
            silent,
            "cut per sample",
        )
        for key in MEDIA
    ]


def mismatch() -> Report:
    """Images per sample 2, 1, 1, cut by sample: loud, silent, loud."""
    owned = [rows(0, 2), rows(2, 3), rows(3, 4)]
    given = [rows(0, 1), rows(1, 2), rows(2, 3)]
    chunks = [chunk(i, len(owned[i]), "wrong rows", owned[i], given[i]) for i in range(len(owned))]
    found = [m for i in range(3) for m in wrong(i, owned[i], given[i], silent=i > 0)]
    counts = {"sample": (1, 1, 1), "image": (2, 1, 1)}
    return Report(
        "gemma4", LAYOUT, counts, EVIDENCE, 1, tuple(chunks), tuple(found), slicer="by_sample"
    )


def right() -> Report:
    owned = [rows(0, 2), Rows(), rows(2, 3)]
    chunks = [chunk(i, len(own), "ok", own, own) for i, own in enumerate(owned)]
    counts = {"sample": (1, 1, 1), "image": (2, 0, 1)}
    return Report("gemma4", LAYOUT, counts, EVIDENCE, 1, tuple(chunks), slicer="corrected")


def alone() -> Report:
    """A batch without a slicer, whose second sample has lost placeholder tokens."""
    chunks = [
        ChunkReport(
            (i,), 1, tokens, 4, {"pixel_values": KeyReport("planned", rows(i, i + 1), None)}
        )
        for i, tokens in enumerate([4, 3])
    ]
    message = "sample 1 has 3 placeholder tokens but its images become 4 features: 1 were cut."
    found = Mismatch("VLM010", message, key="input_ids", samples=(1,), silent=False)
    counts = {"sample": (1, 1), "image": (1, 1)}
    return Report("gemma4", LAYOUT, counts, EVIDENCE, None, tuple(chunks), (found,))


def ambiguous() -> Report:
    keys = {
        "input_ids": KeyReport("ok", rows(0, 2), rows(0, 2)),
        "pixel_values": KeyReport("cannot tell", None, None),
    }
    chunks = (ChunkReport((0, 1), None, None, None, keys),)
    said = ("images per sample are not known; pass num_images=.",)
    return Report("gemma4", LAYOUT, {"sample": (1, 1)}, {}, 2, chunks, (), said, slicer="mine")


def pictured() -> Report:
    """`mismatch` with what stands in the rows, and a picture of two of the images."""
    places = (((2, 4, 0), (5, 7, 1)), ((3, 5, 2),), ((3, 5, 3),))
    units = {"input_ids": "sample", **dict.fromkeys(MEDIA, "image")}
    return replace(
        mismatch(), scene=Scene(units, (2, 1, 1), {}, 10, places, {1: THUMBNAIL, 2: THUMBNAIL})
    )


THUMBNAIL = "data:image/jpeg;base64,/9j/4AAQ"
REPORTS = {f.__name__: f for f in (mismatch, right, alone, ambiguous, pictured)}
VIEWS = {"txt": to_text, "md": to_markdown, "html": to_html}


def many(chunks: int, bad: int | None = None) -> Report:
    """`chunks` chunks of one sample with one image, all right but number `bad`."""
    made, found = [], []
    for i in range(chunks):
        own, given = rows(i, i + 1), rows(0, 1) if i == bad else rows(i, i + 1)
        made.append(chunk(i, 1, "ok" if own == given else "wrong rows", own, given))
        found += wrong(i, own, given, silent=True) if i == bad else []
    counts = {"sample": (1,) * chunks, "image": (1,) * chunks}
    return Report("gemma4", LAYOUT, counts, EVIDENCE, 1, tuple(made), tuple(found), slicer="s")


def hostile(text: str) -> Report:
    """`text` in every place of a report that a batch, a file or user code can fill."""
    state = KeyReport(text, rows(0, 1), Rows.of([1, -1]))
    chunks = (ChunkReport((0,), 1, 4, 4, {text: state, "pixel_values": state}),)
    found = tuple(
        Mismatch(code, text, text, 0, (0,), rows(0, 1), rows(1, 2), True, text)
        for code in ("VLM001", "VLM004", text)
    )
    counts = {"sample": (1,), text: (1,)}
    units = {text: "image", "pixel_values": text, "input_ids": "sample"}
    scene = Scene(units, (1,), {text: (1,)}, 4, (((0, 1, 0),),), {0: THUMBNAIL})
    return Report(text, {text: text}, counts, {text: text}, 1, chunks, found, (text,), text, scene)


def synthetic(family: str, images: tuple[int, ...], chunk_size: int = 1) -> Report:
    """The report on a slicer that cuts every tensor by sample."""
    torch = pytest.importorskip("torch")
    import vlmdebug as vd
    from vlmdebug.families import FAMILIES, BatchSpec
    from vlmdebug.families.assemble import assemble

    sizes = tuple(1 + i % 3 for i in range(sum(images)))
    inputs, facts = FAMILIES[family].synthesize(BatchSpec(family, images, sizes))
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}
    batch = assemble(replace(facts, inputs=tensors))
    return vd.check(vd.slicers.by_sample, batch, chunk_size=chunk_size)


IMAGES_64 = (4, 1, 2, 3, 4, 1, 2, 3, *(0, 1, 2, 3) * 14)


class Inventory(HTMLParser):
    """Tags and attributes that occur, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[tuple[str, str]] = set()
        self.images: list[dict[str, str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {(name, value or "") for name, value in attrs}
        if tag == "img":
            self.images.append({name: value or "" for name, value in attrs})
        elif tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


TAGS = {"div", "p", "strong", "br", "ul", "li", "details", "summary", "img", "pre", "code"}
DRAWN = {"svg", "style", "g", "path", "pattern", "rect", "text"}
TAGS |= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
STYLE = re.compile(r"[a-zA-Z0-9 :;.,#%()-]*")


def assert_harmless(html: str) -> None:
    seen = Inventory(html)

    assert seen.tags <= TAGS
    assert not seen.open
    for name, value in seen.attributes:
        assert name in {"style", "scope", "colspan", "alt", "src", "tabindex", "role", "aria-label"}
        assert name != "style" or (STYLE.fullmatch(value) and "url" not in value)
        assert name != "scope" or value in {"row", "col"}
        assert name != "src" or value.startswith(("data:image/svg+xml;base64,", THUMBNAIL))
    for image in seen.images:
        assert image["alt"]
        if image["src"] != THUMBNAIL:
            drawing = ElementTree.fromstring(base64.b64decode(image["src"].partition(",")[2]))
            assert {element.tag.rpartition("}")[2] for element in drawing.iter()} <= DRAWN


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("name", REPORTS)
def test_view_is_as_its_golden_file(
    name: str, kind: str, golden: Callable[[str, str], None]
) -> None:
    golden(f"{name}.{kind}", VIEWS[kind](REPORTS[name]()))


@pytest.mark.parametrize("name", REPORTS)
def test_report_read_back_from_json_looks_the_same(name: str) -> None:
    report = REPORTS[name]()
    again = Report.from_json(report.to_json())

    assert mimebundle(again) == mimebundle(report)
    assert to_page(again) == to_page(report)


@pytest.mark.parametrize("name", REPORTS)
def test_every_view_says_the_verdict_and_why(name: str) -> None:
    report = REPORTS[name]()
    shown = mimebundle(report)

    assert set(shown) == {"text/html", "text/markdown", "text/plain"}
    for text in shown.values():
        assert report.verdict in text
        assert all(finding.code in text for finding in report.findings)


def test_html_uses_only_what_a_sanitiser_keeps() -> None:
    for make in REPORTS.values():
        assert_harmless(to_html(make()))
    fragment = to_html(mismatch())

    assert "<caption" in fragment and 'scope="col"' in fragment and 'scope="row"' in fragment
    assert "<details" in fragment and "http" not in fragment


def test_the_inventory_sees_what_would_be_harmful() -> None:
    for bad in ("<script>1</script>", '<p onclick="x">a</p>', '<img alt="a" src="https://x.y/z">'):
        with pytest.raises(AssertionError):
            assert_harmless(bad)


def test_page_is_complete_and_for_both_themes() -> None:
    page = to_page(mismatch())

    assert page.startswith('<!doctype html>\n<html lang="en">')
    for part in ('charset="utf-8"', 'name="viewport"', 'content="light dark"', "<title>by_sample"):
        assert part in page
    assert "<script" not in page and "http" not in page


MARKUP = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' style='x' onmouseover='y",
    "</td></table><iframe>",
    "a|b`c`[d](javascript:e)![f](g)",
    "\x1b[31mred\x07\r\n\x00",
    "\u202egnp.exe\u2066\u2069",
    "\ud800 lone",
    "$\\frac{1}{",
    "line\nline\n\nline",
    "@someone #1 &lt; &amp;",
]
ANY_TEXT = st.one_of(
    st.sampled_from(MARKUP),
    st.text(max_size=120),
    st.lists(st.sampled_from([*MARKUP, "x" * 300]), max_size=4).map("".join),
)
ACTING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@settings(deadline=None, max_examples=150)
@given(text=ANY_TEXT)
def test_text_from_outside_is_shown_and_never_acts(text: str) -> None:
    report = hostile(text)
    shown = {"text": to_text(report), "markdown": to_markdown(report), "html": to_html(report)}

    assert_harmless(shown["html"])
    assert "<" not in re.sub(r"<br>|<!-- -->", "", shown["markdown"])
    assert max(map(len, shown["text"].split("\n"))) <= 80
    for view in (*shown.values(), to_page(report)):
        assert not ACTING.search(view)
        view.encode()  # no lone surrogate is left


def test_text_from_outside_is_legible_where_it_is_harmless() -> None:
    fragment = Inventory(to_html(hostile("<b>Kätzchen</b> 🐈"))).text

    assert "<b>Kätzchen</b> 🐈" in fragment


def test_acting_characters_are_spelled_out() -> None:
    assert plain("a\x1b[2Jb\u202ec\ud800") == "a\\x1b[2Jb\\u202ec\\ud800"
    assert escaped("<&'\">") == "&lt;&amp;&#x27;&quot;&gt;"


def test_endless_text_is_cut_and_its_length_told() -> None:
    assert plain("x" * 2001) == "x" * 2000 + "… (2001 characters)"
    report = hostile("y" * 1_000_000)

    assert all(len(view) < 60_000 for view in mimebundle(report).values())


def test_markdown_keeps_tables_and_code_marks_in_one_cell() -> None:
    cells = [line for line in to_markdown(hostile("a|b`c\nd")).split("\n") if line.startswith("| ")]
    bars = {len(re.findall(r"(?<!\\)\|", line)) for line in cells}

    assert len(bars) == 1
    assert "a\\|b\\`c" in cells[0]


def test_markdown_mentions_nobody_on_github() -> None:
    assert "@<!-- -->someone #<!-- -->1" in to_markdown(hostile("@someone #1"))


@pytest.mark.parametrize("name", REPORTS)
def test_text_fits_80_columns(name: str) -> None:
    assert max(map(len, to_text(REPORTS[name]()).split("\n"))) <= 80


def test_columns_that_do_not_fit_go_below() -> None:
    keys = {f"a_rather_long_key_{i}": KeyReport("dropped", rows(i, i + 1), None) for i in range(6)}
    report = replace(many(1), chunks=(ChunkReport((0,), 1, 4, 4, keys),))
    text = to_text(report)

    assert max(map(len, text.split("\n"))) <= 80
    assert all(key in text for key in keys)
    assert text.count("MISMATCH  ") > 1


def test_a_long_table_shows_the_wrong_chunk_first_and_folds_right_ones() -> None:
    report = many(100, bad=90)
    text, fragment = to_text(report), to_html(report)
    table = text[text.index("chunk  sample") :].split("\n")

    assert table[1].split()[:3] == ["MISMATCH", "silent", "90"]
    assert len([line for line in table if re.match(r"(ok|MISMATCH)\b", line)]) == 3
    assert re.findall(r'<th scope="row"[^>]*>(\d+)<', fragment) == ["90", "0", "1"]
    for view in (text, fragment, to_markdown(report)):
        assert "… 97 more chunks, all ok: 2:90, 91:100" in view


def test_wrong_chunks_that_are_not_listed_are_no_right_ones() -> None:
    bad = replace(many(40), chunks=tuple(mismatch().chunks[1] for _ in range(40)))
    wrong = [replace(mismatch().mismatches[2], chunk=i) for i in range(40)]

    assert "… 28 more chunks that are not ok" in to_text(replace(bad, mismatches=tuple(wrong)))
    assert "all ok" not in to_text(replace(bad, mismatches=tuple(wrong)))


def test_chunks_that_all_fit_stay_in_order() -> None:
    assert [line.index for line in chunk_verdicts(mismatch())] == [0, 1, 2]
    assert [line.words for line in chunk_verdicts(mismatch())] == [
        "MISMATCH loud",
        "MISMATCH silent",
        "MISMATCH silent",
    ]


def test_long_lists_of_counts_are_abbreviated() -> None:
    assert f"images per sample {' '.join('1' * 16)} … 100 in all" in to_text(many(100))


def test_what_cannot_be_told_is_no_mismatch_and_shows_a_question_mark() -> None:
    [line] = chunk_verdicts(ambiguous())

    assert line.words == "cannot tell"
    assert re.search(r"cannot tell +0 +0:2 +\? +\? +\? +cannot tell", to_text(ambiguous()))


def test_chunk_with_a_silent_and_a_loud_mismatch_says_both() -> None:
    report = mismatch()
    loud, silent = (
        [one for one in report.mismatches if one.silent is says] for says in (False, True)
    )
    both = replace(report, mismatches=(replace(loud[0], chunk=1), replace(silent[0], chunk=1)))

    assert chunk_verdicts(both)[1].words == "MISMATCH silent and loud"
    assert [line.short for line in chunk_verdicts(report)].count("silent and loud") == 0


def test_batch_mismatch_marks_its_sample_alone() -> None:
    assert [line.words for line in chunk_verdicts(alone())] == ["ok", "MISMATCH loud"]


def test_a_report_without_findings_is_short() -> None:
    assert len(to_text(right()).split("\n")) <= 10
    assert len(to_text(many(100)).split("\n")) <= 20


def test_picture_has_what_was_used_and_what_was_planned() -> None:
    bad = svg(KeyReport("wrong rows", rows(2, 3), rows(1, 2)), 4)
    good = svg(KeyReport("ok", rows(2, 3), rows(2, 3)), 4)
    alt = [image["alt"] for image in Inventory(to_html(mismatch())).images]

    assert "#D55E00" in bad and "dasharray" in bad
    assert "#0072B2" in good and "#D55E00" not in good
    assert alt[1] == "pixel_values of 4 rows: 1:2, not 2:3"


@pytest.mark.parametrize("family", ["gemma4", "qwen2_5_vl", "idefics3", "internvl", "llava_next"])
def test_real_report_on_64_samples_is_small_and_harmless(family: str) -> None:
    report = synthetic(family, IMAGES_64)
    started = time.perf_counter()
    fragment = to_html(report)
    seconds = time.perf_counter() - started

    assert sum(IMAGES_64) == 104 and report.verdict == "MISMATCH"
    assert_harmless(fragment)
    assert len(fragment.encode()) <= 60_000
    assert seconds < 0.5  # 0.005 s measured; the benchmark holds the budget, this a blunder
    assert max(map(len, to_text(report).split("\n"))) <= 80


@pytest.mark.parametrize("chunk_size", [1, 2, 3])
def test_real_report_read_back_from_json_looks_the_same(chunk_size: int) -> None:
    report = synthetic("gemma4", (2, 0, 1), chunk_size)

    assert mimebundle(Report.from_json(report.to_json())) == mimebundle(report)


@pytest.mark.parametrize("view", ["html", "markdown"])
def test_a_failing_view_leaves_text_and_the_reason(
    view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(report: Report) -> str:
        raise RuntimeError("<no> \x1b ink")

    monkeypatch.setattr(f"vlmdebug.views.{view}.to_{view}", fail)
    shown = mimebundle(mismatch())[f"text/{view}"]

    assert "RuntimeError" in shown and "by_sample on gemma4" in shown.replace("&#x27;", "'")
    assert "\x1b" not in shown
    assert view != "html" or Inventory(shown).tags == {"pre"}


def test_a_part_of_the_text_that_fails_leaves_the_others() -> None:
    broken = replace(mismatch(), counts={})
    text = to_text(broken)

    assert "(the head cannot be shown: KeyError: 'sample')" in text
    assert "VLM002" in text and "pixel_values" in text
    assert "KeyError" in mimebundle(broken)["text/html"]


def test_text_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlmdebug.views.text.to_text", lambda report: 1 / 0)

    assert "ZeroDivisionError" in mimebundle(mismatch())["text/plain"]


def test_a_report_of_a_newer_version_still_shows() -> None:
    data = json.loads(mismatch().to_json())
    data["mismatches"][0]["code"] = "VLM999"
    data["mismatches"][0]["cause"] = None

    assert "VLM999 a kind this version does not know" in to_text(Report.from_dict(data))


@pytest.mark.parametrize("name", REPORTS)
def test_plot_names_every_chunk_and_the_verdict(name: str) -> None:
    pytest.importorskip("matplotlib")
    report = REPORTS[name]()
    ax = plot(report)
    labels = [tick.get_text() for tick in ax.get_yticklabels()]

    assert ax.get_title(loc="left").endswith(report.verdict)
    assert len(labels) == len(report.chunks)
    assert any("MISMATCH" in label for label in labels) == bool(report.mismatches)


def test_plot_hatches_wrong_rows_and_outlines_planned_ones() -> None:
    pytest.importorskip("matplotlib")
    ax = plot(mismatch())
    hatches = [collection.get_hatch() for collection in ax.collections]
    legend = ax.get_legend()

    assert hatches == [None, None, None, "////", None, "////"]
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "owned and passed",
        "owned but missing",
        "passed but not owned",
    ]
    assert ax.get_xlabel() == "row of pixel_values (one row per image)"


def test_plot_draws_the_wrong_chunk_of_many_and_says_how_many_it_left_out() -> None:
    pytest.importorskip("matplotlib")
    ax = plot(many(100, bad=99))
    labels = [tick.get_text() for tick in ax.get_yticklabels()]

    assert labels == ["chunk 99: MISMATCH silent", "chunk 0: ok", "chunk 1: ok"]
    assert "worst first; … 97 more chunks, all ok: 2:99" in ax.get_title(loc="left")


@pytest.mark.parametrize("text", MARKUP)
def test_plot_draws_text_from_outside_literally(text: str) -> None:
    pytest.importorskip("matplotlib")
    figure = plot(hostile(text)).figure

    assert figure is not None
    figure.draw_without_rendering()  # a formula that does not parse would raise


def test_plot_draws_into_the_axes_given_and_leaves_pyplot_alone() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    ax = Figure().subplots()
    before = "matplotlib.pyplot" in sys.modules

    assert plot(mismatch(), ax) is ax
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_plot_without_matplotlib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(VlmDebugError, match=r"pip install 'vlmdebug\[plot\]'"):
        plot(mismatch())
