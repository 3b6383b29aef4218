"""The docstrings of this library as mkdocstrings reads them (an extension of Griffe)."""

from __future__ import annotations

import re
from typing import Any

import griffe

_PARAGRAPH = re.compile(r"\n\s*\n")
_SHARED = re.compile(r"^ {4}(\w+(?:, \w+)+):(.*(?:\n {5,}.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Puts doctests into blocks of code, and gives each name of ``a, b: ...`` a line of its own."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = separated(fenced(obj.docstring.value))


def fenced(text: str) -> str:
    """A docstring with each run of paragraphs that are doctests in one fence.

    >>> fenced("Adds.\\n\\n>>> 1 + 1\\n2").splitlines()
    ['Adds.', '', '```pycon', '>>> 1 + 1', '2', '```']
    """
    written: list[str] = []
    inside = False
    for paragraph in _PARAGRAPH.split(text.strip("\n")):
        doctest = paragraph.startswith(">>> ")
        if inside and not doctest:
            written[-1] += "\n```"
        written.append(f"```pycon\n{paragraph}" if doctest and not inside else paragraph)
        inside = doctest
    if inside:
        written[-1] += "\n```"
    return "\n\n".join(written)


def separated(text: str) -> str:
    """A docstring whose lists of arguments, attributes and errors have one name per entry.

    >>> print(separated("Args:\\n    a, b: numbers."))
    Args:
        a: numbers.
        b: numbers.
    """

    def one_by_one(entry: re.Match[str]) -> str:
        return "\n".join(f"    {name}:{entry[2]}" for name in entry[1].split(", "))

    return _SHARED.sub(one_by_one, text)
