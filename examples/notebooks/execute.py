"""Executes notebooks anew and stores what their cells show, without traces of this machine.

    python execute.py [NOTEBOOK ...]

Without names all notebooks beside this file. A notebook runs in an empty folder, with `networks.py`
as a module. Kept are sources, outputs and their order; times and other metadata go. The hash of
the code that ran is noted, so that a test sees code whose outputs are older than itself.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
KEPT = {"page"}  # metadata of cells: the section of the documentation that a cell repeats
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main(paths: list[Path]) -> None:
    """Execute and store; ends with the error of the first cell that raises."""
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        execute(notebook)
        strip(notebook)
        nbformat.validate(notebook)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        print(f"reached: the end of {path.name}")


def execute(notebook: NotebookNode) -> None:
    """Run all cells in an empty folder; a warning is an error."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(HERE / "networks.py", folder)
        NotebookClient(
            notebook,
            timeout=600,
            coalesce_streams=True,
            kernel_name=KERNEL["name"],
            resources={"metadata": {"path": folder}},
        ).execute(env={**os.environ, "OMP_NUM_THREADS": "1"})  # the same sums in every run
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output["text"]


def strip(notebook: NotebookNode) -> None:
    """Leave what a reader sees, and the hash of the code."""
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number}"
        cell.metadata = {key: text for key, text in cell.metadata.items() if key in KEPT}
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output.metadata = {}
            rich = output.get("data", {}).keys() & {"text/html", "image/svg+xml"}
            if rich:
                output.data = {kind: output.data[kind] for kind in sorted(rich)}
    notebook.nbformat_minor = 5
    notebook.metadata = {
        "kernelspec": KERNEL,
        "language_info": {"name": "python"},
        "executed": code_hash(notebook),
    }


def code_hash(notebook: NotebookNode) -> str:
    """The SHA-256 of all code in order."""
    sources = (cell.source for cell in notebook.cells if cell.cell_type == "code")
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")))
