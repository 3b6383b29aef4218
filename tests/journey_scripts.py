"""The scripts of examples/journeys: what they repeat of the documentation, and what that needs."""

from __future__ import annotations

import json
import re
from pathlib import Path

from doc_pages import ROOT, blocks, section

JOURNEYS = ROOT / "examples" / "journeys"
LANGUAGES = {".sh": "", ".py": "python", ".ipynb": "python"}
_REGION = re.compile(r"^ *# -> (\S+)\n(.*?)^ *# <-$", re.MULTILINE | re.DOTALL)
_INSTALL = re.compile(r"^pip install (.+)$", re.MULTILINE)


def scripts() -> list[Path]:
    """The scripts that repeat a page."""
    found = sorted(path for path in JOURNEYS.iterdir() if path.suffix in LANGUAGES)
    return [path for path in found if _REGION.search(source(path))]


def source(script: Path) -> str:
    """The code of a script; that of a notebook is all of its code cells."""
    text = script.read_text(encoding="utf-8")
    if script.suffix != ".ipynb":
        return text
    cells = (cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
    return "".join("".join(cell["source"]) + "\n" for cell in cells)


def repeated(script: Path) -> dict[str, list[str]]:
    """The places that a script repeats, ``PAGE#ANCHOR``, each with its lines, not indented."""
    found: dict[str, list[str]] = {}
    for place, text in _REGION.findall(source(script)):
        found.setdefault(place, []).extend(_lines(text))
    return found


def documented(place: str, language: str) -> list[str]:
    """The lines of all blocks of a place in a language, but for `pip install`."""
    texts = [b.text for b in section(place) if b.language == language]
    return [line for text in texts if not _INSTALL.match(text) for line in _lines(text)]


def installed(place: str) -> list[str]:
    """What the page of a place installs before its end: the arguments of `pip install`."""
    page, _, anchor = place.partition("#")
    last = section(place)[-1].line if anchor else blocks(page)[-1].line
    lines = [_INSTALL.match(b.text) for b in blocks(page) if b.line <= last]
    return [line[1] for line in lines if line][-1].replace("'", "").split()


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
