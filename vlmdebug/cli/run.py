"""`vlmdebug run`: a program, unchanged, with every call of its models judged."""

from __future__ import annotations

import argparse
from pathlib import Path

from vlmdebug.cli.show import OK, Commands
from vlmdebug.errors import BadInput
from vlmdebug.launch import command
from vlmdebug.launch.settings import Settings


def add(commands: Commands) -> None:
    """Add `run`."""
    run = commands.add_parser(
        "run",
        help="run your program, and name the call, sample and image that is wrong",
        usage="vlmdebug run [--raise] [--log PATH] [--sample-every N] [--shards N [--embedded]] "
        "FILE.py|-m MODULE|COMMAND …",
        description="Run a Python program unchanged, and check every call of a transformers model "
        "that gets images, videos or audio. COMMAND is a launcher, such as torchrun or accelerate "
        "launch: each rank writes a report of its own.",
        epilog="Example: vlmdebug run --log logs torchrun --nproc-per-node 8 train.py --lr 1e-5",
    )
    run.add_argument("--raise", dest="raising", action="store_true", help="stop at a mismatch")
    run.add_argument(
        "--log",
        type=Path,
        metavar="PATH",
        help="a folder for report.html and calls.jsonl, or the file of the calls; without it, "
        "vlmdebug-run/report.html is written if something is found",
    )
    run.add_argument(
        "--sample-every", type=_positive, default=1, metavar="N", help="judge 1 of N calls"
    )
    run.add_argument(
        "--shards",
        type=_positive,
        metavar="N",
        help="the tokens of each call are split over N ranks: each process of a launcher is one, "
        "else so many calls after another share the tokens",
    )
    run.add_argument(
        "--embedded", action="store_true", help="tokens are embedded before they are split"
    )
    run.add_argument(
        "--path",
        action="store_true",
        help="print the folder for PYTHONPATH: with it and VLMDEBUG=1, or a path for the log, "
        "Python watches without vlmdebug run",
    )
    run.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    run.add_argument("program", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    run.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    if options.path:
        print(command.PATH)
        return OK
    if options.embedded and options.shards is None:
        raise BadInput(
            "--embedded says that tokens are embedded before they are split, but no --shards says "
            "over how many ranks. Nothing was run. Pass --shards N, too."
        )
    settings = Settings(
        options.log,
        options.raising,
        options.sample_every,
        shards=options.shards,
        embedded=options.embedded,
    )
    words = options.program if options.module is None else ["-m", *options.module]
    return command.run_program(words, settings)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)
