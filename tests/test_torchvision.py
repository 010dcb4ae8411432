"""Architectures whose image processor needs torchvision pass the same tests, with it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from architectures import FOLDER, VARIABLE

# Files that a process of its own runs: each process imports transformers once more.
RUNS = {
    "families": ("test_families.py",),
    "fuzz": ("test_fuzz.py",),
    "tiny models": ("test_tiny.py", "test_probe.py", "test_coverage.py", "test_pictures.py"),
    "other layouts": ("test_processors.py",),
    "clips": ("test_clips.py",),
    "videos in collators": ("test_collator_clips.py",),
}


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
