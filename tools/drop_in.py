"""Run the tests of `docs/drop_in` in the environment of each trainer: `make test-drop-in`.

An environment in `build/drop-in` has the trainer's release, the releases of what its metadata
requires that runs in the test (transformers among them), and for the rest the packages installed
here, torch first. Nothing else of the trainer's requirements is needed. The output is a Markdown
table. Each test that is expected to fail is run again as an ordinary test: it must fail with the
code that its reason names. Names select trainers, `verl==0.9.0` a release of one; `--all` tries
every release of each adapter.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import venv
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from vlmdebug.trainers.adapter import Adapter
from vlmdebug.trainers.registry import TRAINERS, adapter_of

ROOT = Path(__file__).parent.parent
TESTS = ROOT / "docs" / "drop_in"
BUILD = ROOT / "build" / "drop-in"
KNOWN_BY = ("transformers",)
"""Requirements of a trainer that decide what is known of its models."""


@dataclass
class Result:
    """What came of the tests of one release."""

    passed: list[str] = field(default_factory=list)
    expected: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


def environment(adapter: Adapter, release: str, transformers: str | None = None) -> Path:
    """The Python of an environment with this release; it is kept while what it shares is the same.

    `transformers`: a release that it has in place of one that the trainer accepts.
    """
    other = f"-transformers-{transformers}" if transformers else ""
    folder = BUILD / f"{adapter.distribution}-{release}{other}"
    site = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    shared = [*map(str, with_transformers(transformers)), sysconfig.get_path("purelib")]
    done, label = folder / "built", "\n".join([*shared, here(["torch", *KNOWN_BY, *adapter.needs])])
    if not is_labelled(done, label):
        venv.create(folder, clear=True)
        (site / "shared.pth").write_text("\n".join([*shared, ""]), encoding="utf-8")
        install(site, f"{adapter.distribution}=={release}")
        install(site, *pinned(site, adapter, () if transformers else KNOWN_BY))
        done.write_text(label, encoding="utf-8")
    return folder / "bin" / "python"


def with_transformers(release: str | None) -> list[Path]:
    """The folder with another release of transformers, for all trainers; kept in the same way."""
    if release is None or accepted(Requirement(f"transformers=={release}")):
        return []
    folder = BUILD / f"transformers-{release}"
    done = folder / "built"
    if not done.is_file() or not is_labelled(done, here(required(folder, "transformers"))):
        shutil.rmtree(folder, ignore_errors=True)
        install(folder, f"transformers=={release}")
        needs = required(folder, "transformers")
        install(folder, *lacking(needs.values()))
        done.write_text(here(needs), encoding="utf-8")
    return [folder]


def here(names: Iterable[str]) -> str:
    """The Python of this environment and its releases of these packages, which others share."""
    releases = {name: _release(name) for name in names}
    return "\n".join([sys.version, *(f"{name} {releases[name]}" for name in sorted(releases))])


def is_labelled(file: Path, label: str) -> bool:
    """Whether what was built is still what it would be now."""
    return file.is_file() and file.read_text(encoding="utf-8") == label


def _release(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def install(site: Path, *requirements: str) -> None:
    """Install without dependencies."""
    if requirements:
        pip = [
            sys.executable,
            *["-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target"],
        ]
        subprocess.run([*pip, site, *requirements], check=True, stderr=subprocess.DEVNULL)


def pinned(site: Path, adapter: Adapter, known_by: Sequence[str] = KNOWN_BY) -> list[str]:
    """What runs in the test and is not installed here in a release that the trainer accepts."""
    specified = required(site, adapter.distribution)
    wanted = [specified[name] for name in known_by if name in specified]
    wanted += [specified.get(name, Requirement(name)) for name in adapter.needs]
    return lacking(wanted)


def required(site: Path, name: str) -> dict[str, Requirement]:
    """What a distribution in this folder requires, without extras, by name."""
    (own,) = metadata.distributions(name=name, path=[str(site)])
    lines = [Requirement(line) for line in own.requires or ()]
    return {
        one.name: one for one in lines if one.marker is None or one.marker.evaluate({"extra": ""})
    }


def lacking(requirements: Iterable[Requirement]) -> list[str]:
    """Those for which the release installed here will not do, as pip takes them."""
    return [f"{one.name}{one.specifier}" for one in requirements if not accepted(one)]


def accepted(requirement: Requirement) -> bool:
    """Whether the release installed here will do."""
    release = _release(requirement.name)
    return release is not None and requirement.specifier.contains(release)


def run(python: Path, file: Path, *options: str) -> tuple[ET.Element, float]:
    """The results of a test file, and the CPU time of the process, the start of Python included."""
    report = python.parent / "results.xml"
    command = [python, *["-m", "pytest", "-q", "-p", "no:cacheprovider", "-c"], os.devnull]
    command += [f"--rootdir={TESTS}", f"--junitxml={report}", *options, file]
    before = cpu_time()
    subprocess.run(
        command,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
    )
    return ET.parse(report).getroot(), cpu_time() - before


def cpu_time() -> float:
    """Seconds of all processes that were run from here and ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tried(adapter: Adapter, release: str, file: Path) -> Result:
    """Passed, failed as expected and for the reason that is given, and failed otherwise."""
    python = environment(adapter, release)
    report, seconds = run(python, file)
    result = Result(seconds=seconds)
    for case in report.iter("testcase"):
        name, child = str(case.get("name")), next(iter(case), None)
        if child is None:
            result.passed.append(name)
        elif child.get("type") == "pytest.xfail":
            result.expected[name] = str(child.get("message"))
        else:
            result.failed[name] = str(child.get("message") or child.text)
    if result.expected:
        again, _ = run(python, file, "--runxfail")
        said = {str(case.get("name")): case for case in again.iter("testcase")}
        for name, reason in list(result.expected.items()):
            code, text = reason.partition(":")[0], "".join(said[name].itertext())
            if not re.search(rf"MismatchError.*\b{code}\b", text, re.DOTALL):
                result.failed[name] = f"expected {code}, but: {text[-300:]}"
                del result.expected[name]
    return result


def row(name: str, release: str, result: Result) -> str:
    """A line of the table."""
    reasons = "; ".join(dict.fromkeys(result.expected.values())) or "–"
    line = f"| {name} | {release} | {len(result.passed)} | {len(result.expected)}: {reasons} "
    return f"{line}| {len(result.failed)} | {result.seconds:.1f} s |"


def main(arguments: list[str]) -> int:
    """Print a line per release; 1 if a test failed that should not have."""
    chosen = [one.partition("==") for one in arguments if not one.startswith("--")]
    releases = {name: release for name, _, release in chosen}
    heads = ("trainer", "release", "passed", "failed as expected", "failed", "CPU time")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    wrong = 0
    for name in TRAINERS:
        if releases and name not in releases:
            continue
        adapter = adapter_of(name)
        some = adapter.releases if "--all" in arguments else adapter.releases[-1:]
        for release in [releases.get(name)] if releases.get(name) else some:
            result = tried(adapter, release, TESTS / f"test_{name.replace('-', '_')}.py")
            print(row(name, release, result), flush=True)
            for test, reason in result.failed.items():
                print(f"{name} {release}: {test}: {reason}", file=sys.stderr)
            wrong += len(result.failed)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
