"""A tool's own file in another process, with one library in a folder that is removed at the end."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable
from typing import Any


def run(
    file: str, requirement: str, *arguments: str, needs: Iterable[str] = (), **options: Any
) -> subprocess.CompletedProcess[Any]:
    """Run `file --in FOLDER *arguments`.

    The folder holds `requirement` and `needs` without their dependencies, if a release is named;
    another library is taken as it is installed. `options` go to `subprocess.run`.
    """
    with tempfile.TemporaryDirectory() as folder:
        if "==" in requirement:
            install = ["pip", "install", "-q", "--no-deps", "--target", folder, requirement, *needs]
            subprocess.run([sys.executable, "-m", *install], check=True)
        command = [sys.executable, "-W", "ignore", file, "--in", folder, *arguments]
        return subprocess.run(command, **options)
