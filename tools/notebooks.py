"""Run every notebook in a new kernel and store its output: `make notebooks`.

Widget state, cell ids and timings are removed, so a diff shows what changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main(names: list[str]) -> None:
    """Run the given notebooks, or all."""
    for path in sorted(FOLDER.glob("*.ipynb")):
        if names and not any(name in path.stem for name in names):
            continue
        notebook = nbformat.read(path, as_version=4)
        client = NotebookClient(
            notebook,
            timeout=120,
            kernel_name="python3",
            store_widget_state=False,
            coalesce_streams=True,
        )
        client.execute()
        for cell in notebook.cells:
            cell.pop("id", None)
            cell.metadata = {}
            for output in cell.get("outputs", []):
                output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            if cell.cell_type == "code":
                cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
        notebook.metadata = METADATA
        notebook.nbformat_minor = 4
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main(sys.argv[1:])
