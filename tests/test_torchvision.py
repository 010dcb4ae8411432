"""Architectures whose image processor needs torchvision pass the same tests, with it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from architectures import FOLDER, VARIABLE

MODULES = (
    "test_tiny.py",
    "test_families.py",
    "test_probe.py",
    "test_coverage.py",
    "test_pictures.py",
    "test_fuzz.py",
)


@pytest.mark.slow
@pytest.mark.skipif(VARIABLE in os.environ, reason="this is that run")
@pytest.mark.skipif(not FOLDER.is_dir(), reason="make test lays torchvision beside the tests")
@pytest.mark.parametrize("module", MODULES)
def test_architectures_that_need_torchvision_pass_too(module, request):
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", module],
        cwd=request.path.parent,
        env={**os.environ, VARIABLE: "1"},
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
