"""The exceptions a user of vlmdebug can meet.

Each message says what was given, what belongs there, what will happen, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from vlmdebug.safe import harmless, spell_names


class VlmDebugError(Exception):
    """Base class of every exception that vlmdebug raises on purpose.

    Its text may quote a batch or a file, so that nothing in it acts where it is printed.
    """

    def __str__(self) -> str:
        return harmless(super().__str__())


class BadInput(VlmDebugError, ValueError):
    """An argument cannot be read as a batch, a count, a layout or a family."""


class NotJudged(BadInput):
    """A slicer could not be tested; this says nothing about the slicer."""


class AmbiguousError(VlmDebugError):
    """The batch fits more than one layout or count; the message names what settles it."""


class MismatchError(VlmDebugError, AssertionError):
    """A slicer, or the batch itself, passed other rows than it should have.

    `report` holds every detail.
    """

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


@contextmanager
def naming(names: Iterable[object]) -> Iterator[None]:
    """Errors raised in the block may mention these names; no line break of a name acts in them."""
    try:
        yield
    except VlmDebugError as error:
        error.args = tuple(spell_names(str(said), names) for said in error.args)
        raise
