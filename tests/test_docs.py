"""Pages and notebooks: spelled rightly, their links lead somewhere, the docs build."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("codes/*.md")])
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)(?:#[^)]*)?\)")


def prose(notebook: Path) -> str:
    """What a person wrote in a notebook, without its outputs and pictures."""
    return "\n\n".join(cell.source for cell in nbformat.read(notebook, as_version=4).cells)


def misspelt(*paths: Path) -> str:
    """What codespell says of these files."""
    config = ["--toml", str(ROOT / "pyproject.toml")]
    ran = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *config, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    return ran.stdout + ran.stderr


def test_prose_is_spelled_rightly(tmp_path):
    pytest.importorskip("codespell_lib")
    for notebook in NOTEBOOKS:
        (tmp_path / f"{notebook.stem}.md").write_text(prose(notebook), encoding="utf-8")

    assert misspelt(*PAGES, ROOT / "vlmdebug", ROOT / "tests", tmp_path) == ""


def test_a_misspelt_word_would_be_seen(tmp_path):
    pytest.importorskip("codespell_lib")
    (tmp_path / "page.md").write_text("An ad" + "ress of rows.")

    assert "page.md:1" in misspelt(tmp_path)


def dead_links(text: str, folder: Path) -> list[str]:
    return [link for link in LINK.findall(text) if not (folder / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_of_a_page_lead_somewhere(page):
    assert dead_links(page.read_text(encoding="utf-8"), page.parent) == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_links_of_a_notebook_lead_somewhere(notebook):
    assert dead_links(prose(notebook), notebook.parent) == []


def test_a_dead_link_would_be_seen():
    assert dead_links("see [this](nowhere.md#part) and [that](README.md)", ROOT) == ["nowhere.md"]


@pytest.mark.slow
def test_docs_build_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb")
    options = ["-q", "-W", "--keep-going", "-b", "html", "-d", str(tmp_path / "trees")]
    ran = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ran.returncode == 0, ran.stderr
    front = (tmp_path / "html" / "index.html").read_text(encoding="utf-8")
    assert "codes/VLM001.html" in front and "generated/api.html" in front
