"""`vlmdebug merge`: what is wrong between ranks."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmdebug.cli.show import FOUND, OK, Commands, show_line


def add(commands: Commands) -> None:
    """Add `merge`."""
    merge = commands.add_parser(
        "merge",
        help="what is wrong between ranks, although each of them is right",
        description="Read the traces of all ranks: a sample on two of them, peers that disagree, "
        "a rank without images in a step in which others have some.",
        epilog="Example: watch each rank with vlmdebug.watch(model, log='traces/run.jsonl'), then "
        "vlmdebug merge traces --html ranks.html",
    )
    merge.add_argument("traces", type=Path, help="the folder with the traces of all ranks")
    merge.add_argument(
        "--expected",
        metavar="FILE",
        type=Path,
        help="identities that the ranks should have seen, one in each line, as vlmdebug.identities "
        "gives them; those that no rank saw are listed",
    )
    merge.add_argument("--html", type=Path, help="write a page with the ranks as lanes here")
    merge.add_argument("--step", type=int, help="with --timeline: the step to write")
    merge.add_argument(
        "--timeline", metavar="FILE", type=Path, help="write --step as JSON for Perfetto here"
    )
    merge.add_argument(
        "--ask",
        metavar="QUESTION",
        help="ask one thing instead: twice, peers, tokens, without_media, uneven, absent, "
        "repeated, wrong, or SQL on the table calls",
    )
    merge.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from vlmdebug.errors import BadInput
    from vlmdebug.fleet.lanes import to_page, write_timeline
    from vlmdebug.fleet.merge import merge

    if (options.timeline is None) != (options.step is None):
        raise BadInput(
            "--step and --timeline belong together: the step to write, and the file to write it "
            "to. Nothing was read. Pass both or none."
        )
    merged = merge(options.traces, expected=options.expected)
    if options.ask is not None:
        show_line(merged.ask(options.ask))
        return OK
    show_line(merged)
    if options.html is not None:
        options.html.write_text(to_page(merged), encoding="utf-8")
        show_line(f"wrote {options.html}")
    if options.timeline is not None:
        write_timeline(merged, options.step, options.timeline)
        show_line(f"wrote {options.timeline}")
    return OK if merged.ok else FOUND
