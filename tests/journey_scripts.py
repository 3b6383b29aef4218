"""Scripts and notebooks of the examples: what they repeat of the documentation, what that needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from doc_pages import ROOT, blocks, section

JOURNEYS = ROOT / "examples" / "journeys"
NOTEBOOKS = ROOT / "examples" / "notebooks"
LANGUAGES = {".sh": "", ".py": "python", ".ipynb": "python"}
_REGION = re.compile(r"^ *# -> (\S+)\n(.*?)^ *# <-$", re.MULTILINE | re.DOTALL)
_INSTALL = re.compile(r"^pip install (.+)$", re.MULTILINE)


def scripts() -> list[Path]:
    """The scripts and notebooks that repeat a page."""
    found = (path for folder in (JOURNEYS, NOTEBOOKS) for path in folder.iterdir())
    return sorted(path for path in found if path.suffix in LANGUAGES and repeated(path))


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    """The cells of a notebook that are code, or Markdown; each with its `source` as one text."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [
        {**cell, "source": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind
    ]


def repeated(script: Path) -> dict[str, list[str]]:
    """The places that a script repeats, ``PAGE#ANCHOR``, each with its lines, not indented.

    In a script they stand between comments; cells of a notebook have the place as metadata.
    """
    found: dict[str, list[str]] = {}
    if script.suffix == ".ipynb":
        marked = [cell for cell in cells(script, "code") if "page" in cell["metadata"]]
        regions = [(cell["metadata"]["page"], cell["source"]) for cell in marked]
    else:
        regions = _REGION.findall(script.read_text(encoding="utf-8"))
    for place, text in regions:
        found.setdefault(place, []).extend(_lines(text))
    return found


def documented(place: str, language: str) -> list[str]:
    """The lines of all blocks of a place in a language, but for `pip install`."""
    texts = [b.text for b in section(place) if b.language == language]
    return [line for text in texts if not _INSTALL.match(text) for line in _lines(text)]


def requirements(script: Path) -> list[str]:
    """What a user installs before: as a notebook says it, or the page that a script repeats."""
    if script.suffix == ".ipynb":
        (line,) = _INSTALL.findall("\n".join(cell["source"] for cell in cells(script, "markdown")))
        return str(line).replace("'", "").split()
    return installed(next(iter(repeated(script))))


def installed(place: str) -> list[str]:
    """What the page of a place installs before its end: the arguments of `pip install`."""
    page, _, anchor = place.partition("#")
    last = section(place)[-1].line if anchor else blocks(page)[-1].line
    lines = [_INSTALL.match(b.text) for b in blocks(page) if b.line <= last]
    return [line[1] for line in lines if line][-1].replace("'", "").split()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
