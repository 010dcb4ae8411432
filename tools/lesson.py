"""How long a lesson takes: what a student reads, runs and answers in each notebook.

    python tools/lesson.py --run

Reading is all prose, code and printed output at 200 words a minute; folded solutions and pictures
are left out. Each question takes a minute and a half. With `--run`, every cell is executed in a new
kernel and timed.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

FOLDER = Path(__file__).parent.parent / "notebooks"
LESSON = ("01", "03")
"""The notebooks of the lesson of 45 minutes."""
WORDS_A_MINUTE = 200
MINUTES_A_QUESTION = 1.5
FOLDED = re.compile(r"<details>.*?</details>", re.DOTALL)
QUESTION = re.compile(r"\bpredict\(|^exercise\(", re.MULTILINE)


class Clock(NamedTuple):
    """Words, questions, and seconds of running."""

    words: int
    questions: int
    seconds: float = 0

    @property
    def minutes(self) -> float:
        """All three together."""
        reading = self.words / WORDS_A_MINUTE
        return reading + self.questions * MINUTES_A_QUESTION + self.seconds / 60


def clock(notebook: Any, seconds: float = 0) -> Clock:
    """What a student reads and answers in a notebook, from its stored outputs."""
    words = questions = 0
    for cell in notebook.cells:
        words += len(FOLDED.sub("", cell.source).split())
        if cell.cell_type == "code":
            questions += len(QUESTION.findall(cell.source))
            words += sum(len(_printed(output).split()) for output in cell.outputs)
    return Clock(words, questions, seconds)


def _printed(output: Any) -> str:
    return output.get("text") or output.get("data", {}).get("text/plain", "")


def run_and_time(notebook: Any) -> float:
    """Seconds from the start of a new kernel to the last output."""
    from nbclient import NotebookClient

    began = time.perf_counter()
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return time.perf_counter() - began


def main() -> None:
    """Print a line for each notebook, and the total of the lesson."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--run", action="store_true", help="also run the notebooks")
    run, total = options.parse_args().run, 0.0
    print("notebook  words  questions  running  minutes")
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        found = clock(notebook, run_and_time(notebook) if run else 0)
        total += found.minutes if path.name[:2] in LESSON else 0
        print(
            f"{path.name[:2]:8}  {found.words:5}  {found.questions:9}  {found.seconds:6.0f}s"
            f"  {found.minutes:7.1f}"
        )
    print(f"{' and '.join(LESSON)}: {total:.1f} minutes")


if __name__ == "__main__":
    main()
