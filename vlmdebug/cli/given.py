"""What several commands are given: a saved batch, a processor, a slicer."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.safe import first_line, one_line

COUNTS = {"images": "2,0,1", "tiles": "6,0,5", "videos": "1,0,0", "audios": "0,1,0"}


def batch_options(command: argparse.ArgumentParser) -> None:
    """Add the options that say which batch, and how to read it."""
    command.add_argument("file", type=Path, help="a batch: .safetensors, or .pt of plain tensors")
    command.add_argument(
        "--processor",
        metavar="DIR",
        help="the folder of a saved processor or checkpoint, for placeholders and sizes; its "
        "config.json is read too",
    )
    command.add_argument(
        "--family",
        metavar="NAME",
        help="the layout family, as `vlmdebug families` lists them",
    )
    for option, example in COUNTS.items():
        command.add_argument(
            f"--num-{option}",
            type=_numbers,
            metavar="N,N,…",
            help=f"{option} per sample, such as {example}",
        )


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no list of whole numbers; write one per sample, such as 2,0,1"
        ) from None


def read(options: argparse.Namespace) -> Any:
    """The batch that the options of `batch_options` name."""
    from vlmdebug.families.read import read_as_it_is
    from vlmdebug.running.files import load_batch

    return read_as_it_is(
        load_batch(options.file),
        processor=processor_of(options.processor),
        config=config_of(options.processor),
        layout=options.family,
        **{f"num_{one}": getattr(options, f"num_{one}") for one in COUNTS},
    )


def processor_of(folder: str | None) -> Any:
    """The processor that is saved in a folder."""
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
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of files that are not as transformers wrote them
        said = first_line(error)
        raise BadInput(f"--processor {one_line(folder)} could not be loaded: {said}.") from error


def config_of(folder: str | None) -> Any:
    """The model's config, if it is in the folder of the processor."""
    if folder is None or not (Path(folder) / "config.json").is_file():
        return None
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception:  # of a model unknown to transformers, or not as it wrote it
        return None


@contextmanager
def slicer_of(name: str, what: str) -> Iterator[Any]:
    """A slicer of the story by name, a trainer's own code, or a function of a file, which is run.

    `trainer:verl` and `trainer:verl:dynamic` are `vlmdebug.trainer_slicer("verl", "dynamic")`. A
    function with a model as its first argument is recorded, as by `vlmdebug.record`.
    """
    from vlmdebug.core.signature import takes_model
    from vlmdebug.running.record import record
    from vlmdebug.running.user_file import function_of
    from vlmdebug.slicers import STORY

    known = {slicer.__name__: slicer for slicer in STORY}
    if name in known:
        yield known[name]
        return
    if name.startswith("trainer:"):
        from vlmdebug.trainers.registry import trainer_slicer

        trainer, _, of_it = name.removeprefix("trainer:").partition(":")
        yield trainer_slicer(trainer, of_it or None)
        return
    if name.isidentifier():
        raise BadInput(
            f"{what} {name} is neither FILE.py:NAME nor one of {', '.join(known)}, nor a trainer "
            "such as trainer:verl. Nothing was tried. "
            "Pass a file and a function in it, such as trial.py:slicer."
        )
    with function_of(name, what) as function:
        yield record(function) if takes_model(function) else function


def not_checked(count: int) -> str:
    """The keys that a number of cases left out."""
    left_out = getattr(count, "left_out", ())
    return f"; not checked: {', '.join(map(one_line, left_out))}" if left_out else ""
