"""The audit of a whole data set, on this machine or over Ray Data."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from vlmdebug.core.given import public
from vlmdebug.errors import BadInput, VlmDebugError
from vlmdebug.fleet.audit_row import Auditor, AuditSettings
from vlmdebug.fleet.page import to_page
from vlmdebug.fleet.sources import Block, blocks_of, rows_of
from vlmdebug.fleet.summary import Summary, summary_of
from vlmdebug.fleet.table import join, table_of, write
from vlmdebug.safe import one_line

TOGETHER = 256
"""Rows with texts that are tokenized together."""
VERSION = 1
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
        address: Of a running Ray cluster, as `ray.init` takes it. All its nodes must see `data`,
            `processor` and `out` under the same paths.
        workers: Processes, or actors of Ray. By default one for each core.
        progress: Whether to show a progress bar on the error stream.

    Raises:
        BadInput: A path is not there, an option is out of range, or `out` holds the audit of
            other data or with other options.
    """
    data, out = Path(data).absolute(), Path(out).absolute()
    root = data if root is None else Path(root)
    settings = AuditSettings(
        max_length,
        truncation_side,
        str((root.parent if root.is_file() else root).absolute()),
        decode,
    )
    if engine not in _ENGINES:
        raise BadInput(
            f"engine={engine!r}, but it is one of {', '.join(_ENGINES)}. No row was audited."
        )
    if workers is not None and workers < 1:
        raise BadInput(f"workers={workers}, but at least 1 is needed. No row was audited.")
    blocks = blocks_of(data, out)
    job = _Job(str(Path(processor).absolute()), settings, str(out / "parts"))
    job.load()  # a wrong processor is said here, not by every worker
    _claim(out, blocks, job)
    left = [(number, one) for number, one in enumerate(blocks) if not job.part(number).exists()]
    done = _ENGINES[engine](job, left, workers or _cores(), address)
    for _ in _shown(done, len(left), progress):
        pass
    join([job.part(number) for number in range(len(blocks))], out / "rows.parquet")
    summary = summary_of(out)
    page = to_page(summary, blocks, job.settings)
    (out / "audit.html").write_text(page, encoding="utf-8")
    return summary


@dataclass(frozen=True)
class _Job:
    """What a worker needs, and nothing that cannot be sent to one."""

    processor: str
    settings: AuditSettings
    parts: str

    def part(self, number: int) -> Path:
        return Path(self.parts) / f"{number:06d}.parquet"

    def load(self) -> Auditor:
        from transformers import AutoProcessor

        if not Path(self.processor).is_dir():
            raise BadInput(
                f"{self.processor} is no folder on this machine, and nothing is downloaded. "
                "No row was audited. Pass the folder that processor.save_pretrained wrote."
            )
        try:
            return Auditor(AutoProcessor.from_pretrained(self.processor, local_files_only=True))
        except BadInput:
            raise
        except Exception as error:  # a broken file, a package that is not installed
            said = one_line(str(error).partition("\n")[0], 200)
            raise BadInput(
                f"{self.processor} could not be loaded as a processor: {said} "
                "No row was audited. Pass the folder that processor.save_pretrained wrote."
            ) from error


class _Worker:
    """Audits block after block with one processor."""

    def __init__(self, job: _Job) -> None:
        self.job = job
        self.auditor = job.load()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        number, block = item["number"], Block(**item["block"])
        rows = iter(rows_of(block))
        audited = [
            one
            for some in iter(lambda: list(islice(rows, TOGETHER)), [])
            for one in self.auditor.rows(some, self.job.settings)
        ]
        write(table_of(audited, block.file, number), self.job.part(number))
        return {"number": number}


_Left = Sequence[tuple[int, Block]]


def _items(left: _Left) -> list[dict[str, Any]]:
    return [{"number": number, "block": asdict(block)} for number, block in left]


_worker: _Worker | None = None


def _start(job: _Job) -> None:
    global _worker
    Thread(target=_end_with_parent, daemon=True).start()
    _worker = _Worker(job)


def _end_with_parent() -> None:
    """A worker waits for work forever if the process that gives it was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(item: dict[str, Any]) -> dict[str, Any]:
    assert _worker is not None
    return _worker(item)


def _locally(job: _Job, left: _Left, workers: int, address: str | None) -> Iterator[Any]:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    if address is not None:
        raise BadInput("address= is of a Ray cluster. Pass engine='ray' with it, or leave it out.")
    if len(left) < 2 or workers == 1:
        worker = _Worker(job)
        yield from map(worker, _items(left))
        return
    context = get_context("spawn")
    many = min(workers, len(left))
    try:
        with ProcessPoolExecutor(many, context, initializer=_start, initargs=(job,)) as pool:
            yield from pool.map(_work, _items(left))
    except BrokenProcessPool as error:
        raise VlmDebugError(
            "A worker was ended from outside, for instance for lack of memory. What is done is "
            "kept. Run the same command again, with fewer workers."
        ) from error


def _over_ray(job: _Job, left: _Left, workers: int, address: str | None) -> Iterator[Any]:
    try:
        import ray
        from ray.data import ActorPoolStrategy, DataContext, from_items
    except ImportError as error:
        raise BadInput(
            "engine='ray' needs Ray, which is not installed. No row was audited. "
            "Install it with: pip install 'vlmdebug[ray]'"
        ) from error
    if not left:
        return
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unasked
        local: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    try:
        DataContext.get_current().enable_progress_bars = False
        many = min(workers, len(left))
        worker: Any = _Worker  # a class: Ray makes one in each actor
        rows = from_items(_items(left), override_num_blocks=len(left)).map(
            worker, fn_constructor_args=(job,), compute=ActorPoolStrategy(size=many)
        )
        yield from rows.iter_rows()
    finally:
        if ours:
            ray.shutdown()


_ENGINES: dict[str, Callable[[_Job, _Left, int, str | None], Iterator[Any]]] = {
    "local": _locally,
    "ray": _over_ray,
}


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shown(done: Iterable[Any], whole: int, progress: bool) -> Iterable[Any]:
    if not progress:
        return done
    from tqdm import tqdm

    return tqdm(done, total=whole, unit="block", desc="audit")


def _claim(out: Path, blocks: Sequence[Block], job: _Job) -> None:
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
    path = out / "plan.json"
    text = json.dumps(plan, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise BadInput(
            f"{out} holds the audit of other data, or with other options. No row was audited. "
            "Pass another folder as out, or remove this one."
        )
    if out.exists() and not path.exists() and any(out.iterdir()):
        raise BadInput(
            f"{out} holds other files. No row was audited. Pass a folder that is empty or new."
        )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _fingerprint(folder: Path) -> str:
    """Changes with any file of the processor's folder but its weights."""
    hashed = hashlib.blake2b(digest_size=16)
    for file in sorted(folder.iterdir()):
        if file.suffix in (".json", ".jinja", ".model", ".txt"):
            hashed.update(f"\0{file.name}\0".encode() + file.read_bytes())
    return hashed.hexdigest()
