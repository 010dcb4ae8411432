"""Text from a batch or from user code, as a part of Python source that it cannot leave."""

from __future__ import annotations

from vlmdebug.errors import BadInput
from vlmdebug.safe import one_line


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
