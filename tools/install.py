"""Install the project with some of its extras and print the packages: `make` calls it.

    python tools/install.py torch,plot
    python tools/install.py --beside .venv/torchvision timm torchvision

On a terminal pip shows its progress; elsewhere only errors. The versions are those of
constraints.txt. The tool runs before anything is installed, so it has no dependencies.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PINS = {
    name: f"{name}=={version}"
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
}


def packages(extras: list[str]) -> list[str]:
    """Names of the packages that the project needs with these extras, without repeats."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *map(project["optional-dependencies"].__getitem__, extras)]
    found = [re.split(r"[^\w.-]", line)[0] for lines in lists for line in lines]
    return list(dict.fromkeys(found))


def pip(arguments: list[str], *, terminal: bool) -> list[str]:
    """The command that installs; with progress only on a terminal."""
    quiet = [] if terminal else ["-q"]
    return [sys.executable, "-m", "pip", "install", *quiet, *arguments]


def install(title: str, names: list[str], arguments: list[str]) -> None:
    """Run pip; print the packages before and the time after."""
    print(f"Installing {title}: {', '.join(names)}", flush=True)
    start = time.monotonic()
    code = subprocess.run(pip(arguments, terminal=sys.stdout.isatty()), check=False).returncode
    if code:
        sys.exit(code)
    print(f"Installed {title} in {time.monotonic() - start:.0f} s.", flush=True)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", help="extras, with commas; or pinned packages")
    parser.add_argument("--beside", help="a folder for packages that nothing depends on")
    options = parser.parse_args()
    if options.beside:
        pins = [PINS[name] for name in options.names]
        install(options.beside, pins, ["--no-deps", "--upgrade", "--target", options.beside, *pins])
        return
    extras = ",".join(options.names)
    constraints = ["-c", str(ROOT / "constraints.txt")]
    project = f"vlmdebug[{extras}]"
    install(project, packages(extras.split(",")), [*constraints, "-e", f"{ROOT}[{extras}]"])


if __name__ == "__main__":
    main()
