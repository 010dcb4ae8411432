"""The result of a search: the smallest batch cut wrongly, and the number of cases judged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from keyword import iskeyword
from typing import Any

from vlmdebug.checking.report import Report
from vlmdebug.core.batch import Batch
from vlmdebug.core.literals import literal
from vlmdebug.errors import AmbiguousError, BadInput, MismatchError
from vlmdebug.families import BatchSpec
from vlmdebug.families.synthesize import ASKED_FOR
from vlmdebug.running.cases import Case
from vlmdebug.running.synthetic import make
from vlmdebug.safe import one_line

VLMDEBUG = "import vlmdebug as vd"


class Tried(int):
    """The number of cases judged, with what was not checked in them.

    Attributes:
        left_out: Keys that were not checked: some cases had them, and the slicer never passed them.

    >>> Tried(200, ("input_features",))
    200 (not checked: input_features)
    """

    left_out: tuple[str, ...]

    def __new__(cls, cases: int, left_out: Iterable[str] = ()) -> Tried:
        self = super().__new__(cls, cases)
        self.left_out = tuple(left_out)
        return self

    def __repr__(self) -> str:
        if not self.left_out:
            return int.__repr__(self)
        return f"{int.__repr__(self)} (not checked: {', '.join(map(one_line, self.left_out))})"

    def __str__(self) -> str:
        return int.__repr__(self)


@dataclass(frozen=True, repr=False)
class Counterexample:
    """A smallest batch that a slicer cuts wrongly: `gemma4: images per sample [2], chunk size 1`.

    Attributes:
        case: The batch's specification and the chunk size.
        report: The report of `check`.
        call: How a test creates the slicer from what it imports: `"vd.record({})"`.
        slicer: The slicer.
    """

    case: Case
    report: Report
    call: str = "{}"
    slicer: Any = field(default=None, compare=False)

    @property
    def family(self) -> str:
        """Name of the layout family."""
        return self.case.spec.family

    @property
    def batch(self) -> Batch:
        """The batch, built again."""
        return make(self.case.spec)

    @property
    def chunk_size(self) -> int:
        """Samples per chunk."""
        return self.case.chunk_size

    @property
    def error(self) -> BaseException | None:
        """What the slicer raised, if it did."""
        return self.report.error

    def to_pytest(self, slicer: str = "my_module:slicer") -> str:
        """Source of a regression test, which was run and fails as this does.

        Args:
            slicer: What the test imports, `module:name`: the slicer or, if it was made by `record`,
                the function that calls the model. A config that `record` was given is imported
                from the same module, as `config`.

        Raises:
            BadInput: `slicer` has no module or no name, or the test does not fail: the slicer
                behaves in another way each time.
        """
        module, _, name = slicer.partition(":")
        own = imported_as(name) if "{}" in self.call else "slicer"
        named = {own: slicer} if "{}" in self.call else {}
        under_test = self.slicer.__wrapped__ if "record(" in self.call else self.slicer
        under_test = getattr(under_test, "_vlmdebug_function", under_test)
        objects: dict[str, Any] = {own: under_test}
        if "config" in self.call:
            named["config"] = f"{module}:config"
            objects["config"] = getattr(self.slicer, "_vlmdebug_config", None)
        spec = self.case.spec
        size = f" chunk size {self.chunk_size}" if self.chunk_size != 1 else ""
        case = f"{spec!r}{size}".replace(" per sample", "")
        title = re.sub(r"\W+", "_", f"test_{own}_cuts_{case}").strip("_")
        test = (
            f"def {title}() -> None:\n"
            f"    batch = vd.make_batch({literal(spec.family)}, {_arguments(spec)})\n\n"
            f"    vd.check({self.call.format(own)}, batch, chunk_size={self.chunk_size})"
            ".raise_for_mismatch()\n"
        )
        return with_imports(named, test, objects if self.slicer is not None else None)

    def __repr__(self) -> str:
        return repr(self.case)


def with_imports(named: Mapping[str, str], test: str, objects: Mapping[str, Any] | None) -> str:
    """The source of a test behind its imports, after it was run with these objects and failed.

    Args:
        named: The name of each import, and `module:name`.
        test: The function, which uses `vd` and the imported names.
        objects: What the names are; None if that is not known, and the test was not run.

    Raises:
        BadInput: An import has no module or no name, or the test passes.
    """
    plain, others = [VLMDEBUG], list[str]()
    by_module: dict[str, list[str]] = {}
    for own, where in named.items():
        module, name = _place(where)
        words = [*module.split("."), name]
        if all(map(_is_word, words)):
            by_module.setdefault(module, []).append(name if own == name else f"{name} as {own}")
        else:
            found = f"attrgetter({literal(name)})(import_module({literal(module)}))"
            others.append(f"{own} = {found}")
    plain += [f"from {module} import {', '.join(sorted(own))}" for module, own in by_module.items()]
    if others:
        head = ["from importlib import import_module", "from operator import attrgetter", ""]
        lines = [*head, *plain, "", *others]
    else:
        lines = plain
    if objects is not None:
        _refuse_passing(test, objects)
    return "\n".join(lines) + f"\n\n\n{test}"


def _refuse_passing(test: str, objects: Mapping[str, Any]) -> None:
    """Run a test, which must fail as its finding says.

    Raises:
        BadInput: It passes, or raises something else.
    """
    world: dict[str, Any] = {**objects}
    exec(compile(f"{VLMDEBUG}\n{test}", "<regression test>", "exec"), world)
    own = next(value for name, value in world.items() if name.startswith("test_"))
    why = "it passed"
    try:
        own()
    except (MismatchError, AmbiguousError):
        return
    except Exception as error:
        why = f"it raised {type(error).__name__}: {one_line(error, 200)}"
    raise BadInput(
        f"The regression test was run before it was written, and {why}. The code under test gives "
        "another result each time. No test was written. Make it deterministic, or check it by hand."
    )


def _place(where: str) -> tuple[str, str]:
    module, colon, name = where.partition(":")
    if not (colon and module and name):
        raise BadInput(
            f"{one_line(repr(where))} was given, but a test imports by module and name. "
            'No test was written. Give "module:name", such as "my_trainer.batches:cut".'
        )
    return module, name


def _is_word(word: str) -> bool:
    return word.isidentifier() and word.isascii() and not iskeyword(word)


def imported_as(name: str) -> str:
    """The name in a test: another where pytest or the test itself would take it."""
    ours = name in ("vd", "batch", "rows", "config") or name.startswith(("test", "Test"))
    return "slicer" if ours or not _is_word(name) else name


def _arguments(spec: BatchSpec) -> str:
    """The arguments of `make_batch` after the family, as source."""
    given = f"{list(spec.images_per_sample)}, sizes={list(spec.sizes)}"
    if spec.frames:
        given += f", videos_per_sample={list(spec.videos_per_sample)}, frames={list(spec.frames)}"
    if spec.audios_per_sample:
        given += f", audios_per_sample={list(spec.audios_per_sample)}"
    if spec.padding_side != "right":
        given += f', padding_side="{spec.padding_side}"'
    for key in ASKED_FOR:
        if getattr(spec, key):
            given += f", {key}=True"
    return given
