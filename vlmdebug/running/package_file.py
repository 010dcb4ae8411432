"""A function or method of a file inside a package, with stand-ins for what is not installed.

Files of the package run statement by statement: a statement that fails, such as an import of a
library that is not here, leaves invented values under the names that it would bind. This is done
in a process of its own, as `python FILE.py` would run the file.
"""

from __future__ import annotations

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from vlmdebug.errors import BadInput
from vlmdebug.running.invented import Invented, Ledger
from vlmdebug.running.rewritten import NAMES, rewritten
from vlmdebug.safe import one_line


def from_file(path: Path, name: str, ledger: Ledger, text: Path | None = None) -> Any:
    """The function `name`, or the method `Class.name`, of a file.

    Args:
        path: The file. It may be part of a package, and import its neighbours.
        name: Its name in the file, with that of its class.
        ledger: Where what is missing gets listed.
        text: A file with the source to run in place of that in `path`.

    Raises:
        BadInput: The file is not Python, or has no such function.
    """
    root, module_name = place_of(path.resolve())
    sys.path.insert(0, str(root))
    texts = {} if text is None else {path.resolve(): text}
    sys.meta_path.insert(0, _Finder(root, module_name, ledger, texts))
    try:
        module = importlib.import_module(module_name)
    except SyntaxError as error:
        raise BadInput(
            f"{path.name}:{error.lineno} is no Python: {one_line(error.msg)}. Nothing was tried."
        ) from None
    except ImportError as error:
        raise BadInput(
            f"{path.name} cannot be imported: {one_line(error)}. Nothing was tried."
        ) from None
    found: Any = module
    for part in name.split("."):
        found = vars(found).get(part) if isinstance(found, (type, ModuleType)) else None
    found = getattr(found, "__func__", found)
    if not callable(found) or isinstance(found, Invented):
        own = [f"{at} {why}" for at, why in ledger.failed.items() if at.startswith(f"{path.name}:")]
        raise BadInput(
            f"{path.name} has no function {one_line(name)} when it is run"
            f"{f' ({own[0]})' if own else ''}. Nothing was tried. Write FILE.py:Class.method."
        )
    return found


def place_of(path: Path) -> tuple[Path, str]:
    """The folder to import from, and the name of the module there."""
    folder, parts = path.parent, [] if path.stem == "__init__" else [path.stem]
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    if all(part.isidentifier() for part in parts):
        return folder, ".".join(parts)
    return path.parent, path.stem


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the files of one folder or package, to be run statement by statement."""

    def __init__(self, root: Path, module: str, ledger: Ledger, texts: Mapping[Path, Path]) -> None:
        self._root, self._ledger, self._texts = root, ledger, texts
        self._package = module.partition(".")[0]
        self._alone = "." not in module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The file of a module of this folder or package; None for any other."""
        if fullname.partition(".")[0] != self._package and not self._alone:
            return None
        place = self._root.joinpath(*fullname.split("."))
        for file in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if file.is_file():
                loader = _Loader(fullname, str(self._texts.get(file, file)), self._ledger)
                return importlib.util.spec_from_file_location(fullname, file, loader=loader)
        return None


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a file statement by statement."""

    def __init__(self, name: str, path: str, ledger: Ledger) -> None:
        super().__init__(name, path)
        self._ledger = ledger

    def exec_module(self, module: ModuleType) -> None:
        tree = ast.parse(self.get_data(self.path), self.path)
        vars(module).update(NAMES)
        head = [node for node in tree.body if _is_future(node)]
        for node in rewritten(tree).body:
            if node in head:
                continue
            code = compile(ast.Module([*head, node], []), self.path, "exec", dont_inherit=True)
            try:
                exec(code, vars(module))
            except (Exception, SystemExit) as error:
                self._invent(module, node, error)

    def _invent(self, module: ModuleType, node: ast.stmt, error: BaseException) -> None:
        """Invented values for the names that a statement would have bound."""
        why = f"{type(error).__name__}: {one_line(error, 100)}"
        for name, path in _bound(node):
            if name not in vars(module):
                self._ledger.loading[name] = None
                vars(module)[name] = Invented(path, self._ledger)
        self._ledger.failed.setdefault(f"{Path(self.path).name}:{node.lineno}", why)


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _bound(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Names that a statement binds, and the path of each."""
    for part in ast.walk(node):
        if isinstance(part, ast.Import):
            for alias in part.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                yield alias.asname or name, name
        elif isinstance(part, ast.ImportFrom):
            for alias in part.names:
                yield alias.asname or alias.name, f"{part.module or ''}.{alias.name}".lstrip(".")
        elif isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield part.name, part.name
            return
        elif isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            yield part.id, part.id
