"""Examples in docstrings, which stand there as doctests, shown as code (an extension of Griffe)."""

from __future__ import annotations

import re
from typing import Any

import griffe

_PARAGRAPH = re.compile(r"\n\s*\n")


class ShownDoctests(griffe.Extension):
    """Puts every doctest of a docstring into a block of code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)


def fenced(text: str) -> str:
    """A docstring with each run of paragraphs that are doctests in one fence.

    >>> print(fenced("Adds.\\n\\n>>> 1 + 1\\n2"))
    Adds.
    <BLANKLINE>
    ```pycon
    >>> 1 + 1
    2
    ```
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
