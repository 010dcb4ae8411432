"""Who audits the blocks of a data set: processes of this machine, or actors of Ray Data."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import parent_process
from pathlib import Path
from threading import Thread
from typing import Any

from vlmdebug.errors import BadInput, VlmDebugError
from vlmdebug.fleet.audit_row import Auditor, AuditSettings
from vlmdebug.fleet.sources import Block, rows_of
from vlmdebug.fleet.table import table_of, write
from vlmdebug.safe import first_line, one_line

TOGETHER = 256
"""Rows with texts that are tokenized together."""
SEEN_AFTER = 60.0
"""Seconds until a file that another machine wrote is seen here, if the folder is shared."""
ANSWERS_WITHIN = 10.0
"""Seconds until a cluster answers; Ray itself waits for one for minutes."""
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
"""How a connection of gRPC begins, with empty settings (RFC 9113, sections 3.4 and 6.5)."""


@dataclass(frozen=True)
class Job:
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
            said = first_line(error, 200)
            raise BadInput(
                f"{self.processor} could not be loaded as a processor: {said}. "
                "No row was audited. Pass the folder that processor.save_pretrained wrote."
            ) from error


class Worker:
    """Audits block after block with one processor."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.auditor: Auditor = job.load()

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        number, block = item["number"], Block(**item["block"])
        for path in (block.file, self.job.settings.root):
            if not os.path.exists(path):  # never a fault of the row
                raise BadInput(
                    f"{path} is not there. What is done is kept. Every machine that audits must "
                    "see the data, the images and the processor under the same paths."
                )
        rows = iter(rows_of(block))
        audited = [
            one
            for some in iter(lambda: list(islice(rows, TOGETHER)), [])
            for one in self.auditor.rows(some, self.job.settings)
        ]
        write(table_of(audited, block.file, number), self.job.part(number))
        return {"number": number}


Left = Sequence[tuple[int, Block]]


def _items(left: Left) -> list[dict[str, Any]]:
    return [{"number": number, "block": asdict(block)} for number, block in left]


_worker: Worker | None = None


def _start(job: Job) -> None:
    global _worker
    Thread(target=_end_with_parent, daemon=True).start()
    _worker = Worker(job)


def _end_with_parent() -> None:
    """A worker waits for work forever if the process that gives it was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(item: dict[str, Any]) -> dict[str, Any]:
    assert _worker is not None
    return _worker(item)


def _locally(job: Job, left: Left, workers: int | None, address: str | None) -> Iterator[Any]:
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool
    from multiprocessing import get_context

    if address is not None:
        raise BadInput("address= is of a Ray cluster. Pass engine='ray' with it, or leave it out.")
    many = min(workers or cores(), len(left))
    if many < 2:
        worker = Worker(job)
        yield from map(worker, _items(left))
        return
    context = get_context("spawn")
    try:
        with ProcessPoolExecutor(many, context, initializer=_start, initargs=(job,)) as pool:
            yield from pool.map(_work, _items(left))
    except BrokenProcessPool as error:
        raise VlmDebugError(
            "A worker was ended from outside, for instance for lack of memory. What is done is "
            "kept. Run the same command again, with fewer workers."
        ) from error


def _over_ray(job: Job, left: Left, workers: int | None, address: str | None) -> Iterator[Any]:
    try:
        import ray
        from ray.data import ActorPoolStrategy, from_items
    except ImportError as error:
        raise BadInput(
            "engine='ray' needs Ray, which is not installed. No row was audited. "
            "Install it with: pip install 'vlmdebug[ray]'"
        ) from error
    if not left:
        return
    with _cluster(ray, address, workers):
        many = workers or int(ray.cluster_resources().get("CPU", 1))
        actor: Any = _Actor  # a class: Ray makes one in each actor
        rows = from_items(_items(left), override_num_blocks=len(left)).map(
            actor,
            fn_constructor_args=(job,),
            compute=ActorPoolStrategy(size=min(many, len(left))),
        )
        try:
            for done in rows.iter_rows():
                if done["problem"]:
                    raise BadInput(f"On the machine {done['machine']}: {done['problem']}")
                _require_shared(job.part(done["number"]), done["machine"])
                yield done
        except BadInput:
            raise
        except Exception as error:  # Ray has many, with the tracebacks of its workers in them
            raise VlmDebugError(
                f"Ray stopped: {one_line(str(error).strip().rpartition(chr(10))[2], 200)} What is "
                "done is kept. Run the same command again."
            ) from error


@contextmanager
def _cluster(ray: Any, address: str | None, workers: int | None) -> Iterator[None]:
    """Ray, as the program has it, or else connected or started here and left at the end."""
    ours = not ray.is_initialized()
    set_outside = None if address else os.environ.get("RAY_ADDRESS")
    address = address or set_outside
    started = ours and not address
    if ours:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent unasked
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        local: dict[str, Any] = {"num_cpus": workers or cores(), "include_dashboard": False}
        given = local if started else {}
        try:
            if address:
                _require_answer(address)
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **given)
        except (Exception, SystemExit) as error:  # Ray ends the program where none answers
            where = "started here" if started else f"reached at {one_line(address, 80)}"
            where += ", the value of RAY_ADDRESS" if set_outside else ""
            said = first_line(error, 160)
            raise BadInput(
                f"Ray could not be {where}: {said}. No row was audited. Pass the address "
                "of a running cluster; without one, and without RAY_ADDRESS, Ray starts on this "
                "machine."
            ) from error
    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        yield
    finally:
        context.enable_progress_bars = shown
        if ours:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Connect to the address of a cluster, as far as it is one that Ray connects to.

    Raises:
        OSError: Nothing answers there in time, or what does is no cluster.
    """
    from ray._private.services import canonicalize_bootstrap_address

    client = address.startswith("ray://")
    found = address.removeprefix("ray://") if client else canonicalize_bootstrap_address(address)
    host, _, port = (found or "").partition("/")[0].rpartition(":")
    if not host or not port.isdecimal():
        return  # Ray starts a cluster, or says what is wrong with the address
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWERS_WITHIN) as opened:
            opened.sendall(_HELLO)
            begin = opened.makefile("rb").read(4)
    except TimeoutError as error:
        raise TimeoutError(f"nothing answered in {ANSWERS_WITHIN:.0f} seconds") from error
    if begin[3:] != _HELLO[-6:-5] and os.environ.get("RAY_USE_TLS", "0") == "0":
        raise ConnectionError("what answers there is no Ray cluster; one usually has port 6379")


class _Actor:
    """A worker on a node of the cluster; it says what is wrong there, as Ray would raise its own
    errors."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.worker: Worker | None = None

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        done = {"number": item["number"], "machine": socket.gethostname(), "problem": ""}
        try:
            self.worker = self.worker or Worker(self.job)
            self.worker(item)
        except BadInput as error:
            done["problem"] = str(error)
        return done


def _require_shared(part: Path, machine: str) -> None:
    """Wait for the part that a node wrote; a network file system may show it later."""
    until = time.monotonic() + SEEN_AFTER
    while part.name not in os.listdir(part.parent):  # also makes NFS look again
        if time.monotonic() > until:
            raise BadInput(
                f"The machine {one_line(machine, 80)} wrote {part}, and it is not on this machine. "
                "Pass a folder as out that all machines of the cluster share, under one path."
            )
        time.sleep(0.1)


ENGINES: dict[str, Callable[[Job, Left, int | None, str | None], Iterator[Any]]] = {
    "local": _locally,
    "ray": _over_ray,
}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
