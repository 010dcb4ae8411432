"""What `falsify` finds wrong with a function, asked of another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

from vlmdebug.safe import one_line

EXAMPLES = 40
"""Generated batches of each family."""
LIMIT = 180
"""Seconds for one run."""


Broken = frozenset[tuple[str, str, str]]
"""Findings: family, code and key."""


def broken_by(name: str, data: bytes, layouts: Collection[str]) -> Broken | str:
    """What `falsify` finds wrong with a function, or why it cannot judge it.

    Args:
        name: `FILE.py:Class.method`.
        data: What the file holds in place of its own bytes.
        layouts: The layouts to try, such as `gemma4` and `gemma4 with videos`. Each sample has
            media, as review leaves open whether a chunk may have none.
    """
    path = Path(name.rpartition(":")[0])
    families = dict.fromkeys(layout.partition(" with ")[0] for layout in sorted(layouts))
    options = [part for family in families for part in ("--family", family)]
    options += ["--max-examples", str(EXAMPLES), "--no-text-only", "--apart", "--json"]
    if not any(" with " in layout for layout in layouts):
        options.append("--no-clips")
    with tempfile.TemporaryDirectory(prefix="vlmdebug-") as folder:
        text = Path(folder) / path.name
        text.write_bytes(data)
        try:
            ended = run(["falsify", name, "--text", str(text), *options], LIMIT)
        except subprocess.TimeoutExpired:
            return f"it takes more than {LIMIT} seconds"
    if ended.returncode not in (0, 1):
        return one_line(ended.stderr.strip().removeprefix("vlmdebug: "), 300)
    return frozenset(map(tuple, json.loads(ended.stdout)))


def run(
    arguments: Sequence[str], seconds: float, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of vlmdebug in another process, with these variables of the environment too.

    Raises:
        subprocess.TimeoutExpired: It takes longer.
    """
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    safe = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}
    return subprocess.run(
        [sys.executable, "-m", "vlmdebug", *arguments],
        env={**os.environ, **variables, **safe},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=seconds,
        check=False,
    )
