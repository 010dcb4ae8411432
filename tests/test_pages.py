"""Pages of code to copy: each block prints what the page says, and a mended one passes."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "known_bugs.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(python|text)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize(
    "page",
    [
        "known_bugs.md",
        "your_trainer.md",
        "your_collator.md",
        "packing.md",
        "the_review_of_5452.md",
    ],
)
def test_every_block_prints_what_the_page_says(page):
    text_of_page = (DOCS / page).read_text(encoding="utf-8")
    namespace: dict[str, object] = {}
    printed, compared = "", 0
    for language, text in BLOCK.findall(text_of_page):
        if language == "text":
            assert printed.strip() == text.strip()
            compared += 1
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(text, page, "exec"), namespace)
        printed = out.getvalue()

    assert compared == text_of_page.count("```text") >= 3


def test_every_bug_has_what_it_prints():
    assert PAGE.count("```text") == PAGE.count("\n## ")


def test_every_wrong_version_is_found_and_every_fix_is_asserted():
    sections = PAGE.split("\n## ")[1:]

    assert all(re.search(r"print\(vd\.(check|falsify)\(", section) for section in sections)
    assert sum("raise_for_mismatch()" in section for section in sections) >= 6
