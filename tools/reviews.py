"""Review several releases of the trainers that are used most: `make test-review`.

Each release is downloaded without its dependencies into build/releases, unpacked and read; nothing
of it is installed or run. The output is a Markdown page with three tables: what was read, each
finding with a person's verdict from `tools/reviewed.json`, and places known to be wrong with what
`review` says of them. A finding without a verdict makes the run fail. Names of projects select
rows; with `--write` the page is stored in docs/what_review_finds.md.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vlmdebug import review

ROOT = Path(__file__).parent.parent
CACHE = ROOT / "build" / "releases"
PAGE = ROOT / "docs" / "what_review_finds.md"
REVIEWED = Path(__file__).with_name("reviewed.json")
RELEASES: dict[str, tuple[str, ...]] = {
    "trl": ("1.16.0", "1.12.0", "1.9.0", "1.4.0", "1.0.0", "0.29.0", "0.24.0", "0.20.0"),
    "verl": ("0.9.1", "0.8.0", "0.7.0", "0.5.0"),
    "ms-swift": ("4.6.0", "4.2.0", "3.12.0", "3.8.0"),
    "unsloth_zoo": ("2026.10.9", "2026.7.5", "2026.4.1", "2025.10.1"),
    "llamafactory": ("0.9.5", "0.9.4", "0.9.2"),
    "axolotl": ("0.19.0", "0.16.1"),
    "openrlhf": ("0.11.2", "0.10.0", "0.8.0"),
    "accelerate": ("1.15.0", "1.10.0", "1.0.0"),
}
"""Newest first."""


@dataclass(frozen=True)
class Release:
    """One release that was read."""

    project: str
    version: str
    files: int
    result: review.Review

    def __str__(self) -> str:
        return f"{self.project} {self.version}"


Judged = tuple[Release, review.Remark, Mapping[str, Any] | None]
"""A finding with a person's verdict."""


def fetch(project: str, version: str) -> Path:
    """The folder with a release's source; downloaded once."""
    folder = CACHE / f"{project}-{version}"
    if folder.is_dir():
        return folder
    packed = CACHE / "packed" / folder.name
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(packed)]
    subprocess.run([*command, f"{project}=={version}"], check=True, stderr=subprocess.DEVNULL)
    (archive,) = packed.iterdir()
    unfinished = folder.with_suffix(".part")
    if archive.suffix == ".whl":
        zipfile.ZipFile(archive).extractall(unfinished)
    else:
        with tarfile.open(archive) as file:
            file.extractall(unfinished, filter="data")
    return unfinished.rename(folder)


def read(project: str, version: str) -> Release:
    """Review a release."""
    folder = fetch(project, version)
    return Release(project, version, len([*folder.rglob("*.py")]), review.paths([folder]))


@cache
def reviewed() -> Mapping[str, list[dict[str, Any]]]:
    """The verdicts of a person on findings, and places that are known to be wrong."""
    return json.loads(REVIEWED.read_text(encoding="utf-8"))


def verdict(release: Release, finding: review.Remark) -> Mapping[str, Any] | None:
    """A person's verdict on a finding, which is the same in each release with the same code."""
    for one in reviewed()["findings"]:
        same = one["project"] == release.project and one["code"] == finding.code
        same = same and release.version in one.get("releases", [release.version])
        if same and one["function"] == finding.function and one["text"] == finding.text:
            return one
    return None


def state(release: Release, place: Mapping[str, Any]) -> str:
    """Whether a place that is known to be wrong was found, listed as not judged, or missed."""
    function, key = str(place["function"]), str(place["key"])
    for finding in release.result.findings:
        is_there = finding.function.endswith(function) and finding.file.endswith(str(place["file"]))
        if is_there and key in f"{finding.text} {finding.message}":
            return "found"
    lines = range_of(release, str(place["file"]), function)
    noted = (*release.result.not_judged, *(_at(one) for one in release.result.remarks))
    for line in noted:
        file, _, rest = line.partition(".py:")
        number = int(rest.partition(":")[0])
        if f"{file}.py".endswith(str(place["file"])) and number in lines:
            return "listed"
    return "missed"


def _at(remark: review.Remark) -> str:
    return f"{remark.file}:{remark.line}:"


def range_of(release: Release, file: str, function: str) -> range:
    """The lines of a function, in the file at the end of this path."""
    folder = CACHE / f"{release.project}-{release.version}"
    for path in folder.rglob(Path(file).name):
        if not path.as_posix().endswith(file):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if getattr(node, "name", None) == function.rpartition(".")[2]:
                assert isinstance(node, ast.FunctionDef)
                return range(node.lineno, (node.end_lineno or 0) + 1)
    raise SystemExit(f"{release} has no {function} in {file}")


def short(finding: review.Remark) -> str:
    """The file of a finding from its package on."""
    parts = Path(finding.file).relative_to(CACHE).parts[1:]
    return "/".join(parts[2:] if "src" in parts[:2] else parts)


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    """A Markdown table."""
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(map(str, row))} |"
    yield ""


def page(releases: Sequence[Release]) -> Iterator[str]:
    """A summary and three tables."""
    findings = [
        (one, found, verdict(one, found)) for one in releases for found in one.result.findings
    ]
    places = [
        (one, place, state(one, place))
        for one in releases
        for place in reviewed()["known"]
        if place["project"] == one.project and place["release"] == one.version
    ]
    new = [row for row in findings if row[0].version == RELEASES[row[0].project][0]]
    count = Counter(said for _, _, said in places)
    yield (
        f"{len(findings)} findings in {len(releases)} releases, {true(findings)} of them true; in "
        f"the newest release of each project, {true(new)} of {len(new)}. Of {len(places)} places "
        f"known to be wrong, {count['found']} are found, {count['listed']} are listed as not "
        f"judged or unsure, and {count['missed']} are missed."
    )
    yield "\n## What was read\n"
    heads = ("release", "files", "functions", "findings", "places right", "unsure", "not judged")
    yield from table(heads, map(_row, releases))
    yield "## The findings\n"
    heads = ("releases", "file and function", "finding", "true", "reason")
    yield from table(heads, merged(findings))
    yield "## Places known to be wrong\n"
    shown = [(one, f"`{place['function']}`", place["why"], said) for one, place, said in places]
    yield from table(("release", "function", "what is wrong", "review"), shown)


def true(findings: Sequence[Judged]) -> int:
    """How many findings a person confirmed."""
    return sum(known is not None and known["true"] for _, _, known in findings)


def merged(findings: Sequence[Judged]) -> Iterator[tuple[str, ...]]:
    """One row for what several releases share."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for one, found, known in findings:
        said = "**no verdict yet**" if known is None else "yes" if known["true"] else "no"
        why = "" if known is None else str(known["reason"])
        where = f"`{short(found)}`: `{found.function}`"
        versions = rows.setdefault(
            (one.project, where, f"{found.code} `{found.text}`", said, why), []
        )
        versions += [one.version] if one.version not in versions else []
    for (project, *row), versions in rows.items():
        yield f"{project} {', '.join(versions)}", *row


def _row(one: Release) -> tuple[object, ...]:
    result = one.result
    unsure = len(result.remarks) - len(result.findings)
    return (
        one,
        one.files,
        result.functions,
        len(result.findings),
        result.agreeing,
        unsure,
        len(result.not_judged),
    )


def main(arguments: Sequence[str]) -> int:
    """Print the page, or store it; 1 if a finding has no verdict yet."""
    names = [argument for argument in arguments if argument != "--write"]
    releases = []
    for project, versions in RELEASES.items():
        for version in versions if not names or project in names else ():
            print(f"{project} {version}", file=sys.stderr)
            releases.append(read(project, version))
    text = "\n".join(page(releases))
    if "--write" in arguments:
        before = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        head = before.partition(START)[0]
        PAGE.write_text(f"{head}{START}\n{text.rstrip()}\n", encoding="utf-8")
    else:
        print(text)
    return int("no verdict yet" in text)


START = "<!-- tables: make test-review ARGS=--write -->"

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
