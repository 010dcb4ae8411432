"""`vlmdebug run`: the program runs as without it, and every call of a model is judged."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from architectures import architectures

import vlmdebug as vd
from vlmdebug.cli import main
from vlmdebug.launch import begin, command
from vlmdebug.launch.ending import end, summary_of
from vlmdebug.launch.imports import AfterImport
from vlmdebug.launch.settings import Settings
from vlmdebug.magics import watching
from vlmdebug.watching.session import CALLED, Session
from vlmdebug.watching.watch import Watcher

NO_CALL = "vlmdebug: no call of a transformers model with images, videos or audio was seen.\n"


def ran(
    folder: Path, *words: str, watched: bool = True, **options: Any
) -> subprocess.CompletedProcess[str]:
    """A program with `vlmdebug run`, or with Python alone."""
    line = [sys.executable, *(["-m", "vlmdebug", "run"] if watched else []), *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(vd.__file__).parents[1])}
    environment |= options.pop("variables", {})
    given = {"cwd": folder, "env": environment, "capture_output": True, "text": True}
    return subprocess.run(line, **given, **options)


# --- the program itself ------------------------------------------------------------------------

PROGRAM = """
import os, sys
print(sys.argv, __name__, __file__, __spec__ and __spec__.name, sys.path[0], len(sys.path))
print("torch" in sys.modules)
print(sys.stdin.read(), sys.flags.utf8_mode, sys.meta_path and "vlmdebug.cli" in sys.modules)
print("to stderr", file=sys.stderr)
if "exit" in sys.argv:
    sys.exit(7)
if "say" in sys.argv:
    sys.exit("said at the end")
if "raise" in sys.argv:
    try:
        1 / 0
    except ZeroDivisionError as error:
        raise RuntimeError("the step failed") from error
"""


@pytest.mark.parametrize("how", ["", "exit", "say", "raise"])
@pytest.mark.parametrize("program", [("train.py",), ("-m", "train")])
def test_a_program_runs_as_without_it(tmp_path: Path, program: tuple[str, ...], how: str) -> None:
    (tmp_path / "train.py").write_text(PROGRAM)
    words = (*program, "--log", "x", *([how] if how else []))
    alone = ran(tmp_path, *words, watched=False, input="typed")
    watched = ran(tmp_path, *words, input="typed")

    assert watched.stdout == alone.stdout
    assert "['" in alone.stdout and "False" in alone.stdout
    assert watched.stderr == alone.stderr + NO_CALL
    assert watched.returncode == alone.returncode
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["train.py"]


def test_the_sitecustomize_of_the_environment_still_runs(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('mine')")
    (tmp_path / "train.py").write_text("import sitecustomize; print(sitecustomize.__file__)")
    path = f"{tmp_path}{os.pathsep}{Path(vd.__file__).parents[1]}"
    done = ran(tmp_path, "train.py", variables={"PYTHONPATH": path})

    # The first is of the command itself, before it becomes the program.
    assert done.stdout.split() == ["mine", "mine", str(tmp_path / "sitecustomize.py")]


def test_the_hook_of_that_sitecustomize_still_sees_exceptions(tmp_path: Path) -> None:
    hook = "lambda kind, *others: print('hooked', kind.__name__)"
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.excepthook = {hook}")
    (tmp_path / "train.py").write_text("1 / 0")
    path = f"{tmp_path}{os.pathsep}{Path(vd.__file__).parents[1]}"
    done = ran(tmp_path, "train.py", variables={"PYTHONPATH": path})

    assert (done.stdout, done.stderr) == ("hooked ZeroDivisionError\n", NO_CALL)


def test_empty_places_in_the_path_stay(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    (tmp_path / "mine.py").write_text("print('mine')")
    (tmp_path / "scripts" / "train.py").write_text("import mine, sys; print(sys.path)")
    path = f"{os.pathsep}{Path(vd.__file__).parents[1]}"  # as of PYTHONPATH=$PYTHONPATH:…
    alone, watched = (
        ran(tmp_path, "scripts/train.py", watched=watched, variables={"PYTHONPATH": path})
        for watched in (False, True)
    )

    assert watched.stdout == alone.stdout
    assert alone.stdout.startswith("mine\n")


CHILDREN = """
import multiprocessing, subprocess, sys
def child(out):
    out.put((sys.path, sys.flags.isolated))
if __name__ == "__main__":
    subprocess.run([sys.executable, "-c", "import sys; print(sys.path)"], env={})
    context = multiprocessing.get_context("spawn")
    out = context.Queue()
    process = context.Process(target=child, args=(out,))
    process.start()
    print(out.get())
    process.join()
"""


def test_children_without_an_environment_and_spawned_ones_run_as_without_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "train.py").write_text(CHILDREN)
    alone, watched = (ran(tmp_path, "train.py", watched=watched) for watched in (False, True))

    assert watched.stdout == alone.stdout
    assert watched.stderr == alone.stderr + NO_CALL
    assert len(alone.stdout.splitlines()) == 2


def test_the_end_is_written_in_one_piece(monkeypatch: Any) -> None:
    written: list[str] = []
    stream = SimpleNamespace(write=written.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stderr", stream)
    end(None, Settings(), main=True)

    assert written == [NO_CALL]


def test_a_process_that_judged_leaves_no_mark_behind(train: Path) -> None:
    variables = {"TMPDIR": str(train)}
    done = ran(train, "train.py", variables=variables)

    assert "nothing found" in done.stderr
    assert [*train.glob("vlmdebug-*")] == []


def test_children_that_call_no_model_say_nothing(tmp_path: Path) -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(5)'])"
    (tmp_path / "train.py").write_text(child)
    done = ran(tmp_path, "train.py")

    assert (done.stdout, done.stderr) == ("5\n", NO_CALL)


def test_what_cannot_be_run_is_named(capsys: Any) -> None:
    assert main(["run", "trains.py"]) == 2
    assert main(["run"]) == 2
    assert main(["run", "--embedded", "train.py"]) == 2
    for option in ("--sample-every", "--shards"):
        with pytest.raises(SystemExit):
            main(["run", option, "0", "train.py"])
    said = capsys.readouterr().err

    assert "There is no file or command 'trains.py'. Nothing was run." in said
    assert "There is no program given." in said
    assert said.count("'0' is no whole number of at least 1") == 2
    assert "Nothing was run. Pass --shards N, too." in said


def test_words_after_the_program_are_its_own(monkeypatch: Any) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(command, "run_program", lambda *given: seen.append(given) or 0)
    main(["run", "--raise", "train.py", "--log", "x", "-m", "--raise"])
    main(["run", "--log", "d", "-m", "pkg.train", "--log", "x"])
    main(["run", "--shards", "2", "--embedded", "train.py", "--shards", "3"])

    assert seen[2:] == [(["train.py", "--shards", "3"], Settings(shards=2, embedded=True))]
    assert seen[:2] == [
        (["train.py", "--log", "x", "-m", "--raise"], Settings(raising=True)),
        (["-m", "pkg.train", "--log", "x"], Settings(log=Path("d"))),
    ]


@pytest.mark.parametrize(
    ("variables", "settings"),
    [
        ({}, None),
        ({"VLMDEBUG": "0"}, None),
        ({"VLMDEBUG": "1"}, Settings()),
        ({"VLMDEBUG": "/d/c.jsonl", "VLMDEBUG_RAISE": "1"}, Settings(Path("/d/c.jsonl"), True)),
        ({"VLMDEBUG": "1", "VLMDEBUG_SAMPLE_EVERY": "x"}, Settings()),
        ({"VLMDEBUG": "1", "VLMDEBUG_SAMPLE_EVERY": "9"}, Settings(sample_every=9)),
        ({"VLMDEBUG": "1", "VLMDEBUG_SHARDS": "2"}, Settings(shards=2)),
        ({"VLMDEBUG": "1", "VLMDEBUG_SHARDS": "two"}, Settings()),
        (
            {"VLMDEBUG": "1", "VLMDEBUG_SHARDS": "4", "VLMDEBUG_EMBEDDED": "1"},
            Settings(shards=4, embedded=True),
        ),
    ],
)
def test_settings_travel_in_the_environment(
    variables: dict[str, str], settings: Settings | None
) -> None:
    assert Settings.from_environment(variables) == settings
    if settings is not None:
        assert Settings.from_environment(settings.to_environment()) == settings


def test_each_form_of_log_names_its_files() -> None:
    assert Settings().html == Path("vlmdebug-run/report.html")
    assert Settings().calls is None
    assert Settings(Path("d")).html == Path("d/report.html")
    assert Settings(Path("d")).calls == Path("d/calls.jsonl")
    assert Settings(Path("d/c.jsonl")).html == Path("d/c.html")
    assert Settings(Path("d/c.jsonl")).calls == Path("d/c.jsonl")


def test_a_module_is_seen_after_its_import_and_stays_its_own(
    tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "module_to_see.py").write_text("VALUE = 5")
    monkeypatch.syspath_prepend(str(tmp_path))
    seen: list[Any] = []
    finder = AfterImport(["module_to_see"], lambda module: seen.append(module.VALUE))
    finder.install()
    try:
        import module_to_see  # type: ignore[import-not-found]
    finally:
        sys.meta_path.remove(finder)
        sys.modules.pop("module_to_see", None)

    assert seen == [5]
    assert type(module_to_see.__loader__) is type(json.__loader__)
    assert module_to_see.__spec__.loader is module_to_see.__loader__


def test_the_list_of_modules_is_the_same_in_both_places() -> None:
    assert set(begin.MODULES) == CALLED.keys()


# --- a program with a model ---------------------------------------------------------------------

TRAIN = """
import sys

import torch
import vlmdebug as vd

model, processor = vd.tiny.build("llava")
inputs = dict(vd.tiny.batch("llava", [1, 1, 1], padding_side="right"))


def step(batch):
    return model(**batch)


for _ in range(4):
    step(inputs)
if "silent" in sys.argv:
    step({key: value[1:2] if key != "pixel_values" else value[:1] for key, value in inputs.items()})
if "loud" in sys.argv:
    inputs["input_ids"][1, -1] = model.config.image_token_id
    step(inputs)
if "text" in sys.argv:
    processor(text=["<image>", "<image><image>"], images=[[None], [None]])
print("end")
"""


@pytest.fixture
def train(tmp_path: Path) -> Path:
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def test_a_run_without_findings_prints_one_line(train: Path) -> None:
    done = ran(train, "--sample-every", "2", "train.py")

    assert (done.returncode, done.stdout) == (0, "end\n")
    assert done.stderr == (
        "vlmdebug: 2 calls of LlavaForConditionalGeneration judged and 2 skipped, nothing found.\n"
    )
    assert not (train / "vlmdebug-run").exists()


def test_a_silent_mismatch_is_named_at_the_end(train: Path) -> None:
    done = ran(train, "--log", "logs", "train.py", "silent")
    calls = [json.loads(line) for line in (train / "logs" / "calls.jsonl").open()]

    assert (done.returncode, done.stdout) == (0, "end\n")
    assert "call 4 at " in done.stderr and "train.py:12, Llava" in done.stderr
    assert "sample 1 was given pixel_values[0:1] (1 row: image A1 of sample 0) but" in done.stderr
    assert done.stderr.rstrip().endswith("report.html")
    assert "image A1 of sample 0" in (train / "logs" / "report.html").read_text()
    assert [call["verdict"] for call in calls] == ["OK"] * 4 + ["MISMATCH"]


SPLIT = """
import sys

import torch
import vlmdebug as vd

model, processor = vd.tiny.build("llava")
inputs = dict(vd.tiny.batch("llava", [1, 1, 1], padding_side="right"))
wide = inputs["input_ids"].shape[1]
half, lost = wide // 2, "lost" in sys.argv
places = torch.arange(wide).expand(3, -1)
for _ in range(2):
    for start, stop in ((0, half), (half + lost, wide)):
        tokens = {key: inputs[key][:, start:stop] for key in ("input_ids", "attention_mask")}
        try:
            model(**tokens, position_ids=places[:, start:stop], pixel_values=inputs["pixel_values"])
        except ValueError:
            pass  # a rank has some of the placeholder tokens, and all of the images
print("end")
"""
"""Two ranks of each batch, one after the other, as a trainer that embeds before it splits."""


def test_what_is_found_at_the_end_is_not_counted_as_a_call(tmp_path: Path) -> None:
    copied = "tokens = {k: v.clone() for k, v in tokens.items()}"
    wrong = SPLIT.replace("places = ", "places = 0 * ")
    (tmp_path / "train.py").write_text(
        wrong.replace("        try:", f"        {copied}\n        try:")
    )
    found = ran(tmp_path, "--shards", "2", "--embedded", "train.py").stderr

    assert "vlmdebug: 4 calls of LlavaForConditionalGeneration judged, 2 of them wrong" in found


def test_ranks_of_a_program_are_judged_as_parts_of_a_call(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SPLIT)
    options = ("--shards", "2", "--embedded", "--sample-every", "2")
    right = ran(tmp_path, *options, "train.py")
    lost = ran(tmp_path, "--shards", "2", "--embedded", "train.py", "lost")
    whole = ran(tmp_path, "train.py")

    assert (right.returncode, right.stdout) == (0, "end\n")
    assert right.stderr == (
        "vlmdebug: 2 calls of LlavaForConditionalGeneration judged and 2 skipped, nothing found.\n"
    )
    assert "on no rank" in " ".join(lost.stderr.split())
    assert "VLM006" in lost.stderr
    assert "VLM006" not in whole.stderr and "nothing found" not in whole.stderr


def test_an_exception_is_as_without_it_and_a_report_follows(train: Path) -> None:
    alone = ran(train, "train.py", "loud", watched=False)
    watched = ran(train, "train.py", "loud")

    assert watched.returncode == alone.returncode == 1
    assert watched.stderr.startswith(alone.stderr)
    report = watched.stderr.removeprefix(alone.stderr)
    assert report.startswith("vlmdebug: 5 calls of LlavaForConditionalGeneration judged, 1 of them")
    assert "sample 1 has 17 placeholder tokens but its images become 16 features" in report
    assert (train / "vlmdebug-run" / "report.html").is_file()


def test_an_exception_before_the_model_is_looked_into(train: Path) -> None:
    done = ran(train, "train.py", "text")

    assert "sample 1: its text has 2 placeholders <image> but it was given 1 image" in done.stderr


def test_the_first_mismatch_can_be_raised(train: Path) -> None:
    done = ran(train, "--raise", "train.py", "silent")

    assert done.returncode == 1
    assert "vlmdebug.errors.MismatchError: call 4 at " in done.stderr
    assert "end" not in done.stdout


RANKS = """
import torch, os
import torch.distributed as dist
import vlmdebug as vd

dist.init_process_group("gloo")
model, _ = vd.tiny.build("llava")
ddp = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
inputs = dict(vd.tiny.batch("llava", [1, 1, 1]))
ddp(**inputs)
if dist.get_rank() == 1:
    ddp.module(**{k: v[1:2] if k != "pixel_values" else v[:1] for k, v in inputs.items()})
dist.barrier()
"""


@pytest.mark.slow
def test_each_rank_of_a_launcher_writes_its_own_report(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    done = ran(tmp_path, "--log", "logs", *launcher, "ranks.py")
    said = re.findall(r"^vlmdebug \(rank \d\): \d+", done.stderr, re.MULTILINE)

    assert done.returncode == 0, done.stderr
    assert sorted(said) == [
        "vlmdebug (rank 0): 1",
        "vlmdebug (rank 1): 2",
    ]
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {
        "calls.rank0.jsonl",
        "calls.rank1.jsonl",
        "report.rank1.html",
    }


def test_the_variable_and_the_path_are_enough(train: Path, capsys: Any) -> None:
    main(["run", "--path"])
    folder = capsys.readouterr().out.strip()
    path = f"{folder}{os.pathsep}{Path(vd.__file__).parents[1]}"
    variables = {"VLMDEBUG": "1", "PYTHONPATH": path}
    done = ran(train, "train.py", "silent", watched=False, variables=variables)

    assert done.stdout == "end\n"
    assert "vlmdebug: 5 calls of LlavaForConditionalGeneration judged, 1 of them" in done.stderr


# --- which calls are judged ---------------------------------------------------------------------


@contextmanager
def session() -> Iterator[Session]:
    """A session on the models of this process; nothing of it remains."""
    with watching() as sessions, torch.no_grad():
        yield sessions[0]


@contextmanager
def sharing(**options: Any) -> Iterator[Session]:
    """A session on calls that two ranks share, as of `vlmdebug run --shards 2 --embedded`."""
    seen = Session(shards=2, embedded=True, **options)
    for name in CALLED.keys() & sys.modules.keys():
        seen.patch(sys.modules[name])
    try:
        yield seen
    finally:
        seen.unpatch(sys.modules)
        seen.finish()


def share_calls(model: Any, *, lost: int = 0, step: int = 0) -> None:
    """A step of two ranks, with copies of its tokens; each rank has all images."""
    inputs = dict(vd.tiny.batch("llava", [1, 1, 1], padding_side="right", seed=step))
    wide = inputs["input_ids"].shape[1]
    places, half = torch.arange(wide).expand(3, -1), wide // 2
    for start, stop in ((0, half), (half + lost, wide)):
        tokens = {key: inputs[key][:, start:stop] for key in ("input_ids", "attention_mask")}
        own = {key: value.clone() for key, value in tokens.items()}
        with suppress(ValueError):  # it has some of the placeholder tokens, and all images
            model(**own, position_ids=places[:, start:stop], pixel_values=inputs["pixel_values"])


def whole_calls(model: Any) -> None:
    """An evaluation of as many rows, and a generation."""
    others = dict(vd.tiny.batch("llava", [1, 0, 1], padding_side="left", seed=1))
    with torch.no_grad():
        model(**others)
        model.generate(**others, max_new_tokens=2, do_sample=False)


def test_whole_calls_of_a_program_between_its_ranks_are_judged_as_such(built: Any) -> None:
    model, _ = built["llava"]
    for lost in (0, 1):
        with sharing() as seen:
            for step in range(4):
                share_calls(model, lost=lost * (step == 2), step=step)
                whole_calls(model)
        found = [{one.code for one in found.call.mismatches} for found in seen.found.values()]

        assert not seen.failed
        assert found == [{"VLM014"}] * lost  # a token before those of rank 1 is on no rank
        assert lost or (seen.judged == 16 and not seen.unread)


@pytest.mark.parametrize(("every", "judged"), [(2, 8), (3, 8), (4, 4)])
def test_calls_of_ranks_are_judged_or_skipped_together(every: int, judged: int, built: Any) -> None:
    model, _ = built["llava"]
    with sharing(sample_every=every) as seen:
        for _ in range(4):
            share_calls(model)
            whole_calls(model)

    assert not seen.failed and not seen.found and not seen.unread
    assert (seen.judged, seen.judged + seen.skipped) == (judged, 16)


def test_models_of_one_config_may_have_each_share_in_turn(built: Any) -> None:
    model, _ = built["llava"]
    other = type(model)(model.config)

    def both(**given: Any) -> None:
        for one in (model, other):
            with suppress(ValueError):
                one(**given)

    with sharing() as seen, torch.no_grad():
        share_calls(both)
        share_calls(both)

    assert not seen.failed and not seen.found and not seen.unread
    assert seen.judged == 8


def right_and_wrong(built: Any) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    model, _ = built["llava"]
    inputs = dict(vd.tiny.batch("llava", [1, 1, 2], padding_side="right"))
    ids = inputs["input_ids"].clone()
    ids[1, -1] = model.config.image_token_id
    return model, inputs, {**inputs, "input_ids": ids}


OTHERWISE = {"diffusion_gemma"}
"""Architectures with a `generate` that denoises a canvas: it takes no prompt longer than that."""


@pytest.mark.parametrize("family", architectures())
def test_sound_calls_of_every_architecture_are_right_without_a_processor(
    family: str, built: Any
) -> None:
    model, _ = built[family]
    inputs = dict(vd.tiny.batch(family, [2, 1, 0, 1], sizes=(160, 160)))
    with session() as seen, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(**inputs)
        if family not in OTHERWISE:
            model.generate(**inputs, max_new_tokens=2)

    calls = 1 if family in OTHERWISE else 2
    assert (seen.judged, dict(seen.unread), seen.found, seen.failed) == (calls, {}, {}, None)


def test_calls_inside_a_call_are_not_judged_again(built: Any) -> None:
    model, inputs, bad = right_and_wrong(built)
    with session() as seen:
        model(**inputs)
        model.forward(**inputs)  # as PEFT does: the inner model is the outermost call
        model.model.vision_tower(inputs["pixel_values"])
        model.get_image_features(pixel_values=inputs["pixel_values"])
        with suppress(ValueError):
            model(**bad)

    assert seen.judged == 3
    (found,) = seen.found.values()
    assert found.call.report is not None and found.call.report.mismatches[0].samples == (1,)
    assert found.call.site.startswith("tests/test_run.py:")


def test_a_cache_and_its_next_token_are_no_finding(built: Any) -> None:
    model, inputs, _ = right_and_wrong(built)
    with session() as seen:
        cache = model(**inputs, use_cache=True).past_key_values
        model(input_ids=inputs["input_ids"][:, -1:], past_key_values=cache)
        model.generate(**inputs, max_new_tokens=2, num_beams=2)

    assert not seen.found and not seen.failed


def test_wrappers_are_seen_through(built: Any, compiled: Any) -> None:
    model, inputs, bad = right_and_wrong(built)
    peft = pytest.importorskip("peft")
    wrapped = peft.get_peft_model(
        vd.tiny.build("llava")[0], peft.LoraConfig(target_modules=["q_proj"])
    )

    class Mine(torch.nn.Module):
        def forward(self, batch: dict[str, Any]) -> Any:
            return model(**batch)

    faster = compiled(vd.tiny.build("llava")[0])
    for call in (wrapped, lambda **given: Mine()(given), faster):
        with session() as seen:
            call(**inputs)
            with suppress(Exception):  # a compiled model says it in other words
                call(**bad)
        assert (seen.judged, len(seen.found)) == (2, 1)
        assert [*seen.models] == ["LlavaForConditionalGeneration"]


def test_a_compiled_part_stays_one_graph(built: Any, compiled: Any) -> None:
    _, inputs, _ = right_and_wrong(built)
    model, _ = vd.tiny.build("llava")
    with session() as seen:
        part = compiled(model.model.language_model, fullgraph=True)
        part(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]), use_cache=False)

    assert seen.judged == 0 and not seen.failed


def test_several_models_are_told_apart(built: Any) -> None:
    model, inputs, _ = right_and_wrong(built)
    other, _ = built["gemma4"]
    with session() as seen:
        model(**inputs)
        other(**vd.tiny.batch("gemma4", [1, 1]))
        other.model.language_model(input_ids=inputs["input_ids"] % 50)

    assert [*seen.models] == ["LlavaForConditionalGeneration", "Gemma4ForConditionalGeneration"]
    assert seen.judged == 2


def test_outputs_are_the_same_and_no_batch_is_kept(built: Any) -> None:
    model, inputs, bad = right_and_wrong(built)
    with torch.no_grad():
        alone = model(**inputs).logits
    with session() as seen:
        watched = model(**inputs).logits
        with suppress(ValueError):
            model(**bad)
        gone = [weakref.ref(value) for value in {**inputs, **bad}.values()]
        del inputs, bad
        gc.collect()
        kept = [reference for reference in gone if reference() is not None]

    assert torch.equal(alone, watched)
    assert seen.found and not kept


def test_findings_of_a_long_run_are_counted_and_not_kept(built: Any) -> None:
    model, inputs, _ = right_and_wrong(built)
    chunk = {k: v[1:2] if k != "pixel_values" else v[:1] for k, v in inputs.items()}
    with session() as seen:
        for _ in range(20):
            model(**chunk)

    assert [found.calls for found in seen.found.values()] == [20]


def test_a_failure_of_our_own_is_one_line_and_not_the_programs(
    built: Any, monkeypatch: Any
) -> None:
    model, inputs, _ = right_and_wrong(built)

    def broken(*args: Any, **given: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(Watcher, "before", broken)
    with session() as seen:
        model(**inputs)
        model(**inputs)

    assert seen.failed == "RuntimeError: broken"


def test_a_forked_process_reports_no_call_of_its_parent(built: Any) -> None:
    model, _, bad = right_and_wrong(built)
    with session() as seen:
        with suppress(ValueError):
            model(**bad)
        seen.forget()

    assert (seen.judged, seen.found, seen.models) == (0, {}, {})


def test_a_forked_process_writes_files_of_its_own(tmp_path: Path) -> None:
    forked = f"{TRAIN}\nimport os\nif os.fork():\n    os.wait()\nelse:\n    step(inputs)\n"
    (tmp_path / "train.py").write_text(forked)
    done = ran(tmp_path, "--log", "logs", "train.py", "silent")
    lines = {
        path.name.partition(".pid")[0]: len(path.read_text().splitlines())
        for path in (tmp_path / "logs").glob("*calls*")
    }

    assert done.returncode == 0
    assert lines == {"calls.jsonl": 5, "calls": 1}
    child = "vlmdebug: 1 call of LlavaForConditionalGeneration judged, nothing found.\n"
    assert done.stderr.startswith(child)
    assert "vlmdebug: 5 calls of LlavaForConditionalGeneration judged, 1 of" in done.stderr


def test_models_that_take_turns_are_both_judged(built: Any) -> None:
    model, inputs, _ = right_and_wrong(built)
    other, _ = built["gemma4"]
    others = vd.tiny.batch("gemma4", [1, 1])
    with session() as seen:
        seen._every = 2
        for _ in range(2):
            model(**inputs)
            other(**others)

    assert [*seen.models] == ["LlavaForConditionalGeneration", "Gemma4ForConditionalGeneration"]
    assert (seen.judged, seen.skipped) == (2, 2)


def test_calls_with_findings_that_are_not_kept_are_counted(built: Any, monkeypatch: Any) -> None:
    model, inputs, _ = right_and_wrong(built)
    chunk = {k: v[1:2] if k != "pixel_values" else v[:1] for k, v in inputs.items()}
    monkeypatch.setattr("vlmdebug.watching.session.MOST_FOUND", 1)
    with session() as seen:
        model(**chunk)
        model(**chunk)  # of another line
        model(**inputs)

    assert len(seen.found) == 1
    assert next(summary_of(seen)).endswith(
        "3 calls of LlavaForConditionalGeneration judged, 2 of them wrong."
    )


def test_a_log_that_cannot_be_written_costs_no_verdict(train: Path) -> None:
    done = ran(train, "--log", "train.py/logs", "train.py", "silent")

    assert (done.returncode, done.stdout) == (0, "end\n")
    assert "vlmdebug: 5 calls of LlavaForConditionalGeneration judged, 1 of them" in done.stderr
    assert "vlmdebug itself failed; the program did not notice: NotADirectoryError" in done.stderr
