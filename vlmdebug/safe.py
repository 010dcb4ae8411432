"""Text from a batch or from user code, made harmless for any place it is shown.

Keys, tokens, names and messages may hold control characters, terminal escapes, marks that turn
the reading direction, or lone surrogates. They are shown as what they are, never acted on.
"""

from __future__ import annotations

import html
import unicodedata

from vlmdebug.errors import BadInput

LIMIT = 2000

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of characters that act instead of showing: control, format, surrogate …"""


def plain(text: object, limit: int = LIMIT) -> str:
    r"""The text with acting characters spelled out, and cut at `limit` characters.

    Line breaks stay, for they are the structure of a message.

    >>> plain("a\x1b[31mb"), plain("pixel_values", limit=5)
    ('a\\x1b[31mb', 'pixel… (12 characters)')
    """
    whole = str(text)
    shown = whole if len(whole) <= limit else f"{whole[:limit]}… ({len(whole)} characters)"
    if shown.replace("\n", "").isprintable():  # almost every text; no character of it can act
        return shown
    return "".join(_spelled(character) for character in shown)


def one_line(text: object, limit: int = LIMIT) -> str:
    r"""`plain`, with line breaks spelled out too: for names, keys and table cells."""
    return plain(text, limit).replace("\n", "\\n")


def escaped(text: object, limit: int = LIMIT) -> str:
    """`plain`, for HTML text and quoted attributes."""
    return html.escape(plain(text, limit), quote=True)


def _spelled(character: str) -> str:
    if character == "\n" or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def literal(text: object) -> str:
    r"""The text as a literal of Python source: ASCII, on one line, equal to the text when read.

    >>> literal("pixel_values"), literal('a"\n')
    ('"pixel_values"', '\'a"\\n\'')
    """
    if not isinstance(text, str):
        raise BadInput(
            f"A name is a {type(text).__name__}, but keys of a batch and names in a test are text. "
            "No code was written. Rename it to a string."
        )
    quoted = ascii("".join(text))  # a subclass of str may say anything of itself
    return quoted if '"' in quoted or "\\" in quoted else f'"{quoted[1:-1]}"'


def in_docstring(text: object, limit: int = 80) -> str:
    r"""The text for a docstring or comment of Python source, which it can neither end nor extend.

    >>> in_docstring('\"\"\"\nimport os')
    '\\"\\"\\"\\\\nimport os'
    """
    shown = one_line(text, limit).encode("ascii", "backslashreplace").decode("ascii")
    return shown.replace("\\", "\\\\").replace('"', '\\"')
