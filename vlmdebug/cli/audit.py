"""`vlmdebug audit`: what is wrong with the rows of a data set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vlmdebug.cli.show import FOUND, OK, Commands, show_line
from vlmdebug.errors import BadInput


def add(commands: Commands) -> None:
    """Add `audit`."""
    audit = commands.add_parser(
        "audit",
        help="what is wrong with the rows of a data set, and what their images become",
        description="Read every row of a data set: places for images and their number, image "
        "files, what max_length cuts, answers to learn from. Pixels are not decoded. What an "
        "interrupted audit has done is kept.",
        epilog="Example: vlmdebug audit train.jsonl --processor ./checkpoint --max-length 4096 "
        "--out train-audit",
    )
    audit.add_argument(
        "data",
        type=Path,
        help="a file or folder: Parquet, JSON lines, a saved data set of datasets, or tars of "
        "WebDataset",
    )
    audit.add_argument("--processor", metavar="DIR", help="the folder of a saved processor")
    audit.add_argument(
        "--out", type=Path, default=Path("vlmdebug-audit"), help="folder for the table and page"
    )
    audit.add_argument("--max-length", type=int, help="tokens after which the trainer cuts a row")
    audit.add_argument(
        "--truncation-side",
        choices=("right", "left"),
        default="right",
        help="the side of a row that is cut there (default right)",
    )
    _reading_options(audit)
    audit.add_argument(
        "--ask",
        metavar="QUESTION",
        help="ask the finished table in --out instead: faults, worst, files, duplicates, lengths, "
        "images, sizes, not_compared, or SQL on the table rows",
    )
    audit.set_defaults(run=_run)


def _reading_options(audit: argparse.ArgumentParser) -> None:
    """Add the options that say how rows are read, and where."""
    audit.add_argument(
        "--images", metavar="DIR", type=Path, help="the folder that paths of images are relative to"
    )
    audit.add_argument("--decode", action="store_true", help="decode the pixels of every image too")
    audit.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="where rows are read: in processes of this machine, or on a Ray cluster "
        "(default local)",
    )
    audit.add_argument("--address", help="of a running Ray cluster, as ray.init takes it")
    audit.add_argument("--workers", type=int, help="processes or Ray actors; default: all cores")


def _run(options: argparse.Namespace) -> int:
    from vlmdebug.fleet.audit import audit
    from vlmdebug.fleet.questions import ask

    if options.ask is not None:
        show_line(ask(options.out / "rows.parquet", options.ask))
        return OK
    if options.processor is None:
        raise BadInput(
            "--processor is missing. No row was audited. Pass the folder that "
            "processor.save_pretrained wrote: what an image becomes depends on it."
        )
    found = audit(
        options.data,
        options.processor,
        options.out,
        max_length=options.max_length,
        truncation_side=options.truncation_side,
        root=options.images,
        decode=options.decode,
        engine=options.engine,
        address=options.address,
        workers=options.workers,
        progress=sys.stderr.isatty(),
    )
    show_line(found)
    show_line(f"wrote {found.path} and {found.path.with_name('audit.html')}")
    return OK if found.ok else FOUND
