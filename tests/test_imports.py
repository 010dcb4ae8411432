"""What importing a part of the package loads: little, and nothing of a layer above it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

import vlmdebug

PACKAGE = Path(vlmdebug.__file__).parent
HEAVY = {"torch", "transformers", "trl", "IPython", "matplotlib", "PIL", "hypothesis"}
BASE = {"errors", "safe"}
MAY_IMPORT = {
    "core": set(),
    "outcomes": {"core"},
    "families": {"core"},
    "views": {"core"},
    "tiny": {"core"},
    "review": {"core", "families", "tracking", "checking"},
    "tracking": {"core", "families"},
    "checking": {"core", "outcomes", "views"},
    "running": {
        *("core", "outcomes", "families", "tracking", "checking", "slicers", "tiny", "review"),
    },
    "fleet": {"core", "views"},
    "cli": {
        *("core", "families", "checking", "views", "running", "review", "fleet"),
        *("demo", "slicers", "failing", "launch", "trainers"),
    },
    "watching": {"core", "families", "tracking", "checking", "running"},
    "failing": {"core", "families", "checking", "running", "watching", "exploring"},
    "launch": {"watching", "failing"},
    "trainers": {"core", "families", "running", "slicers"},
}
"""Folders, and what each may import beside `BASE`."""
LIGHT = ("core", "outcomes", "families", "checking", "review")
"""Folders that load neither torch nor anything else that is heavy."""


def modules_of(folder: Path) -> list[str]:
    """Names of the modules in a folder of the package."""
    parts = folder.relative_to(PACKAGE.parent).parts
    return sorted(
        ".".join(parts if path.stem == "__init__" else (*parts, path.stem))
        for path in folder.glob("*.py")
    )


def loaded_by(modules: Sequence[str], path: Path | None = None) -> set[str]:
    """Names of all modules that a fresh interpreter has after importing `modules`.

    Names from before count, too: a `.pth` file that loads torch in every interpreter would
    hide what these tests look for, so it should fail them.
    """
    program = f"import json, sys\nimport {', '.join(modules)}\nprint(json.dumps([*sys.modules]))"
    places = [str(place) for place in (path, PACKAGE.parent) if place is not None]
    finished = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return set(json.loads(finished.stdout))


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert loaded_by(["vlmdebug"]) & (HEAVY | {"numpy"}) == set()


def test_a_heavy_import_would_be_seen(tmp_path: Path) -> None:
    for name in HEAVY:
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "innocent.py").write_text("\n".join(f"import {name}" for name in HEAVY))

    assert loaded_by(["vlmdebug", "innocent"], tmp_path) & HEAVY == HEAVY


@pytest.mark.parametrize("folder", LIGHT)
def test_folder_loads_nothing_heavy(folder: str) -> None:
    modules = modules_of(PACKAGE / folder)
    loaded = loaded_by(modules)

    assert set(modules) <= loaded
    assert loaded & HEAVY == set()


def test_command_line_loads_nothing_heavy() -> None:
    assert loaded_by(["vlmdebug.cli"]) & HEAVY == set()


def test_an_import_of_an_upper_folder_would_be_seen() -> None:
    upper = {"vlmdebug.families", "vlmdebug.tiny", "vlmdebug.running.check"}

    assert loaded_by(["vlmdebug.demo"]) >= upper


def test_every_folder_imports_only_those_below_it() -> None:
    rooms = graph().rooms_of(graph().imports_of(PACKAGE))
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}

    assert folders == MAY_IMPORT.keys()
    assert {
        folder: rooms[folder] - MAY_IMPORT[folder] - BASE
        for folder in folders
        if rooms[folder] - MAY_IMPORT[folder] - BASE
    } == {}


def test_folders_import_in_one_direction() -> None:
    assert graph().cycles_of(graph().rooms_of(graph().imports_of(PACKAGE))) == []


def graph() -> ModuleType:
    """`tools/import_graph.py`."""
    path = PACKAGE.parent / "tools" / "import_graph.py"
    spec = importlib.util.spec_from_file_location("import_graph", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_modules_import_each_other() -> None:
    assert graph().cycles_of(graph().imports_of(PACKAGE)) == []


def test_modules_that_import_each_other_would_be_seen(tmp_path: Path) -> None:
    package = tmp_path / "vlmdebug"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text("def f():\n    from vlmdebug import two\n")
    (package / "two.py").write_text("from vlmdebug.one import f\n")

    assert graph().cycles_of(graph().imports_of(package)) == [["one", "two"]]
