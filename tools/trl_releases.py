"""Test the slicing code of several TRL releases: `make test-trl`.

Each release is installed without its dependencies into a temporary folder and run with the
installed transformers. The output is a Markdown table: per release and slicer the codes that
`falsify_all` finds in each layout, silent ones with a star; slicers that fail alike share a row.
`--long` prints the smallest batch and the message of each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence

RELEASES = ("0.29.0", "1.0.0", "1.4.0", "1.6.0", "1.8.0", "1.9.0", "1.12.0", "1.16.0")
LOOPS = ("grpo", "rloo", "grpo-buffer", "rloo-buffer", "distillation")
LOSSES = ("sft", "dpo", "kto", "grpo-loss", "rloo-loss", "gmpo", "online-dpo")

PROGRAM = """
import json, sys
import vlmdebug as vd
FEWER = {"clips": False, "position_ids": False}  # TRL lays neither in a batch
found = {}
for name in sys.argv[1:]:
    try:
        examples = vd.falsify_all(vd.trl_slicer(name), max_examples=500, **FEWER)
    except vd.VlmDebugError as error:
        found[name] = str(error)
        continue
    found[name] = [
        [example.family, repr(example).partition(": ")[2], finding.code, finding.loudness,
         finding.message.partition("\\n")[0]]
        for example in examples
        for finding in example.report.findings
    ]
print(json.dumps(found))
"""


def try_release(release: str, slicers: Sequence[str]) -> dict[str, list[list[str]] | str]:
    """The findings of one release, by slicer."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                sys.executable,
                *f"-m pip install -q --no-deps --target {folder}".split(),
                f"trl=={release}",
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        ran = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, *slicers],
            env={**os.environ, "PYTHONPATH": folder},
            capture_output=True,
            text=True,
            check=False,
        )
    if ran.returncode:
        return {slicers[0]: ran.stderr.strip().splitlines()[-1]}
    return json.loads(ran.stdout.strip().splitlines()[-1])


def codes(found: list[list[str]], family: str) -> str:
    """`VLM001* VLM005`: a star if some chunk is wrong without an error."""
    silent = {
        code for name, _, code, loudness, _ in found if name == family and "silent" in loudness
    }
    met = sorted({code for name, _, code, _, _ in found if name == family})
    return " ".join(f"{code}*" if code in silent else code for code in met) or "–"


def main(arguments: list[str]) -> None:
    """Print a table of the code that cuts batches, and one of the code that passes them on."""
    from vlmdebug.families import FAMILIES

    long = "--long" in arguments
    releases = [argument for argument in arguments if argument != "--long"] or RELEASES
    heads = ["layout", "smallest batch", "finding"] if long else list(FAMILIES)
    for slicers in (LOOPS, LOSSES):
        print(f"| TRL | slicer | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 2)}")
        for release in releases:
            print_rows(release, slicers, long=long)
        print()


def print_rows(release: str, slicers: Sequence[str], *, long: bool) -> None:
    """Print the rows of one release; slicers that fail alike share one."""
    from vlmdebug.families import FAMILIES

    rows: dict[str, list[str]] = {}
    for name, found in try_release(release, slicers).items():
        if isinstance(found, str):
            print(f"{release} {name}: {found}", file=sys.stderr)
        elif long:
            for family, case, code, loudness, message in found:
                finding = f"{code} ({loudness}): {message}"
                print(f"| {release} | {name} | {family} | {case} | {finding} |")
        else:
            cells = " | ".join(codes(found, family) for family in FAMILIES)
            rows.setdefault(cells, []).append(name)
    for cells, names in rows.items():
        print(f"| {release} | {', '.join(names)} | {cells} |")


if __name__ == "__main__":
    main(sys.argv[1:])
