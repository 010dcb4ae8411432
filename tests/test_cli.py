"""The command line: what it prints, writes, and answers to a script."""

from __future__ import annotations

import io
import os
import re
import resource
import shlex
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import vlmdebug as vd
from vlmdebug.cli import COMMANDS, _parser, main
from vlmdebug.cli.given import config_of
from vlmdebug.core.mismatch import CODES


@pytest.fixture
def saved(tmp_path):
    """A real Gemma 4 batch, as .pt and as .safetensors."""
    inputs = dict(vd.tiny.batch("gemma4", [2, 1, 1], sizes=(160, 160)))
    torch.save(inputs, tmp_path / "batch.pt")
    save_file(inputs, tmp_path / "batch.safetensors")
    return tmp_path


@pytest.fixture
def trainer(tmp_path):
    (tmp_path / "trainer.py").write_text(
        "def cut(inputs, chunk_size):\n"
        "    for start in range(0, len(inputs['input_ids']), chunk_size):\n"
        "        yield {k: v[start:start + chunk_size] for k, v in inputs.items()}\n"
    )
    return tmp_path / "trainer.py"


@pytest.mark.parametrize("name", ["batch.pt", "batch.safetensors"])
def test_right_batch_is_checked_alone(saved, name, capsys):
    code = main(["check", str(saved / name)])
    printed = capsys.readouterr().out

    assert code == 0
    assert "gemma4 batch, 3 samples: OK" in printed
    assert "MISMATCH" not in printed


def test_chunk_size_without_a_slicer_is_said(saved, capsys):
    code = main(["check", str(saved / "batch.pt"), "--chunk-size", "2"])
    printed = capsys.readouterr()

    assert code == 2 and not printed.out
    assert "--chunk-size 2 is for a slicer, and none was named" in printed.err
    assert main(["check", str(saved / "batch.pt"), "--chunk-size", "2", "--story"]) == 0


def test_version_is_printed(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--version"])

    assert end.value.code == 0
    assert capsys.readouterr().out == f"vlmdebug {vd.__version__}\n"


def test_known_slicers_are_tried_on_a_batch_where_the_story_is_asked_for(saved, capsys):
    code = main(["check", str(saved / "batch.pt"), "--story"])
    printed = capsys.readouterr().out

    assert code == 0
    assert re.search(r"sample 1 was given \w+\[1:2\] \(1 row: image A2 of sample 0\)", printed)
    assert "corrected: " in printed


def test_users_slicer_is_judged_and_the_report_written(saved, trainer, capsys):
    code = main(
        [
            "check",
            str(saved / "batch.pt"),
            "--slicer",
            f"{trainer}:cut",
            "--html",
            str(saved / "r.html"),
            "--json",
            str(saved / "r.json"),
        ]
    )

    assert code == 1
    assert "VLM002" in capsys.readouterr().out
    assert "VLM002" in (saved / "r.html").read_text()
    assert not vd.Report.from_json(saved / "r.json").ok


def test_right_slicer_exits_0(saved):
    assert main(["check", str(saved / "batch.pt"), "--slicer", "corrected"]) == 0


def test_truncated_batch_exits_1_where_features_are_known_and_2_where_not(tmp_path, capsys):
    _, processor = vd.tiny.build("llava_next")
    processor.save_pretrained(tmp_path / "processor")
    inputs = dict(vd.tiny.batch("llava_next", [2, 1], padding_side="right"))
    for key in ("input_ids", "attention_mask"):
        inputs[key] = inputs[key][:, :60]
    torch.save({**inputs, "num_images": [2, 1]}, tmp_path / "cut.pt")

    assert main(["check", str(tmp_path / "cut.pt")]) == 2
    assert "were not compared" in " ".join(capsys.readouterr().out.split())
    assert (
        main(["check", str(tmp_path / "cut.pt"), "--processor", str(tmp_path / "processor")]) == 1
    )
    assert "VLM010" in capsys.readouterr().out


def test_processor_folder_settles_the_counts(tmp_path, capsys):
    _, processor = vd.tiny.build("llava_next")
    processor.save_pretrained(tmp_path / "processor")
    torch.save(dict(vd.tiny.batch("llava_next", [2, 0, 1])), tmp_path / "batch.pt")

    assert main(["check", str(tmp_path / "batch.pt")]) == 2
    assert "AMBIGUOUS" in capsys.readouterr().out
    assert (
        main(["check", str(tmp_path / "batch.pt"), "--processor", str(tmp_path / "processor")]) == 0
    )


def test_config_in_the_folder_of_the_processor_is_read(tmp_path):
    model, processor = vd.tiny.build("llava_next")
    processor.save_pretrained(tmp_path)

    assert config_of(str(tmp_path)) is None
    model.config.save_pretrained(tmp_path)
    assert config_of(str(tmp_path)).model_type == "llava_next"
    (tmp_path / "config.json").write_text('{"model_type": "of_nobody"}')
    assert config_of(str(tmp_path)) is None


NEIGHBOUR = "from neighbour import cut\n\n\ndef slicer(inputs, chunk_size):\n"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("    yield from cut(inputs, chunk_size)\n", id="imported at the top"),
        pytest.param(
            "    import later\n    yield from cut(inputs, chunk_size)\n", id="when called"
        ),
    ],
)
def test_file_may_import_what_is_next_to_it(tmp_path, trainer, body, monkeypatch, capsys):
    """As in `python trial.py`, from any folder; nothing of it stays imported."""
    trainer.rename(tmp_path / "neighbour.py")
    (tmp_path / "later.py").write_text("")
    (tmp_path / "trial.py").write_text(NEIGHBOUR + body)
    before = list(sys.path)

    assert main(["falsify", f"{tmp_path}/trial.py:slicer", "--family", "llava"]) == 1
    assert "VLM001" in capsys.readouterr().out
    assert sys.path == before
    assert not {"trial", "neighbour", "later"} & set(sys.modules)


def test_loop_that_takes_a_model_first_is_recorded(tmp_path, capsys):
    (tmp_path / "trial.py").write_text(
        "def loop(model, inputs, chunk_size):\n"
        "    for start in range(0, len(inputs['input_ids']), chunk_size):\n"
        "        own = {k: inputs[k][start:start + chunk_size] for k in inputs if k[:3] != 'num'}\n"
        "        model(**own)\n"
    )
    code = main(["falsify", f"{tmp_path}/trial.py:loop", "--family", "llava", "--pytest"])
    printed = capsys.readouterr().out

    assert code == 1
    assert "VLM001" in printed
    assert "VLM008" not in printed
    assert "vd.check(vd.record(loop), batch" in printed


ENDS = {
    "at import": ("import sys\nsys.exit(0)\n", "trial.py:2 ended the process: SystemExit.0."),
    "raised at import": ("raise SystemExit\n", "trial.py:1 ended the process: SystemExit.None."),
    "when called": (
        "import sys\ndef cut(inputs, chunk_size):\n    sys.exit(0)\n",
        r"The slicer ended the process: SystemExit\(0\) at \S+/trial.py:3. Nothing was judged",
    ),
    "at a later chunk": (
        "def cut(inputs, chunk_size):\n    yield {}\n    exit()\n",
        "The slicer ended the process",
    ),
    "in a recorded loop": (
        "def cut(model, inputs, chunk_size):\n    raise SystemExit(0)\n",
        "The slicer ended the process",
    ),
    "interrupted": ("raise KeyboardInterrupt\n", "interrupted; nothing was judged"),
    "syntax": ("def cut(:\n", "trial.py:1 raised SyntaxError: invalid syntax"),
    "a null byte": ("\0", "raised SyntaxError|raised ValueError"),
    "raises at import": ("x = 1\n1 / 0\n", "trial.py:2 raised ZeroDivisionError: division by zero"),
    "raises in a function": (
        "def f():\n    return {}['k']\nf()\n",
        "trial.py:2 raised KeyError: 'k'",
    ),
    "raises lines": (
        "raise ValueError('a\\n::error::b')\n",
        r"trial.py:1 raised ValueError: a\\n::error::b",
    ),
    "imports what is not there": (
        "import nowhere_x\n",
        "trial.py:1 imports nowhere_x, which was not",
    ),
    "another name": ("def cuts(a, b):\n    pass\n", "no such function; did you mean cuts?"),
    "no function": ("cut = 3\n", "trial.py has no such function; it defines none"),
    "one argument": ("def cut(a):\n    pass\n", r"cut takes \(a\), but a slicer takes"),
}


@pytest.mark.parametrize("command", ["check", "falsify"])
@pytest.mark.parametrize(("source", "message"), ENDS.values(), ids=ENDS.keys())
def test_file_that_cannot_be_tried_exits_2_and_says_why(saved, source, message, command, capsys):
    (saved / "trial.py").write_text(source)
    cut = f"{saved}/trial.py:cut"
    batch = ["check", f"{saved}/batch.pt", "--slicer", cut]

    assert main(batch if command == "check" else ["falsify", cut, "--family", "llava"]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said)
    assert not [line for line in said.splitlines() if line.strip().startswith("::")]
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Trainer.cut", "only functions at the top of trial.py can be named"),
        ("rows", r"rows takes (inputs, start, stop), but a slicer takes (inputs, chunk_size)"),
    ],
)
def test_function_of_another_shape_is_not_run(saved, name, message, capsys):
    (saved / "trial.py").write_text(
        "class Trainer:\n"
        "    def cut(self, inputs, chunk_size):\n"
        "        1 / 0\n"
        "def rows(inputs, start, stop):\n"
        "    1 / 0\n"
    )

    assert main(["check", f"{saved}/batch.pt", "--slicer", f"{saved}/trial.py:{name}"]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("trial2.py:cut", "There is no file trial2.py here; did you mean trial.py?"),
        ("trial:cut", "There is no file trial here; did you mean trial.py?"),
        ("trial.py", "SLICER is trial.py, but it is FILE.py:NAME"),
        ("nowhere/trial.py:cut", "There is no file trial.py in nowhere."),
    ],
)
def test_typo_in_a_file_name_is_said(tmp_path, name, message, monkeypatch, capsys):
    (tmp_path / "trial.py").write_text("")
    monkeypatch.chdir(tmp_path)

    assert main(["falsify", name]) == 2
    assert message in capsys.readouterr().err


def test_falsify_prints_the_counterexample_and_its_test(trainer, capsys):
    code = main(["falsify", f"{trainer}:cut", "--pytest"])
    printed = capsys.readouterr().out

    assert code == 1
    assert "gemma4: images per sample" in printed
    assert "from trainer import cut" in printed


def test_falsify_says_which_keys_were_never_passed(capsys, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from vlmdebug.slicers import corrected\n"
        "def slicer(inputs, chunk_size):\n"
        "    for chunk in corrected(inputs, chunk_size):\n"
        "        yield {key: chunk[key] for key in chunk if 'feature' not in key}\n"
    )

    assert main(["falsify", f"{path}:slicer", "--family", "gemma4"]) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "  gemma4: 200 cases; not checked: input_features, input_features_mask"


def test_falsify_counts_what_a_right_slicer_survived(capsys):
    assert main(["falsify", "corrected", "--family", "gemma4", "--max-examples", "50"]) == 0
    assert "evidence and no proof" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("slicer", "option", "code"),
    [
        ("merged_5452", "--no-text-only", 0),
        ("no_mask", "--padding-side=right", 0),
        ("no_mask", "--padding-side=left", 1),
        ("videos_lost", "--no-clips", 0),
        ("videos_lost", "--padding-side=right", 1),
        ("places", "--no-position-ids", 0),
        ("as_lists", "--no-clips", 2),
    ],
)
def test_falsify_tries_what_your_trainer_meets(slicer, option, code, tmp_path, capsys):
    (tmp_path / "cut.py").write_text(
        "from vlmdebug.slicers import corrected\n"
        "def cut(change):\n"
        "    def slicer(inputs, chunk_size):\n"
        "        for n, chunk in enumerate(corrected(inputs, chunk_size)):\n"
        "            yield change(chunk, inputs, n * chunk_size, (n + 1) * chunk_size)\n"
        "    return slicer\n"
        "def lost(chunk, key):\n"
        "    return {k: v[:-1] if k == key else v for k, v in chunk.items()}\n"
        "def placed(c, i, a, b):\n"
        "    return {**c, 'position_ids': i['position_ids'][a:b]} if 'position_ids' in i else c\n"
        "no_mask = cut(lambda c, *_: {k: v for k, v in c.items() if k != 'attention_mask'})\n"
        "videos_lost = cut(lambda c, *_: lost(c, 'pixel_values_videos'))\n"
        "as_lists = cut(lambda c, *_: {k: list(v) for k, v in c.items()})\n"
        "places = cut(placed)\n"
    )
    name = slicer if slicer == "merged_5452" else f"{tmp_path / 'cut.py'}:{slicer}"
    family = "gemma4" if slicer == "merged_5452" else "qwen2_5_vl"

    assert main(["falsify", name, "--family", family, option]) == code
    if code == 2:
        assert "could not be judged" in capsys.readouterr().err


def test_export_prints_or_writes_code_that_cuts_rightly(saved, capsys):
    assert main(["export", str(saved / "batch.pt"), "--out", str(saved / "slice_inputs.py")]) == 0
    assert main(["export", str(saved / "batch.pt")]) == 0
    assert (saved / "slice_inputs.py").read_text() in capsys.readouterr().out
    code = main(
        ["check", str(saved / "batch.pt"), "--slicer", f"{saved / 'slice_inputs.py'}:slice_inputs"]
    )
    assert code == 0


def test_families_are_listed(capsys):
    assert main(["families"]) == 0
    assert "pixel_values: one row per patch" in capsys.readouterr().out


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["families", "explain VLM010", "demo --help"])
def test_output_that_nobody_reads_ends_quietly_as_by_sigpipe(command, unbuffered):
    line = [sys.executable, "-P", "-m", "vlmdebug", *command.split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    reader, output = os.pipe()
    os.close(reader)
    done = subprocess.run(line, env=environment, stdout=output, stderr=subprocess.PIPE, check=False)
    os.close(output)

    assert done.stderr == b""
    # argparse itself passes over an output of --help that is lost at once.
    assert done.returncode == 128 + signal.SIGPIPE or (unbuffered and "--help" in command)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_finds_no_room_is_said_and_exits_2(unbuffered, tmp_path):
    line = [sys.executable, "-P", "-m", "vlmdebug", "families"]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with (tmp_path / "out.txt").open("w") as full:
        done = subprocess.run(
            line,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
        )

    assert done.returncode == 2
    assert re.fullmatch(r"vlmdebug: .*File too large\n", done.stderr)


def test_broken_pipe_of_something_else_is_a_failure(monkeypatch, capsys):
    def broken(options):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("vlmdebug.cli.families._run", broken)

    assert main(["families"]) == 2
    assert capsys.readouterr().err == "vlmdebug: Broken pipe\n"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one.__name__.rpartition(".")[2])
def test_every_command_has_an_example_that_its_own_options_accept(command):
    name = command.__name__.rpartition(".")[2]
    parser = _parser()
    (commands,) = parser._subparsers._group_actions
    example = re.search(rf"^.*?vlmdebug ({name}\b.*?)(?:$|  )", commands.choices[name].epilog, re.M)

    assert example is not None
    assert parser.parse_args(shlex.split(example[1])).run is command._run


def test_folder_that_is_no_processor_is_refused(saved, capsys):
    (saved / "junk").mkdir()
    (saved / "junk" / "config.json").write_text("[1]")
    (saved / "junk" / "preprocessor_config.json").write_text('{"processor_class": 5}')

    assert main(["check", str(saved / "batch.pt"), "--processor", str(saved / "junk")]) == 2
    said = capsys.readouterr().err
    assert f"--processor {saved / 'junk'} could not be loaded: " in said
    assert "please report it" not in said


def test_processor_that_needs_another_package_is_said_by_its_name(saved, monkeypatch, capsys):
    """transformers begins such a message with an empty line."""
    transformers = pytest.importorskip("transformers")

    def refused(*_, **__):
        raise ImportError("\nQwen2VLVideoProcessor requires the Torchvision library.\nInstall it.")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", refused)

    assert main(["check", str(saved / "batch.pt"), "--processor", str(saved)]) == 2
    said = capsys.readouterr().err
    assert "could not be loaded: Qwen2VLVideoProcessor requires the Torchvision library." in said


def test_every_code_is_explained(capsys):
    for code, title in CODES.items():
        assert main(["explain", code.lower()]) == 0
        assert capsys.readouterr().out.startswith(f"# {code}: {title}\n")
    assert main(["explain"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{c}  {t}" for c, t in CODES.items()]


def test_codes_are_explained_without_torch():
    code = (
        "import sys; from vlmdebug.cli import main; main(['explain', 'VLM002']);"
        "sys.exit('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (ran.returncode, ran.stderr) == (0, "")


def test_batch_that_is_not_there_is_said_without_torch():
    code = (
        "import sys; from vlmdebug.cli import main; main(['check', 'nowhere.pt']);"
        "sys.exit('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 0 and ran.stderr.startswith("vlmdebug: nowhere.pt is no file.")


def test_in_a_terminal_the_output_has_links_and_colour(tmp_path):
    pytest.importorskip("rich")
    pty = pytest.importorskip("pty")
    (tmp_path / "cut.py").write_text(
        "def cut(inputs, start, stop):\n"
        "    return inputs['image_grid_thw'][start:stop], inputs['input_ids'][start:stop]\n"
    )
    code = f"from vlmdebug.cli import main; main(['review', {str(tmp_path / 'cut.py')!r}])"
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "200"}
    environment.pop("NO_COLOR", None)
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=environment, check=True)
    os.close(theirs)
    shown = os.read(ours, 100_000).decode()
    os.close(ours)

    assert re.search(r"\x1b\]8;[^;]*;file://\S+/VLM00\d\.md", shown)
    assert "\x1b[1;31m" in shown


REFUSED = {
    "no such code": (["explain", "VLM999"], "'VLM999' is no mismatch code. They are VLM001 to"),
    "no file": (["check", "nothing.pt"], "nothing.pt is no file."),
    "other ending": (["check", __file__], "ends in '.py', but a saved batch is one of"),
    "no such slicer": (["falsify", "nope"], "is neither FILE.py:NAME nor one of by_sample"),
    "no such family": (["falsify", "corrected", "--family", "x"], "'x' is not a layout family"),
    "no such folder": (["check", __file__, "--processor", "gone"], "is no file|ends in|no folder"),
}


@pytest.mark.parametrize(("arguments", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_run_exits_2_with_a_message(arguments, message, capsys):
    assert main(arguments) == 2
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "{}.pt"],
        ["check", "folder/{}.pt"],
        ["check", __file__, "--processor={}"],
        ["falsify", "{}.py:slicer"],
        ["falsify", "folder/{}.py:slicer"],
        ["falsify", "{}"],
        ["falsify", "corrected", "--family", "{}"],
        ["review", "{}.py"],
        ["audit", "{}.jsonl", "--processor", "{}"],
        ["merge", "{}"],
        ["explain", "{}"],
        ["run", "{}.py"],
    ],
    ids=" ".join,
)
def test_nothing_that_was_typed_begins_a_line_of_a_message(arguments, capsys):
    name = "a\n::error::b\x1b[2J"

    assert main([one.format(name) for one in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("vlmdebug: ")
    assert said.count("\n") == 1
    assert "\x1b" not in said


def test_file_that_is_no_batch_is_refused_and_never_run(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save(Evil(), tmp_path / "evil.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    (tmp_path / "junk.safetensors").write_bytes(b"no safetensors at all")

    assert main(["check", str(tmp_path / "evil.pt")]) == 2
    assert main(["check", str(tmp_path / "list.pt")]) == 2
    assert main(["check", str(tmp_path / "junk.safetensors")]) == 2
    assert not (tmp_path / "ran").exists()
    assert capsys.readouterr().err.count("vlmdebug: ") == 3


class Terminal(io.StringIO):
    """An error stream that a person reads."""

    def isatty(self) -> bool:
        return True


def on_a_terminal(monkeypatch):
    """The error stream of a test; pytest sets its own between a fixture and the test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def left_of(stream):
    """What a terminal shows at the end: each line as the last return left it."""
    return [line.rsplit("\r", 1)[-1].strip() for line in stream.getvalue().split("\n")]


COMMANDS_THAT_TAKE_SECONDS = {
    "falsify": (["falsify", "by_sample", "--family", "llava"], "vlmdebug: searching …", 1),
    "check": (["check", "batch.pt"], "vlmdebug: reading and comparing the batch …", 0),
    "export": (["export", "batch.pt"], "vlmdebug: writing the code and testing it …", 0),
}


@pytest.mark.parametrize("name", COMMANDS_THAT_TAKE_SECONDS)
def test_command_says_what_it_does_on_a_terminal_only_and_removes_it(
    name, tmp_path, monkeypatch, capsys
):
    terminal = on_a_terminal(monkeypatch)
    arguments, said, status = COMMANDS_THAT_TAKE_SECONDS[name]
    monkeypatch.chdir(tmp_path)
    torch.save(dict(vd.make_batch("gemma4", [1, 0]).inputs), "batch.pt")

    assert main(arguments) == status
    assert terminal.getvalue().startswith(f"\r{said}")
    assert said not in left_of(terminal)
    shown = capsys.readouterr().out
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stderr", piped)
    assert main(arguments) == status
    assert capsys.readouterr().out == shown
    assert "\r" not in piped.getvalue()
    assert said not in piped.getvalue()


def test_search_says_how_many_cases_it_tried(monkeypatch):
    terminal = on_a_terminal(monkeypatch)
    monkeypatch.setattr("vlmdebug.cli.falsify.EVERY", 0.0)

    assert main(["falsify", "corrected", "--family", "llava", "--max-examples", "5"]) == 0
    assert "\rvlmdebug: searching, 1 case tried …" in terminal.getvalue()
    assert "\rvlmdebug: searching, 2 cases tried …" in terminal.getvalue()


def test_line_of_progress_is_removed_before_an_error_is_said(monkeypatch, tmp_path):
    terminal = on_a_terminal(monkeypatch)
    missing = tmp_path / "none.pt"

    assert main(["check", str(missing)]) == 2
    assert left_of(terminal)[0].startswith("vlmdebug: ")
    assert "comparing" not in left_of(terminal)[0]
