"""The audit of a whole data set, on this machine or over Ray Data."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlmdebug.core.given import public
from vlmdebug.errors import BadInput
from vlmdebug.fleet.audit_row import AuditSettings
from vlmdebug.fleet.engines import ENGINES, Job
from vlmdebug.fleet.page import to_page
from vlmdebug.fleet.sources import Block, blocks_of, not_read
from vlmdebug.fleet.summary import Summary, summary_of
from vlmdebug.fleet.table import join

VERSION = 2
"""Goes up when the same data would give another table."""


@public
def audit(
    data: str | Path,
    processor: str | Path,
    out: str | Path,
    *,
    max_length: int | None = None,
    truncation_side: str = "right",
    root: str | Path | None = None,
    decode: bool = False,
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Summary:
    """Say for each row of a data set what is wrong with it, and what its images become.

    The folder `out` gets `rows.parquet`, with a row for each row of the data (`docs/audit.md`
    lists the columns), and `audit.html`. An audit that was interrupted goes on where it stopped.
    Both engines write the same bytes.

    Args:
        data: A file or a folder: Parquet, JSON lines (also with gzip), what `datasets` saves with
            `save_to_disk`, or tars of WebDataset.
        processor: The folder of a saved processor. Nothing is downloaded.
        out: A folder, which is made.
        max_length: Tokens after which the trainer cuts a row.
        truncation_side: The side that is cut, `"right"` or `"left"`.
        root: The folder that paths of images are relative to; by default that of the data.
        decode: Whether to decode pixels, which finds image files that end too early.
        engine: `"local"`, processes on this machine; or `"ray"`, which needs `vlmdebug[ray]`.
        address: Of a running Ray cluster, as `ray.init` takes it. All its nodes need vlmdebug,
            and must see `data`, `root`, `processor` and `out` under the same paths.
        workers: Processes, or actors of Ray. By default one for each core of the machine or of
            the cluster.
        progress: Whether to show a progress bar on the error stream.

    Raises:
        BadInput: A path is not there, an option is out of range, or `out` holds the audit of
            other data, with other options, or of an earlier release.
    """
    data, out = Path(data).absolute(), Path(out).absolute()
    root = data if root is None else Path(root)
    settings = AuditSettings(
        max_length,
        truncation_side,
        str((root.parent if root.is_file() else root).absolute()),
        decode,
    )
    if engine not in ENGINES:
        raise BadInput(
            f"engine={engine!r}, but it is one of {', '.join(ENGINES)}. No row was audited."
        )
    if workers is not None and workers < 1:
        raise BadInput(f"workers={workers}, but at least 1 is needed. No row was audited.")
    _require_installed(engine)
    blocks = blocks_of(data, out)
    if not Path(settings.root).exists():
        raise BadInput(f"root={settings.root} is not there. No row was audited. Pass a folder.")
    job = Job(str(Path(processor).absolute()), settings, str(out / "parts"))
    job.load()  # a wrong processor is said here, not by every worker
    _claim(out, blocks, job)
    left = [(number, one) for number, one in enumerate(blocks) if not job.part(number).exists()]
    done = ENGINES[engine](job, left, workers, address)
    for _ in _shown(done, len(left), progress):
        pass
    join([job.part(number) for number in range(len(blocks))], out / "rows.parquet")
    summary = summary_of(out, not_read(data, out, blocks))
    if not summary.rows:
        raise BadInput(f"{data} has no rows: each file in it is empty. Pass data with rows.")
    page = to_page(summary, blocks, job.settings)
    (out / "audit.html").write_text(page, encoding="utf-8")
    return summary


def _require_installed(engine: str) -> None:
    """Say what is missing before the processor is loaded, which takes long."""
    needed = {"duckdb": "fleet", "pyarrow": "fleet"} | ({"ray": "ray"} if engine == "ray" else {})
    for package, extra in needed.items():
        if importlib.util.find_spec(package) is None:
            raise BadInput(
                f"An audit needs {package}, which is not installed. No row was audited. "
                f"Install it with: pip install 'vlmdebug[{extra}]'"
            )


def _shown(done: Iterable[Any], whole: int, progress: bool) -> Iterable[Any]:
    if not progress:
        return done
    from tqdm import tqdm

    return tqdm(done, total=whole, unit="block", desc="audit")


def _claim(out: Path, blocks: Sequence[Block], job: Job) -> None:
    """Note in `out` what is audited there; refuse another audit in the same folder."""
    plan = {
        "version": VERSION,
        "processor": _fingerprint(Path(job.processor)),
        "settings": asdict(job.settings),
        "blocks": [asdict(block) for block in blocks],
        "files": {
            name: [os.stat(name).st_size, os.stat(name).st_mtime_ns]
            for name in sorted({block.file for block in blocks})
        },
    }
    if out.exists() and not out.is_dir():
        raise BadInput(f"{out} is a file. No row was audited. Pass a folder that is empty or new.")
    path = out / "plan.json"
    text = json.dumps(plan, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise BadInput(
            f"{out} holds the audit of other data, or with other options, or of an earlier "
            "release. No row was audited. Pass another folder as out, or remove this one."
        )
    if out.exists() and not path.exists() and any(out.iterdir()):
        raise BadInput(
            f"{out} holds other files. No row was audited. Pass a folder that is empty or new."
        )
    out.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def _fingerprint(folder: Path) -> str:
    """Changes with any file of the processor's folder but its weights."""
    hashed = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".jinja", ".model", ".txt"):
            hashed.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return hashed.hexdigest()
