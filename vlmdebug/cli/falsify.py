"""`vlmdebug falsify`: the smallest batch that breaks a slicer."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from vlmdebug.cli.given import not_checked, slicer_of
from vlmdebug.cli.show import (
    FOUND,
    OK,
    Commands,
    is_width_known,
    show_line,
    show_text,
    text_width,
    waiting,
)
from vlmdebug.core.wording import many
from vlmdebug.errors import BadInput
from vlmdebug.running.settings import FalsifySettings, options
from vlmdebug.safe import harmless, one_line

EVERY = 0.2
"""Seconds between two lines of progress."""


def add(commands: Commands) -> None:
    """Add `falsify`."""
    falsify = commands.add_parser(
        "falsify",
        help="the smallest batch that breaks a slicer",
        epilog="Example: vlmdebug falsify trainer.py:slicer --pytest",
    )
    falsify.add_argument(
        "slicer",
        metavar="FILE.py:NAME",
        help="your function (inputs, chunk_size), or (model, inputs, chunk_size), which is "
        "recorded; the file is run. Or a vd.collator(…) in it. Or FILE.py:Class.method, or a "
        "function of other parameters: these run in a process of their own, and what they read of "
        "self and of libraries that are not installed is invented and listed. Or trainer:verl, an "
        "installed trainer's own code; trainer:verl:dynamic, another of its loops; or a slicer of "
        "the 5452 story",
    )
    falsify.add_argument(
        "--given",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="a value that a method reads and nobody gives, such as self.args.use_vllm=False; may "
        "be given several times",
    )
    for hidden in ("--apart", "--json"):
        falsify.add_argument(hidden, action="store_true", help=argparse.SUPPRESS)
    falsify.add_argument("--text", type=Path, help=argparse.SUPPRESS)
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
    from vlmdebug.running.apart import given_by, is_apart, run_apart

    settings = FalsifySettings(**{one.name: getattr(arguments, one.name) for one in options()})
    given = given_by(arguments.given)
    if not arguments.apart and is_apart(arguments.slicer):
        width = text_width() if is_width_known() else None
        with waiting("searching in a process of its own"):
            status, output, errors = run_apart(arguments.typed, settings.seconds, width)
        print(harmless(output), end="")
        print(harmless(errors), end="", file=sys.stderr)
        return status
    if given and not arguments.apart:
        raise BadInput(
            "--given is for methods and for functions that take parts of a batch; this one takes "
            "(inputs, chunk_size). Nothing was tried. Leave --given out."
        )
    return _search(arguments, settings, given)


def _search(arguments: argparse.Namespace, settings: FalsifySettings, given: Any) -> int:
    from vlmdebug.running.apart import method_of
    from vlmdebug.running.collator import Collator
    from vlmdebug.running.row_search import RowSearch
    from vlmdebug.running.search import Search

    loaded = method_of(arguments.slicer, given, arguments.text) if arguments.apart else None
    with waiting("searching") as say, loaded or slicer_of(arguments.slicer, "SLICER") as slicer:
        tried = _Tried(say)
        search: Search | RowSearch
        if isinstance(slicer, Collator):
            search = RowSearch(slicer, settings, tried)
        else:
            search = Search(slicer, settings, tried)
        every = arguments.all or arguments.json
        found = search.all() if every else [one for one in [search.first()] if one]
    if arguments.json:
        print(json.dumps([*_kinds(found)]))
        return FOUND if found else OK
    _show_found(found, _import_name(arguments.slicer) if arguments.pytest else None)
    if tried and not found and not any(tried.values()):
        raise BadInput(
            "No case was tried, so nothing was judged. Allow more: --max-examples 200, and no "
            "--seconds or a larger number."
        )
    if not found:
        show_text("no counterexample, which is evidence and no proof; cases tried:")
    for family, count in tried.items():
        left_out = not_checked(count)
        if left_out or not found:
            number = f"{int(count)} case{'' if count == 1 else 's'}"
            show_text(f"{family}: {number}{left_out}", "  ", "    ")
    invented = getattr(slicer, "invented", ())
    if invented:
        names = ", ".join(map(one_line, invented))
        show_text(f"Invented, as nobody gave it: {names}", then="  ")
    return FOUND if found else OK


class _Tried(dict[str, int]):
    """Cases of each family, which says how many there are a few times a second."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__()
        self._say, self._said = say, 0.0

    def __setitem__(self, family: str, cases: int) -> None:
        super().__setitem__(family, cases)
        if monotonic() - self._said > EVERY:
            self._say(f"{many(sum(self.values()), 'case')} tried")
            self._said = monotonic()


def _show_found(found: Iterable[Any], imported: str | None) -> None:
    """Each counterexample with its findings and, if a name is given to import, its test."""
    for example in found:
        show_text(example, then="  ")
        for finding in example.report.findings:
            show_text(f"{finding.code} {finding.title} ({finding.loudness})", "  ", "    ")
            show_text(finding.message, "    ", "      ")
        if imported is not None:
            show_line(f"\n{_test_of(example, imported)}")


def _kinds(found: Iterable[Any]) -> Iterator[tuple[str, str, str]]:
    """Family, code and key of each finding."""
    for one in found:
        for mismatch in one.report.mismatches:
            yield one.family, mismatch.code, mismatch.key or ""


def _test_of(example: Any, name: str) -> str:
    """A regression test; of a collator, with the names that its file should have."""
    if not hasattr(example, "trial"):
        return example.to_pytest(name)
    module = name.partition(":")[0]
    return example.to_pytest(f"{module}:collate", f"{module}:processor", f"{module}:make_row")


def _import_name(slicer: str) -> str:
    """`pkg/cut.py:f` as a test imports it, `cut:f`; `pkg.cut:f` if `pkg` is a package."""
    from vlmdebug.running.package_file import place_of

    path, colon, name = slicer.rpartition(":")
    module = place_of(Path(path).resolve())[1] if colon else ""
    module = module if module.replace(".", "_").isidentifier() else "my_module"
    return f"{module}:{name}" if colon else f"vlmdebug.slicers:{slicer}"
