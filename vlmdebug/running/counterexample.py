"""The result of a search: the smallest batch cut wrongly, and the number of cases judged."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from keyword import iskeyword

from vlmdebug.checking.report import Report
from vlmdebug.core.batch import Batch
from vlmdebug.core.literals import literal
from vlmdebug.errors import BadInput
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
    """

    case: Case
    report: Report
    call: str = "{}"

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
        """Source of a regression test.

        Args:
            slicer: What the test imports, `module:name`: the slicer or, if it was made by `record`,
                the function that calls the model.

        Raises:
            BadInput: `slicer` has no module or no name.
        """
        imported, name = _imported(slicer) if "{}" in self.call else (VLMDEBUG, "slicer")
        spec = self.case.spec
        size = f" chunk size {self.chunk_size}" if self.chunk_size != 1 else ""
        case = f"{spec!r}{size}".replace(" per sample", "")
        test = re.sub(r"\W+", "_", f"test_{name}_cuts_{case}").strip("_")
        return (
            f"{imported}\n\n\n"
            f"def {test}() -> None:\n"
            f"    batch = vd.make_batch({literal(spec.family)}, {_arguments(spec)})\n"
            + ("    config = ...  # what `record` was given\n" if "config" in self.call else "")
            + "\n"
            f"    vd.check({self.call.format(name)}, batch, chunk_size={self.chunk_size})"
            ".raise_for_mismatch()\n"
        )

    def __repr__(self) -> str:
        return repr(self.case)


def _imported(slicer: str) -> tuple[str, str]:
    """The imports of a test, and the slicer's name in it."""
    module, colon, name = slicer.partition(":")
    if not (colon and module and name):
        raise BadInput(
            f"slicer is {one_line(repr(slicer))}, but a test imports it by module and name. "
            'No test was written. Give "module:name", such as "my_trainer.batches:cut".'
        )
    words = [*module.split("."), name]
    if all(word.isidentifier() and not iskeyword(word) for word in words) and slicer.isascii():
        ours = name in ("vd", "batch") or name.startswith(("test", "Test"))  # or pytest runs it
        lines = [VLMDEBUG, f"from {module} import {name}"]
        return "\n".join(lines) + (" as slicer" if ours else ""), "slicer" if ours else name
    lines = [
        "from importlib import import_module",
        "from operator import attrgetter\n",
        f"{VLMDEBUG}\n",
        f"slicer = attrgetter({literal(name)})(import_module({literal(module)}))",
    ]
    return "\n".join(lines), "slicer"


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
