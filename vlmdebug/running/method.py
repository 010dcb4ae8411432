"""`method`: a method of a trainer, or a function of any parameters, as a slicer.

What it reads of `self`, of arguments and of missing imports is invented and listed. Where a
condition depends on that, each side is tried, one condition at a time. If the sides pass other rows
to the model, or a number is needed that nobody gave, nothing is judged and nobody is blamed.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from vlmdebug.core.given import public
from vlmdebug.core.literals import literal
from vlmdebug.errors import BadInput, NotJudged
from vlmdebug.review.calls import MODEL
from vlmdebug.review.entry import BATCH, Entry
from vlmdebug.review.module import Module
from vlmdebug.running.invented import Gap, Ledger
from vlmdebug.running.open_stand_ins import OpenBatch, OpenModel, without_invented
from vlmdebug.running.rewritten import recompiled
from vlmdebug.running.self_stand_in import self_of
from vlmdebug.running.ways import Way, alike, gap_behind, is_refusal
from vlmdebug.safe import one_line

WAYS = 32
"""Ways through a function that are tried for one batch."""
ROLES = ("model", "batch", "size")
"""What a loop takes by place; a slicer takes the last two."""
TRIES = 12
"""Batches with the same keys for which both sides of a condition are tried."""


@public
def method(function: Callable[..., Any], *, self: Any = None, **arguments: Any) -> Method:
    """Turn a method, or a function of any parameters, into a slicer.

    Parameters are bound by name: keys of the batch (`pixel_values`), the batch itself (`inputs`,
    `batch`), a chunk size, bounds of a chunk (`start`, `stop`), and a stand-in for the model. What
    the function passes to a model, yields or returns is one chunk.

    Args:
        function: `Trainer.method`, `trainer.method` or a function.
        self: What `self` is known to have: an object, or a dict by name, such as
            `{"temperature": 1.0, "args.use_vllm": False}`. All else is invented.
        **arguments: Values of other parameters, by name.

    Raises:
        BadInput: It is no function with source. The slicer raises `NotJudged`, a `BadInput`, if
            something invented decides what the model gets; the message says how to give it.
    """
    bound = getattr(function, "__self__", None)
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if not isinstance(plain, types.FunctionType):
        raise BadInput(
            f"method was given a {type(function).__name__}, but it takes a method or a function "
            "of Python, such as Trainer.compute_loss. Nothing was tried."
        )
    known = self if self is not None else bound
    given: dict[str, Any] = dict(arguments)
    if isinstance(known, Mapping):
        given |= {f"self.{name}": value for name, value in known.items()}
        known = None
    return Method(plain, Ledger(given), known)


class Method:
    """A slicer made of a method or function; it may also be given to `record`."""

    expand_size = None

    def __init__(self, function: types.FunctionType, ledger: Ledger, known: Any = None) -> None:
        self._function, self._ledger, self._known = recompiled(function), ledger, known
        self._vlmdebug_function = function  # what the test of a finding imports
        self._entry = _entry_of(function)
        self._owner = _class_of(function)
        own = self._entry.node.args
        needed = len(own.posonlyargs + own.args) - len(own.defaults)
        self._places = ROLES[-needed:] if self._entry.is_by_place else ()
        self._invented: dict[str, None] = {}
        self._conditions: dict[str, None] = {}
        self._tried: Counter[tuple[str, frozenset[str]]] = Counter()
        self.__name__: str = function.__qualname__.rpartition("<locals>.")[2]

    @property
    def _vlmdebug_call(self) -> str:
        """How a test of a finding makes this slicer of the function that it imports."""
        own: dict[str, Any] = {}
        given = {"self": own}
        for path, value in self._ledger.given.items():
            place, _, name = path.partition(".")
            (own if place == "self" else given)[name if place == "self" else path] = value
        if not own:
            del given["self"]
        known = f", **{given!r}".replace("{", "{{").replace("}", "}}") if given else ""
        return f"vd.method({{}}{known})"

    @property
    def invented(self) -> tuple[str, ...]:
        """What was invented, by path, in the order in which the code read it."""
        every = [path for path in self._invented if path.partition(".")[0] != "outputs"]
        inner = {path.rpartition(".")[0] for path in every}
        return tuple(path for path in every if path not in inner)

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions on what was invented, of which both sides were tried."""
        return tuple(self._conditions)

    def __repr__(self) -> str:
        return f"vlmdebug.method({self.__name__})"

    def __call__(self, *arguments: Any) -> Iterator[dict[str, Any]]:
        """The chunks of `(inputs, chunk_size)`; given a model first, it is called with each."""
        *models, inputs, chunk_size = arguments
        way = self._judged(inputs, chunk_size)
        if not models:
            return _steps(way)
        for call in way.calls:
            models[0](**call)
        if way.error is not None:
            raise way.error
        return iter(())

    # --- ways ------------------------------------------------------------------------------

    def _judged(self, inputs: Any, size: int) -> Way:
        """What the function does, whichever side conditions on invented values take.

        Raises:
            NotJudged: That depends on something invented.
        """
        ways = [*self._ways(inputs, size)]
        refused = [way for way in ways if way.made and is_refusal(way.error)]
        first, *others = [way for way in ways if way not in refused] or ways
        for way in (first, *others):
            if way.gap is not None:
                raise self._gap(way)
        for way in others:
            if not alike(first, way):
                raise self._depends(way.flipped or next(iter(way.made)))
        if not first.calls and first.error is None:
            raise NotJudged(
                f"{self.__name__} passed no batch to a model, and gave none. Nothing was judged. "
                "Name a function that calls the model, or that gives the inputs of each chunk."
            )
        return first

    def _ways(self, inputs: Any, size: int) -> Iterator[Way]:
        """Runs that take the false side of each condition, and then each true side once."""
        ledger = self._ledger
        queue: list[dict[str, bool]] = [{}]
        seen: set[str] = set()
        for sides in queue:
            way = self._run(inputs, size, sides)
            yield way
            for said in way.made:
                if said not in seen and self._is_open(said, inputs):
                    seen.add(said)
                    queue.append({**sides, said: True})
            if len(queue) > WAYS:
                raise NotJudged(
                    f"{self.__name__} has more than {WAYS} conditions on what nobody gave, such as "
                    f"{one_line(min(seen), 80)}. Nothing was judged. "
                    f"{self._how(ledger.roots[min(seen)])}"
                )

    def _is_open(self, condition: str, inputs: Any) -> bool:
        """Whether it is still tried on both sides with batches that have these keys."""
        place = condition, frozenset(inputs)
        self._tried[place] += 1
        return self._tried[place] <= TRIES

    def _run(self, inputs: Any, size: int, sides: Mapping[str, bool]) -> Way:
        ledger = self._ledger
        batch = OpenBatch(inputs, ledger)
        model = OpenModel(batch, ledger)
        ledger.begin(sides, model)
        given: list[dict[str, Any]] = []
        error: Exception | None = None
        gap: Gap | None = None
        try:
            for bounds in self._bounds(len(inputs["input_ids"]), size):
                for value in _given_by(self._call(batch, size, bounds)):
                    given.append(without_invented(value, ledger))
        except Gap as raised:
            gap = raised
        except Exception as raised:
            gap, error = gap_behind(raised, ledger), raised
        self._invented |= ledger.invented
        self._conditions |= dict.fromkeys(ledger.made)
        calls = [call for call in model.calls if "input_ids" in call] or given
        flipped = [*sides][-1] if sides else None
        return Way(dict(ledger.made), flipped, calls, error, ledger.gap or gap)

    # --- arguments -------------------------------------------------------------------------

    def _bounds(self, samples: int, size: int) -> Iterator[tuple[int, int]]:
        """The bounds of each call: one per chunk for a function that takes them."""
        roles = {self._entry.role(arg) for arg in self._entry.arguments}
        if not roles & {"start", "stop"}:
            yield 0, samples
            return
        for start in range(0, samples, size):
            yield start, min(start + size, samples)

    def _call(self, batch: Any, size: int, bounds: tuple[int, int]) -> Any:
        ledger, entry = self._ledger, self._entry
        start, stop = bounds
        for path in entry.uses.looked:
            if "." in path:  # the batch, by another name
                ledger.written[path] = batch
        defaults = inspect.signature(self._function).parameters
        values = {"start": start, "stop": stop, "size": size, "batch": batch}
        if self._places:
            by_role = {**values, "model": ledger.model}
            return self._function(*(by_role[role] for role in self._places))
        taken: dict[str, Any] = {}
        for place, arg in enumerate(entry.arguments):
            name, role = arg.arg, entry.role(arg)
            if place == 0 and entry.owner is not None and name in ("self", "cls"):
                taken[name] = self_of(self._owner, ledger, self._known, self._function)
            elif name in ledger.given:
                taken[name] = ledger.given[name]
            elif name in batch or role == "key":
                taken[name] = batch.get(name)
            elif role in values:
                taken[name] = values[role]
            elif MODEL.search(name):
                taken[name] = ledger.model
            elif defaults[name].default is inspect.Parameter.empty:
                taken[name] = ledger.read(name)
        by_place = [taken.pop(arg.arg) for arg in entry.node.args.posonlyargs if arg.arg in taken]
        kwarg = entry.node.args.kwarg
        if kwarg is not None and (
            kwarg.arg in entry.uses.looked or (BATCH.search(kwarg.arg) and entry.owner is None)
        ):
            taken |= {key: batch[key] for key in batch if key not in taken}
        return self._function(*by_place, **taken)

    # --- messages --------------------------------------------------------------------------

    def _gap(self, way: Way) -> NotJudged:
        assert way.gap is not None
        when = f" where {one_line(way.flipped, 80)}" if way.flipped else ""
        return NotJudged(
            f"{self.__name__} needs {way.gap.need} of {one_line(way.gap.path, 80)}{when}, which "
            f"nobody gave. Nothing was judged. {self._how(way.gap.path)}"
        )

    def _depends(self, condition: str) -> NotJudged:
        return NotJudged(
            f"What {self.__name__} passes to the model depends on whether "
            f"{one_line(condition, 80)}, which nobody gave. "
            f"Nothing was judged. {self._how(self._ledger.roots[condition])}"
        )

    def _how(self, path: str) -> str:
        """How to give a value."""
        owner, dot, rest = one_line(path, 80).partition(".")
        if owner == "self" and dot:
            given = f"self={{{literal(rest)}: VALUE}}"
        elif owner in {arg.arg for arg in self._entry.arguments}:
            given = f"**{{{literal(path)}: VALUE}}" if dot else f"{owner}=VALUE"
        elif owner in ("inputs", "outputs", "model"):
            return "Try a smaller part of the code, or watch a real run: vlmdebug.watch(model)."
        else:
            return f"Install {owner}, or try a smaller part of the code."
        return (
            f"Give it: vlmdebug.method({self.__name__}, {given}), or on the command line "
            f"--given {path}=VALUE."
        )


def _steps(way: Way) -> Iterator[dict[str, Any]]:
    yield from way.calls
    if way.error is not None:
        raise way.error


def _given_by(result: Any) -> Iterator[Mapping[str, Any]]:
    """The inputs of chunks that a function returns or yields."""
    if isinstance(result, Mapping):
        if "input_ids" in result:
            yield result
    elif isinstance(result, (list, tuple)) or hasattr(result, "__next__"):
        for part in result:
            if isinstance(part, (Mapping, tuple)):
                yield from _given_by(part)


# --- source ----------------------------------------------------------------------------------


def _entry_of(function: types.FunctionType) -> Entry:
    """What review reads of a function.

    Raises:
        BadInput: It has no source.
    """
    tree: ast.Module | None = None
    with suppress(OSError, TypeError, SyntaxError):
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    node = None if tree is None else tree.body[0]
    if isinstance(node, ast.AsyncFunctionDef):
        raise BadInput(
            f"method was given {function.__qualname__}, which is `async`: it would wait for what "
            "was invented. Nothing was tried. Pass the function that it calls with the batch."
        )
    own = isinstance(node, ast.FunctionDef) and node.name == function.__name__
    if tree is None or not own or not isinstance(node, ast.FunctionDef):
        raise BadInput(
            f"method was given {function.__qualname__}, of which there is no source with `def`. "
            "Nothing was tried. Pass a function that is written in a file or a notebook cell."
        )
    first = (node.args.posonlyargs + node.args.args)[:1]
    owner = "self" if first and first[0].arg in ("self", "cls") else None
    return Entry(node, Module(tree), owner, function.__qualname__)


def _class_of(function: types.FunctionType) -> type | None:
    """The class of a method; None for a function, or where it is not found."""
    code, closure = function.__code__, function.__closure__ or ()
    for name, cell in zip(code.co_freevars, closure, strict=True):
        if name == "__class__":
            return cell.cell_contents
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split(".")[:-1]:
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None
