"""Files and diffs that `review` reads: their names, encodings and changed lines."""

from __future__ import annotations

import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from vlmdebug.errors import BadInput

WORDS = re.compile(
    r"pixel|image_|video_|aspect_|spatial_|high_res|input_features|feature_attention"
    r"|\.items\(|tree_map|map_structure|KEYS"
)
"""What a file must say somewhere to be about batches with media."""
IGNORE = re.compile(r"#\s*vlmdebug:\s*ignore(?:\[([\w\s,]+)\])?")


def files_of(names: Iterable[str | Path]) -> Iterator[tuple[Path, bool]]:
    """Python files, and whether each was found in a folder."""
    for path in map(Path, names):
        if not path.is_dir():
            yield path, False
            continue
        for own in sorted(path.rglob("*.py")):
            yield own, True


def text_of(path: Path) -> str:
    """The source of a file, by the encoding that it declares, as Python reads it.

    Raises:
        BadInput: It is not text in that encoding.
        OSError: It cannot be read.
    """
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (UnicodeDecodeError, SyntaxError, LookupError):
        raise BadInput(f"{path} is not UTF-8 text. Nothing of it was reviewed.") from None


def ignored(line: str, code: str) -> bool:
    """Whether a comment on the line says that this code is meant: `# vlmdebug: ignore[VLM001]`."""
    found = IGNORE.search(line)
    if found is None:
        return False
    return found[1] is None or code in re.split(r"[\s,]+", found[1].strip())


def changed_lines(diff: str) -> dict[str, frozenset[int]]:
    """By file, the lines that a unified diff adds or changes, and those next to what it deletes."""
    found: dict[str, set[int]] = {}
    own: set[int] = set()
    line = left = gone = 0
    for text in diff.splitlines():
        hunk = re.match(r"@@ -\d+(?:,(\d+))? \+(\d+)(?:,(\d+))? @@", text)
        if hunk:
            gone, line, left = int(hunk[1] or 1), int(hunk[2]), int(hunk[3] or 1)
        elif left and text.startswith("+"):
            own.add(line)
            line, left = line + 1, left - 1
        elif gone and text.startswith("-"):
            own.update((max(line - 1, 1), max(line, 1)))
            gone -= 1
        elif (left or gone) and (text.startswith(" ") or not text):
            line, left, gone = line + 1, left - 1, gone - 1
        elif text.startswith("+++ "):
            own = found.setdefault(_name(text[4:].partition("\t")[0]), set())
    return {name: frozenset(lines) for name, lines in found.items() if name != "/dev/null"}


def _name(said: str) -> str:
    """The name of a file in a diff: git quotes those with other letters than ASCII's."""
    said = said.strip()
    if said.startswith('"') and said.endswith('"'):
        raw = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), said[1:-1])
        raw = re.sub(r"\\(.)", r"\1", raw)
        said = raw.encode("latin-1", errors="replace").decode(errors="replace")
    return re.sub(r"^(\./|b/)", "", said)


def from_here(path: Path) -> str:
    """The path as a diff made in this folder names it."""
    whole = path.resolve()
    here = Path.cwd()
    return (whole.relative_to(here) if whole.is_relative_to(here) else path).as_posix()
