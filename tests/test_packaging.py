"""The files around the code agree with it and with each other."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

import vlmdebug

yaml = pytest.importorskip("yaml")
requirements = pytest.importorskip("packaging.requirements")

ROOT = Path(__file__).parent.parent
NAME = "vlmdebug"
INSTALL = runpy.run_path(str(ROOT / "tools" / "install.py"))

# `make test` lays them beside the environment; nothing depends on them.
BESIDE = {"torchvision", "timm"}


def text(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


# --- dependencies --------------------------------------------------------------------------

Ranges = dict[str, str]
"""Range by name of a dependency, its extras in brackets: `{"pyright[nodejs]": ">=1.1"}`."""


def ranges(lines: Iterable[str]) -> Ranges:
    found: Ranges = {}
    for line in lines:
        one = requirements.Requirement(line)
        extras = f"[{','.join(sorted(one.extras))}]" if one.extras else ""
        name, specifier = one.name.lower() + extras, str(one.specifier)
        assert found.setdefault(name, specifier) == specifier, f"two ranges of {name}"
        assert one.marker is None, f"{name}: environment.yml cannot say {one.marker}"
    return found


def of_pyproject(project: Mapping[str, Any]) -> Ranges:
    """The dependencies and those of all extras."""
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]
    return ranges(line for line in lines if requirements.Requirement(line).name != NAME)


def of_environment(environment: Mapping[str, Any]) -> Ranges:
    """The dependencies through conda and through pip, without Python, pip and the project."""
    lines: list[str] = []
    for entry in environment["dependencies"]:
        lines += entry["pip"] if isinstance(entry, dict) else [entry]
    others = re.compile(r"-e \.$|-c |pip$|python\b")
    return ranges(line for line in lines if not others.match(line))


PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
ENVIRONMENT = yaml.safe_load(text("environment.yml"))


def pins(lines: str) -> Ranges:
    return ranges(line for line in lines.splitlines() if line and not line.startswith("#"))


def without_extras(found: Ranges) -> Ranges:
    return {name.partition("[")[0]: specifier for name, specifier in found.items()}


def test_environment_lists_the_dependencies_of_pyproject() -> None:
    assert of_environment(ENVIRONMENT) == of_pyproject(PROJECT)


def test_environment_installs_the_project_and_its_python() -> None:
    through_pip = [entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict)]
    (python,) = (line for line in ENVIRONMENT["dependencies"] if str(line).startswith("python="))
    version = python.removeprefix("python=")

    assert "-e ." in through_pip[0]["pip"]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_oldest_python_of_the_classifiers_is_the_required_one() -> None:
    listed = re.findall(r"Python :: 3\.(\d+)", " ".join(PROJECT["classifiers"]))

    assert PROJECT["requires-python"] == f">=3.{min(map(int, listed))}"


def test_only_tiny_models_bound_transformers() -> None:
    """An environment with a trainer's own release gets every other extra without another one."""
    bounded = {
        name
        for name, lines in PROJECT["optional-dependencies"].items()
        if any(requirements.Requirement(line).name == "transformers" for line in lines)
    }

    assert bounded == {"tiny"}
    assert "transformers" not in ranges(PROJECT["dependencies"])


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"dependencies": ["numpy>=1.25"]}, id="another range"),
        pytest.param({"dependencies": []}, id="one less"),
        pytest.param({"dependencies": ["numpy>=1.26", "scipy"]}, id="one more"),
    ],
)
def test_drift_from_the_environment_would_be_seen(changed: dict[str, Any]) -> None:
    assert of_environment(ENVIRONMENT) != of_pyproject(PROJECT | changed)


def test_every_direct_dependency_is_pinned_and_nothing_else() -> None:
    pinned = pins(text("constraints.txt")).keys() - BESIDE

    assert pinned == without_extras(of_pyproject(PROJECT)).keys()


@pytest.mark.parametrize(
    ("name", "pin"), [pin for pin in pins(text("constraints.txt")).items() if pin[0] not in BESIDE]
)
def test_pin_is_within_the_range_of_pyproject(name: str, pin: str) -> None:
    specifiers = requirements.Requirement(name + without_extras(of_pyproject(PROJECT))[name])
    version = pin.removeprefix("==")

    assert re.fullmatch(r"[\d.]+", version)
    assert specifiers.specifier.contains(version)


def test_extra_all_has_every_other_one() -> None:
    extras = PROJECT["optional-dependencies"]
    (everything,) = (requirements.Requirement(line) for line in extras["all"])

    assert everything.name == NAME
    assert everything.extras == extras.keys() - {"all"}


def test_only_numpy_is_needed_without_extras() -> None:
    assert ranges(PROJECT["dependencies"]).keys() == {"numpy"}


def test_every_dependency_says_what_for() -> None:
    section = text("pyproject.toml").partition("\ndependencies = [")[2].partition("\n[project.s")[0]
    lines = [line.strip() for line in section.splitlines() if line.startswith("  ")]

    assert len(lines) > 15
    assert [line for line in lines if not re.search(r'",\s+# \S', line)] == []


# --- version -------------------------------------------------------------------------------


def test_changelog_has_an_entry_for_this_version() -> None:
    entry = rf"^## \[{re.escape(vlmdebug.__version__)}\] - \d{{4}}-\d\d-\d\d$"

    assert re.search(entry, text("CHANGELOG.md"), re.MULTILINE)


def test_citation_has_this_version_and_the_date_of_the_changelog() -> None:
    citation = yaml.safe_load(text("CITATION.cff"))

    assert citation["version"] == vlmdebug.__version__
    assert f"## [{citation['version']}] - {citation['date-released']}\n" in text("CHANGELOG.md")
    assert citation["license"] == PROJECT["license"]


def test_version_is_written_in_one_place() -> None:
    hatch = tomllib.loads(text("pyproject.toml"))["tool"]["hatch"]["version"]

    assert "version" in PROJECT["dynamic"]
    assert f'__version__ = "{vlmdebug.__version__}"' in text(hatch["path"])


# --- make and CI ---------------------------------------------------------------------------

TARGETS = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))


def targets_named_in(prose: str) -> set[str]:
    """Targets named in code: after a backtick or at the start of a line."""
    return set(re.findall(r"(?:`|^\s*)make ([a-z][a-z-]*)", prose, re.MULTILINE))


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "tests/README.md"])
def test_makefile_has_the_targets_that_are_named(file: str) -> None:
    named = targets_named_in(text(file))

    assert "test" in named
    assert named <= TARGETS


def test_targets_are_found_in_code_and_not_in_prose() -> None:
    prose = "Use `make one`, or\n    make two-b  # comment\nand make three of it."

    assert targets_named_in(prose) == {"one", "two-b"}


def test_help_shows_every_target() -> None:
    described = set(re.findall(r"^([a-z-]+):.*## \S", text("Makefile"), re.MULTILINE))

    assert described == TARGETS >= {"help", "demo", "test", "lint", "lab", "bench", "clean"}


def test_extras_of_the_makefile_exist() -> None:
    stamps = re.findall(r"[:=] \.venv/\.with-([\w,]+)", text("Makefile"))
    extras = {extra for stamp in stamps for extra in stamp.split(",")}

    assert len(stamps) == 21
    assert extras <= PROJECT["optional-dependencies"].keys()


@pytest.mark.skipif(os.name == "nt", reason="a shell script")
def test_ci_runs_the_linters_and_the_tests_in_the_root_from_any_folder(tmp_path: Path) -> None:
    stand_in = tmp_path / "make"
    stand_in.write_text('#!/bin/sh\necho "make $@ in $PWD"\nexit 3\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"

    finished = subprocess.run(
        [ROOT / ".ci" / "run"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.stdout == f"make --keep-going lint test in {ROOT}\n"
    assert finished.returncode == 3


def test_hook_of_pre_commit_is_a_target_of_make() -> None:
    """So it sets up what it needs in a fresh clone, with the versions of constraints.txt."""
    (repo,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    (hook,) = repo["hooks"]

    assert repo["repo"] == "local" and hook["language"] == "system"
    assert targets_named_in(hook["entry"].replace(" --silent", "")) == {"format"} <= TARGETS


def test_install_names_what_an_extra_brings() -> None:
    packages = INSTALL["packages"]

    assert packages(["tiny", "plot"])[:3] == ["numpy", "torch", "transformers"]
    assert "pyright" in packages(["dev"])
    assert packages(["tiny", "torch"]) == packages(["tiny"])


def test_pip_shows_its_progress_on_a_terminal_alone() -> None:
    assert "-q" not in INSTALL["pip"](["numpy"], terminal=True)
    assert "-q" in INSTALL["pip"](["numpy"], terminal=False)


# --- the map of the tests ------------------------------------------------------------------


def files_mapped(page: str) -> set[str]:
    """Files of tests/ that a page links to."""
    return set(re.findall(r"\]\(([\w/]+\.py)\)", page))


def test_map_has_every_test_file_and_helper_and_no_other() -> None:
    folder = ROOT / "tests"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*.py")}

    assert files_mapped(text("tests/README.md")) == files - {"differential/__init__.py"}


def test_a_file_that_the_map_forgets_would_be_seen() -> None:
    page = text("tests/README.md").replace("(test_rows.py)", "(test_row.py)")

    assert files_mapped(page) ^ files_mapped(text("tests/README.md")) == {
        "test_rows.py",
        "test_row.py",
    }


# --- wheel ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterable[zipfile.ZipFile]:
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as opened:
        yield opened


def test_wheel_ships_every_file_of_the_package_and_no_other(wheel: zipfile.ZipFile) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / NAME).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    files |= {f"{NAME}/codes/{page.name}" for page in (ROOT / "docs" / "codes").iterdir()}

    assert {f"{NAME}/py.typed", f"{NAME}/codes/VLM001.md"} <= files
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == files


def test_wheel_carries_version_license_and_command(wheel: zipfile.ZipFile) -> None:
    info = f"{NAME}-{vlmdebug.__version__}.dist-info"
    metadata = wheel.read(f"{info}/METADATA").decode().splitlines()

    assert f"Version: {vlmdebug.__version__}" in metadata
    assert "License-Expression: Apache-2.0" in metadata
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert "vlmdebug = vlmdebug.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
