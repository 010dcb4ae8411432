"""Test vlmdebug next to other releases of Python, torch and transformers: `make test-versions`.

Each row of ENVIRONMENTS gets an environment of its own below `.venv/versions`, which is kept.
`tests/test_versions.py` runs there on synthetic batches, and on batches of small models that are
built from the release's own classes. The Python of `.venv` shares its torch by links; any other
gets torch from the registry, which may bring gigabytes of CUDA packages. Writes `docs/versions.md`.

    python tools/versions.py                # all rows
    python tools/versions.py 4.57.6 3.10    # rows with one of these versions; no page is written

A Python that is not found is named on the page and not run.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

ROOT = Path(__file__).parent.parent
FOLDER = Path(sys.prefix) / "versions"
PAGE = ROOT / "docs" / "versions.md"
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
TESTS = ("pytest", "hypothesis", "pillow", "safetensors")
# What torch needs besides itself; installed here, because torch is linked without them.
BESIDE_TORCH = ("sympy", "networkx", "jinja2", "fsspec", "filelock", "typing_extensions")


@dataclass(frozen=True)
class Environment:
    """One row. `torch` is None for that of `.venv`, `transformers` None for none at all."""

    python: str
    transformers: str | None
    torch: str | None = None
    more: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return FOLDER / f"python{self.python}-torch{self.torch}-transformers{self.transformers}"

    @property
    def packages(self) -> list[str]:
        """What pip installs."""
        torch = [f"torch=={self.torch}"] if self.torch else list(BESIDE_TORCH)
        release = [f"transformers=={self.transformers}"] if self.transformers else []
        return [*TESTS, *torch, *release, *self.more, *([] if self.more else ["numpy"])]


ENVIRONMENTS = (
    *(Environment(HERE, release) for release in (None, "4.56.2", "4.57.6", "5.6.2", "5.12.1")),
    Environment(HERE, "5.24.0"),
    Environment("3.10", "4.57.6", "2.2.2", ("numpy<2",)),
    Environment("3.10", "5.20.2", "2.6.0"),  # the last one for this Python
    Environment("3.13", "5.24.0", "2.13.0"),
)


def find_python(version: str) -> str | None:
    """An interpreter of this version: on the path, or one of pyenv's."""
    if version == HERE:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    kept = sorted(pyenv.glob(f"{version}.*/bin/python"))
    for found in (shutil.which(f"python{version}"), *map(str, reversed(kept))):
        quiet = {"check": False, "stderr": subprocess.DEVNULL}
        if found and subprocess.run([found, "-c", ""], **quiet).returncode == 0:
            return found
    return None


def link_torch(site: Path) -> None:
    """Link the torch of `.venv` into another environment of the same Python."""
    torch = distribution("torch")
    parts = {file.parts[0] for file in torch.files or () if not file.parts[0].startswith(".")}
    for name in sorted(parts):
        (site / name).symlink_to(Path(str(torch.locate_file(name))).resolve())


def make(environment: Environment, python: str) -> Path:
    """The interpreter of the environment, which is made unless it exists."""
    made = environment.folder / "bin" / "python"
    if (environment.folder / ".made").is_file():
        return made
    shutil.rmtree(environment.folder, ignore_errors=True)
    print(f"Making {environment.folder.name}", file=sys.stderr, flush=True)
    subprocess.run([python, "-m", "venv", str(environment.folder)], check=True)
    if environment.torch is None:
        link_torch(environment.folder / "lib" / f"python{environment.python}" / "site-packages")
    pip = [str(made), "-m", "pip", "install", "-q", *environment.packages]
    subprocess.run(pip, check=True, stderr=subprocess.DEVNULL)
    (environment.folder / ".made").touch()
    return made


def run(environment: Environment) -> str:
    """The result of the tests, as a cell of the table."""
    python = find_python(environment.python)
    if python is None:
        return "not run: no such Python"
    try:
        made = make(environment, python)
    except subprocess.CalledProcessError:
        return "not run: pip found no such packages"
    command = [str(made), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_versions.py"]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        print(ran.stdout[-4000:], ran.stderr[-2000:], file=sys.stderr)
    last = (ran.stdout.strip() or "nothing was run").splitlines()[-1]
    return re.sub(r" in [\d.]+s.*|=+ ?", "", last)


def row(environment: Environment, result: str) -> str:
    """One line of the table."""
    torch = environment.torch or str(distribution("torch").version).partition("+")[0]
    cells = (environment.python, torch, environment.transformers or "none", result)
    return f"| {' | '.join(cells)} |"


def page(rows: list[str]) -> str:
    """The table as a page of the docs."""
    lines = [
        "# Releases that were tested",
        "",
        "<!-- Written by `make test-versions`; do not edit. -->",
        "",
        "`pip install vlmdebug` requires Python 3.10 or newer and numpy. It reads, checks,",
        "falsifies, reviews and exports next to any of these releases. It does not import",
        "transformers to do so: it reads the files of the installed release to find the keys that",
        "each model accepts.",
        "",
        "In each environment, `tests/test_versions.py` runs `assert_slices`, `check`, `export` and",
        "`review` on synthetic batches. Where transformers is installed, it also builds a small",
        "Qwen2-VL, LLaVA and Gemma 3 from that release's own classes. It reads a batch of the",
        "release's own processor, compares each verdict with the model, and watches `generate`.",
        "",
        "| Python | torch | transformers | tests |",
        "|---|---|---|---|",
        *rows,
        "",
        "- Whether a wrong call raises is predicted for the releases in which the rules were",
        "  compared with the models: 5.23 and 5.24. In others the report says unknown; `prove`",
        "  runs your model.",
        "- The tiny models of `vlmdebug[tiny]` require transformers 5.20 or newer. All that a",
        "  release has are built; in 5.24 all run. With torch 2.6 and transformers 5.20.2 SmolVLM,",
        "  Qwen4-Exp, GLM-5-Next, Kosmos-2 and GOT-OCR 2 raise. In 5.20, Gemma 4's require",
        "  torchvision.",
        "- transformers 5.21 and newer require Python 3.11 or newer; 5.20 accepts 3.10.",
    ]
    return "\n".join(lines) + "\n"


def main(asked: list[str]) -> None:
    """Run the rows that were asked for, or all of them, and then write the page."""
    known = {
        str(part) for one in ENVIRONMENTS for part in (one.python, one.transformers, one.torch)
    }
    if not known.issuperset(asked):
        sys.exit(f"{__doc__}\nVersions: {', '.join(sorted(known - {'None'}))}")
    rows, failed = [], False
    for one in ENVIRONMENTS:
        if asked and not {one.python, one.transformers, one.torch} & set(asked):
            continue
        result = run(one)
        failed |= not re.fullmatch(r"\d+ passed(, \d+ skipped)?(, \d+ warnings?)?", result)
        rows.append(row(one, re.sub(r", \d+ warnings?", "", result)))
        print(rows[-1], flush=True)
    if not asked:
        PAGE.write_text(page(rows), encoding="utf-8")
    sys.exit(failed)


if __name__ == "__main__":
    main(sys.argv[1:])
