"""Every mismatch code has a page, whose example gives that code and prints what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

import vlmdebug as vd
from vlmdebug.core.mismatch import CODES

PAGES = Path(__file__).parent.parent / "docs" / "codes"


def test_every_code_has_a_page_and_every_page_a_code():
    assert {path.stem for path in PAGES.glob("*.md")} == set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_example_of_the_page_gives_its_code(code, monkeypatch):
    page = (PAGES / f"{code}.md").read_text(encoding="utf-8")
    source, expected = re.findall(r"```(?:python|text)\n(.*?)```", page, re.DOTALL)
    found: list[vd.Report] = []
    check = vd.check
    monkeypatch.setattr(vd, "check", lambda *args, **kwargs: kept(check(*args, **kwargs), found))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, f"{code}.md", "exec"), {})

    assert page.startswith(f"# {code}: {CODES[code]}\n")
    assert printed.getvalue().strip() == expected.strip()
    if code == "VLM012":
        assert found[0].verdict == "AMBIGUOUS"
    else:
        assert code in {finding.code for finding in found[0].findings}
    assert all(f"**{part}.**" in page for part in ("What", "Why it matters", "Example", "Fix"))


def kept(report: vd.Report, found: list[vd.Report]) -> vd.Report:
    found.append(report)
    return report
