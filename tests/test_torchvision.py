"""Architectures whose image processor needs torchvision pass the same tests, with it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from architectures import FOLDER, VARIABLE

from vlmdebug.tiny.registry import NEEDS

# Files that a process of its own runs: each process imports transformers once more.
RUNS = {
    "families": ("test_families.py",),
    "fuzz": ("test_fuzz.py",),
    "tiny models": ("test_tiny.py", "test_probe.py", "test_coverage.py", "test_pictures.py"),
    "other layouts": (
        "test_processors.py",
        "test_local_tiles.py",
        "test_one_image.py::test_fuyu_takes_texts_without_an_image_and_its_older_key",
        "test_loudness.py::test_surplus_sizes_are_as_loud_as_the_model",
    ),
    "clips": ("test_clips.py",),
    "packers": (
        "test_packers.py::test_right_packers_pass_in_any_order_and_the_model_agrees",
        "test_packers.py::test_each_wrong_packer_falls_with_its_code_and_the_model_agrees",
        "test_packers.py::test_a_family_in_which_nothing_is_known_to_keep_samples_apart_is_never_ok",
        "test_packers.py::test_positions_keep_padding_in_front_apart_exactly_where_the_model_agrees",
    ),
    "sizes of rows": ("test_row_sizes.py",),
    "videos in collators": ("test_collator_clips.py",),
}


def test_each_file_that_names_such_an_architecture_has_a_run():
    """Without one, its parameters are left out here, and run nowhere."""
    named = re.compile(r"architectures\(\[(.*?)\]", re.DOTALL)
    files = {
        path.name
        for path in Path(__file__).parent.glob("test_*.py")
        for names in named.findall(path.read_text(encoding="utf-8"))
        if NEEDS.keys() & {*re.findall(r"\w+", names)}
    }

    assert {"test_local_tiles.py", "test_loudness.py"} <= files
    assert files <= {file.split("::")[0] for run in RUNS.values() for file in run}


@pytest.mark.slow
@pytest.mark.skipif(VARIABLE in os.environ, reason="this is that run")
@pytest.mark.skipif(not FOLDER.is_dir(), reason="make test lays torchvision beside the tests")
@pytest.mark.parametrize("files", RUNS.values(), ids=RUNS.keys())
def test_architectures_that_need_torchvision_pass_too(files, request):
    marks = ["-m", "not long"] if request.config.option.markexpr else []
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, *marks, *files],
        cwd=request.path.parent,
        env={**os.environ, VARIABLE: "1"},
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
