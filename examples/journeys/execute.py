"""Executes a notebook, and prints what its cells print.

python execute.py NOTEBOOK
"""

import sys

import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=600).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        shown = output.get("data", {})
        text = output.get("text") or shown.get("text/plain", "")
        assert "Warning" not in text, text
        print(text)
        if "text/html" in shown:
            print(f"(and {len(shown['text/html']):,} characters of HTML)")
