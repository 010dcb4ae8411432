"""Rows a second that `audit` judges, next to tokenizing the same texts and nothing else.

Budget: 2,000 rows a second and core, or 0.8 of what the tokenizer alone reaches, whichever is
lower. Then Ray next to two processes of the local engine (budget 0.8 of them at a million rows), by
wall time and by CPU time of all processes, with the time that they take to start and without; and
the memory of a worker at 1 and 20 times as many rows.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple

import psutil

import vlmdebug as vd
from vlmdebug.fleet.audit_row import Auditor, AuditSettings

ROWS = 20_000
TIMES = 20
"""How often the rows of the engines are repeated: so often that workers write many blocks."""
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>{% elif 'text' in c %}{{ c['text'] }}{% endif %}"
    "{% endfor %}\n{% endfor %}"
)
WORDS = ("the", "picture", "shows", "a", "small", "red", "cat", "near", "the", "blue", "door")


def rows_of(number: int) -> list[dict[str, Any]]:
    """Rows as of a data set of instructions: 0 to 2 images of 500 sizes, and an answer."""
    draw = random.Random(0)
    sizes = [(draw.randrange(64, 1024), draw.randrange(64, 1024)) for _ in range(500)]
    return [_row(draw, sizes) for _ in range(number)]


def _row(draw: random.Random, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    images = [dict(zip(("width", "height"), draw.choice(sizes), strict=True))
              for _ in range(draw.choice((0, 1, 1, 1, 2)))]  # fmt: skip
    asked, answer = (" ".join(draw.choices(WORDS, k=draw.randrange(8, 40))) for _ in range(2))
    parts = [*({"type": "image"} for _ in images), {"type": "text", "text": asked}]
    messages = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": answer}]},
    ]
    return {"messages": messages, "images": images}


def seconds(call: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = perf_counter()
    call()
    return perf_counter() - begin


def beside_the_tokenizer(processor: Any, rows: list[dict[str, Any]]) -> None:
    """Print rows a second of both, in turn."""
    auditor, settings = Auditor(processor), AuditSettings(max_length=4096)
    texts = [auditor.text(one) for one in rows]
    blocks = range(0, len(rows), 256)
    auditor.rows(rows[:512], settings)
    audited = seconds(lambda: [auditor.rows(rows[at : at + 256], settings) for at in blocks])
    bare = seconds(lambda: [processor.tokenizer(texts[at : at + 256]) for at in blocks])
    print(f"  audit            {len(rows) / audited:8,.0f} rows a second and core")
    print(f"  tokenizer alone  {len(rows) / bare:8,.0f}   audit reaches {bare / audited:.2f} of it")


class Seen(NamedTuple):
    """What an audit has used and written at one moment: CPU seconds of all its processes."""

    time: float
    cpu: float
    blocks: int


def engines(folder: Path, rows: list[dict[str, Any]], processor: Any) -> None:
    """Print the time of both engines on the same file, and the memory of a worker."""
    processor.save_pretrained(folder / "processor")
    lines = "".join(json.dumps(one) + "\n" for one in rows)
    for times in (1, TIMES):
        (folder / f"{times}.jsonl").write_text(lines * times, encoding="utf-8")
    local, ray = (watched(folder, engine) for engine in ("local", "ray"))
    print(f"  {TIMES * len(rows):,} rows         seconds   CPU seconds   blocks a CPU second")
    for name, seen in (("two processes", local), ("Ray, two actors", ray)):
        end = seen[-1]
        print(f"  {name:<18}{end.time:8.1f}{end.cpu:14.1f}{1 / per_block(seen).cpu:16.2f}")
    whole, started = local[-1], per_block(local)
    print(
        f"  Ray is         {whole.time / ray[-1].time:10.2f}{whole.cpu / ray[-1].cpu:14.2f}"
        f"{started.cpu / per_block(ray).cpu:16.2f} as fast (once started, by wall time: "
        f"{started.time / per_block(ray).time:.2f})"
    )
    for times in (1, TIMES):
        print(f"  memory           {memory(folder, times):8,.0f} MB at {times * len(rows):,} rows")


def watched(folder: Path, engine: str) -> list[Seen]:
    """An audit by two workers of one engine, looked at every tenth of a second."""
    out = folder / engine
    program = "import sys, vlmdebug as vd; vd.audit(*sys.argv[2:], workers=2, engine=sys.argv[1])"
    given = [engine, folder / f"{TIMES}.jsonl", folder / "processor", out]
    command = [sys.executable, "-c", program, *map(str, given)]
    begin, used, seen = perf_counter(), dict[psutil.Process, float](), list[Seen]()
    with psutil.Popen(command) as running:
        processes = {running}
        while running.poll() is None:
            for one in list(processes):  # those of Ray's own processes are there, too
                with suppress(psutil.Error):
                    processes |= {*one.children(recursive=True)}
                    used[one] = sum(one.cpu_times()[:2])
            blocks = len(list(out.glob("parts/*.parquet")))
            seen.append(Seen(perf_counter() - begin, sum(used.values()), blocks))
            sleep(0.1)
    if running.returncode:
        raise SystemExit(f"the audit with engine={engine} failed")
    return seen


def per_block(seen: list[Seen]) -> Seen:
    """Seconds of a block, from when both workers had written one until the last was written."""
    first = next(one for one in seen if one.blocks >= 2)
    last = next(one for one in seen if one.blocks == seen[-1].blocks)
    blocks = last.blocks - first.blocks
    return Seen((last.time - first.time) / blocks, (last.cpu - first.cpu) / blocks, blocks)


def memory(folder: Path, times: int) -> float:
    """Highest memory of a process that audits a file alone, in MB."""
    program = (
        "import resource, sys, vlmdebug as vd;"
        "vd.audit(*sys.argv[1:], workers=1);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    given = [folder / f"{times}.jsonl", folder / "processor", folder / f"alone{times}"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, given)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the table."""
    print(f"audit: {ROWS:,} rows, LLaVA-NeXT, 0 to 2 images of 500 sizes")
    processor = vd.tiny.build("llava_next")[1]
    processor.chat_template = TEMPLATE
    rows = rows_of(ROWS)
    beside_the_tokenizer(processor, rows)
    with tempfile.TemporaryDirectory() as folder:
        engines(Path(folder), rows[:5_000], processor)


if __name__ == "__main__":
    main()
