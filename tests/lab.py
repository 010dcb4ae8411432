"""A real JupyterLab in a real browser, for the tests of what a person sees."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
# As root and without a screen; nothing is fetched from anywhere.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

METADATA = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def lab(folder: Path, config: str = "") -> Iterator[str]:
    """A JupyterLab that serves `folder`, with a server's configuration; gives its address."""
    runtime = folder / ".runtime"
    runtime.mkdir()
    (folder / ".config").mkdir()
    (folder / ".config" / "jupyter_server_config.py").write_text(config)
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *("--LabApp.expose_app_in_browser=True", "--port=0", "--IdentityProvider.token="),
            "--LabApp.news_url=None",
            *("--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={folder}"),
        ],
        env={
            **os.environ,
            "JUPYTER_RUNTIME_DIR": str(runtime),
            "JUPYTER_CONFIG_DIR": str(folder / ".config"),
            "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"),
            "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"),
        },
        stdout=(folder / ".log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        yield _address(server, runtime, folder / ".log")
    finally:
        server.terminate()
        server.wait(20)


def _address(server: subprocess.Popen, runtime: Path, log: Path) -> str:
    for _ in range(1200):
        found = list(runtime.glob("jpserver-*.json"))
        if found:
            return json.loads(found[0].read_text())["url"]
        assert server.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    raise TimeoutError(log.read_text()[-3000:])


def write_notebook(path: Path, *cells: str) -> None:
    """A notebook of code cells that have not been run, for the kernel of this Python."""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata=METADATA,
    )
    nbformat.write(notebook, path)


def open_notebook(page: Any, address: str, name: str, *, dark: bool = False) -> None:
    """Open the notebook alone; wait until it can be run."""
    page.goto(f"{address}lab/tree/{name}?reset")
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
    page.evaluate("window.jupyterapp.restored.then(() => null)")
    page.wait_for_function("window.jupyterapp.shell.currentWidget?.sessionContext?.isReady")
    if dark:
        command(page, "apputils:change-theme", theme="JupyterLab Dark")
        page.wait_for_selector("body[data-jp-theme-light='false']", state="attached")


def command(page: Any, name: str, **arguments: str) -> None:
    """Begin one of JupyterLab's own commands; what it does is waited for on the page."""
    page.evaluate(
        "([name, given]) => { window.jupyterapp.commands.execute(name, given) }", [name, arguments]
    )
