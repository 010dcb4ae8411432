"""`vlmdebug falsify`: the smallest batch that breaks a slicer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vlmdebug.cli.given import not_checked, slicer_of
from vlmdebug.cli.show import FOUND, OK, Commands, show, show_line
from vlmdebug.running.settings import FalsifySettings, options
from vlmdebug.safe import plain


def add(commands: Commands) -> None:
    """Add `falsify`."""
    falsify = commands.add_parser("falsify", help="the smallest batch that breaks a slicer")
    falsify.add_argument(
        "slicer",
        metavar="FILE.py:NAME",
        help="your function (inputs, chunk_size), or (model, inputs, chunk_size), which is "
        "recorded; the file is run. Or a vd.collator(…) in it. Or trainer:verl, an installed "
        "trainer's own code; trainer:verl:dynamic, another of its loops; or a slicer of the 5452 "
        "story",
    )
    _search_options(falsify)
    falsify.add_argument("--all", action="store_true", help="every kind of mismatch in each family")
    falsify.add_argument("--pytest", action="store_true", help="print a regression test")
    falsify.set_defaults(run=_run)


def _search_options(command: argparse.ArgumentParser) -> None:
    """The flags of `FalsifySettings`; a flag that is not given keeps its default."""
    for option in options():
        flag, argument = option.metadata["flag"], option.metadata["argument"]
        said = option.metadata["meaning"].replace("`", "").replace("%", "%%")
        if argument.get("action") == "store_false":
            said = f"{option.name}=False. {said}"
        elif argument.get("action") == "append":
            said += " May be given several times."
        elif option.default is not None:
            said += f" Default: {option.default}."
        command.add_argument(flag, dest=option.name, default=option.default, help=said, **argument)


def _run(arguments: argparse.Namespace) -> int:
    from vlmdebug.running.collator import Collator
    from vlmdebug.running.row_search import RowSearch
    from vlmdebug.running.search import Search

    tried: dict[str, int] = {}
    settings = FalsifySettings(**{one.name: getattr(arguments, one.name) for one in options()})
    with slicer_of(arguments.slicer, "SLICER") as slicer:
        search: Search | RowSearch
        if isinstance(slicer, Collator):
            search = RowSearch(slicer, settings, tried)
        else:
            search = Search(slicer, settings, tried)
        found = search.all() if arguments.all else [one for one in [search.first()] if one]
    for example in found:
        show_line(example)
        for finding in example.report.findings:
            show(f"  {finding.code} {finding.title} ({finding.loudness})")
            show_line("\n".join(f"    {line}" for line in plain(finding.message).splitlines()))
        if arguments.pytest:
            show_line(f"\n{_test_of(example, _import_name(arguments.slicer))}")
    if not found:
        show_line("no counterexample, which is evidence and no proof; cases tried:")
    for family, count in tried.items():
        left_out = not_checked(count)
        if left_out or not found:
            number = f"{int(count)} case{'' if count == 1 else 's'}"
            show_line(f"  {family}: {number}{left_out}")
    return FOUND if found else OK


def _test_of(example: Any, name: str) -> str:
    """A regression test; of a collator, with the names that its file should have."""
    if not hasattr(example, "trial"):
        return example.to_pytest(name)
    module = name.partition(":")[0]
    return example.to_pytest(f"{module}:collate", f"{module}:processor", f"{module}:make_row")


def _import_name(slicer: str) -> str:
    """`pkg/cut.py:f` as a test imports it, `cut:f`."""
    path, colon, name = slicer.rpartition(":")
    stem = Path(path).stem
    module = stem if stem.isidentifier() else "my_module"
    return f"{module}:{name}" if colon else f"vlmdebug.slicers:{slicer}"
