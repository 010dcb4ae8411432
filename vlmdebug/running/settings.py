"""The options of a search for counterexamples: name, default, meaning and flag of each.

`falsify`, `falsify_all`, `assert_slices`, the Hypothesis strategies and the command line take these
options and pass one `FalsifySettings` on. `vlmdebug.core.given.CHECKS` holds the valid values of an
option, as for every public argument.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from vlmdebug.core.given import SIDES, refuse_other_value

if TYPE_CHECKING:
    from vlmdebug.families import Family

T = TypeVar("T")
WIDTH = 98
PROFILES: dict[str, tuple[int, float | None]] = {
    "fast": (32, 2.0),
    "default": (200, None),
    "nightly": (5000, None),
}
"""Cases per family and seconds of each profile."""


def option(default: Any, meaning: str, flag: str, **argument: Any) -> Any:
    """A field: its line in docstrings and `--help`, its flag, and its argparse options."""
    return field(default=default, metadata={"meaning": meaning, "flag": flag, "argument": argument})


def documented(thing: T) -> T:
    """A function or class with one line per option it takes, in place of a line `options: …`."""
    if thing.__doc__ is not None:  # None under python -OO
        takes = inspect.signature(thing).parameters  # pyright: ignore[reportArgumentType]
        known = [one for one in options() if one.name in takes]
        thing.__doc__ = re.sub(
            r"^( *)options: .*$",
            lambda found: "\n".join(_line(one, found[1]) for one in known),
            thing.__doc__,
            flags=re.MULTILINE,
        )
    return thing


def _line(one: Field[Any], indent: str) -> str:
    return textwrap.fill(
        f"{one.name}: {one.metadata['meaning']}",
        WIDTH,
        initial_indent=indent,
        subsequent_indent=f"{indent}    ",
        break_long_words=False,
        break_on_hyphens=False,
    )


@dataclass(frozen=True)
class FalsifySettings:
    """What a search tries, and how long.

    Attributes:
        options: As the fields below describe them.

    Raises:
        BadInput: An option has an invalid value.
    """

    families: Sequence[str] | None = option(
        None,
        "Names of the families to try, in this order; all by default. A few cases of each are "
        "tried before more of any.",
        "--family",
        action="append",
        metavar="FAMILY",
    )
    max_examples: int = option(200, "Cases to try per family.", "--max-examples", type=int)
    seconds: float | None = option(
        None, "Time for the whole search; no limit by default.", "--seconds", type=float
    )
    seed: int = option(0, "The same seed tries the same cases.", "--seed", type=int)
    text_only: bool = option(
        True,
        "Whether samples without images are tried; False if your trainer refuses them.",
        "--no-text-only",
        action="store_false",
    )
    clips: bool | Collection[str] = option(
        True,
        "Whether videos and audio clips are tried, if the models of a family take them; "
        '`["video"]` or `["audio"]` if your trainer takes one of the two.',
        "--no-clips",
        action="store_false",
    )
    position_ids: bool = option(
        True,
        "Whether M-RoPE's `position_ids` are tried, which some trainers compute ahead and add to "
        "the batch; False if yours does not.",
        "--no-position-ids",
        action="store_false",
    )
    padding_side: str | None = option(
        None,
        '`"right"` or `"left"`, if your trainer pads on that side only; both are tried by default.',
        "--padding-side",
        choices=SIDES,
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            refuse_other_value(one.name, getattr(self, one.name), "Nothing was tried.")

    def in_profile(self, name: str | None) -> FalsifySettings:
        """These settings, with the number of cases and the time of a profile where none was given.

        Raises:
            BadInput: There is no such profile.
        """
        refuse_other_value("profile", name, "Nothing was tried.")
        cases, seconds = PROFILES[name or "default"]
        if self.max_examples != FalsifySettings.max_examples:
            cases = self.max_examples
        return replace(self, max_examples=cases, seconds=self.seconds or seconds)

    def clips_of(self, family: Family) -> list[str]:
        """Kinds of clips that are tried on a family."""
        if isinstance(self.clips, bool):
            return family.clips if self.clips else []
        return [unit for unit in family.clips if unit in self.clips]


def options() -> tuple[Field[Any], ...]:
    """The options in order; `metadata` of each has its `meaning`, `flag` and `argument`."""
    return fields(FalsifySettings)


DEFAULTS = documented(FalsifySettings)()
