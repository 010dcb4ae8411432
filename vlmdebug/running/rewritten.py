"""Code under trial, compiled so that no invented value decides anything unseen.

`is`, `in`, `isinstance`, `hasattr`, `callable`, unpacking and `x[i]` are calls of functions that
know invented values. Lines stay as they are, so that tracebacks name those of the file.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

from vlmdebug.running.invented import CHECKED

PREFIX = "_vlmdebug_"
NAMES: dict[str, Callable[..., Any]] = {
    f"{PREFIX}{name}": function for name, function in CHECKED.items()
}
"""Names by which compiled code finds the functions."""
ASKED: dict[type[ast.cmpop], tuple[str, bool]] = {
    ast.Is: ("is", False),
    ast.IsNot: ("is", True),
    ast.In: ("in", False),
    ast.NotIn: ("in", True),
}
"""Comparisons, and whether they are negated."""
CALLS = frozenset({"isinstance", "hasattr", "callable"})


class _Asking(ast.NodeTransformer):
    """Replaces what cannot be overridden by calls."""

    def visit_Compare(self, node: ast.Compare) -> ast.AST:
        self.generic_visit(node)
        operator = type(node.ops[0])
        if len(node.ops) != 1 or operator not in ASKED:
            return node
        name, negated = ASKED[operator]
        made = _call(name, [node.left, node.comparators[0]])
        return ast.UnaryOp(ast.Not(), made) if negated else made

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id in CALLS:
            node.func = ast.copy_location(ast.Name(PREFIX + node.func.id, ast.Load()), node.func)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        target = node.targets[0]
        if isinstance(target, (ast.Tuple, ast.List)):
            if not any(isinstance(part, ast.Starred) for part in target.elts):
                count = ast.Constant(len(target.elts))
                node.value = _call("unpacked", [node.value, count])
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load) or not _may_be_invented(node.slice):
            return node
        return _call("item", [node.value, _index(node.slice)])


def _may_be_invented(index: ast.expr) -> bool:
    own = (ast.Name, ast.Attribute, ast.Call)
    return any(isinstance(part, own) for part in ast.walk(index)) and not any(
        isinstance(part, ast.Starred) for part in ast.walk(index)
    )


def _index(index: ast.expr) -> ast.expr:
    """What stands in brackets, as an expression of its own."""
    if isinstance(index, ast.Tuple):
        return ast.Tuple([_index(part) for part in index.elts], ast.Load())
    if isinstance(index, ast.Slice):
        bounds = (index.lower, index.upper, index.step)
        return _call("slice", [bound or ast.Constant(None) for bound in bounds])
    return index


def _call(name: str, args: list[ast.expr]) -> ast.Call:
    return ast.Call(ast.Name(PREFIX + name, ast.Load()), args, [])


def rewritten(tree: ast.Module) -> ast.Module:
    """The same tree, asking; located as the source is."""
    made = _Asking().visit(tree)
    for node in ast.walk(made):  # what is new stands where its first part does
        for child in ast.iter_child_nodes(node):
            if not hasattr(child, "lineno") and hasattr(node, "lineno"):
                ast.copy_location(child, node)
    return ast.fix_missing_locations(made)


def recompiled(function: types.FunctionType) -> types.FunctionType:
    """The same function, asking; as it is if it has no source, or was rewritten already.

    It keeps its globals, defaults and closure.
    """
    if hasattr(function, "__wrapped__") or NAMES.keys() & {
        *function.__code__.co_freevars,
        *function.__globals__,
    }:
        return function
    found = _source(function)
    if found is None:
        return function
    node, name = found
    node.decorator_list = []
    free = function.__code__.co_freevars
    owner = function.__qualname__.split(".")[-2:-1]
    tree = rewritten(_enclosed(node, (*free, *NAMES), owner))
    code = compile(tree, function.__code__.co_filename, "exec", dont_inherit=True)
    inner = _code_named(code, name)
    assert inner is not None, "it was compiled just now"
    cells = dict(zip(free, function.__closure__ or (), strict=True))
    cells |= {one: types.CellType(value) for one, value in NAMES.items()}
    made = types.FunctionType(
        inner,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        tuple(cells[one] for one in inner.co_freevars),
    )
    made.__kwdefaults__, made.__qualname__ = function.__kwdefaults__, function.__qualname__
    return made


def _enclosed(node: ast.FunctionDef, free: tuple[str, ...], owner: list[str]) -> ast.Module:
    """The function where `free` are names of a function around it, and in a class, if it has one.

    The class gives private names (`__name`) their meaning.
    """
    tree = ast.parse(
        f"def _({', '.join(free)}):\n class {owner[0]}:\n  pass"
        if owner and owner[0].isidentifier()
        else f"def _({', '.join(free)}):\n pass"
    )
    outer = tree.body[0]
    assert isinstance(outer, ast.FunctionDef)
    inside = outer.body[0]
    (inside if isinstance(inside, ast.ClassDef) else outer).body = [node]
    return tree


def _source(function: types.FunctionType) -> tuple[ast.FunctionDef, str] | None:
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):
        return None
    node = tree.body[0]
    if not isinstance(node, ast.FunctionDef) or node.name != function.__name__:
        return None
    ast.increment_lineno(tree, max(first, 1) - 1)
    node.args.defaults = [ast.Constant(None) for _ in node.args.defaults]
    node.args.kw_defaults = [one and ast.Constant(None) for one in node.args.kw_defaults]
    return node, node.name


def _code_named(code: types.CodeType, name: str) -> types.CodeType | None:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            if constant.co_name == name:
                return constant
            found = _code_named(constant, name)
            if found is not None:
                return found
    return None
