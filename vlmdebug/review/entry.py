"""Where interpretation begins: which functions, and with which arguments.

A parameter gets a value by its name and by what the function does with it: the batch, a key of it,
a count per sample, a number, or something that is not known.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vlmdebug.core.keys import KEYS, MEDIA_KEYS, Kind
from vlmdebug.review.arrays import Tensor
from vlmdebug.review.keys import TOKEN_KEYS, nearest
from vlmdebug.review.machine import Inputs, Reference
from vlmdebug.review.module import Function, Module
from vlmdebug.review.trials import Trial
from vlmdebug.review.uses import Uses

BATCH = re.compile(
    r"^(model_)?(inputs|kwargs)$|^kw$|^(micro_?|mini_?)?batch$|^multi_?modal_inputs$|^mm_inputs$"
)
"""Names of a batch in functions that name no key."""
NUMBER = re.compile(
    r"size|count|length|chunks?$|^num_(?!images|tiles|videos|audios)|^[nkg]$|steps?$"
)
START = re.compile(r"^(start|begin|lo|left|first|a|i|s|from_idx|start_idx|start_index)$")
STOP = re.compile(r"^(stop|end|hi|right|last|b|j|e|to_idx|end_idx|end_index)$")
LOADER = re.compile(r"loader|batches|iterator", re.I)
ALL = frozenset({"tree_map", "map_structure", "apply_to_collection", "KEYS", "keys", "values"})
"""Names of what goes through all keys."""


@dataclass(frozen=True, eq=False)
class Entry:
    """A function that is interpreted on its own."""

    node: Function
    module: Module
    owner: str | None
    path: str

    @cached_property
    def uses(self) -> Uses:
        return Uses(self.node)

    @property
    def arguments(self) -> list[ast.arg]:
        own = self.node.args
        return [*own.posonlyargs, *own.args, *own.kwonlyargs]

    @property
    def is_generic(self) -> bool:
        """Whether it goes through all keys of a batch."""
        return bool(self.uses.listed or self.uses.words & ALL)

    def is_about(self) -> bool:
        """Whether it may take rows of a batch with media."""
        uses = self.uses
        keys = uses.words & MEDIA_KEYS or {w for w in uses.passed | uses.asked if nearest(w)}
        if keys and (uses.words & TOKEN_KEYS or uses.looked):
            return True
        names = {arg.arg for arg in self.arguments}
        if self.node.args.kwarg is not None:
            names.add(self.node.args.kwarg.arg)
        return any(BATCH.search(name) for name in names & uses.words) and bool(
            uses.listed & names or uses.words & ALL
        )

    def names(self, trial: Trial) -> tuple[dict[str, Any], dict[str, Any], Inputs]:
        """Its parameters, attributes that are the batch, and the batch."""
        inputs = inputs_of(trial)
        names: dict[str, Any] = {}
        for arg in self.arguments:
            names[arg.arg] = self._argument(arg, trial, inputs)
        if self.owner is not None and self.arguments:
            first = self.arguments[0].arg
            names[first] = Reference("self") if first in ("self", "cls") else names[first]
        if self.node.args.vararg is not None:
            names[self.node.args.vararg.arg] = []
        kwarg = self.node.args.kwarg
        if kwarg is not None:
            rest = Inputs({k: v for k, v in inputs.items() if k not in names})
            is_batch = (
                BATCH.search(kwarg.arg) and self.owner is None
            ) or kwarg.arg in self.uses.looked
            names[kwarg.arg] = rest if is_batch else {}
        stored = {name: inputs for name in self.uses.looked if "." in name}
        return names, stored, inputs

    def _argument(self, arg: ast.arg, trial: Trial, inputs: Inputs) -> Any:
        name = arg.arg
        if name in inputs:
            return inputs[name]
        if name in KEYS and KEYS[name].kind in (Kind.MEDIA, Kind.COUNTS, Kind.DERIVED, Kind.TOKENS):
            return None
        if name in self.uses.looked:
            return inputs
        if BATCH.search(name) and name in self.uses.listed | self.uses.words & self._mapped:
            return inputs
        annotation = ast.unparse(arg.annotation) if arg.annotation is not None else ""
        if START.search(name):
            return trial.size if len(trial.counts) > trial.size else 0
        if STOP.search(name):
            return trial.size + 1 if len(trial.counts) > trial.size else trial.size
        if NUMBER.search(name) or annotation == "int":
            return trial.size
        return Reference(name)

    @property
    def _mapped(self) -> frozenset[str]:
        return frozenset({arg.arg for arg in self.arguments})


def inputs_of(trial: Trial) -> Inputs:
    """The batch of a trial as an interpreted function gets it."""
    made = Inputs()
    for key, value in trial.batch.for_slicer().items():
        made[key] = Tensor(value, key) if isinstance(value, np.ndarray) else value
    return made


def entries(module: Module) -> Iterator[Entry]:
    """All functions and methods of a file, functions within functions left out."""
    for node, owner, path in _within(module.tree, None, ""):
        yield Entry(node, module, owner, path)


def _within(
    body: ast.AST, owner: str | None, path: str
) -> Iterator[tuple[Function, str | None, str]]:
    for node in ast.iter_child_nodes(body):
        if isinstance(node, Function):
            yield node, owner, f"{path}{node.name}"
        elif isinstance(node, ast.ClassDef):
            yield from _within(node, node.name, f"{path}{node.name}.")
        elif not isinstance(node, ast.expr):
            yield from _within(node, owner, path)


Names = Mapping[str, Any]
