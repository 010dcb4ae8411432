"""`vlmdebug check`: a saved batch, and a slicer on it."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdebug.cli.given import batch_options, read, slicer_of
from vlmdebug.cli.show import FAILED, FOUND, OK, Commands, show, show_line, text_width, waiting
from vlmdebug.cli.typed import in_options
from vlmdebug.errors import BadInput

if TYPE_CHECKING:
    from vlmdebug.checking.report import Report


def add(commands: Commands) -> None:
    """Add `check`."""
    check = commands.add_parser(
        "check",
        help="check a saved batch, and a slicer on it",
        epilog="Example: vlmdebug check batch.pt --processor ./checkpoint "
        "--slicer trainer.py:slicer",
    )
    batch_options(check)
    check.add_argument(
        "--slicer",
        metavar="FILE.py:NAME",
        help="your function (inputs, chunk_size), or (model, inputs, chunk_size), which is "
        "recorded; this runs the file. Or the name of a slicer of the 5452 story. Without it, the "
        "batch is checked alone",
    )
    check.add_argument(
        "--story", action="store_true", help="also try the slicers of the 5452 story on the batch"
    )
    check.add_argument(
        "--chunk-size", metavar="N", type=int, help="samples per chunk of a slicer (default 1)"
    )
    check.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="show what was compared, and the counts of each sample, of a right batch too",
    )
    check.add_argument("--html", metavar="FILE", type=Path, help="write the report as HTML here")
    check.add_argument("--json", metavar="FILE", type=Path, help="write the report as JSON here")
    check.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from vlmdebug.core.record import Verdict

    if options.chunk_size is not None and not (options.slicer or options.story):
        raise BadInput(
            f"--chunk-size {options.chunk_size} is for a slicer, and none was named. Nothing was "
            "checked. Add --slicer FILE.py:NAME or --story, or leave it out."
        )
    size = 1 if options.chunk_size is None else options.chunk_size
    with waiting("reading and comparing the batch"):
        report, batch = _checked(options, size)
    _show(report, options)
    if options.story:
        _try_story(batch, size)
    for path, write in ((options.html, report.to_html), (options.json, report.to_json)):
        if path is not None:
            write(path)
            show_line(f"wrote {path}")
    return {Verdict.OK: OK, Verdict.MISMATCH: FOUND}.get(report.verdict, FAILED)


def _checked(options: argparse.Namespace, size: int) -> tuple[Report, Any]:
    """The report, and the batch; what is wrong with the file is said before torch is loaded."""
    batch = read(options)
    from vlmdebug.running.check import check

    if not options.slicer:
        return check(batch), batch
    with slicer_of(options.slicer, "--slicer") as slicer:
        return check(slicer, batch, chunk_size=size), batch


def _show(report: Report, options: argparse.Namespace) -> None:
    """One line where all was compared and right; else the report, in the names of the options."""
    from vlmdebug.views.text import to_line, to_text

    if report.ok and not options.verbose:
        show(to_line(report))
        return
    typed = tuple(in_options(text, options) for text in report.ambiguities)
    show(to_text(replace(report, ambiguities=typed), text_width()))


def _try_story(batch: Any, chunk_size: int) -> None:
    from vlmdebug.demo import verdict
    from vlmdebug.running.check import check
    from vlmdebug.slicers import STORY

    batch.refuse_packed()
    batch.refuse_ambiguity()
    show_line("\nHow known slicers would cut this batch:\n")
    for slicer in STORY:
        report = check(slicer, batch, chunk_size=chunk_size)
        show_line(verdict(slicer, report, width=text_width()))
