"""Stand-ins for what code reads and nobody gave: attributes of `self`, missing imports, arguments.

Such a value is listed, spreads to all that is computed from it, and decides nothing. A condition on
it takes both sides, one run for each. Where a number or a length of it is needed, the run ends with
a `Gap`: nothing is judged, and no code is blamed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vlmdebug.review.calls import MODEL, NO_MODEL
from vlmdebug.safe import one_line

MOST_ASKED = 100_000
"""Conditions on invented values in one run."""
LONGEST = 60
"""Characters of source by which an invented value is named."""


class Gap(BaseException):
    """An invented value was needed as it really is. No `except Exception` of the code catches it.

    Attributes:
        path: What was invented: `self.args.max_length`.
        need: What was needed of it: `the length`.
    """

    def __init__(self, path: str, need: str) -> None:
        super().__init__(f"{path}: {need}")
        self.path: str = path
        self.need: str = need


class Ledger:
    """What one run invented, and which sides it took at conditions on that.

    Attributes:
        given: Values by path, such as `self.args.use_vllm`, that are not invented.
        invented: Paths in the order in which they were read.
        made: The side taken at each condition.
        roots: The path that each condition depends on.
        loading: What was invented while files were loaded.
        failed: Statements of files that failed, `file.py:3`, and why.
        gap: Why the run ended, if an invented value was needed as it really is.
        model: What is called where an invented value is called with `input_ids`.
    """

    def __init__(self, given: Mapping[str, Any] | None = None) -> None:
        self.given: dict[str, Any] = dict(given or {})
        self.loading: dict[str, None] = {}
        self.failed: dict[str, str] = {}
        self.roots: dict[str, str] = {}
        self.model: Any = None
        self.begin({}, None)

    def begin(self, sides: Mapping[str, bool], model: Any) -> None:
        """Start a run that takes these sides and, at other conditions, the false one."""
        self.sides: dict[str, bool] = dict(sides)
        self.model = model
        self.made: dict[str, bool] = {}
        self.invented: dict[str, None] = {}
        self.written: dict[str, Any] = {}
        self.gap: Gap | None = None
        self._asked = 0

    def read(self, path: str, of: Any = None) -> Any:
        """The value of a path: what was written or given, else an invented one.

        Args:
            path: How the code reads it.
            of: The invented value that it is read of.
        """
        for known in (self.written, self.given):
            if path in known:
                return known[path]
        if of is None or (root_of(of) == path_of(of) and len(path) <= LONGEST):
            (self.loading if self.model is None else self.invented).setdefault(path)
            return Invented(path, self)
        return _derived(of, path)

    def write(self, path: str, value: Any) -> None:
        """Keep what the code assigned to an attribute of an invented value."""
        self.written[path] = value

    def decide(self, said: str, of: Any) -> bool:
        """The side to take at a condition on an invented value."""
        if self.model is None:  # while files are loaded: what is missing is not available
            return False
        self.roots[said] = root_of(of)
        self._asked += 1
        if self._asked > MOST_ASKED:
            raise self.lacks(of, "an end of the loop that asks for the value")
        return self.made.setdefault(said, self.sides.get(said, False))

    def lacks(self, of: Any, need: str) -> Gap:
        """End the run, also if the code catches everything."""
        gap = Gap(root_of(of), need)
        self.gap = self.gap or gap
        return gap


def path_of(value: Any) -> str:
    """How an invented value is named; the short source of any other."""
    if type(value) is Invented:
        return object.__getattribute__(value, "_path")
    return one_line(repr(value), 30) if isinstance(value, (str, int, float, type(None))) else "…"


def ledger_of(value: Any) -> Ledger:
    """Where an invented value is listed."""
    return object.__getattribute__(value, "_ledger")


def root_of(value: Any) -> str:
    """The path of what was read, from which an invented value follows."""
    return object.__getattribute__(value, "_root")


def is_invented(value: Any) -> bool:
    """Whether a value, or an item of a list of it, was invented."""
    return invented_in(value) is not None


def invented_in(value: Any) -> Any:
    """The invented value that a value is, or holds; None if there is none."""
    return next(_within([value]), None)


def _spread(form: str) -> Callable[..., Invented]:
    def method(self: Invented, *others: Any) -> Invented:
        named = form.format(path_of(self), *map(path_of, others))
        return _derived(self, named)

    return method


def _derived(of: Any, said: str) -> Invented:
    """A value that follows from an invented one."""
    return Invented(said if len(said) <= LONGEST else path_of(of), ledger_of(of), root_of(of))


def _needs(need: str) -> Callable[..., Any]:
    def method(self: Invented, *others: Any) -> Any:
        ledger = ledger_of(self)
        if ledger.model is None and need == "the items":
            return iter(())
        raise ledger.lacks(self, need)

    return method


class Invented:
    """A value that nobody gave."""

    __array_ufunc__ = None  # numpy then leaves operators to this class

    def __init__(self, path: str, ledger: Ledger, root: str | None = None) -> None:
        object.__setattr__(self, "_path", path)
        object.__setattr__(self, "_ledger", ledger)
        object.__setattr__(self, "_root", root or path)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return ledger_of(self).read(f"{path_of(self)}.{name}", self)

    def __setattr__(self, name: str, value: Any) -> None:
        ledger_of(self).write(f"{path_of(self)}.{name}", value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        path, ledger = path_of(self), ledger_of(self)
        if f"{path}()" in ledger.given:
            return ledger.given[f"{path}()"]
        if len(args) == 1 and not kwargs and _is_code(args[0]):
            return args[0]  # a decorator
        if ledger.model is not None:
            inputs = _model_inputs(path, args, kwargs)
            if inputs is not None:
                called = ledger.model.generate if path.endswith(".generate") else ledger.model
                return called(*inputs[0], **inputs[1])
        return _derived(self, f"{path}()")

    def __bool__(self) -> bool:
        return ledger_of(self).decide(path_of(self), self)

    def __contains__(self, item: Any) -> bool:
        return ledger_of(self).decide(f"{path_of(item)} in {path_of(self)}", self)

    def __instancecheck__(self, value: Any) -> bool:
        return False  # no object of a missing class exists

    def __subclasscheck__(self, value: Any) -> bool:
        return False

    def __mro_entries__(self, bases: Any) -> tuple[()]:
        return ()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: Any) -> None:
        return None

    def __repr__(self) -> str:
        return f"<Invented {path_of(self)}>"

    def __format__(self, form: str) -> str:
        return repr(self)

    def __setitem__(self, index: Any, value: Any) -> None:
        return None

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """What torch computes from an invented value is invented."""
        found = next(_within([*args, *(kwargs or {}).values()]))
        return _derived(found, f"{getattr(function, '__name__', 'f')}({path_of(found)})")

    def __hash__(self) -> int:
        ledger = ledger_of(self)
        if ledger.model is not None:  # a lookup would not find it
            raise ledger.lacks(self, "the value")
        return object.__hash__(self)

    def __eq__(self, other: object) -> Any:
        return _spread("{} == {}")(self, other)

    def __ne__(self, other: object) -> Any:
        return _spread("{} != {}")(self, other)

    __lt__: Callable[..., Invented] = _spread("{} < {}")
    __le__: Callable[..., Invented] = _spread("{} <= {}")
    __gt__: Callable[..., Invented] = _spread("{} > {}")
    __ge__: Callable[..., Invented] = _spread("{} >= {}")
    __add__: Callable[..., Invented] = _spread("{} + {}")
    __sub__: Callable[..., Invented] = _spread("{} - {}")
    __mul__: Callable[..., Invented] = _spread("{} * {}")
    __truediv__: Callable[..., Invented] = _spread("{} / {}")
    __floordiv__: Callable[..., Invented] = _spread("{} // {}")
    __mod__: Callable[..., Invented] = _spread("{} % {}")
    __pow__: Callable[..., Invented] = _spread("{} ** {}")
    __matmul__: Callable[..., Invented] = _spread("{} @ {}")
    __and__: Callable[..., Invented] = _spread("{} & {}")
    __or__: Callable[..., Invented] = _spread("{} | {}")
    __radd__: Callable[..., Invented] = _spread("{1} + {0}")
    __rsub__: Callable[..., Invented] = _spread("{1} - {0}")
    __rmul__: Callable[..., Invented] = _spread("{1} * {0}")
    __rtruediv__: Callable[..., Invented] = _spread("{1} / {0}")
    __rfloordiv__: Callable[..., Invented] = _spread("{1} // {0}")
    __rmod__: Callable[..., Invented] = _spread("{1} % {0}")
    __rpow__: Callable[..., Invented] = _spread("{1} ** {0}")
    __rmatmul__: Callable[..., Invented] = _spread("{1} @ {0}")
    __rand__: Callable[..., Invented] = _spread("{1} & {0}")
    __ror__: Callable[..., Invented] = _spread("{1} | {0}")
    __neg__: Callable[..., Invented] = _spread("-{}")
    __pos__: Callable[..., Invented] = _spread("+{}")
    __abs__: Callable[..., Invented] = _spread("abs({})")
    __invert__: Callable[..., Invented] = _spread("~{}")
    __getitem__: Callable[..., Invented] = _spread("{}[{}]")
    __iter__: Callable[..., Any] = _needs("the items")
    __len__: Callable[..., Any] = _needs("the length")
    __index__: Callable[..., Any] = _needs("the number")
    __int__: Callable[..., Any] = _needs("the number")
    __float__: Callable[..., Any] = _needs("the number")
    __await__: Callable[..., Any] = _needs("the result")


def _within(values: Any) -> Iterator[Any]:
    for value in values:
        if type(value) is Invented:
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _within(value)


def _is_code(value: Any) -> bool:
    return isinstance(value, type) or type(value).__name__ in ("function", "staticmethod")


def _model_inputs(
    path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The arguments if this is what review takes for a call of a model; None if not."""
    last = re.sub(r"\W", "", path.rpartition(".")[2]) or path
    if NO_MODEL.search(last):
        return None
    if "input_ids" in kwargs:
        return args, kwargs
    if not MODEL.search(last):
        return None
    mapping = next((arg for arg in args if isinstance(arg, Mapping) and "input_ids" in arg), None)
    if mapping is not None:
        return (), {**mapping, **kwargs}
    return (args, kwargs) if args and hasattr(args[0], "untyped_storage") else None


# --- what compiled code calls in place of operators that cannot be overridden ---------------------


def checked_is(left: Any, right: Any) -> bool:
    """`left is right`."""
    for one in (left, right):
        if type(one) is Invented and left is not right:
            return ledger_of(one).decide(f"{path_of(left)} is {path_of(right)}", one)
    return left is right


def checked_in(item: Any, items: Any) -> bool:
    """`item in items`."""
    if type(item) is Invented and type(items) in (set, frozenset, dict):
        return ledger_of(item).decide(f"{path_of(item)} in …", item)
    return item in items


def checked_isinstance(value: Any, kinds: Any) -> bool:
    """`isinstance(value, kinds)`."""
    if type(value) is not Invented:
        return isinstance(value, kinds)
    names = [
        getattr(kind, "__name__", "…") for kind in (kinds if type(kinds) is tuple else (kinds,))
    ]
    return ledger_of(value).decide(
        f"isinstance({path_of(value)}, {' | '.join(map(str, names))})", value
    )


def checked_hasattr(value: Any, name: str) -> bool:
    """`hasattr(value, name)`."""
    found = getattr(value, name, None)
    if type(found) is not Invented:
        return hasattr(value, name)
    return ledger_of(found).decide(f"hasattr({path_of(found).rpartition('.')[0]}, {name!r})", found)


def checked_callable(value: Any) -> bool:
    """`callable(value)`."""
    if type(value) is not Invented:
        return callable(value)
    return ledger_of(value).decide(f"callable({path_of(value)})", value)


def unpacked(value: Any, count: int) -> Any:
    """`value`, which is assigned to `count` names."""
    if type(value) is not Invented:
        return value
    return tuple(_derived(value, f"{path_of(value)}[{place}]") for place in range(count))


def item(value: Any, index: Any) -> Any:
    """`value[index]`; invented if a bound is."""
    for part in index if type(index) is tuple else (index,):
        bounds = (part.start, part.stop, part.step) if type(part) is slice else (part,)
        for bound in bounds:
            if type(bound) is Invented and type(value) is not Invented:
                return _derived(bound, f"…[{path_of(bound)}]")
    return value[index]


CHECKED: dict[str, Callable[..., Any]] = {
    "is": checked_is,
    "in": checked_in,
    "isinstance": checked_isinstance,
    "hasattr": checked_hasattr,
    "callable": checked_callable,
    "unpacked": unpacked,
    "item": item,
    "slice": slice,
}
