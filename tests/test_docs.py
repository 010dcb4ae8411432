"""Pages and notebooks: spelling, plain words, links, quoted code, and the build of the docs."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import nbformat
import pytest

from vlmdebug.core.mismatch import CODES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("codes/*.md")])
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PLAIN = [page for page in [*PAGES, ROOT / "tests" / "README.md"] if page.name != "CHANGELOG.md"]
CODE = sorted(
    file for folder in ("vlmdebug", "tools", "benchmarks") for file in (ROOT / folder).rglob("*.py")
)
NOT_PLAIN = {
    "vlmdebug/core/record.py",  # the name of a state in saved reports
    "vlmdebug/running/slicer_source.py",  # a comment in exported code, which notebooks show
    "vlmdebug/tiny/tokenizer.py",  # a sentence that the tokenizer is trained on
    "vlmdebug/views/plot.py",  # shows that state
    "vlmdebug/views/text.py",  # shows that state
}
"""Files with a hard word that is a value, not prose."""
AVOID = {
    "whose": "of which sample, or a sentence of its own",
    "told|cannot tell": "identified, reported; could not match",
    "(is|are|stays?|keeps?) in step|out of step": "match; do not match",
    "anew": "again; recompute",
    "beside": "next to; with",
    "kin": "variants, similar models",
    "lies?|lying": "is stored in, is",
    "hand(s|ed|ing)? (on|over)|(is|was|were) handed": "pass, forward; got",
    "stand(s|ing)? for|stood for": "represent, mean",
    "rightly": "correctly",
    "in vain": "is missing; does not find",
    "mend(s|ed|ing)?": "fix, correct",
    "on trial": "under test, tested",
}
"""Words that a reader has to read twice, and plain ones. Case does not matter."""
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


def test_prose_is_spelled_correctly(tmp_path):
    pytest.importorskip("codespell_lib")
    for notebook in NOTEBOOKS:
        (tmp_path / f"{notebook.stem}.md").write_text(prose(notebook), encoding="utf-8")

    assert misspelt(*PAGES, ROOT / "vlmdebug", ROOT / "tests", tmp_path) == ""


def test_a_misspelt_word_would_be_seen(tmp_path):
    pytest.importorskip("codespell_lib")
    (tmp_path / "page.md").write_text("An ad" + "ress of rows.")

    assert "page.md:1" in misspelt(tmp_path)


def comments(block: re.Match[str]) -> str:
    """The comments of a block of code; what is printed has none."""
    printed = block[0].startswith("```text")
    return "" if printed else "\n".join(re.findall(r"#.*", block[0]))


def hard_words(text: str) -> list[str]:
    """The words of `AVOID` in a Markdown text, with plain ones; of code, only comments are read."""
    text = re.sub(r"```.*?```", comments, text, flags=re.DOTALL)
    text = re.sub(r"`[^`\n]+`", "", text)
    for title in CODES.values():  # a message too
        text = text.replace(title, "")
    return [
        f"{found[0]!r}: {plain}"
        for word, plain in AVOID.items()
        for found in re.finditer(rf"\b(?:{word})\b", text, re.IGNORECASE)
    ]


def prose_of_code(source: str) -> str:
    """Docstrings, messages and comments of Python code; single words and options are names."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    ]
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    remarks = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return re.sub(r"--[a-z-]+", "", "\n\n".join(strings + remarks))


@pytest.mark.parametrize("file", CODE, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_code_has_plain_words(file):
    found = hard_words(prose_of_code(file.read_text(encoding="utf-8")))

    assert bool(found) == (file.relative_to(ROOT).as_posix() in NOT_PLAIN), found


@pytest.mark.parametrize("page", PLAIN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_page_has_plain_words(page):
    assert hard_words(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_has_plain_words(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    written = [cell.source for cell in cells if cell.cell_type == "markdown"]

    assert hard_words("\n\n".join(written)) == []


def test_hard_words_would_be_seen_in_prose_and_comments_alone():
    printed = (
        "```text\nsample 0, whose rows\n```\nCall `recipe_from_config`:\n```python\nkin(told)\n```"
    )
    written = "Rows whose owner\nis told.\n```python\nrows = recipe_from_config()  # made anew\n```"

    assert hard_words(printed) == []
    assert [word.partition(":")[0] for word in hard_words(written)] == [
        "'whose'",
        "'told'",
        "'anew'",
    ]


def test_hard_words_would_be_seen_in_docstrings_messages_and_comments_alone():
    source = (
        "def recipe_from_config(told):  # made anew\n"
        '    """Rows whose `beside` is told."""\n'
        '    raise ValueError(f"{told} was handed " f"over", "beside", "use --beside")\n'
    )

    assert [word.partition(":")[0] for word in hard_words(prose_of_code(source))] == [
        "'whose'",
        "'told'",
        "'anew'",
        "'was handed'",
    ]


def quoted_lines(page: str) -> list[str]:
    """The lines of a page's Python code, without their indentation."""
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_family_of_the_walkthrough_is_quoted_from_the_code():
    files = ("families/mistral3.py", "tiny/image_rows.py")
    code = "\n".join((ROOT / "vlmdebug" / file).read_text(encoding="utf-8") for file in files)
    lines = {line.strip() for line in code.splitlines()}
    quoted = quoted_lines((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"))

    assert len(quoted) > 30
    assert [line for line in quoted if line not in lines] == []


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
    pages = {
        name: (tmp_path / "html" / f"{name}.html").read_text(encoding="utf-8")
        for name in ("generated/api", "layouts", "codes/VLM002")
    }
    assert 'id="vlmdebug.check"' in pages["generated/api"]  # as it is called, not where it is
    assert "generated/family_llava.html" in pages["layouts"]
    assert "../glossary.html" in pages["codes/VLM002"].partition("<article")[2]
