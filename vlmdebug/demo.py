"""The main job on one real batch: the story of TRL's pull request 5452, checked and proven.

Everything is real but the size: transformers' own processor and model classes with tiny random
weights, images drawn on the spot, no network.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmdebug import slicers, tiny
from vlmdebug.checking.report import Report
from vlmdebug.core.batch import Batch
from vlmdebug.core.signature import Slicer
from vlmdebug.core.wording import number
from vlmdebug.families.read import read_batch
from vlmdebug.running.check import check
from vlmdebug.running.export import export
from vlmdebug.running.prove import Proof, prove
from vlmdebug.slicers import STORY
from vlmdebug.tiny.registry import OTHER_FAMILY, STORY_FAMILY

WIDTH = 80
SIZE = (160, 160)  # all images alike: that is what makes a wrong one silent


@dataclass(frozen=True)
class Act:
    """One tiny model, one batch, and the slicers that are tried on it."""

    family: str
    images_per_sample: tuple[int, ...]
    slicers: Sequence[Slicer]
    title: str


ACTS = (
    Act(STORY_FAMILY, (2, 1, 1), STORY, "The story on Gemma 4"),
    Act(
        STORY_FAMILY,
        (1, 0, 1),
        (slicers.merged_5452, slicers.corrected),
        "The same with a sample that has no image",
    ),
    Act(
        OTHER_FAMILY,
        (2, 1, 1),
        (slicers.merged_5452, slicers.corrected),
        "The merged code on another family with one row per image",
    ),
)


def run_demo(out: Path, *, width: int = WIDTH, show: Callable[[str], object] = print) -> bool:
    """Print the verdicts, write `report.html` and `slice_inputs.py` into `out`.

    Args:
        out: The folder.
        width: Columns of the printed lines.
        show: What prints them.

    Returns:
        Whether every verdict of `check` agrees with the model.
    """
    import transformers

    about = f"tiny random models of transformers {transformers.__version__}, real processors"
    title = "vlmdebug demo: TRL's pull request 5452, shown by the batches that break it"
    show("\n".join([*textwrap.wrap(title, width), *textwrap.wrap(about, width), ""]))
    agreed = True
    for act in ACTS:
        agreed &= _play(act, width, show)
    _write(out, width, show)
    return agreed


def _batch(act: Act) -> tuple[Batch, Any]:
    model, processor = tiny.build(act.family)
    inputs = tiny.batch(act.family, act.images_per_sample, sizes=SIZE, processor=processor)
    return read_batch(inputs, processor=processor), model


def _play(act: Act, width: int, show: Callable[[str], object]) -> bool:
    batch, model = _batch(act)
    images = ", ".join(map(str, act.images_per_sample))
    lines = [act.title, f"  images per sample {images}; chunk size 1"]
    for key, axis in batch.layout.items():
        if key in batch.layout.media:
            line = f"  {key} {tuple(batch.inputs[key].shape)}: {axis}"
            lines += textwrap.wrap(line, width, subsequent_indent="    ")
    show("\n".join([*lines, ""]))
    agreed = True
    for slicer in act.slicers:
        report, proof = check(slicer, batch), prove(slicer, batch, model)
        show(verdict(slicer, report, proof, width=width))
        agreed &= report.ok == proof.ok
    return agreed


def verdict(
    slicer: Slicer, report: Report, proof: Proof | None = None, *, width: int = WIDTH
) -> str:
    """A few lines: the slicer, what is wrong with it, and what the model says."""
    name = getattr(slicer, "__name__", "slicer")
    about = (getattr(slicer, "__doc__", None) or "").strip().partition("\n")[0]
    lines = textwrap.wrap(f"{name}: {about}" if about else name, width, subsequent_indent="  ")
    if report.ok:
        lines.append(
            f"  OK        every row is its own sample's, {number(len(report.chunks), 'chunk')}"
        )
    for finding in report.findings:
        title = f"  {report.verdict}  {finding.code} {finding.title} ({finding.loudness})"
        lines += textwrap.wrap(title, width, subsequent_indent=" " * 12)
        lines += _indented(finding.message, width)
    lines += [line for text in report.ambiguities for line in _indented(text, width)]
    if proof is not None:
        lines += _indented(f"proof: {proof}", width)
    return "\n".join([*lines, ""])


def _indented(text: str, width: int) -> list[str]:
    return [
        line
        for paragraph in text.splitlines()
        for line in textwrap.wrap(
            paragraph, width, initial_indent=" " * 4, subsequent_indent=" " * 6
        )
    ]


def _write(out: Path, width: int, show: Callable[[str], object]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    batch, _ = _batch(ACTS[0])
    page = out / "report.html"
    check(slicers.by_sample, batch).to_html(page)
    code = export(batch)
    said = f"(survived {int(code.verify())} generated batches)"
    saved = f"corrected slicing code    {code.save(out / 'slice_inputs.py')}"
    line = f"{saved}  {said}"
    show(f"report of by_sample       {page}")
    show(line if len(line) <= width else f"{saved}\n{said:>{width}}")
