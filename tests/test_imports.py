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
EDGES = {"vlmdebug.tiny", "vlmdebug.tracing", "vlmdebug.views"}
PROGRAMS = {"vlmdebug.cli", "vlmdebug.demo", "vlmdebug.exploring", "vlmdebug.__main__"}


def modules_of(folder: Path) -> list[str]:
    """Names of the modules in a folder of the package, without those in its subfolders."""
    parts = folder.relative_to(PACKAGE.parent).parts
    return sorted(
        ".".join(parts if path.stem == "__init__" else (*parts, path.stem))
        for path in folder.glob("*.py")
    )


FAMILIES = modules_of(PACKAGE / "families")
# `falsify` draws batches of the families, so it stands above them.
ABOVE_FAMILIES = {*modules_of(PACKAGE / "running"), "vlmdebug.lines", "vlmdebug.testing"}
REVIEW = modules_of(PACKAGE / "review")
CORE = [
    name
    for folder in (PACKAGE, PACKAGE / "core")
    for name in modules_of(folder)
    if name not in PROGRAMS | ABOVE_FAMILIES
]

LAYERS = [
    pytest.param(
        CORE, HEAVY | EDGES | PROGRAMS | ABOVE_FAMILIES | {"vlmdebug.families"}, id="core"
    ),
    pytest.param(FAMILIES, HEAVY | EDGES | PROGRAMS | ABOVE_FAMILIES, id="families"),
    pytest.param(sorted(ABOVE_FAMILIES), HEAVY | EDGES | PROGRAMS, id="above families"),
    pytest.param(REVIEW, HEAVY | EDGES | PROGRAMS | ABOVE_FAMILIES, id="review"),
    pytest.param(["vlmdebug.cli"], HEAVY | EDGES, id="cli"),
]


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


@pytest.mark.parametrize(("modules", "forbidden"), LAYERS)
def test_layer_loads_nothing_above_it(modules: list[str], forbidden: set[str]) -> None:
    loaded = loaded_by(modules)

    assert set(modules) <= loaded
    assert loaded & forbidden == set()


def test_an_import_of_an_upper_layer_would_be_seen() -> None:
    upper = {"vlmdebug.families", "vlmdebug.tiny", "vlmdebug.tracing"}

    assert loaded_by(["vlmdebug.demo"]) >= upper
    assert loaded_by(["vlmdebug.running.search"]) >= {"vlmdebug.families"}


def test_layers_have_the_modules_that_are_known() -> None:
    assert {"vlmdebug.layout", "vlmdebug.batch", "vlmdebug.plan", "vlmdebug.report"} <= set(CORE)
    assert {"vlmdebug.families", "vlmdebug.families.read"} <= set(FAMILIES)
    assert {name.partition(".")[0] for name in CORE + FAMILIES} == {"vlmdebug"}


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
