"""Text from a batch or from user code, made harmless for any place it is shown.

Keys, tokens, names and messages may hold control characters, terminal escapes, marks that turn
the reading direction, or lone surrogates. They are shown as what they are, never acted on.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

LIMIT = 2000

_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories of characters that act instead of showing: control, format, surrogate …"""

_COMMAND = re.compile(r"^(\s*):(?=:)|#(?=#(?:\[|vso\[|teamcity\[))", re.MULTILINE)
"""What a CI system takes for a command: `::error` where a line begins (GitHub trims it first), and
`##[` or `##vso[` anywhere (Azure, and GitHub's older form)."""


def plain(text: object, limit: int = LIMIT) -> str:
    r"""The text with acting characters spelled out, and cut at `limit` characters.

    Line breaks stay, for they are the structure of a message.

    >>> plain("a\x1b[31mb"), plain("pixel_values", limit=5)
    ('a\\x1b[31mb', 'pixel… (12 characters)')
    """
    whole = str(text)
    shown = whole if len(whole) <= limit else f"{whole[:limit]}… ({len(whole)} characters)"
    return _spelled_out(shown)


def one_line(text: object, limit: int = LIMIT) -> str:
    r"""`plain`, with line breaks spelled out too: for names, keys and table cells."""
    return plain(text, limit).replace("\n", "\\n")


def first_line(error: BaseException, limit: int = LIMIT) -> str:
    r"""What an exception says first, or its class, to be quoted in a sentence.

    >>> first_line(ImportError("\nA requires B.\nInstall it.")), first_line(KeyError())
    ('A requires B', 'KeyError')
    """
    said = str(error).strip() or type(error).__name__
    return one_line(said.partition("\n")[0].rstrip("."), limit)


def escaped(text: object, limit: int = LIMIT) -> str:
    """`plain`, for HTML text and quoted attributes."""
    return html.escape(plain(text, limit), quote=True)


def harmless(text: object) -> str:
    r"""`plain` of any length, in which no line is a command to a CI system; for logs and terminals.

    >>> harmless("a\n ::error::b")
    'a\n \\x3a:error::b'
    """
    return _COMMAND.sub(_disarmed, _spelled_out(str(text)))


def spell_names(text: str, names: Iterable[object]) -> str:
    r"""The text, in which names that would act are spelled out wherever they are mentioned.

    Messages are sentences with line breaks of their own, so that a line break in a name can be
    distinguished from these only while the name is known.

    >>> spell_names("no a\nb here\nLeave it out.", ["a\nb", "c"])
    'no a\\nb here\nLeave it out.'
    """
    acting = [name for name in map(str, names) if acts(name)]
    for name in sorted(acting, key=len, reverse=True):
        text = text.replace(name, harmless(one_line(name)))
    return text


@lru_cache(maxsize=1024)  # the same names come with every report
def acts(name: str) -> bool:
    """Whether a name would do something where it is printed: a control character, a command."""
    return bool(name) and (not name.isprintable() or _COMMAND.search(name) is not None)


def _disarmed(command: re.Match[str]) -> str:
    return r"\x23" if command[1] is None else rf"{command[1]}\x3a"


def _spelled_out(text: str) -> str:
    if text.replace("\n", "").isprintable():  # almost every text; no character of it can act
        return text
    return "".join(map(_spelled, text))


def _spelled(character: str) -> str:
    if character == "\n" or unicodedata.category(character) not in _HIDDEN:
        return character
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
