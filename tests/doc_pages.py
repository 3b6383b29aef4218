"""The pages of the documentation, taken apart: code blocks, commands, headings, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
)

OUTPUT = "<!-- output -->"
"""Stands above a block of text that the Python block before it prints."""

OF_SCRIPT = re.compile(r"<!-- output of (examples/journeys/[\w.]+) -->")
"""Stands above an excerpt of what a script of the journeys prints."""

NOT_RUN = re.compile(r"^<!-- not run: (.*) -->$", re.MULTILINE)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: the line it begins on, its language, its text, and the line above it."""

    line: int
    language: str
    text: str
    above: str


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page in order."""
    text = read(page)
    return [
        Block(
            text.count("\n", 0, found.start()) + 2,
            found[1],
            found[2],
            text[: found.start()].rstrip("\n").rpartition("\n")[2],
        )
        for found in _FENCE.finditer(text)
    ]


def shape(text: str) -> str:
    """Output without its figures and spaces, which differ from machine to machine."""
    return re.sub(r"[+−-]?\d[\d.,]*", "#", re.sub(r"[\s─]+", "", text))


def section(place: str) -> list[Block]:
    """The blocks below a heading and its subheadings, ``PAGE#ANCHOR``; or those of a page."""
    page, _, wanted = place.partition("#")
    text, found = read(page), blocks(page)
    if not wanted:
        return found
    inside = {line for b in found for line in range(b.line, b.line + b.text.count("\n") + 1)}
    first, level = 0, 0
    for number, line in enumerate(text.splitlines(), 1):
        heading = _HEADING.fullmatch(line)
        if number in inside or not heading:
            continue
        depth = len(line) - len(line.lstrip("#"))
        if not first and anchor(heading[1]) == wanted:
            first, level = number, depth
        elif first and depth <= level:
            return [b for b in found if first < b.line < number]
    return [b for b in found if first and b.line > first]


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", read(page))


def commands(page: str) -> Iterator[tuple[int, list[str]]]:
    """The `understudy` commands of the blocks without a language: line, words."""
    for block in blocks(page):
        if block.language not in ("", "sh", "bash", "console"):
            continue
        for line in block.text.replace("\\\n", " ").splitlines():
            command = line.strip().removeprefix("$ ")
            if command.startswith("understudy "):
                yield block.line, shlex.split(command, comments=True)[1:]


def inline_commands(page: str) -> Iterator[list[str]]:
    """The `understudy` commands within the text, which may leave out what a verb needs."""
    for code in re.findall(r"`(understudy [^`\n]+)`", prose(page)):
        yield shlex.split(code)[1:]


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    return {anchor(heading) for heading in _HEADING.findall(prose(page))}


def anchor(heading: str) -> str:
    """The anchor that GitHub gives to a heading."""
    plain = re.sub(r"[`*]", "", heading)
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def links(page: str) -> list[str]:
    """The targets of a page's links and pictures."""
    return [first or second for first, second in _LINK.findall(prose(page))]
