"""The combined results of walking one function through all layouts."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vlmdebug.review.cuts import Cut
from vlmdebug.review.keys import Keys
from vlmdebug.review.names import Function
from vlmdebug.review.walk import Unbound, Walk
from vlmdebug.safe import one_line


@dataclass(frozen=True)
class Remark:
    """A contradiction between the code and the layouts.

    Attributes:
        file, line, function: The location.
        code: The mismatch that it leads to, such as `VLM001`.
        text: The code in question.
        message: What is wrong, in which layouts, and what to do.
        wrong: The layouts in which it is wrong.
        right: The layouts in which it is right.
        unsure: The conditions on the path that could not be evaluated; None if there are none. A
            remark with such a condition is no finding.
    """

    file: str
    line: int
    function: str
    code: str
    text: str
    message: str
    wrong: tuple[str, ...]
    right: tuple[str, ...] = ()
    unsure: str | None = None

    def __str__(self) -> str:
        head = one_line(f"{self.file}:{self.line}: {self.code} {self.text}")
        return "\n".join([head, *(_wrapped(line) for line in self.message.splitlines())])


class FunctionReview:
    """One function, walked through every layout."""

    function: Function
    file: str
    agreeing: int

    def __init__(
        self,
        function: Function,
        file: str,
        layouts: Sequence[Keys],
        constants: Mapping[str, ast.expr],
    ) -> None:
        self.function, self.file = function, file
        self.walks: dict[Keys, Walk] = {keys: Walk(function, keys, constants) for keys in layouts}
        self.agreeing = 0
        self.not_judged: list[str] = []
        self.remarks: list[Remark] = [*self._cuts(), *self._stale(), *self._unbound()]

    @property
    def cuts_media(self) -> bool:
        """Whether the function cuts a batch that includes media."""
        return any(
            cut.key in keys.axes for keys, walk in self.walks.items() for cut in walk.cuts.values()
        )

    def _cuts(self) -> Iterator[Remark]:
        met: dict[tuple[int, str], list[tuple[Keys, Cut]]] = {}
        for keys, walk in self.walks.items():
            for cut in walk.cuts.values():
                if cut.key in keys.axes:
                    met.setdefault((cut.line, cut.text), []).append((keys, cut))
        for (line, text), cuts in sorted(met.items()):
            unread = [cut for _, cut in cuts if cut.unit is None]
            if unread:
                self.not_judged.append(one_line(f"{self.file}:{line}: {text}"))
                continue
            wrong = [(keys, cut) for keys, cut in cuts if keys.axes[cut.key].unit != cut.unit]
            sure = [(keys, cut) for keys, cut in wrong if cut.unsure is None]
            if wrong:
                yield self._wrong_axis(sure or wrong, cuts, None if sure else wrong[0][1].unsure)
            else:
                self.agreeing += 1

    def _wrong_axis(
        self,
        wrong: Sequence[tuple[Keys, Cut]],
        cuts: Sequence[tuple[Keys, Cut]],
        unsure: str | None,
    ) -> Remark:
        cut = max((cut for _, cut in wrong), key=lambda cut: cut.key == "pixel_values")
        of_key = [keys for keys, other in wrong if other.key == cut.key]
        others = list(dict.fromkeys(other.key for _, other in wrong if other.key != cut.key))
        by_unit: dict[str, list[str]] = {}
        for keys in of_key:
            by_unit.setdefault(keys.axes[cut.key].unit, []).append(keys.name)
        said = "; ".join(f"{unit} in {', '.join(names)}" for unit, names in by_unit.items())
        lines = [f"{cut.key} is cut per {cut.unit}, but has one row per {said}."]
        if cut.unit == "sample" and "image" in by_unit:
            lines.append("With one row per image, that is right only while each sample has one.")
        if others:
            more = f" … {len(others)} keys in all" if len(others) > 4 else ""
            lines.append(f"The same with {', '.join(others[:4])}{more}.")
        names = [keys.name for keys, _ in wrong]
        right = tuple(
            keys.name for keys, other in cuts if other.key == cut.key and keys.name not in names
        )
        if right:
            lines.append(f"It is right in {', '.join(right)}.")
        if unsure:
            lines.append(f"Whether a batch gets here hangs on: {_short(unsure)}")
        else:
            lines.append("Cut by running totals of what the rows count; see `vlmdebug export`.")
        found = tuple(dict.fromkeys(names))
        return self._remark(cut.line, "VLM001", cut.text, lines, found, right, unsure)

    def _stale(self) -> Iterator[Remark]:
        asked: dict[str, int] = {}
        for walk in self.walks.values():
            for key, line in walk.asked.items():
                asked[key] = min(line, asked.get(key, line))
        first = next(iter(self.walks))
        for key, line in asked.items():
            near = first.nearest(key)
            wrong = tuple(keys.name for keys in self.walks if near in keys.axes)
            lines = [
                f"No layout that is known has {key}, so its branch never runs.",
                f"{near}, which {', '.join(wrong) or 'another'} has, is cut by no such branch.",
                f"Rename {key} to {near} if that is meant.",
            ]
            yield self._remark(line, "VLM004", key, lines, wrong)

    def _unbound(self) -> Iterator[Remark]:
        met: dict[tuple[int, str], list[tuple[Keys, Unbound]]] = {}
        for keys, walk in self.walks.items():
            for place, unbound in walk.unbound.items():
                met.setdefault(place, []).append((keys, unbound))
        for (line, name), places in sorted(met.items()):
            sure = [keys.name for keys, unbound in places if unbound.unsure is None]
            wrong = tuple(sure or [keys.name for keys, _ in places])
            unsure = None if sure else places[0][1].unsure
            if unsure and len(wrong) == len(self.walks):
                continue  # it depends on options, not on a layout: a task for a linter
            lines = [
                f"{name} is not assigned where batches of {', '.join(wrong)} get here: "
                "UnboundLocalError.",
                f"Whether they do hangs on: {_short(unsure)}"
                if unsure
                else "Assign it before the branches.",
            ]
            yield self._remark(line, "VLM008", name, lines, wrong, unsure=unsure)

    def _remark(
        self,
        line: int,
        code: str,
        text: str,
        lines: Sequence[str],
        wrong: tuple[str, ...],
        right: tuple[str, ...] = (),
        unsure: str | None = None,
    ) -> Remark:
        message, name = "\n".join(lines), self.function.name
        return Remark(self.file, line, name, code, text, message, wrong, right, unsure)


def _short(tests: str) -> str:
    """The conditions on the path, as many as fit in two lines."""
    return textwrap.shorten(tests, 150, placeholder=" …")


def _wrapped(line: str) -> str:
    return textwrap.fill(
        line, 88, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )
