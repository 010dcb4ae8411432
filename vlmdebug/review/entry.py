"""Where interpretation begins: which functions, and with which arguments.

A parameter gets a value by its name and by what the function does with it: the batch, a key of it,
a count per sample, a number, or something that is not known.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vlmdebug.core.keys import KEYS, MEDIA_KEYS, Kind
from vlmdebug.review.arrays import Tensor
from vlmdebug.review.keys import ORDINARY, PREFIXES, TOKEN_KEYS, nearest
from vlmdebug.review.machine import Inputs, Reference
from vlmdebug.review.module import Function, Module
from vlmdebug.review.stale import stale_names
from vlmdebug.review.trials import Trial
from vlmdebug.review.uses import Uses, word_of

_BATCH = (
    r"(?:(?:model_)?(?:inputs|kwargs)|kw|(?:micro_?|mini_?)?batch|multi_?modal_inputs|mm_inputs)"
)
BATCH = re.compile(rf"^{_BATCH}$")
"""Names of a batch in functions that name no key."""
NUMBER = re.compile(
    r"size|count|length|chunks?$|^num_(?!images|tiles|videos|audios)|^[nkg]$|steps?$"
)
START = re.compile(r"^(start|begin|lo|left|first|a|i|s|from_idx|start_idx|start_index)$")
STOP = re.compile(r"^(stop|end|hi|right|last|b|j|e|to_idx|end_idx|end_index)$")
RANK = re.compile(r"(?:^|_)rank(?:_id)?$|^process_index$|^shard_(?:id|idx|index)$")
WORLD = re.compile(r"(?:^|_)world(?:_size)?$|^num_(?:processes|replicas|ranks|shards)$")
"""Names of one of several processes, and of their number."""
RANKED = {"get_rank": "rank", "get_world_size": "world"}
"""Functions of torch that return them."""
RANKS = 2
KEPT = re.compile(r"keep|mask|valid")
"""Names of a truth value for each sample; other indices are numbers of samples."""
PARTS = ("chunk", "tensor_split")
"""Functions with a number of parts as their last argument."""
LOADER = re.compile(r"loader|batches|iterator", re.I)
ALL = frozenset({"tree_map", "map_structure", "apply_to_collection", "KEYS"})
"""Names of what goes through all keys."""
_ALL_KEYS = tuple(
    re.compile(pattern)
    for pattern in (
        *(
            rf"{name}\s*\.\s*(?:items|keys|values)\b"
            for name in ("inputs", "kwargs", "batch", "kw")
        ),
        rf"for\s+\w+\s+in\s+{_BATCH}\b",
    )
)
"""What goes through all keys of a batch. Each begins with letters, which `re` finds fast."""
_TELLING = MEDIA_KEYS - ORDINARY
"""Keys of media that are no ordinary words."""
_STARTS = (*PREFIXES, *sorted(key for key in _TELLING if not key.startswith(PREFIXES)))
"""What these keys, and the names that `nearest` knows, begin with."""


def may_be_about(text: str) -> bool:
    """Whether source may have a function about media: whatever `Entry.is_about` needs is there."""
    words = {
        word for start in _STARTS if start in text for word in re.findall(rf"{start}\w*", text)
    }
    if any(word in _TELLING or nearest(word) for word in words):
        return True
    return any(name in text for name in ALL) or any(one.search(text) for one in _ALL_KEYS)


@dataclass(frozen=True, eq=False)
class Entry:
    """A function that is interpreted on its own."""

    node: Function
    module: Module
    owner: str | None
    path: str

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        """All parts of the function."""
        return tuple(ast.walk(self.node))

    @cached_property
    def uses(self) -> Uses:
        return Uses(self.nodes)

    @cached_property
    def stored(self) -> Counter[str]:
        """How often each name is assigned."""
        return Counter(
            node.id
            for node in self.nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        )

    @cached_property
    def stale(self) -> dict[str, ast.AST]:
        """Names that are nearly a key and are passed on as one, and the first place of each."""
        if not any(nearest(word) for word in self.uses.words | self.uses.passed):
            return {}
        found = stale_names(self.nodes)
        return {name: node for name, node in found.items() if name in self.uses.passed}

    @property
    def arguments(self) -> list[ast.arg]:
        own = self.node.args
        return [*own.posonlyargs, *own.args, *own.kwonlyargs]

    @property
    def is_generic(self) -> bool:
        """Whether it goes through all keys of a batch."""
        return bool(self.uses.listed or self.uses.words & ALL)

    @property
    def is_by_place(self) -> bool:
        """Whether it takes `(inputs, chunk_size)` or `(model, inputs, chunk_size)`, by any name."""
        own = self.node.args
        args = [*own.posonlyargs, *own.args]
        needed = len(args) - len(own.defaults)
        roles = [*map(self.role, args[:needed])]
        return (
            needed in (2, 3)
            and self.owner is None
            and roles[needed - 1] in ("size", "other")
            and roles[needed - 2] in ("batch", "other")
            and not any(one in roles[:-1] for one in ("key", "start", "stop", "size"))
            and "key" not in map(self.role, own.kwonlyargs)
        )

    def is_about(self) -> bool:
        """Whether it may take rows of a batch with media."""
        if self.module.lines and not may_be_about(self.module.text_of(self.node)):
            return False
        uses = self.uses
        keys = uses.words & _TELLING or self.stale
        if keys and (uses.words & TOKEN_KEYS or uses.looked):
            return True
        names = {arg.arg for arg in self.arguments}
        if self.node.args.kwarg is not None:
            names.add(self.node.args.kwarg.arg)
        batches = {name for name in names & uses.words if BATCH.search(name)}
        return bool(batches and (uses.listed & batches or uses.words & ALL))

    def names(self, trial: Trial) -> tuple[dict[str, Any], dict[str, Any], Inputs]:
        """Its parameters, attributes that are the batch, and the batch."""
        inputs = inputs_of(trial)
        names: dict[str, Any] = {}
        more = len(trial.counts) > trial.size
        values = {
            "batch": inputs,
            "key": None,
            "start": trial.size if more else 0,
            "stop": trial.size + more,
            "size": trial.size,
        }
        if self._is_ranked:
            values |= {"rank": int(trial.size == 1), "world": RANKS}
        if self._index is not None:
            values["index"] = _chosen(len(trial.counts), KEPT.search(self._index) is not None)
        for name, role in self._roles.items():
            is_known = name in inputs or role in values
            names[name] = inputs.get(name, values.get(role)) if is_known else Reference(name)
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
        stored: dict[str, Any] = {name: inputs for name in self.uses.looked if "." in name}
        if self._is_ranked:
            stored |= {path: values[role] for path, role in self._of_ranks.items()}
        return names, stored, inputs

    @cached_property
    def _roles(self) -> dict[str, str]:
        return {arg.arg: self.role(arg) for arg in self.arguments}

    def role(self, arg: ast.arg) -> str:
        """What a parameter takes, by its name and use, such as `key` or `batch`; else `other`."""
        name = arg.arg
        if name in KEYS and KEYS[name].kind in (Kind.MEDIA, Kind.COUNTS, Kind.DERIVED, Kind.TOKENS):
            return "key"
        if name in self.uses.looked:
            return "batch"
        if BATCH.search(name) and name in self.uses.listed | self.uses.words & self._mapped:
            return "batch"
        annotation = ast.unparse(arg.annotation) if arg.annotation is not None else ""
        for role, names in _ROLES:
            if names.search(name):
                return role
        if name == self._index:
            return "index"
        return "size" if annotation == "int" or name in self._steps else "other"

    @cached_property
    def _steps(self) -> frozenset[str]:
        """Names that a loop over samples advances by, or that say how many parts are made."""
        calls = [node for node in self.nodes if isinstance(node, ast.Call) and node.args]
        return frozenset(
            call.args[-1].id
            for call in calls
            if isinstance(call.args[-1], ast.Name)
            and (
                (isinstance(call.func, ast.Name) and call.func.id == "range" and len(call.args) > 2)
                or (isinstance(call.func, ast.Attribute) and call.func.attr in PARTS)
            )
        )

    @cached_property
    def _index(self) -> str | None:
        """The parameter that takes rows of the tokens, and so is an index of samples.

        One that takes rows of all keys alike is one too, if nothing else takes rows.
        """
        own = {arg.arg for arg in self.arguments} & self.uses.indices.keys()
        of_tokens = [name for name in own if self.uses.indices[name]]
        found = of_tokens or [*own] * bool(self.is_generic)
        return found[0] if len(found) == 1 and (of_tokens or len(own) == 1) else None

    @cached_property
    def _of_ranks(self) -> dict[str, str]:
        """What says a rank or their number: attributes and functions, by their source."""
        read = [node for node in self.nodes if isinstance(node, ast.Attribute)]
        found = {ast.unparse(one): _of_rank(one.attr) for one in read if one.attr not in RANKED}
        return {**RANKED, **{path: role for path, role in found.items() if role is not None}}

    @cached_property
    def _is_ranked(self) -> bool:
        """Whether it computes with its rank, or takes the part of its rank."""
        of = (node for node in self.nodes if isinstance(node, (ast.BinOp, ast.Subscript)))
        parts = (part for node in of for part in _parts(node))
        return any(_of_rank(str(word_of(part))) == "rank" for part in parts)

    @property
    def _mapped(self) -> frozenset[str]:
        return frozenset({arg.arg for arg in self.arguments})


_ROLES = (("rank", RANK), ("world", WORLD), ("start", START), ("stop", STOP), ("size", NUMBER))


def _of_rank(name: str) -> str | None:
    """`rank` or `world`, if a name is that of one."""
    if RANK.search(name):
        return "rank"
    return "world" if WORLD.search(name) else RANKED.get(name)


def _parts(node: ast.BinOp | ast.Subscript) -> Iterator[ast.AST]:
    """What is computed with, or the bounds of a part; the function of a call for the call."""
    if isinstance(node, ast.BinOp):
        found = [node.left, node.right]
    elif isinstance(node.slice, ast.Slice):
        found = [node.slice.lower, node.slice.step]
    else:
        found = [node.slice]
    for part in found:
        if part is not None:
            yield part.func if isinstance(part, ast.Call) else part


def _chosen(samples: int, truth: bool) -> Tensor:
    """An index that takes the last sample, then the first, or truth values that take the last."""
    last = np.arange(samples) == samples - 1
    return Tensor(last if truth else np.array([samples - 1, 0]), computed=True)


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
