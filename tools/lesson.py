"""The clock of a lesson: when each section of its notebooks begins, and how long it takes.

    python tools/lesson.py --run

Reading is all prose, code and printed output at 200 words a minute; folded solutions and pictures
are left out. Each question takes a minute and a half. With `--run`, every cell is executed in a new
kernel and its time is added.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

FOLDER = Path(__file__).parent.parent / "notebooks"
LESSON = ("01", "03")
"""The notebooks of the lesson of 45 minutes."""
WORDS_A_MINUTE = 200
MINUTES_A_QUESTION = 1.5
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
HEADING = re.compile(r"^##? (.+)$", re.MULTILINE)
QUESTION = re.compile(r"\bpredict\(|^exercise\(", re.MULTILINE)


class Section(NamedTuple):
    """What a student reads and answers below one heading, and seconds of running."""

    title: str
    words: int = 0
    questions: int = 0
    seconds: float = 0

    @property
    def minutes(self) -> float:
        """All three together."""
        reading = self.words / WORDS_A_MINUTE
        return reading + self.questions * MINUTES_A_QUESTION + self.seconds / 60


def sections(notebook: Any) -> Iterator[Section]:
    """The sections of a notebook, from its stored outputs and times."""
    found = Section("")
    for cell in notebook.cells:
        parts = HEADING.split(FOLDED.sub("", cell.source)) if cell.cell_type == "markdown" else []
        if not parts:
            found = found._replace(
                words=found.words + len(cell.source.split()) + sum(map(_printed, cell.outputs)),
                questions=found.questions + len(QUESTION.findall(cell.source)),
                seconds=found.seconds + _seconds(cell.metadata.get("execution", {})),
            )
            continue
        found = found._replace(words=found.words + len(parts[0].split()))
        for title, prose in zip(parts[1::2], parts[2::2], strict=True):
            if found.title:
                yield found
            found = Section(title, words=len(title.split()) + len(prose.split()))
    yield found


def _printed(output: Any) -> int:
    """Words that an output prints."""
    return len((output.get("text") or output.get("data", {}).get("text/plain", "")).split())


def _seconds(times: Any) -> float:
    """How long a cell ran, if that was recorded."""
    ends = [times.get(name) for name in ("iopub.execute_input", "shell.execute_reply")]
    if None in ends:
        return 0
    start, end = (datetime.fromisoformat(time) for time in ends)
    return (end - start).total_seconds()


def lesson(numbers: Sequence[str] = LESSON, *, run: bool = False) -> list[tuple[str, Section]]:
    """Notebook and section, in the order of the lesson."""
    found: list[tuple[str, Section]] = []
    for number in numbers:
        (path,) = FOLDER.glob(f"{number}_*.ipynb")
        notebook = nbformat.read(path, as_version=4)
        if run:
            from nbclient import NotebookClient

            NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
        found += [(number, section) for section in sections(notebook)]
    return found


def main() -> None:
    """Print a line for each section, and the end of the lesson."""
    options = argparse.ArgumentParser(description="The clock of a lesson.")
    options.add_argument("--run", action="store_true", help="also run the notebooks")
    options.add_argument("notebooks", nargs="*", default=LESSON, help="such as 01 03")
    chosen, now = options.parse_args(), 0.0
    print("begins  minutes  words  questions  running")
    for number, section in lesson(chosen.notebooks, run=chosen.run):
        print(
            f"{now:6.1f}  {section.minutes:7.1f}  {section.words:5}  {section.questions:9}  "
            f"{section.seconds:6.1f}s  {number} {section.title}"
        )
        now += section.minutes
    print(f"{now:6.1f}  end")


if __name__ == "__main__":
    main()
