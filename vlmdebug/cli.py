"""The command line: `vlmdebug demo | check | falsify | export | review | explain | families`.

Exit codes: 0 no mismatch found, 1 mismatch found, 2 could not run or not determined."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import format_exc
from typing import Any

from vlmdebug.errors import BadInput, VlmDebugError
from vlmdebug.running.settings import FalsifySettings, options
from vlmdebug.safe import harmless, one_line, plain

OK, FOUND, FAILED = 0, 1, 2
COUNTS = {"images": "2,0,1", "tiles": "6,0,5", "videos": "1,0,0", "audios": "0,1,0"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except VlmDebugError as error:
        _complain(error)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "vlmdebug":
            raise
        extra = "torch" if error.name in ("torch", "safetensors") else "tiny"
        _complain(
            f"{error.name or error} is not installed, but this command needs it. "
            f"Install it with: pip install 'vlmdebug[{extra}]'"
        )
    except OSError as error:
        _complain(f"{error.filename or ''}: {error.strerror or error}")
    except KeyboardInterrupt:
        _complain("interrupted; nothing was judged.")
    except Exception:  # a bug of this package: not the exit status of a finding
        _complain(f"this is a bug of vlmdebug's own, please report it:\n{format_exc()}")
    return FAILED


def _complain(said: object) -> None:
    print(harmless(f"vlmdebug: {plain(said)}"), file=sys.stderr)


def _print(said: object = "") -> None:
    """Print lines that may hold names from data, so that none is a command to a CI system."""
    print(harmless(said))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlmdebug",
        description="See how a multimodal batch splits into chunks, and which row, image and "
        "slice went wrong.",
        epilog="Exit codes: 0 nothing found, 1 found something, 2 could not run or could not tell.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = commands.add_parser("demo", help="the story of one bug on tiny real models")
    demo.add_argument(
        "--out", type=Path, default=Path("vlmdebug-demo"), help="folder for the files"
    )
    demo.set_defaults(run=_demo)

    check = commands.add_parser("check", help="check a saved batch, and a slicer on it")
    _batch_options(check)
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
    check.add_argument("--chunk-size", type=int, default=1, help="samples per chunk (default 1)")
    check.add_argument("--html", type=Path, help="write the report as HTML here")
    check.add_argument("--json", type=Path, help="write the report as JSON here")
    check.set_defaults(run=_check)

    falsify = commands.add_parser("falsify", help="the smallest batch that breaks a slicer")
    falsify.add_argument(
        "slicer",
        metavar="FILE.py:NAME",
        help="your function (inputs, chunk_size), or (model, inputs, chunk_size), which is "
        "recorded; the file is run. Or a slicer of the 5452 story",
    )
    _search_options(falsify)
    falsify.add_argument("--all", action="store_true", help="every kind of mismatch in each family")
    falsify.add_argument("--pytest", action="store_true", help="print a regression test")
    falsify.set_defaults(run=_falsify)

    export = commands.add_parser("export", help="corrected slicing code for a saved batch")
    _batch_options(export)
    export.add_argument("--out", type=Path, help="write the code here instead of printing it")
    export.set_defaults(run=_export)

    review = commands.add_parser(
        "review",
        help="read slicing code without running it: what is cut by what, in which layouts",
        description="Read Python files without running them. Every function that cuts a batch is "
        "followed once for each layout that is known.",
    )
    review.add_argument("paths", nargs="*", type=Path, help="files, and folders of them")
    review.add_argument(
        "--diff",
        metavar="FILE",
        help="review only functions that this unified diff touches; - reads it from the input. "
        "Without paths, the files it names",
    )
    review.add_argument(
        "--family", action="append", help="judge by this layout only; may be given several times"
    )
    review.add_argument(
        "--format",
        choices=("text", "json", "github", "gitlab", "sarif"),
        default="text",
        help="github: findings as notes on the lines of a pull request",
    )
    review.set_defaults(run=_review)

    explain = commands.add_parser(
        "explain", help="what a mismatch code means, with an example and the fix"
    )
    explain.add_argument("code", nargs="?", help="VLM001 to VLM013; without it, all of them")
    explain.set_defaults(run=_explain)

    families = commands.add_parser("families", help="the layouts that are known, and how well")
    families.set_defaults(run=_families)
    return parser


def _batch_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, help="a batch: .safetensors, or .pt of plain tensors")
    command.add_argument(
        "--processor",
        metavar="DIR",
        help="the folder of a saved processor or checkpoint, for placeholders and sizes; its "
        "config.json is read too. What messages call processor= and config=",
    )
    command.add_argument("--family", help="the layout family, as `vlmdebug families` lists them")
    for option, example in COUNTS.items():
        command.add_argument(
            f"--num-{option}",
            type=_numbers,
            metavar="N,N,…",
            help=f"{option} per sample, such as {example}",
        )


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


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of whole numbers; write one per sample, such as 2,0,1"
        ) from None


def _read(options: argparse.Namespace) -> Any:
    from vlmdebug.families.read import read_as_it_is
    from vlmdebug.running.files import load_batch

    return read_as_it_is(
        load_batch(options.file),
        processor=_processor(options.processor),
        config=_config(options.processor),
        layout=options.family,
        **{f"num_{one}": getattr(options, f"num_{one}") for one in COUNTS},
    )


def _processor(folder: str | None) -> Any:
    if folder is None:
        return None
    if not Path(folder).is_dir():
        raise BadInput(
            f"--processor {folder} is no folder on this machine, and nothing is downloaded. "
            "Pass the folder that processor.save_pretrained wrote."
        )
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise BadInput(
            f"--processor {folder} could not be loaded: {str(error).splitlines()[0]}"
        ) from error


def _config(folder: str | None) -> Any:
    """The model's config, if it is in the folder of the processor."""
    if folder is None or not (Path(folder) / "config.json").is_file():
        return None
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError):  # of a model unknown to transformers
        return None


def _demo(options: argparse.Namespace) -> int:
    from vlmdebug.demo import run_demo

    return OK if run_demo(options.out) else FOUND


def _check(options: argparse.Namespace) -> int:
    from vlmdebug.core.record import Verdict
    from vlmdebug.running.check import check

    batch = _read(options)
    if options.slicer:
        with _slicer(options.slicer, "--slicer") as slicer:
            report = check(slicer, batch, chunk_size=options.chunk_size)
    else:
        report = check(batch)
    _show(report)
    if options.story:
        _try_story(batch, options.chunk_size)
    for path, write in ((options.html, report.to_html), (options.json, report.to_json)):
        if path is not None:
            write(path)
            _print(f"wrote {path}")
    return {Verdict.OK: OK, Verdict.MISMATCH: FOUND}.get(report.verdict, FAILED)


def _show(said: object) -> None:
    """Print a report or text, with colour and links if terminal and rich allow them."""
    if not _is_rich():
        _print(said)
        return
    from rich.console import Console

    from vlmdebug.views.text import coloured

    Console().print(coloured(harmless(said)))


def _is_rich() -> bool:
    return sys.stdout.isatty() and importlib.util.find_spec("rich") is not None


def _try_story(batch: Any, chunk_size: int) -> None:
    from vlmdebug.demo import verdict
    from vlmdebug.running.check import check
    from vlmdebug.slicers import STORY

    batch.refuse_packed()
    batch.refuse_ambiguity()
    _print("\nHow known slicers would cut this batch:\n")
    for slicer in STORY:
        _print(verdict(slicer, check(slicer, batch, chunk_size=chunk_size)))


@contextmanager
def _slicer(name: str, what: str) -> Iterator[Any]:
    """A slicer of the story by name, or a function of a file, which is executed.

    A function with a model as its first argument is recorded, as by `vlmdebug.record`.
    """
    from vlmdebug.core.signature import takes_model
    from vlmdebug.running.record import record
    from vlmdebug.running.user_file import function_of
    from vlmdebug.slicers import STORY

    known = {slicer.__name__: slicer for slicer in STORY}
    if name in known:
        yield known[name]
        return
    if name.isidentifier():
        raise BadInput(
            f"{what} {name} is neither FILE.py:NAME nor one of {', '.join(known)}. "
            "Nothing was tried. Pass a file and a function in it, such as trial.py:slicer."
        )
    with function_of(name, what) as function:
        yield record(function) if takes_model(function) else function


def _falsify(arguments: argparse.Namespace) -> int:
    from vlmdebug.running.search import Search

    tried: dict[str, int] = {}
    settings = FalsifySettings(**{one.name: getattr(arguments, one.name) for one in options()})
    with _slicer(arguments.slicer, "SLICER") as slicer:
        search = Search(slicer, settings, tried)
        found = search.all() if arguments.all else [one for one in [search.first()] if one]
    for example in found:
        _print(example)
        for finding in example.report.findings:
            _show(f"  {finding.code} {finding.title} ({finding.loudness})")
            _print("\n".join(f"    {line}" for line in plain(finding.message).splitlines()))
        if arguments.pytest:
            _print(f"\n{example.to_pytest(_import_name(arguments.slicer))}")
    if not found:
        _print("no counterexample, which is evidence and no proof; cases tried:")
    for family, count in tried.items():
        left_out = _not_checked(count)
        if left_out or not found:
            number = f"{int(count)} case{'' if count == 1 else 's'}"
            _print(f"  {family}: {number}{left_out}")
    return FOUND if found else OK


def _not_checked(count: int) -> str:
    """The keys that a number of cases left out."""
    left_out = getattr(count, "left_out", ())
    return f"; not checked: {', '.join(map(one_line, left_out))}" if left_out else ""


def _import_name(slicer: str) -> str:
    """`pkg/cut.py:f` as a test imports it, `cut:f`."""
    path, colon, name = slicer.rpartition(":")
    stem = Path(path).stem
    module = stem if stem.isidentifier() else "my_module"
    return f"{module}:{name}" if colon else f"vlmdebug.slicers:{slicer}"


def _export(options: argparse.Namespace) -> int:
    from vlmdebug.running.export import export

    code = export(_read(options))
    survived = code.verify()
    if options.out is None:
        _print(code.source)
    else:
        _print(f"wrote {code.save(options.out)}")
    said = f"cut its own batch right, and survived {int(survived)} generated batches of"
    print(f"# {said} {one_line(code.family)}{_not_checked(survived)}", file=sys.stderr)
    return OK


def _review(options: argparse.Namespace) -> int:
    from vlmdebug import review

    names, lines = options.paths, None
    if options.diff is not None:
        raw = sys.stdin.buffer.read() if options.diff == "-" else Path(options.diff).read_bytes()
        lines = review.changed(raw.decode(errors="replace"))
        if not lines:
            raise BadInput(
                "The diff names no file. Nothing was reviewed. Pass a unified diff, as `git diff` "
                "prints it."
            )
        python = [Path(name) for name in lines if name.endswith(".py")]
        missing = [str(path) for path in python if not path.exists()]
        if missing and not names:
            raise BadInput(
                f"The diff changes {missing[0]}, which is not here. Nothing was reviewed. "
                "Run this where the diff was made, on the changed files, or pass their paths."
            )
        names = names or python
    if not names and lines is None:
        raise BadInput("Nothing to review was given. Pass files or folders, or --diff FILE.")
    found = review.paths(names, families=options.family, lines=lines)
    if options.format == "text":
        _show(found)
    else:
        print(getattr(found, f"to_{options.format}")())
    return OK if found.ok else FOUND


def _explain(options: argparse.Namespace) -> int:
    from vlmdebug.core.code_pages import page
    from vlmdebug.core.mismatch import CODES

    if options.code is None:
        _show("\n".join(f"{code}  {title}" for code, title in CODES.items()))
        return OK
    said = page(options.code).read_text(encoding="utf-8").strip()
    if _is_rich():
        from rich.console import Console
        from rich.markdown import Markdown

        Console(width=min(Console().width, 100)).print(Markdown(said))
    else:
        print(said)
    return OK


def _families(options: argparse.Namespace) -> int:
    from vlmdebug.families import EVERY
    from vlmdebug.families.coverage import read_coverage, seen_here

    without = {"omit": "left out", "either": "left out or empty", "keep": "kept"}
    for family in EVERY:
        print(family.name)
        print(_wrapped(f"config.model_type: {', '.join(family.models)}"))
        for key, axis in family.axes.items():
            needed = without[family.rules.of(key).when_no_media]
            print(f"  {key}: {axis}; without images {needed}")
    coverage = read_coverage()
    print(f"\n{textwrap.fill(seen_here(coverage, EVERY), 80)}")
    print(f"\n{textwrap.fill(str(coverage), 80)}")
    print(f"\nChanged since transformers {coverage.before.transformers}:")
    for line in coverage.changes() or ["Nothing."]:
        print(_wrapped(line))
    print(
        f"\nProven: chunks give the whole batch's logits.\n{_wrapped(', '.join(coverage.proven))}"
    )
    print("\nProbed: the processor was run, the model not proven.")
    for name, (axes, reason) in coverage.probed.items():
        rows = "; ".join(f"{key}: {axis}" for key, axis in axes.items())
        print(_wrapped(f"{name}: {rows}. {_sentence(reason)}"))
    print("\nNot covered:")
    for reason in dict.fromkeys(coverage.not_covered.values()):
        names = [name for name, why in coverage.not_covered.items() if why == reason]
        print(_wrapped(f"{', '.join(names)}: {reason}."))
    return OK


def _wrapped(line: str) -> str:
    return textwrap.fill(
        line, 80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
