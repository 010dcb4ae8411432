"""`vlmdebug families`: the layouts that are known, and how well."""

from __future__ import annotations

import argparse
import textwrap

from vlmdebug.cli.show import OK, Commands, text_width


def add(commands: Commands) -> None:
    """Add `families`."""
    families = commands.add_parser(
        "families",
        help="the layouts that are known, and how well",
        epilog="Example: vlmdebug families",
    )
    families.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
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
    print(f"\n{textwrap.fill(seen_here(coverage, EVERY), text_width())}")
    print(f"\n{textwrap.fill(str(coverage), text_width())}")
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
    print("\nAudio and retrieval, proven:")
    print(_wrapped(", ".join(name for name, one in coverage.others.items() if one.why is None)))
    return OK


def _wrapped(line: str) -> str:
    return textwrap.fill(
        line, text_width(), initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
