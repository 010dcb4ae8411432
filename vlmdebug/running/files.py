"""Read a batch from a file without running any code in the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from vlmdebug.core.given import public
from vlmdebug.errors import BadInput
from vlmdebug.safe import first_line, one_line


@public
def load_batch(path: str | Path) -> dict[str, Any]:
    """The tensors of a saved batch, by key.

    Args:
        path: A `.safetensors` file, or a file written by `torch.save(dict(inputs), path)` (`.pt`,
            `.pth`, `.bin`), which is loaded with `weights_only=True`. Also `.npz` of
            `numpy.savez(path, **inputs)`, which is loaded without pickles, and `.json` and
            `.parquet` with a list or column of numbers per key.

    Raises:
        BadInput: There is no such file, or it holds no batch.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(
            f"{path} is no file. Save a batch with torch.save(dict(inputs), path) or "
            "safetensors.torch.save_file(dict(inputs), path) and pass that path."
        )
    read = _READERS.get(path.suffix)
    if read is None:
        raise BadInput(
            f"{path} ends in {path.suffix or 'nothing'!r}, but a saved batch is one of "
            f"{', '.join(_READERS)}. Save it with torch.save(dict(inputs), 'batch.pt')."
        )
    try:
        batch = read(path)
    except ImportError:
        raise
    except Exception as error:  # each library has its own errors; all mean the same here
        raise BadInput(
            f"{path} could not be read as a batch: {_first_line(error)}. "
            "It must hold plain tensors: torch.save(dict(inputs), path), not a BatchFeature."
        ) from error
    strange = [key for key in batch if not isinstance(key, str)] if isinstance(batch, dict) else []
    if strange:
        raise BadInput(
            f"{path} has the key {one_line(repr(strange[0]), 80)}, but keys are names, as for "
            "model(**inputs). Leave it out and save the batch again."
        )
    if not isinstance(batch, dict):
        raise BadInput(
            f"{path} holds a {type(batch).__name__}, but a batch is a dict of names to tensors. "
            "Save it with torch.save(dict(inputs), path)."
        )
    return batch


def _torch(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _npz(path: Path) -> Any:
    import numpy as np

    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def _json(path: Path) -> Any:
    return _arrays(json.loads(path.read_text(encoding="utf-8")))


def _parquet(path: Path) -> Any:
    """The columns of a table, which has a row per sample."""
    import pyarrow.parquet as parquet  # pyright: ignore[reportMissingImports]

    return _arrays(parquet.read_table(path).to_pydict())


def _arrays(batch: Any) -> Any:
    """Lists of numbers as arrays; others, and rows of several lengths, as they are."""
    import numpy as np

    if not isinstance(batch, dict):
        return batch
    made: dict[Any, Any] = {}
    for key, value in batch.items():
        made[key] = value
        if isinstance(value, list):
            with suppress(ValueError):
                array = np.asarray(value)
                made[key] = array if array.dtype.kind in "biuf" else value
    return made


def _first_line(error: Exception) -> str:
    if isinstance(
        error, UnpicklingError
    ):  # torch's own message explains how to run the code in the file
        return "it is damaged, or holds Python objects, which are not loaded: they may run code"
    return first_line(error)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
    ".bin": _torch,
    ".npz": _npz,
    ".json": _json,
    ".parquet": _parquet,
}
