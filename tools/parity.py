"""Test each trainer's code in each layout, next to several releases: `make parity`.

Each release of each trainer runs in an environment of `tools/drop_in.py`, once with each release of
transformers of `tools/versions.py` that the trainer accepts. Results are kept as
`build/parity/results.json`. `build/parity/README.md` says what changed since the last run, and
from one release of a trainer to the next, with the smallest batch of each change.

    python tools/parity.py                                # the last three releases of each trainer
    python tools/parity.py trl==1.8.0 trl==1.9.0 accelerate   # a trainer, or releases of it
    python tools/parity.py trl transformers==5.24.0            # next to one release of transformers
    python tools/parity.py --all                          # every release of each adapter

Results of runs that were not asked for stay as they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from drop_in import environment, required
from packaging.version import Version
from trainers import said
from versions import ENVIRONMENTS, HERE

import vlmdebug as vd
from vlmdebug.families import FAMILIES
from vlmdebug.safe import one_line
from vlmdebug.trainers.registry import TRAINERS, adapter_of

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "parity"
EXAMPLES = 100
"""Batches of each layout."""
NEWEST = 3
"""Releases of each trainer, if none is named."""
INSIDE = [
    one.transformers
    for one in ENVIRONMENTS
    if one.python == HERE and one.torch is None and one.transformers
]
"""Releases of transformers, if none is named."""

Found = dict[str, Any]
"""What came of one layout: `findings`, a list, or `not_judged`, the reason."""


class Cell(NamedTuple):
    """One layout through one function, in one environment."""

    trainer: str
    release: str
    transformers: str
    slicer: str
    layout: str

    @property
    def place(self) -> str:
        """All but the release of the trainer."""
        return f"{self.trainer} `{self.slicer}`, {self.layout}, transformers {self.transformers}"


Results = dict[Cell, Found]


def judged(slicer: Any, layout: str) -> Found:
    """The kinds of mismatch of one layout, with the smallest batch of each."""
    options = {"clips": False, "position_ids": False}  # most trainers lay neither in a batch
    try:
        examples = vd.falsify_all(slicer, families=[layout], max_examples=EXAMPLES, **options)
    except vd.VlmDebugError as error:
        return {"not_judged": one_line(str(error).partition("\n")[0], 200)}
    return {
        "findings": [
            {"batch": repr(example).partition(": ")[2], **said(finding)}
            for example in examples
            for finding in example.report.findings
        ]
    }


def trial(trainer: str) -> dict[str, dict[str, Found]]:
    """What came of each slicer of the installed release, by layout."""
    found: dict[str, dict[str, Found]] = {}
    for name in adapter_of(trainer).slicers:
        try:
            slicer = vd.trainer_slicer(trainer, name)
            found[name] = {layout: judged(slicer, layout) for layout in FAMILIES}
        except vd.VlmDebugError as error:
            reason = one_line(str(error).partition("\n")[0], 200)
            found[name] = {layout: {"not_judged": reason} for layout in FAMILIES}
    return found


def run(trainer: str, release: str, transformers: str) -> Results:
    """The results of one environment; none if the trainer does not accept the transformers."""
    adapter = adapter_of(trainer)
    python = environment(adapter, release, transformers)
    (site,) = python.parent.parent.glob("lib/python*/site-packages")
    wanted = required(site, adapter.distribution).get("transformers")
    if wanted is not None and not wanted.specifier.contains(transformers):
        return {}
    done = subprocess.run(
        [python, "-W", "ignore", __file__, "--judge", trainer],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, dict[str, Found]] = json.loads(done.stdout.strip().splitlines()[-1])
    return {
        Cell(trainer, release, transformers, slicer, layout): one
        for slicer, layouts in found.items()
        for layout, one in layouts.items()
    }


# What changed


def change(before: Found, after: Found) -> list[str]:
    """Sentences on what is otherwise in the second result."""
    if "not_judged" in after:
        same = before.get("not_judged") == after["not_judged"]
        return [] if same else [f"no longer judged: {after['not_judged']}"]
    if "not_judged" in before:
        lines = [f"judged again: {found(one)}" for one in after["findings"]]
        return lines or ["judged again: no finding"]
    old, new = smallest(before), smallest(after)
    lines = [f"new: {found(new[code])}" for code in new if code not in old]
    lines += [f"gone: {found(old[code])}" for code in old if code not in new]
    for code in new:
        if code in old and any(
            old[code][name] != new[code][name] for name in ("batch", "loudness")
        ):
            lines.append(
                f"otherwise: {found(new[code])} Before: in `{old[code]['batch']}` "
                f"({old[code]['loudness']})."
            )
    return lines


def smallest(result: Found) -> dict[str, dict[str, str]]:
    """The first finding of each code, which has the smallest batch.

    Messages are not compared: they name lines of the trainer.
    """
    return {one["code"]: one for one in reversed(result["findings"])}


def found(one: Mapping[str, str]) -> str:
    """A finding with its batch, in Markdown."""
    return f"{one['code']} ({one['loudness']}) in `{one['batch']}`: {one_line(one['message'], 160)}"


def changes(before: Results, after: Results) -> dict[Cell, list[str]]:
    """What changed between two runs, where both have a result."""
    both = {cell: change(before[cell], after[cell]) for cell in after if cell in before}
    return {cell: lines for cell, lines in both.items() if lines}


def from_release_to_release(results: Results) -> Iterator[tuple[str, str, list[str]]]:
    """The two releases, the place and what changed there."""
    by_place: dict[str, dict[str, Found]] = defaultdict(dict)
    for cell, one in results.items():
        by_place[cell.place][cell.release] = one
    for place, by_release in by_place.items():
        for old, new in pairwise(sorted(by_release, key=Version)):
            lines = change(by_release[old], by_release[new])
            if lines:
                yield f"{old} → {new}", place, lines


# The page


def page(before: Results, after: Results) -> str:
    """The whole page."""
    lines = [
        "# Trainers next to releases",
        "",
        "<!-- Written by `make parity`; do not edit. -->",
        "",
    ]
    environments = {cell[:3] for cell in after}
    lines += [f"{len(after):,} results in {len(environments)} environments.", ""]
    lines += ["## Since the last run", ""]
    changed = changes(before, after)
    for cell, said_of in changed.items():
        lines += [
            f"- {cell.trainer} {cell.release}: {cell.place}",
            *(f"  - {one}" for one in said_of),
        ]
    first = [cell for cell in after if cell not in before]
    lines += [f"- {len(first):,} results are new."] if first else []
    lines += [] if changed or first else ["Nothing changed."]
    lines += ["", "## From release to release", ""]
    grouped: dict[tuple[str, str, tuple[str, ...]], list[str]] = defaultdict(list)
    for releases, place, said_of in from_release_to_release(after):
        trainer = place.partition(" ")[0]
        grouped[trainer, releases, tuple(said_of)].append(place.partition(" ")[2])
    for (trainer, releases, said_of), places in grouped.items():
        lines += [
            f"- {trainer} {releases}: {'; '.join(places)}",
            *(f"  - {one}" for one in said_of),
        ]
    lines += [] if grouped else ["Nothing changed."]
    return "\n".join([*lines, "", "## All results", "", *table(after), ""])


def table(results: Results) -> list[str]:
    """A row for each function in each environment, a column for each layout."""
    heads = ["trainer", "release", "transformers", "function", *FAMILIES]
    by_row: dict[tuple[str, ...], dict[str, Found]] = defaultdict(dict)
    for cell, one in results.items():
        by_row[cell[:4]][cell.layout] = one
    rows = [
        [*row, *(codes(found_in.get(layout)) for layout in FAMILIES)]
        for row, found_in in by_row.items()
    ]
    return [f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows]]


def codes(found_in: Found | None) -> str:
    """`VLM001*`: a star if some chunk is wrong without an error; `?` if it was not judged."""
    if found_in is None or "not_judged" in found_in:
        return "?" if found_in else " "
    silent = {one["code"] for one in found_in["findings"] if "silent" in one["loudness"]}
    met = sorted({one["code"] for one in found_in["findings"]})
    return " ".join(f"{code}*" if code in silent else code for code in met) or "–"


# The command


def read(file: Path) -> Results:
    """The results of the last run; none before the first."""
    if not file.is_file():
        return {}
    return {Cell(*one["cell"]): one["found"] for one in json.loads(file.read_text("utf-8"))}


def write(file: Path, results: Results) -> None:
    """A result in each line, which a diff shows well."""
    lines = [json.dumps({"cell": [*cell], "found": one}) for cell, one in results.items()]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def asked(arguments: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Trainer, its release, and the release of transformers."""
    given = [one.partition("==")[::2] for one in arguments if not one.startswith("--")]
    named = [one for one in given if one[0] != "transformers"]
    unknown = [name for name, _ in named if name not in TRAINERS]
    if unknown:
        raise SystemExit(f"no trainer is named {unknown[0]!r}; there are {', '.join(TRAINERS)}")
    inside = [release for name, release in given if name == "transformers"] or INSIDE
    for trainer in TRAINERS:
        own = [release for name, release in named if name == trainer]
        if named and not own:
            continue
        releases = adapter_of(trainer).releases
        chosen = releases if "--all" in arguments else releases[-NEWEST:]
        for release in [one for one in own if one] or chosen:
            for other in inside:
                yield trainer, release, other


def main(arguments: list[str]) -> None:
    """Run what was asked for, and write the page; or, in an environment, judge one trainer."""
    if arguments[:1] == ["--judge"]:
        print(json.dumps(trial(arguments[1])))
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "results.json"
    before = read(file)
    after = dict(before)
    for one in asked(arguments):
        try:
            new = run(*one)
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(one)} could not be run: {error}", file=sys.stderr)
            continue
        after |= new
        print(f"{' '.join(one)}: {len(new)} results", file=sys.stderr, flush=True)
    write(file, after)
    (FOLDER / "README.md").write_text(page(before, after), encoding="utf-8")
    print(page(before, after).partition("## All results")[0])


if __name__ == "__main__":
    main(sys.argv[1:])
