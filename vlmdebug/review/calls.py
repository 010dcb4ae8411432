"""Calls in interpreted code: functions of the file are followed, known ones are computed.

Every other call is foreign. Where it gets `input_ids` and media, that is what a model gets.
"""

from __future__ import annotations

import ast
import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from vlmdebug.core.keys import KEYS, MEDIA_KEYS, Kind
from vlmdebug.review.arrays import MOST, Failed, Tensor, Unknown, weight
from vlmdebug.review.builtin_calls import SPECIAL, Builtins
from vlmdebug.review.einops import rearranged
from vlmdebug.review.evaluator import said
from vlmdebug.review.functions import FUNCTIONS, MODULES, listed_of
from vlmdebug.review.machine import DEPTH, MORE, Bound, Frame, Reference, Routine
from vlmdebug.review.tensor_methods import METHODS

MODEL = re.compile(r"model|forward|generate|policy|actor|critic|module|engine|^net$", re.I)
"""Names of what is called as a model: these get tensors by position, too."""
NO_MODEL = re.compile(
    r"process|tokeniz|decode|encode|pad|collat|print|log(ger)?$|info|debug|save|write|put|append"
    r"|get_\w+_features|len|repr|str|assert|Error|warn|record|store|index",
    re.I,
)
WRAPPERS = frozenset({"BatchFeature", "BatchEncoding", "TensorDict", "ModelInput", "EasyDict"})
MAPS = frozenset({"tree_map", "map_structure", "apply_to_collection", "recursively_apply"})
COPIES = frozenset({"copy", "deepcopy", "nested_detach", "move_to_device", "send_to_device"})
PASSED = frozenset({Kind.TOKENS, Kind.MEDIA, Kind.DERIVED})
NUMBERS = frozenset({"int", "float", "bool", "str"})


class Calls(Builtins):
    """Evaluates calls."""

    def _Call(self, node: ast.Call, frame: Frame) -> Any:
        if isinstance(node.func, ast.Name) and node.func.id in SPECIAL:
            if node.func.id not in frame.names:
                return getattr(self, f"_builtin_{node.func.id}")(node, frame)
        callee = self.value(node.func, frame)
        args, given = self._arguments(node, frame)
        if isinstance(callee, Unknown) and _is_super(node.func):
            return Unknown(node)
        if isinstance(callee, Reference) and callee.root in ("self", "cls"):
            found = self.module.of_class(frame.owner, callee.last, self)
            callee = found if isinstance(found, Routine) else callee
        if isinstance(callee, Routine):
            heavy = weight([*args, *given.values()]) > MOST
            if callee.frame is None and (
                heavy or not any(map(_has_rows, (*args, *given.values())))
            ):
                return Unknown(node)  # whatever it does has nothing to do with the batch
            blind = _without_tokens(callee, args, given)
            if blind is not None:
                self.run.lose(node, blind, "its input_ids are not known")
                return Unknown(node)
            return self.invoke(callee, args, given)
        if isinstance(callee, Bound):
            return self._method(callee, args, given, node)
        if isinstance(callee, Reference):
            return self._function(callee, args, given, node)
        return self._foreign(said(node.func), args, given, node)

    def _arguments(self, node: ast.Call, frame: Frame) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        for part in node.args:
            if not isinstance(part, ast.Starred):
                args.append(self.value(part, frame))
                continue
            inner = self.value(part.value, frame)
            args += [inner] if isinstance(inner, (Unknown, Reference)) else listed_of(inner)
        given: dict[str, Any] = {}
        for keyword in node.keywords:
            found = self.value(keyword.value, frame)
            if keyword.arg is not None:
                given[keyword.arg] = found
            elif isinstance(found, dict):
                given |= {name: part for name, part in found.items() if isinstance(name, str)}
            else:
                given[MORE] = Unknown("more")
        return args, given

    # --- what is known ---------------------------------------------------------------------

    def _function(
        self, callee: Reference, args: list[Any], given: dict[str, Any], node: ast.Call
    ) -> Any:
        name, root = callee.last, callee.root.partition(".")[0]
        if name in self.run.stored:
            return self.run.stored[name]  # as `get_rank()`
        if root == "einops":
            return self._rearranged(name, args, given, node)
        if name in MAPS or (name == "map" and root in ("tree", "jax", "optree", "pytree")):
            return self._mapped(args, given, node)
        if name in WRAPPERS:
            return args[0] if args and isinstance(args[0], dict) else {**given}
        if name in COPIES and args:
            first = args[0]
            return type(first)(first) if isinstance(first, (dict, list)) else first
        if name == "defaultdict":
            kinds = {"list": list, "int": int, "dict": dict}
            kind = args[0].path if args and isinstance(args[0], Reference) else ""
            return defaultdict(kinds.get(kind, list))
        if root not in MODULES:
            return self._foreign(said(node.func), args, given, node)
        first = args[0] if args else given.get("input", given.get("tensor"))
        rest = args[1:]
        if name in METHODS and root and isinstance(first, (list, tuple)) and name not in FUNCTIONS:
            first = FUNCTIONS["tensor"]([first], {}, node)
        if isinstance(first, Tensor) and name in METHODS and (root or name not in FUNCTIONS):
            return self._on_tensor(first, name, rest, given, node)
        if name in FUNCTIONS:
            return self._computed(callee, args, given, node)
        return self._foreign(said(node.func), args, given, node)

    def _rearranged(self, name: str, args: list[Any], given: dict[str, Any], node: ast.Call) -> Any:
        """`einops.rearrange` and `einops.repeat`; others compute values."""
        first, pattern = [*args, *(given.get(one) for one in ("tensor", "pattern"))][:2]
        if name not in ("rearrange", "repeat") or not isinstance(first, Tensor):
            return self._foreign(said(node.func), args, given, node)
        try:
            found = rearranged(first, pattern, given, node)
        except LookupError:
            return self.run.lose(node, first.key, "its sizes are not known")
        self.run.took(node, found)
        return found

    def _computed(
        self, callee: Reference, args: list[Any], given: dict[str, Any], node: ast.Call
    ) -> Any:
        try:
            return FUNCTIONS[callee.last](args, given, node)
        except LookupError:
            few = args if weight(args) <= MOST else []
            keys = [key for key in map(_key, _flat(few)) if key is not None]
            return (
                self.run.lose(node, keys[0], "a part of it is unknown") if keys else Unknown(node)
            )

    def _on_tensor(
        self, tensor: Tensor, name: str, args: list[Any], given: dict[str, Any], node: ast.Call
    ) -> Any:
        try:
            found = METHODS[name](tensor, args, given, node)
        except LookupError:
            return self.run.lose(node, tensor.key, "its bounds are not known")
        except (ValueError, TypeError, IndexError) as error:
            raise Failed("RuntimeError", str(error)) from None
        self.run.took(node, found)
        return found

    def _mapped(self, args: list[Any], given: dict[str, Any], node: ast.Call) -> Any:
        function = next((arg for arg in args if isinstance(arg, Routine)), given.get("function"))
        tree = next((arg for arg in args if isinstance(arg, (dict, list, tuple, Tensor))), None)
        if not isinstance(function, Routine) or tree is None:
            return Unknown(node)
        return self._map(function, tree)

    def _map(self, function: Routine, tree: Any) -> Any:
        self.run.burn()
        if isinstance(tree, dict):
            return {key: self._map(function, part) for key, part in tree.items()}
        if isinstance(tree, (list, tuple)):
            return type(tree)(self._map(function, part) for part in tree)
        return self.invoke(function, [tree], {}) if isinstance(tree, Tensor) else tree

    # --- methods ---------------------------------------------------------------------------

    def _method(self, callee: Bound, args: list[Any], given: dict[str, Any], node: ast.Call) -> Any:
        of, name = callee.of, callee.name
        if isinstance(of, Tensor):
            if name in METHODS:
                return self._on_tensor(of, name, args, given, node)
            return Unknown(node, of.key)
        if isinstance(of, dict):
            return self._of_dict(of, name, args, given, node)
        if isinstance(of, list):
            return self._of_list(of, name, args, given, node)
        if isinstance(of, str) and name in ("startswith", "endswith", "lower", "upper", "strip"):
            return getattr(of, name)(*args)
        if isinstance(of, Unknown):
            return Unknown(node, of.key)
        return self._foreign(said(node.func), args, given, node)

    # --- functions of the file -------------------------------------------------------------

    def invoke(self, routine: Routine, args: list[Any], given: Mapping[str, Any]) -> Any:
        """Call a function of the file."""
        if self.run.depth >= DEPTH:
            return Unknown("calls within calls")
        node = routine.node
        frame = Frame({}, routine.frame, self.may_lack(node), routine.owner)
        self._pass(routine, args, given, frame)
        self.run.depth += 1
        try:
            if isinstance(node, ast.Lambda):
                return self.value(node.body, frame)
            self.execute(node.body, frame)
        finally:
            self.run.depth -= 1
        if frame.yields:
            return [part for _, part, _ in frame.yields]
        return frame.result

    def _pass(
        self, routine: Routine, args: list[Any], given: Mapping[str, Any], frame: Frame
    ) -> None:
        node, taken = routine.node.args, dict(given)
        names = [arg.arg for arg in (*node.posonlyargs, *node.args)]
        if routine.owner is not None and names[:1] in (["self"], ["cls"]):
            frame.names[names.pop(0)] = Reference("self")
        frame.names |= dict(zip(names, args, strict=False))
        if node.vararg is not None:
            frame.names[node.vararg.arg] = args[len(names) :]
        defaults = dict(zip(names[::-1], node.defaults[::-1], strict=False))
        only = {
            arg.arg: value for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)
        }
        for name in (*names[len(args) :], *only):
            default = defaults.get(name) or only.get(name)
            if name in taken:
                frame.names[name] = taken.pop(name)
            elif default is not None:
                frame.names[name] = self.value(default, routine.frame or Frame({}))
            else:
                frame.names[name] = Unknown(name)
        if node.kwarg is not None:
            frame.names[node.kwarg.arg] = taken

    # --- foreign calls ---------------------------------------------------------------------

    def _foreign(self, name: str, args: list[Any], given: Mapping[str, Any], node: ast.Call) -> Any:
        last = name.rpartition(".")[2] or name
        items = {key: value for key, value in given.items() if _is_passed(key)}
        for part in args:
            if isinstance(part, dict) and "input_ids" in part and _is_model(last):
                items |= {key: value for key, value in part.items() if _is_passed(key)}
            key = _key(part)
            if key is not None and _is_model(last):
                items.setdefault(key, part)
        if items and not NO_MODEL.search(last):
            if "input_ids" in items:
                self.run.observe(node, "call", items)
            elif any(isinstance(part, Unknown) and part.key is None for part in args):
                media = next((key for key in map(_key, items.values()) if key in MEDIA_KEYS), None)
                self.run.lose(node, media, "its input_ids are not known")
        keys = [key for key in map(_key, args) if key is not None]
        return Unknown(node, keys[0] if len(keys) == 1 == len(args) else None)

    @abstractmethod
    def may_lack(self, node: ast.AST) -> frozenset[str]:
        """The local names of a function that may lack a value."""

    @abstractmethod
    def execute(self, body: list[ast.stmt], frame: Frame) -> str | None:
        """Run statements; `return`, `break` or `continue` if one of these ends them."""


def _has_rows(value: Any) -> bool:
    """Whether a value may hold rows of the batch, or counts of them."""
    if isinstance(value, Unknown):
        return value.key is not None
    if isinstance(value, (list, tuple)):
        return any(map(_has_rows, value))
    return isinstance(value, (Tensor, Routine, dict, int, range, slice))


def _without_tokens(routine: Routine, args: list[Any], given: Mapping[str, Any]) -> str | None:
    """The key of media that a function gets with tokens of which nothing is known."""
    own = routine.node.args
    names = [arg.arg for arg in (*own.posonlyargs, *own.args)]
    if routine.owner is not None and names[:1] in (["self"], ["cls"]):
        names.pop(0)
    passed = {**dict(zip(names, args, strict=False)), **given}
    tokens = passed.get("input_ids")
    if not isinstance(tokens, Unknown) or tokens.key is not None:
        return None
    return next((key for key in map(_key, passed.values()) if key in MEDIA_KEYS), None)


def _is_super(node: ast.expr) -> bool:
    base = node.value if isinstance(node, ast.Attribute) else node
    return isinstance(base, ast.Call) and getattr(base.func, "id", "") == "super"


@lru_cache(maxsize=1024)
def _is_model(name: str) -> bool:
    return MODEL.search(name) is not None


def _is_passed(key: str) -> bool:
    return key == MORE or (key in KEYS and KEYS[key].kind in PASSED)


def _key(value: Any) -> str | None:
    """The key of the batch that a value holds rows of."""
    return value.key if isinstance(value, (Tensor, Unknown)) else None


def _flat(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += _flat(value) if isinstance(value, (list, tuple)) else [value]
    return found
