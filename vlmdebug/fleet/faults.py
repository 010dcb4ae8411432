"""What can be wrong with one row of a data set."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Kind(str, Enum):
    """One kind of fault; the value is what the table of an audit holds."""

    UNREADABLE = "unreadable"
    PLACEHOLDERS = "placeholders"
    LITERAL = "literal"
    MISSING = "missing"
    BROKEN = "broken"
    SIZE = "size"
    CUT = "cut"
    LOST = "lost"
    NO_TARGET = "no_target"
    EMPTY = "empty"


MEANING = {
    Kind.UNREADABLE: "No messages, prompt or text, or the chat template does not take them.",
    Kind.PLACEHOLDERS: "The text has more or fewer places for images than the row has images.",
    Kind.LITERAL: "Prose spells a placeholder, which the processor takes for an image.",
    Kind.MISSING: "An image is not there: no such file, or nothing in its place.",
    Kind.BROKEN: "The bytes of an image are no image, or (with decode) end too early.",
    Kind.SIZE: "The processor refuses an image of this size.",
    Kind.CUT: "max_length cuts through the tokens of an image.",
    Kind.LOST: "max_length leaves no token of an image.",
    Kind.NO_TARGET: "No answer to learn from: none is there, or max_length leaves none of it.",
    Kind.EMPTY: "The row has no text but placeholders, and no answer.",
}
"""One sentence for each kind, as pages and printed reports give it."""


class Fault(NamedTuple):
    """One fault of a row, with the sentence that says where."""

    kind: Kind
    detail: str
