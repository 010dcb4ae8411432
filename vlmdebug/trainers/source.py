"""The installed code of a library, taken from its files without importing the library.

A trainer's package often cannot be imported where tests run: it asks for a GPU, for vLLM or for
DeepSpeed. Its functions that cut batches need none of these. Here each function, class and constant
is compiled from the installed file, unchanged, when it is first used, and so is what it uses of its
own library. Other libraries are imported as usual. Decorators of functions are left out, and
annotations are not evaluated. Code that patches the library at run time is not seen.
"""

from __future__ import annotations
import __future__

import ast
import builtins
import copy
import importlib
import importlib.util
from collections.abc import Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vlmdebug.errors import NotJudged
from vlmdebug.running.stand_in import Lacks
from vlmdebug.safe import one_line

Function = ast.FunctionDef | ast.AsyncFunctionDef
INSTEAD = (
    "Nothing was judged. Watch a training run instead: callbacks=[vlmdebug.WatchCallback()], "
    "or vlmdebug.watch(model)."
)


class MissingImport(NotJudged, ImportError):
    """The code imports something that is not installed, or that cannot be imported here."""


def cannot_import(where: str, name: str, error: Exception) -> MissingImport:
    """The exception for an import that failed.

    Args:
        where: The module of the trainer that imports.
        name: What it imports; the exception may name a part of that.
        error: What was raised.
    """
    absent = isinstance(error, ModuleNotFoundError)
    lacking = one_line((absent and error.name) or name, 100)
    what = "is not installed" if absent else f"cannot be imported here: {one_line(error, 200)}"
    todo = f"Install it (pip install {lacking.partition('.')[0]})" if absent else "Make it work"
    return MissingImport(
        f"{where} imports {lacking}, which {what}. Nothing was judged. "
        f"{todo}, or run this in the environment in which you train."
    )


class Part(SimpleNamespace):
    """A part of a trainer, `self.args`, with what its code reads; anything else ends the test.

    The first argument is the name of the part in messages.
    """

    def __init__(self, part: str, /, **attributes: Any) -> None:
        super().__init__(**attributes)
        object.__setattr__(self, "_part", part)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise Lacks(
            f"The trainer's code reads {one_line(name)} of {self._part}, which this test does not "
            f"have. {INSTEAD}"
        )


class Library:
    """The installed files of one package.

    Args:
        name: The package, as it is imported.
        release: For messages: `verl 0.9.1`.
        folder: The package's own folder.
    """

    def __init__(self, name: str, release: str, folder: Path) -> None:
        self.name: str = name
        self.release: str = release
        self.folder: Path = folder
        self._modules: dict[str, Module] = {}

    def module(self, name: str) -> Module:
        """A module by its full name, `verl.utils.model`; nothing of it has run.

        Raises:
            NotJudged: There is no such file.
        """
        if name not in self._modules:
            path = self.folder.joinpath(*name.split(".")[1:])
            files = (path.with_name(f"{path.name}.py"), path / "__init__.py")
            file = next((file for file in files if file.is_file()), None)
            if file is None:
                raise NotJudged(
                    f"{self.release} has no module {one_line(name)}, which the adapter takes code "
                    f"from. {INSTEAD}"
                )
            self._modules[name] = Module(self, name, file)
        return self._modules[name]

    def has(self, name: str) -> bool:
        """Whether there is a module or a package of this name."""
        path = self.folder.joinpath(*name.split(".")[1:])
        return path.with_name(f"{path.name}.py").is_file() or (path / "__init__.py").is_file()


class Module:
    """A module; each of its names is made when it is read."""

    def __init__(self, library: Library, name: str, file: Path) -> None:
        self._library, self._name, self._file = library, name, file
        self._taken: dict[str, Any] = {}
        self._making: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        bound = name in self._bound and name not in self._making
        if name not in self._globals and not bound:
            if self._library.has(f"{self._name}.{name}"):
                return self._library.module(f"{self._name}.{name}")
            raise self._has_no(name)
        return self._globals[name]

    def replace(self, **given: Any) -> Module:
        """The same module with other values for some of its names.

        Raises:
            NotJudged: It has no such name, so its code computes this in another way.
        """
        for name in given:
            if name not in self._bound:
                raise self._has_no(name)
        self._globals.update(given)
        return self

    def method(self, name: str) -> Any:
        """The bare function `Class.method`, without its decorators.

        Raises:
            NotJudged: The class has no such method of its own, or it calls a base class.
        """
        if name in self._taken:
            return self._taken[name]
        owner, _, method = name.partition(".")
        node = self.methods(owner).get(method)
        if node is None:
            raise self._has_no(name)
        if any(isinstance(part, ast.Name) and part.id == "super" for part in ast.walk(node)):
            raise NotJudged(
                f"{name} of {self._library.release} calls its base class, which is not taken. "
                f"{INSTEAD}"
            )
        scope: dict[str, Any] = {}
        self._run(node, scope)
        self._taken[name] = scope[method]
        return scope[method]

    def instance(self, _class: str, **attributes: Any) -> Any:
        """An object with the methods of a class of this file, and with these attributes."""
        return Instance(self, _class, self._library.release, attributes)

    def methods(self, owner: str) -> dict[str, Function]:
        """The methods that a class of this file defines itself, as they are written."""
        nodes = [node for node in self._bound.get(owner, ()) if isinstance(node, ast.ClassDef)]
        return {
            node.name: node
            for last in nodes[-1:]
            for node in last.body
            if isinstance(node, Function)
        }

    def _has_no(self, name: str) -> MissingImport:
        return MissingImport(
            f"{self._library.release} has no {one_line(name)} in {self._name}. {INSTEAD}"
        )

    @cached_property
    def _globals(self) -> Globals:
        own = {**vars(builtins), "__import__": self._import}
        given = {name: value for name, value in own.items() if name not in self._bound}
        return Globals(self._make, {**given, "__builtins__": own, "__name__": __name__})

    @cached_property
    def _bound(self) -> dict[str, list[ast.stmt]]:
        """Names of the module, each with the statements at its top level that bind it."""
        bound: dict[str, list[ast.stmt]] = {}
        try:
            body = ast.parse(self._file.read_bytes(), str(self._file)).body
        except (OSError, SyntaxError, ValueError) as error:
            raise NotJudged(
                f"{self._library.release} could not be read: {self._name}, "
                f"{type(error).__name__}: {one_line(error, 200)}. Nothing was judged. Install it "
                "again, and run this with a Python that it supports."
            ) from error
        for node in body:
            for name in dict.fromkeys(_binds(node)):
                bound.setdefault(name, []).append(node)
        return bound

    def _make(self, name: str) -> Any:
        """The value of a name; KeyError if the module binds none of this name."""
        if name not in self._bound and "*" in self._bound:
            raise MissingImport(
                f"{self._name} of {self._library.release} uses {one_line(name)}, which it does not "
                f"import by name but with `import *`; that is not followed. {INSTEAD}"
            )
        self._making.add(name)  # `from . import name` in a package means its module, not this name
        for node in self._bound[name]:
            self._run(_only(node, name), self._globals)
        self._making.discard(name)
        return dict.__getitem__(self._globals, name)

    def _run(self, node: ast.stmt, scope: dict[str, Any]) -> None:
        """Execute one statement; what it reads at once is made first."""
        if isinstance(node, Function):
            node = copy.copy(node)
            node.decorator_list = []
        own = set(_binds(node))
        for name in _read_at_once(node):
            if name in self._bound and name not in self._globals and name not in own:
                self._globals[name]
        flags = __future__.annotations.compiler_flag
        code = compile(ast.Module([node], []), str(self._file), "exec", flags, dont_inherit=True)
        try:
            exec(code, self._globals, scope)
        except NotJudged:
            raise
        except Exception as error:  # code that runs when the library is imported, before any batch
            raise NotJudged(
                f"{self._library.release} could not be read: {self._name}, line {node.lineno}, "
                f"raised {type(error).__name__}: {one_line(error, 200)}. {INSTEAD}"
            ) from error

    def _import(
        self,
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        """`import` within the library gives its own modules; any other is a real import."""
        if level:
            is_package = self._file.name == "__init__.py"
            here = self._name if is_package else self._name.rpartition(".")[0]
            name = importlib.util.resolve_name("." * level + name, here)
        top = name.partition(".")[0]
        if top == self._library.name:
            return self._library.module(name if fromlist else top)
        try:
            found = builtins.__import__(name, {"__name__": __name__}, None, fromlist or (), 0)
            for wanted in fromlist or ():  # some libraries import a name when it is read
                getattr(found, wanted, None)
            return found
        except Exception as error:
            where = f"{self._name} of {self._library.release}"
            raise cannot_import(where, name, error) from error


class Globals(dict[str, Any]):
    """The globals of a module; a name that is missing is made."""

    def __init__(self, make: Any, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self._make = make

    def __missing__(self, name: str) -> Any:
        return self._make(name)


class Instance:
    """`self` for the methods of a class: its own methods, and attributes that the adapter gives."""

    def __init__(self, module: Module, name: str, release: str, attributes: dict[str, Any]) -> None:
        self.__dict__.update(attributes)
        self.__dict__["_vlmdebug"] = (module, name, release)

    def __getattr__(self, name: str) -> Any:
        module, owner, release = self.__dict__["_vlmdebug"]
        node = module.methods(owner).get(name)
        if node is not None:
            method = module.method(f"{owner}.{name}")
            words = {word.id for word in node.decorator_list if isinstance(word, ast.Name)}
            if words & {"property", "cached_property"}:
                return method(self)
            value = method if "staticmethod" in words else partial(method, self)
            self.__dict__[name] = value
            return value
        if name.startswith("__"):
            raise AttributeError(name)
        raise Lacks(
            f"{owner} of {release} reads self.{one_line(name)}, which this test does not have. "
            f"{INSTEAD}"
        )


def _binds(node: ast.stmt) -> Iterator[str]:
    """Names that a statement binds where it stands, blocks of `if` and `try` included."""
    if isinstance(node, Function | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Import | ast.ImportFrom):
        for alias in node.names:
            yield alias.asname or alias.name.partition(".")[0]
    elif not _is_for_types(node):
        for part in ast.iter_child_nodes(node):
            if isinstance(part, ast.stmt):
                yield from _binds(part)
            elif isinstance(part, ast.ExceptHandler):
                yield from (name for inner in part.body for name in _binds(inner))
            else:
                names = (one for one in ast.walk(part) if isinstance(one, ast.Name))
                yield from (one.id for one in names if isinstance(one.ctx, ast.Store))


def _is_for_types(node: ast.stmt) -> bool:
    """`if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def _only(node: ast.stmt, name: str) -> ast.stmt:
    """An import of one name, of a statement that imports several; any other statement whole."""
    if not isinstance(node, ast.Import | ast.ImportFrom):
        return node
    names = [one for one in node.names if (one.asname or one.name.partition(".")[0]) == name]
    if isinstance(node, ast.Import):
        return ast.copy_location(ast.Import(names), node)
    return ast.copy_location(ast.ImportFrom(node.module, names, node.level), node)


def _read_at_once(node: ast.AST) -> Iterator[str]:
    """Names that a statement reads when it runs, which excludes the bodies of functions."""
    if isinstance(node, ast.Name):
        yield node.id
    parts: list[ast.AST] = list(ast.iter_child_nodes(node))
    if isinstance(node, Function):
        defaults = [*node.args.defaults, *(one for one in node.args.kw_defaults if one)]
        parts = [*node.decorator_list, *defaults]
    elif isinstance(node, ast.AnnAssign):
        parts = [node.value] if node.value else []
    elif isinstance(node, ast.Lambda):
        parts = []
    for part in parts:
        yield from _read_at_once(part)
