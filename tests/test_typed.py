"""What a person reads in a terminal: one line if all is right, its width, the options typed."""

from __future__ import annotations

import argparse
import os
import pty
import struct
import subprocess
import sys
import termios
from fcntl import ioctl

import pytest
import torch

import vlmdebug as vd
from vlmdebug.cli import COMMANDS, _parser, main
from vlmdebug.cli.show import LEAST, MOST, text_width
from vlmdebug.cli.typed import in_options, options_of
from vlmdebug.views.text import fitted


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A Gemma 4 batch, one of texts, and one of LLaVA-NeXT that needs its processor."""
    torch.save(dict(vd.tiny.batch("gemma4", [2, 1, 1], sizes=(160, 160))), tmp_path / "batch.pt")
    torch.save(dict(vd.tiny.batch("llava", [0, 0])), tmp_path / "texts.pt")
    torch.save(dict(vd.tiny.batch("llava_next", [2, 0, 1])), tmp_path / "next.pt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


# --- one line ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["batch.pt"],
            "gemma4 batch, 3 samples: OK (image placeholders of 3 samples compared)",
        ),
        (["texts.pt"], "text batch, 2 samples: OK (no media in it)"),
        (
            ["batch.pt", "--slicer", "corrected", "--chunk-size", "2"],
            "corrected on gemma4, 3 samples in chunks of 2: OK (rows of 5 keys in 2 chunks, "
            "image placeholders of 3 samples compared)",
        ),
    ],
    ids=["batch", "texts", "slicer"],
)
def test_right_batch_is_one_line_that_says_what_was_compared(saved, capsys, arguments, line):
    assert main(["check", *arguments]) == 0
    assert capsys.readouterr().out == f"vlmdebug check: {line}\n"


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_verbose_report_of_a_right_batch_has_counts_and_what_they_were_compared_with(
    saved, capsys, flag
):
    assert main(["check", "batch.pt", flag]) == 0
    printed = " ".join(capsys.readouterr().out.split())

    assert "images per sample 2 1 1" in printed
    assert "against features of image_position_ids" in printed


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["next.pt"], 2), (["batch.pt", "--slicer", "by_sample"], 1)],
    ids=["not compared", "wrong"],
)
def test_anything_but_right_is_more_than_a_line(saved, capsys, arguments, code):
    assert main(["check", *arguments]) == code
    assert len(capsys.readouterr().out.splitlines()) > 5


# --- widths --------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
@pytest.mark.parametrize("slicer", ["by_sample", "merged_5452"])
def test_report_is_as_wide_as_columns(saved, capsys, monkeypatch, columns, slicer):
    monkeypatch.setenv("COLUMNS", str(columns))
    main(["check", "batch.pt", "--verbose", "--slicer", slicer])
    lines = capsys.readouterr().out.splitlines()

    assert max(map(len, lines)) <= columns
    assert max(map(len, lines)) > columns - 15


CUTS = """\
def slicer(inputs, chunk_size):
    for start in range(0, len(inputs["input_ids"]), chunk_size):
        yield {key: inputs[key][start : start + chunk_size] for key in inputs}

class Trainer:
    def loss(self, model, batch):
        if self.wide_name_of_an_option > 1 and self.another_long_name_of_an_option > 1:
            batch = dict(batch)
        model(**batch)
"""
SAY = {
    "falsify finds": ["falsify", "cut.py:slicer", "--family", "gemma4"],
    "falsify finds nothing": ["falsify", "corrected", "--family", "gemma4", "--max-examples", "20"],
    "falsify invents": ["falsify", "cut.py:Trainer.loss", "--family", "llava"],
    "review finds": ["review", "cut.py", "--no-cache"],
    "review finds nothing": ["review", "empty.py", "--no-cache"],
}


@pytest.mark.parametrize("arguments", SAY.values(), ids=SAY)
def test_prose_of_falsify_and_review_is_as_wide_as_columns(
    arguments, tmp_path, capsys, monkeypatch
):
    (tmp_path / "cut.py").write_text(CUTS)
    (tmp_path / "empty.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    main(arguments)
    unbroken = capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "40")
    main(arguments)
    narrow = capsys.readouterr().out
    prose = [line for line in narrow.splitlines() if not line.startswith(("cut.py:", "    Run it"))]

    assert max(map(len, prose)) <= 40 < max(map(len, unbroken.splitlines()))
    if arguments[0] == "falsify":
        assert narrow.split() == unbroken.split()


def test_narrow_table_loses_no_column(saved, capsys, monkeypatch):
    arguments = ["check", "batch.pt", "--slicer", "by_sample"]
    main(arguments)
    wide = capsys.readouterr().out.split()
    monkeypatch.setenv("COLUMNS", str(LEAST))
    main(arguments)
    narrow = capsys.readouterr().out.split()

    assert {*narrow} == {*wide}
    assert narrow.count("features") > 0


def test_cell_that_is_cut_says_so():
    grid = [["", "chunk", "pixel_values"], ["MISMATCH loud", "2", "2:3; must be left out"]]

    assert fitted(grid, 2, width=36)[-1] == "MISMATCH loud      2  2:3; must be …"
    assert fitted(grid, 2, width=60)[-1].endswith("must be left out")


@pytest.mark.parametrize(
    ("columns", "width"), [("20", LEAST), ("100", 100), ("999", MOST), ("many", 80)]
)
def test_width_is_one_that_can_be_read(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)

    assert text_width() == width


def test_report_in_a_terminal_has_its_width(saved):
    own, terminal = pty.openpty()
    ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 50, 0, 0))
    command = [sys.executable, "-P", "-m", "vlmdebug", "check", "next.pt"]
    plain = {**os.environ, "NO_COLOR": "1", "TERM": "dumb"}
    ran = subprocess.Popen(command, stdout=terminal, stderr=terminal, env=plain)
    assert ran.wait() == 2
    os.close(terminal)
    lines = os.read(own, 100_000).decode().splitlines()

    assert 40 < max(map(len, lines)) <= 50


# --- options in messages -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("check batch.pt --num-images 1,1", "--num-images has 2 entries, but"),
        ("check batch.pt --num-tiles 1,1", "--num-tiles has 2 entries, but"),
        (
            "check batch.pt --slicer corrected --chunk-size 0",
            "--chunk-size is 0, but a chunk holds a whole number of samples, at least 1. Nothing "
            "was cut. Pass --chunk-size 1 or more.",
        ),
        ("check batch.pt --family nope", "--family 'nope' is not a layout family"),
        ("check batch.pt --html no/r.html", "--html no/r.html: No such file"),
        ("check batch.pt --json no/r.json", "--json no/r.json: No such file"),
        ("export batch.pt --out no/cut.py", "--out no/cut.py: No such file"),
        ("export next.pt", "Pass --processor DIR or --num-images N,N,…, how many"),
        ("falsify corrected --family nope", "--family 'nope' is not a layout family"),
        ("falsify corrected --seconds -1", "--seconds is -1.0, but"),
        ("falsify corrected --max-examples -1", "--max-examples is -1, but"),
        ("falsify corrected --max-examples 0", "No case was tried, so nothing was judged."),
        ("check missing_num_images=1.pt", "missing_num_images=1.pt is no file"),
        ("check num_images=1.pt", "num_images=1.pt is no file"),
        ("review --diff nope.diff", "--diff nope.diff: No such file"),
    ],
)
def test_error_names_the_option_that_was_typed(saved, capsys, arguments, said):
    assert main(arguments.split()) == 2
    printed = capsys.readouterr()

    assert printed.err.startswith("vlmdebug: ")
    assert said in printed.err


def test_doubt_names_options_and_the_file_of_the_report_arguments(saved, capsys):
    assert main(["check", "next.pt", "--json", "report.json"]) == 2
    printed = " ".join(capsys.readouterr().out.split())

    assert "Pass --processor DIR or --num-images N,N,…, how many" in printed
    assert "processor=" not in printed
    assert "Pass processor= or num_images=[" in (saved / "report.json").read_text()


def parsed(*arguments):
    return _parser().parse_args(["check", "batch.pt", *arguments])


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "Pass processor=, or processor= and config= together.",
            "Pass --processor DIR.",
        ),
        ("Pass processor= or config=, or layout=.", "Pass --processor DIR, or --family NAME."),
        ("Pass num_images=[2, 0, 1].", "Pass --num-images 2,0,1."),
        ('Pass layout="gemma4".', "Pass --family gemma4."),
        ("Or pass layout={key: unit}.", "Or pass layout={key: unit}."),
        ("Call read_batch(batch, num_images=[…]).", "Call read_batch(batch, num_images=[…])."),
        ("Pass `processor=` as the code says.", "Pass `processor=` as the code says."),
        ("Pass model=.", "Pass model=."),
        ("images per sample (from num_images)", "images per sample (from num_images)"),
    ],
)
def test_argument_is_an_option_where_there_is_one(said, shown):
    assert in_options(said, parsed()) == shown


def test_flag_that_turns_something_off_has_no_value():
    options = _parser().parse_args(["falsify", "corrected"])
    said = 'Pass text_only=False, or padding_side="left"; text_only=True is the default.'

    assert in_options(said, options) == (
        "Pass --no-text-only, or --padding-side left; text_only=True is the default."
    )


def test_word_of_prose_is_no_option():
    options = _parser().parse_args(["falsify", "corrected", "--seconds", "5"])

    assert in_options("The trial took more than 5 seconds.", options) == (
        "The trial took more than 5 seconds."
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.__name__.rpartition(".")[2])
def test_every_option_has_a_meaning(command):
    options = argparse.ArgumentParser().add_subparsers()
    command.add(options)
    (parser,) = options.choices.values()

    assert [one.dest for one in options_of(parser) if not one.help] == []
