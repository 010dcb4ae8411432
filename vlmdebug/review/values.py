"""What an expression of the reviewed code means, as far as its source determines it.

Names are resolved to their last assignment. Nothing is run and nothing is guessed: an expression
that has none of the few forms below is `UNKNOWN`, and code that depends on it is not judged.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

KEEPS_ROWS = frozenset(
    {"to", "cuda", "cpu", "contiguous", "clone", "detach", "float", "half", "bfloat16", "type"}
)
"""Methods that give the same rows in the same order."""
LOOKUPS = frozenset({"get", "pop"})
_ALIKE = (ast.Name, ast.Constant, ast.BinOp, ast.operator, ast.Load)


@dataclass(frozen=True)
class Value:
    """What is known of an expression.

    Attributes:
        key: The tensor of the batch that it is.
        constant: The string that it is, if it is a literal.
        made: Whether it is a dictionary made by this code, so its keys are not the batch's.
        sources: Keys and counts of the batch that it was computed from.
        calls: Names of the functions, methods and operators applied, except `+`.
        node: The expression itself with names replaced by their values, if it is short.
    """

    key: str | None = None
    constant: str | None = None
    made: bool = False
    sources: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()
    node: ast.expr | None = None


UNKNOWN = Value()
Names = Mapping[str, Value]


def evaluate(node: ast.expr, names: Names, known: Callable[[str], bool]) -> Value:
    """The meaning of `node`; `known` says whether a name is a key or count of some layout."""
    key = key_of(node, names, known)
    if key is not None:
        return Value(key=key, sources=frozenset({key}), node=_short(node, names))
    if isinstance(node, ast.Constant):
        return Value(constant=node.value if isinstance(node.value, str) else None, node=node)
    if isinstance(node, ast.Name):
        return names.get(node.id, Value(node=node))
    if isinstance(node, ast.NamedExpr):
        return evaluate(node.value, names, known)
    parts = [
        evaluate(child, names, known) for child in _children(node) if isinstance(child, ast.expr)
    ]
    return Value(
        made=_makes_a_dictionary(node),
        sources=frozenset[str]().union(*(part.sources for part in parts)),
        calls=_calls(node).union(*(part.calls for part in parts)),
        node=_short(node, names),
    )


def key_of(node: ast.expr, names: Names, known: Callable[[str], bool]) -> str | None:
    """The tensor that `node` is: `batch["pixel_values"]`, `.get(…)`, an alias of it."""
    if isinstance(node, ast.Name):
        value = names.get(node.id)
        if value is not None:
            return value.key
        return node.id if known(node.id) else None
    if isinstance(node, ast.Attribute):
        return node.attr if known(node.attr) and not is_made(node.value, names) else None
    if isinstance(node, ast.Subscript):
        return _looked_up(node.value, node.slice, names)
    if isinstance(node, ast.NamedExpr):
        return key_of(node.value, names, known)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in LOOKUPS and node.args:
            return _looked_up(node.func.value, node.args[0], names)
        if node.func.attr in KEEPS_ROWS:
            return key_of(node.func.value, names, known)
    return None


def _looked_up(base: ast.expr, index: ast.expr, names: Names) -> str | None:
    if is_made(base, names):
        return None
    return text_of(index, names)


def text_of(node: ast.expr, names: Names) -> str | None:
    """The string that `node` is: a literal, or a name with a literal as its value."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return names[node.id].constant if isinstance(node, ast.Name) and node.id in names else None


def is_made(node: ast.expr, names: Names) -> bool:
    """Whether `node` is a dictionary made by this code."""
    return isinstance(node, ast.Name) and node.id in names and names[node.id].made


def called_name(node: ast.Call) -> str:
    """`cumsum` of `torch.cumsum(x, 0)` and of `x.cumsum(0)`."""
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _calls(node: ast.expr) -> frozenset[str]:
    if isinstance(node, ast.Call):
        return frozenset({called_name(node)})
    if isinstance(node, ast.BinOp | ast.BoolOp) and not isinstance(node.op, ast.Add):
        return frozenset({type(node.op).__name__})
    return frozenset({"Compare"} if isinstance(node, ast.Compare) else ())


def canonical(node: ast.expr, names: Names) -> str:
    """The normalised source of `node`: equal bounds have equal text.

    `stop` becomes its assigned value, and `min(start + n, len(x))` becomes `start + n`: there is
    nothing to cut after the end.
    """
    return ast.unparse(_Substitute(names).visit(copy.deepcopy(node)))


class _Substitute(ast.NodeTransformer):
    def __init__(self, names: Names) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        value = self.names.get(node.id)
        return node if value is None or value.node is None else value.node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        return _before_the_end(node)


def _short(node: ast.expr, names: Names) -> ast.expr | None:
    """`node` with its names replaced, if it is arithmetic on names."""
    if isinstance(node, ast.Call):
        node = _before_the_end(node)
    if not all(isinstance(part, _ALIKE) for part in ast.walk(node)):
        return None
    return _Substitute(names).visit(copy.deepcopy(node))


def _before_the_end(node: ast.Call) -> ast.expr:
    """`start + n` of `min(start + n, total)`; any other call unchanged."""
    if called_name(node) == "min" and len(node.args) == 2:
        return next((part for part in node.args if isinstance(part, ast.BinOp)), node)
    return node


def _makes_a_dictionary(node: ast.expr) -> bool:
    if isinstance(node, ast.Dict):
        return None not in node.keys  # `{**inputs, …}` is the batch again
    if isinstance(node, ast.DictComp):
        return True
    return isinstance(node, ast.Call) and called_name(node) == "dict" and not node.args


def _children(node: ast.expr) -> list[ast.AST]:
    """The parts of `node`, including the base of a subscript and the source of a comprehension."""
    if isinstance(node, ast.Subscript):
        return [node.value]
    found: list[ast.AST] = []
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.comprehension):
            found.append(child.iter)
        elif isinstance(child, ast.keyword):
            found.append(child.value)
        else:
            found.append(child)
    return found
