"""The README and pages with commands run, and print what they say they print."""

from __future__ import annotations

import contextlib
import io
import re
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str = "README.md") -> list[tuple[str, str]]:
    return BLOCK.findall(page(name))


def numbers_rounded(text: str) -> str:
    """Logit differences depend on the machine's arithmetic; all else is compared literally."""
    return re.sub(r"differ by up to [\d.e+-]+", "differ by up to N", text).strip()


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("README.md", 1),
        ("docs/from_an_error.md", 1),
        ("docs/live_run.md", 3),
        ("docs/review.md", 1),
        ("docs/audit.md", 1),
    ],
)
def test_every_python_block_prints_the_text_block_after_it(name, count):
    namespace: dict[str, object] = {}
    shown = blocks(name)
    ran = 0
    for (language, source), (next_language, expected) in pairwise(shown):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, name, "exec"), namespace)
        ran += 1

        assert next_language == "text"
        assert numbers_rounded(printed.getvalue()) == numbers_rounded(expected)

    assert ran == count


def test_the_demo_prints_what_its_page_quotes(tmp_path, capsys):
    from vlmdebug.cli import main

    code = main(["demo", "--out", str(tmp_path)])
    printed = numbers_rounded(capsys.readouterr().out)
    quoted = next(
        text
        for language, text in blocks("docs/command_line.md")
        if language == "text" and "by_sample: " in text
    )

    assert code == 0
    for passage in numbers_rounded(quoted).split("…"):
        assert passage.strip() in printed
    assert (tmp_path / "report.html").stat().st_size > 1000
    assert "def slice_inputs" in (tmp_path / "slice_inputs.py").read_text()


def quoted_after(command: str, name: str = "README.md") -> str:
    """The output that a page shows for a command."""
    shown = blocks(name)
    place = next(n for n, (language, text) in enumerate(shown) if text.startswith(command))
    assert [language for language, _ in shown[place : place + 2]] == ["sh", "text"]
    return shown[place + 1][1]


def test_explain_prints_what_its_page_quotes(capsys):
    from vlmdebug.cli import main

    text = re.search(r'vlmdebug explain "(Image .*?\d)"', page("docs/from_an_error.md"))
    assert text is not None
    main(["explain", text[1]])

    assert capsys.readouterr().out == quoted_after(
        'vlmdebug explain "Image', "docs/from_an_error.md"
    )


# --- the three doors -----------------------------------------------------------------------


def test_doors_are_the_first_sections_behind_how_to_begin():
    commands = re.findall(r"^(?:vlmdebug|make|pip) \w+", README, re.MULTILINE)

    assert re.findall("^## (.*)", README, re.MULTILINE)[:3] == [
        "I have an error",
        "I have a trainer",
        "I review code",
    ]
    assert commands == [
        "make demo",
        "make test",
        "pip install",
        "vlmdebug run",
        "vlmdebug falsify",
        "vlmdebug review",
    ]


def test_door_of_an_error_prints_what_the_readme_quotes(tmp_path):
    from test_run import TRAIN, ran

    folder = tmp_path / "my_trainer"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)

    assert ran(folder, "train.py", "silent").stderr == quoted_after("vlmdebug run train.py")


@pytest.fixture
def my_trainer(tmp_path, monkeypatch):
    """The file of the README, in the current folder."""
    code = next(text for _, text in blocks() if text.startswith("# my_trainer.py\n"))
    (tmp_path / "my_trainer.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.mark.parametrize("command", ["falsify", "review"])
def test_door_to_code_prints_what_the_readme_quotes(my_trainer, capsys, command):
    from vlmdebug.cli import main

    typed = re.search(f"^vlmdebug ({command} my_trainer.py.*)", README, re.MULTILINE)
    assert typed is not None

    assert main(typed[1].split()) == 1
    assert capsys.readouterr().out.strip() == quoted_after(f"vlmdebug {typed[1]}").strip()


@pytest.mark.parametrize("command", ["demo", "check", "falsify", "export", "run", "families"])
def test_every_command_has_help(command, capsys):
    from vlmdebug.cli import main

    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])

    assert stopped.value.code == 0
    assert command in capsys.readouterr().out
