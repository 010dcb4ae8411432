"""A slicer from a file of the user, for the command line.

The file runs as with `python FILE.py`: it can import from its own folder, also while the slicer is
called. Errors in it are reported with their file and line, and the file cannot end the command with
its own exit status.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line

MOST_SAID = 300


@contextmanager
def function_of(name: str, what: str) -> Iterator[Callable[..., Any]]:
    """The function `FILE.py:NAME`; inside the block, files next to it can be imported.

    Args:
        name: File and function.
        what: The name of this argument on the command line, for messages: `--slicer`.

    Raises:
        BadInput: There is no such file or function, or the file cannot be run.
    """
    file, colon, function = name.rpartition(":")
    path = Path(file if colon else name)
    if not path.is_file():
        raise BadInput(_no_file(path, what))
    if path.suffix != ".py" or not colon:
        raise BadInput(
            f"{what} is {one_line(name)}, but it is FILE.py:NAME, a Python file and a function in "
            f"it. Nothing was run. Write {path.with_suffix('.py').name}:NAME."
        )
    with _importing_from(path.resolve().parent):
        yield _function(_module(path), path, function, what)


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """As in `python folder/FILE.py`; afterwards no module of the folder remains imported."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # the file may have changed the path itself
            sys.path.remove(str(folder))
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).parent == folder:
                del sys.modules[name]


def _no_file(path: Path, what: str) -> str:
    where = "here" if path.parent == Path() else f"in {path.parent}"
    there = [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
    near = get_close_matches(path.name, there, 1) or get_close_matches(f"{path}.py", there, 1)
    meant = f"; did you mean {near[0]}?" if near else "."
    return (
        f"There is no file {path.name} {where}{meant} {what} is FILE.py:NAME, "
        "a Python file and a function in it."
    )


def _module(path: Path) -> ModuleType:
    """The file, executed. Meanwhile it is in `sys.modules`, as dataclasses and pickle need."""
    path = path.resolve()
    name = path.stem if path.stem not in sys.modules else f"vlmdebug_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has both"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except SystemExit as end:
        raise BadInput(
            f"{_place(end, path)} ended the process: {type(end).__name__}({end.code!r}). "
            'Nothing was tried. Put what runs at once under if __name__ == "__main__":'
        ) from end
    except Exception as error:
        raise BadInput(_failed(error, path)) from error
    return module


def _failed(error: Exception, path: Path) -> str:
    """Why the file could not be run, with its own line."""
    place = _place(error, path)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return (
            f"{place} imports {one_line(error.name)}, which was not found. Nothing was tried. "
            f"Put it next to {path.name}, install it, or add its folder to PYTHONPATH."
        )
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return (
        f"{place} raised {type(error).__name__}: {one_line(said, MOST_SAID)}. "
        "The file is run to find the function, and nothing was tried. Fix this line first."
    )


def _place(error: BaseException, path: Path) -> str:
    """`trial.py:3`, the last line of the file itself in the traceback."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f"{Path(error.filename or path).name}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == path.name]
    return f"{path.name}:{lines[-1]}" if lines else path.name


def _function(module: ModuleType, path: Path, name: str, what: str) -> Callable[..., Any]:
    found = getattr(module, name, None)
    if callable(found):
        return found
    owner, dot, _ = name.partition(".")
    if dot and callable(getattr(module, owner, None)):
        raise BadInput(
            f"{what} names {name}, but only functions at the top of {path.name} can be named. "
            "Nothing was tried. Add a function of (inputs, chunk_size) that calls it."
        )
    defined = [
        own
        for own, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
    near = get_close_matches(name, defined, 1)
    has = f"did you mean {near[0]}?" if near else f"it defines {', '.join(defined) or 'none'}."
    raise BadInput(f"{what} names {name}, but {path.name} has no such function; {has}")
