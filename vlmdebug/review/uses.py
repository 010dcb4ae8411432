"""What a function does with names, read off its syntax before it is interpreted."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from vlmdebug.core.keys import MEDIA_KEYS
from vlmdebug.review.keys import KNOWN, TOKEN_KEYS

TAKERS = frozenset({"get", "pop", "setdefault"})


class Uses:
    """The names of a function.

    Attributes:
        words: All names and strings.
        looked: Expressions in which keys of a batch are looked up, as source.
        read: Keys that are looked up by `[...]`, `.get(...)` or as an attribute, and parameters.
        asked: The same, and those of `in`.
        passed: Keys that it gives on by name: entries of dicts, keywords, strings in lists.
        indices: Names by which rows are taken, `x[NAME]` or `index_select(0, NAME)`, each with
            whether it is tokens that they are taken of.
        listed: Names with items that it goes through: `for key, value in NAME.items()`, and
            `for key in NAME` where `key` is an index; an empty name where it is no local one.
    """

    def __init__(self, nodes: Iterable[ast.AST]) -> None:
        self.words: set[str] = set()
        self.looked: set[str] = set()
        self.read: set[str] = set()
        self.asked: set[str] = set()
        self.passed: set[str] = set()
        self.listed: set[str] = set()
        self._turns: dict[str, str] = {}
        self.indices: dict[str, bool] = {}
        self._taken: list[tuple[str, ast.expr]] = []
        self._tokens: set[str] = set()
        for node in nodes:
            see = _SEEN.get(type(node))
            if see is not None:
                see(self, node)
        for name, of in self._taken:
            self.indices[name] = self.indices.get(name, False) or self._is_tokens(of)
        self.listed |= {name for turn, name in self._turns.items() if turn in self.indices}

    def _look(self, base: ast.expr, key: object) -> None:
        if not isinstance(key, str):
            return
        self.asked.add(key)
        if key in KNOWN and isinstance(base, (ast.Name, ast.Attribute)):
            self.looked.add(ast.unparse(base))

    def _name(self, node: ast.Name) -> None:
        self.words.add(node.id)

    def _argument(self, node: ast.arg) -> None:
        self.words.add(node.arg)
        self.read.add(node.arg)

    def _constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self.words.add(node.value)

    def _subscript(self, node: ast.Subscript) -> None:
        key = _text(node.slice)
        if key is None:
            if isinstance(node.ctx, ast.Load):
                self._index(node.value, node.slice)
            return
        self._look(node.value, key)
        (self.passed if isinstance(node.ctx, ast.Store) else self.read).add(key)

    def _index(self, base: ast.expr, index: ast.expr) -> None:
        """Note the name that takes rows of `base`; of all dimensions, it is the first one's."""
        first = index.elts[0] if isinstance(index, ast.Tuple) and index.elts else index
        if isinstance(first, ast.Name):
            self._taken.append((first.id, base))

    def _is_tokens(self, of: ast.expr) -> bool:
        """Whether an expression is a key of tokens, or a name for one."""
        name = _text(of.slice) if isinstance(of, ast.Subscript) else word_of(of)
        return name in TOKEN_KEYS or (isinstance(of, ast.Name) and of.id in self._tokens)

    def _assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = [*zip(target.elts, node.value.elts, strict=False)]
            self._tokens |= {
                one.id
                for one, value in pairs
                if isinstance(one, ast.Name) and self._is_tokens(value)
            }

    def _call(self, node: ast.Call) -> None:
        self.passed |= {part.arg for part in node.keywords if part.arg is not None}
        if word_of(node.func) == "index_select" and len(node.args) > 1:
            of = node.args[0] if len(node.args) > 2 else getattr(node.func, "value", node.args[0])
            self._index(of, node.args[-1])
        if not isinstance(node.func, ast.Attribute):
            return
        name, base = node.func.attr, node.func.value
        key = _text(node.args[0]) if node.args else None
        if name in TAKERS and key is not None:
            self._look(base, key)
            self.read.add(key)
        elif name in ("items", "keys", "values") and isinstance(base, ast.Name):
            self.listed.add(base.id)

    def _for(self, node: ast.For | ast.AsyncFor | ast.comprehension) -> None:
        if isinstance(node.iter, ast.Name | ast.Attribute) and isinstance(node.target, ast.Name):
            self._turns[node.target.id] = getattr(node.iter, "id", "")

    def _compare(self, node: ast.Compare) -> None:
        if isinstance(node.ops[0], (ast.In, ast.NotIn)):
            self._look(node.comparators[0], _text(node.left))

    def _attribute(self, node: ast.Attribute) -> None:
        self.words.add(node.attr)
        if node.attr in MEDIA_KEYS or node.attr in TOKEN_KEYS:
            self._look(node.value, node.attr)
            self.read.add(node.attr)

    def _dict(self, node: ast.Dict) -> None:
        self.passed |= _texts(node.keys)

    def _items(self, node: ast.List | ast.Tuple | ast.Set) -> None:
        self.passed |= _texts(node.elts)


_SEEN = {
    ast.Assign: Uses._assign,
    ast.Name: Uses._name,
    ast.arg: Uses._argument,
    ast.Constant: Uses._constant,
    ast.Subscript: Uses._subscript,
    ast.Call: Uses._call,
    ast.Compare: Uses._compare,
    ast.Attribute: Uses._attribute,
    ast.Dict: Uses._dict,
    ast.For: Uses._for,
    ast.AsyncFor: Uses._for,
    ast.comprehension: Uses._for,
    ast.List: Uses._items,
    ast.Tuple: Uses._items,
    ast.Set: Uses._items,
}


def word_of(node: ast.AST) -> object:
    """The name or string that a node is; None if it is neither."""
    field = _WORDS.get(type(node))
    return None if field is None else getattr(node, field)


_WORDS = {ast.Name: "id", ast.arg: "arg", ast.Attribute: "attr", ast.Constant: "value"}


def _text(node: ast.AST | None) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _texts(nodes: Iterable[ast.AST | None]) -> set[str]:
    return {text for text in map(_text, nodes) if text is not None}
