"""Test the slicing code of trainers other than TRL: `make test-trainers`.

Pinned versions are installed without their dependencies into a temporary folder and run with the
installed torch and transformers. The output is a Markdown table with one row per function: the
layouts that fail, the codes that `falsify_all` finds, and a star if the model runs without an
error; first with an image in every sample, then the additions with text-only samples. Names of
trainers select rows. `--long` prints the smallest batch and the message of each, and the result of
a tiny real model on a batch with as many images.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import Any

import isolated

import vlmdebug as vd
from vlmdebug.families import FAMILIES
from vlmdebug.trainers.registry import TRAINERS, adapter_of

Found = dict[str, Any]
TRIALS = [name for name in TRAINERS if name != "trl"]  # it has a tool of its own


def requirement_of(trainer: str) -> str:
    """The newest release in which the adapter was tried: `verl==0.9.1`."""
    adapter = adapter_of(trainer)
    return f"{adapter.distribution}=={adapter.releases[-1]}"


@cache
def tiny(family: str) -> tuple[Any, Any]:
    """A tiny real model and its processor."""
    return vd.tiny.build(family)


def prove(slicer: Any, example: vd.Counterexample) -> str:
    """The tiny real model's result on a batch with the same images per sample."""
    spec = example.case.spec
    try:
        model, processor = tiny(spec.family)
        inputs = vd.tiny.batch(spec.family, list(spec.images_per_sample))
        batch = vd.read_batch(inputs, processor=processor)
        return str(vd.prove(slicer, batch, model, chunk_size=example.chunk_size))
    except vd.VlmDebugError as error:
        return str(error).partition("\n")[0]


def trial(slicer: Any, *, long: bool) -> Found:
    """What fails, and how many cases were tried: an image in every sample first, then any batch."""
    found: list[Found] = []
    cases = 0
    for text_only in (False, True):
        for family in FAMILIES:
            tried: dict[str, int] = {}
            options = {"families": [family], "max_examples": 250, "tried": tried}
            try:
                examples = vd.falsify_all(
                    slicer, text_only=text_only, clips=False, position_ids=False, **options
                )
            except vd.VlmDebugError as error:
                reason = str(error).partition("\n")[0]
                found.append({"layout": family, "text_only": text_only, "not_judged": reason})
                continue
            cases += sum(tried.values())
            for example in examples:
                case = {"layout": family, "text_only": text_only}
                case |= {"batch": repr(example).partition(": ")[2]}
                case |= {"proof": prove(slicer, example)} if long else {}
                found += [{**case, **said(finding)} for finding in example.report.findings]
    return {"found": found, "cases": cases}


def said(finding: Any) -> Found:
    """The printed parts of a finding."""
    message = finding.message.partition("\n")[0]
    return {"code": finding.code, "loudness": finding.loudness, "message": message}


def run(trainer: str, *options: str) -> dict[str, Found]:
    """The findings of one trainer, by function, from a separate process."""
    needs = adapter_of(trainer).needs
    piped = {"check": True, "stdout": subprocess.PIPE, "text": True}
    ran = isolated.run(__file__, requirement_of(trainer), trainer, *options, needs=needs, **piped)
    return json.loads(ran.stdout.strip().splitlines()[-1])


def is_silent(one: Found) -> bool:
    """Whether some chunk is wrong without an exception."""
    return "silent" in one.get("loudness", "")


def cell(found: list[Found]) -> str:
    """`VLM001 VLM002*`: gemma4, llava; a star if some chunk is wrong without an error."""
    layouts: dict[str, list[str]] = {}
    for family in FAMILIES:
        met = [one for one in found if one["layout"] == family]
        silent = {one["code"] for one in met if is_silent(one)}
        codes = sorted({one.get("code", "not judged") for one in met})
        if codes:
            text = " ".join(f"{code}*" if code in silent else code for code in codes)
            layouts.setdefault(text, []).append(family)
    return "; ".join(f"{codes}: {', '.join(names)}" for codes, names in layouts.items()) or "–"


def rows(requirement: str, function: str, result: Found, *, long: bool) -> list[str]:
    """The lines of one function in the table."""
    name = f"| {requirement.replace('==', ' ')} | `{function}` |"
    with_images = [one for one in result["found"] if not one["text_only"]]
    met = {(one["layout"], one.get("code"), is_silent(one)) for one in with_images}
    met |= {(layout, code, False) for layout, code, _ in met}
    added = [
        one
        for one in result["found"]
        if one["text_only"] and (one["layout"], one.get("code"), is_silent(one)) not in met
    ]
    if not long:
        return [f"{name} {cell(with_images)} | {cell(added)} | {result['cases']:,} |"]
    return [
        f"{name} {one['layout']} | {one['batch']} | {one['code']} ({one['loudness']}): "
        f"{one['message']} | {one['proof']} |"
        for one in [*with_images, *added]
        if "code" in one
    ]


def main(arguments: list[str]) -> None:
    """Print the table or, in the process of one trainer, its findings."""
    long = "--long" in arguments
    if "--in" in arguments:
        folder, trainer = arguments[1:3]
        sys.path.insert(0, folder)
        found = {
            maker.functions: trial(vd.trainer_slicer(trainer, name), long=long)
            for name, maker in adapter_of(trainer).slicers.items()
        }
        print(json.dumps(found))
        return
    names = [argument for argument in arguments if argument != "--long"]
    heads = ["every sample has an image", "with text-only samples, also", "cases"]
    heads = ["layout", "smallest batch", "finding", "tiny real model"] if long else heads
    print(f"| trainer | function | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 2)}")
    for trainer in TRIALS:
        requirement = requirement_of(trainer)
        if not names or trainer in names:
            try:
                results = run(trainer, *(["--long"] if long else []))
            except subprocess.CalledProcessError as error:
                print(f"{requirement} could not be tried: {error}", file=sys.stderr)
                continue
            for function, result in results.items():
                for row in rows(requirement, function, result, long=long):
                    print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
