"""`vlmdebug review`: read slicing code without running it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmdebug.cli.proven import offer
from vlmdebug.cli.show import FOUND, OK, Commands, show, show_line, text_width
from vlmdebug.errors import BadInput

if TYPE_CHECKING:
    from vlmdebug.review import Review
    from vlmdebug.review.run import Reviewer

EXAMPLES = """\
examples:
  vlmdebug review src                        every Python file and notebook below src
  vlmdebug review main...HEAD                what a branch made wrong since it left main
  vlmdebug review HEAD                       what the uncommitted changes made wrong
  gh pr diff 5452 | vlmdebug review --diff - what a pull request would make wrong
  vlmdebug review - --stdin-filename cut.py < cut.py
  vlmdebug review src --write-baseline vlmdebug-baseline.json

Options for a project are in [tool.vlmdebug] of its pyproject.toml: select, ignore, exclude,
per-file-ignores and baseline. `# vlmdebug: ignore[VLM001]` on a line accepts its finding.

exit codes: 0 no finding, 1 findings, 2 nothing was reviewed, and a message says why
"""


def add(commands: Commands) -> None:
    """Add `review`."""
    review = commands.add_parser(
        "review",
        help="read slicing code without running it: what is cut by what, in which layouts",
        description="Read Python files and notebooks without running them. Every function that "
        "cuts a batch is\nfollowed once for each layout that is known.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _what(review.add_argument_group("what to review"))
    _settings(review.add_argument_group("what to report, instead of the project's settings"))
    _how(review.add_argument_group("how"))
    review.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    found = reviewed(options)
    if options.patch or options.fix:
        return offer(found, options.family, write=options.fix)
    if options.write_baseline is not None:
        from vlmdebug.core.wording import number
        from vlmdebug.review.baseline import write_baseline

        write_baseline(found, options.write_baseline)
        show_line(f"wrote {options.write_baseline}: {number(len(found.findings), 'finding')}")
        return OK
    if options.format == "text":
        from vlmdebug.review.remarks import WIDTH

        show(found.to_text(text_width(WIDTH)))
    else:
        print(getattr(found, f"to_{options.format}")())
    return OK if found.ok or options.exit_zero else FOUND


def _what(group: Any) -> None:
    group.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="files, folders, or - for the input. First, revisions of git may be given: "
        "BASE..HEAD, BASE...HEAD, or BASE for the files as they are; only what changed is reported",
    )
    group.add_argument(
        "--diff", metavar="FILE", help="a unified diff, - for the input; as for revisions"
    )
    group.add_argument(
        "--all",
        action="store_true",
        help="with revisions or a diff: also what is older than the change, in the changed files",
    )
    group.add_argument("--stdin-filename", metavar="FILE", help="the name of the input, with -")
    group.add_argument(
        "--exclude", metavar="PATTERNS", type=_listed, help="files and folders to pass over"
    )
    group.add_argument(
        "--force-exclude", action="store_true", help="pass over those that are named, too"
    )


def _settings(group: Any) -> None:
    group.add_argument(
        "--select", metavar="CODES", type=_listed, help="report only these, such as VLM001,VLM002"
    )
    group.add_argument("--ignore", metavar="CODES", type=_listed, help="do not report these")
    group.add_argument(
        "--family", action="append", help="judge by this layout only; may be given several times"
    )
    baselines = group.add_mutually_exclusive_group()
    baselines.add_argument(
        "--baseline", metavar="FILE", help="leave out the findings that this file accepts"
    )
    baselines.add_argument(
        "--write-baseline",
        metavar="FILE",
        type=Path,
        help="write the findings to this file, to accept them, and print none",
    )


def _how(group: Any) -> None:
    group.add_argument(
        "--format",
        choices=("text", "json", "github", "gitlab", "sarif"),
        default="text",
        help="github: findings as notes on the lines of a pull request",
    )
    fixes = group.add_mutually_exclusive_group()
    fixes.add_argument(
        "--patch",
        action="store_true",
        help="print a diff for `git apply` with the changes that are proven; functions are run",
    )
    fixes.add_argument(
        "--fix", action="store_true", help="write these changes into the files; functions are run"
    )
    group.add_argument("--exit-zero", action="store_true", help="exit with 0 despite findings")
    group.add_argument(
        "-j", "--jobs", metavar="N", type=_positive, help="processes; default: as many as pay off"
    )
    group.add_argument(
        "--no-cache", action="store_true", help="neither use nor write .vlmdebug_cache"
    )


def _listed(text: str) -> list[str]:
    return [one.strip() for one in text.split(",") if one.strip()]


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of processes, such as 4")
    return int(text)


def reviewed(options: argparse.Namespace) -> Review:
    """The review that the options ask for.

    Raises:
        BadInput: They ask for nothing, or for what cannot be read.
        OSError: A file cannot be read.
    """
    from vlmdebug.review.revisions import is_revision

    reviewer = _reviewer(options)
    names: list[str] = options.paths
    if options.diff is not None:
        return _diff(reviewer, options)
    if "-" in names:
        return _input(reviewer, options)
    if options.stdin_filename is not None:
        raise BadInput("--stdin-filename is the name of the input. Pass - to review the input.")
    if names and not Path(names[0]).exists() and is_revision(names[0]):
        return _revisions(reviewer, options)
    if options.all:
        raise BadInput("--all belongs to revisions or --diff. Pass one, or leave it out.")
    if not names:
        raise BadInput(
            "Nothing to review was given. Pass files or folders, revisions such as main...HEAD, "
            "or --diff FILE."
        )
    return reviewer.files(names)


def _reviewer(options: argparse.Namespace) -> Reviewer:
    from vlmdebug.review.cache import Cache
    from vlmdebug.review.config import Configuration, project_root
    from vlmdebug.review.run import Reviewer

    given = {name: getattr(options, name) for name in ("select", "ignore", "exclude", "baseline")}
    return Reviewer(
        Configuration(**given).settings_of,
        families=None if options.family is None else tuple(options.family),
        jobs=options.jobs,
        cache=None if options.no_cache else Cache(project_root(Path.cwd())),
        uses_baseline=options.write_baseline is None,
        excludes_named=options.force_exclude,
    )


def _input(reviewer: Reviewer, options: argparse.Namespace) -> Review:
    if options.paths != ["-"]:
        raise BadInput("- is the input, and is reviewed alone. Leave out the other paths.")
    return reviewer.text(sys.stdin.buffer.read(), options.stdin_filename or "<stdin>")


def _revisions(reviewer: Reviewer, options: argparse.Namespace) -> Review:
    from vlmdebug.review.changes import of_revisions, within
    from vlmdebug.review.result import Review

    name, *places = options.paths
    changes = [one for one in of_revisions(name) if within(one.path, _existing(places))]
    if not changes:
        return Review(notes=(f"No Python file or notebook differs: {name}.",))
    return reviewer.changes(changes, is_all=options.all)


def _diff(reviewer: Reviewer, options: argparse.Namespace) -> Review:
    from vlmdebug.review.changes import of_diff
    from vlmdebug.review.result import Review

    raw = sys.stdin.buffer.read() if options.diff == "-" else Path(options.diff).read_bytes()
    changes = of_diff(raw.decode("utf-8", "surrogateescape"), _existing(options.paths))
    if not changes:
        return Review(notes=("The diff changes no Python file or notebook that is reviewed.",))
    return reviewer.changes(changes, is_all=options.all)


def _existing(names: list[str]) -> list[Path]:
    for name in names:
        if not Path(name).exists():
            raise FileNotFoundError(2, "No such file or directory", name)
    return [Path(name) for name in names]
