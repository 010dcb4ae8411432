"""Every notebook runs from a clean kernel and prints what is committed."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def texts(notebook) -> list[str]:
    """What the cells print, without the digits that a machine's arithmetic decides."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            if output.get("name") != "stderr":
                found.append(re.sub(r"differ by up to [\d.e+-]+", "differ by up to N", text))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_prints_what_is_committed(path):
    committed = nbformat.read(path, as_version=4)
    fresh = nbformat.read(path, as_version=4)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(fresh, timeout=600, kernel_name="python3", coalesce_streams=True).execute()

    assert texts(fresh) == texts(committed)
    assert path.stat().st_size < 300_000
    assert any("assert " in cell.source for cell in fresh.cells[-1:])


@pytest.fixture
def clock():
    """`tools/lesson.py`."""
    return runpy.run_path(str(ROOT / "tools" / "lesson.py"))


def test_lesson_leaves_minutes_for_questions(clock):
    minutes = sum(section.minutes for _, section in clock["lesson"]())

    assert 30 < minutes < 40  # of 45
    assert {number for number, _ in clock["lesson"]()} == {"01", "03"}


def test_clock_counts_what_is_read_answered_and_run(clock):
    cells = [
        new_markdown_cell("# A title\n\none two <details>three</details>\n\n## Next\n\nfour"),
        new_code_cell(
            "predict(batch, 1)",
            outputs=[new_output("stream", text="five six seven")],
            metadata={
                "execution": {
                    "iopub.execute_input": "2026-01-01T10:00:00.000000Z",
                    "shell.execute_reply": "2026-01-01T10:00:30.000000Z",
                }
            },
        ),
        new_markdown_cell("eight"),
    ]
    found = [*clock["sections"](new_notebook(cells=cells))]

    assert [section[:3] for section in found] == [("A title", 4, 0), ("Next", 8, 1)]
    assert found[1].minutes == pytest.approx(8 / 200 + 1.5 + 0.5)


def test_figures_for_slides_are_svg_and_png_for_light_and_dark(tmp_path, monkeypatch):
    tool = runpy.run_path(str(ROOT / "tools" / "slides.py"))
    first = next(tool["figures"]())
    monkeypatch.setitem(tool["main"].__globals__, "figures", lambda: iter([first]))
    tool["main"](tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"layout_gemma4_{theme}.{kind}" for theme in ("dark", "light") for kind in ("png", "svg")
    ]
    words = (tmp_path / "layout_gemma4_light.svg").read_text(encoding="utf-8")
    assert "gemma4: rows of each sample</text>" in words
    assert "Date" not in words


def test_there_are_notebooks():
    assert NOTEBOOKS
