"""Call a function once a module was imported, without importing it earlier than the program does.

A program may set variables before it imports torch or transformers, so neither is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from threading import local
from types import ModuleType
from typing import Any


class AfterImport:
    """A finder that finds nothing itself: it lets the others find, and calls `then` afterwards."""

    def __init__(self, names: Iterable[str], then: Callable[[ModuleType], None]) -> None:
        self._names, self._then, self._finding = set(names), then, local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders give, with a loader that tells of the import."""
        if name not in self._names or getattr(self._finding, "now", False):
            return None
        self._finding.now = True
        try:
            spec = find_spec(name)
        finally:
            self._finding.now = False
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader, self._then)
        return spec

    def install(self) -> None:
        """Ask this finder first; `then` is called at once for modules that are imported already."""
        sys.meta_path.insert(0, self)
        for name in self._names & sys.modules.keys():
            self._then(sys.modules[name])


class _Loader(Loader):
    """The loader of one module; all but `exec_module` is the module's own."""

    def __init__(self, loader: Any, then: Callable[[ModuleType], None]) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:  # as if nobody had been here
            module.__spec__.loader = self._loader
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._then(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)
