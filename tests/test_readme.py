"""The README runs, and prints what it says it prints."""

from __future__ import annotations

import contextlib
import io
import re
from itertools import pairwise
from pathlib import Path

import pytest

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def blocks() -> list[tuple[str, str]]:
    return BLOCK.findall(README)


def numbers_rounded(text: str) -> str:
    """Logit differences depend on the machine's arithmetic; all else is compared literally."""
    return re.sub(r"differ by up to [\d.e+-]+", "differ by up to N", text).strip()


def test_every_python_block_prints_the_text_block_after_it():
    namespace: dict[str, object] = {}
    shown = blocks()
    ran = 0
    for (language, source), (next_language, expected) in pairwise(shown):
        if language != "python":
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(source, "README.md", "exec"), namespace)
        ran += 1

        assert next_language == "text"
        assert numbers_rounded(printed.getvalue()) == numbers_rounded(expected)

    assert ran == 5


def test_the_demo_prints_what_the_readme_quotes(tmp_path, capsys):
    from vlmdebug.cli import main

    code = main(["demo", "--out", str(tmp_path)])
    printed = numbers_rounded(capsys.readouterr().out)
    quoted = next(
        text for language, text in blocks() if language == "text" and "by_sample: " in text
    )

    assert code == 0
    for passage in numbers_rounded(quoted).split("…"):
        assert passage.strip() in printed
    assert (tmp_path / "report.html").stat().st_size > 1000
    assert "def slice_inputs" in (tmp_path / "slice_inputs.py").read_text()


def quoted_after(command: str) -> str:
    """The output that the README shows for a command."""
    shown = blocks()
    place = next(n for n, (language, text) in enumerate(shown) if text.startswith(command))
    assert [language for language, _ in shown[place : place + 2]] == ["sh", "text"]
    return shown[place + 1][1]


def test_explain_prints_what_the_readme_quotes(capsys):
    from vlmdebug.cli import main

    text = re.search(r'vlmdebug explain "(.*?)"', README)
    assert text is not None
    main(["explain", text[1]])

    assert capsys.readouterr().out == quoted_after("vlmdebug explain")


def test_run_prints_what_the_readme_quotes(tmp_path):
    from test_run import TRAIN, ran

    folder = tmp_path / "my_trainer"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)

    assert ran(folder, "train.py", "silent").stderr == quoted_after("vlmdebug run train.py")


@pytest.mark.parametrize("command", ["demo", "check", "falsify", "export", "run", "families"])
def test_every_command_has_help(command, capsys):
    from vlmdebug.cli import main

    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])

    assert stopped.value.code == 0
    assert command in capsys.readouterr().out
