"""Read a batch from a file without running any code in the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from vlmdebug.core.given import public
from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line


@public
def load_batch(path: str | Path) -> dict[str, Any]:
    """The tensors of a saved batch, by key.

    Args:
        path: A `.safetensors` file, or a file written by `torch.save(dict(inputs), path)` (`.pt`,
            `.pth`, `.bin`), which is loaded with `weights_only=True`.

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


def _first_line(error: Exception) -> str:
    if isinstance(
        error, UnpicklingError
    ):  # torch's own message explains how to run the code in the file
        return "it is damaged, or holds Python objects, which are not loaded: they may run code"
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": _safetensors,
    ".pt": _torch,
    ".pth": _torch,
    ".bin": _torch,
}
