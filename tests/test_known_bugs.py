"""The page of known bugs: each one prints what the page says, and its mended code passes."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = (Path(__file__).parent.parent / "docs" / "known_bugs.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(python|text)\n(.*?)```", re.DOTALL)


def test_every_bug_prints_what_the_page_says_and_its_fix_passes():
    namespace: dict[str, object] = {}
    printed, compared = "", 0
    for language, text in BLOCK.findall(PAGE):
        if language == "text":
            assert printed.strip() == text.strip()
            compared += 1
            continue
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(text, "known_bugs.md", "exec"), namespace)
        printed = out.getvalue()

    assert compared == PAGE.count("\n## ")


def test_every_wrong_version_is_found_and_every_fix_is_asserted():
    sections = PAGE.split("\n## ")[1:]

    assert all(re.search(r"print\(vd\.(check|falsify)\(", section) for section in sections)
    assert sum("raise_for_mismatch()" in section for section in sections) >= 6
